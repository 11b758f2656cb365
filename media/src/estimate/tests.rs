//! A link with a rate, a queue and loss, an application that sends what the estimate allows, and feedback every 50 ms.

use super::*;
use crate::egress::feedback::{self, Feedback};

struct Link {
    bps: f64,
    queue_limit: Duration,
    loss_percent: u64,
    propagation: Duration,
    free_at: Instant,
    random: fastrand::Rng,
}

struct Simulation {
    now: Instant,
    start: Instant,
    estimator: Estimator,
    link: Link,
    sequence: u64,
    /// (sequence, arrival) not yet fed back.
    arrived: Vec<(u64, Option<Instant>)>,
    /// Longest queueing delay seen since it was last reset.
    worst_queue: Duration,
}

impl Simulation {
    fn new(bps: f64) -> Simulation {
        let now = Instant::now();
        Simulation {
            now,
            start: now,
            estimator: Estimator::new(now),
            link: Link {
                bps,
                queue_limit: Duration::from_millis(400),
                loss_percent: 0,
                propagation: Duration::from_millis(20),
                free_at: now,
                random: fastrand::Rng::with_seed(3),
            },
            sequence: 1,
            arrived: vec![],
            worst_queue: Duration::ZERO,
        }
    }

    /// Runs for a time; the application offers at most `application_bps`.
    fn run(&mut self, duration: Duration, application_bps: u64) {
        let end = self.now + duration;
        let mut next_feedback = self.now + Duration::from_millis(50);
        let mut budget = 0.0;
        while self.now < end {
            self.now += Duration::from_millis(10);
            let rate = self.estimator.control.target_bps().min(application_bps);
            budget += rate as f64 * 0.01;
            while budget > 0.0 {
                let bytes = 1000.0f64.min(budget / 8.0 + 100.0);
                budget -= bytes * 8.0;
                self.send(bytes as usize);
            }
            if self.now >= next_feedback {
                next_feedback = self.now + Duration::from_millis(50);
                self.feed_back();
            }
        }
    }

    fn send(&mut self, bytes: usize) {
        self.estimator.on_sent(self.now, Some(self.sequence), bytes);
        let queued = self.link.free_at.saturating_duration_since(self.now);
        let lost = queued > self.link.queue_limit || self.link.random.u64(..100) < self.link.loss_percent;
        let arrival = (!lost).then(|| {
            self.worst_queue = self.worst_queue.max(queued);
            self.link.free_at = self.link.free_at.max(self.now) + Duration::from_secs_f64(bytes as f64 * 8.0 / self.link.bps);
            self.link.free_at + self.link.propagation
        });
        self.arrived.push((self.sequence, arrival));
        self.sequence += 1;
    }

    fn feed_back(&mut self) {
        let known =
            self.arrived.iter().rposition(|(_, arrival)| arrival.is_some_and(|arrival| arrival <= self.now)).map_or(0, |last| last + 1);
        let batch: Vec<_> = self.arrived.drain(..known).collect();
        let Some((base, _)) = batch.first().copied() else {
            return;
        };
        let packet = encode(base, &batch, self.start);
        let estimator = &mut self.estimator;
        let highest = self.sequence;
        let now = self.now;
        feedback::read(&packet, |feedback| {
            if let Feedback::Transport(feedback) = feedback {
                estimator.on_feedback(now, &feedback, |sequence| highest.checked_sub(u64::from((highest as u16).wrapping_sub(sequence))));
            }
        });
    }

    fn target(&self) -> u64 {
        self.estimator.control.target_bps()
    }
}

/// Transport-wide feedback with two-bit status vectors and large deltas.
fn encode(base: u64, batch: &[(u64, Option<Instant>)], start: Instant) -> Vec<u8> {
    let ticks = |at: Instant| at.duration_since(start).as_micros() as i64 / 250;
    let first = batch.iter().find_map(|(_, arrival)| *arrival).map_or(0, ticks);
    let reference = first / 256;
    let mut body = vec![];
    let mut deltas = vec![];
    let mut last = reference * 256;
    for chunk in batch.chunks(7) {
        let mut word = 0xc000u16;
        for (at, (_, arrival)) in chunk.iter().enumerate() {
            if let Some(arrival) = arrival {
                word |= 2 << (12 - 2 * at);
                deltas.extend(((ticks(*arrival) - last) as i16).to_be_bytes());
                last = ticks(*arrival);
            }
        }
        body.extend(word.to_be_bytes());
    }
    body.extend(deltas);
    while body.len() % 4 != 0 {
        body.push(0);
    }
    let mut packet = vec![0x8f, 205];
    packet.extend((4 + body.len() as u16 / 4).to_be_bytes());
    packet.extend([0; 8]);
    packet.extend((base as u16).to_be_bytes());
    packet.extend((batch.len() as u16).to_be_bytes());
    packet.extend(((reference as u32) << 8).to_be_bytes());
    packet.extend(body);
    packet
}

