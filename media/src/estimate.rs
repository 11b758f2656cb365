//! What the peer's downlink takes.
use std::time::{Duration, Instant};

use crate::egress::feedback::TransportFeedback;

/// An estimate that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Bits per second.
    pub bps: u64,
    /// Congested now.
    pub congested: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Estimator {}

#[allow(unused_variables)]
impl Estimator {
    /// Starts.
    pub fn new(now: Instant) -> Estimator {
        Estimator {}
    }
    /// Negotiated.
    pub fn set_transport_feedback(&mut self, on: bool) {}
    /// Sent.
    pub fn on_sent(&mut self, now: Instant, sequence: Option<u64>, bytes: usize) {}
    /// Report.
    pub fn on_report(&mut self, now: Instant, loss: f32, rtt: Option<Duration>) {}
    /// Feedback.
    pub fn on_feedback(&mut self, now: Instant, feedback: &TransportFeedback<'_>, extend: impl Fn(u16) -> Option<u64>) {}
    /// Poll.
    pub fn poll(&mut self, now: Instant) -> Option<Estimate> {
        None
    }
    /// Deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }
}
