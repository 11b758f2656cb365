//! The send path: RTP headers, SRTP sealing, RTX, sender reports and transport-wide sequence numbers of one DTLS session,
//! written into the shard's send slab. The WebRTC library sends no RTP (ARCHITECTURE.md, "The send path").
//!
//! Rule: one [`Egress`] per DTLS session. Its map from SSRC to index and its SRTCP index survive ICE restarts and
//! renegotiations; a removed SSRC never comes back, and a sequence number is sealed once at most: nonces never repeat.

pub mod feedback;
pub mod header;
pub mod keys;
pub mod nack;
pub mod report;
pub mod seal;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use self::header::{ExtensionIds, FixedHeader};
use self::keys::MasterKey;
use self::nack::NackFilter;
use self::report::ReportClock;
use self::seal::Sealer;
use crate::packet::{Codec, Extensions, MediaKind};
use crate::transport::{Datagram, OutgoingRtp, SendSlab};

/// Sender reports of video follow each other by this much; shorter costs downlink, longer delays lip sync.
const REPORT_INTERVAL_VIDEO: Duration = Duration::from_secs(1);
/// Sender reports of audio.
const REPORT_INTERVAL_AUDIO: Duration = Duration::from_secs(5);
/// The first report follows the first packet by this much, so that lip sync does not wait a whole interval.
const FIRST_REPORT: Duration = Duration::from_millis(100);
/// How far back a sequence number may come late. Forwarding reorders by a few packets; 1,024 is four seconds of video.
const SEALED_WINDOW: u64 = 1024;
/// SRTP's index has 48 bits.
const INDEX_LIMIT: u64 = 1 << 48;

/// Local and remote address of the pair that ICE nominated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Ours.
    pub source: SocketAddr,
    /// The peer's.
    pub destination: SocketAddr,
}

/// A codec that a section negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// The codec.
    pub codec: Codec,
    /// Its payload type.
    pub payload_type: u8,
    /// Payload type of its retransmissions, where RTX was negotiated.
    pub rtx: Option<u8>,
}

/// What a negotiation says about a send stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Section.
    pub mid: String,
    /// Negotiated codecs in the peer's preference.
    pub payloads: Vec<Payload>,
    /// Negotiated header extensions.
    pub extensions: ExtensionIds,
}

/// One SSRC with its RTX SSRC.
#[derive(Debug)]
pub struct SendStream {
    ssrc: u32,
    rtx_ssrc: u32,
    kind: MediaKind,
    template: Option<Template>,
    sealed: SealedIndices,
    rtx_index: u64,
    packets: u32,
    octets: u32,
    /// The peer has reported on the SSRC: it knows which section it belongs to, the mid need not be sent any longer.
    known_to_peer: bool,
    next_report: Option<Instant>,
    nacks: NackFilter,
    round_trip: Duration,
}

impl SendStream {
    /// A stream with its two SSRCs, fresh under these keys.
    pub fn new(kind: MediaKind, ssrc: u32, rtx_ssrc: u32, first_rtx_index: u16) -> SendStream {
        SendStream {
            ssrc,
            rtx_ssrc,
            kind,
            template: None,
            sealed: SealedIndices::default(),
            rtx_index: u64::from(first_rtx_index),
            packets: 0,
            octets: 0,
            known_to_peer: false,
            next_report: None,
            nacks: NackFilter::default(),
            round_trip: Duration::ZERO,
        }
    }

    /// Media SSRC.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// SSRC of retransmissions.
    pub fn rtx_ssrc(&self) -> u32 {
        self.rtx_ssrc
    }

    /// Takes over what a negotiation says; None: nothing can be sent.
    pub fn set_template(&mut self, template: Option<Template>) {
        self.template = template;
    }

    /// What was negotiated.
    pub fn template(&self) -> Option<&Template> {
        self.template.as_ref()
    }

    /// The peer reported on this stream.
    pub fn mark_known(&mut self, round_trip: Option<Duration>) {
        self.known_to_peer = true;
        self.round_trip = round_trip.unwrap_or(self.round_trip);
    }

    /// The extended sequence number that a peer asks for again, when it was sent and the request is to be answered.
    pub fn asked_again(&mut self, now: Instant, sequence: u16) -> Option<u64> {
        let seq = self.extend_sent(sequence)?;
        self.nacks.accepts(now, seq, self.round_trip).then_some(seq)
    }

    /// The extended sequence number that a peer's 16 bits mean: the newest that we have sealed and that ends in them.
    /// None when nothing like it was sent lately.
    fn extend_sent(&self, sequence: u16) -> Option<u64> {
        let highest = self.sealed.highest?;
        let back = u64::from((highest as u16).wrapping_sub(sequence));
        highest.checked_sub(back)
    }

