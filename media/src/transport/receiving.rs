//! What the peer sends: SSRCs, layers, and packets turned from str0m's terms into ours.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use str0m::media::KeyframeRequestKind;
use str0m::rtp::{ExtensionSerializer, ExtensionValues, RtpPacket as LibraryPacket};

use super::{RecvId, SendSlab, Transport, TransportEvent};
use crate::egress::header;
use crate::packet::{Codec, Extensions, MediaKind, RtpPacket};

/// SSRCs of one connection, media and retransmission together, over its whole life. A publisher with camera, screen and
/// microphone uses 15; muting and unmuting adds a few each time.
const MAX_SSRCS: usize = 512;

/// Raw bytes of a dependency descriptor as they stood in the header.
#[derive(Debug, Clone)]
struct Descriptor(Arc<[u8]>);

/// Teaches str0m to keep the dependency descriptor; it is opaque to a forwarder of one layer.
#[derive(Debug)]
pub(super) struct DescriptorReader;

impl ExtensionSerializer for DescriptorReader {
    fn write_to(&self, _buf: &mut [u8], _values: &ExtensionValues) -> usize {
        0
    }

    fn parse_value(&self, buf: &[u8], values: &mut ExtensionValues) -> bool {
        values.user_values.set(Descriptor(buf.into()));
        true
    }

    fn is_video(&self) -> bool {
        true
    }

    fn is_audio(&self) -> bool {
        false
    }
}

/// An SSRC whose first packet opened.
#[derive(Debug, Clone, Copy)]
struct Source {
    /// Highest extended sequence number that was taken or verified.
    highest: u64,
    /// A packet of it came out as media at least once.
    mapped: bool,
}

/// A stream that the room knows.
#[derive(Debug, Clone)]
struct Stream {
    recv: RecvId,
    mid: String,
}

/// State of the receiving side.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    sources: HashMap<u32, Source>,
    streams: HashMap<u32, Stream>,
    next: u32,
    /// Payload type -> codec, of media; retransmissions have none.
    codecs: HashMap<u8, Codec>,
    /// str0m gave a packet out since this was last cleared.
    taken: bool,
}

impl Receiving {
    /// Takes over the payload types of a finished negotiation.
    pub(super) fn set_codecs(&mut self, config: &str0m::format::CodecConfig) {
        self.codecs.clear();
        for params in config.params() {
            let codec = match params.spec().codec {
                str0m::format::Codec::Opus => Codec::Opus,
                str0m::format::Codec::Vp8 => Codec::Vp8,
                str0m::format::Codec::H264 => Codec::H264,
                str0m::format::Codec::Vp9 => Codec::Vp9,
                str0m::format::Codec::Av1 => Codec::Av1,
                _ => continue,
            };
            self.codecs.insert(*params.pt(), codec);
            if let Some(red) = params.red() {
                self.codecs.insert(*red, Codec::Red);
            }
        }
    }

    /// Whether the peer uses this SSRC.
    pub(super) fn knows(&self, ssrc: u32) -> bool {
        self.sources.contains_key(&ssrc)
    }

    /// A section ended: its streams are announced anew should they come back.
    pub(super) fn forget_section(&mut self, mid: &str) {
        self.streams.retain(|_, stream| stream.mid != mid);
    }

    fn ssrc_of(&self, recv: RecvId) -> Option<u32> {
        self.streams.iter().find(|(_, stream)| stream.recv == recv).map(|(ssrc, _)| *ssrc)
    }
}

/// The extended number next to `highest` that ends in these 16 bits.
fn extend(highest: u64, sequence: u16) -> u64 {
    let step = i64::from(sequence.wrapping_sub(highest as u16) as i16);
    highest.checked_add_signed(step).unwrap_or(u64::from(sequence))
}

impl Transport {
    /// RTP: an SSRC that is seen for the first time must open before str0m makes a stream of it (str0m maps SSRCs before it
    /// decrypts, so that a forged packet could displace a real stream); what str0m does not take is judged here.
    pub(super) fn receive_rtp(&mut self, now: Instant, source: SocketAddr, destination: SocketAddr, datagram: &[u8], slab: &mut SendSlab) {
        let (Some(peeked), Some(session)) = (header::peek(datagram), self.session.as_mut()) else {
            self.stats.unvalidated += 1;
            return;
        };
        let ssrc = peeked.ssrc;
        let index = match self.receiving.sources.get(&ssrc) {
            Some(source) => extend(source.highest, peeked.sequence),
            None => {
                let index = u64::from(peeked.sequence);
                if self.receiving.sources.len() >= MAX_SSRCS {
                    self.stats.limit_hits += 1;
                    return;
                }
                if !session.opener.verify_rtp(datagram, peeked.header_len, ssrc, index) {
                    self.stats.bad_tag += 1;
                    return;
                }
                self.receiving.sources.insert(ssrc, Source { highest: index, mapped: false });
                index
            }
        };
        self.receiving.taken = false;
        self.pass_on(now, source, destination, datagram, slab);
        if self.receiving.taken {
            if let Some(source) = self.receiving.sources.get_mut(&ssrc) {
                source.highest = source.highest.max(index);
                source.mapped = true;
            }
        } else {
            self.judge_untaken(datagram, peeked, index);
        }
    }

