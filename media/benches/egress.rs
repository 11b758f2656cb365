//! What a forwarded packet costs on the way out, in nanoseconds of thread time: header and seal alone, and the whole
//! `Transport::send_rtp`, without a socket. `cargo bench -p auralink-media --bench egress`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark measures time")]

#[path = "../tests/transport/world.rs"]
#[allow(dead_code)]
mod world;

use std::hint::black_box;
use std::time::{Duration, Instant};

use auralink_media::egress::header::ExtensionIds;
use auralink_media::egress::keys::{MasterKeys, Profile};
use auralink_media::egress::report::ReportClock;
use auralink_media::egress::{Egress, Payload, Route, SendStream, Template};
use auralink_media::packet::{Codec, Extensions, MediaKind};
use auralink_media::transport::{OutgoingRtp, SendSlab, Sent};
use world::{Setup, World, track};

const PAYLOAD: [u8; 1150] = [7; 1150];
/// Packets between two emptyings of the slab, as a loop turn would do.
const TURN: u64 = 64;

/// Nanoseconds that this thread has run: the first number of its schedstat. Wall time would measure the machine's tenants.
fn thread_nanoseconds() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

/// The fastest of several rounds: caches and clock rates that others take are not what the code costs.
fn nanoseconds_per_packet(packets: u64, mut round: impl FnMut(u64)) -> f64 {
    (0..15)
        .map(|number| {
            let start = thread_nanoseconds();
            round(number * packets);
            (thread_nanoseconds() - start) as f64 / packets as f64
        })
        .fold(f64::INFINITY, f64::min)
}

fn packet<'a>(seq: u64, ext: &'a Extensions) -> OutgoingRtp<'a> {
    OutgoingRtp { seq, timestamp: 0, marker: false, codec: Codec::Vp8, ext, head: &[], body: &PAYLOAD }
}

fn seal(profile: Profile) -> f64 {
    let now = Instant::now();
    let material: Vec<u8> = (0..120).collect();
    let keys = MasterKeys::split(profile, &material, true).unwrap();
    let mut egress = Egress::new(&keys.local, "cname".to_owned(), ReportClock::new(now));
    let mut stream = SendStream::new(MediaKind::Video, 1, 2, 0);
    stream.set_template(Some(Template {
        mid: "0".to_owned(),
        payloads: vec![Payload { codec: Codec::Vp8, payload_type: 96, rtx: Some(97) }],
        extensions: ExtensionIds { mid: Some(4), transport_sequence: Some(3), ..Default::default() },
    }));
    stream.mark_known(None);
    let address = "10.0.0.1:1".parse().unwrap();
    let route = Route { source: address, destination: address };
    let mut slab = SendSlab::default();
    let ext = Extensions::default();
    nanoseconds_per_packet(20_000, |from| {
        for seq in from..from + 20_000 {
            black_box(egress.send(now, route, &mut stream, &packet(seq, &ext), &mut slab));
            if seq % TURN == 0 {
                slab.bytes.clear();
                slab.datagrams.clear();
            }
        }
    })
}

fn transport(tracks: usize) -> f64 {
    let mut world = World::new(Setup::default());
    let sends: Vec<_> =
        (0..tracks).map(|number| world.server.add_send_track(track(MediaKind::Video, &number.to_string(), &[Codec::Vp8]))).collect();
    world.connect();
    world.run(Duration::from_millis(200));
    let ext = Extensions::default();
    let mut slab = SendSlab::default();
    let now = world.now;
    nanoseconds_per_packet(20_000, |from| {
        for number in 0..20_000u64 {
            let send = sends[number as usize % tracks];
            let seq = from + number / tracks as u64;
            assert_eq!(world.server.send_rtp(now, send, &packet(seq, &ext), &mut slab), Sent::Yes);
            if number % TURN == 0 {
                // A loop turn ends: the transport is asked for what else it has.
                black_box(world.server.poll_output(now, &mut slab));
                slab.bytes.clear();
                slab.datagrams.clear();
            }
        }
    })
}

fn main() {
    println!("egress, ns per {}-byte packet, no socket", PAYLOAD.len());
    for (name, profile) in
        [("AES-256-GCM", Profile::Aes256Gcm), ("AES-128-GCM", Profile::Aes128Gcm), ("AES-128-CM-SHA1-80", Profile::Aes128CmSha1)]
    {
        println!("  header + seal, {name:<20} {:>8.0}", seal(profile));
    }
    for tracks in [1, 10, 100] {
        println!("  Transport::send_rtp, {tracks:>3} tracks    {:>8.0}", transport(tracks));
    }
}
