//! One peer connection. The seam that keeps forwarding code free of the WebRTC library: str0m does ICE, DTLS, SCTP, SDP and
//! receiving; `egress` seals and sends RTP (see ARCHITECTURE.md, "The send path").
//!
//! Rule: after every call that takes `&mut self`, call [`Transport::poll_output`] until it answers `Timeout`.

mod candidate;
mod channels;
mod connection;
mod description;
mod identity;
mod negotiation;
mod receiving;
mod remote;
mod sending;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use str0m::{IceCreds, Rtc};

use self::channels::Channels;
use self::connection::{Life, SecureSession};
pub use self::identity::Identity;
use self::identity::KeySlot;
use self::negotiation::Negotiation;
use self::receiving::Receiving;
pub use self::remote::{RemoteAnswer, RemoteCandidate, RemoteOffer};
use self::sending::Sending;
use crate::egress::Route;
use crate::egress::report::ReportClock;
use crate::estimate::Estimator;
use crate::fault;
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
    /// Local ICE ufrag; its first part names the shard. From a cryptographic generator. When the client restarts ICE, ours
    /// becomes this followed by `/1`, `/2` and so on: what stands before the slash finds the transport for life.
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
    /// Not connected, or the section is not negotiated, or its codec is not (for a retransmission: RTX is not).
    NotReady,
    /// This sequence number was sealed before on this track, or is more than 1,023 behind the newest: dropped, because a
    /// second packet under one number would break the encryption. The numbering of the caller is wrong.
    Repeated,
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

/// In which codec a client shall send a track. Nothing is wished where the client's offer has not got it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecWish {
    /// In this one; the answer names no other.
    Only(Codec),
    /// In this one; the answer names the others after it, so that the client may change.
    First(Codec),
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

impl NegotiationError {
    fn fault() -> NegotiationError {
        NegotiationError::State("a fault of the server ended the connection; connect again".to_owned())
    }
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
    /// SRTCP that had come before: duplicates of the network's, or replays.
    pub replayed: u64,
    /// Datagrams from addresses that ICE has not validated, and STUN that is not for us.
    pub unvalidated: u64,
    /// Packets of SSRCs that no section announced.
    pub unknown_ssrc: u64,
    /// A limit was hit.
    pub limit_hits: u64,
    /// Packets of ours whose sequence number had been sealed before.
    pub repeated: u64,
    /// Datagrams of the WebRTC library that only the send path may send; always 0.
    pub library_speech: u64,
    /// Media packets sent first time.
    pub rtp_sent: u64,
    /// Retransmissions sent.
    pub rtx_sent: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// The connection ended by a fault in the code that runs it: 0 or 1.
    pub faults: u64,
}

/// One peer connection.
pub struct Transport {
    config: TransportConfig,
    rtc: Rtc,
    /// str0m was changed and not drained since.
    rtc_dirty: bool,
    rtc_deadline: Instant,
    keys: KeySlot,
    session: Option<SecureSession>,
    route: Option<Route>,
    life: Life,
    events: VecDeque<TransportEvent>,
    clock: ReportClock,
    negotiation: Negotiation,
    sending: Sending,
    receiving: Receiving,
    channels: Channels,
    estimator: Estimator,
    stats: TransportStats,
}

impl Transport {
    /// A transport that waits for its first description.
    pub fn new(config: TransportConfig, identity: &Arc<Identity>, now: Instant) -> Transport {
        let credentials = IceCreds { ufrag: config.ice_ufrag.clone(), pass: config.ice_pwd.clone() };
        let (mut rtc, keys) = identity.build(connection::library_config(&config, credentials), now);
        connection::add_local_candidates(&mut rtc, &config.candidates);
        Transport {
            rtc,
            rtc_dirty: true,
            rtc_deadline: now,
            keys,
            session: None,
            route: None,
            life: Life::New,
            events: VecDeque::new(),
            clock: ReportClock::new(now),
            negotiation: Negotiation::new(&config),
            sending: Sending::new(config.seed),
            receiving: Receiving::default(),
            channels: Channels::default(),
            estimator: Estimator::new(now),
            stats: TransportStats::default(),
            config,
        }
    }

    /// Is this a datagram of this transport? STUN by ufrag and MAC, everything else by validated address.
    pub fn accepts(&self, source: SocketAddr, destination: SocketAddr, datagram: &[u8]) -> bool {
        // Whoever knows a ufrag is heard this far. Nothing was changed: the datagram is dropped as any that is not ours.
        fault::caught(|| self.is_ours(source, destination, datagram)).unwrap_or(false)
    }

    /// Takes a datagram. What is not ours, or does not open, is dropped and counted.
    pub fn handle_datagram(&mut self, now: Instant, source: SocketAddr, destination: SocketAddr, datagram: &[u8], slab: &mut SendSlab) {
        if self.life != Life::Closed {
            self.contained((), |this| this.receive_datagram(now, source, destination, datagram, slab));
        }
    }

    /// Time went by: call at the instant that [`Transport::poll_output`] named, or later.
    pub fn handle_timeout(&mut self, now: Instant, slab: &mut SendSlab) {
        if self.life != Life::Closed {
            self.contained((), |this| this.advance(now, slab));
        }
    }

