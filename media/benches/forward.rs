//! What one forwarded packet costs a shard, in nanoseconds of thread time per packet out, without sockets: opening it once,
//! finding its subscribers, and per subscriber rewriting, sealing and draining. `cargo bench -p auralink-media --bench forward`.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    dead_code,
    reason = "a benchmark measures time, and shares the simulation's rooms"
)]

#[path = "../tests/simulation/client.rs"]
mod client;
#[path = "../tests/simulation/determinism.rs"]
mod determinism;
#[path = "../tests/simulation/dtls.rs"]
mod dtls;
#[path = "../tests/simulation/marks.rs"]
mod marks;
#[path = "../tests/simulation/network.rs"]
mod network;
#[path = "../tests/simulation/world.rs"]
mod world;

use std::time::Duration;

use auralink_media::packet::MediaKind;
use auralink_media::shard::{ShardInput, ShardOutput};

use crate::network::Conditions;
use crate::world::{World, server};

/// Packets out per round: long enough for a thread clock that the system only moves at its ticks.
const PACKETS_OUT: usize = 100_000;
/// Rounds; the fastest counts: what other tenants of the machine take is not the code's cost.
const ROUNDS: usize = 5;

/// Nanoseconds that this thread has run: the first number of its schedstat.
fn thread_nanoseconds() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

/// Nanoseconds per packet out, and packets out per packet in.
fn forward(kind: MediaKind, subscribers: usize) -> (f64, f64) {
    let mut world = World::new(1, Conditions::PERFECT, None);
    let publisher = world.join(false, true);
    for _ in 0..subscribers {
        world.join(false, true);
    }
    world.publish(publisher, kind, 1, false);
    world.run(Duration::from_secs(3));

    let mut client = world.clients.remove(&publisher).unwrap();
    let (mut media_time, mut fastest, mut fan_out) = (world.now, f64::INFINITY, 0.0);
    for _ in 0..ROUNDS {
        let mut packets = Vec::new();
        while packets.len() < PACKETS_OUT / subscribers {
            media_time += client::VIDEO_INTERVAL;
            client.advance(media_time, true);
            // The connection's time hardly moves, here and below, so that none of its timers is due.
            world.now += Duration::from_micros(1);
            client.drain(world.now, |_, _, bytes| {
                let media = bytes[0] & 0xc0 == 0x80 && !(64..96).contains(&(bytes[1] & 0x7f));
                if media {
                    packets.push(bytes.to_vec());
                }
            });
        }
        let source = client.publisher.address;
        let mut out = 0;
        let start = thread_nanoseconds();
        for bytes in &packets {
            world.now += Duration::from_micros(1);
            world.shard.handle(world.now, ShardInput::Datagram { source, destination: server(), bytes });
            while let ShardOutput::Event(_) = world.shard.poll_output(world.now) {}
            let slab = world.shard.slab();
            out += slab.datagrams.len();
            slab.datagrams.clear();
            slab.bytes.clear();
        }
        fastest = fastest.min((thread_nanoseconds() - start) as f64 / out as f64);
        fan_out = out as f64 / packets.len() as f64;
    }
    (fastest, fan_out)
}

fn main() {
    println!("{:<8}{:>14}{:>14}{:>18}", "media", "subscribers", "fan-out", "ns/packet out");
    for (name, kind) in [("audio", MediaKind::Audio), ("video", MediaKind::Video)] {
        for subscribers in [1, 10, 50, 200] {
            let (nanoseconds, fan_out) = forward(kind, subscribers);
            println!("{name:<8}{subscribers:>14}{fan_out:>14.1}{nanoseconds:>18.0}");
        }
    }
}
