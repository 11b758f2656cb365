//! The same over real sockets: an `Sfu` on loopback and clients with sockets of their own see and hear each other, with several
//! shards on ports of their own and on one port; what cannot be bound is said.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, reason = "a test has sockets and a clock")]

#[path = "simulation/client.rs"]
#[allow(dead_code, reason = "shared with the simulation")]
mod client;
#[path = "simulation/marks.rs"]
#[allow(dead_code, reason = "shared with the simulation")]
mod marks;

use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use auralink_media::control::{
    Command, Event, MediaConfig, MediaPermissions, ParticipantSpec, RemoteAnswer, RemoteOffer, ShardStats, TrackSpec,
};
use auralink_media::ids::{ParticipantKey, RoomKey, TrackKey};
use auralink_media::net::{MediaHandle, NetError, Refused, Sfu};
use auralink_media::packet::MediaKind;
use auralink_media::shard::entropy::shard_prefix;

use crate::client::{Client, ClientSpec, Said};

/// How long a condition may take before the test gives up on it; nothing is asserted on how long it took.
const PATIENCE: Duration = Duration::from_secs(30);

fn config(shards: usize) -> MediaConfig {
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
fn sharing(shards: usize) -> MediaConfig {
    MediaConfig { shards, ..config(1) }
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
    fn start(config: MediaConfig) -> (Sfu, Meeting) {
        Meeting::listening(config, |_| {})
    }

    /// `listen` hears each event first, on the shard's thread.
    fn listening(config: MediaConfig, listen: impl Fn(&Event) + Send + Sync + 'static) -> (Sfu, Meeting) {
        let (sender, events) = sync_channel(100_000);
        let take = move |event| {
            listen(&event);
            sender.try_send(event).unwrap();
        };
        let sfu = Sfu::start(config, Arc::new(take), Vec::new()).unwrap();
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
            speaks: true,
        };
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

fn drain(client: &mut Client, now: Instant, sockets: &[UdpSocket]) {
    client.drain(now, |source, destination, bytes| {
        let socket = sockets.iter().find(|s| s.local_addr().unwrap() == source).unwrap();
        socket.send_to(bytes, destination).unwrap();
    });
}

#[test]
fn two_people_see_and_hear_each_other_over_loopback() {
    for single in [false, true] {
        let (sfu, mut meeting) = Meeting::start(config(1));
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
    let (sfu, mut meeting) = Meeting::start(config(2));
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

/// A binding request that nobody signed, for a peer of this shard.
fn forged_request(shard: u16) -> Vec<u8> {
    let username = format!("{}123456789012:them", shard_prefix(shard));
    let padded = username.len().next_multiple_of(4);
    let mut bytes = vec![0, 1, 0, (4 + padded) as u8, 0x21, 0x12, 0xa4, 0x42];
    bytes.extend([7; 12]);
    bytes.extend([0, 6, 0, username.len() as u8]);
    bytes.extend(username.as_bytes());
    bytes.resize(24 + padded, 0);
    bytes
}

#[test]
fn shards_on_one_port_hand_over_what_is_not_theirs() {
    let (sfu, mut meeting) = Meeting::start(sharing(3));
    let address = sfu.addresses()[0];
    assert_eq!((sfu.shards(), sfu.addresses()), (3, &[address; 3][..]));
    let mut expected = Vec::new();
    for _ in 0..3 {
        let room = meeting.open();
        let people: Vec<ParticipantKey> = (0..4).map(|n| meeting.join(room, n == 0)).collect();
        for speaker in &people[..2] {
            let track = meeting.publish(*speaker, MediaKind::Audio);
            expected.extend(people.iter().filter(|p| *p != speaker).map(|p| (*p, track)));
        }
        let film = meeting.publish(people[1], MediaKind::Video);
        expected.push((people[3], film));
    }
    meeting.run_until("media in every room", |m| expected.iter().all(|(who, track)| m.received(*who, *track) > 30));
    let sum = |m: &Meeting, of: fn(&ShardStats) -> u64| m.media.stats().iter().map(of).sum::<u64>();
    meeting.run_until("a room on each shard", |m| m.media.stats().iter().all(|s| s.rooms == 1 && s.rtp_in > 0 && s.rtp_out > 0));
    // 24 sockets in three thirds, of which the kernel gets none wrong once in 10^11 times.
    meeting.run_until("datagrams handed over", |m| sum(m, |s| s.handed_out) > 100 && sum(m, |s| s.handed_in) > 100);
    assert_eq!(sum(&meeting, |s| s.handover_dropped), 0);

    // Of those whom nobody validated nothing gets further, whoever reads it and whichever shard they name.
    let before = (sum(&meeting, |s| s.dropped_unknown_address), sum(&meeting, |s| s.dropped_bad_stun));
    let strangers: Vec<UdpSocket> = (0..16).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for stranger in &strangers {
        for shard in [0, 1, 2, 3, 1_000] {
            stranger.send_to(&forged_request(shard), address).unwrap();
            stranger.send_to(&[0x80, 111, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], address).unwrap();
        }
    }
    meeting.run_until("strangers counted", |m| {
        let now = (sum(m, |s| s.dropped_unknown_address), sum(m, |s| s.dropped_bad_stun));
        now.0 >= before.0 + 80 && now.1 >= before.1 + 80
    });
    sfu.stop();
}

#[test]
fn what_does_not_fit_the_ring_of_a_stalled_shard_is_dropped_and_counted() {
    let (open, gate) = sync_channel::<()>(0);
    let gate = Mutex::new(gate);
    // Who asks to hear a track on a server without listener is refused: that stops the shard until the gate opens.
    let (sfu, mut meeting) = Meeting::listening(sharing(2), move |event| {
        if matches!(event, Event::TapRefused { .. }) {
            let _ = gate.lock().unwrap().recv();
        }
    });
    let mut heard = Vec::new();
    for _ in 0..2 {
        let room = meeting.open();
        let (alice, bob) = (meeting.join(room, true), meeting.join(room, true));
        heard.push((room, bob, meeting.publish(alice, MediaKind::Audio)));
    }
    meeting.run_until("sound in both rooms", |m| heard.iter().all(|(_, who, track)| m.received(*who, *track) > 10));
    meeting.run_until("a room on each shard", |m| m.media.stats().iter().all(|s| s.rooms == 1));

    let (room, _, track) = heard[1];
    meeting.media.send(Command::SetTap { room, track, enabled: true }).unwrap();
    let strangers: Vec<UdpSocket> = (0..16).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let (address, request) = (sfu.addresses()[0], forged_request(1));
    meeting.run_until("a full ring", |m| {
        for stranger in &strangers {
            for _ in 0..10 {
                let _ = stranger.send_to(&request, address);
            }
        }
        m.media.stats()[0].handover_dropped > 100
    });
    assert_eq!(meeting.media.stats()[1].handover_dropped, 0);
    drop(open);
    let before: Vec<usize> = heard.iter().map(|(_, who, track)| meeting.received(*who, *track)).collect();
    meeting.run_until("sound in both rooms again", |m| {
        heard.iter().zip(&before).all(|((_, who, track), before)| m.received(*who, *track) > before + 50)
    });
    sfu.stop();
}

#[test]
fn a_port_that_shards_share_is_shared_with_nobody_else() {
    let sfu = Sfu::start(sharing(2), Arc::new(|_| {}), Vec::new()).unwrap();
    let address = sfu.addresses()[0];
    assert!(UdpSocket::bind(address).is_err(), "a process that knows nothing of us");
    for shards in [1, 2] {
        let another = Sfu::start(MediaConfig { udp_bind: vec![address], ..sharing(shards) }, Arc::new(|_| {}), Vec::new());
        assert!(matches!(another.err(), Some(NetError::Bind { .. })), "another of us with {shards} shards");
    }
    sfu.stop();
    let sfu = Sfu::start(MediaConfig { udp_bind: vec![address], ..sharing(2) }, Arc::new(|_| {}), Vec::new());
    sfu.expect("the port is free again").stop();
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
    let taken = start(MediaConfig { udp_bind: vec![address], ..sharing(2) });
    assert!(matches!(taken, NetError::Bind { .. }), "shards share a port with each other only: {taken}");
    for (shards, addresses) in [(0, 1), (1, 2), (3, 2), (1_000, 1)] {
        let error = start(MediaConfig { shards, ..config(addresses) });
        assert!(matches!(error, NetError::Shards { .. }) && error.to_string().contains(&shards.to_string()), "{error}");
    }
}

#[test]
fn a_detached_handle_collects_commands() {
    let (media, commands) = MediaHandle::detached();
    media.send(Command::OpenRoom { room: RoomKey(1) }).unwrap();
    assert!(matches!(commands.try_recv(), Ok(Command::OpenRoom { room: RoomKey(1) })));
    assert_ne!(media.next_key(), media.next_key());
}
