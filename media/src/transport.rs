//! One peer connection. The seam that keeps forwarding code free of the WebRTC library: str0m does ICE, DTLS, SCTP, SDP and
//! receiving; `egress` seals and sends RTP (see ARCHITECTURE.md, "The send path").
//!
//! Rule: after every call that takes `&mut self`, call [`Transport::poll_output`] until it answers `Timeout`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::packet::{Codec, Extensions, MediaKind, RtpPacket};

/// A receiving stream of a transport: one SSRC of one section (one simulcast layer).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecvId(pub u32);

/// A sending track of a transport: one section with its SSRC and RTX SSRC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendId(pub u32);

/// A data channel of a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub u32);

/// What a transport needs to know at birth.
#[derive(Debug, Clone)]
pub struct TransportConfig {
    /// Local ICE ufrag; its first part names the shard. From a cryptographic generator.
    pub ice_ufrag: String,
    /// Local ICE password.
    pub ice_pwd: String,
    /// Host candidates that we advertise.
    pub candidates: Vec<SocketAddr>,
    /// ICE lite.
    pub ice_lite: bool,
    /// True: we offer (subscriber connection) and open `_reliable` and `_lossy`. False: the client does both.
    pub offerer: bool,
    /// Seed for SSRCs and first sequence numbers.
    pub seed: u64,
}

/// A track that we want to send.
#[derive(Debug, Clone)]
pub struct SendTrack {
    /// Audio or video.
    pub kind: MediaKind,
    /// msid stream id, `PA_...|TR_...`.
    pub stream_id: String,
    /// msid track id, `TR_...`.
    pub track_id: String,
    /// Codecs that the publication may send, best first.
    pub codecs: Vec<Codec>,
}

/// An RTP packet to send: everything that the forwarder decided.
#[derive(Debug, Clone)]
pub struct OutgoingRtp<'a> {
    /// Sequence number in the subscriber's own numbering, extended (its upper part is the roll-over counter).
    pub seq: u64,
    /// Timestamp in the subscriber's own time line.
    pub timestamp: u32,
    /// Marker.
    pub marker: bool,
    /// The payload's codec; must be one that the section negotiated.
    pub codec: Codec,
    /// Extensions to carry over.
    pub ext: &'a Extensions,
    /// Start of the payload when it was rewritten for this subscriber (a VP8 descriptor), else empty.
    pub head: &'a [u8],
    /// The rest of the payload.
    pub body: &'a [u8],
}

/// What became of a send request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Sealed into the slab (or queued by the pacer).
    Yes,
    /// Not connected, or the section is not negotiated, or its codec is not.
    NotReady,
}

/// Sealed datagrams of one loop turn, all transports of a shard together: sealed once, written in batches.
/// Filled by [`Transport::send_rtp`] and [`Transport::poll_output`], emptied by `net` (or by the virtual network).
#[derive(Debug, Default)]
pub struct SendSlab {
    /// All bytes, back to back.
    pub bytes: Vec<u8>,
    /// The datagrams in order.
    pub datagrams: Vec<Datagram>,
}

/// One datagram in a [`SendSlab`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// From which of our addresses.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// Offset in the slab.
    pub start: u32,
    /// Bytes.
    pub len: u32,
}

