//! One room around one shard, and the little of a control plane that it needs: it passes descriptions on, announces tracks and
//! subscribes everyone to everything unless told otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use auralink_media::control::{
    Command, Event, LayerSpec, MediaPermissions, ParticipantSpec, RemoteAnswer, RemoteOffer, TrackSettings, TrackSpec,
};
use auralink_media::ids::{ParticipantKey, RoomKey, TrackKey};
use auralink_media::packet::MediaKind;
use auralink_media::room::Site;
use auralink_media::shard::entropy::Entropy;
use auralink_media::shard::{Limits, Shard, ShardConfig, ShardInput, ShardOutput};
use auralink_media::tap::TapPacket;
use auralink_media::transport::Identity;

use crate::client::{Client, ClientSpec, Said};
use crate::determinism::Trace;
use crate::dtls;
use crate::network::{Cargo, Conditions, Network};

pub const ROOM: RoomKey = RoomKey(1);

pub struct World {
    pub now: Instant,
    pub start: Instant,
    pub shard: Shard,
    pub clients: BTreeMap<ParticipantKey, Client>,
    pub network: Network<Command, Event>,
    pub events: Vec<(Instant, Event)>,
    pub trace: Trace,
    /// Published tracks that the room knows: whose, and of which kind.
    pub tracks: BTreeMap<TrackKey, (ParticipantKey, MediaKind)>,
    pub started: BTreeSet<TrackKey>,
    /// Who subscribed to what.
    pub wanted: BTreeSet<(ParticipantKey, TrackKey)>,
    /// Everyone gets everything, as LiveKit's auto-subscribe does.
    pub auto_subscribe: bool,
    /// Clients send media.
    pub media: bool,
    /// Every datagram that the shard sent: kept when asked for.
    pub keep_sent: bool,
    pub sent: Vec<Vec<u8>>,
    shard_deadline: Instant,
    next_key: u64,
}

pub fn server() -> SocketAddr {
    "10.0.0.1:7882".parse().unwrap()
}

impl World {
    pub fn new(seed: u64, conditions: Conditions, tap: Option<rtrb::Producer<TapPacket>>) -> World {
        World::with_limits(seed, conditions, tap, Limits::default())
    }

    pub fn with_limits(seed: u64, conditions: Conditions, tap: Option<rtrb::Producer<TapPacket>>, limits: Limits) -> World {
        let now = Instant::now();
        let shard = Shard::new(ShardConfig {
            site: Site { shard: 3, candidates: vec![server()], ice_lite: false },
            sharing: 1,
            limits,
            identity: Identity::with_provider(dtls::provider()),
            entropy: Entropy::seeded(seed),
            tap,
        });
        let mut world = World {
            now,
            start: now,
            shard,
            clients: BTreeMap::new(),
            network: Network::new(seed, conditions, server()),
            events: Vec::new(),
            trace: Trace::default(),
            tracks: BTreeMap::new(),
            started: BTreeSet::new(),
            wanted: BTreeSet::new(),
            auto_subscribe: true,
            media: true,
            keep_sent: false,
            sent: Vec::new(),
            shard_deadline: now,
            next_key: 100,
        };
        world.command(Command::OpenRoom { room: ROOM });
        world
    }

    pub fn command(&mut self, command: Command) {
        self.network.command(self.now, command);
    }

    pub fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// A participant joins.
    pub fn join(&mut self, single: bool, red: bool) -> ParticipantKey {
        self.join_with(single, red, |_| {})
    }

    /// The same, with something else said of the participant.
    pub fn join_with(&mut self, single: bool, red: bool, say: impl FnOnce(&mut ParticipantSpec)) -> ParticipantKey {
        let key = ParticipantKey(self.key());
        let address = |port: u16| SocketAddr::new([10, 0, 1, (key.0 % 250) as u8].into(), port);
        let client =
            Client::new(&ClientSpec { key, single, red, address: [address(5000), address(5001)], crypto: dtls::provider }, self.now);
        let mut spec = ParticipantSpec {
            sid: client.sid.clone(),
            identity: client.identity.clone(),
            single_connection: single,
            permissions: MediaPermissions { publish: true, subscribe: true, data: true },
            agent: false,
            hidden: false,
            connected: true,
        };
        say(&mut spec);
        self.command(Command::AddParticipant { room: ROOM, participant: key, spec });
        self.clients.insert(key, client);
        if self.auto_subscribe {
            for track in self.tracks.keys().copied().collect::<Vec<_>>() {
                self.subscribe(key, track);
            }
        }
        key
    }

