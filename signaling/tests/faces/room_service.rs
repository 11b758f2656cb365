//! RoomService over Twirp, in JSON and protobuf, with LiveKit's grants, codes and words.

use super::house::{admin, grant, house, token};
use auralink_media::control::Command;
use auralink_proto::livekit;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use livekit::signal_response::Message as Told;
use prost::Message as _;
use serde_json::json;

#[tokio::test]
async fn rooms_are_made_listed_changed_and_ended() {
    let house = house().await;
    let admin = admin("r");
    let (status, room) = house.twirp("CreateRoom", &admin, json!({"name": "r", "empty_timeout": 10, "metadata": "m", "unknown": 1})).await;
    assert_eq!(status, 200, "{room}");
    assert_eq!((room["empty_timeout"].as_u64(), room["departure_timeout"].as_u64()), (Some(10), Some(20)));
    assert!(room["sid"].as_str().unwrap().starts_with("RM_"));
    let (_, again) = house.twirp("CreateRoom", &admin, json!({"name": "r", "maxParticipants": 5})).await;
    assert_eq!((&again["sid"], again["max_participants"].as_u64()), (&room["sid"], Some(5)));
    house.twirp("CreateRoom", &admin, json!({"name": "s"})).await;
    let (_, all) = house.twirp("ListRooms", &admin, json!({})).await;
    assert_eq!(all["rooms"].as_array().unwrap().len(), 2);
    let (_, some) = house.twirp("ListRooms", &admin, json!({"names": ["s", "nowhere"]})).await;
    assert_eq!(some["rooms"][0]["name"], "s");
    let (_, changed) = house.twirp("UpdateRoomMetadata", &admin, json!({"room": "r", "metadata": "new"})).await;
    assert_eq!(changed["metadata"], "new");
    assert_eq!(house.twirp("DeleteRoom", &admin, json!({"room": "r"})).await, (200, json!({})));
    let (status, error) = house.twirp("DeleteRoom", &admin, json!({"room": "r"})).await;
    assert_eq!((status, error["code"].as_str()), (404, Some("not_found")));
}

#[tokio::test]
async fn participants_are_listed_changed_muted_and_sent_away() {
    let house = house().await;
    let (mut ann, _) = house.join("r", "ann").await;
    let (_, _, _, info) = house.publish(&mut ann, "c1").await;
    let (mut ben, _) = house.join("r", "ben").await;
    let admin = admin("r");
    let (_, listed) = house.twirp("ListParticipants", &admin, json!({"room": "r"})).await;
    assert_eq!(listed["participants"].as_array().unwrap().len(), 2);
    let (_, one) = house.twirp("GetParticipant", &admin, json!({"room": "r", "identity": "ann"})).await;
    assert_eq!(one["name"], "ANN");
    let change = json!({"room": "r", "identity": "ann", "name": "Anna", "attributes": {"myKey": "v"}});
    let (_, changed) = house.twirp("UpdateParticipant", &admin, change).await;
    assert_eq!((changed["name"].as_str(), changed["attributes"]["myKey"].as_str()), (Some("Anna"), Some("v")));
    let (status, muted) =
        house.twirp("MutePublishedTrack", &admin, json!({"room": "r", "identity": "ann", "trackSid": info.sid, "muted": true})).await;
    assert_eq!((status, muted["track"]["muted"].as_bool()), (200, Some(true)), "{muted}");
    ann.until(|told| if let Told::Mute(mute) = told { mute.muted.then_some(()) } else { None }).await;
    let (status, _) = house
        .twirp("UpdateSubscriptions", &admin, json!({"room": "r", "identity": "ben", "trackSids": [info.sid], "subscribe": false}))
        .await;
    assert_eq!(status, 200);
    house.command(|command| matches!(command, Command::Unsubscribe { .. }).then_some(())).await;
    assert_eq!(house.twirp("RemoveParticipant", &admin, json!({"room": "r", "identity": "ben"})).await, (200, json!({})));
    let (leave, _) = ben.closed().await;
    assert_eq!(leave.unwrap().reason(), livekit::DisconnectReason::ParticipantRemoved);
    let (status, error) = house.twirp("RemoveParticipant", &admin, json!({"room": "r", "identity": "ben"})).await;
    assert_eq!((status, error["code"].as_str()), (404, Some("not_found")));
    assert!(error["msg"].as_str().unwrap().contains("ben"));
}

#[tokio::test]
async fn data_is_sent_as_a_user_packet() {
    let house = house().await;
    house.join("r", "ann").await;
    let call = json!({"room": "r", "data": "aGk=", "kind": "LOSSY", "topic": "t"});
    assert_eq!(house.twirp("SendData", &admin("r"), call).await.0, 200);
    let (packet, reliable) = house
        .command(|command| match command {
            Command::SendData { packet, reliable, .. } => Some((packet.clone(), *reliable)),
            _ => None,
        })
        .await;
    let packet = livekit::DataPacket::decode(&*packet).unwrap();
    let Some(livekit::data_packet::Value::User(user)) = packet.value else { panic!("a user packet") };
    assert_eq!((user.payload.as_slice(), user.topic.as_deref(), reliable), (&b"hi"[..], Some("t"), false));
    assert_eq!(house.twirp("SendData", &admin("none"), json!({"room": "none", "data": ""})).await.0, 404);
}

