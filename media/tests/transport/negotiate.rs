//! The server offers: tracks come and go, sections are reused, only a track's codecs are offered.

use std::time::Duration;

use auralink_media::packet::{Codec, MediaKind};
use auralink_media::transport::{NegotiationError, RemoteAnswer, RemoteOffer, Sent, TransportEvent};

use crate::world::{Setup, World, candidate, track};

fn sections(sdp: &str) -> Vec<&str> {
    sdp.split("\r\nm=").skip(1).collect()
}

#[test]
fn only_the_tracks_codecs_are_offered() {
    let mut world = World::new(Setup::default());
    world.server.add_send_track(track(MediaKind::Audio, "a", &[Codec::Opus]));
    world.server.add_send_track(track(MediaKind::Video, "v", &[Codec::H264]));
    let offer = world.server.create_offer(world.now).unwrap();
    let sections = sections(&offer.sdp);
    let audio = sections.iter().find(|section| section.starts_with("audio")).unwrap();
    assert!(audio.contains("opus/48000/2") && !audio.contains("red/48000"), "{audio}");
    assert!(audio.contains("a=msid:PA_x|TR_a TR_a\r\n") && audio.contains("a=sendonly"));
    let video = sections.iter().find(|section| section.starts_with("video")).unwrap();
    assert!(video.contains("H264/90000") && !video.contains("VP8") && video.contains("a=ssrc-group:FID "));
    assert!(world.server.create_offer(world.now).is_none(), "one offer at a time");
}

#[test]
fn tracks_come_and_go_and_their_sections_are_used_again() {
    let mut world = World::new(Setup::default());
    let first = world.server.add_send_track(track(MediaKind::Video, "1", &[Codec::Vp8]));
    world.connect();
    let mid = world.negotiated()[&first].0.clone();
    assert_eq!(world.send(first, Codec::Vp8, 10, 0, &[1; 50]), Sent::Yes);
    world.run(Duration::from_millis(50));
    let first_ssrc = world.client.rtp[0].header.ssrc;
    assert!(!world.negotiate(), "nothing to negotiate");

    // Removed and replaced at once: the old section goes inactive, the new track gets a section of its own.
    world.server.remove_send_track(first);
    assert_eq!(world.send(first, Codec::Vp8, 11, 0, &[1; 50]), Sent::NotReady);
    let second = world.server.add_send_track(track(MediaKind::Video, "2", &[Codec::Vp8]));
    assert!(world.negotiate());
    assert_ne!(world.negotiated()[&second].0, mid);
    assert!(!world.negotiated().contains_key(&first));

    // The next one takes the section that is free now, under a new SSRC and msid.
    let third = world.server.add_send_track(track(MediaKind::Video, "3", &[Codec::Vp8]));
    let offer = world.server.create_offer(world.now).unwrap();
    assert!(offer.sends.contains(&(mid.clone(), third)));
    let section = sections(&offer.sdp).into_iter().find(|section| section.contains(&format!("a=mid:{mid}\r\n"))).unwrap();
    assert!(section.contains("a=msid:PA_x|TR_3 TR_3\r\n") && !section.contains("TR_1") && section.contains("a=sendonly"));
    let parsed = str0m::change::SdpOffer::from_sdp_string(&offer.sdp).unwrap();
    let answer = world.client.rtc.sdp_api().accept_offer(parsed).unwrap();
    world.server.accept_answer(world.now, RemoteAnswer::parse(&answer.to_sdp_string()).unwrap()).unwrap();
    world.settle();
    assert_eq!(world.negotiated()[&third].0, mid);

    world.client.rtp.clear();
    for seq in 0..20u64 {
        assert_eq!(world.send(second, Codec::Vp8, seq, 0, &[2; 60]), Sent::Yes);
        assert_eq!(world.send(third, Codec::Vp8, seq, 0, &[3; 70]), Sent::Yes);
        world.run(Duration::from_millis(10));
    }
    world.run(Duration::from_millis(50));
    let of = |len: usize| world.client.rtp.iter().filter(|packet| packet.payload.len() == len).count();
    assert_eq!((of(60), of(70)), (20, 20));
    assert!(world.client.rtp.iter().all(|packet| packet.header.ssrc != first_ssrc), "an SSRC is never used again");
}

