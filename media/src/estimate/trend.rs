//! Does a queue grow on the way? The trend line over delay variations of packet groups, with an adaptive threshold
//! (draft-ietf-rmcat-gcc-02 sections 5.2 to 5.4; line fitting and constants as in libwebrtc's TrendlineEstimator).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Packets that were sent within this time are one group: a frame, a burst of the loop turn.
const GROUP: Duration = Duration::from_millis(5);
/// Groups in the line.
const WINDOW: usize = 20;
/// Weight of the past in the smoothed delay.
const SMOOTHING: f64 = 0.9;
/// Scales the slope to the threshold.
const GAIN: f64 = 4.0;
/// The slope counts more with more groups, up to so many.
const MAX_WEIGHT: u32 = 60;
/// Threshold at the start and its bounds, in ms.
const THRESHOLD: f64 = 12.5;
const THRESHOLD_BOUNDS: (f64, f64) = (6.0, 600.0);
/// How fast the threshold follows downwards and upwards, per ms. Upwards is slower, or a growing queue would be learned.
const THRESHOLD_DOWN: f64 = 0.039;
const THRESHOLD_UP: f64 = 0.0087;
/// A value so far above the threshold is an outlier (a Wi-Fi scan), not a new normal.
const OUTLIER: f64 = 15.0;
/// Overuse must last so long, in ms.
const OVERUSE_TIME: f64 = 10.0;
/// Silence after which old groups say nothing any more.
const RESET: Duration = Duration::from_secs(3);

/// What the queue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    /// Level.
    Normal,
    /// Grows.
    Over,
    /// Shrinks.
    Under,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    first_sent: Instant,
    last_sent: Instant,
    last_arrival_us: i64,
}

/// The detector.
#[derive(Debug)]
pub(super) struct Trend {
    current: Option<Group>,
    previous: Option<Group>,
    line: VecDeque<(f64, f64)>,
    origin_us: i64,
    groups: u32,
    accumulated_ms: f64,
    smoothed_ms: f64,
    threshold: f64,
    previous_slope: f64,
    over_for_ms: f64,
    over_count: u32,
    usage: Usage,
}

impl Default for Trend {
    fn default() -> Trend {
        Trend {
            current: None,
            previous: None,
            line: VecDeque::with_capacity(WINDOW + 1),
            origin_us: 0,
            groups: 0,
            accumulated_ms: 0.0,
            smoothed_ms: 0.0,
            threshold: THRESHOLD,
            previous_slope: 0.0,
            over_for_ms: 0.0,
            over_count: 0,
            usage: Usage::Normal,
        }
    }
}

impl Trend {
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// A packet's sending and arrival time, in sending order. Answers the state when a group was completed.
    pub(super) fn on_packet(&mut self, sent: Instant, arrival_us: i64) -> Option<Usage> {
        let Some(current) = self.current.as_mut() else {
            self.current = Some(Group { first_sent: sent, last_sent: sent, last_arrival_us: arrival_us });
            return None;
        };
        if sent < current.first_sent {
            return None;
        }
        if sent.saturating_duration_since(current.last_sent) > RESET {
            let threshold = self.threshold;
            *self = Trend { threshold, ..Trend::default() };
            self.current = Some(Group { first_sent: sent, last_sent: sent, last_arrival_us: arrival_us });
            return Some(Usage::Normal);
        }
        if sent.saturating_duration_since(current.first_sent) <= GROUP {
            current.last_sent = current.last_sent.max(sent);
            current.last_arrival_us = current.last_arrival_us.max(arrival_us);
            return None;
        }
        let complete = *current;
        *current = Group { first_sent: sent, last_sent: sent, last_arrival_us: arrival_us };
        let before = self.previous.replace(complete)?;
        let sent_ms = complete.last_sent.saturating_duration_since(before.last_sent).as_secs_f64() * 1000.0;
        let arrival_ms = (complete.last_arrival_us - before.last_arrival_us) as f64 / 1000.0;
        self.on_group(sent_ms, arrival_ms, complete.last_arrival_us);
        Some(self.usage)
    }

    fn on_group(&mut self, sent_ms: f64, arrival_ms: f64, arrival_us: i64) {
        if self.groups == 0 {
            self.origin_us = arrival_us;
        }
        self.groups = self.groups.saturating_add(1);
        self.accumulated_ms += arrival_ms - sent_ms;
        self.smoothed_ms = SMOOTHING * self.smoothed_ms + (1.0 - SMOOTHING) * self.accumulated_ms;
        let at_ms = (arrival_us - self.origin_us) as f64 / 1000.0;
        self.line.push_back((at_ms, self.smoothed_ms));
        if self.line.len() > WINDOW {
            self.line.pop_front();
        }
        let slope = if self.line.len() == WINDOW { slope(&self.line) } else { None };
        if let Some(slope) = slope {
            self.detect(slope, sent_ms);
        }
    }

    fn detect(&mut self, slope: f64, sent_ms: f64) {
        let trend = f64::from(self.groups.min(MAX_WEIGHT)) * slope * GAIN;
        if trend > self.threshold {
            self.over_for_ms += if self.over_count == 0 { sent_ms / 2.0 } else { sent_ms };
            self.over_count += 1;
            if self.over_for_ms > OVERUSE_TIME && self.over_count > 1 && slope >= self.previous_slope {
                self.over_for_ms = 0.0;
                self.over_count = 0;
                self.usage = Usage::Over;
            }
        } else {
            self.over_for_ms = 0.0;
            self.over_count = 0;
            self.usage = if trend < -self.threshold { Usage::Under } else { Usage::Normal };
        }
        self.previous_slope = slope;
        self.adapt(trend.abs(), sent_ms);
    }

    fn adapt(&mut self, trend: f64, elapsed_ms: f64) {
        if trend > self.threshold + OUTLIER {
            return;
        }
        let speed = if trend < self.threshold { THRESHOLD_DOWN } else { THRESHOLD_UP };
        self.threshold += speed * (trend - self.threshold) * elapsed_ms.min(100.0);
        self.threshold = self.threshold.clamp(THRESHOLD_BOUNDS.0, THRESHOLD_BOUNDS.1);
    }
}

/// Least squares; None when all points lie at one time.
fn slope(points: &VecDeque<(f64, f64)>) -> Option<f64> {
    let count = points.len() as f64;
    let (x_sum, y_sum) = points.iter().fold((0.0, 0.0), |(x_sum, y_sum), (x, y)| (x_sum + x, y_sum + y));
    let (x_mean, y_mean) = (x_sum / count, y_sum / count);
    let (over, under) =
        points.iter().fold((0.0, 0.0), |(over, under), (x, y)| (over + (x - x_mean) * (y - y_mean), under + (x - x_mean) * (x - x_mean)));
    (under > 0.0).then(|| over / under)
}
