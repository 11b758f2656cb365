//! Driving str0m and standing in front of it: datagrams in, datagrams out, time, life and death of the connection.
//!
//! Rules: str0m sees nothing from an address that ICE has not validated, and no RTP of an SSRC before its first packet
//! opened; every datagram that it emits is checked not to speak under an SSRC of ours.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use str0m::net::{Protocol, Receive, Transmit};
use str0m::rtp::{Extension, ExtensionMap};
use str0m::{Candidate, Event, IceConnectionState, IceCreds, Input, Output, Rtc, RtcConfig};

use super::description::DEPENDENCY_DESCRIPTOR;
use super::receiving::DescriptorReader;
use super::{SendSlab, Transport, TransportConfig, TransportEvent};
use crate::egress::keys::MasterKeys;
use crate::egress::seal::Opener;
use crate::egress::{Egress, Route, header};
use crate::fault;

/// Data that may wait for a slow receiver, all channels of a connection together, in bytes.
const MAX_CHANNEL_BACKLOG: usize = 512 * 1024;
/// Largest data channel message that is taken, in bytes.
const MAX_MESSAGE: u32 = 256 * 1024;
/// Deadline of a machine that waits for nothing.
const IDLE: Duration = Duration::from_secs(3600);

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    New,
    Connected,
    Disconnected,
    Closed,
}

/// What exists from the end of the DTLS handshake on.
pub(super) struct SecureSession {
    pub(super) egress: Egress,
    pub(super) opener: Opener,
}

impl SecureSession {
    pub(super) fn new(keys: &MasterKeys, cname: String, clock: crate::egress::report::ReportClock) -> SecureSession {
        SecureSession { egress: Egress::new(&keys.local, cname, clock), opener: Opener::new(&keys.remote) }
    }
}

/// How str0m is set up: RTP mode, the forwarded codecs, the extensions that are used; no bandwidth estimation, no pacing
/// and no statistics of its own.
pub(super) fn library_config(config: &TransportConfig, credentials: IceCreds) -> RtcConfig {
    let mut extensions = ExtensionMap::empty();
    extensions.set(1, Extension::AudioLevel);
    extensions.set(3, Extension::TransportSequenceNumber);
    extensions.set(4, Extension::RtpMid);
    extensions.set(5, Extension::PlayoutDelay);
    extensions.set(8, Extension::with_serializer(DEPENDENCY_DESCRIPTOR, DescriptorReader));
    extensions.set(10, Extension::RtpStreamId);
    extensions.set(11, Extension::RepairedRtpStreamId);
    extensions.set(13, Extension::VideoOrientation);

    let mut library = RtcConfig::new()
        .set_local_ice_credentials(credentials)
        .set_ice_lite(config.ice_lite)
        .set_rtp_mode(true)
        .set_extension_map(extensions)
        .set_sctp_max_buffered_amount(MAX_CHANNEL_BACKLOG)
        .set_sctp_max_message_size(MAX_MESSAGE)
        .clear_codecs()
        .enable_opus(true, true)
        .enable_vp8(true)
        .enable_av1(true);
    let codecs = library.codec_config();
    codecs.add_h264(108.into(), Some(109.into()), true, 0x42_e0_1f);
    codecs.add_h264(127.into(), Some(121.into()), true, 0x42_00_1f);
    codecs.add_config(
        98.into(),
        Some(99.into()),
        str0m::format::Codec::Vp9,
        str0m::media::Frequency::NINETY_KHZ,
        None,
        str0m::format::FormatParams { profile_id: Some(0), ..Default::default() },
    );
    library
}

/// Host candidates; one that str0m does not take (an unspecified address) is said and left out.
pub(super) fn add_local_candidates(rtc: &mut Rtc, addresses: &[SocketAddr]) {
    for address in addresses {
        match Candidate::host(*address, "udp") {
            Ok(candidate) => {
                rtc.add_local_candidate(candidate);
            }
            Err(error) => {
                tracing::warn!(%address, %error, "this address cannot be an ICE candidate and is left out")
            }
        }
    }
}

/// What a datagram is by its first bytes (RFC 7983, RFC 5761).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stun,
    Dtls,
    Rtp,
    Rtcp,
    Unknown,
}

