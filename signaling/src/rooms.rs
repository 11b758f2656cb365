//! The application layer for rooms: everything that can be done to a room, whoever asks (LiveKit's WebSocket and Twirp
//! here, gRPC, REST and captions in the server). It stands in this crate because LiveKit's faces stand here and arrows
//! between crates point one way; every other face is thin over the same [`Rooms`].
//!
//! A room is one task with a bounded mailbox around a pure state machine ([`state`]): calls and media events in, effects
//! out. Rule: nobody but its task touches a room, and nothing in it waits for a client.

mod actor;
mod config;
mod error;
mod event;
mod local;
mod participant;
mod publication;
mod registry;
mod session;
pub mod sid;
pub mod signal;
mod state;

use std::collections::HashMap;
use std::sync::Arc;

use auralink_media::control::Event;
use auralink_media::ids::RoomKey;
use auralink_media::net::MediaHandle;
use auralink_proto::livekit;
use tokio::sync::{broadcast, mpsc};

pub use config::{Limits, RoomsConfig};
pub use error::RoomsError;
pub use event::{ParticipantRef, RoomEvent, RoomEvents, RoomRef, What};
pub use local::{LocalParticipant, LocalSpec, LocalTrack};
pub use participant::ConnectionId;
pub use session::{JoinParams, ResumeParams, Session};
pub use state::Now;
pub(crate) use state::leave;

use registry::Shared;
use state::Change;

/// Media events that wait for the control plane; about a second of a busy node.
const MEDIA_EVENTS_MAX: usize = 65_536;

/// Whom a packet is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// Everyone in the room.
    All,
    /// Those identities that are there.
    Identities(Vec<String>),
    /// Everyone but those identities.
    Except(Vec<String>),
}

/// Where shards put their events. Never waits, so that it may be called on a shard's thread.
#[derive(Debug, Clone)]
pub struct MediaEventSink {
    queue: mpsc::Sender<Event>,
}

/// The other end of a [`MediaEventSink`], for [`Rooms::new`].
#[derive(Debug)]
pub struct MediaEvents {
    queue: mpsc::Receiver<Event>,
}

/// The queue between shards and rooms: made first, since media wants its sink and rooms want media.
pub fn media_events() -> (MediaEventSink, MediaEvents) {
    let (sender, receiver) = mpsc::channel(MEDIA_EVENTS_MAX);
    (MediaEventSink { queue: sender }, MediaEvents { queue: receiver })
}

impl MediaEventSink {
    /// Queues an event; a full queue drops and counts. Forwarded data goes first: half of the queue is kept for control.
    pub fn send(&self, event: Event) {
        let crowded = matches!(event, Event::Data { .. }) && self.queue.capacity() < MEDIA_EVENTS_MAX / 2;
        if crowded || self.queue.try_send(event).is_err() {
            metrics::counter!("auralink_media_events_dropped_total").increment(1);
        }
    }
}

/// All rooms of this node. Clones are handles to the same.
#[derive(Clone)]
pub struct Rooms {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Rooms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rooms").finish_non_exhaustive()
    }
}

impl Rooms {
    /// Starts the control plane over a media plane. Must be called within a tokio runtime.
    pub fn new(media: MediaHandle, media_events: MediaEvents, keys: crate::access::KeySet, config: RoomsConfig) -> Self {
        let (events, _) = broadcast::channel(event::EVENTS_MAX);
        let shared = Arc::new(Shared::new(media, keys, config, events));
        tokio::spawn(registry::dispatch(shared.clone(), media_events.queue));
        Self { shared }
    }

    /// The media plane, for commands such as `SetTap`.
    pub fn media(&self) -> &MediaHandle {
        &self.shared.media
    }

    /// The API keys that tokens are checked with.
    pub fn keys(&self) -> &crate::access::KeySet {
        &self.shared.keys
    }

    /// Defaults and limits.
    pub fn config(&self) -> &RoomsConfig {
        &self.shared.config
    }

    /// Follows all rooms from now on.
    pub fn subscribe_events(&self) -> RoomEvents {
        RoomEvents::new(self.shared.events.subscribe())
    }

    /// Makes a room, or changes the one that is there by what the request says.
    pub async fn create(&self, request: livekit::CreateRoomRequest) -> Result<livekit::Room, RoomsError> {
        self.shared.config.limits.check_room_name(&request.name)?;
        self.shared.config.limits.check_metadata(&request.metadata)?;
        let again = request.clone();
        self.shared.in_room(&request.name, Some(&request), true, move |state, _| state.recreate(&again)).await
    }

    /// Rooms by name, all when `names` is empty.
    pub fn list(&self, names: &[String]) -> Vec<livekit::Room> {
        self.shared.list(names)
    }

    /// One room.
    pub fn get(&self, name: &str) -> Result<livekit::Room, RoomsError> {
        Ok(self.shared.find(name)?.info())
    }

    /// A room's key, for media commands.
    pub fn key(&self, name: &str) -> Option<RoomKey> {
        self.shared.find(name).ok().map(|entry| entry.room.key)
    }

