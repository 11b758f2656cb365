//! Descriptions, sections and connections of a participant: what the client offers and answers, what we offer.
//!
//! Rule: changes only mark the participant; one offer (or one request for sections) goes out per participant and turn, and never
//! a second one while the first is unanswered. So N people joining at once are not N offers to N others.

use crate::control::{Event, Refusal, Target};
use crate::ids::{ParticipantKey, TrackKey};
use crate::packet::Codec;
use crate::packet::MediaKind;
use crate::publication::Source;
use crate::room::{Link, Participant, Room, Section, Turn, wish_codec};
use crate::shard::peers::PeerKey;
use crate::transport::{LocalDescription, NegotiationError, RecvId, RemoteAnswer, RemoteCandidate, RemoteOffer, SendId, TransportEvent};

impl Room {
    /// The client's offer: answered, or refused with a reason.
    pub fn offer(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, id: u32, offer: RemoteOffer) {
        let Some(participant) = self.participants.get(&key) else { return };
        let peer_key = match participant.publisher {
            Some(peer) => peer,
            None => {
                let peer = self.make_peer(turn, key, Target::Publisher);
                let Some(participant) = self.participants.get_mut(&key) else { return };
                participant.publisher = Some(peer);
                let announced = participant.publications.iter().filter_map(|t| self.publications.get(t));
                if let Some(peer) = turn.peers.get_mut(peer) {
                    announced.for_each(|p| wish_codec(peer, &p.spec));
                }
                if participant.spec.single_connection {
                    // What it subscribed to before it offered is placed in this very answer.
                    for track in participant.subscriptions.clone() {
                        self.attach_subscription(turn, key, track);
                    }
                }
                peer
            }
        };
        let Some(peer) = turn.peers.touch(peer_key) else { return };
        match peer.transport.accept_offer(turn.now, offer) {
            Ok(description) => {
                let mid_to_track = self.mid_to_track(turn, peer_key, &description);
                turn.events.push_back(Event::Answer { room: self.key, participant: key, id, sdp: description.sdp, mid_to_track });
                if let Some(participant) = self.participants.get_mut(&key)
                    && participant.spec.single_connection
                {
                    participant.sections_asked = None;
                    self.want_negotiation(key);
                }
            }
            Err(error) => self.negotiation_failed(turn, key, Target::Publisher, &error),
        }
    }

    /// The client's answer to our offer.
    pub fn answer(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, id: u32, answer: RemoteAnswer) {
        let Some(participant) = self.participants.get(&key) else { return };
        // Older clients send no id.
        if id != 0 && id != participant.last_offer {
            tracing::debug!(room = ?self.key, participant = ?key, id, expected = participant.last_offer, "answer to an offer that was replaced");
            return;
        }
        let Some(peer) = participant.subscriber.and_then(|p| turn.peers.touch(p)) else { return };
        if let Err(error) = peer.transport.accept_answer(turn.now, answer) {
            self.negotiation_failed(turn, key, Target::Subscriber, &error);
            return;
        }
        if self.participants.get(&key).is_some_and(|p| p.needs_negotiation) {
            self.to_negotiate.insert(key);
        }
    }

    /// A trickled candidate.
    pub fn candidate(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, target: Target, candidate: RemoteCandidate) {
        let Some(participant) = self.participants.get(&key) else { return };
        let peer = match target {
            Target::Publisher => participant.publisher,
            Target::Subscriber => participant.subscriber,
        };
        let Some(peer) = peer.and_then(|p| turn.peers.touch(p)) else { return };
        // One candidate that is no use is no reason to end a session: others lead to the client too.
        if let Err(error) = peer.transport.add_remote_candidate(candidate) {
            tracing::debug!(room = ?self.key, participant = ?key, %error, "candidate not taken");
        }
    }

    /// The client resumes: new credentials on the connection that we offer.
    pub fn restart_ice(&mut self, turn: &mut Turn<'_>, key: ParticipantKey) {
        let Some(peer_key) = self.participants.get(&key).and_then(|p| p.subscriber) else { return };
        let (ufrag, password) = turn.entropy.ice_credentials(turn.site.shard);
        let Some(peer) = turn.peers.touch(peer_key) else { return };
        peer.transport.restart_ice(turn.now, ufrag.clone(), password);
        turn.peers.add_ufrag(peer_key, ufrag);
        self.want_negotiation(key);
    }

