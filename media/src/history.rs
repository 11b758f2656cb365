//! The packets of one publication layer that can still be sent again: one ring, shared by all its subscribers.
//!
//! A subscriber's NACK is mapped to the layer's own sequence numbers (see [`crate::forward`]) and looked up here.
//! Rule: bounded in packets and in age; pushing does constant work.

use std::time::{Duration, Instant};

use crate::packet::{MediaKind, RtpPacket};

/// How long a packet is kept. Longer: retransmissions on long round trips succeed, memory grows (2.5 Mbit/s x 2 s = 625 kB).
/// Shorter: a lossy path of 300 ms round trip loses its second attempt.
pub const MAX_AGE: Duration = Duration::from_secs(2);

/// Packets kept of an audio layer: 2 s at 20 ms, with room for 10 ms packets.
const AUDIO_PACKETS: usize = 256;
/// Packets kept of a video layer: 2 s of 4 Mbit/s in 1,200-byte packets.
const VIDEO_PACKETS: usize = 1024;

/// A bounded ring of sent packets, addressed by the layer's extended sequence number.
#[derive(Debug)]
pub struct History {
    slots: Vec<Option<RtpPacket>>,
    capacity: usize,
    /// Oldest sequence number that may still be held.
    oldest: u64,
    /// One past the highest sequence number held.
    next: u64,
}

impl History {
    /// An empty history sized for `kind`.
    pub fn new(kind: MediaKind) -> History {
        let capacity = match kind {
            MediaKind::Audio => AUDIO_PACKETS,
            MediaKind::Video => VIDEO_PACKETS,
        };
        History { slots: Vec::new(), capacity, oldest: 0, next: 0 }
    }

    /// Keeps a packet. One that is older than everything the ring can hold is not kept.
    pub fn push(&mut self, packet: &RtpPacket) {
        let capacity = self.capacity as u64;
        if self.slots.is_empty() {
            // Allocated with the first packet: a publication that never starts costs nothing.
            self.slots.resize_with(self.capacity, || None);
            self.oldest = packet.seq;
            self.next = packet.seq;
        }
        if packet.seq >= self.next {
            let first_kept = (packet.seq + 1).saturating_sub(capacity);
            if first_kept >= self.next {
                self.slots.fill_with(|| None);
                self.oldest = packet.seq;
            } else {
                // Slots skipped by a loss hold packets of the previous lap.
                for seq in self.next..packet.seq {
                    let slot = self.slot(seq);
                    self.slots[slot] = None;
                }
                self.oldest = self.oldest.max(first_kept);
            }
            self.next = packet.seq + 1;
        } else if packet.seq + capacity < self.next {
            return;
        } else {
            self.oldest = self.oldest.min(packet.seq);
        }
        let slot = self.slot(packet.seq);
        self.slots[slot] = Some(packet.clone());
        self.forget(packet.arrival);
    }

    /// The packet with this sequence number, if it is still held.
    pub fn get(&self, seq: u64) -> Option<&RtpPacket> {
        if seq < self.oldest || seq >= self.next {
            return None;
        }
        self.slots.get(self.slot(seq))?.as_ref().filter(|p| p.seq == seq)
    }

    /// Forgets packets older than [`MAX_AGE`], at most four per call: faster than they are pushed.
    fn forget(&mut self, now: Instant) {
        for _ in 0..4 {
            if self.oldest + 1 >= self.next {
                return;
            }
            let slot = self.slot(self.oldest);
            if let Some(packet) = &self.slots[slot]
                && packet.seq == self.oldest
            {
                if now.saturating_duration_since(packet.arrival) <= MAX_AGE {
                    return;
                }
                self.slots[slot] = None;
            }
            self.oldest += 1;
        }
    }

    fn slot(&self, seq: u64) -> usize {
        (seq % self.capacity as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Codec, Extensions};
    use proptest::prelude::*;

    fn packet(seq: u64, arrival: Instant) -> RtpPacket {
        RtpPacket {
            arrival,
            codec: Codec::Vp8,
            seq,
            timestamp: 0,
            marker: false,
            ext: Extensions::default(),
            payload: seq.to_be_bytes().as_slice().into(),
        }
    }

    #[test]
    fn packets_older_than_the_limit_are_forgotten() {
        let start = Instant::now();
        let mut history = History::new(MediaKind::Video);
        for seq in 0..10 {
            history.push(&packet(seq, start));
        }
        assert!(history.get(3).is_some());
        for seq in 10..20 {
            history.push(&packet(seq, start + MAX_AGE + Duration::from_millis(1)));
        }
        assert!(history.get(9).is_none());
        assert!(history.get(19).is_some());
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_was_pushed(seqs in proptest::collection::vec(0u64..3000, 1..400)) {
            let now = Instant::now();
            let mut history = History::new(MediaKind::Audio);
            let mut pushed = std::collections::BTreeSet::new();
            let mut highest = 0;
            for seq in seqs {
                history.push(&packet(seq, now));
                pushed.insert(seq);
                highest = highest.max(seq);
                prop_assert_eq!(history.get(highest).unwrap().seq, highest);
            }
            for seq in 0..3000 {
                if let Some(found) = history.get(seq) {
                    prop_assert!(pushed.contains(&seq));
                    prop_assert_eq!(&found.payload[..], &seq.to_be_bytes()[..]);
                }
            }
        }
    }
}
