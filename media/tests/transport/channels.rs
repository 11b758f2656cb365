//! Data channels of both kinds, and what a slow receiver does.

use std::time::Duration;

use auralink_media::transport::{ChannelId, TransportEvent};
use str0m::Event;
use str0m::channel::Reliability;

use crate::world::{Setup, World};

fn open(world: &World) -> Vec<(ChannelId, String)> {
    world
        .events
        .iter()
        .filter_map(|event| match event {
            TransportEvent::ChannelOpen { channel, label } => Some((*channel, label.clone())),
            _ => None,
        })
        .collect()
}

#[test]
fn the_server_opens_livekits_two_channels_and_messages_go_both_ways() {
    let mut world = World::new(Setup::default());
    world.connect();
    world.run(Duration::from_millis(300));
    let channels = open(&world);
    let mut labels: Vec<_> = channels.iter().map(|(_, label)| label.as_str()).collect();
    labels.sort_unstable();
    assert_eq!(labels, ["_lossy", "_reliable"]);

    let theirs: Vec<_> = world
        .client
        .events
        .iter()
        .filter_map(|event| match event {
            Event::ChannelOpen(id, label) => Some((*id, label.clone())),
            _ => None,
        })
        .collect();
    for (id, label) in theirs {
        let mut channel = world.client.rtc.channel(id).unwrap();
        let config = channel.config().unwrap().clone();
        if label == "_lossy" {
            assert!(!config.ordered && config.reliability == Reliability::MaxRetransmits { retransmits: 0 });
        } else {
            assert!(config.ordered && config.reliability == Reliability::Reliable);
        }
        assert!(channel.write(true, label.as_bytes()).unwrap());
    }
    for (channel, label) in &channels {
        assert!(world.server.send_data(*channel, false, format!("to {label}").as_bytes()));
    }
    world.run(Duration::from_millis(300));
    for (channel, label) in &channels {
        assert!(world.events.iter().any(|event| matches!(event,
            TransportEvent::ChannelData { channel: from, binary: true, data } if from == channel && data == label.as_bytes())));
        assert!(
            world
                .client
                .events
                .iter()
                .any(|event| matches!(event, Event::ChannelData(data) if !data.binary && data.data == format!("to {label}").as_bytes()))
        );
    }
}

#[test]
fn a_full_buffer_refuses() {
    let mut world = World::new(Setup::default());
    world.connect();
    world.run(Duration::from_millis(300));
    let (channel, _) = open(&world).into_iter().find(|(_, label)| label == "_reliable").unwrap();
    world.fate = Box::new(|_| None);
    let message = vec![7u8; 60_000];
    let taken = (0..20).take_while(|_| world.server.send_data(channel, true, &message)).count();
    assert_eq!(taken, 8, "512 KiB wait at most");
    assert_eq!(world.server.buffered_bytes(channel), 8 * 60_000);
    assert!(!world.server.send_data(ChannelId(99), true, &message), "no such channel");
}
