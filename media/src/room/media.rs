//! The way of a packet through a room, and of what comes back: losses and key-frame requests.
//!
//! Rule: a packet is looked up once (receiving stream -> publication and layer); what is the same for all subscribers is done
//! once; per subscriber there is a placement and a seal, and no allocation.

use std::sync::Arc;

use crate::control::Event;
use crate::forward::PacketFacts;
use crate::ids::{ParticipantKey, TrackKey};
use crate::packet::{Codec, MediaKind, RtpPacket};
use crate::publication::{Publication, RelayWish, Source};
use crate::red;
use crate::room::{Room, Turn};
use crate::shard::peers::PeerKey;
use crate::tap::TapPacket;
use crate::transport::{OutgoingRtp, RecvId, SendId, Sent, TransportEvent};
use crate::vp8::MAX_DESCRIPTOR;

/// Packets taken from one ring in one turn: 20 audio packets a second come from a healthy one; a flood must not stall others.
const RING_PACKETS_PER_TURN: usize = 64;

impl Room {
    /// Media and feedback of a transport.
    pub fn media_event(&mut self, turn: &mut Turn<'_>, peer_key: PeerKey, event: TransportEvent) {
        match event {
            TransportEvent::Rtp { recv, packet } => self.received(turn, peer_key, recv, &packet),
            TransportEvent::KeyFrameRequested { send } => {
                turn.stats.pli_in += 1;
                self.key_frame_requested(turn, peer_key, send);
            }
            TransportEvent::Nack { send, seqs } => self.retransmit(turn, peer_key, send, &seqs),
            TransportEvent::ReceiverReport { send, loss, rtt, .. } => {
                let Some(peer) = turn.peers.get(peer_key) else { return };
                let (participant, track) = (peer.participant, peer.sends.get(&send));
                if let Some(subscription) =
                    track.and_then(|t| self.publications.get_mut(t)).and_then(|p| p.subscriptions.get_mut(&participant))
                {
                    subscription.loss = loss;
                    subscription.rtt = rtt.or(subscription.rtt);
                }
            }
            other => tracing::debug!(room = ?self.key, event = ?other, "transport event without a meaning here"),
        }
    }

    /// A packet of a participant.
    fn received(&mut self, turn: &mut Turn<'_>, peer_key: PeerKey, recv: RecvId, packet: &RtpPacket) {
        turn.stats.rtp_in += 1;
        let Some(peer) = turn.peers.get(peer_key) else { return };
        let Some(&(track, layer)) = peer.receives.get(&recv) else {
            turn.stats.dropped_unknown_ssrc += 1;
            return;
        };
        if !self.participants.get(&peer.participant).is_some_and(|p| p.spec.permissions.publish) {
            return;
        }
        self.forward(turn, track, layer, packet);
    }

    /// Packets that wait in the rings of server-made and relayed publications.
    pub fn poll_rings(&mut self, turn: &mut Turn<'_>) {
        for track in self.rings.clone() {
            for _ in 0..RING_PACKETS_PER_TURN {
                let Some(publication) = self.publications.get_mut(&track) else { break };
                let (layer, packet) = match &mut publication.source {
                    Source::Made { packets, next_seq, .. } => {
                        let Ok(made) = packets.pop() else { break };
                        let seq = *next_seq;
                        *next_seq += 1;
                        let ext = crate::packet::Extensions {
                            audio_level: made.level,
                            voice: made.level.map(|level| level < 127),
                            ..Default::default()
                        };
                        let packet = RtpPacket {
                            arrival: turn.now,
                            codec: made.codec,
                            seq,
                            timestamp: made.timestamp,
                            marker: made.marker,
                            ext,
                            payload: made.payload,
                        };
                        (0, packet)
                    }
                    Source::Relayed(relay) => match relay.packets.pop() {
                        Ok(relayed) => (relayed.layer, relayed.packet),
                        Err(_) => break,
                    },
                    Source::Announced | Source::Local { .. } => break,
                };
                if usize::from(layer) >= publication.layers.len() {
                    if usize::from(layer) >= crate::publication::MAX_LAYERS {
                        turn.stats.limit_hits += 1;
                        continue;
                    }
                    publication.begin_stream(layer, None, packet.codec.clock_rate());
                }
                turn.stats.rtp_in += 1;
                self.forward(turn, track, layer, &packet);
            }
        }
    }