    /// The mid, as long as the peer may not know where the SSRC belongs.
    fn mid_to_send(&self) -> Option<&[u8]> {
        let template = self.template.as_ref().filter(|_| !self.known_to_peer)?;
        Some(template.mid.as_bytes())
    }

    fn payload(&self, codec: Codec) -> Option<(&Template, Payload)> {
        let template = self.template.as_ref()?;
        let payload = template.payloads.iter().find(|payload| payload.codec == codec)?;
        Some((template, *payload))
    }
}

/// Which indices of an SSRC were sealed already: a window below the highest.
#[derive(Debug, Default)]
struct SealedIndices {
    highest: Option<u64>,
    window: [u64; (SEALED_WINDOW / 64) as usize],
}

impl SealedIndices {
    /// Marks an index; false when it was used before, is too old to know, or does not fit SRTP.
    fn take(&mut self, index: u64) -> bool {
        if index >= INDEX_LIMIT {
            return false;
        }
        match self.highest {
            None => self.highest = Some(index),
            Some(highest) if index > highest => {
                let cleared = (index - highest).min(SEALED_WINDOW);
                for step in 1..=cleared {
                    self.set(index - (cleared - step), false);
                }
                self.highest = Some(index);
            }
            Some(highest) if highest - index >= SEALED_WINDOW || self.get(index) => return false,
            Some(_) => {}
        }
        self.set(index, true);
        true
    }

    fn get(&self, index: u64) -> bool {
        let bit = index % SEALED_WINDOW;
        self.window[(bit / 64) as usize] >> (bit % 64) & 1 != 0
    }

    fn set(&mut self, index: u64, value: bool) {
        let bit = index % SEALED_WINDOW;
        let word = &mut self.window[(bit / 64) as usize];
        *word = *word & !(1 << (bit % 64)) | u64::from(value) << (bit % 64);
    }
}

/// What sealing a packet did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// It lies in the slab.
    Packet {
        /// Bytes of the datagram.
        bytes: usize,
        /// Its transport-wide sequence number, where the section has one.
        transport_sequence: Option<u64>,
    },
    /// The section does not carry this codec (or no RTX for it).
    NotNegotiated,
    /// This sequence number was sealed before, or is too old.
    Repeated,
}

/// The sealing half of one DTLS session.
pub struct Egress {
    sealer: Sealer,
    srtcp_index: u32,
    transport_sequence: u64,
    clock: ReportClock,
    cname: String,
}

impl Egress {
    /// Fresh under keys that no other `Egress` has used.
    pub fn new(master: &MasterKey, cname: String, clock: ReportClock) -> Egress {
        // Transport-wide numbers start above zero so that an unwrapped number never underflows.
        Egress { sealer: Sealer::new(master), srtcp_index: 0, transport_sequence: 1, clock, cname }
    }

    /// Header, payload and seal of a packet that is sent for the first time.
    pub fn send(&mut self, now: Instant, route: Route, stream: &mut SendStream, packet: &OutgoingRtp<'_>, slab: &mut SendSlab) -> Sealed {
        let Some((template, payload)) = stream.payload(packet.codec) else {
            return Sealed::NotNegotiated;
        };
        // The borrow of the template ends before the window changes.
        let (ids, payload_type) = (template.extensions, payload.payload_type);
        if !stream.sealed.take(packet.seq) {
            return Sealed::Repeated;
        }
        let mid = stream.mid_to_send();
        let fixed = FixedHeader {
            payload_type,
            marker: packet.marker,
            sequence: packet.seq as u16,
            timestamp: packet.timestamp,
            ssrc: stream.ssrc,
        };
        let sealed = self.seal(route, fixed, &ids, mid, packet.ext, &[packet.head, packet.body], packet.seq, slab);
        stream.packets = stream.packets.wrapping_add(1);
        stream.octets = stream.octets.wrapping_add((packet.head.len() + packet.body.len()) as u32);
        let due = *stream.next_report.get_or_insert(now + FIRST_REPORT);
        if now >= due {
            stream.next_report = Some(now + report_interval(stream.kind));
            self.report(now, route, stream, packet.timestamp, slab);
        }
        sealed
    }

