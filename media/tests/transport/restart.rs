//! ICE restarts from both sides, and a peer whose address changes: media goes on under the same keys and indices.

use std::net::SocketAddr;
use std::time::Duration;

use auralink_media::packet::{Codec, MediaKind};
use auralink_media::transport::{RemoteAnswer, Sent};
use str0m::media::{Direction, MediaKind as ClientKind};
use str0m::{Candidate, IceCreds};

use crate::world::{Setup, World, candidate, track};

#[test]
fn our_restart_takes_the_new_credentials() {
    let mut world = World::new(Setup::default());
    let video = world.server.add_send_track(track(MediaKind::Video, "v", &[Codec::Vp8]));
    world.connect();
    assert_eq!(world.send(video, Codec::Vp8, 65_535, 0, &[1; 50]), Sent::Yes);
    let now = world.now;
    world.server.restart_ice(now, "s0restarted".into(), "another-password-of-letters".into());
    let offer = world.server.create_offer(now).unwrap();
    assert!(offer.sdp.contains("a=ice-ufrag:s0restarted\r\n") && !offer.sdp.contains("s0abcdefgh"));
    let parsed = str0m::change::SdpOffer::from_sdp_string(&offer.sdp).unwrap();
    let answer = world.client.rtc.sdp_api().accept_offer(parsed).unwrap();
    world.server.accept_answer(now, RemoteAnswer::parse(&answer.to_sdp_string()).unwrap()).unwrap();
    assert_eq!(world.server.local_ufrag(), "s0restarted");
    world.run(Duration::from_secs(2));
    assert!(world.server.is_connected() && world.client.rtc.is_connected());
    assert_eq!(world.send(video, Codec::Vp8, 65_536, 0, &[1; 50]), Sent::Yes);
    world.run(Duration::from_millis(100));
    assert_eq!(world.client.rtp.len(), 2, "the roll-over counter went on");
}

#[test]
fn the_clients_restart_is_answered_under_the_same_name() {
    let mut world = World::new(Setup { offerer: false, ..Setup::default() });
    let video = world.server.add_send_track(track(MediaKind::Video, "v", &[Codec::Vp8]));
    let mut api = world.client.rtc.sdp_api();
    api.add_media(ClientKind::Video, Direction::RecvOnly, None, None, None);
    let (offer, pending) = api.apply().unwrap();
    let first = world.client_offers(offer, pending);
    world.run_until_connected();
    assert!(first.contains("a=ice-ufrag:s0abcdefgh\r\n"));

    let mut api = world.client.rtc.sdp_api();
    api.ice_restart(true);
    let (offer, pending) = api.apply().unwrap();
    let answer = world.client_offers(offer, pending);
    assert!(answer.contains("a=ice-ufrag:s0abcdefgh/1\r\n"), "{answer}");
    assert!(!answer.contains("a-password-of-enough-letters"));
    assert_eq!(world.server.local_ufrag(), "s0abcdefgh/1");
    world.run(Duration::from_secs(2));
    assert!(world.server.is_connected() && world.client.rtc.is_connected());
    assert_eq!(world.send(video, Codec::Vp8, 3, 0, &[1; 50]), Sent::Yes);
    world.run(Duration::from_millis(100));
    assert_eq!(world.client.rtp.len(), 1);
}

/// pion does so when a second offer comes before its first connection has started.
#[test]
fn an_answer_with_new_credentials_that_nobody_asked_for_is_taken() {
    let mut world = World::new(Setup::default());
    let video = world.server.add_send_track(track(MediaKind::Video, "v", &[Codec::Vp8]));
    assert!(world.negotiate());
    world.server.add_send_track(track(MediaKind::Audio, "a", &[Codec::Opus]));
    let restarted = IceCreds { ufrag: "restarted".into(), pass: "a-password-of-the-clients-own".into() };
    world.client.rtc.direct_api().set_local_ice_credentials(restarted);
    assert!(world.negotiate());
    assert_eq!(world.server.local_ufrag(), "s0abcdefgh", "ours stay");
    world.run_until_connected();
    assert_eq!(world.send(video, Codec::Vp8, 3, 0, &[1; 50]), Sent::Yes);
    world.run(Duration::from_millis(100));
    assert_eq!(world.client.rtp.len(), 1);
}

#[test]
fn media_follows_the_nominated_pair() {
    let mut world = World::new(Setup::default());
    let video = world.server.add_send_track(track(MediaKind::Video, "v", &[Codec::Vp8]));
    world.connect();
    let old = world.client.address;
    assert_eq!(world.server.remote_address(), Some(old));

    // The client moves: the old address is dead, a new one is trickled.
    let new: SocketAddr = "10.0.0.3:6000".parse().unwrap();
    world.client.rtc.add_local_candidate(Candidate::host(new, "udp").unwrap());
    world.server.add_remote_candidate(candidate("candidate:9 1 udp 2130706431 10.0.0.3 6000 typ host")).unwrap();
    world.fate = Box::new(move |packet| (packet.source != old && packet.destination != old).then_some(crate::world::DELAY));
    let mut arrived_at = None;
    for seq in 1..4000u64 {
        world.send(video, Codec::Vp8, seq, 0, &[1; 50]);
        world.run(Duration::from_millis(10));
        if !world.client.rtp.is_empty() {
            arrived_at = Some(seq);
            break;
        }
    }
    assert!(arrived_at.is_some(), "media reached the new address");
    assert_eq!(world.server.remote_address(), Some(new));
    assert_eq!(world.server.stats().library_speech, 0);
}

#[test]
fn ice_lite_connects() {
    let mut world = World::new(Setup { ice_lite: true, ..Setup::default() });
    let video = world.server.add_send_track(track(MediaKind::Video, "v", &[Codec::Vp8]));
    world.connect();
    assert_eq!(world.send(video, Codec::Vp8, 1, 0, &[1; 50]), Sent::Yes);
    world.run(Duration::from_millis(100));
    assert_eq!(world.client.rtp.len(), 1);
}
