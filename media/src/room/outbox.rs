//! Reliable data on its way to one participant: what its connection cannot take now, and what it took lately.
//!
//! Place in the flow: [`messages`](super::messages) pushes every reliable packet here and drains as much as the data channel takes. While
//! the connection is away nothing is drained. A client that resumes says what it has of each publisher (LiveKit's
//! `SyncState.datachannel_receive_states`); what it lacks is sent again with the publisher's numbers, by which the client knows duplicates.
//!
//! Rule: packets leave in the order in which they came; both bounds hold, and a packet that does not fit is refused to be counted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Packets kept for one participant. More would bridge longer absences of chatty rooms, at 40 bytes each beside their contents.
const PACKETS_MAX: usize = 1_024;
/// Bytes kept for one participant; a packet for many is stored once and counts for each.
const BYTES_MAX: usize = 1024 * 1024;
/// How long a packet that was handed over is kept for a resume: a lost connection is given up after about 15 s, and livekit-client
/// forgets a publisher's number after 30 s of silence.
const KEPT: Duration = Duration::from_secs(20);

/// The last reliable packet that a client has of a publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveState {
    /// `PA_...`.
    pub publisher_sid: String,
    /// `DataPacket.sequence`; 0: none.
    pub last_sequence: u32,
}

/// A reliable packet with what a resume needs to know of it.
#[derive(Debug, Clone)]
pub struct Reliable {
    /// `PA_...` of who sent it; empty for the server's own.
    pub publisher_sid: Arc<str>,
    /// The publisher's number; 0 for packets without one, which are never sent twice.
    pub sequence: u32,
    /// Encoded once for all receivers.
    pub bytes: Arc<[u8]>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox {
    packets: VecDeque<(Instant, Reliable)>,
    /// How many of them, from the front, were handed over.
    handed_over: usize,
    bytes: usize,
}

impl Outbox {
    /// Takes a packet; false when there is no place for it.
    pub fn push(&mut self, now: Instant, packet: Reliable) -> bool {
        while self.handed_over > 0 && !self.fits(&packet) {
            self.drop_front();
        }
        if !self.fits(&packet) {
            return false;
        }
        self.bytes += packet.bytes.len();
        self.packets.push_back((now, packet));
        true
    }

    fn fits(&self, packet: &Reliable) -> bool {
        self.packets.len() < PACKETS_MAX && self.bytes + packet.bytes.len() <= BYTES_MAX
    }

    fn drop_front(&mut self) {
        if let Some((_, packet)) = self.packets.pop_front() {
            self.bytes -= packet.bytes.len();
            self.handed_over = self.handed_over.saturating_sub(1);
        }
    }

    /// Hands over what waits, in order, until `send` takes no more; forgets what is too old or has no number to know it by.
    pub fn drain(&mut self, now: Instant, mut send: impl FnMut(&[u8]) -> bool) {
        while let Some((at, packet)) = self.packets.get_mut(self.handed_over)
            && send(&packet.bytes)
        {
            *at = now;
            self.handed_over += 1;
        }
        let past = |(at, packet): &(Instant, Reliable)| packet.sequence == 0 || now.saturating_duration_since(*at) >= KEPT;
        while self.handed_over > 0 && self.packets.front().is_some_and(past) {
            self.drop_front();
        }
    }

    /// Nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Packets that were not handed over yet.
    pub fn waiting(&self) -> usize {
        self.packets.len() - self.handed_over
    }

    /// A client that resumes says what it has: the rest waits anew. Of publishers that it does not name it has what was handed over.
    pub fn rewind(&mut self, states: &[ReceiveState]) {
        let handed_over = std::mem::take(&mut self.handed_over);
        let last: BTreeMap<&str, u32> = states.iter().map(|state| (state.publisher_sid.as_str(), state.last_sequence)).collect();
        let has = |index: usize, packet: &Reliable| match last.get(&*packet.publisher_sid) {
            Some(last) if packet.sequence > 0 => packet.sequence <= *last,
            _ => index < handed_over,
        };
        let packets = std::mem::take(&mut self.packets);
        self.packets = packets.into_iter().enumerate().filter(|(index, (_, packet))| !has(*index, packet)).map(|(_, kept)| kept).collect();
        self.bytes = self.packets.iter().map(|(_, packet)| packet.bytes.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(publisher: &str, sequence: u32, bytes: usize) -> Reliable {
        Reliable { publisher_sid: publisher.into(), sequence, bytes: vec![sequence as u8; bytes].into() }
    }

    fn state(publisher: &str, last_sequence: u32) -> ReceiveState {
        ReceiveState { publisher_sid: publisher.into(), last_sequence }
    }

    fn drained(outbox: &mut Outbox, now: Instant, places: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        outbox.drain(now, |bytes| {
            let taken = sent.len() < places;
            if taken {
                sent.push(bytes[0]);
            }
            taken
        });
        sent
    }

    #[test]
    fn what_is_not_taken_waits_in_order() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        for sequence in 1..=5 {
            assert!(outbox.push(now, packet("PA_a", sequence, 10)));
        }
        assert_eq!(drained(&mut outbox, now, 2), [1, 2]);
        assert_eq!(outbox.waiting(), 3);
        assert!(outbox.push(now, packet("PA_a", 6, 10)));
        assert_eq!(drained(&mut outbox, now, 9), [3, 4, 5, 6]);
    }

    #[test]
    fn a_resume_gets_again_what_it_lacks_and_nothing_that_it_has() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        for sequence in 1..=3 {
            outbox.push(now, packet("PA_a", sequence, 10));
            outbox.push(now, packet("PA_b", 10 + sequence, 10));
        }
        outbox.push(now, packet("", 0, 10));
        drained(&mut outbox, now, 7);
        outbox.push(now, packet("PA_b", 14, 10));
        outbox.push(now, packet("PA_c", 31, 10));
        outbox.rewind(&[state("PA_a", 1), state("PA_c", 31)]);
        assert_eq!(drained(&mut outbox, now, 9), [2, 3, 14]);
        outbox.rewind(&[state("PA_a", 3), state("PA_b", 14)]);
        assert!(drained(&mut outbox, now, 9).is_empty());
    }

    #[test]
    fn both_bounds_hold_for_what_waits_and_what_was_sent_makes_place() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        let taken = (1..=2_000).filter(|sequence| outbox.push(now, packet("PA_a", *sequence, 10))).count();
        assert_eq!(taken, PACKETS_MAX);
        drained(&mut outbox, now, 1);
        assert!(outbox.push(now, packet("PA_a", 2_001, 10)), "what was sent makes place");
        assert!(!outbox.push(now, packet("PA_a", 2_002, 10)));
        let mut outbox = Outbox::default();
        let taken = (1..=20).filter(|sequence| outbox.push(now, packet("PA_a", *sequence, 100_000))).count();
        assert_eq!(taken, BYTES_MAX / 100_000);
    }

    #[test]
    fn what_was_sent_is_forgotten_in_time() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        outbox.push(now, packet("PA_a", 1, 10));
        drained(&mut outbox, now, 9);
        drained(&mut outbox, now + KEPT, 9);
        outbox.rewind(&[state("PA_a", 0)]);
        assert_eq!(outbox.waiting(), 0);
        assert_eq!(outbox.bytes, 0);
    }
}
