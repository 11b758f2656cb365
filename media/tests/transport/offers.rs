//! First offers as real clients wrote them (single connection: a microphone and a camera to publish, one section of each kind to
//! receive on, one data channel), with their addresses replaced. Chromium 156, Firefox 153 ESR, pion/webrtc 4.2.

use auralink_media::packet::{Codec, MediaKind};
use auralink_media::transport::{RemoteOffer, TransportEvent};

use crate::world::{Setup, World, track};

fn answer(offer: &str) -> (World, String) {
    let mut world = World::new(Setup { offerer: false, ..Setup::default() });
    let codecs = [Codec::Red, Codec::Opus];
    world.server.add_send_track(track(MediaKind::Audio, "a", &codecs));
    world.server.add_send_track(track(MediaKind::Video, "v", &[Codec::Vp8]));
    let answer = world.server.accept_offer(world.now, RemoteOffer::parse(offer).unwrap()).expect("the offer is taken");
    world.settle();
    assert_eq!(answer.sends.len(), 2, "both tracks have a section");
    assert_eq!(world.server.sections_missing(), (0, 0));
    assert_eq!(world.server.stats().limit_hits, 0);
    for name in ["a", "v"] {
        assert!(answer.sdp.contains(&format!("a=msid:PA_x|TR_{name} TR_{name}\r\n")));
    }
    assert_eq!(answer.sdp.matches("\r\nm=").count(), 5);
    (world, answer.sdp)
}

/// Kind, whether there is a track id, and rids of what the client sends.
fn received(world: &World) -> Vec<(MediaKind, bool, usize)> {
    world
        .events
        .iter()
        .filter_map(|event| match event {
            TransportEvent::ReceiveSection { kind, track_id, rids, .. } => Some((*kind, !track_id.is_empty(), rids.len())),
            _ => None,
        })
        .collect()
}

#[test]
fn chromium() {
    let (world, answer) = answer(include_str!("offers/chromium.sdp"));
    assert_eq!(received(&world), [(MediaKind::Audio, true, 0), (MediaKind::Video, true, 3)]);
    assert!(answer.contains("a=simulcast:recv q;h;f\r\n"));
    let audio = answer.split("m=audio").nth(1).unwrap();
    assert!(audio.starts_with(" 9 UDP/TLS/RTP/SAVPF 63 111\r\n"), "RED before Opus");
    assert!(world.negotiated().values().any(|(_, codecs)| codecs.contains(&Codec::Red)));
}

#[test]
fn firefox() {
    let (world, answer) = answer(include_str!("offers/firefox.sdp"));
    assert_eq!(received(&world), [(MediaKind::Audio, true, 0), (MediaKind::Video, true, 0)]);
    assert!(!answer.contains("m=video 0 "), "bundle-only sections are not rejected");
}

#[test]
fn pion() {
    let (world, _) = answer(include_str!("offers/pion.sdp"));
    assert_eq!(received(&world), [(MediaKind::Audio, true, 0), (MediaKind::Video, true, 0)]);
}
