//! The signal WebSocket of a client: binary frames are protobuf, text frames its JSON; a client that sends text gets text.
//!
//! Rule: a connection owns no state of a participant. When it ends without a leave, the participant waits for a resume.

use std::time::Duration;

use auralink_proto::livekit;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use livekit::DisconnectReason;
use livekit::leave_request::Action;
use livekit::signal_request::Message as Asked;
use livekit::signal_response::Message as Told;
use prost::Message as _;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_tungstenite::tungstenite;
use tracing::Instrument as _;

use super::SIGNAL_BYTES_MAX;
use super::join::{Connect, JoinError, Version, parse};
use crate::rooms::signal::{Close, Outgoing, SignalMessage};
use crate::rooms::{Rooms, RoomsError, Session, leave};

/// What is read of one message: more than a message may have, so that one a little too large is read whole and answered. A
/// close over unread bytes would reach the client as a reset, without the reason; what is larger than this gets that.
const READ_BYTES_MAX: usize = 2 * SIGNAL_BYTES_MAX;
/// How often a client is asked for a sign of life (a WebSocket ping, which every stack answers by itself).
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Without any frame for this long, the connection is taken for lost.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// A client that takes longer to read one message has lost its connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last messages to a client that is sent away may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests that a client may send in a burst (a page that opens with a large gallery sends hundreds).
const BURST_REQUESTS: f64 = 1_000.0;
/// Requests per second that are read from a client in the long run; what is faster waits in its socket.
const REQUESTS_PER_SECOND: f64 = 200.0;
/// Bytes that a client may send in a burst: some offers of a large room, or metadata at its limit.
const BURST_BYTES: f64 = 8.0 * 1024.0 * 1024.0;
/// Bytes per second that are read from a client in the long run. Its metadata goes out to everyone in the room, whose queues are
/// bounded: a flood would cost others their connection, not the one that floods.
const BYTES_PER_SECOND: f64 = 512.0 * 1024.0;

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// `GET /rtc`.
pub async fn v0(State(rooms): State<Rooms>, RawQuery(query): RawQuery, headers: HeaderMap, upgrade: Upgrade) -> Response {
    connect(Version::V0, rooms, query, headers, upgrade).await
}

/// `GET /rtc/v1`.
pub async fn v1(State(rooms): State<Rooms>, RawQuery(query): RawQuery, headers: HeaderMap, upgrade: Upgrade) -> Response {
    connect(Version::V1, rooms, query, headers, upgrade).await
}

/// `GET /rtc/validate`: what connecting would answer, for browsers, which do not see why a WebSocket was refused.
pub async fn validate_v0(State(rooms): State<Rooms>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    validate(Version::V0, &rooms, query, &headers)
}

/// `GET /rtc/v1/validate`.
pub async fn validate_v1(State(rooms): State<Rooms>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    validate(Version::V1, &rooms, query, &headers)
}

fn validate(version: Version, rooms: &Rooms, query: Option<String>, headers: &HeaderMap) -> Response {
    let limits = &rooms.config().limits;
    match parse(version, query.as_deref().unwrap_or_default(), headers, rooms.keys(), limits) {
        Ok(_) => (StatusCode::OK, "success").into_response(),
        Err(error) => error.into_response(),
    }
}

async fn connect(version: Version, rooms: Rooms, query: Option<String>, headers: HeaderMap, upgrade: Upgrade) -> Response {
    // As LiveKit: a plain GET finds nothing here.
    let Ok(upgrade) = upgrade else { return StatusCode::NOT_FOUND.into_response() };
    let query = query.unwrap_or_default();
    let opened = match parse(version, &query, &headers, rooms.keys(), &rooms.config().limits) {
        Ok(Connect::Join(params)) => rooms.join(*params).await,
        Ok(Connect::Resume(params)) => rooms.resume(params).await,
        Err(error) => return error.into_response(),
    };
    let upgrade = upgrade.max_message_size(READ_BYTES_MAX).max_frame_size(READ_BYTES_MAX);
    match opened {
        Ok(session) => {
            let span = tracing::info_span!("signal", room = &*session.room().name, participant = session.sid());
            upgrade.on_upgrade(move |socket| Connection::new(socket, session).serve().instrument(span))
        }
        // The client learns from a leave that it has to join anew.
        Err(RoomsError::UnknownSession(sid)) => {
            tracing::info!(sid, "resume of an unknown session");
            upgrade.on_upgrade(refuse_resume)
        }
        Err(error) => JoinError::from(error).into_response(),
    }
}

async fn refuse_resume(mut socket: WebSocket) {
    let message = Told::Leave(leave(DisconnectReason::StateMismatch, Action::Reconnect));
    let farewell = async {
        socket.send(Message::Binary(SignalMessage::new(message).binary())).await?;
        socket.send(close_frame(close_code::NORMAL, "")).await
    };
    if timeout(FAREWELL_TIMEOUT, farewell).await.is_err() {
        tracing::debug!("the client did not wait to hear that its session is unknown");
    }
}

