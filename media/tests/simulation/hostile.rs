//! What strangers and broken peers send: dropped, counted, and nobody else notices.

use std::net::SocketAddr;
use std::time::Duration;

use auralink_media::packet::MediaKind;
use auralink_media::shard::ShardInput;

use crate::determinism::seeded;
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
