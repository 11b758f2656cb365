//! Participants that the server makes are like any other to those who are there.

use super::house::house;
use auralink_media::control::{Command, Event};
use auralink_media::packet::Codec;
use auralink_media::tap::SourcePacket;
use auralink_proto::livekit;
use auralink_signaling::rooms::{LocalSpec, To};
use livekit::participant_info::State;
use prost::Message as _;
use std::collections::HashMap;
use std::sync::Arc;

#[tokio::test]
async fn a_sound_file_joins_publishes_and_leaves() {
    let house = house().await;
    let (mut ann, _) = house.join("r", "ann").await;
    let spec = LocalSpec { identity: "player".into(), name: "Player".into(), ..LocalSpec::default() };
    let player = house.rooms.add_local_participant("r", spec).await.unwrap();
    assert_eq!(ann.update_of("player").await.state(), State::Active);
    let connected = house
        .command(|command| match command {
            Command::AddParticipant { spec, participant, .. } if *participant == player.key() => Some(spec.connected),
            _ => None,
        })
        .await;
    assert!(!connected);
    let mut track = player.publish_audio("speech", livekit::TrackSource::Microphone).await.unwrap();
    let packet = |n: u32| SourcePacket { codec: Codec::Opus, timestamp: n * 960, marker: false, level: None, payload: Arc::from([1u8]) };
    // The shard's end of the ring: filled by this one, full after 128 packets.
    let filled = (0..200).take_while(|n| track.push(packet(*n)).is_ok()).count();
    assert_eq!(filled, 128);
    house.command(|command| matches!(command, Command::AttachSource { .. }).then_some(())).await;
    let (room, participant) = (player.room_key(), player.key());
    house.sink.send(Event::TrackStarted { room, participant, track: track.key, codec: Codec::Opus });
    let info = ann
        .until(|told| match told {
            livekit::signal_response::Message::Update(update) => {
                update.participants.into_iter().find(|p| p.identity == "player" && !p.tracks.is_empty())
            }
            _ => None,
        })
        .await;
    assert_eq!((info.tracks[0].sid.as_str(), info.tracks[0].mime_type.as_str()), (track.sid.as_str(), "audio/opus"));
    player.leave().await;
    let gone = ann
        .until(|told| match told {
            livekit::signal_response::Message::Update(update) => {
                update.participants.into_iter().find(|p| p.identity == "player" && p.state() == State::Disconnected)
            }
            _ => None,
        })
        .await;
    assert_eq!(gone.sid, info.sid);
}

#[tokio::test]
async fn captions_are_sent_under_their_speaker_and_attributes_are_set() {
    let house = house().await;
    let (mut ann, join) = house.join("r", "ann").await;
    let attributes = HashMap::from([("auralink.captions".to_owned(), "on".to_owned())]);
    house.rooms.set_attributes("r", "ann", attributes).await.unwrap();
    let info = ann
        .until(|told| match told {
            livekit::signal_response::Message::Update(update) => update.participants.into_iter().find(|p| !p.attributes.is_empty()),
            _ => None,
        })
        .await;
    assert_eq!(info.attributes["auralink.captions"], "on");
    let packet =
        livekit::DataPacket { participant_identity: "ann".into(), participant_sid: join.participant.unwrap().sid, ..Default::default() };
    house.rooms.send_packet("r", packet.clone(), true, To::All).await.unwrap();
    let sent = house
        .command(|command| match command {
            Command::SendData { packet, reliable: true, to, .. } if to.is_empty() => Some(packet.clone()),
            _ => None,
        })
        .await;
    assert_eq!(livekit::DataPacket::decode(&*sent).unwrap(), packet);
}