fn kind(datagram: &[u8]) -> Kind {
    match datagram {
        [0..=1, ..] => Kind::Stun,
        [20..=63, ..] => Kind::Dtls,
        [128..=191, second, ..] if (64..96).contains(&(second & 0x7f)) => Kind::Rtcp,
        [128..=191, _, ..] => Kind::Rtp,
        _ => Kind::Unknown,
    }
}

impl Transport {
    pub(super) fn is_ours(&self, source: SocketAddr, destination: SocketAddr, datagram: &[u8]) -> bool {
        if kind(datagram) != Kind::Stun && self.route.is_some_and(|route| route.destination == source) {
            return true;
        }
        // The time is not looked at.
        Receive::new(Protocol::Udp, source, destination, datagram)
            .is_ok_and(|receive| self.rtc.accepts(&Input::Receive(self.rtc_deadline, receive)))
    }

    pub(super) fn receive_datagram(
        &mut self,
        now: Instant,
        source: SocketAddr,
        destination: SocketAddr,
        datagram: &[u8],
        slab: &mut SendSlab,
    ) {
        if !self.is_ours(source, destination, datagram) {
            self.stats.unvalidated += 1;
            return;
        }
        match kind(datagram) {
            Kind::Rtp => self.receive_rtp(now, source, destination, datagram, slab),
            Kind::Rtcp => {
                if self.read_feedback(now, datagram) {
                    self.pass_on(now, source, destination, datagram, slab);
                }
            }
            Kind::Stun => {
                self.pass_on(now, source, destination, datagram, slab);
                // Only ICE traffic of another pair can mean that the nominated pair changed.
                if self.route.is_some_and(|route| route.destination != source || route.source != destination) {
                    self.ask_route(now, slab);
                }
            }
            Kind::Dtls => self.pass_on(now, source, destination, datagram, slab),
            Kind::Unknown => self.stats.unvalidated += 1,
        }
    }

    /// Gives a datagram to str0m and takes what comes of it.
    pub(super) fn pass_on(&mut self, now: Instant, source: SocketAddr, destination: SocketAddr, datagram: &[u8], slab: &mut SendSlab) {
        let Ok(receive) = Receive::new(Protocol::Udp, source, destination, datagram) else {
            return;
        };
        if let Err(error) = self.rtc.handle_input(Input::Receive(now, receive)) {
            self.fail(&error.to_string());
            return;
        }
        self.drain(now, slab);
    }

    pub(super) fn advance(&mut self, now: Instant, slab: &mut SendSlab) {
        if now >= self.rtc_deadline || self.rtc_dirty {
            if let Err(error) = self.rtc.handle_input(Input::Timeout(now)) {
                self.fail(&error.to_string());
                return;
            }
            self.drain(now, slab);
        }
        self.poll_estimate(now);
    }

