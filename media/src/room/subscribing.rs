//! Who receives what: subscriptions begin and end, and layers are given out.
//!
//! Rule: what each subscription gets is decided here, by [`crate::allocate`], and followed by forwarding at the next key frame.

use crate::allocate::{Wish, allocate};
use crate::control::{Event, TrackSettings};
use crate::ids::{ParticipantKey, TrackKey};
use crate::packet::{Codec, MediaKind};
use crate::publication::{Publication, Relay, Source};
use crate::room::{Room, Turn};
use crate::subscription::Subscription;
use crate::tap::SourcePacket;
use crate::transport::SendTrack;

impl Room {
    /// A participant wants a publication.
    pub fn subscribe(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, track: TrackKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(publication) = self.publications.get_mut(&track) else { return };
        if !participant.spec.permissions.subscribe || !participant.spec.connected || publication.publisher == key {
            return;
        }
        if !participant.subscriptions.insert(track) {
            return;
        }
        // Below 2^15, so that the subscriber's roll-over counter starts at zero whatever is lost at first.
        let first_seq = (turn.entropy.next_u64() as u16 & 0x7fff).max(1);
        publication.subscriptions.insert(key, Subscription::new(TrackSettings::default(), first_seq));
        self.attach_subscription(turn, key, track);
    }

    /// A participant does not want it any more.
    pub fn unsubscribe(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, track: TrackKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.subscriptions.remove(&track);
        let Some(subscription) = self.publications.get_mut(&track).and_then(|p| p.subscriptions.remove(&key)) else { return };
        if let Some((peer_key, send)) = subscription.sending
            && let Some(peer) = turn.peers.touch(peer_key)
        {
            peer.sends.remove(&send);
            peer.transport.remove_send_track(send);
            self.want_negotiation(key);
        }
    }

    /// Gives a subscription its sending track, if its publication has media and its subscriber a connection.
    pub fn attach_subscription(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, track: TrackKey) {
        let Some(participant) = self.participants.get(&key) else { return };
        let Some(publication) = self.publications.get_mut(&track) else { return };
        let codecs = publication.codecs_to_offer();
        let Some(peer_key) = participant.receiving_peer().filter(|_| !codecs.is_empty()) else { return };
        let publisher = publication.publisher;
        let Some(sid) = self.participants.get(&publisher).map(|p| p.spec.sid.clone()) else { return };
        let Some(subscription) = publication.subscriptions.get_mut(&key).filter(|s| s.sending.is_none()) else { return };
        let Some(peer) = turn.peers.touch(peer_key) else { return };
        let send = peer.transport.add_send_track(SendTrack {
            kind: publication.spec.kind,
            stream_id: format!("{sid}|{}", publication.spec.sid),
            track_id: publication.spec.sid.clone(),
            codecs,
        });
        peer.sends.insert(send, track);
        subscription.sending = Some((peer_key, send));
        self.want_negotiation(key);
    }

    /// A publication has media now: those who waited are attached.
    pub fn attach_waiting(&mut self, turn: &mut Turn<'_>, track: TrackKey) {
        let Some(publication) = self.publications.get(&track) else { return };
        let subscribers: Vec<ParticipantKey> = publication.subscriptions.keys().copied().collect();
        for subscriber in subscribers {
            self.attach_subscription(turn, subscriber, track);
        }
    }

    /// What a subscriber wants of a track.
    pub fn set_track_settings(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, track: TrackKey, settings: TrackSettings) {
        let Some(subscription) = self.publications.get_mut(&track).and_then(|p| p.subscriptions.get_mut(&key)) else { return };
        if subscription.settings != settings {
            subscription.settings = settings;
            self.reallocate(turn, key);
        }
    }

    /// A server-made track: its packets come over this ring.
    pub fn attach_source(&mut self, turn: &mut Turn<'_>, track: TrackKey, codec: Codec, packets: rtrb::Consumer<SourcePacket>) {
        // Numbers start at random below 2^15 like any sender's.
        let next_seq = turn.entropy.next_u64() & 0x7fff;
        self.attach_ring(turn, track, codec, Source::Made { packets, codec, next_seq });
    }

