//! A room: its participants, their publications, and who receives what.
//!
//! Everything that happens in a room happens here or below: [`negotiation`] (descriptions, sections, connections), [`media`]
//! (the way of a packet, losses, key frames), [`subscribing`] (who gets what, layers), [`messages`] (data packets; [`outbox`]), [`rounds`]
//! (what is done once in a while). A room has no clock, socket or thread: each call brings a [`Turn`].
//!
//! Rule: a packet finds its subscribers by one look-up; nothing here waits; every table is bounded by a limit of [`Limits`].

pub mod media;
pub mod messages;
pub mod negotiation;
pub mod outbox;
pub mod rounds;
pub mod subscribing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::control::{Event, MediaPermissions, ParticipantSpec, Refusal, ShardStats, Target, TrackSpec};
use crate::data::SenderBudget;
use crate::ids::{ParticipantKey, RoomKey, TrackKey};
use crate::packet::{Codec, MediaKind, RtpPacket};
use crate::publication::{Publication, Source};
use crate::room::outbox::Outbox;
use crate::shard::Limits;
use crate::shard::entropy::Entropy;
use crate::shard::peers::{Peer, PeerKey, Peers};
use crate::tap::TapPacket;
use crate::transport::{CodecWish, Identity, RecvId, SendSlab, Transport, TransportConfig, TransportOutput};

/// What a room may use during one call: the shard's, lent.
pub struct Turn<'a> {
    /// Now.
    pub now: Instant,
    /// All transports of the shard.
    pub peers: &'a mut Peers,
    /// Sealed datagrams.
    pub slab: &'a mut SendSlab,
    /// Events for the control plane.
    pub events: &'a mut VecDeque<Event>,
    /// The tap's ring, if anyone listens.
    pub tap: &'a mut Option<rtrb::Producer<TapPacket>>,
    /// Counters.
    pub stats: &'a mut ShardStats,
    /// Limits.
    pub limits: &'a Limits,
    /// Credentials and first numbers.
    pub entropy: &'a mut Entropy,
    /// The process's certificate.
    pub identity: &'a Arc<Identity>,
    /// What transports need to know.
    pub site: &'a Site,
}

/// Where this shard is: what every transport of it is told.
#[derive(Debug, Clone)]
pub struct Site {
    /// This shard's number, named by its ufrags.
    pub shard: u16,
    /// Candidates to advertise.
    pub candidates: Vec<std::net::SocketAddr>,
    /// ICE lite.
    pub ice_lite: bool,
}

/// A media section of a client's description that we receive.
#[derive(Debug)]
pub struct Section {
    /// Audio or video.
    pub kind: MediaKind,
    /// Track id of its msid: LiveKit's cid.
    pub track_id: String,
    /// Layers, as the client orders them.
    pub rids: Vec<String>,
    /// The publication that it carries.
    pub track: Option<TrackKey>,
    /// Streams heard so far.
    pub streams: Vec<(RecvId, Option<String>)>,
}

/// How a connection fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Has not been up yet.
    New,
    /// Media can flow.
    Up,
    /// Was up and is lost.
    Down,
}

/// One participant.
#[derive(Debug)]
pub struct Participant {
    /// Who it is and what it may do.
    pub spec: ParticipantSpec,
    /// The connection on which the client offers.
    pub publisher: Option<PeerKey>,
    /// The connection on which we offer (two-connection mode only).
    pub subscriber: Option<PeerKey>,
    /// Its own tracks.
    pub publications: BTreeSet<TrackKey>,
    /// What it receives or waits for.
    pub subscriptions: BTreeSet<TrackKey>,
    /// Receiving sections by mid.
    pub sections: BTreeMap<String, Section>,
    /// Something about its sending tracks changed since the last offer.
    pub needs_negotiation: bool,
    /// Id of the last offer of ours.
    pub last_offer: u32,
    /// Sections that we have asked for since the client's last offer, if we have (single connection).
    pub sections_asked: Option<(u32, u32)>,
    /// Downlink, bits per second, once estimated.
    pub estimate_bps: Option<u64>,
    /// Each connection's state: publisher, subscriber.
    pub links: (Link, Link),
    /// Bounds what it sends in data packets.
    pub budget: SenderBudget,
    /// The last reliable packet that it sent, by its own number.
    pub last_sequence: u32,
    /// Reliable data on its way to it.
    pub outbox: Outbox,
    /// Expected and received packets when its quality was last computed.
    pub counted: (u64, u64),
}

impl Participant {
    /// The connection over which it receives media and data.
    pub fn receiving_peer(&self) -> Option<PeerKey> {
        if self.spec.single_connection { self.publisher } else { self.subscriber }
    }

    /// That connection was up and is lost: it may come back.
    pub fn is_away(&self) -> bool {
        (if self.spec.single_connection { self.links.0 } else { self.links.1 }) == Link::Down
    }
}

