//! Participants that the server itself makes: a sound file played into a room, speech that is synthesised.
//!
//! Their media enters through the publisher seam (a bounded ring into the shard); everything else about them is like any
//! participant's: others see them join, publish, mute and leave.

use std::collections::HashMap;
use std::sync::Arc;

use auralink_media::ids::{ParticipantKey, RoomKey, TrackKey};
use auralink_media::net::MediaHandle;
use auralink_media::packet::Codec;
use auralink_media::tap::SourcePacket;
use auralink_proto::livekit;

use super::registry::RoomEntry;
use super::state::Join;
use super::{Rooms, RoomsError};
use crate::access::{Claims, VideoGrant};

/// Packets that wait for the shard: 2.5 s of audio at 20 ms. More would delay, less would need finer pacing.
const RING_PACKETS: usize = 128;

/// Who the server plays.
#[derive(Debug, Clone, Default)]
pub struct LocalSpec {
    /// Unique in the room; one with the same identity leaves.
    pub identity: String,
    /// Name shown to others.
    pub name: String,
    /// `standard`, `agent`, ...; empty = standard. Agents do not keep a room open.
    pub kind: String,
    /// Shown to everyone.
    pub metadata: String,
    /// Shown to everyone.
    pub attributes: HashMap<String, String>,
    /// Not shown to others.
    pub hidden: bool,
}

/// A participant of the server. Leaves when it is dropped.
pub struct LocalParticipant {
    entry: Arc<RoomEntry>,
    media: MediaHandle,
    key: ParticipantKey,
    sid: Arc<str>,
    identity: String,
}

/// A track of a [`LocalParticipant`].
pub struct LocalTrack {
    /// For media commands.
    pub key: TrackKey,
    /// `TR_...`.
    pub sid: String,
    room: RoomKey,
    media: MediaHandle,
    ring: rtrb::Producer<SourcePacket>,
}

impl Rooms {
    /// Puts a participant of the server into a room, which is made when it is missing.
    pub async fn add_local_participant(&self, room: &str, spec: LocalSpec) -> Result<LocalParticipant, RoomsError> {
        self.shared.config.limits.check_room_name(room)?;
        let grant = VideoGrant { room_join: true, room: room.to_owned(), hidden: spec.hidden, ..Default::default() };
        let join = Join {
            api_key: String::new(),
            claims: Claims {
                identity: spec.identity.clone(),
                name: spec.name,
                kind: spec.kind,
                metadata: spec.metadata,
                attributes: spec.attributes,
                video: Some(grant),
                ..Claims::default()
            },
            client: livekit::ClientInfo::default(),
            single_connection: false,
            auto_subscribe: false,
            add_tracks: Vec::new(),
            publisher_offer: None,
            link: None,
        };
        let (entry, joined) = self.enter(room, None, true, join).await?;
        Ok(LocalParticipant { entry, media: self.shared.media.clone(), key: joined.participant, sid: joined.sid, identity: spec.identity })
    }
}

impl LocalParticipant {
    /// For media commands.
    pub fn room_key(&self) -> RoomKey {
        self.entry.room.key
    }

    /// For media commands.
    pub fn key(&self) -> ParticipantKey {
        self.key
    }

    /// `PA_...`.
    pub fn sid(&self) -> &str {
        &self.sid
    }

    /// Unique in the room.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Publishes an Opus track. Others see it when its first packet was pushed.
    pub async fn publish_audio(&self, name: &str, source: livekit::TrackSource) -> Result<LocalTrack, RoomsError> {
        let (ring, packets) = rtrb::RingBuffer::new(RING_PACKETS);
        let request = livekit::AddTrackRequest {
            cid: super::sid::new("LOCAL_"),
            name: name.to_owned(),
            r#type: livekit::TrackType::Audio as i32,
            source: source as i32,
            ..Default::default()
        };
        let participant = self.key;
        let (key, sid) = self
            .entry
            .call(move |state, _| {
                let published = state.publish_local(participant, &request)?;
                state.attach_source(published.0, Codec::Opus, packets);
                Ok(published)
            })
            .await?;
        Ok(LocalTrack { key, sid, room: self.entry.room.key, media: self.media.clone(), ring })
    }

    /// Leaves, once that is done.
    pub async fn leave(self) {
        let key = self.key;
        let left = self.entry.call(move |state, now| {
            state.leave_local(now, key);
            Ok(())
        });
        if let Err(error) = left.await {
            tracing::debug!(%error, "the room ended before its local participant left");
        }
    }
}

impl Drop for LocalParticipant {
    fn drop(&mut self) {
        let key = self.key;
        self.entry.tell(move |state, now| state.leave_local(now, key));
    }
}

impl LocalTrack {
    /// Hands a packet to the shard and wakes it. A full ring gives the packet back: try again after a packet's time.
    pub fn push(&mut self, packet: SourcePacket) -> Result<(), SourcePacket> {
        self.ring.push(packet).map_err(|rtrb::PushError::Full(packet)| packet)?;
        self.media.wake(self.room);
        Ok(())
    }

    /// How many packets fit into the ring now.
    pub fn slots(&self) -> usize {
        self.ring.slots()
    }

    /// True when the shard has let go of the track (the room or the participant is gone).
    pub fn is_abandoned(&self) -> bool {
        self.ring.is_abandoned()
    }
}