    /// One packet of a publication's layer to the tap and to all subscribers.
    fn forward(&mut self, turn: &mut Turn<'_>, track: TrackKey, layer: u8, packet: &RtpPacket) {
        let Some(publication) = self.publications.get_mut(&track) else { return };
        if publication.kind() != packet.codec.kind() {
            turn.stats.limit_hits += 1;
            return;
        }
        if publication.codec.is_none() {
            publication.codec = Some(packet.codec);
            turn.events.push_back(Event::TrackStarted { room: self.key, participant: publication.publisher, track, codec: packet.codec });
            self.attach_waiting(turn, track);
        }
        let Some(publication) = self.publications.get_mut(&track) else { return };
        let Some((facts, late)) = publication.receive(turn.now, layer, packet) else { return };
        if publication.muted {
            return;
        }
        self.unpacked.clear();
        if publication.kind() == MediaKind::Audio
            && (publication.tapped || packet.codec == Codec::Red && publication.subscriptions.values().any(|s| !s.takes(Codec::Red)))
        {
            let unpacked = &mut self.unpacked;
            publication.unpacker.unpack(packet, |opus| unpacked.push(opus.clone()));
            if publication.tapped {
                tap(turn, self.key, publication, &self.unpacked);
            }
        }
        let Publication { layers, subscriptions, spec, .. } = publication;
        let reference = |layer: u8| layers.get(usize::from(layer)).map(|l| &l.reference);
        for subscription in subscriptions.values_mut() {
            let Some((peer_key, send)) = subscription.sending.filter(|_| subscription.announced) else { continue };
            if subscription.takes(packet.codec) {
                let Some(placement) = subscription.place(spec.kind, layer, packet, &facts, late, reference) else { continue };
                let mut head = [0; MAX_DESCRIPTOR];
                let outgoing = placement.outgoing(packet, facts.vp8.as_ref(), &mut head);
                send_rtp(turn, peer_key, send, &outgoing);
            } else if packet.codec == Codec::Red && subscription.takes(Codec::Opus) {
                for opus in &self.unpacked {
                    let Some(placement) = subscription.place(spec.kind, layer, opus, &facts, late, reference) else { continue };
                    let mut head = [0; MAX_DESCRIPTOR];
                    send_rtp(turn, peer_key, send, &placement.outgoing(opus, None, &mut head));
                }
            }
        }
    }

    /// Begins a video subscription with what came since the last key frame, so that its picture does not wait for the next one:
    /// that frame was asked for while the subscriber was still connecting, or for somebody else a moment ago.
    pub fn catch_up(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, track: TrackKey) {
        let Some(publication) = self.publications.get_mut(&track) else { return };
        if publication.kind() != MediaKind::Video || publication.muted {
            return;
        }
        let Publication { layers, subscriptions, spec, .. } = publication;
        let Some(subscription) = subscriptions.get_mut(&key).filter(|s| s.is_fresh()) else { return };
        let (Some(target), Some((peer_key, send))) = (subscription.target, subscription.sending) else { return };
        let reference = |layer: u8| layers.get(usize::from(layer)).map(|l| &l.reference);
        let begin = (0..=target).rev().find_map(|index| {
            let layer = layers.get(usize::from(index)).filter(|l| l.is_live(turn.now))?;
            Some((index, layer, layer.since_key_frame(turn.now)?))
        });
        if let Some((index, layer, seqs)) = begin {
            for packet in seqs.filter_map(|seq| layer.history.get(seq)) {
                if !subscription.takes(packet.codec) {
                    continue;
                }
                let facts = PacketFacts::of(layer.stream, packet);
                let Some(placement) = subscription.place(spec.kind, index, packet, &facts, false, reference) else { continue };
                let mut head = [0; MAX_DESCRIPTOR];
                send_rtp(turn, peer_key, send, &placement.outgoing(packet, facts.vp8.as_ref(), &mut head));
                turn.stats.caught_up += 1;
            }
        }
        if subscription.awaits_key_frame() {
            self.request_key_frame(turn, track, target);
        }
    }