    /// A participant leaves without a word to its peers.
    pub fn leave(&mut self, key: ParticipantKey) {
        self.command(Command::RemoveParticipant { room: ROOM, participant: key });
        self.clients.remove(&key);
        self.tracks.retain(|_, (owner, _)| *owner != key);
        let tracks = self.tracks.clone();
        self.wanted.retain(|(who, track)| *who != key && tracks.contains_key(track));
    }

    /// A participant publishes; `layers` above 1 is simulcast.
    pub fn publish(&mut self, key: ParticipantKey, kind: MediaKind, layers: usize, red: bool) -> TrackKey {
        self.publish_with(key, kind, layers, red, |_| {})
    }

    /// The same, with something else said of the track.
    pub fn publish_with(
        &mut self,
        key: ParticipantKey,
        kind: MediaKind,
        layers: usize,
        red: bool,
        say: impl FnOnce(&mut TrackSpec),
    ) -> TrackKey {
        let track = TrackKey(self.key());
        let now = self.now;
        let client = self.clients.get_mut(&key).unwrap();
        client.publish(now, track, kind, layers, red);
        let cid = client.published.last().unwrap().cid.clone();
        let rids = if layers > 1 { ["q", "h", "f"] } else { ["", "", ""] };
        let layers = match kind {
            MediaKind::Audio => Vec::new(),
            MediaKind::Video => (0..layers as u8)
                .map(|spatial| LayerSpec {
                    rid: rids[usize::from(spatial)].into(),
                    spatial,
                    width: 320 << spatial,
                    height: 180 << spatial,
                    bitrate_bps: 100_000 << (2 * spatial),
                })
                .collect(),
        };
        let mut spec = TrackSpec {
            sid: format!("TR_{}", track.0),
            cid,
            kind,
            muted: false,
            layers,
            encrypted: false,
            disable_red: false,
            codec: None,
            speaks: kind == MediaKind::Audio,
        };
        say(&mut spec);
        self.command(Command::AddTrack { room: ROOM, participant: key, track, spec });
        self.tracks.insert(track, (key, kind));
        if self.auto_subscribe {
            for other in self.clients.keys().copied().filter(|k| *k != key).collect::<Vec<_>>() {
                self.subscribe(other, track);
            }
        }
        track
    }

    pub fn unpublish(&mut self, track: TrackKey) {
        let Some((owner, _)) = self.tracks.remove(&track) else { return };
        if let Some(client) = self.clients.get_mut(&owner) {
            client.unpublish(track);
        }
        self.command(Command::RemoveTrack { room: ROOM, track });
        self.wanted.retain(|(_, t)| *t != track);
    }

    pub fn mute(&mut self, track: TrackKey, muted: bool) {
        let Some((owner, _)) = self.tracks.get(&track) else { return };
        if let Some(published) = self.clients.get_mut(owner).and_then(|c| c.published.iter_mut().find(|p| p.track == track)) {
            published.muted = muted;
        }
        self.command(Command::SetMuted { room: ROOM, track, muted });
    }

    pub fn subscribe(&mut self, subscriber: ParticipantKey, track: TrackKey) {
        if self.tracks.get(&track).is_some_and(|(owner, _)| *owner != subscriber) && self.wanted.insert((subscriber, track)) {
            self.command(Command::Subscribe { room: ROOM, subscriber, track });
        }
    }

    pub fn unsubscribe(&mut self, subscriber: ParticipantKey, track: TrackKey) {
        if self.wanted.remove(&(subscriber, track)) {
            self.command(Command::Unsubscribe { room: ROOM, subscriber, track });
        }
    }

    pub fn settings(&mut self, subscriber: ParticipantKey, track: TrackKey, settings: TrackSettings) {
        self.command(Command::SetTrackSettings { room: ROOM, subscriber, track, settings });
    }