    /// The next event, or the next deadline.
    pub fn poll_output(&mut self, now: Instant, slab: &mut SendSlab) -> TransportOutput {
        if self.rtc_dirty && self.life != Life::Closed {
            self.contained((), |this| this.drain(now, slab));
        }
        match self.events.pop_front() {
            Some(event) => TransportOutput::Event(event),
            None => TransportOutput::Timeout(self.next_deadline(now)),
        }
    }

    /// The client offers. Single connection: send tracks are placed on the client's receiving sections, with our own msid.
    ///
    /// # Errors
    ///
    /// [`NegotiationError`] with what was wrong; the transport goes on as before the offer unless it was so broken that
    /// the connection ends, which comes as [`TransportEvent::Closed`].
    pub fn accept_offer(&mut self, _now: Instant, offer: RemoteOffer) -> Result<LocalDescription, NegotiationError> {
        self.contained(Err(NegotiationError::fault()), |this| this.answer(offer.0))
    }

    /// Before [`Transport::accept_offer`]: how the client's track with this msid track id (LiveKit's cid) is taken. `None`, as without
    /// a word of this: audio comes as RED where the client has it, and video in the codec that the client offers first.
    pub fn wish_received(&mut self, track_id: String, wish: Option<CodecWish>) {
        self.negotiation.wish_received(track_id, wish);
    }

    /// Single connection: send tracks (audio, video) without a section: so many receiving sections the client must add.
    pub fn sections_missing(&self) -> (u32, u32) {
        self.negotiation.placement.sections_missing(&self.sending)
    }

    /// Single connection: the client must offer again (even where no section is missing), so that added tracks are placed
    /// on sections that became free and the sections of removed tracks go inactive.
    pub fn needs_client_offer(&self) -> bool {
        !self.config.offerer && self.negotiation.placement.is_due(&self.sending)
    }

    /// We offer. None: nothing to negotiate, or an offer is pending.
    pub fn create_offer(&mut self, _now: Instant) -> Option<LocalDescription> {
        self.contained(None, Transport::offer)
    }

    /// The next [`Transport::create_offer`] carries new ICE credentials. Where the client offers, it must restart.
    pub fn restart_ice(&mut self, _now: Instant, ufrag: String, pwd: String) {
        self.negotiation.request_restart(ufrag, pwd);
    }

    /// The client's answer to our pending offer.
    ///
    /// # Errors
    ///
    /// [`NegotiationError::State`] without a pending offer: nothing happened. Anything else says what was wrong with the answer,
    /// and the connection ends ([`TransportEvent::Closed`]).
    pub fn accept_answer(&mut self, _now: Instant, answer: RemoteAnswer) -> Result<(), NegotiationError> {
        self.contained(Err(NegotiationError::fault()), |this| this.apply_answer(answer.0))
    }

    /// A trickled candidate.
    ///
    /// # Errors
    ///
    /// [`NegotiationError::Limit`] when there are too many.
    pub fn add_remote_candidate(&mut self, candidate: RemoteCandidate) -> Result<(), NegotiationError> {
        self.contained(Err(NegotiationError::fault()), |this| this.trickle(candidate.0))
    }

    /// Our ICE ufrag now.
    pub fn local_ufrag(&self) -> &str {
        self.negotiation.local_ufrag()
    }

    /// A track that the next negotiation places on a section.
    pub fn add_send_track(&mut self, track: SendTrack) -> SendId {
        self.sending.add(track, &self.receiving)
    }

    /// The section goes inactive and is reused.
    pub fn remove_send_track(&mut self, send: SendId) {
        self.sending.remove(send);
        self.negotiation.placement.release(send);
    }

    /// Seals a packet into the slab.
    pub fn send_rtp(&mut self, now: Instant, send: SendId, packet: &OutgoingRtp<'_>, slab: &mut SendSlab) -> Sent {
        self.seal_first(now, send, packet, slab)
    }

    /// Seals a packet into the slab once more, as RTX (RFC 4588).
    pub fn send_retransmission(&mut self, now: Instant, send: SendId, packet: &OutgoingRtp<'_>, slab: &mut SendSlab) -> Sent {
        self.seal_again(now, send, packet, slab)
    }

    /// PLI to the publisher; throttling is the room's.
    pub fn request_key_frame(&mut self, now: Instant, recv: RecvId) {
        self.contained((), |this| this.send_picture_loss(now, recv));
    }

    /// False: the channel is not open, or its buffer is over its limit and the message was dropped (and counted).
    pub fn send_data(&mut self, channel: ChannelId, binary: bool, data: &[u8]) -> bool {
        self.contained(false, |this| this.write_channel(channel, binary, data))
    }

    /// Bytes that wait in a data channel's send buffer.
    pub fn buffered_bytes(&mut self, channel: ChannelId) -> usize {
        self.contained(0, |this| this.channel_backlog(channel))
    }

    /// Says goodbye to the peer (DTLS close_notify) and ends.
    pub fn close(&mut self, now: Instant, slab: &mut SendSlab) {
        self.contained((), |this| this.shut_down(now, slab));
    }

    /// Counters.
    pub fn stats(&self) -> TransportStats {
        self.stats
    }

    /// ICE and DTLS are up.
    pub fn is_connected(&self) -> bool {
        self.life == Life::Connected
    }

    /// The peer's address on the nominated pair.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.route.map(|route| route.destination)
    }
}