    /// Asks a room to say who is there and what is published ([`What::Present`]), in order with its other events: for a follower that
    /// lost some. Waits for nobody; a room that is over says nothing.
    pub fn restate(&self, room: &str) {
        if let Ok(entry) = self.shared.find(room) {
            entry.tell(|state, _| state.restate());
        }
    }

    /// Ends a room; everyone in it is told.
    pub async fn delete(&self, name: &str) -> Result<(), RoomsError> {
        self.existing(name, |state, now| {
            state.finish(now, livekit::DisconnectReason::RoomDeleted);
            Ok(())
        })
        .await
    }

    /// Everyone in a room.
    pub async fn participants(&self, room: &str) -> Result<Vec<livekit::ParticipantInfo>, RoomsError> {
        self.existing(room, |state, _| Ok(state.participants())).await
    }

    /// One participant.
    pub async fn participant(&self, room: &str, identity: &str) -> Result<livekit::ParticipantInfo, RoomsError> {
        let identity = identity.to_owned();
        self.existing(room, move |state, _| state.participant(&identity)).await
    }

    /// Sends a participant away.
    pub async fn remove_participant(&self, room: &str, identity: &str) -> Result<(), RoomsError> {
        let identity = identity.to_owned();
        self.existing(room, move |state, now| state.remove_participant(now, &identity)).await
    }

    /// Changes a room's metadata, at most 512 KiB.
    pub async fn update_room_metadata(&self, room: &str, metadata: String) -> Result<livekit::Room, RoomsError> {
        self.existing(room, move |state, _| state.set_metadata(metadata)).await
    }

    /// Changes a participant's name, metadata, attributes and permissions; empty fields stay as they are.
    pub async fn update_participant(&self, request: livekit::UpdateParticipantRequest) -> Result<livekit::ParticipantInfo, RoomsError> {
        let change = Change {
            name: Some(request.name).filter(|name| !name.is_empty()),
            metadata: Some(request.metadata).filter(|metadata| !metadata.is_empty()),
            attributes: request.attributes,
            permission: request.permission,
        };
        let identity = request.identity;
        self.existing(&request.room, move |state, now| state.update_participant(now, &identity, change)).await
    }

    /// Sets attributes of a participant by the server itself; an empty value deletes its key.
    pub async fn set_attributes(&self, room: &str, identity: &str, attributes: HashMap<String, String>) -> Result<(), RoomsError> {
        let change = Change { attributes, ..Change::default() };
        let identity = identity.to_owned();
        self.existing(room, move |state, now| state.update_participant(now, &identity, change).map(drop)).await
    }

    /// Mutes a participant's track.
    pub async fn mute_track(&self, request: livekit::MuteRoomTrackRequest) -> Result<livekit::TrackInfo, RoomsError> {
        let room = request.room.clone();
        self.existing(&room, move |state, _| state.mute_track(&request.identity, &request.track_sid, request.muted)).await
    }

    /// Subscribes a participant to tracks, or unsubscribes it.
    pub async fn update_subscriptions(&self, request: livekit::UpdateSubscriptionsRequest) -> Result<(), RoomsError> {
        let mut sids = request.track_sids;
        sids.extend(request.participant_tracks.into_iter().flat_map(|tracks| tracks.track_sids));
        let (identity, subscribe) = (request.identity, request.subscribe);
        self.existing(&request.room, move |state, _| state.update_subscriptions(&identity, &sids, subscribe)).await
    }

    /// Sends data to participants, as LiveKit's SendData.
    pub async fn send_data(&self, request: livekit::SendDataRequest) -> Result<(), RoomsError> {
        let room = request.room.clone();
        self.existing(&room, move |state, _| state.send_data(request)).await
    }

    /// Sends a packet of the server as it is: sender identity and sid are the caller's to set (captions are shown under
    /// their speaker). Encoded once for all receivers.
    pub async fn send_packet(&self, room: &str, packet: livekit::DataPacket, reliable: bool, to: To) -> Result<(), RoomsError> {
        self.existing(room, move |state, _| {
            state.send_packet(&packet, reliable, &to);
            Ok(())
        })
        .await
    }

    /// Ends every room for a shutdown: clients are told to connect again elsewhere or later. New joins are refused.
    pub async fn shutdown(&self) {
        for entry in self.shared.close() {
            let ended = entry
                .call(|state, now| {
                    state.finish(now, livekit::DisconnectReason::ServerShutdown);
                    Ok(())
                })
                .await;
            if let Err(error) = ended {
                tracing::debug!(%error, "a room ended by itself during shutdown");
            }
        }
    }

    async fn existing<T: Send + 'static>(
        &self,
        room: &str,
        act: impl FnOnce(&mut state::RoomState, Now) -> Result<T, RoomsError> + Send + 'static,
    ) -> Result<T, RoomsError> {
        self.shared.find(room)?.call(act).await
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> i64 {
    registry::now().unix_ms
}