    /// Lets everything that is due happen for a time.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.settle();
            let clients = self.clients.values_mut().flat_map(|c| {
                let media = c.next_media().filter(|_| self.media);
                c.connections().map(|c| c.deadline).chain(media).collect::<Vec<_>>()
            });
            let next = clients.chain(self.network.next_at()).chain([self.shard_deadline]).min().unwrap();
            if next > end {
                break;
            }
            // A machine that names the same instant for ever would hang a shard: time moves by a microsecond at least.
            self.now = next.max(self.now + Duration::from_micros(1));
            self.arrivals();
            if self.shard_deadline <= self.now {
                self.shard.handle_timeout(self.now);
            }
        }
        self.now = self.now.max(end);
        self.arrivals();
        self.settle();
    }

    fn arrivals(&mut self) {
        while let Some(cargo) = self.network.arrived(self.now) {
            match cargo {
                Cargo::Datagram { source, destination, bytes } if destination == server() => {
                    self.shard.handle(self.now, ShardInput::Datagram { source, destination, bytes: &bytes });
                }
                Cargo::Datagram { source, destination, bytes } => {
                    let now = self.now;
                    if let Some(client) = self.clients.values_mut().find(|c| c.has_address(destination)) {
                        client.receive(now, source, destination, &bytes);
                        // The rule of the client's machine: drained after each input.
                        let network = &mut self.network;
                        client.drain(now, |source, destination, bytes| network.datagram(now, source, destination, bytes));
                    }
                }
                Cargo::Command(command) => self.shard.handle(self.now, ShardInput::Command(command)),
                Cargo::Event(event) => self.event(event),
            }
        }
    }

    fn settle(&mut self) {
        let now = self.now;
        self.shard_deadline = loop {
            match self.shard.poll_output(now) {
                ShardOutput::Event(event) => self.network.event(now, event),
                ShardOutput::Timeout(at) => break at,
            }
        };
        let slab = std::mem::take(self.shard.slab());
        for datagram in &slab.datagrams {
            let bytes = &slab.bytes[datagram.start as usize..(datagram.start + datagram.len) as usize];
            self.trace.add(&(now - self.start).as_nanos().to_be_bytes());
            self.trace.add(bytes);
            if self.keep_sent {
                self.sent.push(bytes.to_vec());
            }
            self.network.datagram(now, datagram.source, datagram.destination, bytes);
        }
        let media = self.media;
        let mut said = Vec::new();
        for (key, client) in &mut self.clients {
            client.advance(now, media);
            let network = &mut self.network;
            client.drain(now, |source, destination, bytes| network.datagram(now, source, destination, bytes));
            said.extend(client.said.drain(..).map(|s| (*key, s)));
        }
        for (participant, said) in said {
            self.command(match said {
                Said::Offer { sdp } => {
                    Command::Offer { room: ROOM, participant, id: 1, offer: Box::new(RemoteOffer::parse(&sdp).unwrap()) }
                }
                Said::Answer { id, sdp } => {
                    Command::Answer { room: ROOM, participant, id, answer: Box::new(RemoteAnswer::parse(&sdp).unwrap()) }
                }
            });
        }
    }

    /// What the control plane does with an event.
    fn event(&mut self, event: Event) {
        self.trace.add(&(self.now - self.start).as_nanos().to_be_bytes());
        self.trace.add(format!("{event:?}").as_bytes());
        match &event {
            Event::Answer { participant, sdp, .. } => {
                if let Some(client) = self.clients.get_mut(participant) {
                    client.take_answer(sdp);
                }
            }
            Event::Offer { participant, id, sdp, .. } => {
                if let Some(client) = self.clients.get_mut(participant) {
                    client.take_offer(*id, sdp);
                }
            }
            Event::SectionsRequired { participant, audios, videos, .. } => {
                if let Some(client) = self.clients.get_mut(participant) {
                    client.add_sections(*audios, *videos);
                }
            }
            Event::TrackStarted { track, .. } => {
                self.started.insert(*track);
            }
            Event::NegotiationFailed { participant, target, refusal, .. } => {
                panic!("negotiation of {participant:?} {target:?} failed: {}", refusal.reason)
            }
            _ => {}
        }
        self.events.push((self.now, event));
    }

    /// Everyone leaves, the room closes: nothing may be left.
    pub fn end(mut self) -> Trace {
        for key in self.clients.keys().copied().collect::<Vec<_>>() {
            self.leave(key);
        }
        self.run(Duration::from_millis(200));
        let stats = self.shard.stats();
        assert_eq!((stats.participants, stats.publications, stats.subscriptions), (0, 0, 0), "left behind in the room");
        self.command(Command::CloseRoom { room: ROOM });
        self.run(Duration::from_secs(1));
        assert_eq!(self.shard.stats().rooms, 0);
        assert_eq!(self.shard.table_sizes(), (0, 0, 0), "transports, addresses, ufrags left behind");
        self.trace
    }

    /// Packets of `track` that `subscriber` received, by SSRC, oldest stream first.
    pub fn received(&self, subscriber: ParticipantKey, track: TrackKey) -> Vec<&crate::client::ReceivedStream> {
        let streams = self.clients[&subscriber].receiving().received.values();
        let mut of_track: Vec<_> = streams.filter(|s| s.packets.values().any(|p| p.mark.publication == track.0)).collect();
        of_track.sort_by_key(|s| s.packets.values().map(|p| p.at).min());
        of_track
    }

    /// Checks all that must hold of every stream that anyone received. `gapless`: those of `wanted` have no gap at all.
    pub fn check_streams(&self, gapless: bool) {
        for (key, client) in &self.clients {
            for (ssrc, stream) in &client.receiving().received {
                let who = format!("{key:?}, SSRC {ssrc}");
                check_stream(&who, stream);
                let track = TrackKey(stream.packets.values().next().unwrap().mark.publication);
                let newest = self.received(*key, track).last().is_some_and(|s| std::ptr::eq(*s, stream));
                let video = self.tracks.get(&track).is_some_and(|(_, kind)| *kind == MediaKind::Video);
                if gapless && newest && video && self.wanted.contains(&(*key, track)) {
                    let (first, last) = (stream.packets.keys().next().unwrap(), stream.packets.keys().next_back().unwrap());
                    let missing: Vec<u64> = (*first..=*last).filter(|s| !stream.packets.contains_key(s)).collect();
                    let times: Vec<_> =
                        stream.packets.iter().rev().take(6).map(|(s, p)| (s, p.at - self.start, p.mark.layer, p.mark.seq)).collect();
                    let stats = self.shard.stats();
                    assert!(
                        missing.is_empty(),
                        "{who}: {track:?} lacks {missing:?} of {first}..={last}; newest {times:?}; nacked {} resent {}",
                        stats.nacked,
                        stats.retransmitted
                    );
                }
            }
        }
    }
}