    fn negotiation_failed(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, target: Target, error: &NegotiationError) {
        let refusal = Refusal { reason: error.to_string() };
        turn.events.push_back(Event::NegotiationFailed { room: self.key, participant: key, target, refusal });
    }

    /// Someone waits for an offer or a request for sections.
    pub fn has_to_negotiate(&self) -> bool {
        !self.to_negotiate.is_empty()
    }

    /// Sends the offers and requests that are due. Called once per turn, after everything else.
    pub fn negotiate(&mut self, turn: &mut Turn<'_>) {
        while let Some(key) = self.to_negotiate.pop_first() {
            self.negotiate_one(turn, key);
        }
    }

    fn negotiate_one(&mut self, turn: &mut Turn<'_>, key: ParticipantKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(peer_key) = participant.receiving_peer() else { return };
        let Some(peer) = turn.peers.touch(peer_key) else { return };
        if participant.spec.single_connection {
            participant.needs_negotiation = false;
            let missing = peer.transport.sections_missing();
            let asked = participant.sections_asked.unwrap_or_default();
            let (audios, videos) = (missing.0.saturating_sub(asked.0), missing.1.saturating_sub(asked.1));
            // A section that became free needs an offer too, even though none is missing.
            let first = participant.sections_asked.is_none() && peer.transport.needs_client_offer();
            if first || audios + videos > 0 {
                participant.sections_asked = Some((missing.0.max(asked.0), missing.1.max(asked.1)));
                turn.events.push_back(Event::SectionsRequired { room: self.key, participant: key, audios, videos });
            }
            return;
        }
        let Some(description) = peer.transport.create_offer(turn.now) else {
            // Nothing to say, or an offer is pending: its answer brings us here again.
            return;
        };
        participant.needs_negotiation = false;
        participant.last_offer += 1;
        let id = participant.last_offer;
        let mid_to_track = self.mid_to_track(turn, peer_key, &description);
        turn.events.push_back(Event::Offer { room: self.key, participant: key, id, sdp: description.sdp, mid_to_track });
    }

    fn mid_to_track(&self, turn: &Turn<'_>, peer: PeerKey, description: &LocalDescription) -> Vec<(String, String)> {
        let Some(peer) = turn.peers.get(peer) else { return Vec::new() };
        let sid = |send: &SendId| Some(self.publications.get(peer.sends.get(send)?)?.spec.sid.clone());
        description.sends.iter().filter_map(|(mid, send)| Some((mid.clone(), sid(send)?))).collect()
    }

    /// What a transport said, except media (see [`Room::media_event`]).
    pub fn connection_event(&mut self, turn: &mut Turn<'_>, peer_key: PeerKey, event: TransportEvent) {
        let Some(peer) = turn.peers.get(peer_key) else { return };
        let (key, target) = (peer.participant, peer.target);
        match event {
            TransportEvent::Connected => {
                self.set_link(key, target, Link::Up);
                turn.events.push_back(Event::Connected { room: self.key, participant: key, target });
                self.announce_subscriptions(turn, key);
                self.send_waiting(turn, key);
            }
            TransportEvent::Disconnected | TransportEvent::Closed => {
                // One that is over asks for no more time, and would not be counted then.
                if let Some(peer) = turn.peers.get_mut(peer_key) {
                    peer.count_dropped(turn.stats);
                }
                self.set_link(key, target, Link::Down);
                turn.events.push_back(Event::Disconnected { room: self.key, participant: key, target });
            }
            TransportEvent::ReceiveSection { mid, kind, track_id, rids } => self.section_begins(turn, key, mid, kind, track_id, rids),
            TransportEvent::ReceiveSectionEnded { mid } => self.section_ends(turn, key, &mid),
            TransportEvent::ReceiveStream { recv, mid, rid } => self.stream_begins(turn, key, &mid, recv, rid),
            TransportEvent::Negotiated { sends } => self.negotiated(turn, peer_key, key, sends),
            TransportEvent::BandwidthEstimate { bps, congested } => self.estimate(turn, key, bps, congested),
            TransportEvent::ChannelOpen { channel, label } => self.channel_open(turn, peer_key, channel, &label),
            TransportEvent::ChannelClosed { channel } => self.channel_closed(turn, peer_key, channel),
            TransportEvent::ChannelData { channel, data, .. } => self.channel_data(turn, peer_key, channel, &data),
            other => self.media_event(turn, peer_key, other),
        }
    }

