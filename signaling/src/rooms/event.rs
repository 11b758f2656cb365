//! What happens in rooms, for whoever follows them inside the server (captions, webhooks, gRPC).
//!
//! Place in the flow: a room's task sends, any number of followers read. Rule: a slow follower never holds up a room; it
//! loses the oldest events, which is counted and logged, and may ask the rooms to say again who is there.

use std::sync::Arc;

use auralink_media::ids::{ParticipantKey, RoomKey, TrackKey};
use auralink_proto::livekit;
use tokio::sync::broadcast;

/// Events that wait for a follower before it loses the oldest.
pub(crate) const EVENTS_MAX: usize = 8_192;

/// Which room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomRef {
    /// For media commands.
    pub key: RoomKey,
    /// `RM_...`.
    pub sid: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// Which participant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParticipantRef {
    /// For media commands.
    pub key: ParticipantKey,
    /// `PA_...`.
    pub sid: Arc<str>,
    /// Unique in the room.
    pub identity: Arc<str>,
}

/// Something happened in a room.
#[derive(Debug, Clone)]
pub struct RoomEvent {
    /// Where.
    pub room: RoomRef,
    /// What.
    pub what: What,
}

/// What happened. Hidden participants make these events too.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// The room was made.
    RoomStarted(livekit::Room),
    /// The room ended.
    RoomFinished(livekit::Room),
    /// Its metadata changed.
    RoomUpdated(livekit::Room),
    /// Who is here and what is published, said again at a follower's wish ([`super::Rooms::restate`]).
    Present {
        /// Everyone, as others see them.
        participants: Vec<(ParticipantRef, livekit::ParticipantInfo)>,
        /// Every publication whose media began.
        tracks: Vec<(ParticipantRef, TrackKey, livekit::TrackInfo)>,
    },
    /// Someone joined; media may not flow yet.
    ParticipantJoined {
        /// Who.
        participant: ParticipantRef,
        /// As others see them.
        info: livekit::ParticipantInfo,
    },
    /// The media connection stands.
    ParticipantActive {
        /// Who.
        participant: ParticipantRef,
        /// As others see them.
        info: livekit::ParticipantInfo,
    },
    /// Name, metadata, attributes or permissions changed.
    ParticipantUpdated {
        /// Who.
        participant: ParticipantRef,
        /// As others see them.
        info: livekit::ParticipantInfo,
    },
    /// Someone left.
    ParticipantLeft {
        /// Who.
        participant: ParticipantRef,
        /// As others saw them last.
        info: livekit::ParticipantInfo,
        /// Why.
        reason: livekit::DisconnectReason,
    },
    /// A publication's media began.
    TrackPublished {
        /// Whose.
        participant: ParticipantRef,
        /// For media commands.
        track: TrackKey,
        /// Sid, type, source, mime type, encryption.
        info: livekit::TrackInfo,
    },
    /// A publication ended.
    TrackUnpublished {
        /// Whose.
        participant: ParticipantRef,
        /// For media commands.
        track: TrackKey,
        /// As it was last.
        info: livekit::TrackInfo,
    },
    /// A publication was muted or unmuted.
    TrackMuted {
        /// Whose.
        participant: ParticipantRef,
        /// For media commands.
        track: TrackKey,
        /// `TR_...`.
        sid: String,
        /// Muted now.
        muted: bool,
    },
    /// A tap was asked for a track that cannot be heard.
    TapRefused {
        /// Which.
        track: TrackKey,
        /// Why, in a sentence.
        reason: String,
    },
    /// A participant sent data.
    Data {
        /// Who.
        participant: ParticipantRef,
        /// What.
        packet: Arc<livekit::DataPacket>,
    },
}

/// A follower of all rooms' events.
#[derive(Debug)]
pub struct RoomEvents {
    receiver: broadcast::Receiver<Arc<RoomEvent>>,
    lost: u64,
}

impl RoomEvents {
    pub(crate) fn new(receiver: broadcast::Receiver<Arc<RoomEvent>>) -> Self {
        Self { receiver, lost: 0 }
    }

    /// The next event; `None` when the rooms are gone. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Arc<RoomEvent>> {
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Closed) => return None,
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    self.lost += lost;
                    metrics::counter!("auralink_room_events_lost_total").increment(lost);
                    tracing::warn!(lost, "a follower of room events reads too slowly and lost some");
                }
            }
        }
    }

    /// How many events this follower has lost by reading too slowly.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}
