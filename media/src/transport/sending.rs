//! What we send: tracks with their SSRCs, packets into the egress, and what the peer reports about them.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::receiving::Receiving;
use super::{OutgoingRtp, SendId, SendSlab, SendTrack, Sent, Transport, TransportEvent};
use crate::egress::feedback::{self, Feedback};
use crate::egress::seal::Unopened;
use crate::egress::{Sealed, SendStream};
use crate::packet::MediaKind;

/// Lost sequence numbers that are taken of one feedback datagram; more would be answered by a burst that loses more.
const MAX_NACKED: usize = 256;
/// Odd, so that adding it walks through all 2^32 SSRCs before one returns: no SSRC is used twice under one key.
const SSRC_STEP: u32 = 0x9E37_79B1;

/// A track with its stream.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) track: SendTrack,
    pub(super) stream: SendStream,
}

/// State of the sending side.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) tracks: BTreeMap<SendId, Track>,
    by_ssrc: HashMap<u32, SendId>,
    next: u32,
    next_ssrc: u32,
    route_question_ssrc: u32,
    cname: String,
    random: fastrand::Rng,
}

impl Sending {
    pub(super) fn new(seed: u64) -> Sending {
        let mut random = fastrand::Rng::with_seed(seed);
        let cname = std::iter::repeat_with(|| random.alphanumeric()).take(16).collect();
        let route_question_ssrc = random.u32(1..);
        Sending {
            tracks: BTreeMap::new(),
            by_ssrc: HashMap::new(),
            next: 0,
            next_ssrc: route_question_ssrc.wrapping_add(SSRC_STEP),
            route_question_ssrc,
            cname,
            random,
        }
    }

    /// The CNAME of everything that this transport sends, in SDP and in reports alike.
    pub(super) fn cname(&self) -> &str {
        &self.cname
    }

    /// The SSRC under which str0m is asked where it sends to; never on the wire.
    pub(super) fn route_question_ssrc(&self) -> u32 {
        self.route_question_ssrc
    }

    /// Whether an SSRC is one of ours.
    pub(super) fn owns(&self, ssrc: u32) -> bool {
        self.by_ssrc.contains_key(&ssrc)
    }

    pub(super) fn add(&mut self, track: SendTrack, receiving: &Receiving) -> SendId {
        let send = SendId(self.next);
        self.next += 1;
        let (ssrc, rtx_ssrc) = (self.new_ssrc(receiving), self.new_ssrc(receiving));
        self.by_ssrc.insert(ssrc, send);
        self.by_ssrc.insert(rtx_ssrc, send);
        let stream = SendStream::new(track.kind, ssrc, rtx_ssrc, self.random.u16(..0x8000));
        self.tracks.insert(send, Track { track, stream });
        send
    }

    pub(super) fn remove(&mut self, send: SendId) {
        if let Some(track) = self.tracks.remove(&send) {
            self.by_ssrc.remove(&track.stream.ssrc());
            self.by_ssrc.remove(&track.stream.rtx_ssrc());
        }
    }

    fn new_ssrc(&mut self, receiving: &Receiving) -> u32 {
        loop {
            let ssrc = self.next_ssrc;
            self.next_ssrc = self.next_ssrc.wrapping_add(SSRC_STEP);
            // SSRC 0 is browsers' probing; an SSRC of the peer's would confuse every report.
            if ssrc != 0 && ssrc != self.route_question_ssrc && !receiving.knows(ssrc) {
                return ssrc;
            }
        }
    }
}

impl Transport {
    pub(super) fn seal_first(&mut self, now: Instant, send: SendId, packet: &OutgoingRtp<'_>, slab: &mut SendSlab) -> Sent {
        let (Some(session), Some(route), Some(track)) = (self.session.as_mut(), self.route, self.sending.tracks.get_mut(&send)) else {
            return Sent::NotReady;
        };
        let sealed = session.egress.send(now, route, &mut track.stream, packet, slab);
        let sent = self.account(now, sealed);
        self.stats.rtp_sent += u64::from(sent == Sent::Yes);
        sent
    }

