//! The virtual network: latency, jitter (and so reordering), loss, duplicates, a bottleneck, all from one seed.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What the network does to datagrams.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    pub latency: Duration,
    /// Up to this much more, drawn for each datagram: later ones overtake earlier ones.
    pub jitter: Duration,
    pub loss: f64,
    pub duplicates: f64,
    /// Bits per second towards each client; more waits, and is dropped when it would wait too long.
    pub bottleneck_bps: Option<u64>,
}

impl Conditions {
    pub const PERFECT: Conditions =
        Conditions { latency: Duration::from_millis(10), jitter: Duration::ZERO, loss: 0.0, duplicates: 0.0, bottleneck_bps: None };
}

/// What is under way.
#[derive(Debug)]
pub enum Cargo<C, E> {
    Datagram {
        source: SocketAddr,
        destination: SocketAddr,
        bytes: Vec<u8>,
    },
    /// Signaling from the control plane to the shard: in order, never lost.
    Command(C),
    /// Signaling to the control plane and its clients.
    Event(E),
}

struct Flight<C, E> {
    at: Instant,
    order: u64,
    cargo: Cargo<C, E>,
}

impl<C, E> PartialEq for Flight<C, E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<C, E> Eq for Flight<C, E> {}
impl<C, E> PartialOrd for Flight<C, E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<C, E> Ord for Flight<C, E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// Everything under way, soonest first; equal times in the order they were sent.
pub struct Network<C, E> {
    pub conditions: Conditions,
    rng: fastrand::Rng,
    flights: BinaryHeap<Flight<C, E>>,
    sent: u64,
    /// When each destination's bottleneck is free again.
    busy: BTreeMap<SocketAddr, Instant>,
    server: SocketAddr,
}

const LONGEST_QUEUE: Duration = Duration::from_millis(300);
const SIGNALING_DELAY: Duration = Duration::from_millis(15);

impl<C, E> Network<C, E> {
    pub fn new(seed: u64, conditions: Conditions, server: SocketAddr) -> Network<C, E> {
        Network { conditions, rng: fastrand::Rng::with_seed(seed), flights: BinaryHeap::new(), sent: 0, busy: BTreeMap::new(), server }
    }

    pub fn datagram(&mut self, now: Instant, source: SocketAddr, destination: SocketAddr, bytes: &[u8]) {
        let conditions = self.conditions;
        // Always the same draws, so that one datagram's fate does not change another's.
        let (loss, duplicate, jitter) = (self.rng.f64(), self.rng.f64(), self.rng.f64());
        if loss < conditions.loss {
            return;
        }
        let mut at = now + conditions.latency + conditions.jitter.mul_f64(jitter);
        if let Some(bps) = conditions.bottleneck_bps.filter(|_| destination != self.server) {
            let free = self.busy.entry(destination).or_insert(now);
            let start = (*free).max(now);
            if start - now > LONGEST_QUEUE {
                return;
            }
            *free = start + Duration::from_nanos(bytes.len() as u64 * 8 * 1_000_000_000 / bps);
            at += *free - now;
        }
        if duplicate < conditions.duplicates {
            self.fly(at + Duration::from_millis(3), Cargo::Datagram { source, destination, bytes: bytes.to_vec() });
        }
        self.fly(at, Cargo::Datagram { source, destination, bytes: bytes.to_vec() });
    }

    pub fn command(&mut self, now: Instant, command: C) {
        self.fly(now + SIGNALING_DELAY, Cargo::Command(command));
    }

    pub fn event(&mut self, now: Instant, event: E) {
        self.fly(now + SIGNALING_DELAY, Cargo::Event(event));
    }

    fn fly(&mut self, at: Instant, cargo: Cargo<C, E>) {
        self.sent += 1;
        self.flights.push(Flight { at, order: self.sent, cargo });
    }

    pub fn next_at(&self) -> Option<Instant> {
        self.flights.peek().map(|f| f.at)
    }

    pub fn arrived(&mut self, now: Instant) -> Option<Cargo<C, E>> {
        if self.flights.peek()?.at > now {
            return None;
        }
        self.flights.pop().map(|f| f.cargo)
    }
}
