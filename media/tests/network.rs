//! The same over real sockets: an `Sfu` on loopback and two clients with sockets of their own see and hear each other; with one
//! port per shard, several shards; what cannot be bound is said.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, reason = "a test has sockets and a clock")]

#[path = "simulation/client.rs"]
#[allow(dead_code, reason = "shared with the simulation")]
mod client;
#[path = "simulation/marks.rs"]
#[allow(dead_code, reason = "shared with the simulation")]
mod marks;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use auralink_media::control::{Command, Event, MediaConfig, MediaPermissions, ParticipantSpec, TrackSpec};
use auralink_media::ids::{ParticipantKey, RoomKey, TrackKey};
use auralink_media::net::{MediaHandle, NetError, Refused, Sfu};
use auralink_media::packet::MediaKind;

use crate::client::{Client, ClientSpec, Said};

/// How long a condition may take before the test gives up on it; nothing is asserted on how long it took.
const PATIENCE: Duration = Duration::from_secs(30);

fn config(shards: usize) -> MediaConfig {
    MediaConfig {
        udp_bind: vec!["127.0.0.1:0".parse().unwrap(); shards],
        advertised: Vec::new(),
        ice_lite: false,
        max_participants: 100,
        max_tracks_per_participant: 8,
    }
}

struct Person {
    key: ParticipantKey,
    client: Client,
    sockets: Vec<UdpSocket>,
    room: RoomKey,
}

struct Meeting {
    media: MediaHandle,
    events: Receiver<Event>,
    seen: Vec<Event>,
    people: Vec<Person>,
}

impl Meeting {
    fn start(shards: usize) -> (Sfu, Meeting) {
        let (sender, events) = sync_channel(100_000);
        let sfu = Sfu::start(config(shards), Arc::new(move |event| sender.try_send(event).unwrap()), Vec::new()).unwrap();
        let media = sfu.handle();
        (sfu, Meeting { media, events, seen: Vec::new(), people: Vec::new() })
    }

    fn open(&self) -> RoomKey {
        let room = RoomKey(self.media.next_key());
        self.media.send(Command::OpenRoom { room }).unwrap();
        room
    }

    fn join(&mut self, room: RoomKey, single: bool) -> ParticipantKey {
        let sockets: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
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
            hidden: false,
            connected: true,
        };
        self.media.send(Command::AddParticipant { room, participant: key, spec }).unwrap();
        self.people.push(Person { key, client, sockets, room });
        key
    }

    fn publish(&mut self, who: ParticipantKey, kind: MediaKind) -> TrackKey {
        let track = TrackKey(self.media.next_key());
        let others: Vec<ParticipantKey> = self.people.iter().map(|p| p.key).filter(|k| *k != who).collect();
        let person = self.people.iter_mut().find(|p| p.key == who).unwrap();
        person.client.publish(Instant::now(), track, kind, 1, false);
        let cid = person.client.published.last().unwrap().cid.clone();
        let room = person.room;
        let spec = TrackSpec { sid: format!("TR_{}", track.0), cid, kind, muted: false, layers: vec![], encrypted: false, speaks: true };
        self.media.send(Command::AddTrack { room, participant: who, track, spec }).unwrap();
        for subscriber in others {
            self.media.send(Command::Subscribe { room, subscriber, track }).unwrap();
        }
        track
    }

    fn received(&self, who: ParticipantKey, track: TrackKey) -> usize {
        let client = &self.people.iter().find(|p| p.key == who).unwrap().client;
        let of_track = |s: &&client::ReceivedStream| s.packets.values().any(|p| p.mark.publication == track.0);
        client.receiving().received.values().filter(of_track).map(|s| s.packets.len()).sum()
    }

    /// Runs clients and signaling until `done`.
    fn run_until(&mut self, what: &str, done: impl Fn(&Meeting) -> bool) {
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
        let now = Instant::now();
        for Person { key, client, sockets, room } in &mut self.people {
            let mut buffer = [0; 2048];
            for socket in sockets.iter() {
                while let Ok((len, source)) = socket.recv_from(&mut buffer) {
                    client.receive(now, source, socket.local_addr().unwrap(), &buffer[..len]);
                    drain(client, now, sockets);
                }
            }
            client.advance(now, true);
            drain(client, now, sockets);
            for said in std::mem::take(&mut client.said) {
                let (room, participant) = (*room, *key);
                self.media
                    .send(match said {
                        Said::Offer { sdp } => Command::Offer { room, participant, id: 1, sdp },
                        Said::Answer { id, sdp } => Command::Answer { room, participant, id, sdp },
                    })
                    .unwrap();
            }
        }
    }
}