    pub(super) fn seal_again(&mut self, now: Instant, send: SendId, packet: &OutgoingRtp<'_>, slab: &mut SendSlab) -> Sent {
        let (Some(session), Some(route), Some(track)) = (self.session.as_mut(), self.route, self.sending.tracks.get_mut(&send)) else {
            return Sent::NotReady;
        };
        let sealed = session.egress.resend(route, &mut track.stream, packet, slab);
        let sent = self.account(now, sealed);
        self.stats.rtx_sent += u64::from(sent == Sent::Yes);
        sent
    }

    fn account(&mut self, now: Instant, sealed: Sealed) -> Sent {
        match sealed {
            Sealed::Packet { bytes, transport_sequence } => {
                self.stats.bytes_sent += bytes as u64;
                self.estimator.on_sent(now, transport_sequence, bytes);
                Sent::Yes
            }
            Sealed::NotNegotiated => Sent::NotReady,
            Sealed::Repeated => {
                self.stats.repeated += 1;
                Sent::Repeated
            }
        }
    }

    /// Opens an RTCP datagram and takes what it says about our streams. True: str0m needs it too.
    pub(super) fn read_feedback(&mut self, now: Instant, datagram: &[u8]) -> bool {
        let Some(session) = self.session.as_mut() else {
            self.stats.unvalidated += 1;
            return false;
        };
        let compound = match session.opener.open_rtcp(datagram) {
            Ok(compound) => compound,
            Err(reason) => {
                match reason {
                    Unopened::BadTag => self.stats.bad_tag += 1,
                    Unopened::Replayed => self.stats.replayed += 1,
                    Unopened::Limit => self.stats.limit_hits += 1,
                }
                return false;
            }
        };
        let egress = &session.egress;
        let sending = &mut self.sending;
        let mut nacked = 0;
        let for_receiver = feedback::read(compound, |feedback| match feedback {
            Feedback::Report(block) => {
                let Some(send) = sending.by_ssrc.get(&block.ssrc).copied() else {
                    return;
                };
                let Some(track) = sending.tracks.get_mut(&send) else {
                    return;
                };
                if track.stream.ssrc() != block.ssrc {
                    return;
                }
                let rtt = egress.round_trip(now, &block);
                track.stream.mark_known(rtt);
                let loss = f32::from(block.fraction_lost) / 256.0;
                self.estimator.on_report(now, loss, rtt);
                self.events.push_back(TransportEvent::ReceiverReport { send, loss, jitter: block.jitter, rtt });
            }
            Feedback::Nack { ssrc, entries } => {
                let Some(send) = sending.by_ssrc.get(&ssrc).copied() else {
                    return;
                };
                let Some(track) = sending.tracks.get_mut(&send) else {
                    return;
                };
                if track.stream.ssrc() != ssrc {
                    return;
                }
                let room = MAX_NACKED - nacked;
                let asked = entries.sequences().count();
                self.stats.limit_hits += u64::from(asked > room);
                nacked += asked.min(room);
                let seqs: Vec<u64> =
                    entries.sequences().take(room).filter_map(|sequence| track.stream.asked_again(now, sequence)).collect();
                if !seqs.is_empty() {
                    self.events.push_back(TransportEvent::Nack { send, seqs });
                }
            }
            Feedback::KeyFrame { ssrc } => {
                let Some(send) = sending.by_ssrc.get(&ssrc).copied() else {
                    return;
                };
                let is_video = sending.tracks.get(&send).is_some_and(|track| track.track.kind == MediaKind::Video);
                if is_video {
                    self.events.push_back(TransportEvent::KeyFrameRequested { send });
                }
            }
            Feedback::Transport(feedback) => {
                self.estimator.on_feedback(now, &feedback, |sequence| egress.extend_transport_sequence(sequence));
            }
        });
        self.poll_estimate(now);
        for_receiver
    }

    pub(super) fn poll_estimate(&mut self, now: Instant) {
        if let Some(estimate) = self.estimator.poll(now) {
            self.events.push_back(TransportEvent::BandwidthEstimate { bps: estimate.bps, congested: estimate.congested });
        }
    }
}
