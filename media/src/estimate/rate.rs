//! The target rate: multiplicative decrease on a growing queue or on loss, careful increase otherwise
//! (draft-ietf-rmcat-gcc-02 sections 5.5 and 6).

use std::time::{Duration, Instant};

use super::trend::Usage;

/// Assumed before anything is known: the middle layer of one camera and some audio.
const START_BPS: u64 = 2_000_000;
/// Audio must go on: the target never falls below.
const MIN_BPS: u64 = 64_000;
/// Higher than any sensible downlink of a room; bounds the arithmetic.
const MAX_BPS: u64 = 50_000_000;
/// What is left of the measured rate when the queue grows. Below 1, so that the queue drains.
const DECREASE: f64 = 0.85;
/// One decrease takes at most this share, whatever is measured: where little is sent, one late packet must not stop the video
/// for many seconds; a real drop repeats itself every round trip and still gets down within about a second.
const MAX_STEP_DELAY: f64 = 0.3;
/// The same for loss, which is judged over many packets, and for silence.
const MAX_STEP_LOSS: f64 = 0.5;
/// Above this loss the rate falls, below the other it may rise (draft section 6).
const LOSS_HIGH: f32 = 0.10;
const LOSS_LOW: f32 = 0.02;
/// Growth per second while the link's capacity is unknown, and when it is known but far.
const GROWTH_UNKNOWN: f64 = 0.25;
const GROWTH_KNOWN: f64 = 0.08;
/// The target may exceed what arrives by this factor and this much: enough for the next simulcast layer, which has three to
/// four times the rate, not for two layers at once.
const AHEAD_FACTOR: u64 = 4;
const AHEAD_BPS: u64 = 500_000;
/// Nothing rises for this long after a decrease.
const HOLD: Duration = Duration::from_millis(500);
/// "Congested" is said for this long after a decrease.
const CONGESTED: Duration = Duration::from_secs(1);
/// After a decrease the target stays at what was measured for this long before the capacity counts as unknown again;
/// doubled each time that trying more fails, up to the other.
const RETRY: Duration = Duration::from_secs(10);
const MAX_RETRY: Duration = Duration::from_secs(60);

/// The controller.
#[derive(Debug)]
pub(super) struct RateControl {
    target: f64,
    /// What arrived when the queue last grew.
    capacity: Option<f64>,
    retry: Duration,
    last_update: Instant,
    last_decrease: Option<Instant>,
    /// Loss of the last judgement.
    loss: f32,
}

impl RateControl {
    pub(super) fn new(now: Instant) -> RateControl {
        RateControl { target: START_BPS as f64, capacity: None, retry: RETRY, last_update: now, last_decrease: None, loss: 0.0 }
    }

    pub(super) fn target_bps(&self) -> u64 {
        self.target as u64
    }

    pub(super) fn is_congested(&self, now: Instant) -> bool {
        self.last_decrease.is_some_and(|at| now < at + CONGESTED)
    }

    pub(super) fn congested_until(&self) -> Instant {
        self.last_decrease.map_or(self.last_update, |at| at + CONGESTED)
    }

    /// What the delay says; `measured_bps` is what arrives.
    pub(super) fn on_usage(&mut self, now: Instant, usage: Usage, measured_bps: u64, round_trip: Duration) {
        let elapsed = now.saturating_duration_since(self.last_update).as_secs_f64().min(1.0);
        self.last_update = now;
        match usage {
            Usage::Over => {
                let to = self.step(MAX_STEP_DELAY, DECREASE, measured_bps);
                self.decrease(now, to, measured_bps, round_trip);
            }
            // The queue drains: what arrives now is no measure.
            Usage::Under => {}
            Usage::Normal => self.increase(now, elapsed, measured_bps, round_trip),
        }
    }

    /// A share of packets was lost; `measured_bps` is what was sent or arrived.
    pub(super) fn on_loss(&mut self, now: Instant, loss: f32, measured_bps: u64, round_trip: Duration) {
        self.loss = loss;
        if loss > LOSS_HIGH {
            let kept = 1.0 - 0.5 * f64::from(loss);
            let to = self.step(MAX_STEP_LOSS, kept, measured_bps);
            self.decrease(now, to, measured_bps, round_trip);
        }
    }

    /// No feedback at all while packets go out.
    pub(super) fn on_starved(&mut self, now: Instant, sent_bps: u64) {
        let to = self.step(MAX_STEP_LOSS, 0.5, sent_bps);
        self.decrease(now, to, sent_bps, Duration::ZERO);
    }

    /// A share of what is measured or was allowed, whichever is less, but one step down takes `max_step` at most.
    fn step(&self, max_step: f64, share: f64, measured_bps: u64) -> f64 {
        let wished = share * self.target.min(measured_bps as f64);
        wished.max(self.target * (1.0 - max_step)).max(MIN_BPS as f64)
    }

    fn decrease(&mut self, now: Instant, to: f64, measured_bps: u64, round_trip: Duration) {
        // One decrease must be given time to show: its effect is seen a round trip and a feedback interval later.
        let pause = round_trip + Duration::from_millis(100);
        if self.last_decrease.is_some_and(|at| now < at + pause) || to >= self.target {
            return;
        }
        let tried_again = self.capacity.is_none() && self.last_decrease.is_some();
        self.retry = if tried_again { (self.retry * 2).min(MAX_RETRY) } else { self.retry };
        self.capacity = Some((measured_bps as f64).max(to));
        self.target = to;
        self.last_decrease = Some(now);
    }

    fn increase(&mut self, now: Instant, elapsed: f64, measured_bps: u64, round_trip: Duration) {
        if self.last_decrease.is_some_and(|at| now < at + HOLD) || self.loss > LOSS_LOW {
            return;
        }
        if self.last_decrease.is_some_and(|at| now >= at + self.retry) {
            self.capacity = None;
        }
        let measured = measured_bps as f64;
        let grown = match self.capacity {
            None => self.target * (1.0 + GROWTH_UNKNOWN * elapsed),
            Some(capacity) if self.target < 0.9 * capacity => self.target * (1.0 + GROWTH_KNOWN * elapsed),
            Some(capacity) => {
                // Near what the link took last: a packet per response time, and not beyond without proof that it arrives.
                let response = round_trip.as_secs_f64() + 0.1;
                (self.target + 1200.0 * 8.0 / response * elapsed).min(1.1 * capacity.max(measured))
            }
        };
        let ahead = (measured_bps * AHEAD_FACTOR + AHEAD_BPS) as f64;
        self.target = grown.min(ahead.max(self.target)).min(MAX_BPS as f64).max(self.target);
    }
}
