//! The rooms of this node by name and key, their making and their end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use auralink_media::control::Event;
use auralink_media::ids::RoomKey;
use auralink_media::net::MediaHandle;
use auralink_proto::livekit;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::actor::{Actor, Call};
use super::state::{KeySource, Now, RoomState, room_info};
use super::{RoomEvent, RoomRef, RoomsConfig, RoomsError, sid};
use crate::access::KeySet;

/// Calls that wait for a room; senders wait for a place, so that a busy room slows its clients down.
const CALLS_MAX: usize = 1_024;
/// Media events that wait for a room; dropped and counted beyond.
const ROOM_EVENTS_MAX: usize = 16_384;
/// A room may end between being found and being asked; then it is made anew, this many times.
const ATTEMPTS: usize = 3;

pub(crate) struct Shared {
    pub media: MediaHandle,
    pub keys: KeySet,
    pub config: Arc<RoomsConfig>,
    pub events: broadcast::Sender<Arc<RoomEvent>>,
    media_keys: KeySource,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    by_name: HashMap<Arc<str>, Arc<RoomEntry>>,
    by_key: HashMap<RoomKey, Arc<RoomEntry>>,
    closed: bool,
}

/// What others hold of a room.
#[derive(Debug)]
pub(crate) struct RoomEntry {
    pub room: RoomRef,
    calls: mpsc::Sender<Call>,
    events: mpsc::Sender<Event>,
    info: watch::Receiver<livekit::Room>,
}

impl RoomEntry {
    /// The room as it was after its last change.
    pub fn info(&self) -> livekit::Room {
        self.info.borrow().clone()
    }

    /// Runs `act` in the room and gives its answer once all its effects were carried out.
    pub async fn call<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut RoomState, Now) -> Result<T, RoomsError> + Send + 'static,
    ) -> Result<T, RoomsError> {
        let closed = || RoomsError::Closed(self.room.name.to_string());
        let (reply, answer) = oneshot::channel();
        let call = Call::new(move |state, now| {
            let result = act(state, now);
            Box::new(move || drop(reply.send(result)))
        });
        self.calls.send(call).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Runs `act` in the room some time; nobody waits for it.
    pub fn tell(&self, act: impl FnOnce(&mut RoomState, Now) + Send + 'static) {
        let call = Call::new(move |state, now| {
            act(state, now);
            Box::new(|| ())
        });
        if let Err(mpsc::error::TrySendError::Full(call)) = self.calls.try_send(call) {
            let calls = self.calls.clone();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { calls.send(call).await });
            }
        }
    }

    /// Runs `act` in the room; waits for a place in its mailbox, not for its end.
    pub async fn post(&self, act: impl FnOnce(&mut RoomState, Now) + Send + 'static) -> Result<(), RoomsError> {
        let call = Call::new(move |state, now| {
            act(state, now);
            Box::new(|| ())
        });
        self.calls.send(call).await.map_err(|_| RoomsError::Closed(self.room.name.to_string()))
    }
}

