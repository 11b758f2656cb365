//! Rewriting: many source streams (layers, sources before and after a pause) become one stream per subscriber.
//!
//! [`Rewriter`] keeps a short list of segments. Each maps a run of one source stream's sequence numbers to a run of the
//! subscriber's own, together with the offsets of timestamp, VP8 picture id and TL0PICIDX. Runs join without a gap, so
//! whatever is switched, paused or dropped, the subscriber sees consecutive numbers; a packet that is late finds its old
//! segment and takes the place that was left for it; a NACK is mapped back the same way.
//!
//! Rule: numbers are extended (`u64`) and never go back; a packet's place depends on its segment alone, so that a
//! retransmission is byte for byte what the first transmission was.

use std::collections::VecDeque;
use std::time::Instant;

use crate::packet::{Codec, RtpPacket};
use crate::transport::OutgoingRtp;
use crate::vp8::{MAX_DESCRIPTOR, Vp8Descriptor};

/// Segments remembered. More: later retransmissions after many switches still find their place. Each is 56 bytes.
const MAX_SEGMENTS: usize = 32;

/// A source that jumps further than this (in packets) is taken for a new run, not for a loss: NACKs for so many are
/// useless, and a jump of 2^15 would desynchronise the subscriber's roll-over counter.
const MAX_GAP: u64 = 1000;

/// Names one source stream of a publication: a layer's life from one SSRC to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey(pub u32);

/// What is found out about a packet once, for all its subscribers.
#[derive(Debug, Clone, Copy)]
pub struct PacketFacts {
    /// Which source stream.
    pub stream: StreamKey,
    /// Starts a key frame (audio: always).
    pub key_frame: bool,
    /// The VP8 descriptor, if it is VP8 and readable.
    pub vp8: Option<Vp8Descriptor>,
}

impl PacketFacts {
    /// Reads a packet.
    pub fn of(stream: StreamKey, packet: &RtpPacket) -> PacketFacts {
        let vp8 = (packet.codec == Codec::Vp8).then(|| Vp8Descriptor::parse(&packet.payload)).flatten();
        let key_frame = match vp8 {
            Some(descriptor) => descriptor.key_frame,
            None => crate::keyframe::starts_key_frame(packet.codec, &packet.payload),
        };
        PacketFacts { stream, key_frame, vp8 }
    }
}

/// A run of one source stream and where it went.
#[derive(Debug, Clone, Copy)]
struct Segment {
    stream: StreamKey,
    /// Source sequence numbers, both ends included.
    first: u64,
    last: u64,
    /// Where `first` went.
    out_first: u64,
    timestamp_offset: u32,
    picture_id_offset: u16,
    tl0_offset: u8,
}

impl Segment {
    fn covers(&self, stream: StreamKey, seq: u64) -> bool {
        self.stream == stream && (self.first..=self.last).contains(&seq)
    }

    fn place(&self, seq: u64) -> Placement {
        Placement {
            seq: self.out_first + (seq - self.first),
            timestamp_offset: self.timestamp_offset,
            picture_id_offset: self.picture_id_offset,
            tl0_offset: self.tl0_offset,
        }
    }
}

/// Where a packet goes in a subscriber's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Extended sequence number.
    pub seq: u64,
    timestamp_offset: u32,
    picture_id_offset: u16,
    tl0_offset: u8,
}

impl Placement {
    /// The packet as this subscriber gets it. `codec` and `body` are given apart from `packet`, since RED may have been
    /// taken apart; `head` is scratch space for a rewritten descriptor.
    pub fn outgoing<'a>(&self, packet: &'a RtpPacket, vp8: Option<&Vp8Descriptor>, head: &'a mut [u8; MAX_DESCRIPTOR]) -> OutgoingRtp<'a> {
        let (head, body): (&[u8], &[u8]) = match vp8 {
            Some(descriptor) => {
                let picture_id = descriptor.picture_id.unwrap_or(0).wrapping_add(self.picture_id_offset);
                let tl0 = descriptor.tl0_pic_idx.unwrap_or(0).wrapping_add(self.tl0_offset);
                let len = descriptor.write(picture_id, tl0, head);
                (&head[..len], &packet.payload[descriptor.len..])
            }
            None => (&[], &packet.payload),
        };
        OutgoingRtp {
            seq: self.seq,
            timestamp: packet.timestamp.wrapping_add(self.timestamp_offset),
            marker: packet.marker,
            codec: packet.codec,
            ext: &packet.ext,
            head,
            body,
        }
    }
}