    /// Takes everything that str0m has to say, until it names its next deadline.
    pub(super) fn drain(&mut self, now: Instant, slab: &mut SendSlab) {
        self.rtc_dirty = false;
        loop {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(deadline)) => {
                    self.rtc_deadline = deadline;
                    break;
                }
                Ok(Output::Transmit(transmit)) => self.forward_transmit(&transmit, slab),
                Ok(Output::Event(event)) => self.take_event(now, event),
                Err(error) => {
                    self.fail(&error.to_string());
                    return;
                }
            }
        }
        if !self.rtc.is_alive() {
            self.fail("the peer closed the connection");
        }
    }

    pub(super) fn next_deadline(&self, now: Instant) -> Instant {
        if self.life == Life::Closed {
            return now + IDLE;
        }
        let own = self.estimator.next_deadline();
        own.map_or(self.rtc_deadline, |own| own.min(self.rtc_deadline)).min(now + IDLE)
    }

    /// Writes a datagram of str0m's into the slab. DTLS and SRTCP go to the nominated pair: their destination is our route.
    fn forward_transmit(&mut self, transmit: &Transmit, slab: &mut SendSlab) {
        let datagram: &[u8] = &transmit.contents;
        let route = Route { source: transmit.source, destination: transmit.destination };
        match kind(datagram) {
            Kind::Dtls => self.route = Some(route),
            Kind::Rtcp => {
                self.route = Some(route);
                let ssrc = datagram.get(4..8).map(|ssrc| u32::from_be_bytes([ssrc[0], ssrc[1], ssrc[2], ssrc[3]]));
                if ssrc == Some(self.sending.route_question_ssrc()) {
                    return;
                }
                if ssrc.is_some_and(|ssrc| self.sending.owns(ssrc)) {
                    self.refuse_foreign_speech("RTCP under an SSRC of ours");
                    return;
                }
            }
            Kind::Rtp => {
                let ssrc = header::peek(datagram).map(|peeked| peeked.ssrc).unwrap_or_default();
                tracing::error!(ssrc, "the WebRTC library sent RTP");
                self.refuse_foreign_speech("RTP");
                return;
            }
            Kind::Stun | Kind::Unknown => {}
        }
        let start = slab.bytes.len();
        slab.bytes.extend_from_slice(datagram);
        slab.finish(route, start);
    }

    /// The library must never speak under our SSRCs: nonces would repeat. The datagram is dropped and counted.
    fn refuse_foreign_speech(&mut self, what: &str) {
        self.stats.library_speech += 1;
        debug_assert!(false, "the WebRTC library sent {what}");
        tracing::error!(what, "the WebRTC library sent what only the send path may send; dropped");
    }

    /// No event of str0m's names the nominated pair, but its feedback goes there: one is asked for, its destination noted,
    /// and the datagram dropped (see `forward_transmit`).
    fn ask_route(&mut self, now: Instant, slab: &mut SendSlab) {
        if self.session.is_none() {
            return;
        }
        let ssrc = self.sending.route_question_ssrc().into();
        self.rtc.direct_api().send_app_specific_feedback(ssrc, ssrc, [0u8; 4]);
        self.drain(now, slab);
    }

    fn take_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Connected => {
                if self.session.is_none()
                    && let Some(keys) = self.keys.get()
                {
                    self.session = Some(SecureSession::new(keys, self.sending.cname().to_owned(), self.clock));
                }
                self.life = Life::Connected;
                self.events.push_back(TransportEvent::Connected);
            }
            Event::IceConnectionStateChange(state) => self.follow_ice(state),
            Event::RtpPacket(packet) => self.take_rtp(packet),
            Event::ChannelOpen(channel, label) => self.channel_opened(channel, label),
            Event::ChannelData(data) => self.channel_message(data),
            Event::ChannelClose(channel) => self.channel_closed(channel),
            Event::Closed => self.fail("the peer closed the connection"),
            _ => {}
        }
        let _ = now;
    }

    fn follow_ice(&mut self, state: IceConnectionState) {
        match (state, self.life) {
            (IceConnectionState::Disconnected, Life::Connected) => {
                self.life = Life::Disconnected;
                self.events.push_back(TransportEvent::Disconnected);
            }
            (IceConnectionState::Disconnected, Life::New) => self.events.push_back(TransportEvent::Disconnected),
            (IceConnectionState::Connected | IceConnectionState::Completed, Life::Disconnected) => {
                self.life = Life::Connected;
                self.events.push_back(TransportEvent::Connected);
            }
            _ => {}
        }
    }

    /// Runs the connection's machinery; a fault in it ends this connection and no other. What it may have left half-done is its own,
    /// and the slab's, where bytes that no datagram names are not sent. The send path, which is ours, does not come by here.
    pub(super) fn contained<T>(&mut self, ended: T, run: impl FnOnce(&mut Transport) -> T) -> T {
        fault::caught(|| run(self)).unwrap_or_else(|fault| {
            tracing::error!(fault, ufrag = self.negotiation.local_ufrag(), "a fault ended a media connection");
            self.stats.faults += 1;
            self.fail("a fault in the code that runs it");
            ended
        })
    }

    /// The end, said once.
    pub(super) fn fail(&mut self, reason: &str) {
        if self.life != Life::Closed {
            tracing::debug!(reason, "transport closed");
            self.life = Life::Closed;
            self.events.push_back(TransportEvent::Closed);
        }
    }

    pub(super) fn shut_down(&mut self, now: Instant, slab: &mut SendSlab) {
        if self.life == Life::Closed {
            return;
        }
        if self.rtc.close().is_ok() {
            self.drain(now, slab);
        }
        self.life = Life::Closed;
        self.events.clear();
    }
}