impl Shared {
    pub fn new(media: MediaHandle, keys: KeySet, config: RoomsConfig, events: broadcast::Sender<Arc<RoomEvent>>) -> Self {
        let key_maker = media.clone();
        Self {
            media,
            keys,
            config: Arc::new(config),
            events,
            media_keys: Arc::new(move || key_maker.next_key()),
            registry: Mutex::default(),
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn find(&self, name: &str) -> Result<Arc<RoomEntry>, RoomsError> {
        self.registry().by_name.get(name).cloned().ok_or_else(|| RoomsError::NotFound(name.chars().take(256).collect()))
    }

    pub fn list(&self, names: &[String]) -> Vec<livekit::Room> {
        let registry = self.registry();
        let mut rooms: Vec<livekit::Room> = if names.is_empty() {
            registry.by_name.values().map(|entry| entry.info()).collect()
        } else {
            names.iter().filter_map(|name| registry.by_name.get(name.as_str())).map(|entry| entry.info()).collect()
        };
        rooms.sort_by(|a, b| (a.creation_time_ms, &a.name).cmp(&(b.creation_time_ms, &b.name)));
        rooms
    }

    /// Acts in a room by name, which is made when it is missing and `create` says so.
    pub async fn in_room<T: Send + 'static>(
        self: &Arc<Self>,
        name: &str,
        request: Option<&livekit::CreateRoomRequest>,
        create: bool,
        act: impl FnOnce(&mut RoomState, Now) -> Result<T, RoomsError> + Clone + Send + 'static,
    ) -> Result<T, RoomsError> {
        for _ in 0..ATTEMPTS {
            let entry = if create { self.find_or_create(name, request)? } else { self.find(name)? };
            match entry.call(act.clone()).await {
                Err(RoomsError::Closed(_)) => tokio::task::yield_now().await,
                result => return result,
            }
        }
        Err(RoomsError::Closed(name.to_owned()))
    }

    fn find_or_create(self: &Arc<Self>, name: &str, request: Option<&livekit::CreateRoomRequest>) -> Result<Arc<RoomEntry>, RoomsError> {
        let mut registry = self.registry();
        if registry.closed {
            return Err(RoomsError::ShuttingDown);
        }
        if let Some(entry) = registry.by_name.get(name)
            && !entry.calls.is_closed()
        {
            return Ok(entry.clone());
        }
        let max = self.config.limits.rooms;
        if registry.by_name.len() >= max {
            metrics::counter!("auralink_limit_hits_total", "limit" => "rooms").increment(1);
            return Err(RoomsError::LimitExceeded(format!("this server has {max} rooms, as many as it takes")));
        }
        let sid = sid::new(sid::ROOM);
        let now = now();
        let room = RoomRef { key: RoomKey((self.media_keys)()), sid: Arc::from(sid.as_str()), name: Arc::from(name) };
        let info = room_info(name, &sid, request, &self.config, now);
        let (info_sender, info_receiver) = watch::channel(info.clone());
        let (calls, calls_receiver) = mpsc::channel(CALLS_MAX);
        let (events, events_receiver) = mpsc::channel(ROOM_EVENTS_MAX);
        let entry = Arc::new(RoomEntry { room: room.clone(), calls, events, info: info_receiver });
        let state = RoomState::new(room.clone(), info, self.config.clone(), self.media_keys.clone(), now);
        tokio::spawn(Actor::new(state, self.clone(), calls_receiver, events_receiver, info_sender).run());
        registry.by_name.insert(room.name.clone(), entry.clone());
        registry.by_key.insert(room.key, entry.clone());
        Ok(entry)
    }

    /// A room is over.
    pub fn forget(&self, room: &RoomRef) {
        let mut registry = self.registry();
        registry.by_key.remove(&room.key);
        if registry.by_name.get(&room.name).is_some_and(|entry| entry.room.key == room.key) {
            registry.by_name.remove(&room.name);
        }
    }

    /// No more rooms; gives those that are there.
    pub fn close(&self) -> Vec<Arc<RoomEntry>> {
        let mut registry = self.registry();
        registry.closed = true;
        registry.by_name.values().cloned().collect()
    }

    fn by_key(&self, key: RoomKey) -> Option<Arc<RoomEntry>> {
        self.registry().by_key.get(&key).cloned()
    }
}

/// Brings media events to their rooms. A room that does not keep up loses events (its data first), counted; it never
/// holds up another.
pub(crate) async fn dispatch(shared: Arc<Shared>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        let Some(entry) = shared.by_key(room_of(&event)) else { continue };
        let crowded = matches!(event, Event::Data { .. }) && entry.events.capacity() < ROOM_EVENTS_MAX / 2;
        if crowded || matches!(entry.events.try_send(event), Err(mpsc::error::TrySendError::Full(_))) {
            metrics::counter!("auralink_room_media_events_dropped_total").increment(1);
            tracing::warn!(room = &*entry.room.name, "a room does not keep up with its media events; one was dropped");
        }
    }
}

fn room_of(event: &Event) -> RoomKey {
    match event {
        Event::Answer { room, .. }
        | Event::Offer { room, .. }
        | Event::SectionsRequired { room, .. }
        | Event::NegotiationFailed { room, .. }
        | Event::Connected { room, .. }
        | Event::Disconnected { room, .. }
        | Event::TrackStarted { room, .. }
        | Event::TrackEnded { room, .. }
        | Event::TrackRefused { room, .. }
        | Event::Subscribed { room, .. }
        | Event::StreamPaused { room, .. }
        | Event::Speakers { room, .. }
        | Event::Quality { room, .. }
        | Event::Data { room, .. }
        | Event::RoomLost { room }
        | Event::TapRefused { room, .. } => *room,
    }
}

/// The time, for calls into a room's state.
pub(crate) fn now() -> Now {
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Now { at: Instant::now(), unix_ms: i64::try_from(unix_ms).unwrap_or(i64::MAX) }
}
