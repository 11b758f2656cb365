//! Connection quality of a participant from what was lost on its way here and on the way to it.
//!
//! LiveKit's meaning: excellent, good, poor, lost. The score is a mean opinion score by ITU-T G.107's shape: loss impairs, with
//! what concealment makes up for taken off, and a long round trip impairs.

use std::time::Duration;

use auralink_proto::livekit::ConnectionQuality;

/// Loss at which half of the impairment is reached: Opus with FEC and video with retransmission bear this much.
const LOSS_ROBUSTNESS: f32 = 0.10;

/// What is known of a participant's connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// A connection that should be up is not.
    pub lost: bool,
    /// The greater of the losses up and down, 0 to 1.
    pub loss: f32,
    /// Round trip, if known.
    pub rtt: Option<Duration>,
}

/// LiveKit's quality and a score of 0 (lost), 1 to 5.
pub fn rate(observation: &Observation) -> (ConnectionQuality, f32) {
    if observation.lost {
        return (ConnectionQuality::Lost, 0.0);
    }
    let loss = observation.loss.clamp(0.0, 1.0);
    let one_way_ms = observation.rtt.map_or(0.0, |rtt| rtt.as_secs_f32() * 500.0);
    // G.107 Annex B: delay impairs mildly below 177 ms one way, strongly above.
    let delay_impairment = 0.024 * one_way_ms + if one_way_ms > 177.3 { 0.11 * (one_way_ms - 177.3) } else { 0.0 };
    let loss_impairment = 95.0 * loss / (loss + LOSS_ROBUSTNESS);
    let r = (93.2 - delay_impairment - loss_impairment).clamp(0.0, 100.0);
    let score = (1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6).clamp(1.0, 5.0);
    let quality = if score >= 4.0 {
        ConnectionQuality::Excellent
    } else if score >= 3.0 {
        ConnectionQuality::Good
    } else {
        ConnectionQuality::Poor
    };
    (quality, score)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quality(loss: f32, rtt_ms: u64) -> ConnectionQuality {
        rate(&Observation { lost: false, loss, rtt: Some(Duration::from_millis(rtt_ms)) }).0
    }

    #[test]
    fn loss_and_delay_lower_the_quality() {
        assert_eq!(quality(0.0, 40), ConnectionQuality::Excellent);
        assert_eq!(quality(0.03, 40), ConnectionQuality::Good);
        assert_eq!(quality(0.10, 40), ConnectionQuality::Poor);
        assert_eq!(quality(0.0, 900), ConnectionQuality::Poor);
        assert_eq!(rate(&Observation { lost: true, loss: 0.0, rtt: None }), (ConnectionQuality::Lost, 0.0));
    }
}
