//! RTCP feedback about what we sent, read from an opened compound packet without allocating: receiver reports, NACK
//! (RFC 4585), PLI, FIR (RFC 5104) and transport-wide congestion control (draft-holmer-rmcat-transport-wide-cc-extensions-01).
//!
//! Rule: nothing here can panic or loop on any bytes; a packet that is cut short ends the compound.

/// One thing the peer says about our streams.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Feedback<'a> {
    /// A report block on one of our SSRCs.
    Report(ReportBlock),
    /// Lost packets: pairs of a sequence number and a bit mask of the following 16.
    Nack {
        /// Media SSRC.
        ssrc: u32,
        /// The list.
        entries: NackEntries<'a>,
    },
    /// Picture loss, or a full intra request.
    KeyFrame {
        /// Media SSRC.
        ssrc: u32,
    },
    /// Arrival times of packets by transport-wide sequence number.
    Transport(TransportFeedback<'a>),
}

/// A report block of an SR or RR, RFC 3550 section 6.4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportBlock {
    /// Which of our SSRCs.
    pub ssrc: u32,
    /// Fraction lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Extended highest sequence number received.
    pub highest: u32,
    /// Interarrival jitter in timestamp units.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time of our last sender report, 0 if none.
    pub last_report: u32,
    /// Delay since then in 1/65536 s.
    pub delay: u32,
}

/// The list of a generic NACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NackEntries<'a>(&'a [u8]);

impl NackEntries<'_> {
    /// The lost sequence numbers in the order of the list.
    pub fn sequences(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.chunks_exact(4).flat_map(|entry| {
            let first = u16::from_be_bytes([entry[0], entry[1]]);
            let mask = u16::from_be_bytes([entry[2], entry[3]]);
            std::iter::once(first).chain((0..16).filter(move |bit| mask & (1 << bit) != 0).map(move |bit| first.wrapping_add(bit + 1)))
        })
    }
}

/// A transport-wide feedback packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransportFeedback<'a> {
    /// First sequence number that is reported.
    pub base: u16,
    /// How many are reported.
    pub count: u16,
    /// In units of 64 ms, 24 bits, in the peer's own time.
    pub reference: u32,
    body: &'a [u8],
}

impl<'a> TransportFeedback<'a> {
    /// Sequence number and arrival of each reported packet: None is lost, else ticks of 250 us since the reference time.
    pub fn statuses(&self) -> Statuses<'a> {
        // Chunks come first and deltas after them; how many chunks there are follows from the count alone.
        let mut covered = 0usize;
        let mut chunks = 0usize;
        while covered < usize::from(self.count) {
            let Some(chunk) = self.body.get(chunks * 2..chunks * 2 + 2) else {
                break;
            };
            covered += chunk_len(u16::from_be_bytes([chunk[0], chunk[1]]));
            chunks += 1;
        }
        let (chunks, deltas) = self.body.split_at(chunks * 2);
        Statuses { chunks, deltas, sequence: self.base, left: self.count, chunk: 0, chunk_left: 0, time: 0 }
    }
}

/// How many packets a status chunk describes.
fn chunk_len(chunk: u16) -> usize {
    match (chunk >> 15, chunk >> 14 & 1) {
        (0, _) => usize::from(chunk & 0x1fff).max(1),
        (_, 0) => 14,
        _ => 7,
    }
}

/// Iterator of [`TransportFeedback::statuses`].
#[derive(Debug)]
pub struct Statuses<'a> {
    chunks: &'a [u8],
    deltas: &'a [u8],
    sequence: u16,
    left: u16,
    chunk: u16,
    chunk_left: usize,
    time: i64,
}

impl Iterator for Statuses<'_> {
    type Item = (u16, Option<i64>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        if self.chunk_left == 0 {
            let chunk = self.chunks.get(..2)?;
            self.chunk = u16::from_be_bytes([chunk[0], chunk[1]]);
            self.chunk_left = chunk_len(self.chunk);
            self.chunks = &self.chunks[2..];
        }
        let symbol = match (self.chunk >> 15, self.chunk >> 14 & 1) {
            (0, _) => self.chunk >> 13 & 3,
            (_, 0) => self.chunk >> (self.chunk_left - 1) & 1,
            _ => self.chunk >> (2 * (self.chunk_left - 1)) & 3,
        };
        self.chunk_left -= 1;
        self.left -= 1;
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        let delta = match symbol {
            1 => {
                let delta = *self.deltas.first()?;
                self.deltas = &self.deltas[1..];
                Some(i64::from(delta))
            }
            2 => {
                let delta = self.deltas.get(..2)?;
                let delta = i16::from_be_bytes([delta[0], delta[1]]);
                self.deltas = &self.deltas[2..];
                Some(i64::from(delta))
            }
            _ => None,
        };
        if let Some(delta) = delta {
            self.time += delta;
        }
        Some((sequence, delta.map(|_| self.time)))
    }
}