/// One room.
#[derive(Debug)]
pub struct Room {
    key: RoomKey,
    participants: BTreeMap<ParticipantKey, Participant>,
    publications: BTreeMap<TrackKey, Publication>,
    /// Those whose `needs_negotiation` is set, each once.
    to_negotiate: BTreeSet<ParticipantKey>,
    /// Publications whose packets come over a ring.
    rings: BTreeSet<TrackKey>,
    /// Who was announced as speaking, and how loud.
    speaking: BTreeMap<ParticipantKey, f32>,
    /// Rounds done (see [`rounds`]).
    rounds: u64,
    /// RED taken apart: scratch, kept for its memory.
    unpacked: Vec<RtpPacket>,
}

impl Room {
    /// An empty room.
    pub fn new(key: RoomKey) -> Room {
        Room {
            key,
            participants: BTreeMap::new(),
            publications: BTreeMap::new(),
            to_negotiate: BTreeSet::new(),
            rings: BTreeSet::new(),
            speaking: BTreeMap::new(),
            rounds: 0,
            unpacked: Vec::new(),
        }
    }

    /// Participants now.
    pub fn participants(&self) -> usize {
        self.participants.len()
    }

    /// Publications and subscriptions now.
    pub fn counts(&self) -> (usize, usize) {
        (self.publications.len(), self.publications.values().map(|p| p.subscriptions.len()).sum())
    }

    /// Some publication's packets come over a ring.
    pub fn has_rings(&self) -> bool {
        !self.rings.is_empty()
    }

    /// A participant enters.
    pub fn add_participant(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, spec: ParticipantSpec) {
        let connected = spec.connected;
        let offers = connected && !spec.single_connection;
        if self.participants.contains_key(&key) {
            tracing::warn!(room = ?self.key, participant = ?key, "participant was already added");
            return;
        }
        self.participants.insert(
            key,
            Participant {
                spec,
                publisher: None,
                subscriber: None,
                publications: BTreeSet::new(),
                subscriptions: BTreeSet::new(),
                sections: BTreeMap::new(),
                needs_negotiation: false,
                last_offer: 0,
                sections_asked: None,
                estimate_bps: None,
                links: (Link::New, Link::New),
                budget: SenderBudget::new(turn.now),
                last_sequence: 0,
                outbox: Outbox::default(),
                counted: (0, 0),
            },
        );
        if offers {
            let peer = self.make_peer(turn, key, Target::Subscriber);
            if let Some(participant) = self.participants.get_mut(&key) {
                participant.subscriber = Some(peer);
            }
            self.want_negotiation(key);
        }
    }

    /// A participant leaves: its publications and subscriptions end, its transports close.
    pub fn remove_participant(&mut self, turn: &mut Turn<'_>, key: ParticipantKey) {
        let Some(participant) = self.participants.get(&key) else { return };
        for track in participant.publications.clone() {
            self.remove_track(turn, track);
        }
        let Some(participant) = self.participants.remove(&key) else { return };
        for track in &participant.subscriptions {
            if let Some(publication) = self.publications.get_mut(track) {
                publication.subscriptions.remove(&key);
            }
        }
        for peer in [participant.publisher, participant.subscriber].into_iter().flatten() {
            close_peer(turn, peer);
        }
        self.to_negotiate.remove(&key);
        self.speaking.remove(&key);
    }

    /// The room ends.
    pub fn close(&mut self, turn: &mut Turn<'_>) {
        let all: Vec<ParticipantKey> = self.participants.keys().copied().collect();
        for key in all {
            self.remove_participant(turn, key);
        }
    }