    /// A subscriber lost packets: they are looked up in the publication's history.
    fn retransmit(&mut self, turn: &mut Turn<'_>, peer_key: PeerKey, send: SendId, seqs: &[u64]) {
        turn.stats.nacked += seqs.len() as u64;
        let Some(peer) = turn.peers.get(peer_key) else { return };
        let (participant, Some(track)) = (peer.participant, peer.sends.get(&send)) else { return };
        let Some(publication) = self.publications.get_mut(track) else { return };
        let Publication { layers, subscriptions, .. } = publication;
        let Some(subscription) = subscriptions.get_mut(&participant) else { return };
        for &seq in seqs.iter().take(turn.limits.nacks_per_message) {
            let Some((stream, source_seq, placement)) = subscription.rewriter.source_of(seq) else { continue };
            let Some(packet) = layers.iter().find(|l| l.stream == stream).and_then(|l| l.history.get(source_seq)) else { continue };
            let unpacked;
            let packet = if subscription.takes(packet.codec) {
                packet
            } else {
                let Some(primary) = red::primary(&packet.payload) else { continue };
                unpacked = RtpPacket { codec: Codec::Opus, payload: Arc::from(primary), ..packet.clone() };
                &unpacked
            };
            let vp8 = if packet.codec == Codec::Vp8 { crate::vp8::Vp8Descriptor::parse(&packet.payload) } else { None };
            let mut head = [0; MAX_DESCRIPTOR];
            let outgoing = placement.outgoing(packet, vp8.as_ref(), &mut head);
            if let Some(peer) = turn.peers.touch(peer_key)
                && peer.transport.send_retransmission(turn.now, send, &outgoing, turn.slab) == Sent::Yes
            {
                turn.stats.retransmitted += 1;
            }
        }
    }

    fn key_frame_requested(&mut self, turn: &mut Turn<'_>, peer_key: PeerKey, send: SendId) {
        let Some(peer) = turn.peers.get(peer_key) else { return };
        let (participant, Some(&track)) = (peer.participant, peer.sends.get(&send)) else { return };
        let Some(subscription) = self.publications.get(&track).and_then(|p| p.subscriptions.get(&participant)) else { return };
        if let Some(layer) = subscription.current.or(subscription.target) {
            self.request_key_frame(turn, track, layer);
        }
    }

    /// Asks the source for a key frame of a layer, unless it was asked a moment ago.
    pub fn request_key_frame(&mut self, turn: &mut Turn<'_>, track: TrackKey, layer: u8) {
        let Some(publication) = self.publications.get_mut(&track) else { return };
        if publication.kind() != MediaKind::Video || publication.muted {
            return;
        }
        let recv = publication.layers.get(usize::from(layer)).and_then(|l| l.recv);
        if matches!(publication.source, Source::Announced) || !publication.take_key_request(turn.now, layer) {
            return;
        }
        match &mut publication.source {
            Source::Local { peer, .. } => {
                if let (Some(peer), Some(recv)) = (turn.peers.touch(*peer), recv) {
                    peer.transport.request_key_frame(turn.now, recv);
                    turn.stats.pli_out += 1;
                }
            }
            Source::Relayed(relay) => {
                // A full ring of wishes: the other side has enough of them to act on.
                if relay.wishes.push(RelayWish::KeyFrame { layer }).is_ok() {
                    turn.stats.pli_out += 1;
                }
            }
            Source::Made { .. } | Source::Announced => {}
        }
    }

    /// Asks for the key frames that subscribers of this publication wait for.
    pub fn request_awaited_key_frames(&mut self, turn: &mut Turn<'_>, track: TrackKey) {
        let Some(publication) = self.publications.get(&track) else { return };
        if publication.kind() != MediaKind::Video {
            return;
        }
        let mut awaited = [false; crate::publication::MAX_LAYERS];
        for subscription in publication.subscriptions.values().filter(|s| s.awaits_key_frame()) {
            if let Some(slot) = subscription.target.and_then(|t| awaited.get_mut(usize::from(t))) {
                *slot = true;
            }
        }
        for (layer, _) in awaited.iter().enumerate().filter(|(_, wanted)| **wanted) {
            self.request_key_frame(turn, track, layer as u8);
        }
    }
}

fn send_rtp(turn: &mut Turn<'_>, peer: PeerKey, send: SendId, packet: &OutgoingRtp<'_>) {
    if let Some(peer) = turn.peers.touch(peer)
        && peer.transport.send_rtp(turn.now, send, packet, turn.slab) == Sent::Yes
    {
        turn.stats.rtp_out += 1;
    }
}

/// Copies of audio packets (their payload is shared) to whoever listens; a full ring drops and counts, it never waits.
fn tap(turn: &mut Turn<'_>, room: crate::ids::RoomKey, publication: &Publication, packets: &[RtpPacket]) {
    let Some(ring) = turn.tap else { return };
    for packet in packets {
        let tapped = TapPacket {
            room,
            track: publication.key,
            epoch: publication.epoch,
            seq: packet.seq,
            timestamp: packet.timestamp,
            arrival: packet.arrival,
            level: packet.ext.audio_level,
            voice: packet.ext.voice,
            marker: packet.marker,
            payload: Arc::clone(&packet.payload),
        };
        if ring.push(tapped).is_err() {
            turn.stats.tap_dropped += 1;
        }
    }
}