/// One publication per SSRC; VP8 numbers run on without a step; time goes forward.
fn check_stream(who: &str, stream: &crate::client::ReceivedStream) {
    let publication = stream.packets.values().next().unwrap().mark.publication;
    let mut before: Option<(u64, &crate::client::ReceivedPacket)> = None;
    let mut seen = BTreeSet::new();
    for (&seq, packet) in &stream.packets {
        assert_eq!(packet.mark.publication, publication, "{who}: two publications on one SSRC");
        assert!(seen.insert((packet.mark.layer, packet.mark.seq)), "{who}: {:?} came twice", packet.mark);
        if let Some((last_seq, last)) = before.filter(|(last_seq, _)| *last_seq + 1 == seq) {
            let _ = last_seq;
            let same_frame = (last.mark.layer, last.mark.frame) == (packet.mark.layer, packet.mark.frame);
            let ahead = packet.timestamp.wrapping_sub(last.timestamp) as i32;
            assert!(if same_frame { ahead == 0 } else { ahead > 0 }, "{who}: timestamp of {:?} steps by {ahead}", packet.mark);
            if let (Some(id), Some(last_id)) = (packet.picture_id, last.picture_id) {
                let step = u16::from(!same_frame);
                assert_eq!(id.wrapping_sub(last_id) & 0x7fff, step, "{who}: picture id steps from {:?} to {:?}", last.mark, packet.mark);
                let tl0 = packet.tl0.unwrap().wrapping_sub(last.tl0.unwrap());
                assert_eq!(u16::from(tl0), step, "{who}: TL0PICIDX steps from {:?} to {:?}", last.mark, packet.mark);
            }
            if packet.picture_id.is_some() && last.mark.layer != packet.mark.layer {
                assert!(packet.key_frame, "{who}: a layer begins without a key frame: {:?}", packet.mark);
            }
        }
        before = Some((seq, packet));
    }
}
