//! What strangers and broken peers send: dropped, counted, and nobody else notices.

use std::net::SocketAddr;
use std::time::Duration;

use auralink_media::control::Event;
use auralink_media::ids::TrackKey;
use auralink_media::packet::MediaKind;
use auralink_media::shard::{Limits, ShardInput};

use crate::determinism::seeded;
use crate::dtls::FAULT;
use crate::network::Conditions;
use crate::world::{World, server};

#[test]
fn strangers_are_not_heard() {
    seeded(31, || {
        let mut world = World::new(31, Conditions::PERFECT, None);
        let (alice, bob) = (world.join(false, true), world.join(true, true));
        let audio = world.publish(alice, MediaKind::Audio, 1, false);
        world.run(Duration::from_secs(1));
        let stranger: SocketAddr = "10.9.9.9:999".parse().unwrap();
        let before = world.shard.stats();
        let mut rng = fastrand::Rng::with_seed(31);
        for i in 0..500 {
            let len = rng.usize(1..200);
            let mut bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
            bytes[0] = [0, 1, 22, 23, 0x80, 0x81, 200][i % 7];
            world.shard.handle(world.now, ShardInput::Datagram { source: stranger, destination: server(), bytes: &bytes });
            // The same from an address that is known.
            let known = world.clients[&alice].publisher.address;
            world.shard.handle(world.now, ShardInput::Datagram { source: known, destination: server(), bytes: &bytes });
        }
        let after = world.shard.stats();
        assert!(after.dropped_unknown_address + after.dropped_bad_stun - before.dropped_unknown_address - before.dropped_bad_stun >= 500);
        assert_eq!(world.shard.table_sizes().0, 3, "no transport was made or lost");
        let heard = world.received(bob, audio)[0].packets.len();
        world.run(Duration::from_secs(1));
        assert!(world.received(bob, audio)[0].packets.len() >= heard + 45, "the others go on");
        world.check_streams(true);
        world.end();
    });
}

#[test]
fn a_fault_ends_the_connection_that_met_it_and_no_other() {
    for single in [false, true] {
        seeded(33, move || {
            let mut world = World::new(33, Conditions::PERFECT, None);
            let (alice, bob, carol) = (world.join(single, true), world.join(true, true), world.join(false, true));
            let (of_alice, of_bob) = (world.publish(alice, MediaKind::Audio, 1, false), world.publish(bob, MediaKind::Audio, 1, false));
            world.run(Duration::from_secs(2));
            let source = world.clients[&alice].publisher.address;
            world.shard.handle(world.now, ShardInput::Datagram { source, destination: server(), bytes: &[22, 254, 253, FAULT, 0] });
            let heard = |world: &World, who, track| world.received(who, track)[0].packets.len();
            let before = (heard(&world, carol, of_alice), heard(&world, carol, of_bob));
            world.run(Duration::from_secs(1));
            let after = (heard(&world, carol, of_alice), heard(&world, carol, of_bob));
            assert_eq!(world.shard.stats().connection_faults, 1);
            assert_eq!(after.0, before.0, "the connection is over");
            assert!(after.1 >= before.1 + 45, "the others go on");
            let lost = |(_, event): &&(_, Event)| matches!(event, Event::Disconnected { participant, .. } if *participant == alice);
            assert_eq!(world.events.iter().filter(lost).count(), 1, "its client is to start over");
            // As signaling has it: it leaves, and comes again.
            world.leave(alice);
            let again = world.join(single, true);
            let of_alice = world.publish(again, MediaKind::Audio, 1, false);
            world.run(Duration::from_secs(2));
            assert!(heard(&world, carol, of_alice) > 45 && heard(&world, again, of_bob) > 45);
            world.end();
        });
    }
}

#[test]
fn tracks_beyond_the_limit_are_refused_with_the_reason() {
    seeded(32, || {
        let limits = Limits { tracks_per_participant: 2, ..Limits::default() };
        let mut world = World::with_limits(32, Conditions::PERFECT, None, limits);
        let (alice, bob) = (world.join(false, true), world.join(true, true));
        let tracks: Vec<TrackKey> = (0..3).map(|_| world.publish(alice, MediaKind::Audio, 1, false)).collect();
        world.run(Duration::from_secs(2));
        let refused: Vec<_> = world
            .events
            .iter()
            .filter_map(|(_, e)| match e {
                Event::TrackRefused { participant, track, refusal, .. } => Some((*participant, *track, refusal.reason.clone())),
                _ => None,
            })
            .collect();
        assert_eq!(refused.len(), 1);
        assert_eq!((refused[0].0, refused[0].1), (alice, tracks[2]));
        assert!(refused[0].2.contains("at most 2 tracks"), "{}", refused[0].2);
        assert_eq!(world.shard.stats().limit_hits, 1);
        for track in &tracks[..2] {
            assert!(world.received(bob, *track)[0].packets.len() > 30, "those within the limit flow");
        }
        // With one less there is room for one more.
        world.unpublish(tracks[0]);
        let another = world.publish(alice, MediaKind::Video, 1, false);
        world.run(Duration::from_secs(2));
        let arrived = world.received(bob, another)[0].packets.len();
        assert!(arrived > 10, "{arrived} packets");
    });
}
