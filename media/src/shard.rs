//! One shard: a set of rooms and all their transports, as a machine without socket, clock or thread.
//!
//! [`Shard::handle`] takes what happened and when; [`Shard::handle_timeout`] lets time pass; then [`Shard::poll_output`] is called
//! until it names the next deadline. Datagrams to send gather in [`Shard::slab`] meanwhile, those of other shards on the same port in
//! [`Shard::handovers`]; both are emptied by the owner once per turn. `net` runs it on a real network, the simulation on a virtual one.
//!
//! Rule: the same inputs at the same instants give the same outputs; no call looks at all peers.

pub mod entropy;
pub mod handover;
pub mod peers;
pub mod stun;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::{Command, Event, Refusal, ShardStats, Target};
use crate::ids::{RoomKey, TrackKey};
use crate::packet::Codec;
use crate::publication::Relay;
use crate::room::rounds::ROUND;
use crate::room::{Room, Site, Turn};
use crate::shard::entropy::Entropy;
use crate::shard::handover::{HandoverSlab, Neighbours};
use crate::shard::peers::{PeerKey, Peers};
use crate::tap::TapPacket;
use crate::transport::{Identity, SendSlab, TransportEvent, TransportOutput};

/// How long a shard with nothing to do sleeps: it is woken by whatever comes.
const IDLE: Duration = Duration::from_secs(3600);

/// What may not grow without bound. Each hit is counted in `limit_hits`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Participants of a shard.
    pub participants: usize,
    /// Publications of a participant.
    pub tracks_per_participant: usize,
    /// Streams remembered of one receiving section: its layers, and those of before.
    pub streams_per_section: usize,
    /// Retransmissions for one NACK message.
    pub nacks_per_message: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { participants: 2_000, tracks_per_participant: 32, streams_per_section: 8, nacks_per_message: 256 }
    }
}

/// What a shard knows at birth.
pub struct ShardConfig {
    /// Where it is.
    pub site: Site,
    /// How many shards read from its port, this one included, numbered from 0; 1 where it has a port of its own.
    pub sharing: u16,
    /// Limits.
    pub limits: Limits,
    /// The process's certificate.
    pub identity: Arc<Identity>,
    /// Credentials and first numbers.
    pub entropy: Entropy,
    /// Where tapped audio goes.
    pub tap: Option<rtrb::Producer<TapPacket>>,
}