/// One subscriber's numbering of one track.
#[derive(Debug)]
pub struct Rewriter {
    /// Oldest first; the last one may be open.
    segments: VecDeque<Segment>,
    /// The last segment grows with its stream.
    open: bool,
    next_seq: u64,
    last_timestamp: u32,
    last_picture_id: u16,
    last_tl0: u8,
    /// Subscriber's timestamp minus common time, once a first packet went out (see [`TimeReference`]).
    common_offset: Option<u32>,
}

impl Rewriter {
    /// Starts at the sequence number `first_seq`, which must be below 65,536 so that the roll-over counter starts at zero.
    pub fn new(first_seq: u16) -> Rewriter {
        Rewriter {
            segments: VecDeque::new(),
            open: false,
            next_seq: u64::from(first_seq),
            last_timestamp: 0,
            last_picture_id: 0,
            last_tl0: 0,
            common_offset: None,
        }
    }

    /// Nothing was placed yet.
    pub fn is_fresh(&self) -> bool {
        self.segments.is_empty()
    }

    /// The stream that is being forwarded.
    pub fn current(&self) -> Option<StreamKey> {
        self.segments.back().filter(|_| self.open).map(|s| s.stream)
    }

    /// Ends the current run: what follows of its stream is not forwarded until [`Rewriter::start`]. `reference` is the time
    /// reference of the stream that ends, if it is still known.
    pub fn stop(&mut self, reference: Option<&TimeReference>) {
        if let (true, Some(segment), Some(reference)) = (self.open, self.segments.back(), reference) {
            self.common_offset = Some(segment.timestamp_offset.wrapping_add(reference.value()));
        }
        self.open = false;
    }

    /// Begins a new run with `packet`, at the next free number. `reference` is the time reference of its stream.
    pub fn start(&mut self, packet: &RtpPacket, facts: &PacketFacts, reference: &TimeReference) -> Placement {
        let first_ever = self.segments.is_empty();
        let timestamp_offset = match (self.common_offset, self.segments.back()) {
            // The same stream goes on after a pause: its own time line is the best reference.
            (_, Some(segment)) if segment.stream == facts.stream => segment.timestamp_offset,
            (Some(common), _) => {
                let offset = common.wrapping_sub(reference.value());
                let ahead = packet.timestamp.wrapping_add(offset).wrapping_sub(self.last_timestamp) as i32;
                // Time never stands still or goes back between frames.
                if ahead > 0 { offset } else { self.last_timestamp.wrapping_add(1).wrapping_sub(packet.timestamp) }
            }
            (None, _) => 0,
        };
        let (picture_id_offset, tl0_offset) = match facts.vp8 {
            Some(vp8) if !first_ever => (
                self.last_picture_id.wrapping_add(1).wrapping_sub(vp8.picture_id.unwrap_or(0)),
                self.last_tl0.wrapping_add(1).wrapping_sub(vp8.tl0_pic_idx.unwrap_or(0)),
            ),
            _ => (0, 0),
        };
        if self.segments.len() == MAX_SEGMENTS {
            self.segments.pop_front();
        }
        self.segments.push_back(Segment {
            stream: facts.stream,
            first: packet.seq,
            last: packet.seq,
            out_first: self.next_seq,
            timestamp_offset,
            picture_id_offset,
            tl0_offset,
        });
        self.open = true;
        self.common_offset = Some(timestamp_offset.wrapping_add(reference.value()));
        let placement = Placement { seq: self.next_seq, timestamp_offset, picture_id_offset, tl0_offset };
        self.next_seq += 1;
        self.note(packet, facts, &placement);
        placement
    }

