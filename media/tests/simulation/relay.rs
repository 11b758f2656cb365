//! A room in two parts: what one shard receives goes over a relay (two rings) into another, and key-frame requests come back.

use std::time::Duration;

use auralink_media::control::{Command, TrackSpec};
use auralink_media::ids::{ParticipantKey, TrackKey};
use auralink_media::packet::{Codec, Extensions, MediaKind, RtpPacket};
use auralink_media::publication::{Relay, RelayWish, RelayedPacket};

use crate::determinism::seeded;
use crate::marks::{self, Mark};
use crate::network::Conditions;
use crate::world::{ROOM, World};

#[test]
fn a_relayed_track_is_forwarded_like_a_local_one_and_asks_for_its_key_frames() {
    seeded(41, || {
        let mut world = World::new(41, Conditions { loss: 0.02, ..Conditions::PERFECT }, None);
        let bob = world.join(false, true);
        // The publisher is connected elsewhere.
        let (elsewhere, track) = (ParticipantKey(world.key()), TrackKey(world.key()));
        world.command(Command::AddParticipant {
            room: ROOM,
            participant: elsewhere,
            spec: auralink_media::control::ParticipantSpec {
                sid: "PA_elsewhere".into(),
                identity: "elsewhere".into(),
                single_connection: false,
                permissions: auralink_media::control::MediaPermissions { publish: true, subscribe: true, data: true },
                agent: false,
                hidden: false,
                connected: false,
            },
        });
        let spec = TrackSpec {
            sid: "TR_relayed".into(),
            cid: String::new(),
            kind: MediaKind::Video,
            muted: false,
            layers: vec![],
            encrypted: false,
            disable_red: false,
            codec: None,
            speaks: false,
        };
        world.command(Command::AddTrack { room: ROOM, participant: elsewhere, track, spec });
        world.tracks.insert(track, (elsewhere, MediaKind::Video));
        world.subscribe(bob, track);
        world.run(Duration::from_millis(500));
        let (mut packets, incoming) = rtrb::RingBuffer::new(64);
        let (outgoing, mut wishes) = rtrb::RingBuffer::new(8);
        world.shard.attach_relay(world.now, ROOM, track, Codec::Vp8, Relay { packets: incoming, wishes: outgoing });

        let (mut seq, mut key_frames, mut key) = (1000, 0, false);
        for frame in 0..60u32 {
            while let Ok(RelayWish::KeyFrame { layer }) = wishes.pop() {
                assert_eq!(layer, 0);
                key = true;
            }
            key_frames += u32::from(key);
            for part in 0..2 {
                let mark = Mark { publication: track.0, layer: 0, seq, frame };
                let payload = marks::vp8(mark, frame as u16, frame as u8, part == 0, std::mem::take(&mut key), 700).into();
                let packet = RtpPacket {
                    arrival: world.now,
                    codec: Codec::Vp8,
                    seq,
                    timestamp: frame * 3000,
                    marker: part == 1,
                    ext: Extensions::default(),
                    payload,
                };
                packets.push(RelayedPacket { layer: 0, packet }).unwrap();
                seq += 1;
            }
            world.shard.handle(world.now, auralink_media::shard::ShardInput::SourceWake);
            world.run(Duration::from_millis(33));
        }
        world.network.conditions = Conditions::PERFECT;
        world.run(Duration::from_secs(1));
        assert!(key_frames >= 1, "the subscriber's need of a key frame did not cross the relay");
        let streams = world.received(bob, track);
        assert!(streams[0].packets.len() > 60, "{} packets", streams[0].packets.len());
        world.check_streams(true);
    });
}
