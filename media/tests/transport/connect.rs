//! Two sides meet, and what the server sends arrives and opens, in every SRTP profile.

use std::time::Duration;

use auralink_media::packet::{Codec, MediaKind};
use auralink_media::transport::{Sent, TransportEvent};
use str0m::crypto::dtls::SrtpProfile;

use crate::world::{Setup, World, track};

fn every_packet_arrives(profile: Option<SrtpProfile>) {
    let mut world = World::new(Setup { profile, ..Setup::default() });
    let audio = world.server.add_send_track(track(MediaKind::Audio, "a", &[Codec::Opus]));
    let video = world.server.add_send_track(track(MediaKind::Video, "v", &[Codec::Vp8]));
    world.connect();
    assert!(world.events.iter().any(|event| matches!(event, TransportEvent::Connected)));
    assert_eq!(world.negotiated()[&video].1, [Codec::Vp8]);

    // Over the roll-over at 65,535.
    for number in 0..300u64 {
        let seq = 65_400 + number;
        assert_eq!(world.send(audio, Codec::Opus, seq, 960 * number as u32, &[1, 2, number as u8]), Sent::Yes);
        assert_eq!(world.send(video, Codec::Vp8, seq, 3000 * number as u32, &[number as u8; 1100]), Sent::Yes);
        world.run(Duration::from_millis(20));
    }
    world.run(Duration::from_millis(100));
    let of = |len: usize| world.client.rtp.iter().filter(|packet| packet.payload.len() == len).collect::<Vec<_>>();
    assert_eq!((of(3).len(), of(1100).len()), (300, 300));
    for (number, packet) in of(1100).into_iter().enumerate() {
        assert_eq!(packet.header.sequence_number, (65_400 + number) as u16);
        assert!(packet.payload.iter().all(|byte| *byte == number as u8));
    }
    let stats = world.server.stats();
    assert_eq!((stats.rtp_sent, stats.bad_tag, stats.library_speech, stats.repeated), (600, 0, 0, 0));
}

#[test]
fn every_packet_arrives_and_opens_with_aes_256_gcm() {
    every_packet_arrives(Some(SrtpProfile::AEAD_AES_256_GCM));
}

#[test]
fn every_packet_arrives_and_opens_with_aes_128_gcm() {
    every_packet_arrives(Some(SrtpProfile::AEAD_AES_128_GCM));
}

#[test]
fn every_packet_arrives_and_opens_with_aes_128_cm_sha1() {
    every_packet_arrives(Some(SrtpProfile::AES128_CM_SHA1_80));
}

#[test]
fn every_packet_arrives_as_negotiated() {
    every_packet_arrives(None);
}