#[test]
fn a_growing_queue_lowers_the_rate_and_a_wider_link_brings_it_back() {
    let mut simulation = Simulation::new(1_000_000.0);
    simulation.run(Duration::from_secs(5), 3_000_000);
    let low = simulation.target();
    assert!((500_000..1_150_000).contains(&low), "on a 1 Mbps link: {low}");

    simulation.worst_queue = Duration::ZERO;
    simulation.run(Duration::from_secs(20), 3_000_000);
    assert!(simulation.worst_queue < Duration::from_millis(250), "queue {:?}", simulation.worst_queue);
    let settled = simulation.target();
    assert!((500_000..1_200_000).contains(&settled), "after 25 s: {settled}");

    simulation.link.bps = 5_000_000.0;
    simulation.run(Duration::from_secs(40), 3_000_000);
    assert!(simulation.target() > 2_500_000, "on a 5 Mbps link: {}", simulation.target());
}

#[test]
fn a_sudden_drop_is_followed_within_two_seconds() {
    let mut simulation = Simulation::new(5_000_000.0);
    simulation.run(Duration::from_secs(5), 2_500_000);
    simulation.link.bps = 500_000.0;
    simulation.run(Duration::from_secs(2), 2_500_000);
    assert!(simulation.target() < 700_000, "{}", simulation.target());
    assert!(simulation.estimator.poll(simulation.now).unwrap().congested);
}

#[test]
fn loss_above_ten_percent_lowers_the_rate_and_its_end_lets_it_recover() {
    let mut simulation = Simulation::new(20_000_000.0);
    simulation.run(Duration::from_secs(3), 2_000_000);
    simulation.link.loss_percent = 25;
    simulation.run(Duration::from_secs(3), 2_000_000);
    let low = simulation.target();
    assert!(low < 1_000_000, "{low}");
    assert!(low >= 64_000, "audio goes on: {low}");
    simulation.link.loss_percent = 0;
    simulation.run(Duration::from_secs(60), 2_000_000);
    assert!(simulation.target() > 1_800_000, "{}", simulation.target());
}

#[test]
fn an_application_that_sends_little_does_not_run_the_estimate_away() {
    let mut simulation = Simulation::new(20_000_000.0);
    simulation.run(Duration::from_secs(120), 200_000);
    assert!((1_200_000..=2_500_000).contains(&simulation.target()), "{}", simulation.target());
}

#[test]
fn one_late_burst_does_not_stop_a_quiet_connection() {
    let mut simulation = Simulation::new(20_000_000.0);
    simulation.run(Duration::from_secs(5), 100_000);
    let before = simulation.target();
    // The way stands still for 300 ms, once.
    simulation.link.free_at = simulation.now + Duration::from_millis(300);
    simulation.run(Duration::from_secs(1), 100_000);
    let after = simulation.target();
    assert!(after > before / 3, "{after} of {before}");
    simulation.run(Duration::from_secs(30), 100_000);
    assert!(simulation.target() >= 900_000, "{}", simulation.target());
}

#[test]
fn random_loss_of_one_percent_is_no_reason_to_fall() {
    let mut simulation = Simulation::new(20_000_000.0);
    simulation.link.loss_percent = 1;
    simulation.run(Duration::from_secs(20), 2_000_000);
    assert!(simulation.target() >= 2_000_000, "{}", simulation.target());
}

#[test]
fn without_feedback_the_rate_falls() {
    let mut simulation = Simulation::new(5_000_000.0);
    simulation.run(Duration::from_secs(2), 1_000_000);
    let before = simulation.target();
    for _ in 0..400 {
        simulation.now += Duration::from_millis(10);
        simulation.send(1000);
    }
    assert!(simulation.target() < before / 3, "{} of {before}", simulation.target());
}

#[test]
fn receiver_reports_serve_where_there_is_no_transport_feedback() {
    let start = Instant::now();
    let mut estimator = Estimator::new(start);
    let mut now = start;
    for second in 0..10 {
        for _ in 0..100 {
            now += Duration::from_millis(10);
            estimator.on_sent(now, None, 1000);
        }
        estimator.on_report(now, if second < 5 { 0.3 } else { 0.0 }, Some(Duration::from_millis(50)));
    }
    let target = estimator.control.target_bps();
    assert!(target < 800_000, "{target}");
    assert!(estimator.poll(now).is_some() && estimator.poll(now).is_none());
}

#[test]
fn reference_times_unwrap() {
    let mut estimator = Estimator::new(Instant::now());
    assert_eq!(estimator.unwrap_reference(0xff_ffff), 0xff_ffff);
    assert_eq!(estimator.unwrap_reference(1), 0x100_0001);
    assert_eq!(estimator.unwrap_reference(0xff_fffe), 0xff_fffe);
}