/// A client's socket and its session.
struct Connection {
    socket: WebSocket,
    session: Session,
    /// The client sends JSON.
    text: bool,
    heard: Instant,
    budget: Budget,
    /// The client broke the protocol: this is how its socket will be closed, and nothing more is read.
    ending: Option<(u16, String)>,
    /// A close was sent.
    said_goodbye: bool,
}

/// What one step of a connection came to.
enum Step {
    On,
    Over,
}

impl Connection {
    fn new(socket: WebSocket, session: Session) -> Self {
        let now = Instant::now();
        Self { socket, session, text: false, heard: now, budget: Budget::new(now), ending: None, said_goodbye: false }
    }

    async fn serve(mut self) {
        tracing::info!("signal connected");
        let mut ping = interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        let mut farewell_until: Option<Instant> = None;
        loop {
            let ready_at = self.budget.ready_at();
            let reading = self.ending.is_none();
            let give_up = farewell_until.unwrap_or_else(|| Instant::now() + SILENCE_MAX);
            let step = tokio::select! {
                outgoing = self.session.recv() => self.write(outgoing).await,
                frame = async { sleep_until(ready_at).await; self.socket.recv().await }, if reading => {
                    self.read(frame).await
                }
                _ = ping.tick(), if reading => self.ping().await,
                () = sleep_until(give_up), if !reading => Step::Over,
            };
            if self.ending.is_some() && farewell_until.is_none() {
                farewell_until = Some(Instant::now() + FAREWELL_TIMEOUT);
            }
            if matches!(step, Step::Over) {
                break;
            }
        }
        if self.said_goodbye {
            self.linger().await;
        }
        tracing::info!("signal disconnected");
    }

    /// Reads on until the client has answered the close: a socket that is dropped with unread data is reset, and the client would
    /// never see why.
    async fn linger(&mut self) {
        let answered = async { while let Some(Ok(_)) = self.socket.recv().await {} };
        if timeout(FAREWELL_TIMEOUT, answered).await.is_err() {
            tracing::debug!("the client did not answer the close");
        }
    }

    async fn write(&mut self, outgoing: Option<Outgoing>) -> Step {
        match outgoing {
            Some(Outgoing::Message(message)) => {
                let frame = if self.text { Message::Text(Utf8Bytes::from(&*message.text())) } else { Message::Binary(message.binary()) };
                self.send(frame).await
            }
            Some(Outgoing::Close(why)) => {
                let (code, reason) = match (self.ending.take(), why) {
                    (Some(ending), _) => ending,
                    (None, Close::Ended) => (close_code::NORMAL, String::new()),
                    (None, Close::Replaced) => (close_code::NORMAL, "the session goes on over another connection".into()),
                    (None, Close::Dropped) => (close_code::AWAY, String::new()),
                };
                self.send(close_frame(code, &reason)).await;
                self.said_goodbye = true;
                Step::Over
            }
            // The room let go of a client that does not read.
            None => {
                self.send(close_frame(close_code::POLICY, "messages are not read fast enough")).await;
                self.said_goodbye = true;
                Step::Over
            }
        }
    }

    async fn send(&mut self, frame: Message) -> Step {
        match timeout(WRITE_TIMEOUT, self.socket.send(frame)).await {
            Ok(Ok(())) => Step::On,
            Ok(Err(error)) => {
                tracing::debug!(%error, "signal connection ended while writing");
                Step::Over
            }
            Err(_) => {
                tracing::info!("signal connection ended: the client does not read");
                Step::Over
            }
        }
    }

    async fn ping(&mut self) -> Step {
        if self.heard.elapsed() >= SILENCE_MAX {
            tracing::info!("signal connection ended: nothing was heard for 30 s");
            return Step::Over;
        }
        self.send(Message::Ping(Default::default())).await
    }

    async fn read(&mut self, frame: Option<Result<Message, axum::Error>>) -> Step {
        let message = match frame {
            None | Some(Ok(Message::Close(_))) => return Step::Over,
            Some(Ok(message)) => message,
            Some(Err(error)) => return self.read_failed(error).await,
        };
        self.heard = Instant::now();
        let bytes = match &message {
            Message::Binary(bytes) => bytes.len(),
            Message::Text(text) => text.len(),
            _ => 0,
        };
        let request = match message {
            Message::Binary(bytes) if bytes.len() > SIGNAL_BYTES_MAX => return self.too_large().await,
            Message::Text(text) if text.len() > SIGNAL_BYTES_MAX => return self.too_large().await,
            Message::Binary(bytes) => livekit::SignalRequest::decode(bytes).map_err(|error| format!("not a SignalRequest: {error}")),
            Message::Text(text) => {
                self.text = true;
                serde_json::from_str(&text).map_err(|error| format!("not a SignalRequest in JSON: {error}"))
            }
            _ => return Step::On,
        };
        self.budget.spend(self.heard, bytes);
        match request {
            Ok(livekit::SignalRequest { message: Some(asked) }) => self.request(asked).await,
            // A request of a newer protocol than this server's.
            Ok(livekit::SignalRequest { message: None }) => Step::On,
            Err(reason) => self.end(close_code::INVALID, reason).await,
        }
    }