/// Walks an opened compound packet and gives `each` what it says about streams. The answer is whether it holds anything
/// that the receiving side needs too (sender reports, descriptions, extended reports, goodbyes, application feedback).
pub fn read(mut compound: &[u8], mut each: impl FnMut(Feedback<'_>)) -> bool {
    let mut for_receiver = false;
    while compound.len() >= 4 && compound[0] >> 6 == 2 {
        let len = (usize::from(u16::from_be_bytes([compound[2], compound[3]])) + 1) * 4;
        let Some(packet) = compound.get(..len) else {
            break;
        };
        compound = &compound[len..];
        let (count, kind) = (packet[0] & 0x1f, packet[1]);
        let padding = if packet[0] & 0x20 != 0 { usize::from(packet[len - 1]) } else { 0 };
        let Some(body) = packet.get(4..len.saturating_sub(padding)) else {
            continue;
        };
        match (kind, count) {
            (200, _) => {
                for_receiver = true;
                report_blocks(body.get(24..).unwrap_or_default(), &mut each);
            }
            (201, _) => report_blocks(body.get(4..).unwrap_or_default(), &mut each),
            (205, 1) => {
                if let (Some(ssrc), Some(entries)) = (word(body, 4), body.get(8..)) {
                    each(Feedback::Nack { ssrc, entries: NackEntries(entries) });
                }
            }
            (205, 15) => {
                if let (Some(head), Some(times), Some(body)) = (word(body, 8), word(body, 12), body.get(16..)) {
                    each(Feedback::Transport(TransportFeedback {
                        base: (head >> 16) as u16,
                        count: head as u16,
                        reference: times >> 8,
                        body,
                    }));
                }
            }
            (206, 1) => {
                if let Some(ssrc) = word(body, 4) {
                    each(Feedback::KeyFrame { ssrc });
                }
            }
            (206, 4) => {
                for entry in body.get(8..).unwrap_or_default().chunks_exact(8) {
                    if let Some(ssrc) = word(entry, 0) {
                        each(Feedback::KeyFrame { ssrc });
                    }
                }
            }
            // REMB: an estimate of ours stands on transport-wide feedback.
            (206, 15) if body.get(8..12) == Some(b"REMB") => {}
            _ => for_receiver = true,
        }
    }
    for_receiver
}

fn report_blocks(blocks: &[u8], each: &mut impl FnMut(Feedback<'_>)) {
    for block in blocks.chunks_exact(24) {
        let at = |offset| word(block, offset).expect("a block has 24 bytes");
        each(Feedback::Report(ReportBlock {
            ssrc: at(0),
            fraction_lost: block[4],
            highest: at(8),
            jitter: at(12),
            last_report: at(16),
            delay: at(20),
        }));
    }
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nack_names_first_and_mask() {
        let packet = [0x81, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xff, 0x80, 0x01];
        let mut seen = vec![];
        assert!(!read(&packet, |feedback| {
            if let Feedback::Nack { ssrc, entries } = feedback {
                seen.push((ssrc, entries.sequences().collect::<Vec<_>>()));
            }
        }));
        assert_eq!(seen, [(2, vec![65535, 0, 15])]);
    }

    #[test]
    fn transport_feedback_by_hand() {
        // base 10, 4 packets, reference 2; run of one "small", then a two-bit vector: lost, large, small.
        let packet = [
            0x8f,
            205,
            0,
            6,
            0,
            0,
            0,
            1,
            0,
            0,
            0,
            2,
            0,
            10,
            0,
            4,
            0,
            0,
            2,
            0, //
            0x20,
            0x01,
            0xc0 | 0b00_10_01,
            0,
            8,
            0xff,
            0xfc,
            4,
        ];
        let mut seen = vec![];
        read(&packet, |feedback| {
            if let Feedback::Transport(feedback) = feedback {
                assert_eq!(feedback.reference, 2);
                seen = feedback.statuses().collect();
            }
        });
        assert_eq!(seen, [(10, Some(8)), (11, None), (12, Some(4)), (13, Some(8))]);
    }

    #[test]
    fn a_report_is_read_from_a_sender_report_and_the_receiver_needs_it_too() {
        let mut packet = vec![0x81, 200, 0, 12];
        packet.extend([0; 24]);
        packet.extend([0, 0, 0, 9, 64, 0, 0, 1, 0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5]);
        let mut seen = vec![];
        assert!(read(&packet, |feedback| {
            if let Feedback::Report(block) = feedback {
                seen.push(block);
            }
        }));
        assert_eq!(seen, [ReportBlock { ssrc: 9, fraction_lost: 64, highest: 0x1_0002, jitter: 3, last_report: 4, delay: 5 }]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(kind in 200u8..=207, format in 0u8..32, mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let words = (bytes.len() / 4) as u16;
            let mut packet = vec![0x80 | format, kind];
            packet.extend(words.to_be_bytes());
            packet.append(&mut bytes);
            let mut statuses = 0;
            read(&packet, |feedback| match feedback {
                Feedback::Transport(feedback) => statuses += feedback.statuses().count(),
                Feedback::Nack { entries, .. } => statuses += entries.sequences().count(),
                _ => {}
            });
            prop_assert!(statuses <= 65_536);
        }
    }
}
