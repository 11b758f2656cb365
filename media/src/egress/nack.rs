//! Which requests for retransmission are heard. Some receivers ask again every 100 ms for as long as they remember a packet,
//! even after its retransmission arrived (pion does not tell its NACK generator of RTX), and a burst of requests for one
//! packet before its retransmission can have arrived would be answered with a burst.

use std::time::{Duration, Instant};

/// Requests of one sequence number that are answered. Five losses in a row on a link with 30 % loss are one in 400.
const MAX_ANSWERS: u8 = 5;
/// The shortest time between two answers: shorter than a video frame, longer than a loop turn.
const SHORTEST: Duration = Duration::from_millis(10);
/// Sequence numbers that are remembered, of the newest requests; a power of two.
const REMEMBERED: usize = 256;

#[derive(Debug, Clone, Copy)]
struct Asked {
    seq: u64,
    answers: u8,
    last: Instant,
}

/// The requests of one stream.
#[derive(Debug, Default)]
pub struct NackFilter {
    /// By the sequence number modulo [`REMEMBERED`]; empty until the first request.
    asked: Vec<Option<Asked>>,
}

impl NackFilter {
    /// Whether a request is to be answered: not within a round trip of the last answer, waiting twice as long each time, and
    /// not more than five times.
    pub fn accepts(&mut self, now: Instant, seq: u64, round_trip: Duration) -> bool {
        if self.asked.is_empty() {
            self.asked.resize(REMEMBERED, None);
        }
        let entry = &mut self.asked[seq as usize % REMEMBERED];
        match entry {
            Some(asked) if asked.seq == seq => {
                let wait = round_trip.max(SHORTEST) * (1 << (asked.answers - 1));
                if asked.answers >= MAX_ANSWERS || now < asked.last + wait {
                    return false;
                }
                asked.answers += 1;
                asked.last = now;
            }
            // An older packet gives way to a newer, not the other way round: who asks for both lost both.
            Some(asked) if asked.seq > seq => {}
            _ => *entry = Some(Asked { seq, answers: 1, last: now }),
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test drives the clock")]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_answered_five_times_and_ever_more_slowly() {
        let start = Instant::now();
        let mut filter = NackFilter::default();
        let round_trip = Duration::from_millis(50);
        let mut answered = vec![];
        for ms in (0..5000).step_by(10) {
            if filter.accepts(start + Duration::from_millis(ms), 7, round_trip) {
                answered.push(ms);
            }
        }
        assert_eq!(answered, [0, 50, 150, 350, 750]);
        assert!(filter.accepts(start, 8, round_trip), "another packet is another matter");
        assert!(filter.accepts(start, 7 + 256, round_trip) && filter.accepts(start, 7, round_trip));
    }
}
