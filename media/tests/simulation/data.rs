//! Data packets between participants: to whom they go, in whose name, and what is refused.

use std::time::Duration;

use auralink_media::control::{Command, Event, ReceiveState};
use auralink_proto::livekit::{self, data_packet};
use prost::Message;

use crate::determinism::seeded;
use crate::network::Conditions;
use crate::world::{ROOM, World};

fn user(text: &str, to: &[String]) -> Vec<u8> {
    numbered(0, text, to)
}

fn numbered(sequence: u32, text: &str, to: &[String]) -> Vec<u8> {
    let value = data_packet::Value::User(livekit::UserPacket { payload: text.as_bytes().to_vec(), ..Default::default() });
    livekit::DataPacket {
        participant_identity: "someone else".into(),
        destination_identities: to.to_vec(),
        value: Some(value),
        sequence,
        ..Default::default()
    }
    .encode_to_vec()
}

#[test]
fn data_reaches_those_it_is_meant_for_in_the_senders_name() {
    seeded(21, || {
        let mut world = World::new(21, Conditions::PERFECT, None);
        let (alice, bob, carol) = (world.join(false, true), world.join(true, true), world.join(false, true));
        world.run(Duration::from_secs(2));
        let to_carol = [world.clients[&carol].identity.clone()];
        let sender = world.clients.get_mut(&alice).unwrap();
        assert!(sender.send_data(true, &user("all", &[])));
        assert!(sender.send_data(false, &user("carol", &to_carol)));
        assert!(sender.send_data(true, b"\xff\xff\xff"));
        world.run(Duration::from_millis(500));
        let texts = |who| -> Vec<(bool, String, String)> {
            let read = |(reliable, bytes): &(bool, Vec<u8>)| {
                let packet = livekit::DataPacket::decode(&bytes[..]).unwrap();
                let Some(data_packet::Value::User(user)) = packet.value else { panic!() };
                (*reliable, packet.participant_identity, String::from_utf8(user.payload).unwrap())
            };
            world.clients[&who].data.iter().map(read).collect()
        };
        let from = world.clients[&alice].identity.clone();
        assert_eq!(texts(bob), [(true, from.clone(), "all".to_owned())]);
        assert_eq!(texts(carol).len(), 2);
        assert!(texts(carol).contains(&(false, from, "carol".to_owned())));
        assert!(texts(alice).is_empty());
        assert_eq!(world.events.iter().filter(|(_, e)| matches!(e, Event::Data { .. })).count(), 2);
        assert_eq!(world.shard.stats().data_dropped, 1, "the unreadable one is counted");
        world.end();
    });
}

#[test]
fn captions_of_someone_else_come_from_agents_alone() {
    seeded(22, || {
        let mut world = World::new(22, Conditions::PERFECT, None);
        let (alice, mallory, agent) =
            (world.join(false, true), world.join(true, true), world.join_with(true, true, |spec| spec.agent = true));
        let microphone = world.publish(alice, auralink_media::packet::MediaKind::Audio, 1, true);
        world.run(Duration::from_secs(2));
        let (of_alice, of_mallory) = (world.clients[&alice].identity.clone(), world.clients[&mallory].identity.clone());
        let transcription = data_packet::Value::Transcription(livekit::Transcription {
            transcribed_participant_identity: of_alice.clone(),
            track_id: format!("TR_{}", microphone.0),
            ..Default::default()
        });
        let stream = |track: Option<&str>| {
            let attributes = track.map(|track| ("lk.transcribed_track_id".to_owned(), track.to_owned())).into_iter().collect();
            let content_header = Some(livekit::data_stream::header::ContentHeader::TextHeader(Default::default()));
            data_packet::Value::StreamHeader(livekit::data_stream::Header {
                topic: "lk.transcription".into(),
                attributes,
                content_header,
                ..Default::default()
            })
        };
        let as_alice = |value: &data_packet::Value| {
            livekit::DataPacket { participant_identity: of_alice.clone(), value: Some(value.clone()), ..Default::default() }.encode_to_vec()
        };
        let track = format!("TR_{}", microphone.0);
        let heard = |world: &World| -> Vec<(String, bool)> {
            let read = |(_, bytes): &(bool, Vec<u8>)| {
                let packet = livekit::DataPacket::decode(&bytes[..]).unwrap();
                (packet.participant_identity, matches!(packet.value, Some(data_packet::Value::Transcription(_))))
            };
            world.clients[&alice].data.iter().map(read).collect()
        };
        for value in [&transcription, &stream(Some(&track)), &stream(None)] {
            assert!(world.clients.get_mut(&mallory).unwrap().send_data(true, &as_alice(value)));
        }
        world.run(Duration::from_millis(500));
        assert_eq!(heard(&world), [(of_mallory, false)], "a stream of one's own, in one's own name");
        assert_eq!(world.shard.stats().data_in_anothers_name, 2);
        world.clients.get_mut(&alice).unwrap().data.clear();
        for value in [&transcription, &stream(Some(&track))] {
            assert!(world.clients.get_mut(&agent).unwrap().send_data(true, &as_alice(value)));
        }
        world.run(Duration::from_millis(500));
        assert_eq!(heard(&world), [(world.clients[&agent].identity.clone(), true), (of_alice.clone(), false)]);
        assert_eq!(world.shard.stats().data_in_anothers_name, 2);
        world.end();
    });
}

