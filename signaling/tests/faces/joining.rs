//! Two people meet: the three ways to join, and what each then hears of the other.

use super::house::{grant, house, microphone, token};
use auralink_media::control::{Command, Event, Target};
use auralink_proto::livekit;
use auralink_signaling::rooms::What;
use base64::Engine as _;
use livekit::participant_info::State;
use livekit::signal_request::Message as Asked;
use livekit::signal_response::Message as Told;
use prost::Message as _;

fn join_request(gzip: bool) -> String {
    let request = livekit::JoinRequest {
        connection_settings: Some(livekit::ConnectionSettings { auto_subscribe: true, ..Default::default() }),
        add_track_requests: vec![microphone("c1")],
        publisher_offer: Some(livekit::SessionDescription {
            r#type: "offer".into(),
            sdp: crate::OFFER.into(),
            id: 3,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut bytes = request.encode_to_vec();
    let mut compression = livekit::wrapped_join_request::Compression::None;
    if gzip {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&bytes).unwrap();
        bytes = encoder.finish().unwrap();
        compression = livekit::wrapped_join_request::Compression::Gzip;
    }
    let wrapped = livekit::WrappedJoinRequest { compression: compression as i32, join_request: bytes };
    base64::engine::general_purpose::URL_SAFE.encode(wrapped.encode_to_vec())
}

#[tokio::test]
async fn two_connections_publish_subscribe_speak_leave() {
    let house = house().await;
    let (mut ann, join) = house.join("r", "ann").await;
    assert!(join.subscriber_primary);
    assert_eq!(join.room.unwrap().name, "r");
    let single = house
        .command(|command| match command {
            Command::AddParticipant { spec, .. } => Some(spec.single_connection),
            _ => None,
        })
        .await;
    assert!(!single);
    let (room, participant, track, info) = house.publish(&mut ann, "c1").await;
    let (mut ben, join) = house.join("r", "ben").await;
    let other = &join.other_participants[0];
    assert_eq!(other.identity, "ann");

    // Media had started before or after ben came: either way ben hears of the track and is subscribed.
    let subscribed = house
        .command(|command| match command {
            Command::Subscribe { track, .. } => Some(*track),
            _ => None,
        })
        .await;
    assert_eq!(subscribed, track);
    ann.until(|told| match told {
        Told::Update(update) => update.participants.iter().any(|p| p.identity == "ben").then_some(()),
        _ => None,
    })
    .await;

    house.sink.send(Event::Offer { room, participant, id: 5, sdp: "v=0 offer".into(), mid_to_track: vec![("0".into(), "TR_x".into())] });
    let offer = ann.until(|told| if let Told::Offer(offer) = told { Some(offer) } else { None }).await;
    assert_eq!((offer.id, offer.sdp.as_str(), offer.mid_to_track_id["0"].as_str()), (5, "v=0 offer", "TR_x"));
    let answer = livekit::SessionDescription { r#type: "answer".into(), sdp: crate::OFFER.into(), id: 5, ..Default::default() };
    ann.ask(Asked::Answer(answer)).await;
    let id = house.command(|c| if let Command::Answer { id, .. } = c { Some(*id) } else { None }).await;
    assert_eq!(id, 5);
    house.sink.send(Event::Connected { room, participant, target: Target::Subscriber });
    assert_eq!(ben.update_of("ann").await.state(), State::Active);

    ann.ask(Asked::Mute(livekit::MuteTrackRequest { sid: info.sid.clone(), muted: true })).await;
    assert!(ben.update_of("ann").await.tracks[0].muted);

    ann.ask(Asked::Leave(livekit::LeaveRequest::default())).await;
    let (leave, close) = ann.closed().await;
    assert_eq!(leave.unwrap().reason(), livekit::DisconnectReason::ClientInitiated);
    assert_eq!(u16::from(close.unwrap().code), 1000);
    let gone = ben.update_of("ann").await;
    assert_eq!((gone.state(), gone.disconnect_reason()), (State::Disconnected, livekit::DisconnectReason::ClientInitiated));
}

#[tokio::test]
async fn one_connection_with_the_offer_in_the_join_on_both_paths() {
    let house = house().await;
    for (identity, path, gzip) in [("v1", "/rtc/v1", false), ("v1z", "/rtc/v1", true), ("v0", "/rtc", true)] {
        let path = format!("{path}?join_request={}", join_request(gzip));
        let mut client = house.connect(&path, &token(identity, grant("r"))).await.unwrap();
        let Told::Join(join) = client.next().await else { panic!("a join first") };
        assert!(!join.subscriber_primary);
        let cid = client.until(|told| if let Told::TrackPublished(p) = told { Some(p.cid) } else { None }).await;
        assert_eq!(cid, "c1");
        let (room, participant) = house
            .command(|command| match command {
                Command::Offer { room, participant, id: 3, .. } => Some((*room, *participant)),
                _ => None,
            })
            .await;
        house.sink.send(Event::Answer { room, participant, id: 3, sdp: "v=0 answer".into(), mid_to_track: vec![] });
        let answer = client.until(|told| if let Told::Answer(answer) = told { Some(answer) } else { None }).await;
        assert_eq!((answer.id, answer.r#type.as_str()), (3, "answer"));
        house.sink.send(Event::SectionsRequired { room, participant, audios: 1, videos: 2 });
        let sections = client.until(|told| if let Told::MediaSectionsRequirement(s) = told { Some(s) } else { None }).await;
        assert_eq!((sections.num_audios, sections.num_videos), (1, 2));
    }
}

#[tokio::test]
async fn json_for_who_sends_json() {
    let house = house().await;
    let (mut ann, _) = house.join("r", "ann").await;
    ann.text = true;
    ann.raw(tokio_tungstenite::tungstenite::Message::text(r#"{"pingReq":{"timestamp":"5"}}"#)).await.unwrap();
    let pong = ann.until(|told| if let Told::PongResp(pong) = told { Some(pong) } else { None });
    // What was sent before the first text frame was binary; reading it as such is fine for this client.
    assert_eq!(pong.await.last_ping_timestamp, 5);
    ann.ask(Asked::AddTrack(microphone("c1"))).await;
    ann.until(|told| if let Told::TrackPublished(published) = told { Some(published) } else { None }).await;
}

#[tokio::test]
async fn pings_are_answered_and_tokens_refreshed() {
    let house = house().await;
    let (mut ann, _) = house.join("r", "ann").await;
    let refreshed = ann.until(|told| if let Told::RefreshToken(token) = told { Some(token) } else { None }).await;
    let verified = house.rooms.keys().verify(&refreshed).unwrap();
    assert_eq!((verified.claims.identity.as_str(), verified.claims.video.unwrap().room.as_str()), ("ann", "r"));
    ann.ask(Asked::PingReq(livekit::Ping { timestamp: 9, rtt: 1 })).await;
    let pong = ann.until(|told| if let Told::PongResp(pong) = told { Some(pong) } else { None }).await;
    assert!(pong.last_ping_timestamp == 9 && pong.timestamp > 0);
    ann.ask(Asked::Ping(9)).await;
    assert!(ann.until(|told| if let Told::Pong(pong) = told { Some(pong) } else { None }).await > 0);
}

#[tokio::test]
async fn the_same_identity_again_replaces_the_first() {
    let house = house().await;
    let (mut first, _) = house.join("r", "ann").await;
    let (_second, join) = house.join("r", "ann").await;
    assert!(join.other_participants.is_empty());
    let (leave, _) = first.closed().await;
    assert_eq!(leave.unwrap().reason(), livekit::DisconnectReason::DuplicateIdentity);
}

#[tokio::test]
async fn followers_hear_everything_in_order() {
    let house = house().await;
    let mut events = house.rooms.subscribe_events();
    let (mut ann, _) = house.join("r", "ann").await;
    let (_, _, track, info) = house.publish(&mut ann, "c1").await;
    let mut seen = Vec::new();
    loop {
        let event = events.recv().await.unwrap();
        assert_eq!(&*event.room.name, "r");
        seen.push(match &event.what {
            What::RoomStarted(_) => "started",
            What::ParticipantJoined { participant, .. } => {
                assert_eq!(&*participant.identity, "ann");
                "joined"
            }
            What::TrackPublished { track: published, info: published_info, .. } => {
                assert_eq!((*published, &published_info.sid), (track, &info.sid));
                ann.ask(Asked::Leave(livekit::LeaveRequest::default())).await;
                "published"
            }
            What::TrackUnpublished { .. } => "unpublished",
            What::ParticipantLeft { .. } => {
                house.rooms.delete("r").await.unwrap();
                "left"
            }
            What::RoomFinished(_) => break,
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(seen, ["started", "joined", "published", "unpublished", "left"]);
    assert_eq!(events.lost(), 0);
}

#[tokio::test]
async fn a_shutdown_tells_everyone_and_takes_nobody() {
    let house = house().await;
    let (mut ann, _) = house.join("r", "ann").await;
    house.rooms.shutdown().await;
    let (leave, _) = ann.closed().await;
    let leave = leave.unwrap();
    assert_eq!(leave.reason(), livekit::DisconnectReason::ServerShutdown);
    assert_eq!(leave.action(), livekit::leave_request::Action::Reconnect);
    let (status, text) = house.connect("/rtc", &token("ben", grant("r"))).await.err().unwrap();
    assert_eq!(status, 503);
    assert!(text.contains("shutting down"), "{text}");
}