    fn set_link(&mut self, key: ParticipantKey, target: Target, link: Link) {
        if let Some(participant) = self.participants.get_mut(&key) {
            match target {
                Target::Publisher => participant.links.0 = link,
                Target::Subscriber => participant.links.1 = link,
            }
        }
    }

    fn section_begins(
        &mut self,
        turn: &mut Turn<'_>,
        key: ParticipantKey,
        mid: String,
        kind: MediaKind,
        track_id: String,
        rids: Vec<String>,
    ) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if let Some(section) = participant.sections.get_mut(&mid) {
            section.rids = rids;
            if section.track_id == track_id {
                return;
            }
            // The section is used for another track now.
            section.track_id = track_id;
            let carried = section.track.take();
            section.streams.clear();
            if let Some(track) = carried {
                self.detach_source(turn, track);
            }
        } else {
            participant.sections.insert(mid, Section { kind, track_id, rids, track: None, streams: Vec::new() });
        }
        self.bind_sections(turn, key);
    }

    fn section_ends(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, mid: &str) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if let Some(track) = participant.sections.remove(mid).and_then(|s| s.track) {
            self.detach_source(turn, track);
            turn.events.push_back(Event::TrackEnded { room: self.key, track });
        }
    }

    fn detach_source(&mut self, turn: &mut Turn<'_>, track: TrackKey) {
        let Some(publication) = self.publications.get_mut(&track) else { return };
        if let Source::Local { peer, .. } = &publication.source
            && let Some(peer) = turn.peers.get_mut(*peer)
        {
            peer.receives.retain(|_, (t, _)| *t != track);
        }
        publication.detach();
    }

    /// Joins announced tracks and sections that name the same cid.
    pub fn bind_sections(&mut self, turn: &mut Turn<'_>, key: ParticipantKey) {
        let Some(participant) = self.participants.get(&key) else { return };
        let mut pairs = Vec::new();
        for (mid, section) in participant.sections.iter().filter(|(_, s)| s.track.is_none() && !s.track_id.is_empty()) {
            let track = participant.publications.iter().find(|track| {
                self.publications
                    .get(track)
                    .is_some_and(|p| matches!(p.source, Source::Announced) && p.kind() == section.kind && p.spec.cid == section.track_id)
            });
            if let Some(track) = track {
                pairs.push((mid.clone(), *track));
            }
        }
        for (mid, track) in pairs {
            self.bind(turn, key, &mid, track);
        }
    }

    fn bind(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, mid: &str, track: TrackKey) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let (Some(section), Some(peer)) = (participant.sections.get_mut(mid), participant.publisher) else { return };
        let Some(publication) = self.publications.get_mut(&track) else { return };
        section.track = Some(track);
        publication.source = Source::Local { peer, mid: mid.to_owned() };
        for (recv, rid) in section.streams.clone() {
            self.stream_begins(turn, key, mid, recv, rid);
        }
    }

    fn stream_begins(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, mid: &str, recv: RecvId, rid: Option<String>) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        let Some(section) = participant.sections.get_mut(mid) else { return };
        if !section.streams.iter().any(|(r, _)| *r == recv) {
            if section.streams.len() >= turn.limits.streams_per_section {
                turn.stats.limit_hits += 1;
                section.streams.remove(0);
            }
            section.streams.push((recv, rid.clone()));
        }
        let Some(track) = section.track else {
            // Media came, and no track names this section: the client rewrote its track ids. If exactly one track of this kind
            // still waits for media, it is this one.
            let kind = section.kind;
            let mut waiting = participant.publications.iter().filter(|t| {
                self.publications.get(t).is_some_and(|p| matches!(p.source, Source::Announced) && p.kind() == kind && p.codec.is_none())
            });
            if let (Some(&track), None) = (waiting.next(), waiting.next()) {
                let mid = mid.to_owned();
                self.bind(turn, key, &mid, track);
            }
            return;
        };
        let layer = layer_of(rid.as_deref(), &section.rids);
        let Some(peer) = participant.publisher.and_then(|p| turn.peers.get_mut(p)) else { return };
        if usize::from(layer) >= crate::publication::MAX_LAYERS {
            turn.stats.limit_hits += 1;
            return;
        }
        peer.receives.retain(|_, route| *route != (track, layer));
        peer.receives.insert(recv, (track, layer));
        let Some(publication) = self.publications.get_mut(&track) else { return };
        let clock_rate = match publication.kind() {
            MediaKind::Audio => 48_000,
            MediaKind::Video => 90_000,
        };
        publication.begin_stream(layer, Some(recv), clock_rate);
        self.reallocate_subscribers(turn, track);
    }

    /// Which of our tracks the client's description carries now.
    fn negotiated(&mut self, turn: &mut Turn<'_>, peer_key: PeerKey, key: ParticipantKey, sends: Vec<(String, SendId, Vec<Codec>)>) {
        // With two connections the client's own offers say nothing about what we send.
        if self.participants.get(&key).and_then(Participant::receiving_peer) != Some(peer_key) {
            return;
        }
        let Some(peer) = turn.peers.get(peer_key) else { return };
        let carried: Vec<(TrackKey, Vec<Codec>)> =
            sends.into_iter().filter_map(|(_, send, codecs)| Some((*peer.sends.get(&send)?, codecs))).collect();
        let Some(participant) = self.participants.get(&key) else { return };
        for track in &participant.subscriptions {
            if let Some(subscription) = self.publications.get_mut(track).and_then(|p| p.subscriptions.get_mut(&key)) {
                let codecs = carried.iter().find(|(t, _)| t == track).map_or(&[][..], |(_, codecs)| codecs);
                subscription.negotiated(codecs);
            }
        }
        self.reallocate(turn, key);
        self.announce_subscriptions(turn, key);
        if self.participants.get(&key).is_some_and(|p| p.needs_negotiation) {
            self.to_negotiate.insert(key);
        }
    }

    /// Tells once of each subscription that it is negotiated on a connected transport.
    fn announce_subscriptions(&mut self, turn: &mut Turn<'_>, key: ParticipantKey) {
        let Some(participant) = self.participants.get(&key) else { return };
        if !participant.receiving_peer().and_then(|p| turn.peers.get(p)).is_some_and(|p| p.transport.is_connected()) {
            return;
        }
        let mut begun = Vec::new();
        for track in &participant.subscriptions {
            let Some(publication) = self.publications.get_mut(track) else { continue };
            if let Some(subscription) = publication.subscriptions.get_mut(&key)
                && subscription.is_negotiated()
                && !subscription.announced
            {
                subscription.announced = true;
                begun.push(*track);
                turn.events.push_back(Event::Subscribed { room: self.key, subscriber: key, track: *track });
            }
        }
        for track in begun {
            self.catch_up(turn, key, track);
        }
    }
}