#[tokio::test]
async fn grants_are_held() {
    let house = house().await;
    house.join("r", "ann").await;
    let joiner = token("ann", grant("r"));
    for (method, body) in [
        ("CreateRoom", json!({"name": "x"})),
        ("ListRooms", json!({})),
        ("DeleteRoom", json!({"room": "r"})),
        ("ListParticipants", json!({"room": "r"})),
        ("GetParticipant", json!({"room": "r", "identity": "ann"})),
        ("RemoveParticipant", json!({"room": "r", "identity": "ann"})),
        ("SendData", json!({"room": "r", "data": ""})),
        ("UpdateParticipant", json!({"room": "r", "identity": "ann"})),
        ("UpdateRoomMetadata", json!({"room": "r"})),
        ("MutePublishedTrack", json!({"room": "r"})),
        ("UpdateSubscriptions", json!({"room": "r"})),
    ] {
        let (status, error) = house.twirp(method, &joiner, body).await;
        assert_eq!((status, error["code"].as_str()), (401, Some("unauthenticated")), "{method}");
        assert!(error["msg"].as_str().unwrap().starts_with("permissions denied"), "{method}: {error}");
    }
    let (status, error) = house.twirp("ListParticipants", &admin("other"), json!({"room": "r"})).await;
    assert_eq!(status, 401);
    assert!(error["msg"].as_str().unwrap().contains("\"other\""));
    assert_eq!(house.twirp("ListRooms", "abc", json!({})).await.0, 401);
    assert_eq!(house.rooms.list(&[]).len(), 1);
}

#[tokio::test]
async fn protobuf_and_wrong_calls() {
    let house = house().await;
    let admin = admin("r");
    let call = |path: &str, method: &str, content_type: &str, body: Vec<u8>| {
        Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {admin}"))
            .header("content-type", content_type)
            .body(Body::from(body))
            .unwrap()
    };
    let create = livekit::CreateRoomRequest { name: "r".into(), ..Default::default() }.encode_to_vec();
    let path = "/twirp/livekit.RoomService/CreateRoom";
    for path in [path, "//twirp/livekit.RoomService/CreateRoom"] {
        let (status, body) = house.http(call(path, "POST", "application/protobuf", create.clone())).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(livekit::Room::decode(&*body).unwrap().name, "r");
    }
    let wrong = [
        (call(path, "POST", "application/protobuf", vec![0xff, 0xff]), 400, "malformed"),
        (call(path, "POST", "application/json", b"{".to_vec()), 400, "malformed"),
        (call(path, "POST", "application/json", br#"{"name": 5}"#.to_vec()), 400, "malformed"),
        (call(path, "POST", "application/json", br#"{"name": ""}"#.to_vec()), 400, "invalid_argument"),
        (call(path, "POST", "text/plain", vec![]), 404, "bad_route"),
        (call(path, "GET", "application/json", vec![]), 404, "bad_route"),
        (call("/twirp/livekit.RoomService/Foo", "POST", "application/json", vec![]), 404, "bad_route"),
        (call("/twirp/livekit.Foo/Bar", "POST", "application/json", vec![]), 404, "bad_route"),
        (call(path, "POST", "application/json", vec![b' '; 11 << 20]), 413, "resource_exhausted"),
    ];
    for (request, status, code) in wrong {
        let shown = format!("{} {}", request.method(), request.uri());
        let (seen, body) = house.http(request).await;
        let error: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((seen.as_u16(), error["code"].as_str()), (status, Some(code)), "{shown}: {error}");
        assert!(!error["msg"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn limits_are_named() {
    let house = house().await;
    let (status, error) = house.twirp("CreateRoom", &admin("r"), json!({"name": "r", "metadata": "x".repeat(513 * 1024)})).await;
    assert_eq!((status, error["code"].as_str()), (429, Some("resource_exhausted")));
    assert!(error["msg"].as_str().unwrap().contains("524288"), "{error}");
    let (status, error) = house.twirp("CreateRoom", &admin("r"), json!({"name": "x".repeat(257)})).await;
    assert_eq!((status, error["code"].as_str()), (400, Some("invalid_argument")));
    assert!(error["msg"].as_str().unwrap().contains("256"), "{error}");
}

#[tokio::test]
async fn any_origin_may_ask_and_ids_are_carried() {
    use tower::ServiceExt as _;
    let house = house().await;
    let preflight = Request::options("/twirp/livekit.RoomService/ListRooms")
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type")
        .body(Body::empty())
        .unwrap();
    let response = house.app.clone().oneshot(preflight).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["access-control-allow-origin"], "https://app.example");
    assert_eq!(response.headers()["access-control-allow-headers"], "authorization,content-type");
    let exposed = Request::get("/rtc/validate").header("origin", "https://app.example").body(Body::empty()).unwrap();
    let response = house.app.clone().oneshot(exposed).await.unwrap();
    assert!(response.headers()["access-control-expose-headers"].to_str().unwrap().contains("x-request-id"));
}