#[test]
fn a_section_is_not_used_again_for_a_codec_it_did_not_negotiate() {
    let mut world = World::new(Setup::default());
    let first = world.server.add_send_track(track(MediaKind::Video, "1", &[Codec::Vp8]));
    world.connect();
    world.server.remove_send_track(first);
    assert!(world.negotiate());
    let second = world.server.add_send_track(track(MediaKind::Video, "2", &[Codec::H264]));
    assert!(world.negotiate());
    assert_eq!(world.negotiated()[&second].1, [Codec::H264]);
    assert_eq!(world.send(second, Codec::H264, 1, 0, &[3; 70]), Sent::Yes);
    world.run(Duration::from_millis(50));
    assert_eq!(world.client.rtp.len(), 1);
}

#[test]
fn a_hundred_tracks_fit_on_one_connection() {
    let mut world = World::new(Setup::default());
    let tracks: Vec<_> =
        (0..100).map(|number| world.server.add_send_track(track(MediaKind::Video, &number.to_string(), &[Codec::Vp8]))).collect();
    world.connect();
    for seq in 1..=5u64 {
        for track in &tracks {
            assert_eq!(world.send(*track, Codec::Vp8, seq, 0, &[9; 200]), Sent::Yes);
        }
        world.run(Duration::from_millis(20));
    }
    world.run(Duration::from_millis(50));
    assert_eq!(world.client.rtp.len(), 500);
    assert_eq!(world.server.stats().library_speech, 0);
}

#[test]
fn what_does_not_fit_is_answered_with_a_reason() {
    let mut world = World::new(Setup::default());
    let now = world.now;
    let offer = || RemoteOffer::parse(include_str!("offers/chromium.sdp")).unwrap();
    let foreign = || RemoteAnswer::parse(include_str!("offers/chromium.sdp")).unwrap();
    assert!(matches!(world.server.accept_answer(now, foreign()), Err(NegotiationError::State(_))));
    assert!(matches!(world.server.accept_offer(now, offer()), Err(NegotiationError::State(_))));
    world.server.add_send_track(track(MediaKind::Audio, "a", &[Codec::Opus]));
    world.server.create_offer(now).unwrap();
    assert!(world.server.accept_answer(now, foreign()).is_err(), "an answer to another offer");
    world.settle();
    assert!(matches!(world.events.last(), Some(TransportEvent::Closed)));

    let mut world = World::new(Setup { offerer: false, ..Setup::default() });
    for text in ["", "not sdp", "v=0\r\n"] {
        assert!(matches!(RemoteOffer::parse(text), Err(NegotiationError::Sdp(_))), "{text}");
        assert!(matches!(RemoteAnswer::parse(text), Err(NegotiationError::Sdp(_))), "{text}");
    }
    let many = "v=0\r\n".to_owned() + &"m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n".repeat(600);
    assert!(matches!(RemoteOffer::parse(&many), Err(NegotiationError::Limit { limit: 512, .. })));
    let huge = "v=0\r\n".to_owned() + &"a".repeat(2 << 20);
    assert!(matches!(RemoteOffer::parse(&huge), Err(NegotiationError::Limit { .. })));
    let line = |port: u32| format!("candidate:1 1 udp 2113937151 192.0.2.7 {port} typ host");
    let results: Vec<_> = (0..80).map(|port| world.server.add_remote_candidate(candidate(&line(5000 + port))).is_ok()).collect();
    assert_eq!(results.iter().filter(|ok| **ok).count(), 64);
    assert!(world.server.add_remote_candidate(candidate(&line(5000))).is_ok(), "known already");
    assert_eq!(world.server.stats().limit_hits, 16);
}

#[test]
fn a_close_reaches_the_other_side() {
    let mut world = World::new(Setup::default());
    world.server.add_send_track(track(MediaKind::Audio, "a", &[Codec::Opus]));
    world.connect();
    world.client.rtc.close().unwrap();
    world.run(Duration::from_millis(200));
    assert!(world.events.iter().any(|event| matches!(event, TransportEvent::Closed)));
    assert!(!world.server.is_connected());
}
