//! What bad input gets: a status and a sentence before the WebSocket is open, a leave and a close with a reason after;
//! everyone else goes on.

use super::house::{House, KEY, SECRET, grant, house, house_with, token};
use auralink_media::control::{Command, Event, Refusal, Target};
use auralink_proto::livekit;
use auralink_signaling::access::{Claims, KeySet, VideoGrant};
use auralink_signaling::rooms::RoomsConfig;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use livekit::signal_request::Message as Asked;
use livekit::signal_response::Message as Told;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_tungstenite::tungstenite::Message;

fn unsigned() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let claims = serde_json::json!({"iss": KEY, "sub": "eve", "exp": now + 600, "video": {"roomJoin": true, "room": "r"}});
    format!("{header}.{}.", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn signed(claims: serde_json::Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

async fn refused(house: &House, token: &str) -> (u16, String) {
    let connecting = house.connect("/rtc", token).await.err().expect("refused");
    let validating = house.get(&format!("/rtc/validate?access_token={token}")).await;
    assert_eq!(connecting, validating, "browsers ask the second to learn why the first failed");
    connecting
}

#[tokio::test]
async fn tokens_that_are_no_good() {
    let house = house().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let video = serde_json::json!({"roomJoin": true, "room": "r"});
    let wrong_secret =
        KeySet::new([(KEY, "some-other-secret-of-some-36-letters")]).mint(KEY, &Claims::join("eve", "r"), Duration::from_secs(60)).unwrap();
    let unknown_key = KeySet::new([("nokey", SECRET)]).mint("nokey", &Claims::join("eve", "r"), Duration::from_secs(60));
    let cases = [
        (String::new(), 401, "no permissions to access the room"),
        ("abc".into(), 401, "invalid authorization token"),
        (wrong_secret, 401, "signature"),
        (unknown_key.unwrap(), 401, "invalid API key: \"nokey\""),
        (unsigned(), 401, "HS256"),
        (signed(serde_json::json!({"iss": KEY, "sub": "e", "exp": now - 300, "video": video})), 401, "expired"),
        (signed(serde_json::json!({"iss": KEY, "sub": "e", "exp": now + 900, "nbf": now + 300, "video": video})), 401, "not valid yet"),
        (signed(serde_json::json!({"iss": KEY, "sub": "e", "video": video})), 401, "exp"),
        (signed(serde_json::json!({"iss": KEY, "sub": "e", "exp": now + 60})), 401, "video"),
        (token("eve", VideoGrant { room: "r".into(), ..Default::default() }), 401, "roomJoin"),
        (token("eve", grant("")), 400, "no room name"),
        (token("", grant("r")), 400, "identity cannot be empty"),
        (token(&"x".repeat(257), grant("r")), 400, "max length 256"),
    ];
    for (token, status, word) in cases {
        let (seen, text) = refused(&house, &token).await;
        assert_eq!(seen, status, "{text}");
        assert!(text.contains(word), "{text:?} says {word:?}");
        assert!(!text.contains(SECRET));
    }
    assert!(house.rooms.list(&[]).is_empty(), "nobody made a room");
}

#[tokio::test]
async fn requests_that_are_no_good() {
    let house = house().await;
    let good = token("ann", grant("r"));
    assert_eq!(house.get(&format!("/rtc/validate?access_token={good}")).await, (200, "success".into()));
    assert_eq!(house.get(&format!("/rtc?access_token={good}")).await.0, 404, "no WebSocket was asked for");
    let (status, text) = house.connect("/rtc/v1", &good).await.err().unwrap();
    assert_eq!((status, text.as_str()), (400, "join_request is required"));
    for (request, word) in [("!!!", "base64"), ("AAAA", "unmarshal")] {
        let (status, text) = house.connect(&format!("/rtc/v1?join_request={request}"), &good).await.err().unwrap();
        assert_eq!(status, 400);
        assert!(text.contains(word), "{text}");
    }
    let (status, text) = house.connect("/rtc?attributes=e30x", &good).await.err().unwrap();
    assert_eq!(status, 400);
    assert!(text.contains("attributes"), "{text}");
}

#[tokio::test]
async fn rooms_are_not_made_when_that_is_not_allowed() {
    let house = house_with(RoomsConfig { auto_create: false, ..RoomsConfig::default() }).await;
    let (status, text) = house.connect("/rtc", &token("ann", grant("r"))).await.err().unwrap();
    assert_eq!(status, 404);
    assert!(text.contains("\"r\""), "{text}");
    house.rooms.create(livekit::CreateRoomRequest { name: "r".into(), ..Default::default() }).await.unwrap();
    house.join("r", "ann").await;
}

#[tokio::test]
async fn messages_that_are_no_good_end_that_session_alone() {
    let house = house().await;
    let (mut ben, _) = house.join("r", "ben").await;
    let huge = vec![0u8; 2 * 1024 * 1024 + 1];
    let cases: [(Message, u16, &str); 4] = [
        (Message::binary(vec![0xff; 12]), 1007, "SignalRequest"),
        (Message::text("{\"offer\": 5"), 1007, "JSON"),
        (Message::text("[]"), 1007, "JSON"),
        (Message::binary(huge), 1009, "2097152"),
    ];
    for (frame, code, word) in cases {
        let (mut eve, _) = house.join("r", "eve").await;
        eve.text = matches!(frame, Message::Text(_));
        // The server may close before all of a large message is written.
        let _ = eve.raw(frame).await;
        let (leave, close) = eve.closed().await;
        assert_eq!(leave.unwrap().action(), livekit::leave_request::Action::Disconnect);
        let close = close.unwrap();
        assert_eq!(u16::from(close.code), code);
        assert!(close.reason.contains(word), "{:?}", close.reason);
        let gone = ben
            .until(|told| match told {
                Told::Update(update) => update
                    .participants
                    .into_iter()
                    .find(|p| p.identity == "eve" && p.state() == livekit::participant_info::State::Disconnected),
                _ => None,
            })
            .await;
        assert_eq!(gone.disconnect_reason(), livekit::DisconnectReason::StateMismatch);
    }
    ben.ask(Asked::PingReq(livekit::Ping { timestamp: 1, rtt: 0 })).await;
    ben.until(|told| if let Told::PongResp(pong) = told { Some(pong) } else { None }).await;
}

#[tokio::test]
async fn a_request_of_a_newer_protocol_is_let_be() {
    let house = house().await;
    let (mut ann, _) = house.join("r", "ann").await;
    // Field 100, a string: no message that is known here.
    ann.raw(Message::binary(vec![0xa2, 0x06, 0x01, b'x'])).await.unwrap();
    ann.ask(Asked::PingReq(livekit::Ping { timestamp: 1, rtt: 0 })).await;
    ann.until(|told| if let Told::PongResp(pong) = told { Some(pong) } else { None }).await;
}

#[tokio::test]
async fn an_sdp_that_is_no_good_gets_its_reason_and_a_leave() {
    let house = house().await;
    let (mut ben, _) = house.join("r", "ben").await;
    let (mut eve, _) = house.join("r", "eve").await;
    let offer = |sdp: &str| livekit::SessionDescription { r#type: "offer".into(), sdp: sdp.into(), id: 1, ..Default::default() };
    let (mut kim, _) = house.join("r", "kim").await;
    kim.ask(Asked::Offer(offer("garbage"))).await;
    let told = kim.until(|told| if let Told::RequestResponse(response) = told { Some(response) } else { None }).await;
    assert_eq!(told.message, "the session description cannot be read: it does not begin with v=0");
    let (leave, _) = kim.closed().await;
    assert_eq!(leave.unwrap().action(), livekit::leave_request::Action::Reconnect);

    eve.ask(Asked::Offer(offer(crate::OFFER))).await;
    let (room, participant) = house
        .command(|command| match command {
            Command::Offer { room, participant, .. } => Some((*room, *participant)),
            _ => None,
        })
        .await;
    let refusal = Refusal { reason: "the SDP has no ice-ufrag".into() };
    house.sink.send(Event::NegotiationFailed { room, participant, target: Target::Publisher, refusal });
    let told = eve.until(|told| if let Told::RequestResponse(response) = told { Some(response) } else { None }).await;
    assert_eq!(told.message, "the SDP has no ice-ufrag");
    let (leave, _) = eve.closed().await;
    assert_eq!(leave.unwrap().action(), livekit::leave_request::Action::Reconnect);
    ben.ask(Asked::PingReq(livekit::Ping { timestamp: 1, rtt: 0 })).await;
    ben.until(|told| if let Told::PongResp(pong) = told { Some(pong) } else { None }).await;
}
