//! People in rooms of an `Sfu`: their clients, their sockets, and what signaling would do.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use auralink_media::control::{Command, Event, MediaConfig, MediaPermissions, ParticipantSpec, RemoteAnswer, RemoteOffer, TrackSpec};
use auralink_media::ids::{ParticipantKey, RoomKey, TrackKey};
use auralink_media::net::{MediaHandle, Sfu};
use auralink_media::packet::MediaKind;

use crate::client::{self, Client, ClientSpec, Said};

/// How long a condition may take before the test gives up on it; nothing is asserted on how long it took.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn config(shards: usize) -> MediaConfig {
    MediaConfig {
        udp_bind: vec!["127.0.0.1:0".parse().unwrap(); shards],
        shards,
        advertised: Vec::new(),
        ice_lite: false,
        max_participants: 100,
        max_tracks_per_participant: 8,
    }
}

/// All shards on one port.
pub fn sharing(shards: usize) -> MediaConfig {
    MediaConfig { shards, ..config(1) }
}

/// The way between clients and server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Way {
    /// The only address of the server that clients reach.
    pub only: Option<IpAddr>,
    /// A NAT before the server: what clients know it by, and what it is.
    pub nat: Option<(IpAddr, IpAddr)>,
}

struct Person {
    key: ParticipantKey,
    client: Client,
    sockets: Vec<UdpSocket>,
    room: RoomKey,
}

pub struct Meeting {
    pub media: MediaHandle,
    events: Receiver<Event>,
    seen: Vec<Event>,
    people: Vec<Person>,
    /// Where clients are that join from now on.
    pub home: IpAddr,
    pub way: Way,
    /// Who answered clients and sent them media. Not who checked whether it reaches them: that is every candidate.
    pub heard_from: BTreeSet<IpAddr>,
}

impl Meeting {
    pub fn start(config: MediaConfig) -> (Sfu, Meeting) {
        Meeting::listening(config, |_| {})
    }

    /// `listen` hears each event first, on the shard's thread.
    pub fn listening(config: MediaConfig, listen: impl Fn(&Event) + Send + Sync + 'static) -> (Sfu, Meeting) {
        let (sender, events) = sync_channel(100_000);
        let take = move |event| {
            listen(&event);
            sender.try_send(event).unwrap();
        };
        let sfu = Sfu::start(config, Arc::new(take), Vec::new()).unwrap();
        let media = sfu.handle();
        let home = [127, 0, 0, 1].into();
        let (seen, people, way, heard_from) = (Vec::new(), Vec::new(), Way::default(), BTreeSet::new());
        (sfu, Meeting { media, events, seen, people, home, way, heard_from })
    }

    pub fn open(&self) -> RoomKey {
        let room = RoomKey(self.media.next_key());
        self.media.send(Command::OpenRoom { room }).unwrap();
        room
    }