    async fn request(&mut self, asked: Asked) -> Step {
        match asked {
            Asked::Ping(_) => self.tell(Told::Pong(unix_ms())).await,
            Asked::PingReq(ping) => {
                let pong = livekit::Pong { last_ping_timestamp: ping.timestamp, timestamp: unix_ms() };
                self.tell(Told::PongResp(pong)).await
            }
            asked => match self.session.request(asked).await {
                Ok(()) => Step::On,
                // The room is over; what it said last is in the queue, the close after it.
                Err(_) => self.end(close_code::NORMAL, String::new()).await,
            },
        }
    }

    async fn tell(&mut self, message: Told) -> Step {
        self.write(Some(Outgoing::Message(SignalMessage::new(message)))).await
    }

    /// Too large and malformed frames end the session with a reason; a connection that broke is only lost.
    async fn read_failed(&mut self, error: axum::Error) -> Step {
        use tungstenite::error::{Error, ProtocolError};
        let inner = error.into_inner();
        match inner.downcast_ref::<Error>() {
            Some(Error::Capacity(_)) => self.too_large().await,
            Some(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Step::Over,
            Some(Error::Protocol(error)) => self.end(close_code::PROTOCOL, error.to_string()).await,
            Some(Error::Utf8(_)) => self.end(close_code::INVALID, "a text frame is not UTF-8".into()).await,
            _ => {
                tracing::debug!(error = %inner, "signal connection lost");
                Step::Over
            }
        }
    }

    async fn too_large(&mut self) -> Step {
        let reason = format!("a signal message has at most {SIGNAL_BYTES_MAX} bytes");
        self.end(close_code::SIZE, reason).await
    }

    /// The participant leaves for good; its socket closes with `reason` after the leave.
    async fn end(&mut self, code: u16, reason: String) -> Step {
        tracing::info!(code, reason, "signal connection is ended by the server");
        metrics::counter!("auralink_signal_protocol_errors_total", "code" => code.to_string()).increment(1);
        self.ending = Some((code, reason));
        if self.session.end(DisconnectReason::StateMismatch).await.is_err() {
            tracing::debug!("the room had ended before");
        }
        Step::On
    }
}

/// Two buckets, of requests and of bytes, that fill up steadily: a client that floods waits, its room and others do not.
struct Budget {
    requests: f64,
    bytes: f64,
    at: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { requests: BURST_REQUESTS, bytes: BURST_BYTES, at: now }
    }

    fn spend(&mut self, now: Instant, bytes: usize) {
        let seconds = now.duration_since(self.at).as_secs_f64();
        self.requests = (self.requests + seconds * REQUESTS_PER_SECOND).min(BURST_REQUESTS) - 1.0;
        self.bytes = (self.bytes + seconds * BYTES_PER_SECOND).min(BURST_BYTES) - bytes as f64;
        self.at = now;
    }

    fn ready_at(&self) -> Instant {
        let debt = (-self.requests / REQUESTS_PER_SECOND).max(-self.bytes / BYTES_PER_SECOND);
        self.at + Duration::from_secs_f64(debt.max(0.0))
    }
}

fn close_frame(code: u16, reason: &str) -> Message {
    // A control frame has 125 bytes, two of them for the code.
    let end = reason.char_indices().map(|(at, letter)| at + letter.len_utf8()).take_while(|end| *end <= 123).last();
    Message::Close(Some(CloseFrame { code, reason: Utf8Bytes::from(&reason[..end.unwrap_or(0)]) }))
}

fn unix_ms() -> i64 {
    crate::rooms::unix_ms()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_reasons_fit_into_a_control_frame() {
        let Message::Close(Some(frame)) = close_frame(1000, &"ü".repeat(200)) else { panic!("a close frame") };
        assert_eq!(frame.reason.len(), 122);
        assert!(matches!(close_frame(1000, ""), Message::Close(Some(frame)) if frame.reason.is_empty()));
    }

    #[test]
    fn a_flood_waits_and_a_burst_does_not() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for _ in 0..1_000 {
            budget.spend(start, 100);
        }
        assert_eq!(budget.ready_at(), start);
        for _ in 0..200 {
            budget.spend(start, 100);
        }
        assert_eq!(budget.ready_at(), start + Duration::from_secs(1));
        let later = start + Duration::from_secs(2);
        budget.spend(later, 100);
        assert_eq!(budget.ready_at(), later);
        for _ in 0..17 {
            budget.spend(later, 512 * 1024);
        }
        assert!(budget.ready_at() > later + Duration::from_millis(900), "large messages are bounded by their bytes");
    }
}