/// What a transport has to say.
#[derive(Debug)]
pub enum TransportEvent {
    /// ICE and DTLS are up, keys are known: media flows.
    Connected,
    /// ICE lost the peer; a restart may bring it back.
    Disconnected,
    /// The transport is dead.
    Closed,
    /// The client's SDP added (or re-enabled) a section that we receive.
    ReceiveSection {
        /// mid.
        mid: String,
        /// Audio or video.
        kind: MediaKind,
        /// Track id of its msid (LiveKit's cid), or empty.
        track_id: String,
        /// Simulcast rids, lowest first as the client orders them; empty if none.
        rids: Vec<String>,
    },
    /// The client's SDP ended a receiving section.
    ReceiveSectionEnded {
        /// mid.
        mid: String,
    },
    /// First packet of a receiving stream: which section and layer it is.
    ReceiveStream {
        /// From now on known as.
        recv: RecvId,
        /// Section.
        mid: String,
        /// Layer, or None.
        rid: Option<String>,
    },
    /// A packet arrived, decrypted; retransmissions (RTX) come as the original, duplicates do not come.
    Rtp {
        /// Which stream.
        recv: RecvId,
        /// The packet.
        packet: RtpPacket,
    },
    /// The subscriber asks for a key frame (PLI or FIR).
    KeyFrameRequested {
        /// Of which track.
        send: SendId,
    },
    /// The subscriber lost these; the room looks them up in the publication's history and calls `send_retransmission`.
    Nack {
        /// Of which track.
        send: SendId,
        /// Extended sequence numbers in the subscriber's numbering.
        seqs: Vec<u64>,
    },
    /// The subscriber's report on a track we send.
    ReceiverReport {
        /// Which track.
        send: SendId,
        /// Fraction lost, 0 to 1.
        loss: f32,
        /// Jitter in clock units.
        jitter: u32,
        /// Round trip, if known.
        rtt: Option<std::time::Duration>,
    },
    /// The estimate of what the peer's downlink takes, bits per second. Changed noticeably.
    BandwidthEstimate {
        /// Bits per second.
        bps: u64,
        /// Congested now: lower at once rather than at the next round.
        congested: bool,
    },
    /// Which send tracks are negotiated now (after each offer/answer): tracks not listed cannot be sent on.
    Negotiated {
        /// mid, track, codecs in the peer's preference.
        sends: Vec<(String, SendId, Vec<Codec>)>,
    },
    /// A data channel is open.
    ChannelOpen {
        /// The channel.
        channel: ChannelId,
        /// Its label.
        label: String,
    },
    /// A message.
    ChannelData {
        /// The channel.
        channel: ChannelId,
        /// Binary or text.
        binary: bool,
        /// Bytes.
        data: Vec<u8>,
    },
    /// A channel closed.
    ChannelClosed {
        /// The channel.
        channel: ChannelId,
    },
}

/// Output of [`Transport::poll_output`].
#[derive(Debug)]
pub enum TransportOutput {
    /// Something happened.
    Event(TransportEvent),
    /// Nothing more now; call `handle_timeout` at this instant.
    Timeout(Instant),
}

/// Why SDP or a candidate could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NegotiationError {
    /// The text is not SDP, or lacks what WebRTC needs.
    #[error("the session description cannot be read: {0}")]
    Sdp(String),
    /// The description does not fit the state (an answer without an offer, a changed section order).
    #[error("the session description does not fit: {0}")]
    State(String),
    /// Not a candidate line.
    #[error("the ICE candidate cannot be read: {0}")]
    Candidate(String),
    /// More sections, candidates or streams than allowed.
    #[error("too many {what}: {count}, at most {limit} are taken")]
    Limit {
        /// What.
        what: &'static str,
        /// How many.
        count: usize,
        /// Limit.
        limit: usize,
    },
}

/// A local description and which section carries which of our send tracks.
#[derive(Debug, Clone)]
pub struct LocalDescription {
    /// SDP text.
    pub sdp: String,
    /// mid -> send track.
    pub sends: Vec<(String, SendId)>,
}

/// Counters of what a transport dropped, cumulative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// SRTP or SRTCP that did not open.
    pub bad_tag: u64,
    /// Packets of SSRCs that no section announced.
    pub unknown_ssrc: u64,
    /// A limit was hit.
    pub limit_hits: u64,
    /// Media packets sent first time.
    pub rtp_sent: u64,
    /// Retransmissions sent.
    pub rtx_sent: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
}

/// The process's one DTLS certificate and the crypto provider that all transports share.
pub struct Identity {
    _private: (),
}

impl Identity {
    /// Makes the certificate. Once per process.
    pub fn new() -> Arc<Identity> {
        Arc::new(Identity { _private: () })
    }
}