/// The spatial layer of a stream, 0 lowest: by LiveKit's rids `q`, `h`, `f`, else by the order in the section.
fn layer_of(rid: Option<&str>, rids: &[String]) -> u8 {
    const LIVEKIT: [&str; 3] = ["q", "h", "f"];
    let Some(rid) = rid else { return 0 };
    let rank = |name: &str| LIVEKIT.iter().position(|r| *r == name);
    if rids.iter().all(|r| rank(r).is_some()) && rank(rid).is_some() {
        let lower = rids.iter().filter(|r| rank(r) < rank(rid)).count();
        return lower as u8;
    }
    rids.iter().position(|r| r == rid).unwrap_or(0) as u8
}

#[cfg(test)]
mod tests {
    use super::layer_of;

    #[test]
    fn rids_are_ordered_by_their_livekit_meaning() {
        let all: Vec<String> = ["f", "h", "q"].map(String::from).to_vec();
        assert_eq!([layer_of(Some("q"), &all), layer_of(Some("h"), &all), layer_of(Some("f"), &all)], [0, 1, 2]);
        let two: Vec<String> = ["h", "f"].map(String::from).to_vec();
        assert_eq!([layer_of(Some("h"), &two), layer_of(Some("f"), &two)], [0, 1]);
        let own: Vec<String> = ["lo", "hi"].map(String::from).to_vec();
        assert_eq!([layer_of(Some("lo"), &own), layer_of(Some("hi"), &own), layer_of(None, &own)], [0, 1, 0]);
    }
}
