//! Clients that never read: bounded, and given up.

use super::house::{grant, house_with, token};
use auralink_proto::livekit;
use auralink_signaling::access::Claims;
use auralink_signaling::rooms::{JoinParams, RoomsConfig, What};
use livekit::signal_response::Message as Told;
use std::time::Duration;

#[tokio::test]
async fn a_session_that_is_not_read_is_given_up_and_its_participant_leaves() {
    let mut config = RoomsConfig { resume_timeout: Duration::ZERO, ..RoomsConfig::default() };
    config.limits.queue_messages = 50;
    let house = house_with(config).await;
    let mut events = house.rooms.subscribe_events();
    let params = JoinParams {
        room: "r".into(),
        api_key: "devkey".into(),
        claims: Claims::join("deaf", "r"),
        auto_subscribe: true,
        ..JoinParams::default()
    };
    let deaf = house.rooms.join(params).await.unwrap();
    for n in 0..100 {
        house.rooms.update_room_metadata("r", n.to_string()).await.unwrap();
    }
    let reason = loop {
        if let What::ParticipantLeft { participant, reason, .. } = &events.recv().await.unwrap().what {
            assert_eq!(&*participant.identity, "deaf");
            break *reason;
        }
    };
    assert_eq!(reason, livekit::DisconnectReason::SignalClose);
    drop(deaf);
}

#[tokio::test]
async fn a_socket_that_is_not_read_holds_up_nobody() {
    let mut config = RoomsConfig { resume_timeout: Duration::ZERO, ..RoomsConfig::default() };
    config.limits.queue_bytes = 1 << 20;
    let house = house_with(config).await;
    let mut events = house.rooms.subscribe_events();
    // Joined, and never read from again.
    let deaf = house.connect("/rtc", &token("deaf", grant("r"))).await.unwrap();
    let (mut ann, _) = house.join("r", "ann").await;
    // More than the queue and the socket buffers of loopback hold together; each is read by ann before the next.
    for n in 0..100u32 {
        let metadata = format!("{n:03}").repeat(100_000);
        house.rooms.update_room_metadata("r", metadata.clone()).await.unwrap();
        ann.until(|told| match told {
            Told::RoomUpdate(update) => (update.room.unwrap().metadata == metadata).then_some(()),
            _ => None,
        })
        .await;
    }
    loop {
        if let What::ParticipantLeft { participant, .. } = &events.recv().await.unwrap().what {
            assert_eq!(&*participant.identity, "deaf");
            break;
        }
    }
    drop(deaf);
}