    /// What a participant may do changed.
    pub fn set_permissions(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, permissions: MediaPermissions) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        participant.spec.permissions = permissions;
        if !permissions.subscribe {
            for track in participant.subscriptions.clone() {
                self.unsubscribe(turn, key, track);
            }
        }
    }

    /// A track is announced.
    pub fn add_track(&mut self, turn: &mut Turn<'_>, key: ParticipantKey, track: TrackKey, spec: TrackSpec) {
        let Some(participant) = self.participants.get_mut(&key) else { return };
        if participant.publications.len() >= turn.limits.tracks_per_participant {
            turn.stats.limit_hits += 1;
            let limit = turn.limits.tracks_per_participant;
            let refusal = Refusal { reason: format!("a participant publishes at most {limit} tracks; unpublish one first") };
            turn.events.push_back(Event::TrackRefused { room: self.key, participant: key, track, refusal });
            return;
        }
        participant.publications.insert(track);
        let publisher = participant.publisher;
        if let Some(peer) = publisher.and_then(|p| turn.peers.touch(p)) {
            wish_codec(peer, &spec);
        }
        self.publications.insert(track, Publication::new(track, key, spec, turn.now));
        self.bind_sections(turn, key);
    }

    /// A publication ends.
    pub fn remove_track(&mut self, turn: &mut Turn<'_>, track: TrackKey) {
        let Some(publication) = self.publications.get(&track) else { return };
        let publisher = publication.publisher;
        let subscribers: Vec<ParticipantKey> = publication.subscriptions.keys().copied().collect();
        for subscriber in subscribers {
            self.unsubscribe(turn, subscriber, track);
        }
        let Some(publication) = self.publications.remove(&track) else { return };
        self.rings.remove(&track);
        if let Some(participant) = self.participants.get_mut(&publisher) {
            participant.publications.remove(&track);
            // The section keeps its track id and streams: a client may publish the same media again without a new description.
            for section in participant.sections.values_mut().filter(|s| s.track == Some(track)) {
                section.track = None;
            }
        }
        if let Source::Local { peer, .. } = publication.source
            && let Some(peer) = turn.peers.get_mut(peer)
        {
            peer.receives.retain(|_, (t, _)| *t != track);
        }
    }

    /// The publisher muted or unmuted.
    pub fn set_muted(&mut self, turn: &mut Turn<'_>, track: TrackKey, muted: bool) {
        let Some(publication) = self.publications.get_mut(&track) else { return };
        if publication.muted == muted {
            return;
        }
        publication.muted = muted;
        publication.level.silence();
        if muted {
            let layers = &publication.layers;
            for subscription in publication.subscriptions.values_mut() {
                let reference = subscription.current.and_then(|l| layers.get(usize::from(l))).map(|l| &l.reference);
                subscription.current = None;
                subscription.rewriter.stop(reference);
            }
        } else {
            self.request_awaited_key_frames(turn, track);
        }
    }

    /// The tap of a publication is switched.
    pub fn set_tap(&mut self, turn: &mut Turn<'_>, track: TrackKey, enabled: bool) {
        let Some(publication) = self.publications.get_mut(&track) else { return };
        let reason = if !enabled {
            None
        } else if publication.spec.encrypted {
            Some("the track is end-to-end encrypted: the server has no key to hear it; publish it without encryption to have captions")
        } else if publication.kind() != MediaKind::Audio {
            Some("only audio tracks can be heard; ask for the participant's microphone track")
        } else if turn.tap.is_none() {
            Some("this server was started without a listener for audio; switch speech on in its configuration")
        } else {
            None
        };
        if let Some(reason) = reason {
            let refusal = Refusal { reason: reason.to_owned() };
            turn.events.push_back(Event::TapRefused { room: self.key, track, refusal });
            return;
        }
        publication.tapped = enabled;
    }

    /// Makes a transport for a participant.
    fn make_peer(&self, turn: &mut Turn<'_>, participant: ParticipantKey, target: Target) -> PeerKey {
        let (ice_ufrag, ice_pwd) = turn.entropy.ice_credentials(turn.site.shard);
        let config = TransportConfig {
            ice_ufrag: ice_ufrag.clone(),
            ice_pwd,
            candidates: turn.site.candidates.clone(),
            ice_lite: turn.site.ice_lite,
            offerer: target == Target::Subscriber,
            seed: turn.entropy.next_u64(),
        };
        let transport = Transport::new(config, turn.identity, turn.now);
        turn.peers.insert(transport, self.key, participant, target, ice_ufrag, turn.now)
    }

    /// An offer to (or a request for sections from) this participant is due at the end of the turn.
    fn want_negotiation(&mut self, key: ParticipantKey) {
        if let Some(participant) = self.participants.get_mut(&key) {
            participant.needs_negotiation = true;
            self.to_negotiate.insert(key);
        }
    }
}

/// How the answer to the publisher's offer takes a track. Audio that is encrypted end to end comes as plain Opus, whatever the
/// client says of RED: it could not be unpacked for those who do not take RED.
pub(super) fn wish_codec(peer: &mut Peer, spec: &TrackSpec) {
    if spec.cid.is_empty() {
        return;
    }
    let wish = match spec.kind {
        MediaKind::Audio => (spec.encrypted || spec.disable_red).then_some(CodecWish::Only(Codec::Opus)),
        MediaKind::Video => spec.codec.map(CodecWish::First),
    };
    peer.transport.wish_received(spec.cid.clone(), wish);
}

/// Closes a transport politely and forgets it.
fn close_peer(turn: &mut Turn<'_>, key: PeerKey) {
    let Some(peer) = turn.peers.get_mut(key) else { return };
    peer.transport.close(turn.now, turn.slab);
    // What it still says concerns nobody; what it still sends goes out.
    while let TransportOutput::Event(_) = peer.transport.poll_output(turn.now, turn.slab) {}
    peer.count_dropped(turn.stats);
    turn.peers.remove(key);
}
