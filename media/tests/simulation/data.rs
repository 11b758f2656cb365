//! Data packets between participants: to whom they go, in whose name, and what is refused.

use std::time::Duration;

use auralink_media::control::Event;
use auralink_proto::livekit::{self, data_packet};
use prost::Message;

use crate::determinism::seeded;
use crate::network::Conditions;
use crate::world::World;

fn user(text: &str, to: &[String]) -> Vec<u8> {
    let value = data_packet::Value::User(livekit::UserPacket { payload: text.as_bytes().to_vec(), ..Default::default() });
    livekit::DataPacket {
        participant_identity: "someone else".into(),
        destination_identities: to.to_vec(),
        value: Some(value),
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