    /// A publication that another part of the room receives: its packets come over a relay.
    pub fn attach_relay(&mut self, turn: &mut Turn<'_>, track: TrackKey, codec: Codec, relay: Relay) {
        self.attach_ring(turn, track, codec, Source::Relayed(relay));
    }

    fn attach_ring(&mut self, turn: &mut Turn<'_>, track: TrackKey, codec: Codec, source: Source) {
        let Some(publication) = self.publications.get_mut(&track) else { return };
        publication.source = source;
        publication.begin_stream(0, None, codec.clock_rate());
        self.rings.insert(track);
        if publication.codec.is_none() {
            publication.codec = Some(codec);
            turn.events.push_back(Event::TrackStarted { room: self.key, participant: publication.publisher, track, codec });
            self.attach_waiting(turn, track);
        }
    }

    /// The estimate of a participant's downlink changed.
    pub fn estimate(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, bps: u64, congested: bool) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.estimate_bps = Some(bps);
        if congested {
            self.reallocate(turn, key);
        }
    }

    /// Gives layers out anew to all subscribers of a publication: its layers changed.
    pub fn reallocate_subscribers(&mut self, turn: &mut Turn<'_>, track: TrackKey) {
        let Some(publication) = self.publications.get(&track) else { return };
        let subscribers: Vec<ParticipantKey> = publication.subscriptions.keys().copied().collect();
        for subscriber in subscribers {
            self.reallocate(turn, subscriber);
        }
    }

    /// Gives layers out anew to one participant's subscriptions.
    pub fn reallocate(&mut self, turn: &mut Turn<'_>, key: ParticipantKey) {
        let Some(participant) = self.participants.get(&key) else { return };
        let mut tracks = Vec::with_capacity(participant.subscriptions.len());
        let mut wishes = Vec::with_capacity(participant.subscriptions.len());
        for track in &participant.subscriptions {
            let Some(publication) = self.publications.get(track) else { continue };
            let Some(subscription) = publication.subscriptions.get(&key).filter(|s| s.is_negotiated()) else { continue };
            tracks.push(*track);
            wishes.push(wish(turn, publication, subscription));
        }
        let given = allocate(participant.estimate_bps, &wishes);
        for ((track, wish), target) in tracks.into_iter().zip(&wishes).zip(given) {
            let Some(publication) = self.publications.get_mut(&track) else { continue };
            let Publication { layers, subscriptions, .. } = publication;
            let Some(subscription) = subscriptions.get_mut(&key) else { continue };
            let starved = target.is_none() && wish.wanted.is_some();
            if starved != subscription.starved {
                subscription.starved = starved;
                turn.events.push_back(Event::StreamPaused { room: self.key, subscriber: key, track, paused: starved });
            }
            if target == subscription.target {
                continue;
            }
            match target {
                None => {
                    let reference = subscription.current.and_then(|l| layers.get(usize::from(l))).map(|l| &l.reference);
                    subscription.pause(reference);
                }
                Some(layer) => {
                    subscription.target = target;
                    if subscription.awaits_key_frame() {
                        self.request_key_frame(turn, track, layer);
                    }
                }
            }
        }
    }
}

/// What a subscription asks of the allocator.
fn wish(turn: &Turn<'_>, publication: &Publication, subscription: &Subscription) -> Wish {
    let rates_bps = match publication.kind() {
        MediaKind::Audio => publication.layers.iter().map(|l| l.rate_bps(turn.now)).collect(),
        MediaKind::Video => publication
            .layers
            .iter()
            // A layer that just began has no rate yet: one bit per second says that it is there.
            .map(|l| if l.is_live(turn.now) { l.rate_bps(turn.now).max(1) } else { 0 })
            .collect(),
    };
    Wish {
        kind: publication.kind(),
        rates_bps,
        wanted: publication.wanted_layer(&subscription.settings),
        priority: subscription.settings.priority,
        current: subscription.current,
    }
}