fn drain(client: &mut Client, now: Instant, sockets: &[UdpSocket]) {
    client.drain(now, |source, destination, bytes| {
        let socket = sockets.iter().find(|s| s.local_addr().unwrap() == source).unwrap();
        socket.send_to(bytes, destination).unwrap();
    });
}

#[test]
fn two_people_see_and_hear_each_other_over_loopback() {
    for single in [false, true] {
        let (sfu, mut meeting) = Meeting::start(1);
        let room = meeting.open();
        let (alice, bob) = (meeting.join(room, single), meeting.join(room, single));
        let tracks = [
            (bob, meeting.publish(alice, MediaKind::Audio)),
            (bob, meeting.publish(alice, MediaKind::Video)),
            (alice, meeting.publish(bob, MediaKind::Audio)),
            (alice, meeting.publish(bob, MediaKind::Video)),
        ];
        meeting.run_until("media both ways", |m| tracks.iter().all(|(who, track)| m.received(*who, *track) > 30));
        meeting.run_until("a report of counters", |m| m.media.stats()[0].rtp_out > 100);
        sfu.stop();
        assert_eq!(meeting.media.send(Command::OpenRoom { room: RoomKey(9999) }), Err(Refused::Stopped));
    }
}

#[test]
fn rooms_spread_over_shards_and_each_has_its_port() {
    let (sfu, mut meeting) = Meeting::start(2);
    assert_eq!(sfu.shards(), 2);
    assert_ne!(sfu.addresses()[0], sfu.addresses()[1]);
    let mut pairs = Vec::new();
    for _ in 0..2 {
        let room = meeting.open();
        let (alice, bob) = (meeting.join(room, false), meeting.join(room, true));
        let track = meeting.publish(alice, MediaKind::Audio);
        pairs.push((bob, track));
    }
    meeting.run_until("sound in both rooms", |m| pairs.iter().all(|(who, track)| m.received(*who, *track) > 10));
    meeting.run_until("a room on each shard", |m| m.media.stats().iter().all(|s| s.rooms == 1 && s.rtp_in > 0));
    sfu.stop();
}

#[test]
fn what_cannot_be_bound_is_said() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let start = |config| Sfu::start(config, Arc::new(|_| {}), Vec::new()).err().unwrap();
    let error = start(MediaConfig { udp_bind: vec![address], ..config(1) });
    assert!(matches!(error, NetError::Bind { .. }) && error.to_string().contains(&address.to_string()), "{error}");
    let error = start(MediaConfig { udp_bind: vec!["0.0.0.0:0".parse().unwrap()], ..config(1) });
    assert!(matches!(error, NetError::NoAddress { .. }), "{error}");
    assert!(matches!(start(config(0)), NetError::NoSocket));
}

#[test]
fn a_detached_handle_collects_commands() {
    let (media, commands) = MediaHandle::detached();
    media.send(Command::OpenRoom { room: RoomKey(1) }).unwrap();
    assert!(matches!(commands.try_recv(), Ok(Command::OpenRoom { room: RoomKey(1) })));
    assert_ne!(media.next_key(), media.next_key());
}
