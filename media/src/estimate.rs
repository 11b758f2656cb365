//! What the peer's downlink takes: transport-wide feedback (or, where the peer gives none, receiver reports) in, a rate out.
//!
//! Flow: the send path tells of every packet, feedback of every arrival; [`trend`] watches whether a queue grows, [`rate`]
//! turns that and loss into a target. After "A Google Congestion Control Algorithm for Real-Time Communication"
//! (draft-ietf-rmcat-gcc-02), without probing: the target may run ahead of what is sent by a bounded factor, so that the
//! allocator's next layer is the probe.
//!
//! Rule: no timers of its own but the end of "congested"; everything else rides on packets and feedback.

mod rate;
mod trend;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::rate::RateControl;
use self::trend::{Trend, Usage};
use crate::egress::feedback::TransportFeedback;

/// Packets that feedback may still come for. At 10 Mbps and 1,200 bytes this is eight seconds.
const HISTORY: usize = 8192;
/// Rates are measured over this long: shorter is nervous, longer hides a drop.
const RATE_WINDOW: Duration = Duration::from_millis(500);
/// Loss is judged over so many packets at least, or over this long and a few of them: of fewer, chance alone makes a tenth.
const LOSS_PACKETS: u32 = 100;
const LOSS_INTERVAL: Duration = Duration::from_secs(1);
const LOSS_PACKETS_LEAST: u32 = 20;
/// No feedback for this long while packets go out: the way there or back is blocked.
const FEEDBACK_STARVED: Duration = Duration::from_secs(1);
/// As long as it stays so, the rate falls again after this long.
const STARVED_AGAIN: Duration = Duration::from_millis(250);
/// Fewer packets than this may stay without feedback: a peer need not answer a single one at once.
const STARVED_PACKETS: u32 = 20;
/// A change below this is not worth an event, in percent.
const NOTICEABLE_PERCENT: u64 = 5;

/// An estimate that changed noticeably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Bits per second.
    pub bps: u64,
    /// Congested now: lower at once.
    pub congested: bool,
}

#[derive(Debug, Clone, Copy)]
struct SentPacket {
    at: Instant,
    bytes: u32,
    arrived: bool,
}

/// The estimator of one connection.
#[derive(Debug)]
pub struct Estimator {
    history: VecDeque<SentPacket>,
    /// Transport-wide sequence number of the history's first packet.
    first: u64,
    transport_feedback: bool,
    /// The peer has sent transport-wide feedback at least once: that it negotiated it does not yet mean that it does.
    feedback_seen: bool,
    trend: Trend,
    control: RateControl,
    sent: RateWindow,
    arrived: RateWindow,
    /// Received and lost since loss was last judged.
    received: u32,
    lost: u32,
    loss_since: Instant,
    /// Unwrapped reference time of the newest feedback, in 64 ms.
    reference: Option<i64>,
    /// The first packet after the newest feedback, and how many went out since.
    unanswered: Option<(Instant, u32)>,
    round_trip: Duration,
    announced: Option<Estimate>,
}

impl Estimator {
    /// An estimator that has seen nothing.
    pub fn new(now: Instant) -> Estimator {
        Estimator {
            history: VecDeque::new(),
            first: 0,
            transport_feedback: false,
            feedback_seen: false,
            trend: Trend::default(),
            control: RateControl::new(now),
            sent: RateWindow::default(),
            arrived: RateWindow::default(),
            received: 0,
            lost: 0,
            loss_since: now,
            reference: None,
            unanswered: None,
            round_trip: Duration::from_millis(100),
            announced: None,
        }
    }

    /// Whether any section negotiated transport-wide feedback. Without it receiver reports count.
    pub fn set_transport_feedback(&mut self, on: bool) {
        self.transport_feedback = on;
        self.feedback_seen &= on;
    }

    /// A packet went out. `sequence` is its transport-wide number, unwrapped, where it has one.
    pub fn on_sent(&mut self, now: Instant, sequence: Option<u64>, bytes: usize) {
        self.sent.add(now, bytes);
        let Some(sequence) = sequence else { return };
        if self.history.is_empty() || sequence != self.first + self.history.len() as u64 {
            // Nothing was sent for a while, or a number went by unseen: feedback of before says nothing now.
            self.history.clear();
            self.first = sequence;
        }
        if self.history.len() == HISTORY {
            self.history.pop_front();
            self.first += 1;
        }
        self.history.push_back(SentPacket { at: now, bytes: bytes as u32, arrived: false });
        let (since, packets) = self.unanswered.get_or_insert((now, 0));
        *packets += 1;
        if self.feedback_seen && now.saturating_duration_since(*since) > FEEDBACK_STARVED && *packets > STARVED_PACKETS {
            let again = now.checked_sub(FEEDBACK_STARVED - STARVED_AGAIN).unwrap_or(now);
            self.unanswered = Some((again, STARVED_PACKETS));
            self.control.on_starved(now, self.sent.bps(now));
        }
    }

