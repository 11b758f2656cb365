//! A connection that is lost comes back to its session, or is told to start over.

use super::house::{grant, house, house_with, token};
use auralink_media::control::Command;
use auralink_proto::livekit;
use auralink_signaling::rooms::RoomsConfig;
use livekit::leave_request::Action;
use livekit::participant_info::State;
use livekit::signal_request::Message as Asked;
use livekit::signal_response::Message as Told;
use std::time::Duration;

#[tokio::test]
async fn the_session_goes_on_over_another_connection() {
    let house = house().await;
    let (mut ann, join) = house.join("r", "ann").await;
    let (mut ben, _) = house.join("r", "ben").await;
    let sid = join.participant.unwrap().sid;
    house.publish(&mut ann, "c1").await;
    ann.cut();
    let path = format!("/rtc?reconnect=1&sid={sid}&protocol=16");
    let mut ann = house.connect(&path, &token("ann", grant("r"))).await.unwrap();
    assert!(matches!(ann.next().await, Told::Reconnect(_)), "the answer comes before anything else");
    assert_eq!(ann.update_of("ben").await.state(), State::Joined);
    house.command(|command| matches!(command, Command::RestartIce { .. }).then_some(())).await;
    ann.ask(Asked::Leave(livekit::LeaveRequest::default())).await;
    let gone = ben
        .until(|told| match told {
            Told::Update(update) => update.participants.into_iter().find(|p| p.state() == State::Disconnected),
            _ => None,
        })
        .await;
    assert_eq!((gone.sid.as_str(), gone.disconnect_reason()), (sid.as_str(), livekit::DisconnectReason::ClientInitiated));
}

#[tokio::test]
async fn an_older_connection_is_closed_when_a_newer_takes_over() {
    let house = house().await;
    let (mut old, join) = house.join("r", "ann").await;
    let path = format!("/rtc?reconnect=1&sid={}", join.participant.unwrap().sid);
    let mut new = house.connect(&path, &token("ann", grant("r"))).await.unwrap();
    assert!(matches!(new.next().await, Told::Reconnect(_)));
    let (leave, close) = old.closed().await;
    assert!(leave.is_none(), "nobody left");
    assert!(close.unwrap().reason.contains("another connection"));
    new.ask(Asked::PingReq(livekit::Ping::default())).await;
    new.until(|told| if let Told::PongResp(pong) = told { Some(pong) } else { None }).await;
}

#[tokio::test]
async fn sessions_that_are_not_known_are_told_to_join_anew() {
    let house = house().await;
    let (_ann, join) = house.join("r", "ann").await;
    let sid = join.participant.unwrap().sid;
    for (room, identity, sid) in [("r", "ann", "PA_other"), ("r", "ben", &*sid), ("none", "ann", &*sid)] {
        let path = format!("/rtc?reconnect=1&sid={sid}");
        let mut client = house.connect(&path, &token(identity, grant(room))).await.unwrap();
        let (leave, _) = client.closed().await;
        let leave = leave.unwrap();
        assert_eq!((leave.reason(), leave.action()), (livekit::DisconnectReason::StateMismatch, Action::Reconnect));
    }
}

#[tokio::test]
async fn who_does_not_come_back_is_gone() {
    let house = house_with(RoomsConfig { resume_timeout: Duration::ZERO, ..RoomsConfig::default() }).await;
    let (ann, _) = house.join("r", "ann").await;
    let (mut ben, _) = house.join("r", "ben").await;
    ann.cut();
    let gone = ben
        .until(|told| match told {
            Told::Update(update) => update.participants.into_iter().find(|p| p.state() == State::Disconnected),
            _ => None,
        })
        .await;
    assert_eq!((gone.identity.as_str(), gone.disconnect_reason()), ("ann", livekit::DisconnectReason::SignalClose));
}
