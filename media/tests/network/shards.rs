//! Several shards, on ports of their own and on one port.

use std::net::UdpSocket;
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;

use auralink_media::control::{Command, Event, ShardStats};
use auralink_media::ids::{ParticipantKey, RoomKey};
use auralink_media::net::{EndedShard, Refused};
use auralink_media::packet::{Codec, MediaKind};
use auralink_media::shard::entropy::shard_prefix;

use crate::meeting::{Meeting, config, sharing};

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
fn a_shard_that_a_fault_ended_is_seen_and_the_others_go_on() {
    // What listens to events runs on the shard's thread: it stands for any fault there that no connection contains.
    let (sfu, mut meeting) = Meeting::listening(config(2), |event| {
        assert!(!matches!(event, Event::TrackStarted { codec: Codec::Vp8, .. }), "a fault in the shard");
    });
    let (lost, kept) = (meeting.open(), meeting.open());
    let (alice, bob) = (meeting.join(lost, false), meeting.join(lost, true));
    let (carol, dave) = (meeting.join(kept, false), meeting.join(kept, true));
    let of_carol = meeting.publish(carol, MediaKind::Audio);
    let of_alice = meeting.publish(alice, MediaKind::Audio);
    meeting.run_until("sound in both rooms", |m| m.received(bob, of_alice) > 10 && m.received(dave, of_carol) > 10);
    assert_eq!(meeting.media.ended(), []);
    meeting.publish(alice, MediaKind::Video);
    meeting.run_until("the end of a shard", |m| m.seen(|event| matches!(event, Event::RoomLost { room } if *room == lost)));
    assert_eq!(meeting.media.ended(), [EndedShard { shard: 0, fault: "a fault in the shard".to_owned() }]);
    assert_eq!((meeting.media.stats()[0].rooms, meeting.media.stats()[0].participants), (0, 0));
    assert!(!meeting.seen(|event| matches!(event, Event::RoomLost { room } if *room == kept)));
    assert_eq!(meeting.media.send(Command::CloseRoom { room: lost }), Err(Refused::UnknownRoom(lost)));
    meeting.forget(lost);
    let before = meeting.received(dave, of_carol);
    meeting.run_until("sound in the room that is left", |m| m.received(dave, of_carol) > before + 50);
    // Both that are opened now, and not just every second.
    for _ in 0..2 {
        let room = meeting.open();
        let (erin, frank) = (meeting.join(room, false), meeting.join(room, true));
        let of_erin = meeting.publish(erin, MediaKind::Audio);
        meeting.run_until("sound in a new room", |m| m.received(frank, of_erin) > 10);
    }
    sfu.stop();
}

#[test]
fn without_any_shard_no_room_is_opened() {
    let (sfu, mut meeting) = Meeting::listening(config(1), |event| {
        assert!(!matches!(event, Event::TrackStarted { .. }), "a fault in the shard");
    });
    let room = meeting.open();
    let alice = meeting.join(room, false);
    meeting.publish(alice, MediaKind::Audio);
    meeting.run_until("the end of the shard", |m| m.seen(|event| matches!(event, Event::RoomLost { .. })));
    let another = RoomKey(meeting.media.next_key());
    assert_eq!(meeting.media.send(Command::OpenRoom { room: another }), Err(Refused::Stopped));
    sfu.stop();
}