    /// Where `packet` goes: the next place of the current run, or the place that was left for it in an earlier one.
    /// `None`: it is not part of anything that this subscriber was sent.
    pub fn place(&mut self, packet: &RtpPacket, facts: &PacketFacts) -> Option<Placement> {
        if let Some(segment) = self.segments.back_mut().filter(|s| self.open && s.stream == facts.stream && packet.seq > s.last) {
            let gap = packet.seq - segment.last;
            if gap > MAX_GAP {
                // A new run in the same numbering, one number apart so that the receiver sees that something is missing.
                let mut next = *segment;
                (next.first, next.last, next.out_first) = (packet.seq, packet.seq, self.next_seq + 1);
                if self.segments.len() == MAX_SEGMENTS {
                    self.segments.pop_front();
                }
                self.segments.push_back(next);
                self.next_seq += 2;
                let placement = next.place(packet.seq);
                self.note(packet, facts, &placement);
                return Some(placement);
            }
            segment.last = packet.seq;
            let placement = segment.place(packet.seq);
            self.next_seq = placement.seq + 1;
            self.note(packet, facts, &placement);
            return Some(placement);
        }
        self.find(facts.stream, packet.seq)
    }

    /// The place that `seq` of `stream` has already been given.
    pub fn find(&self, stream: StreamKey, seq: u64) -> Option<Placement> {
        self.segments.iter().rev().find(|s| s.covers(stream, seq)).map(|s| s.place(seq))
    }

    /// Which source packet went out as `out_seq`, and where to place it again.
    pub fn source_of(&self, out_seq: u64) -> Option<(StreamKey, u64, Placement)> {
        let segment = self.segments.iter().rev().find(|s| s.out_first <= out_seq)?;
        let seq = segment.first + (out_seq - segment.out_first);
        (seq <= segment.last).then(|| (segment.stream, seq, segment.place(seq)))
    }

    fn note(&mut self, packet: &RtpPacket, facts: &PacketFacts, placement: &Placement) {
        self.last_timestamp = packet.timestamp.wrapping_add(placement.timestamp_offset);
        if let Some(vp8) = facts.vp8 {
            self.last_picture_id = vp8.picture_id.unwrap_or(0).wrapping_add(placement.picture_id_offset);
            self.last_tl0 = vp8.tl0_pic_idx.unwrap_or(0).wrapping_add(placement.tl0_offset);
        }
    }
}

/// The relation of a stream's RTP timestamps to arrival time: common ground of layers whose time lines start at random.
///
/// The packet that travelled fastest says when a timestamp is due, so the estimate follows the largest
/// `timestamp - arrival`, and leaks slowly so that a publisher's slow clock is followed too.
#[derive(Debug, Clone, Copy)]
pub struct TimeReference {
    clock_rate: u32,
    origin: Instant,
    value: Option<u32>,
    leaked_at: Instant,
}

impl TimeReference {
    /// Ticks per second that the estimate leaks: 20 are 222 ppm of a 90 kHz clock, more than a crystal is off.
    const LEAK_PER_SECOND: u64 = 20;
    /// An estimate that is off by more than this many seconds belongs to another time line.
    const RESET_SECONDS: i32 = 5;

    /// A reference for a stream of `clock_rate` hertz; all layers of a publication share `origin`.
    pub fn new(clock_rate: u32, origin: Instant) -> TimeReference {
        TimeReference { clock_rate, origin, value: None, leaked_at: origin }
    }

    /// Takes a packet in.
    pub fn observe(&mut self, timestamp: u32, arrival: Instant) {
        let elapsed = arrival.saturating_duration_since(self.origin);
        let ticks = (elapsed.as_micros() * u128::from(self.clock_rate) / 1_000_000) as u32;
        let sample = timestamp.wrapping_sub(ticks);
        let Some(value) = self.value else {
            self.value = Some(sample);
            self.leaked_at = arrival;
            return;
        };
        let ahead = sample.wrapping_sub(value) as i32;
        if ahead > 0 || ahead < -(Self::RESET_SECONDS * self.clock_rate as i32) {
            self.value = Some(sample);
            self.leaked_at = arrival;
            return;
        }
        let leak = arrival.saturating_duration_since(self.leaked_at).as_millis() as u64 * Self::LEAK_PER_SECOND / 1000;
        if leak > 0 {
            self.value = Some(value.wrapping_sub(leak as u32));
            self.leaked_at = arrival;
        }
    }

    /// RTP timestamp that was due at the origin.
    pub fn value(&self) -> u32 {
        self.value.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
