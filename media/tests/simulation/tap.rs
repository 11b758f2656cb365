//! The tap: audio goes out as Opus, and forwarding is the same whether nobody listens, someone does, or the ring is full.

use std::time::Duration;

use auralink_media::control::{Command, Event, TrackSpec};
use auralink_media::ids::TrackKey;
use auralink_media::packet::{Codec, MediaKind};
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

fn refusal(world: &World, of: TrackKey) -> Option<String> {
    world.events.iter().find_map(|(_, e)| match e {
        Event::TapRefused { track, refusal, .. } if *track == of => Some(refusal.reason.clone()),
        _ => None,
    })
}

#[test]
fn an_encrypted_track_is_refused_with_a_reason() {
    seeded(12, || {
        let (producer, mut consumer) = rtrb::RingBuffer::new(100);
        let mut world = World::new(12, Conditions::PERFECT, Some(producer));
        let (alice, bob) = (world.join(false, true), world.join(true, true));
        let audio = world.publish_with(alice, MediaKind::Audio, 1, true, |spec| spec.encrypted = true);
        world.command(Command::SetTap { room: ROOM, track: audio, enabled: true });
        world.run(Duration::from_secs(2));
        assert!(refusal(&world, audio).unwrap().contains("end-to-end encrypted"));
        // Asked again while it flows.
        world.events.clear();
        world.command(Command::SetTap { room: ROOM, track: audio, enabled: true });
        world.run(Duration::from_secs(1));
        assert!(refusal(&world, audio).unwrap().contains("end-to-end encrypted"));
        assert!(consumer.pop().is_err(), "nobody hears it but whom it is for");
        let heard = world.clients[&bob].receiving().received.values().map(|s| s.packets.len()).sum::<usize>();
        assert!(heard > 50, "{heard} packets forwarded");
        world.end();
    });
}

#[test]
fn a_video_track_is_refused_with_a_reason() {
    seeded(13, || {
        let (producer, mut consumer) = rtrb::RingBuffer::new(100);
        let mut world = World::new(13, Conditions::PERFECT, Some(producer));
        let alice = world.join(false, true);
        let video = world.publish(alice, MediaKind::Video, 1, false);
        world.command(Command::SetTap { room: ROOM, track: video, enabled: true });
        world.run(Duration::from_secs(1));
        assert!(refusal(&world, video).unwrap().contains("only audio"));
        assert!(consumer.pop().is_err());
        world.end();
    });
}

/// What a client says of its track beside the usual.
type Say = fn(&mut TrackSpec);

#[test]
fn red_is_taken_of_a_publisher_unless_it_is_disabled_or_the_track_is_encrypted() {
    for single in [false, true] {
        seeded(14, move || {
            let mut world = World::new(14, Conditions::PERFECT, None);
            let (alice, _bob) = (world.join(single, true), world.join(false, true));
            let says: [(Say, Codec); 3] =
                [(|_| {}, Codec::Red), (|s| s.disable_red = true, Codec::Opus), (|s| s.encrypted = true, Codec::Opus)];
            for (say, expected) in says {
                let track = world.publish_with(alice, MediaKind::Audio, 1, true, say);
                world.run(Duration::from_secs(2));
                let codec = world.events.iter().find_map(|(_, e)| match e {
                    Event::TrackStarted { track: started, codec, .. } if *started == track => Some(*codec),
                    _ => None,
                });
                assert_eq!(codec, Some(expected));
            }
            world.end();
        });
    }
}
