//! Two people in a room, on a good network: each gets what the other publishes.

use std::time::Duration;

use auralink_media::control::{Command, Event, TrackSettings};
use auralink_media::packet::{Codec, MediaKind};

use crate::determinism::seeded;
use crate::network::Conditions;
use crate::world::{ROOM, World};

fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

fn two(single: bool) {
    let mut world = World::new(1, Conditions::PERFECT, None);
    let (alice, bob) = (world.join(single, true), world.join(single, true));
    let audio = world.publish(alice, MediaKind::Audio, 1, false);
    let video = world.publish(bob, MediaKind::Video, 1, false);
    world.run(seconds(3.0));
    for (who, track) in [(bob, audio), (alice, video)] {
        let streams = world.received(who, track);
        assert_eq!(streams.len(), 1, "{who:?} {track:?}");
        assert!(streams[0].packets.len() > 20, "only {} packets", streams[0].packets.len());
    }
    world.check_streams(true);
    let subscribed = world.events.iter().filter(|(_, e)| matches!(e, Event::Subscribed { .. })).count();
    assert_eq!(subscribed, 2);
    assert!(world.events.iter().any(|(_, e)| matches!(e, Event::Speakers { speakers, .. } if speakers[0].participant == alice)));
    world.end();
}

#[test]
fn two_meet_with_two_connections_each() {
    seeded(1, || two(false));
}

#[test]
fn two_meet_with_one_connection_each() {
    seeded(2, || two(true));
}

#[test]
fn red_goes_through_to_those_who_take_it_and_is_unpacked_for_others() {
    seeded(3, || {
        let mut world = World::new(3, Conditions::PERFECT, None);
        let (alice, bob, carol) = (world.join(false, true), world.join(false, true), world.join(false, false));
        let audio = world.publish(alice, MediaKind::Audio, 1, true);
        world.run(seconds(2.0));
        let codecs = |who| world.received(who, audio)[0].packets.values().map(|p| p.codec).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(codecs(bob), [Codec::Red].into());
        assert_eq!(codecs(carol), [Codec::Opus].into());
        world.check_streams(true);
        world.end();
    });
}

#[test]
fn a_subscriber_moves_between_simulcast_layers_without_a_step() {
    seeded(4, || {
        let mut world = World::new(4, Conditions::PERFECT, None);
        let (alice, bob) = (world.join(false, true), world.join(true, true));
        let video = world.publish(alice, MediaKind::Video, 3, false);
        world.run(seconds(3.0));
        for max_spatial in [0, 2, 1] {
            world.settings(bob, video, TrackSettings { max_spatial: Some(max_spatial), ..Default::default() });
            world.run(seconds(2.0));
            let streams = world.received(bob, video);
            let (_, last) = streams[0].packets.iter().next_back().unwrap();
            assert_eq!(last.mark.layer, max_spatial, "layer after the wish");
        }
        world.settings(bob, video, TrackSettings { disabled: true, ..Default::default() });
        world.run(seconds(0.5));
        let before = world.received(bob, video)[0].packets.len();
        world.run(seconds(1.0));
        assert_eq!(world.received(bob, video)[0].packets.len(), before, "nothing comes while it is not wanted");
        world.settings(bob, video, TrackSettings::default());
        world.run(seconds(1.5));
        assert!(world.received(bob, video)[0].packets.len() > before);
        world.check_streams(true);
        world.end();
    });
}

#[test]
fn a_newcomer_begins_with_the_last_key_frame_and_does_not_wait_for_the_next() {
    seeded(14, || {
        let mut world = World::new(14, Conditions::PERFECT, None);
        let alice = world.join(false, true);
        let video = world.publish(alice, MediaKind::Video, 1, false);
        world.run(seconds(2.0));
        for single in [false, true] {
            // Within the second for which no other key frame is asked for.
            let newcomer = world.join(single, true);
            world.run(seconds(0.4));
            let first = world.received(newcomer, video)[0].packets.values().next().unwrap().clone();
            assert!(first.key_frame, "begins with {:?}", first.mark);
        }
        let made = world.clients[&alice].published[0].layers[0].key_frames;
        assert!(made <= 2, "{made} key frames: one at the start, one for both newcomers");
        assert!(world.shard.stats().caught_up > 1);
        world.check_streams(true);
        world.end();
    });
}

#[test]
fn many_joining_at_once_are_not_many_offers_to_each() {
    seeded(5, || {
        let mut world = World::new(5, Conditions::PERFECT, None);
        let first = world.join(false, true);
        world.run(seconds(1.0));
        let before = world.events.len();
        let joined: Vec<_> = (0..8).map(|_| world.join(false, true)).collect();
        for key in joined {
            world.publish(key, MediaKind::Audio, 1, false);
        }
        world.run(seconds(3.0));
        let offers =
            world.events[before..].iter().filter(|(_, e)| matches!(e, Event::Offer { participant, .. } if *participant == first)).count();
        assert!((1..=4).contains(&offers), "{offers} offers for 8 tracks");
        assert_eq!(world.clients[&first].receiving().received.len(), 8);
        world.end();
    });
}

#[test]
fn a_client_that_resumes_gets_new_credentials_and_goes_on() {
    seeded(6, || {
        let mut world = World::new(6, Conditions::PERFECT, None);
        let (alice, bob) = (world.join(false, true), world.join(false, true));
        let audio = world.publish(alice, MediaKind::Audio, 1, false);
        world.run(seconds(1.5));
        let before = world.received(bob, audio)[0].packets.len();
        world.command(Command::RestartIce { room: ROOM, participant: bob });
        world.run(seconds(1.5));
        let ufrags: std::collections::BTreeSet<_> = world
            .events
            .iter()
            .filter_map(|(_, e)| match e {
                Event::Offer { participant, sdp, .. } if *participant == bob => {
                    sdp.lines().find(|l| l.starts_with("a=ice-ufrag")).map(str::to_owned)
                }
                _ => None,
            })
            .collect();
        assert_eq!(ufrags.len(), 2, "{ufrags:?}");
        assert!(world.received(bob, audio)[0].packets.len() > before + 60, "media goes on");
        world.check_streams(true);
        world.end();
    });
}

#[test]
fn a_track_that_is_published_again_goes_on_for_its_subscribers() {
    seeded(7, || {
        let mut world = World::new(7, Conditions::PERFECT, None);
        let (alice, bob) = (world.join(true, true), world.join(true, true));
        for round in 0..3 {
            let track = world.publish(alice, MediaKind::Video, 1, false);
            world.run(seconds(1.5));
            let streams = world.received(bob, track);
            assert!(streams.iter().map(|s| s.packets.len()).sum::<usize>() > 5, "round {round}");
            world.check_streams(true);
            world.unpublish(track);
            world.run(seconds(0.5));
        }
        world.end();
    });
}
