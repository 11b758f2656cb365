//! Data packets of a room: over which channel they come and go, who may send, who receives.
//!
//! Rule: a slow receiver is dropped from, never waited for; a packet is encoded once for all its receivers.

use std::sync::Arc;

use prost::Message;

use crate::control::Event;
use crate::data::{MAX_PACKET, stamp};
use crate::ids::ParticipantKey;
use crate::room::{Room, Turn};
use crate::shard::peers::PeerKey;
use crate::transport::ChannelId;

/// LiveKit's channel labels.
const RELIABLE: &str = "_reliable";
const LOSSY: &str = "_lossy";

/// Reliable packets kept for a participant whose channel is not open yet: what is said while it joins. Both bounds hold.
const WAITING_PACKETS: usize = 64;
const WAITING_BYTES: usize = 256 * 1024;

impl Room {
    /// A channel opened.
    pub(super) fn channel_open(&mut self, turn: &mut Turn<'_>, peer_key: PeerKey, channel: ChannelId, label: &str) {
        let Some(peer) = turn.peers.get_mut(peer_key) else { return };
        match label {
            RELIABLE => peer.reliable = Some(channel),
            LOSSY => peer.lossy = Some(channel),
            _ => {
                tracing::debug!(room = ?self.key, label, "data channel of no use here");
                return;
            }
        }
        let key = peer.participant;
        if label != RELIABLE {
            return;
        }
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if participant.receiving_peer() != Some(peer_key) {
            return;
        }
        for packet in std::mem::take(&mut participant.waiting_data) {
            send_to(turn, peer_key, channel, &packet);
        }
    }

    /// A channel closed.
    pub(super) fn channel_closed(&mut self, turn: &mut Turn<'_>, peer_key: PeerKey, channel: ChannelId) {
        let Some(peer) = turn.peers.get_mut(peer_key) else { return };
        for slot in [&mut peer.reliable, &mut peer.lossy] {
            if *slot == Some(channel) {
                *slot = None;
            }
        }
    }

    /// A participant sent something.
    pub(super) fn channel_data(&mut self, turn: &mut Turn<'_>, peer_key: PeerKey, channel: ChannelId, data: &[u8]) {
        let Some(peer) = turn.peers.get(peer_key) else { return };
        let reliable = if peer.reliable == Some(channel) {
            true
        } else if peer.lossy == Some(channel) {
            false
        } else {
            return;
        };
        let key = peer.participant;
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if !participant.spec.permissions.data || !participant.budget.take(turn.now, data.len()) {
            turn.stats.data_dropped += 1;
            return;
        }
        let Some(packet) = stamp(data, &participant.spec.sid, &participant.spec.identity, reliable) else {
            turn.stats.data_dropped += 1;
            tracing::debug!(room = ?self.key, participant = ?key, bytes = data.len(), limit = MAX_PACKET, "data packet refused: not readable, empty or too large");
            return;
        };
        let bytes: Arc<[u8]> = packet.encode_to_vec().into();
        let to: Vec<ParticipantKey> = self
            .participants
            .iter()
            .filter(|(_, p)| packet.destination_identities.is_empty() || packet.destination_identities.contains(&p.spec.identity))
            .map(|(k, _)| *k)
            .filter(|k| *k != key)
            .collect();
        for receiver in to {
            self.deliver(turn, receiver, reliable, &bytes);
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

    fn deliver(&mut self, turn: &mut Turn<'_>, receiver: ParticipantKey, reliable: bool, packet: &Arc<[u8]>) {
        let Some(participant) = self.participants.get_mut(&receiver) else { return };
        if !participant.spec.connected {
            return;
        }
        let peer_key = participant.receiving_peer();
        let channel = peer_key.and_then(|p| turn.peers.get(p)).and_then(|p| if reliable { p.reliable } else { p.lossy });
        match (peer_key, channel) {
            (Some(peer), Some(channel)) => send_to(turn, peer, channel, packet),
            _ if reliable => {
                let waiting: usize = participant.waiting_data.iter().map(|p| p.len()).sum();
                if participant.waiting_data.len() < WAITING_PACKETS && waiting + packet.len() <= WAITING_BYTES {
                    participant.waiting_data.push_back(Arc::clone(packet));
                } else {
                    turn.stats.data_dropped += 1;
                }
            }
            _ => turn.stats.data_dropped += 1,
        }
    }
}

fn send_to(turn: &mut Turn<'_>, peer: PeerKey, channel: ChannelId, packet: &[u8]) {
    let sent = turn.peers.touch(peer).is_some_and(|p| p.transport.send_data(channel, true, packet));
    if !sent {
        turn.stats.data_dropped += 1;
    }
}