    pub fn join(&mut self, room: RoomKey, single: bool) -> ParticipantKey {
        let sockets: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind((self.home, 0)).unwrap()).collect();
        sockets.iter().for_each(|s| s.set_nonblocking(true).unwrap());
        let address: Vec<SocketAddr> = sockets.iter().map(|s| s.local_addr().unwrap()).collect();
        let key = ParticipantKey(self.media.next_key());
        let spec = ClientSpec { key, single, red: true, address: [address[0], address[1]], crypto: str0m::crypto::from_feature_flags };
        let client = Client::new(&spec, Instant::now());
        let permissions = MediaPermissions { publish: true, subscribe: true, data: true };
        let spec = ParticipantSpec {
            sid: client.sid.clone(),
            identity: client.identity.clone(),
            single_connection: single,
            permissions,
            agent: false,
            hidden: false,
            connected: true,
        };
        self.media.send(Command::AddParticipant { room, participant: key, spec }).unwrap();
        self.people.push(Person { key, client, sockets, room });
        key
    }

    pub fn publish(&mut self, who: ParticipantKey, kind: MediaKind) -> TrackKey {
        let track = TrackKey(self.media.next_key());
        let person = self.people.iter().find(|p| p.key == who).unwrap();
        let in_room = |p: &&Person| p.room == person.room && p.key != who;
        let others: Vec<ParticipantKey> = self.people.iter().filter(in_room).map(|p| p.key).collect();
        let person = self.people.iter_mut().find(|p| p.key == who).unwrap();
        person.client.publish(Instant::now(), track, kind, 1, false);
        let cid = person.client.published.last().unwrap().cid.clone();
        let room = person.room;
        let spec = TrackSpec {
            sid: format!("TR_{}", track.0),
            cid,
            kind,
            muted: false,
            layers: vec![],
            encrypted: false,
            disable_red: false,
            codec: None,
            speaks: true,
        };
        self.media.send(Command::AddTrack { room, participant: who, track, spec }).unwrap();
        for subscriber in others {
            self.media.send(Command::Subscribe { room, subscriber, track }).unwrap();
        }
        track
    }

    pub fn received(&self, who: ParticipantKey, track: TrackKey) -> usize {
        let client = &self.people.iter().find(|p| p.key == who).unwrap().client;
        let of_track = |s: &&client::ReceivedStream| s.packets.values().any(|p| p.mark.publication == track.0);
        client.receiving().received.values().filter(of_track).map(|s| s.packets.len()).sum()
    }

    /// Whether such an event came.
    pub fn seen(&self, such: impl Fn(&Event) -> bool) -> bool {
        self.seen.iter().any(such)
    }

    /// Everyone of this room has gone.
    pub fn forget(&mut self, room: RoomKey) {
        self.people.retain(|person| person.room != room);
    }

    /// Runs clients and signaling until `done`.
    pub fn run_until(&mut self, what: &str, done: impl Fn(&Meeting) -> bool) {
        let give_up = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < give_up, "{what} did not happen; seen: {:?}", self.seen);
            self.step();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn step(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            let who = match &event {
                Event::Answer { participant, .. } | Event::Offer { participant, .. } | Event::SectionsRequired { participant, .. } => {
                    *participant
                }
                Event::NegotiationFailed { refusal, .. } => panic!("{}", refusal.reason),
                _ => {
                    self.seen.push(event);
                    continue;
                }
            };
            let Some(person) = self.people.iter_mut().find(|p| p.key == who) else { continue };
            match event {
                Event::Answer { sdp, .. } => person.client.take_answer(&sdp),
                Event::Offer { id, sdp, .. } => person.client.take_offer(id, &sdp),
                Event::SectionsRequired { audios, videos, .. } => person.client.add_sections(audios, videos),
                _ => {}
            }
        }
        let (now, way) = (Instant::now(), self.way);
        for Person { key, client, sockets, room } in &mut self.people {
            let mut buffer = [0; 2048];
            for socket in sockets.iter() {
                while let Ok((len, source)) = socket.recv_from(&mut buffer) {
                    const STUN_RESPONSE: [u8; 2] = [1, 1];
                    if buffer[0] >= 20 || buffer[..2] == STUN_RESPONSE {
                        self.heard_from.insert(source.ip());
                    }
                    let source = way.back(source);
                    client.receive(now, source, socket.local_addr().unwrap(), &buffer[..len]);
                    drain(client, now, sockets, way);
                }
            }
            client.advance(now, true);
            drain(client, now, sockets, way);
            for said in std::mem::take(&mut client.said) {
                let (room, participant) = (*room, *key);
                self.media
                    .send(match said {
                        Said::Offer { sdp } => {
                            Command::Offer { room, participant, id: 1, offer: Box::new(RemoteOffer::parse(&sdp).unwrap()) }
                        }
                        Said::Answer { id, sdp } => {
                            Command::Answer { room, participant, id, answer: Box::new(RemoteAnswer::parse(&sdp).unwrap()) }
                        }
                    })
                    .unwrap();
            }
        }
    }
}

impl Way {
    /// Where what a client sends arrives.
    fn there(self, destination: SocketAddr) -> Option<SocketAddr> {
        if self.only.is_some_and(|ip| ip != destination.ip()) {
            return None;
        }
        let ip = self.nat.filter(|(outside, _)| *outside == destination.ip()).map_or(destination.ip(), |(_, inside)| inside);
        Some(SocketAddr::new(ip, destination.port()))
    }

    /// From where the client sees it come.
    fn back(self, source: SocketAddr) -> SocketAddr {
        let ip = self.nat.filter(|(_, inside)| *inside == source.ip()).map_or(source.ip(), |(outside, _)| outside);
        SocketAddr::new(ip, source.port())
    }
}

fn drain(client: &mut Client, now: Instant, sockets: &[UdpSocket], way: Way) {
    client.drain(now, |source, destination, bytes| {
        let socket = sockets.iter().find(|s| s.local_addr().unwrap() == source).unwrap();
        // A client tries candidates that it cannot reach, of the other family for example.
        if let Some(destination) = way.there(destination) {
            let _ = socket.send_to(bytes, destination);
        }
    });
}