    /// A report block of the peer's.
    pub fn on_report(&mut self, now: Instant, loss: f32, round_trip: Option<Duration>) {
        if let Some(round_trip) = round_trip {
            self.round_trip = (self.round_trip * 7 + round_trip) / 8;
        }
        if !(self.transport_feedback && self.feedback_seen) {
            self.control.on_loss(now, loss, self.sent.bps(now), self.round_trip);
            self.control.on_usage(now, Usage::Normal, self.sent.bps(now), self.round_trip);
        }
    }

    /// Transport-wide feedback; `extend` unwraps a sequence number.
    pub fn on_feedback(&mut self, now: Instant, feedback: &TransportFeedback<'_>, extend: impl Fn(u16) -> Option<u64>) {
        self.unanswered = None;
        self.feedback_seen = true;
        let base_us = self.unwrap_reference(feedback.reference) * 64_000;
        let mut usage = None;
        for (sequence, arrival) in feedback.statuses() {
            let Some(at) = extend(sequence).and_then(|sequence| sequence.checked_sub(self.first)) else {
                continue;
            };
            let Some(packet) = self.history.get_mut(at as usize) else {
                continue;
            };
            let Some(ticks) = arrival else {
                self.lost += u32::from(!packet.arrived);
                continue;
            };
            if std::mem::replace(&mut packet.arrived, true) {
                continue;
            }
            self.received += 1;
            let packet = *packet;
            self.arrived.add(now, packet.bytes as usize);
            usage = self.trend.on_packet(packet.at, base_us + ticks * 250).or(usage);
        }
        let arrived_bps = self.arrived.bps(now);
        let judged = self.received + self.lost;
        let waited = now.saturating_duration_since(self.loss_since) >= LOSS_INTERVAL;
        if judged >= LOSS_PACKETS || waited && judged >= LOSS_PACKETS_LEAST {
            let loss = self.lost as f32 / judged as f32;
            (self.received, self.lost, self.loss_since) = (0, 0, now);
            self.control.on_loss(now, loss, self.sent.bps(now).min(arrived_bps.max(1)), self.round_trip);
        }
        let usage = usage.unwrap_or_else(|| self.trend.usage());
        self.control.on_usage(now, usage, arrived_bps, self.round_trip);
    }

    /// The estimate, when it changed noticeably since the last call that answered.
    pub fn poll(&mut self, now: Instant) -> Option<Estimate> {
        let estimate = Estimate { bps: self.control.target_bps(), congested: self.control.is_congested(now) };
        let noticeable = self.announced.is_none_or(|last| {
            last.congested != estimate.congested || last.bps.abs_diff(estimate.bps) * 100 > last.bps * NOTICEABLE_PERCENT
        });
        noticeable.then(|| {
            self.announced = Some(estimate);
            estimate
        })
    }

    /// When [`Estimator::poll`] may answer without anything else happening.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.announced.filter(|last| last.congested).map(|_| self.control.congested_until())
    }

    /// Reference times have 24 bits and wrap after twelve days.
    fn unwrap_reference(&mut self, reference: u32) -> i64 {
        let value = match self.reference {
            None => i64::from(reference),
            Some(last) => {
                let step = (reference.wrapping_sub(last as u32) << 8) as i32 >> 8;
                last + i64::from(step)
            }
        };
        self.reference = Some(self.reference.map_or(value, |last| last.max(value)));
        value
    }
}

/// Bytes per time over [`RATE_WINDOW`], in slots of a tenth of it.
#[derive(Debug, Default)]
struct RateWindow {
    slots: VecDeque<(Instant, u64)>,
    total: u64,
}

impl RateWindow {
    fn add(&mut self, now: Instant, bytes: usize) {
        self.total += bytes as u64;
        match self.slots.back_mut() {
            Some((start, sum)) if now.saturating_duration_since(*start) < RATE_WINDOW / 10 => *sum += bytes as u64,
            _ => self.slots.push_back((now, bytes as u64)),
        }
        self.expire(now);
    }

    fn expire(&mut self, now: Instant) {
        while let Some((start, sum)) = self.slots.front()
            && now.saturating_duration_since(*start) > RATE_WINDOW
        {
            self.total -= sum;
            self.slots.pop_front();
        }
    }

    fn bps(&mut self, now: Instant) -> u64 {
        self.expire(now);
        self.total * 8 * 1000 / RATE_WINDOW.as_millis() as u64
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test drives the clock")]
mod tests;
