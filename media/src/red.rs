//! Redundant audio (RFC 2198): taken apart for those who did not negotiate it (subscribers and the tap).
//!
//! A RED packet carries its primary block and copies of earlier ones. [`RedUnpacker`] hands out each Opus packet once: the
//! primary, and an earlier one only when it was lost on the way. Rule: any bytes are taken, a malformed packet yields
//! nothing; nothing is handed out twice.

use std::sync::Arc;

use crate::packet::{Codec, RtpPacket};

/// Blocks that one packet may carry, the primary among them. LiveKit's clients send 2 or 3.
pub const MAX_BLOCKS: usize = 8;

/// One block of a RED packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedBlock<'a> {
    /// How much older than the packet's own timestamp it is, in clock units; 0 for the primary.
    pub timestamp_offset: u32,
    /// The codec's payload.
    pub data: &'a [u8],
}

/// Takes a RED payload apart: oldest block first, the primary last. `None` when it is malformed or has more than
/// [`MAX_BLOCKS`] blocks.
pub fn parse(payload: &[u8]) -> Option<Vec<RedBlock<'_>>> {
    let mut headers = Vec::with_capacity(3);
    let mut at = 0;
    loop {
        let &first = payload.get(at)?;
        if first & 0x80 == 0 {
            at += 1;
            break;
        }
        if headers.len() + 1 == MAX_BLOCKS {
            return None;
        }
        let &[_, a, b, c] = payload.get(at..at + 4)?.first_chunk::<4>()?;
        let offset = (u32::from(a) << 6) | (u32::from(b) >> 2);
        let len = (usize::from(b & 0x03) << 8) | usize::from(c);
        headers.push((offset, len));
        at += 4;
    }
    let mut blocks = Vec::with_capacity(headers.len() + 1);
    for (timestamp_offset, len) in headers {
        let data = payload.get(at..at + len)?;
        at += len;
        blocks.push(RedBlock { timestamp_offset, data });
    }
    blocks.push(RedBlock { timestamp_offset: 0, data: &payload[at..] });
    Some(blocks)
}

/// The primary block alone: what a retransmission to a subscriber without RED needs.
pub fn primary(payload: &[u8]) -> Option<&[u8]> {
    Some(parse(payload)?.last()?.data)
}

/// Turns a stream of RED packets into a stream of Opus packets, filling losses from the redundancy.
#[derive(Debug, Default, Clone)]
pub struct RedUnpacker {
    /// Highest sequence number handed out.
    highest: Option<u64>,
    /// Bit `i` set: `highest - i` was handed out.
    seen: u64,
}

impl RedUnpacker {
    /// Calls `out` for each Opus packet that `packet` brings and that was not handed out before, oldest first.
    /// A packet that is not RED passes as it is.
    pub fn unpack(&mut self, packet: &RtpPacket, mut out: impl FnMut(&RtpPacket)) {
        if packet.codec != Codec::Red {
            if self.take(packet.seq) {
                out(packet);
            }
            return;
        }
        let Some(blocks) = parse(&packet.payload) else { return };
        let redundant = blocks.len() - 1;
        for (index, block) in blocks.iter().enumerate() {
            let back = (redundant - index) as u64;
            // A redundant block is the packet `back` before this one; offset zero or an empty block means that there is none.
            if back > 0 && (block.timestamp_offset == 0 || block.data.is_empty() || self.highest.is_none()) {
                continue;
            }
            let Some(seq) = packet.seq.checked_sub(back) else { continue };
            if !self.take(seq) {
                continue;
            }
            let mut ext = packet.ext.clone();
            if back > 0 {
                ext.audio_level = None;
                ext.voice = None;
            }
            out(&RtpPacket {
                arrival: packet.arrival,
                codec: Codec::Opus,
                seq,
                timestamp: packet.timestamp.wrapping_sub(block.timestamp_offset),
                marker: packet.marker && back == 0,
                ext,
                payload: Arc::from(block.data),
            });
        }
    }

    /// Notes `seq` as handed out; false when it was already, or is too old to know.
    fn take(&mut self, seq: u64) -> bool {
        let Some(highest) = self.highest else {
            self.highest = Some(seq);
            self.seen = 1;
            return true;
        };
        if seq > highest {
            let step = seq - highest;
            self.seen = if step < 64 { self.seen << step } else { 0 } | 1;
            self.highest = Some(seq);
            return true;
        }
        let back = highest - seq;
        if back >= 64 || self.seen & (1 << back) != 0 {
            return false;
        }
        self.seen |= 1 << back;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Extensions;
    use proptest::prelude::*;
    use std::time::Instant;

    /// A RED payload of `blocks` (timestamp offset, data), the last being the primary.
    fn build(blocks: &[(u32, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (offset, data) in &blocks[..blocks.len() - 1] {
            bytes.extend([0x80 | 111, (offset >> 6) as u8, ((offset & 0x3f) << 2) as u8 | (data.len() >> 8) as u8, data.len() as u8]);
        }
        bytes.push(111);
        for (_, data) in blocks {
            bytes.extend(*data);
        }
        bytes
    }

    fn packet(seq: u64, payload: Vec<u8>) -> RtpPacket {
        RtpPacket {
            arrival: Instant::now(),
            codec: Codec::Red,
            seq,
            timestamp: seq as u32 * 960,
            marker: false,
            ext: Extensions::default(),
            payload: payload.into(),
        }
    }

    fn with_one_redundant(seq: u64) -> RtpPacket {
        packet(seq, build(&[(960, &[(seq - 1) as u8; 7]), (0, &[seq as u8; 9])]))
    }

    #[test]
    fn a_lost_packet_comes_from_the_next_ones_redundancy_and_only_once() {
        let mut unpacker = RedUnpacker::default();
        let mut got = Vec::new();
        for seq in [10, 11, 13, 12, 13, 14] {
            unpacker.unpack(&with_one_redundant(seq), |p| got.push((p.seq, p.timestamp, p.payload[0])));
        }
        assert_eq!(got, [10, 11, 12, 13, 14].map(|s| (s, s as u32 * 960, s as u8)));
    }

    #[test]
    fn truncated_packets_yield_nothing() {
        let whole = build(&[(1920, &[1; 5]), (960, &[2; 5]), (0, &[3; 5])]);
        for cut in 0..8 {
            assert_eq!(parse(&whole[..cut]), None, "cut at {cut}");
        }
        assert_eq!(parse(&whole).unwrap().len(), 3);
        assert_eq!(primary(&whole), Some(&[3u8; 5][..]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(blocks) = parse(&bytes) {
                prop_assert!(blocks.len() <= MAX_BLOCKS);
            }
        }

        #[test]
        fn each_packet_is_handed_out_once_whatever_the_order(order in proptest::collection::vec(100u64..160, 1..200)) {
            let mut unpacker = RedUnpacker::default();
            let mut seen = std::collections::BTreeSet::new();
            for seq in order {
                unpacker.unpack(&with_one_redundant(seq), |p| assert!(seen.insert(p.seq), "{} came twice", p.seq));
            }
        }
    }
}
