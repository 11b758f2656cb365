//! Random rooms: what people do and what the network does, both from one seed.

use std::time::Duration;

use auralink_media::control::{Command, TrackSettings};
use auralink_media::packet::MediaKind;

use crate::determinism::{Trace, seeded};
use crate::network::Conditions;
use crate::world::{ROOM, World};

/// Runs of each group below; together they are the 60 of `make test`.
const GROUP: u64 = 15;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One random room. Returns what happened.
pub fn random_room(seed: u64) -> Trace {
    let mut rng = fastrand::Rng::with_seed(seed);
    let conditions = Conditions {
        latency: ms(rng.u64(1..60)),
        jitter: ms(*rng.choice([0, 0, 4, 25].iter()).unwrap()),
        loss: *rng.choice([0.0, 0.01, 0.04].iter()).unwrap(),
        duplicates: *rng.choice([0.0, 0.02].iter()).unwrap(),
        bottleneck_bps: rng.choice([None, None, Some(3_000_000), Some(600_000)].iter()).copied().unwrap(),
    };
    if std::env::var_os("AURALINK_SIMULATION_LOG").is_some() {
        eprintln!("seed {seed}: {conditions:?}");
    }
    let mut world = World::new(seed, conditions, None);
    for _ in 0..rng.usize(2..4) {
        let (single, red) = (rng.bool(), rng.bool());
        world.join(single, red);
    }
    for _ in 0..rng.usize(8..16) {
        act(&mut world, &mut rng);
        world.run(ms(rng.u64(1..350)));
    }
    // The network heals and media goes on: what was lost is repaired.
    world.network.conditions = Conditions { latency: conditions.latency, ..Conditions::PERFECT };
    world.run(ms(1500));
    world.media = false;
    world.run(ms(600));
    world.check_streams(true);
    world.end()
}

fn act(world: &mut World, rng: &mut fastrand::Rng) {
    let people: Vec<_> = world.clients.keys().copied().collect();
    let tracks: Vec<_> = world.tracks.keys().copied().collect();
    let person = rng.choice(people.iter()).copied();
    let track = rng.choice(tracks.iter()).copied();
    let choice = rng.u8(..20);
    if std::env::var_os("AURALINK_SIMULATION_LOG").is_some() {
        eprintln!("{:?} action {choice}: {person:?} {track:?}", world.now - world.start);
    }
    match (choice, person, track) {
        (0..=1, _, _) if people.len() < 5 => {
            let (single, red) = (rng.bool(), rng.bool());
            world.join(single, red);
        }
        (2, Some(person), _) if people.len() > 2 => world.leave(person),
        (3..=5, Some(person), _) => {
            let red = rng.bool();
            world.publish(person, MediaKind::Audio, 1, red);
        }
        (6..=9, Some(person), _) => {
            let layers = rng.usize(1..4);
            world.publish(person, MediaKind::Video, layers, false);
        }
        (10, _, Some(track)) => world.unpublish(track),
        (11..=12, _, Some(track)) => {
            let muted = rng.bool();
            world.mute(track, muted);
        }
        (13, Some(person), Some(track)) => world.unsubscribe(person, track),
        (14, Some(person), Some(track)) => world.subscribe(person, track),
        (15..=17, Some(person), Some(track)) => {
            let settings = TrackSettings {
                disabled: rng.u8(..5) == 0,
                max_spatial: rng.bool().then(|| rng.u8(..3)),
                width: *rng.choice([0, 160, 640, 1280].iter()).unwrap(),
                ..Default::default()
            };
            world.settings(person, track, settings);
        }
        (18, Some(person), _) => world.command(Command::RestartIce { room: ROOM, participant: person }),
        (_, Some(person), _) => {
            if let Some(client) = world.clients.get_mut(&person) {
                client.send_data(rng.bool(), b"not a data packet at all");
            }
        }
        _ => {}
    }
}

fn group(first: u64) {
    for seed in first..first + GROUP {
        seeded(seed, move || random_room(seed));
    }
}

#[test]
fn random_rooms_1() {
    group(1000);
}

#[test]
fn random_rooms_2() {
    group(2000);
}

#[test]
fn random_rooms_3() {
    group(3000);
}

#[test]
fn random_rooms_4() {
    group(4000);
}

/// The seed of a trace run in another process; its output is the trace.
const TRACE_SEED: &str = "AURALINK_TRACE_SEED";

#[test]
fn one_seed_in_two_processes_gives_one_trace() {
    if let Ok(seed) = std::env::var(TRACE_SEED) {
        let seed: u64 = seed.parse().unwrap();
        println!("trace={:016x}", seeded(seed, move || random_room(seed)).0);
        return;
    }
    for seed in [7u64, 8] {
        let here = seeded(seed, move || random_room(seed));
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["seeds::one_seed_in_two_processes_gives_one_trace", "--exact", "--nocapture"])
            .env(TRACE_SEED, seed.to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&format!("trace={:016x}", here.0)), "seed {seed}: {:016x} here, there: {text}", here.0);
    }
    assert_ne!(seeded(7, || random_room(7)), seeded(8, || random_room(8)), "different seeds are different runs");
}