#[test]
fn bytes_on_a_channel_of_ones_own_reach_the_others_as_user_packets() {
    for single in [false, true] {
        seeded(23, move || {
            let mut world = World::new(23, Conditions::PERFECT, None);
            let (alice, bob) = (world.join(single, true), world.join(!single, true));
            let sender = world.clients.get_mut(&alice).unwrap();
            sender.open_channel("game");
            sender.open_channel("_data_track");
            world.run(Duration::from_secs(2));
            let sender = world.clients.get_mut(&alice).unwrap();
            // Not even a protobuf message, and one that would pretend to be someone else's.
            assert!(sender.send_over("game", b"\xff\xff\xff"));
            assert!(sender.send_over("game", &user("as someone else", &[])));
            assert!(sender.send_over("_data_track", b"not for this"));
            world.run(Duration::from_millis(500));
            let from = world.clients[&alice].identity.clone();
            let received: Vec<Vec<u8>> = world.clients[&bob]
                .data
                .iter()
                .map(|(reliable, bytes)| {
                    let packet = livekit::DataPacket::decode(&bytes[..]).unwrap();
                    assert_eq!((*reliable, &packet.participant_identity), (true, &from));
                    let Some(data_packet::Value::User(user)) = packet.value else { panic!() };
                    user.payload
                })
                .collect();
            assert_eq!(received, [b"\xff\xff\xff".to_vec(), user("as someone else", &[])]);
            assert!(world.clients[&alice].data.is_empty());
            assert_eq!(world.events.iter().filter(|(_, e)| matches!(e, Event::Data { .. })).count(), 2);
            assert_eq!(world.shard.stats().data_dropped, 1, "what came on a reserved label");
            // A flood is bounded as on any channel.
            let sender = world.clients.get_mut(&alice).unwrap();
            for _ in 0..5_000 {
                sender.send_over("game", b"x");
            }
            world.run(Duration::from_millis(500));
            assert!(world.shard.stats().data_dropped > 1_000, "{}", world.shard.stats().data_dropped);
            world.end();
        });
    }
}

/// What a client received, as texts without their filling.
fn texts(world: &World, who: auralink_media::ids::ParticipantKey) -> Vec<String> {
    let read = |(_, bytes): &(bool, Vec<u8>)| {
        let packet = livekit::DataPacket::decode(&bytes[..]).unwrap();
        let Some(data_packet::Value::User(user)) = packet.value else { panic!() };
        String::from_utf8(user.payload).unwrap().trim_end().to_owned()
    };
    world.clients[&who].data.iter().map(read).collect()
}

#[test]
fn what_a_resuming_client_sends_again_is_forwarded_once() {
    seeded(22, || {
        let mut world = World::new(22, Conditions::PERFECT, None);
        let (alice, bob) = (world.join(true, true), world.join(true, true));
        world.run(Duration::from_secs(2));
        let sender = world.clients.get_mut(&alice).unwrap();
        for sequence in [1, 2, 3, 2, 3, 4, 4, 5] {
            assert!(sender.send_data(true, &numbered(sequence, &sequence.to_string(), &[])));
        }
        assert!(sender.send_data(false, &numbered(1, "lossy", &[])), "numbers of the other channel are none");
        world.run(Duration::from_millis(500));
        assert_eq!(texts(&world, bob), ["1", "2", "3", "4", "5", "lossy"]);
        assert_eq!(world.shard.stats().data_repeated, 3);
        world.end();
    });
}

#[test]
fn reliable_data_waits_for_a_participant_that_is_away_and_comes_in_order() {
    seeded(23, || {
        let mut world = World::new(23, Conditions::PERFECT, None);
        let bob = world.join(true, true);
        world.run(Duration::from_secs(2));
        world.network.conditions.loss = 1.0;
        // More than the data channel takes by itself.
        let expected: Vec<String> = (0..60).map(|number| format!("number {number:03}")).collect();
        for text in &expected {
            let packet = user(&format!("{text}{}", " ".repeat(15_000)), &[]).into();
            world.command(Command::SendData { room: ROOM, reliable: true, packet, to: Vec::new(), except: None });
            world.run(Duration::from_millis(100));
        }
        assert!(texts(&world, bob).is_empty());
        world.network.conditions.loss = 0.0;
        world.run(Duration::from_secs(30));
        assert_eq!(texts(&world, bob), expected);
        assert_eq!(world.shard.stats().data_dropped, 0);
        world.end();
    });
}

#[test]
fn a_client_that_resumes_is_sent_again_what_it_says_it_lacks() {
    seeded(24, || {
        let mut world = World::new(24, Conditions::PERFECT, None);
        let (alice, bob) = (world.join(true, true), world.join(true, true));
        world.run(Duration::from_secs(2));
        let sender = world.clients.get_mut(&alice).unwrap();
        for sequence in 1..=5 {
            assert!(sender.send_data(true, &numbered(sequence, &sequence.to_string(), &[])));
        }
        world.run(Duration::from_millis(500));
        let publisher_sid = world.clients[&alice].sid.clone();
        let states = vec![ReceiveState { publisher_sid, last_sequence: 3 }];
        world.command(Command::ReplayData { room: ROOM, participant: bob, states });
        world.run(Duration::from_millis(500));
        assert_eq!(texts(&world, bob), ["1", "2", "3", "4", "5", "4", "5"]);
        world.end();
    });
}
