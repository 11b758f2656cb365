//! The tap: audio goes out as Opus, and forwarding is the same whether nobody listens, someone does, or the ring is full.

use std::time::Duration;

use auralink_media::control::{Command, Event};
use auralink_media::packet::MediaKind;
use auralink_media::tap::TapPacket;

use crate::determinism::seeded;
use crate::marks;
use crate::network::Conditions;
use crate::world::{ROOM, World};

fn run(tap: Option<rtrb::Producer<TapPacket>>) -> (Vec<Vec<u8>>, u64) {
    let mut world = World::new(11, Conditions { loss: 0.02, ..Conditions::PERFECT }, tap);
    world.keep_sent = true;
    let (alice, _bob) = (world.join(false, true), world.join(false, false));
    let audio = world.publish(alice, MediaKind::Audio, 1, true);
    world.publish(alice, MediaKind::Video, 2, false);
    world.command(Command::SetTap { room: ROOM, track: audio, enabled: true });
    world.run(Duration::from_secs(2));
    let dropped = world.shard.stats().tap_dropped;
    (world.sent, dropped)
}

#[test]
fn forwarding_is_the_same_with_the_tap_absent_empty_and_full() {
    let (absent, _) = seeded(11, || run(None));
    let (empty, dropped, heard) = seeded(11, || {
        let (producer, mut consumer) = rtrb::RingBuffer::new(10_000);
        let (sent, dropped) = run(Some(producer));
        let mut seqs = Vec::new();
        while let Ok(packet) = consumer.pop() {
            seqs.push(packet.seq);
            marks::check(&packet.payload);
        }
        (sent, dropped, seqs)
    });
    assert_eq!(dropped, 0);
    assert!(heard.len() > 50, "{} packets heard", heard.len());
    let mut unique = heard.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), heard.len(), "each packet is heard once");
    let (full, dropped) = seeded(11, || {
        let (producer, _consumer) = rtrb::RingBuffer::new(4);
        run(Some(producer))
    });
    assert!(dropped > 50, "{dropped} dropped");
    for (name, other) in [("empty", &empty), ("full", &full)] {
        let head = |bytes: &Vec<u8>| (bytes.len(), bytes[..bytes.len().min(12)].to_vec());
        let differs = absent.iter().zip(other).enumerate().find(|(_, (a, b))| a != b).map(|(i, (a, b))| (i, head(a), head(b)));
        assert_eq!((differs, absent.len()), (None, other.len()), "what is sent differs with the ring {name}");
    }
}

#[test]
fn an_encrypted_track_is_refused_with_a_reason() {
    seeded(12, || {
        let (producer, mut consumer) = rtrb::RingBuffer::new(100);
        let mut world = World::new(12, Conditions::PERFECT, Some(producer));
        let alice = world.join(false, true);
        let video = world.publish(alice, MediaKind::Video, 1, false);
        world.command(Command::SetTap { room: ROOM, track: video, enabled: true });
        world.run(Duration::from_secs(1));
        let reason = world.events.iter().find_map(|(_, e)| match e {
            Event::TapRefused { refusal, .. } => Some(refusal.reason.clone()),
            _ => None,
        });
        assert!(reason.unwrap().contains("only audio"));
        assert!(consumer.pop().is_err());
        world.end();
    });
}
