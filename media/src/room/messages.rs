//! Data packets of a room: over which channel they come and go, who may send, who receives.
//!
//! Channels with labels of a client's own carry bare messages, for clients that speak WebRTC and not LiveKit's packets: each message
//! reaches the others as a user packet, as with LiveKit. Labels that begin with an underscore are LiveKit's and not for that.
//!
//! Rule: a slow receiver never holds up another: what it cannot take waits in its own bounded [`Outbox`](super::outbox::Outbox) when it is
//! reliable, and is dropped and counted otherwise. A packet is encoded once for all its receivers.

use std::sync::Arc;

use prost::Message;

use crate::control::Event;
use crate::data::{Refused, Sender, stamp, wrap};
use crate::ids::ParticipantKey;
use crate::room::outbox::{ReceiveState, Reliable};
use crate::room::{Room, Turn};
use crate::shard::peers::PeerKey;
use crate::transport::ChannelId;

/// LiveKit's channel labels.
const RELIABLE: &str = "_reliable";
const LOSSY: &str = "_lossy";
/// How labels begin that LiveKit keeps for itself.
const RESERVED: char = '_';

impl Room {
    /// A channel opened.
    pub(super) fn channel_open(&mut self, turn: &mut Turn<'_>, peer_key: PeerKey, channel: ChannelId, label: &str) {
        let Some(peer) = turn.peers.get_mut(peer_key) else { return };
        match label {
            RELIABLE => peer.reliable = Some(channel),
            LOSSY => peer.lossy = Some(channel),
            own if !own.starts_with(RESERVED) => {
                peer.own_channels.insert(channel);
                return;
            }
            _ => {
                tracing::debug!(room = ?self.key, label, "data channel of no use here");
                return;
            }
        }
        let key = peer.participant;
        self.send_waiting(turn, key);
    }

    /// A channel closed.
    pub(super) fn channel_closed(&mut self, turn: &mut Turn<'_>, peer_key: PeerKey, channel: ChannelId) {
        let Some(peer) = turn.peers.get_mut(peer_key) else { return };
        for slot in [&mut peer.reliable, &mut peer.lossy] {
            if *slot == Some(channel) {
                *slot = None;
            }
        }
        peer.own_channels.remove(&channel);
    }

    /// A participant sent something.
    pub(super) fn channel_data(&mut self, turn: &mut Turn<'_>, peer_key: PeerKey, channel: ChannelId, data: &[u8]) {
        let Some(peer) = turn.peers.get(peer_key) else { return };
        let bare = peer.own_channels.contains(&channel);
        let reliable = if bare || peer.reliable == Some(channel) {
            true
        } else if peer.lossy == Some(channel) {
            false
        } else {
            // Of a label that nobody here knows.
            turn.stats.data_dropped += 1;
            return;
        };
        let key = peer.participant;
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if !participant.spec.permissions.data || !participant.budget.take(turn.now, data.len()) {
            turn.stats.data_dropped += 1;
            return;
        }
        let (sid, identity) = (&participant.spec.sid, &participant.spec.identity);
        let packet = if bare {
            wrap(data, sid, identity).ok_or(Refused::Unreadable)
        } else {
            let publications = &self.publications;
            let owns = |sid: &str| participant.publications.iter().filter_map(|track| publications.get(track)).any(|p| p.spec.sid == sid);
            stamp(data, Sender { sid, identity, agent: participant.spec.agent }, owns, reliable)
        };
        let packet = match packet {
            Ok(packet) => packet,
            Err(refused) => {
                match refused {
                    Refused::Unreadable => turn.stats.data_dropped += 1,
                    Refused::AnothersName => turn.stats.data_in_anothers_name += 1,
                }
                tracing::debug!(room = ?self.key, participant = ?key, bytes = data.len(), %refused, "data packet refused");
                return;
            }
        };
        // A client that resumes sends again what it does not know to be here.
        if reliable && packet.sequence > 0 {
            if packet.sequence <= participant.last_sequence {
                turn.stats.data_repeated += 1;
                return;
            }
            participant.last_sequence = packet.sequence;
        }
        let publisher_sid: Arc<str> = participant.spec.sid.as_str().into();
        let bytes: Arc<[u8]> = packet.encode_to_vec().into();
        let packet_to_send = Reliable { publisher_sid, sequence: packet.sequence, bytes };
        let to: Vec<ParticipantKey> = self
            .participants
            .iter()
            .filter(|(_, p)| packet.destination_identities.is_empty() || packet.destination_identities.contains(&p.spec.identity))
            .map(|(k, _)| *k)
            .filter(|k| *k != key)
            .collect();
        for receiver in to {
            self.deliver(turn, receiver, reliable, &packet_to_send);
        }
        turn.events.push_back(Event::Data { room: self.key, participant: key, packet: Box::new(packet) });
    }

    /// The server sends.
    pub fn send_data(
        &mut self,
        turn: &mut Turn<'_>,
        reliable: bool,
        packet: &Arc<[u8]>,
        to: &[ParticipantKey],
        except: Option<ParticipantKey>,
    ) {
        let packet = &Reliable { publisher_sid: "".into(), sequence: 0, bytes: Arc::clone(packet) };
        if to.is_empty() {
            let all: Vec<ParticipantKey> = self.participants.keys().copied().filter(|k| Some(*k) != except).collect();
            for receiver in all {
                self.deliver(turn, receiver, reliable, packet);
            }
        } else {
            for receiver in to.iter().filter(|k| Some(**k) != except) {
                self.deliver(turn, *receiver, reliable, packet);
            }
        }
    }

    fn deliver(&mut self, turn: &mut Turn<'_>, receiver: ParticipantKey, reliable: bool, packet: &Reliable) {
        let Some(participant) = self.participants.get_mut(&receiver).filter(|p| p.spec.connected) else { return };
        if reliable {
            if !participant.outbox.push(turn.now, packet.clone()) {
                turn.stats.data_dropped += 1;
                turn.stats.limit_hits += 1;
            }
            self.send_waiting(turn, receiver);
            return;
        }
        let peer = participant.receiving_peer().filter(|_| !participant.is_away()).and_then(|p| turn.peers.touch(p));
        let sent = peer.is_some_and(|p| p.lossy.is_some_and(|channel| p.transport.send_data(channel, true, &packet.bytes)));
        turn.stats.data_dropped += u64::from(!sent);
    }

    /// Hands over what waits for a participant, as far as its connection takes it.
    pub(super) fn send_waiting(&mut self, turn: &mut Turn<'_>, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if participant.is_away() || participant.outbox.is_empty() {
            return;
        }
        let Some(peer) = participant.receiving_peer().and_then(|p| turn.peers.touch(p)) else { return };
        let Some(channel) = peer.reliable else { return };
        participant.outbox.drain(turn.now, |bytes| peer.transport.send_data(channel, true, bytes));
    }

    /// A client that resumes says which data it has.
    pub fn replay_data(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, states: &[ReceiveState]) {
        if let Some(participant) = self.participants.get_mut(&key) {
            participant.outbox.rewind(states);
            self.send_waiting(turn, key);
        }
    }
}
