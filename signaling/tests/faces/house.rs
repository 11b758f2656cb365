//! A server on loopback without media behind it (commands are collected), and clients that speak LiveKit's protocol.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use auralink_media::control::{Command, Event};
use auralink_media::ids::{ParticipantKey, RoomKey, TrackKey};
use auralink_media::net::MediaHandle;
use auralink_media::packet::Codec;
use auralink_proto::livekit;
use auralink_signaling::access::{Claims, KeySet, VideoGrant};
use auralink_signaling::rooms::{MediaEventSink, Rooms, RoomsConfig, media_events};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use futures_util::{SinkExt as _, StreamExt as _};
use livekit::signal_request::Message as Asked;
use livekit::signal_response::Message as Told;
use prost::Message as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tower::ServiceExt as _;

pub const KEY: &str = "devkey";
pub const SECRET: &str = "a-secret-of-some-thirty-six-letters!";

/// Nothing in these tests takes this long; without it a broken test would hang.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct House {
    pub rooms: Rooms,
    pub app: Router,
    pub address: SocketAddr,
    pub sink: MediaEventSink,
    commands: mpsc::Receiver<Command>,
}

pub async fn house() -> House {
    house_with(RoomsConfig::default()).await
}

pub async fn house_with(config: RoomsConfig) -> House {
    let (media, commands) = MediaHandle::detached();
    let (sink, events) = media_events();
    let rooms = Rooms::new(media, events, KeySet::new([(KEY, SECRET)]), config);
    let app = auralink_signaling::livekit::router(rooms.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = app.clone();
    tokio::spawn(async move { axum::serve(listener, serving).await });
    House { rooms, app, address, sink, commands }
}

pub fn grant(room: &str) -> VideoGrant {
    VideoGrant { room_join: true, room: room.into(), ..VideoGrant::default() }
}

pub fn token(identity: &str, grant: VideoGrant) -> String {
    let claims = Claims { identity: identity.into(), name: identity.to_uppercase(), video: Some(grant), ..Claims::default() };
    KeySet::new([(KEY, SECRET)]).mint(KEY, &claims, Duration::from_secs(600)).unwrap()
}

pub fn admin(room: &str) -> String {
    KeySet::new([(KEY, SECRET)]).mint(KEY, &Claims::admin(room), Duration::from_secs(600)).unwrap()
}

pub fn microphone(cid: &str) -> livekit::AddTrackRequest {
    livekit::AddTrackRequest { cid: cid.into(), name: "mic".into(), source: livekit::TrackSource::Microphone as i32, ..Default::default() }
}

impl House {
    /// A client that joined `room` over v0, and what it was told.
    pub async fn join(&self, room: &str, identity: &str) -> (Client, livekit::JoinResponse) {
        let mut client = self.connect("/rtc?protocol=16", &token(identity, grant(room))).await.unwrap();
        match client.next().await {
            Told::Join(join) => (client, join),
            other => panic!("a join first, not {other:?}"),
        }
    }

    /// Opens a WebSocket; the status and text when it is refused.
    pub async fn connect(&self, path: &str, token: &str) -> Result<Client, (u16, String)> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let url = format!("ws://{}{path}{separator}access_token={token}", self.address);
        match tokio_tungstenite::connect_async(url).await {
            Ok((socket, _)) => Ok(Client { socket, text: false }),
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err((response.status().as_u16(), String::from_utf8_lossy(&body).into_owned()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// An HTTP request to the server's routes.
    pub async fn http(&self, request: Request<Body>) -> (StatusCode, Vec<u8>) {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, to_bytes(response.into_body(), 1 << 24).await.unwrap().to_vec())
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let (status, body) = self.http(Request::get(path).body(Body::empty()).unwrap()).await;
        (status.as_u16(), String::from_utf8_lossy(&body).into_owned())
    }

    pub async fn twirp(&self, method: &str, token: &str, body: serde_json::Value) -> (u16, serde_json::Value) {
        let request = Request::post(format!("/twirp/livekit.RoomService/{method}"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let (status, body) = self.http(request).await;
        (status.as_u16(), serde_json::from_slice(&body).unwrap())
    }

    /// The next command of media for which `pick` answers.
    pub async fn command<T>(&self, mut pick: impl FnMut(&Command) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.commands.try_recv() {
                Ok(command) => {
                    if let Some(picked) = pick(&command) {
                        return picked;
                    }
                }
                Err(_) => {
                    assert!(tokio::time::Instant::now() < deadline, "the command did not come");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
    }

    /// Publishes a microphone as `client`, with media.
    pub async fn publish(&self, client: &mut Client, cid: &str) -> (RoomKey, ParticipantKey, TrackKey, livekit::TrackInfo) {
        client.ask(Asked::AddTrack(microphone(cid))).await;
        let (room, participant, track) = self
            .command(|command| match command {
                Command::AddTrack { room, participant, track, .. } => Some((*room, *participant, *track)),
                _ => None,
            })
            .await;
        let info = client
            .until(|told| match told {
                Told::TrackPublished(published) => published.track,
                _ => None,
            })
            .await;
        self.sink.send(Event::TrackStarted { room, participant, track, codec: Codec::Opus });
        (room, participant, track, info)
    }
}

pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub text: bool,
}

impl Client {
    pub async fn ask(&mut self, message: Asked) {
        let request = livekit::SignalRequest { message: Some(message) };
        let frame =
            if self.text { Message::text(serde_json::to_string(&request).unwrap()) } else { Message::binary(request.encode_to_vec()) };
        self.raw(frame).await.unwrap();
    }

    pub async fn raw(&mut self, frame: Message) -> Result<(), tungstenite::Error> {
        self.socket.send(frame).await
    }

    async fn frame(&mut self) -> Result<Told, Option<CloseFrame>> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("the server says something");
            let response: livekit::SignalResponse = match frame {
                Some(Ok(Message::Binary(bytes))) => livekit::SignalResponse::decode(bytes).unwrap(),
                Some(Ok(Message::Text(text))) => {
                    assert!(self.text, "text only for who sends text");
                    serde_json::from_str(&text).unwrap()
                }
                Some(Ok(Message::Close(frame))) => return Err(frame),
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return Err(None),
            };
            return Ok(response.message.unwrap());
        }
    }

    pub async fn next(&mut self) -> Told {
        self.frame().await.unwrap_or_else(|close| panic!("closed: {close:?}"))
    }

    pub async fn until<T>(&mut self, mut pick: impl FnMut(Told) -> Option<T>) -> T {
        loop {
            if let Some(picked) = pick(self.next().await) {
                return picked;
            }
        }
    }

    /// The update in which `identity` appears.
    pub async fn update_of(&mut self, identity: &str) -> livekit::ParticipantInfo {
        self.until(|told| match told {
            Told::Update(update) => update.participants.into_iter().find(|info| info.identity == identity),
            _ => None,
        })
        .await
    }

    /// Reads until the server has closed: the leave, and the close frame.
    pub async fn closed(&mut self) -> (Option<livekit::LeaveRequest>, Option<CloseFrame>) {
        let mut leave = None;
        loop {
            match self.frame().await {
                Ok(Told::Leave(left)) => leave = Some(left),
                Ok(_) => {}
                Err(close) => return (leave, close),
            }
        }
    }

    /// Cuts the connection without a word.
    pub fn cut(self) {
        if let MaybeTlsStream::Plain(stream) = self.socket.into_inner() {
            drop(stream);
        }
    }
}