/// What happens to a shard.
#[derive(Debug)]
pub enum ShardInput<'a> {
    /// A datagram was read.
    Datagram {
        /// From whom.
        source: SocketAddr,
        /// To which of our addresses.
        destination: SocketAddr,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// A datagram that another shard of the same port read for this one.
    Handed {
        /// Which shard.
        from: u16,
        /// From whom.
        source: SocketAddr,
        /// To which of our addresses.
        destination: SocketAddr,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// Another shard of the same port found that a peer of its own is behind an address that this one reads from.
    Claimed {
        /// Which shard.
        by: u16,
        /// Where its peer is.
        source: SocketAddr,
    },
    /// The control plane wants something.
    Command(Command),
    /// Someone pushed into a ring of a server-made or relayed publication.
    SourceWake,
}

/// What a shard has to say.
#[derive(Debug)]
pub enum ShardOutput {
    /// For the control plane.
    Event(Event),
    /// Nothing more now; call [`Shard::handle_timeout`] at this instant.
    Timeout(Instant),
}

/// The machine.
pub struct Shard {
    config: ShardConfig,
    peers: Peers,
    neighbours: Neighbours,
    handovers: HandoverSlab,
    rooms: BTreeMap<RoomKey, Room>,
    /// When each room's next round is due.
    rounds: BinaryHeap<Reverse<(Instant, RoomKey)>>,
    /// Rooms that have offers to send.
    negotiating: BTreeSet<RoomKey>,
    /// Rooms with publications that come over rings.
    ringed: BTreeSet<RoomKey>,
    events: VecDeque<Event>,
    slab: SendSlab,
    stats: ShardStats,
    stopped: bool,
}

/// Lends everything but the rooms to a room.
macro_rules! turn {
    ($shard:ident, $now:expr) => {
        Turn {
            now: $now,
            peers: &mut $shard.peers,
            slab: &mut $shard.slab,
            events: &mut $shard.events,
            tap: &mut $shard.config.tap,
            stats: &mut $shard.stats,
            limits: &$shard.config.limits,
            entropy: &mut $shard.config.entropy,
            identity: &$shard.config.identity,
            site: &$shard.config.site,
        }
    };
}

impl Shard {
    /// A shard without rooms.
    pub fn new(config: ShardConfig) -> Shard {
        Shard {
            neighbours: Neighbours::new(config.site.shard, config.sharing),
            handovers: HandoverSlab::default(),
            config,
            peers: Peers::default(),
            rooms: BTreeMap::new(),
            rounds: BinaryHeap::new(),
            negotiating: BTreeSet::new(),
            ringed: BTreeSet::new(),
            events: VecDeque::new(),
            slab: SendSlab::default(),
            stats: ShardStats::default(),
            stopped: false,
        }
    }

    /// Something happened.
    pub fn handle(&mut self, now: Instant, input: ShardInput<'_>) {
        match input {
            ShardInput::Datagram { source, destination, bytes } => {
                self.stats.datagrams_in += 1;
                self.stats.bytes_in += bytes.len() as u64;
                self.datagram(now, None, source, destination, bytes);
            }
            ShardInput::Handed { from, source, destination, bytes } => {
                self.stats.handed_in += 1;
                self.datagram(now, Some(from), source, destination, bytes);
            }
            ShardInput::Claimed { by, source } => {
                // The newest proof wins, as between two peers of one shard.
                self.peers.forget_address(source);
                if !self.neighbours.claim(now, source, by) {
                    self.stats.limit_hits += 1;
                }
            }
            ShardInput::Command(command) => self.command(now, command),
            ShardInput::SourceWake => self.poll_rings(now),
        }
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(key) = self.peers.next_due(now) {
            if let Some(peer) = self.peers.touch(key) {
                peer.transport.handle_timeout(now, &mut self.slab);
                peer.count_dropped(&mut self.stats);
            }
        }
        while let Some(&Reverse((at, key))) = self.rounds.peek() {
            if at > now {
                break;
            }
            self.rounds.pop();
            let Some(room) = self.rooms.get_mut(&key) else { continue };
            room.round(&mut turn!(self, now));
            // From now, not from when it was due: after a stall rounds are skipped, not made up for.
            self.rounds.push(Reverse((now + ROUND, key)));
        }
        self.poll_rings(now);
    }

    /// The next event, or the next deadline. Drains every transport that was changed.
    pub fn poll_output(&mut self, now: Instant) -> ShardOutput {
        loop {
            if let Some(event) = self.events.pop_front() {
                return ShardOutput::Event(event);
            }
            if let Some(key) = self.peers.next_to_drain() {
                self.drain(now, key);
                continue;
            }
            // Last of all, so that everything of this turn is in one offer.
            if let Some(key) = self.negotiating.pop_first() {
                if let Some(room) = self.rooms.get_mut(&key) {
                    room.negotiate(&mut turn!(self, now));
                }
                continue;
            }
            let rooms = self.rounds.peek().map(|Reverse((at, _))| *at);
            let deadline = [self.peers.next_deadline(), rooms].into_iter().flatten().min();
            return ShardOutput::Timeout(deadline.unwrap_or(now + IDLE));
        }
    }

    /// Datagrams to send. Whoever writes them clears it.
    pub fn slab(&mut self) -> &mut SendSlab {
        &mut self.slab
    }

    /// What other shards of the same port shall get. Whoever hands it over clears it.
    pub fn handovers(&mut self) -> (&mut HandoverSlab, &mut ShardStats) {
        (&mut self.handovers, &mut self.stats)
    }

    /// Told to stop, and every transport is closed.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Publications with rings are polled without being woken as long as this is true.
    pub fn has_rings(&self) -> bool {
        !self.ringed.is_empty()
    }

    /// Counters now.
    pub fn stats(&self) -> ShardStats {
        let mut stats = self.stats.clone();
        stats.rooms = self.rooms.len() as u64;
        for room in self.rooms.values() {
            let (publications, subscriptions) = room.counts();
            stats.participants += room.participants() as u64;
            stats.publications += publications as u64;
            stats.subscriptions += subscriptions as u64;
        }
        stats
    }

    /// Counters that `net` keeps.
    pub fn stats_mut(&mut self) -> &mut ShardStats {
        &mut self.stats
    }

    /// Transports, known addresses and ufrags: all zero when the last participant has left.
    pub fn table_sizes(&self) -> (usize, usize, usize) {
        let (addresses, ufrags) = self.peers.table_sizes();
        (self.peers.len(), addresses, ufrags)
    }

    /// Joins a publication to the part of its room that runs elsewhere.
    pub fn attach_relay(&mut self, now: Instant, room: RoomKey, track: TrackKey, codec: Codec, relay: Relay) {
        if let Some(state) = self.rooms.get_mut(&room) {
            state.attach_relay(&mut turn!(self, now), track, codec, relay);
            self.note(room);
        }
    }

    /// `from`: the shard that read it, if not this one. What was handed over is not handed on.
    fn datagram(&mut self, now: Instant, from: Option<u16>, source: SocketAddr, destination: SocketAddr, bytes: &[u8]) {
        let key = match stun::classify(bytes) {
            stun::Datagram::StunRequest { ufrag } => {
                if from.is_none()
                    && let Some(neighbour) = self.neighbours.by_ufrag(ufrag)
                {
                    return self.handovers.datagram(neighbour, source, destination, bytes);
                }
                let key = self.peers.by_ufrag(ufrag);
                let accepted = key.filter(|k| self.peers.get(*k).is_some_and(|p| p.transport.accepts(source, destination, bytes)));
                let Some(key) = accepted else {
                    self.stats.dropped_bad_stun += 1;
                    return;
                };
                if !self.peers.validate(key, source) {
                    self.stats.limit_hits += 1;
                    return;
                }
                if let Some(reader) = from {
                    self.handovers.claim(reader, source);
                }
                key
            }
            stun::Datagram::Stun | stun::Datagram::Session => match self.peers.by_address(source) {
                Some(key) => key,
                None => {
                    let neighbour = if from.is_none() { self.neighbours.by_address(now, source) } else { None };
                    match neighbour {
                        Some(neighbour) => self.handovers.datagram(neighbour, source, destination, bytes),
                        None => self.stats.dropped_unknown_address += 1,
                    }
                    return;
                }
            },
            stun::Datagram::Malformed => {
                self.stats.dropped_bad_stun += 1;
                return;
            }
            stun::Datagram::Unknown => {
                self.stats.dropped_unknown_address += 1;
                return;
            }
        };
        if let Some(peer) = self.peers.touch(key) {
            peer.transport.handle_datagram(now, source, destination, bytes, &mut self.slab);
        }
    }

    /// Takes everything that a transport has to say.
    fn drain(&mut self, now: Instant, key: PeerKey) {
        loop {
            let Some(peer) = self.peers.get_mut(key) else { return };
            match peer.transport.poll_output(now, &mut self.slab) {
                TransportOutput::Timeout(at) => return self.peers.schedule(key, at),
                TransportOutput::Event(event) => {
                    let room_key = peer.room;
                    let Some(room) = self.rooms.get_mut(&room_key) else { continue };
                    let media = matches!(event, TransportEvent::Rtp { .. });
                    let mut turn = turn!(self, now);
                    if media {
                        room.media_event(&mut turn, key, event);
                    } else {
                        room.connection_event(&mut turn, key, event);
                    }
                    if room.has_to_negotiate() {
                        self.negotiating.insert(room_key);
                    }
                }
            }
        }
    }

    fn poll_rings(&mut self, now: Instant) {
        let mut next = self.ringed.first().copied();
        while let Some(key) = next {
            if let Some(room) = self.rooms.get_mut(&key) {
                room.poll_rings(&mut turn!(self, now));
            }
            self.note(key);
            // Found anew: noting may have taken this one out.
            next = self.ringed.range((Bound::Excluded(key), Bound::Unbounded)).next().copied();
        }
    }

    /// Notes what a call may have changed about a room.
    fn note(&mut self, key: RoomKey) {
        let room = self.rooms.get(&key);
        if room.is_some_and(Room::has_to_negotiate) {
            self.negotiating.insert(key);
        }
        if room.is_some_and(Room::has_rings) {
            self.ringed.insert(key);
        } else {
            self.ringed.remove(&key);
        }
    }

    fn command(&mut self, now: Instant, command: Command) {
        let key = match &command {
            Command::OpenRoom { room } => {
                if !self.rooms.contains_key(room) {
                    self.rooms.insert(*room, Room::new(*room));
                    self.rounds.push(Reverse((now + ROUND, *room)));
                }
                return;
            }
            Command::Shutdown => {
                for key in self.rooms.keys().copied().collect::<Vec<_>>() {
                    self.close_room(now, key);
                }
                self.stopped = true;
                return;
            }
            other => room_of(other),
        };
        let Some(key) = key else { return };
        if matches!(command, Command::CloseRoom { .. }) {
            return self.close_room(now, key);
        }
        let participants: usize = match command {
            Command::AddParticipant { .. } => self.rooms.values().map(Room::participants).sum(),
            _ => 0,
        };
        let Some(room) = self.rooms.get_mut(&key) else {
            tracing::debug!(room = ?key, "command for a room that is not open");
            return;
        };
        let turn = &mut turn!(self, now);
        match command {
            Command::AddParticipant { room: room_key, participant, spec } => {
                if participants >= turn.limits.participants {
                    turn.stats.limit_hits += 1;
                    let reason = format!(
                        "the media server is full: {participants} participants on this shard, at most {} are taken; try again later",
                        turn.limits.participants
                    );
                    let refusal = Refusal { reason };
                    turn.events.push_back(Event::NegotiationFailed { room: room_key, participant, target: Target::Publisher, refusal });
                } else {
                    room.add_participant(turn, participant, spec);
                }
            }
            Command::RemoveParticipant { participant, .. } => room.remove_participant(turn, participant),
            Command::SetPermissions { participant, permissions, .. } => room.set_permissions(turn, participant, permissions),
            Command::Offer { participant, id, offer, .. } => room.offer(turn, participant, id, *offer),
            Command::Answer { participant, id, answer, .. } => room.answer(turn, participant, id, *answer),
            Command::Candidate { participant, target, candidate, .. } => room.candidate(turn, participant, target, candidate),
            Command::RestartIce { participant, .. } => room.restart_ice(turn, participant),
            Command::AddTrack { participant, track, spec, .. } => room.add_track(turn, participant, track, spec),
            Command::RemoveTrack { track, .. } => room.remove_track(turn, track),
            Command::SetMuted { track, muted, .. } => room.set_muted(turn, track, muted),
            Command::Subscribe { subscriber, track, .. } => room.subscribe(turn, subscriber, track),
            Command::Unsubscribe { subscriber, track, .. } => room.unsubscribe(turn, subscriber, track),
            Command::SetTrackSettings { subscriber, track, settings, .. } => room.set_track_settings(turn, subscriber, track, settings),
            Command::SendData { reliable, packet, to, except, .. } => room.send_data(turn, reliable, &packet, &to, except),
            Command::ReplayData { participant, states, .. } => room.replay_data(turn, participant, &states),
            Command::SetTap { track, enabled, .. } => room.set_tap(turn, track, enabled),
            Command::AttachSource { track, codec, packets, .. } => {
                room.attach_source(turn, track, codec, packets);
                room.poll_rings(turn);
            }
            Command::OpenRoom { .. } | Command::CloseRoom { .. } | Command::Shutdown => {}
        }
        self.note(key);
    }

    fn close_room(&mut self, now: Instant, key: RoomKey) {
        if let Some(mut room) = self.rooms.remove(&key) {
            room.close(&mut turn!(self, now));
        }
        self.negotiating.remove(&key);
        self.ringed.remove(&key);
    }
}

/// Which room a command is for.
pub fn room_of(command: &Command) -> Option<RoomKey> {
    match command {
        Command::OpenRoom { room }
        | Command::CloseRoom { room }
        | Command::AddParticipant { room, .. }
        | Command::RemoveParticipant { room, .. }
        | Command::SetPermissions { room, .. }
        | Command::Offer { room, .. }
        | Command::Answer { room, .. }
        | Command::Candidate { room, .. }
        | Command::RestartIce { room, .. }
        | Command::AddTrack { room, .. }
        | Command::RemoveTrack { room, .. }
        | Command::SetMuted { room, .. }
        | Command::Subscribe { room, .. }
        | Command::Unsubscribe { room, .. }
        | Command::SetTrackSettings { room, .. }
        | Command::SendData { room, .. }
        | Command::ReplayData { room, .. }
        | Command::SetTap { room, .. }
        | Command::AttachSource { room, .. } => Some(*room),
        Command::Shutdown => None,
    }
}