    /// The same packet once more on the RTX SSRC (RFC 4588).
    pub fn resend(&mut self, route: Route, stream: &mut SendStream, packet: &OutgoingRtp<'_>, slab: &mut SendSlab) -> Sealed {
        let Some((template, payload)) = stream.payload(packet.codec) else {
            return Sealed::NotNegotiated;
        };
        let Some(payload_type) = payload.rtx else {
            return Sealed::NotNegotiated;
        };
        let ids = template.extensions;
        stream.rtx_index += 1;
        let index = stream.rtx_index;
        // Peers report on the media SSRC alone: that they know the other one is never certain.
        let mid = stream.template.as_ref().map(|template| template.mid.as_bytes());
        let fixed =
            FixedHeader { payload_type, marker: packet.marker, sequence: index as u16, timestamp: packet.timestamp, ssrc: stream.rtx_ssrc };
        let original = (packet.seq as u16).to_be_bytes();
        self.seal(route, fixed, &ids, mid, packet.ext, &[&original, packet.head, packet.body], index, slab)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one packet; a struct for one caller would only rename them")]
    fn seal(
        &mut self,
        route: Route,
        fixed: FixedHeader,
        ids: &ExtensionIds,
        mid: Option<&[u8]>,
        ext: &Extensions,
        payload: &[&[u8]],
        index: u64,
        slab: &mut SendSlab,
    ) -> Sealed {
        let transport_sequence = ids.transport_sequence.map(|_| self.transport_sequence);
        if transport_sequence.is_some() {
            self.transport_sequence += 1;
        }
        let start = slab.bytes.len();
        let header_len = header::write(&mut slab.bytes, fixed, ids, mid, transport_sequence.map(|sequence| sequence as u16), ext);
        for part in payload {
            slab.bytes.extend_from_slice(part);
        }
        self.sealer.seal_rtp(&mut slab.bytes, start, header_len, fixed.ssrc, index);
        slab.finish(route, start);
        Sealed::Packet { bytes: slab.bytes.len() - start, transport_sequence }
    }

    /// A sender report with the CNAME. It rides on a packet that was just sent: silent streams cost nothing.
    fn report(&mut self, now: Instant, route: Route, stream: &SendStream, timestamp: u32, slab: &mut SendSlab) {
        let start = slab.bytes.len();
        report::write(&mut slab.bytes, stream.ssrc, self.clock.ntp(now), timestamp, stream.packets, stream.octets, &self.cname);
        self.sealer.seal_rtcp(&mut slab.bytes, start, stream.ssrc, self.srtcp_index);
        self.srtcp_index = (self.srtcp_index + 1) & 0x7fff_ffff;
        slab.finish(route, start);
    }

    /// Round trip that a report block on one of our streams shows.
    pub fn round_trip(&self, now: Instant, block: &feedback::ReportBlock) -> Option<Duration> {
        self.clock.round_trip(now, block.last_report, block.delay)
    }

    /// The newest transport-wide sequence number that ends in these 16 bits.
    pub fn extend_transport_sequence(&self, sequence: u16) -> Option<u64> {
        let highest = self.transport_sequence.checked_sub(1)?;
        highest.checked_sub(u64::from((highest as u16).wrapping_sub(sequence)))
    }
}

fn report_interval(kind: MediaKind) -> Duration {
    match kind {
        MediaKind::Audio => REPORT_INTERVAL_AUDIO,
        MediaKind::Video => REPORT_INTERVAL_VIDEO,
    }
}

impl SendSlab {
    /// Makes a datagram of what was appended since `start`.
    pub(crate) fn finish(&mut self, route: Route, start: usize) {
        self.datagrams.push(Datagram {
            source: route.source,
            destination: route.destination,
            start: start as u32,
            len: (self.bytes.len() - start) as u32,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_sealed_once() {
        let mut sealed = SealedIndices::default();
        assert!(sealed.take(65_535));
        assert!(!sealed.take(65_535));
        assert!(sealed.take(65_537));
        assert!(sealed.take(65_536), "late, but new");
        assert!(!sealed.take(65_536));
        assert!(sealed.take(65_537 + 5_000));
        assert!(!sealed.take(65_538), "too old to know");
        assert!(sealed.take(65_537 + 4_999));
        assert!(!sealed.take(INDEX_LIMIT));
    }

    #[test]
    fn a_nacked_number_extends_to_what_was_sent() {
        let mut stream = SendStream::new(MediaKind::Video, 1, 2, 0);
        assert_eq!(stream.extend_sent(3), None);
        stream.sealed.take(65_540);
        assert_eq!(stream.extend_sent(4), Some(65_540));
        assert_eq!(stream.extend_sent(65_535), Some(65_535));
        assert_eq!(stream.extend_sent(5), Some(5), "a whole cycle ago, as far as 16 bits can tell");
    }
}