    /// str0m drops in silence duplicates, padding, unknown SSRCs and wrong tags: which was it?
    fn judge_untaken(&mut self, datagram: &[u8], peeked: header::Peeked, index: u64) {
        let (Some(session), Some(source)) = (self.session.as_mut(), self.receiving.sources.get_mut(&peeked.ssrc)) else {
            return;
        };
        if !session.opener.verify_rtp(datagram, peeked.header_len, peeked.ssrc, index) {
            self.stats.bad_tag += 1;
            return;
        }
        source.highest = source.highest.max(index);
        if !source.mapped && self.receiving.codecs.contains_key(&peeked.payload_type) {
            self.stats.unknown_ssrc += 1;
        }
    }

    pub(super) fn take_rtp(&mut self, packet: LibraryPacket) {
        self.receiving.taken = true;
        let ssrc = *packet.header.ssrc;
        let Some(codec) = self.receiving.codecs.get(&*packet.header.payload_type).copied() else {
            self.stats.unknown_ssrc += 1;
            return;
        };
        let recv = match self.receiving.streams.get(&ssrc) {
            Some(stream) => stream.recv,
            None => match self.announce_stream(ssrc, codec) {
                Some(recv) => recv,
                None => return,
            },
        };
        let packet = RtpPacket {
            arrival: packet.timestamp,
            codec,
            seq: *packet.seq_no,
            timestamp: packet.header.timestamp,
            marker: packet.header.marker,
            ext: extensions(&packet.header.ext_vals),
            payload: packet.payload,
        };
        self.events.push_back(TransportEvent::Rtp { recv, packet });
    }

    fn announce_stream(&mut self, ssrc: u32, codec: Codec) -> Option<RecvId> {
        let mut api = self.rtc.direct_api();
        let stream = api.stream_rx(&ssrc.into())?;
        // Without an RTX SSRC str0m asks for nothing; senders without RTX (Go) repeat the packet itself.
        if codec.kind() == MediaKind::Video {
            stream.suppress_nack(false);
        }
        let (mid, rid) = (stream.mid().to_string(), stream.rid().map(|rid| rid.to_string()));
        let recv = RecvId(self.receiving.next);
        self.receiving.next += 1;
        self.receiving.streams.insert(ssrc, Stream { recv, mid: mid.clone() });
        self.events.push_back(TransportEvent::ReceiveStream { recv, mid, rid });
        Some(recv)
    }

    pub(super) fn send_picture_loss(&mut self, now: Instant, recv: RecvId) {
        let Some(ssrc) = self.receiving.ssrc_of(recv) else {
            return;
        };
        if let Some(stream) = self.rtc.direct_api().stream_rx(&ssrc.into()) {
            stream.request_keyframe(KeyframeRequestKind::Pli);
        }
        // The request becomes a datagram at a time-out; `poll_output` takes it.
        if let Err(error) = self.rtc.handle_input(str0m::Input::Timeout(now)) {
            self.fail(&error.to_string());
        }
        self.rtc_dirty = true;
    }
}

fn extensions(values: &ExtensionValues) -> Extensions {
    let hundredths = |time: str0m::media::MediaTime| time.numer().min(0xfff) as u16;
    Extensions {
        audio_level: values.audio_level.map(|level| level.unsigned_abs() & 0x7f),
        voice: values.voice_activity,
        orientation: values.video_orientation.map(|orientation| orientation as u8),
        dependency_descriptor: values.user_values.get::<Descriptor>().map(|descriptor| descriptor.0.clone()),
        playout_delay: values.play_delay_min.zip(values.play_delay_max).map(|(min, max)| (hundredths(min), hundredths(max))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_extend_to_the_nearest() {
        assert_eq!(extend(65_535, 0), 65_536);
        assert_eq!(extend(65_536, 65_535), 65_535);
        assert_eq!(extend(3, 65_535), 65_535, "nothing lies below zero");
        assert_eq!(extend(100, 90), 90);
    }
}