/// One peer connection.
pub struct Transport {
    _private: (),
}

#[allow(unused_variables)]
impl Transport {
    /// A transport that waits for its first description.
    pub fn new(config: TransportConfig, identity: &Arc<Identity>, now: Instant) -> Transport {
        Transport { _private: () }
    }

    /// Is this a datagram of this transport? STUN by ufrag and MAC, everything else by validated address.
    pub fn accepts(&self, source: SocketAddr, destination: SocketAddr, datagram: &[u8]) -> bool {
        false
    }

    /// Takes a datagram. What is not ours, or does not open, is dropped and counted.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        source: SocketAddr,
        destination: SocketAddr,
        datagram: &[u8],
        slab: &mut SendSlab,
    ) {
    }

    /// Time went by: call at the instant that [`Transport::poll_output`] named, or later.
    pub fn handle_timeout(&mut self, now: Instant, slab: &mut SendSlab) {}

    /// The next event, or the next deadline.
    pub fn poll_output(&mut self, now: Instant, slab: &mut SendSlab) -> TransportOutput {
        TransportOutput::Timeout(now)
    }

    /// The client offers. Single connection: send tracks are placed on the client's receiving sections, with our own msid.
    pub fn accept_offer(&mut self, now: Instant, sdp: &str) -> Result<LocalDescription, NegotiationError> {
        Err(NegotiationError::State(String::new()))
    }

    /// Single connection: send tracks (audio, video) without a section.
    pub fn sections_missing(&self) -> (u32, u32) {
        (0, 0)
    }

    /// We offer. None: nothing to negotiate, or an offer is pending.
    pub fn create_offer(&mut self, now: Instant) -> Option<LocalDescription> {
        None
    }

    /// The next [`Transport::create_offer`] carries new ICE credentials.
    pub fn restart_ice(&mut self, now: Instant, ufrag: String, pwd: String) {}

    /// The client's answer to our pending offer.
    pub fn accept_answer(&mut self, now: Instant, sdp: &str) -> Result<(), NegotiationError> {
        Err(NegotiationError::State(String::new()))
    }

    /// A trickled candidate line, `candidate:...`. Host names (mDNS) and TCP candidates are ignored.
    pub fn add_remote_candidate(&mut self, line: &str) -> Result<(), NegotiationError> {
        Ok(())
    }

    /// A track that the next negotiation places on a section.
    pub fn add_send_track(&mut self, track: SendTrack) -> SendId {
        SendId(0)
    }

    /// The section goes inactive and is reused.
    pub fn remove_send_track(&mut self, send: SendId) {}

    /// Seals a packet into the slab.
    pub fn send_rtp(&mut self, now: Instant, send: SendId, packet: &OutgoingRtp<'_>, slab: &mut SendSlab) -> Sent {
        Sent::NotReady
    }

    /// Seals a packet into the slab once more, as RTX (RFC 4588) where that was negotiated.
    pub fn send_retransmission(&mut self, now: Instant, send: SendId, packet: &OutgoingRtp<'_>, slab: &mut SendSlab) -> Sent {
        Sent::NotReady
    }

    /// PLI to the publisher; throttling is the room's.
    pub fn request_key_frame(&mut self, now: Instant, recv: RecvId) {}

    /// False: the buffer is over its limit and the message was dropped.
    pub fn send_data(&mut self, channel: ChannelId, binary: bool, data: &[u8]) -> bool {
        false
    }

    /// Bytes that wait in a data channel's send buffer.
    pub fn buffered_bytes(&self, channel: ChannelId) -> usize {
        0
    }

    /// Says goodbye to the peer (DTLS close_notify) and ends.
    pub fn close(&mut self, now: Instant, slab: &mut SendSlab) {}

    /// Counters.
    pub fn stats(&self) -> TransportStats {
        TransportStats::default()
    }

    /// ICE and DTLS are up.
    pub fn is_connected(&self) -> bool {
        false
    }

    /// The peer's address on the nominated pair.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        None
    }
}
