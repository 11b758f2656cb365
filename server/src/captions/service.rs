//! The task behind [`super::Captions`]: room events, requests and the engine's events in; taps, streams, packets and transcripts out.
//!
//! Rules: it awaits nothing but its inputs; rooms are known by their key, which no other room ever has, so that a request and an
//! event that pass each other mean the same room; when events were lost, the rooms are asked to say again who is there.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use auralink_ai::scheduler::Engine;
use auralink_ai::session::SpeechEvent;
use auralink_ai::translation::TranslationEngine;
use auralink_media::ids::{RoomKey, TrackKey};
use auralink_media::net::MediaHandle;
use auralink_proto::livekit::TrackInfo;
use auralink_proto::v1::TranscriptEvent;
use auralink_signaling::rooms::{ParticipantRef, RoomEvent, Rooms, To, What};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, sleep_until};

use super::outbox::Outbox;
use super::room::{Hearing, Room, Speaker, is_microphone};
use super::router::Router;
use super::translated::Ask;
use super::waiting::Waiting;
use super::wording::{switched_event, switched_packet};
use super::{By, CaptionsError, LANGUAGE_ATTRIBUTE};

mod listening;
mod translating;

/// Speech events that wait for the task; AI threads drop (and count) beyond it.
const SPEECH_QUEUE: usize = 4_096;

/// Time between looks whether a waiting microphone can have a stream: services that stream their own audio take and free them too.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// Time between looks for rooms that are over though nobody said so. That is rare: a request that passed a room's end on its way.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Rooms that are asked in one go to say again who is there, and the time to the next go: their answers must not be lost again.
const RESTATED_AT_ONCE: usize = 256;
const RESTATE_EVERY: Duration = Duration::from_millis(50);

type Reply<T> = oneshot::Sender<Result<T, CaptionsError>>;

/// What [`super::Captions`] asks.
pub enum Request {
    SetEnabled { room: String, enabled: bool, by: By, reply: Reply<()> },
    SetLanguage { room: String, identity: String, language: String, reply: Reply<()> },
    SetOptOut { room: String, identity: String, opted_out: bool, reply: Reply<()> },
    Follow { room: String, reply: Reply<broadcast::Receiver<Arc<TranscriptEvent>>> },
    IsEnabled { room: String, reply: oneshot::Sender<bool> },
}

/// A clause in another language, or as it was said where it could not be translated.
struct Told {
    key: RoomKey,
    track: TrackKey,
    ask: Ask,
    text: String,
}

/// What a [`Service`] works with.
pub struct ServiceParts {
    pub rooms: Rooms,
    pub media: MediaHandle,
    pub availability: Arc<Result<Engine, String>>,
    pub router: Router,
    pub default_on: bool,
    pub endpoint_silence_ms: u32,
    pub translation: Option<TranslationEngine>,
}

/// What an AI thread says of a stream.
struct Heard {
    track: TrackKey,
    event: SpeechEvent,
}

/// The task's state.
pub struct Service {
    rooms: Rooms,
    media: MediaHandle,
    availability: Arc<Result<Engine, String>>,
    router: Router,
    default_on: bool,
    endpoint_silence_ms: u32,
    state: HashMap<RoomKey, Room>,
    /// Which room a microphone is in.
    owner: HashMap<TrackKey, RoomKey>,
    waiting: Waiting,
    speech: mpsc::Sender<Heard>,
    speech_events: Option<mpsc::Receiver<Heard>>,
    translation: Option<TranslationEngine>,
    told: mpsc::Sender<Told>,
    translations: Option<mpsc::Receiver<Told>>,
    /// When captions that had to wait may be sent; a speaker who is gone by then is passed over.
    due: BinaryHeap<Reverse<(Instant, TrackKey)>>,
    updates: u64,
    /// Rooms that are still to say again who is there.
    restate: Vec<String>,
    restate_at: Instant,
}

impl Service {
    pub fn new(parts: ServiceParts) -> Self {
        let (speech, speech_events) = mpsc::channel(SPEECH_QUEUE);
        let (told, translations) = mpsc::channel(SPEECH_QUEUE);
        let ServiceParts { rooms, media, availability, router, default_on, endpoint_silence_ms, translation } = parts;
        Self {
            rooms,
            media,
            availability,
            router,
            default_on,
            endpoint_silence_ms,
            translation,
            told,
            translations: Some(translations),
            state: HashMap::new(),
            owner: HashMap::new(),
            waiting: Waiting::default(),
            speech,
            speech_events: Some(speech_events),
            due: BinaryHeap::new(),
            updates: 0,
            restate: Vec::new(),
            restate_at: Instant::now(),
        }
    }

    /// Runs until the rooms or all handles are gone.
    pub async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut events = self.rooms.subscribe_events();
        let mut lost = events.lost();
        let (Some(mut speech), Some(mut translations)) = (self.speech_events.take(), self.translations.take()) else { return };
        let every = |period| {
            let mut interval = tokio::time::interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        let (mut retry, mut sweep) = (every(RETRY_EVERY), every(SWEEP_EVERY));
        loop {
            let due = self.due.peek().map(|Reverse((at, _))| *at);
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return };
                    if events.lost() > lost {
                        lost = events.lost();
                        self.resync();
                    }
                    self.room_event(&event);
                }
                request = requests.recv() => match request {
                    Some(request) => self.request(request),
                    None => return,
                },
                Some(heard) = speech.recv() => self.heard(heard),
                Some(told) = translations.recv() => self.translated(told),
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => self.send_due(),
                _ = retry.tick(), if !self.waiting.is_empty() => self.retry(),
                () = sleep_until(self.restate_at.into()), if !self.restate.is_empty() => self.restate_some(),
                _ = sweep.tick() => self.sweep(),
            }
        }
    }

    fn room_event(&mut self, event: &RoomEvent) {
        let key = event.room.key;
        match &event.what {
            What::RoomFinished(_) => self.forget(key),
            What::RoomStarted(_) => {
                self.room(key, &event.room.name);
            }
            What::ParticipantJoined { participant, info } | What::ParticipantUpdated { participant, info } => {
                self.room(key, &event.room.name).is_here(participant, info);
                self.announce(key, &participant.identity);
            }
            What::ParticipantLeft { participant, .. } => self.room(key, &event.room.name).left(participant),
            What::TrackPublished { participant, track, info } => {
                self.room(key, &event.room.name);
                self.published(key, participant, *track, info);
            }
            What::TrackUnpublished { track, .. } => self.unpublished(key, *track),
            What::TapRefused { track, reason } => self.refused(key, *track, reason),
            What::Present { participants, tracks } => {
                let room = self.room(key, &event.room.name);
                room.retain_people(|identity| participants.iter().any(|(participant, _)| participant.identity.as_ref() == identity));
                for (participant, info) in participants {
                    room.is_here(participant, info);
                }
                for gone in room.tracks().into_iter().filter(|track| !tracks.iter().any(|(_, other, _)| other == track)) {
                    self.unpublished(key, gone);
                }
                for (participant, track, info) in tracks {
                    self.published(key, participant, *track, info);
                }
                self.announce_all(key);
            }
            _ => {}
        }
    }

    fn room(&mut self, key: RoomKey, name: &Arc<str>) -> &mut Room {
        let (enabled, rooms) = (self.default_on, &self.rooms);
        self.state.entry(key).or_insert_with(|| Room::new(name.clone(), enabled, Outbox::open(rooms.clone(), name.clone())))
    }

    /// The room that has this name now, whether or not its events have come already.
    fn named(&mut self, name: &str) -> Result<RoomKey, CaptionsError> {
        let key = self.rooms.key(name).ok_or_else(|| CaptionsError::NoRoom(name.to_owned()))?;
        self.room(key, &Arc::from(name));
        Ok(key)
    }

    fn forget(&mut self, key: RoomKey) {
        let Some(room) = self.state.remove(&key) else { return };
        for track in room.speakers.into_keys() {
            self.router.detach(track);
            self.owner.remove(&track);
            self.waiting.remove(track);
        }
    }

    fn published(&mut self, key: RoomKey, participant: &ParticipantRef, track: TrackKey, info: &TrackInfo) {
        let Some(room) = self.state.get_mut(&key) else { return };
        if !is_microphone(info) || room.speakers.contains_key(&track) {
            return;
        }
        room.speakers.insert(track, Speaker::new(participant.clone(), info));
        self.owner.insert(track, key);
        self.listen(key, track);
        self.announce(key, &participant.identity);
    }

    fn unpublished(&mut self, key: RoomKey, track: TrackKey) {
        self.owner.remove(&track);
        self.router.detach(track);
        self.waiting.remove(track);
        if let Some(speaker) = self.state.get_mut(&key).and_then(|room| room.speakers.remove(&track)) {
            self.announce(key, &speaker.participant.identity);
        }
    }

    fn request(&mut self, request: Request) {
        // A requester that went away needs no answer.
        match request {
            Request::SetEnabled { room, enabled, by, reply } => {
                let _ = reply.send(self.set_enabled(&room, enabled, by));
            }
            Request::SetOptOut { room, identity, opted_out, reply } => {
                let _ = reply.send(self.set_opt_out(&room, &identity, opted_out));
            }
            Request::SetLanguage { room, identity, language, reply } => {
                let _ = reply.send(self.set_language(&room, &identity, language));
            }
            Request::Follow { room, reply } => {
                let _ = reply.send(self.named(&room).map(|key| self.state[&key].transcript.subscribe()));
            }
            Request::IsEnabled { room, reply } => {
                let _ = reply.send(self.named(&room).is_ok_and(|key| self.state[&key].enabled));
            }
        }
    }

    fn set_enabled(&mut self, name: &str, enabled: bool, by: By) -> Result<(), CaptionsError> {
        if let (true, Err(reason)) = (enabled, self.availability.as_ref()) {
            return Err(CaptionsError::Unavailable(reason.clone()));
        }
        let key = self.named(name)?;
        let Some(room) = self.state.get_mut(&key) else { return Ok(()) };
        if room.enabled == enabled {
            return Ok(());
        }
        room.enabled = enabled;
        let shown = [room.name_of(&by.identity), by.name].into_iter().find(|name| !name.is_empty());
        let by = By { name: shown.unwrap_or_else(|| by.identity.clone()), identity: by.identity };
        room.outbox.send(Arc::from(""), vec![switched_packet(enabled, &by)], To::All);
        // Nobody follows: nobody needs it.
        let _ = room.transcript.send(Arc::new(switched_event(enabled, &by)));
        for track in room.tracks() {
            self.listen(key, track);
        }
        self.announce_all(key);
        tracing::info!(room = name, enabled, by = by.identity, "captions");
        Ok(())
    }

    fn set_opt_out(&mut self, name: &str, identity: &str, opted_out: bool) -> Result<(), CaptionsError> {
        let key = self.named(name)?;
        let Some(room) = self.state.get_mut(&key) else { return Ok(()) };
        if opted_out {
            room.opt_out(identity);
            room.outbox.forget(identity);
        } else {
            room.opt_in(identity);
        }
        for track in room.tracks_of(identity) {
            self.listen(key, track);
        }
        self.announce(key, identity);
        Ok(())
    }

    /// The attribute says it to everyone, and comes back as the participant's update.
    fn set_language(&mut self, name: &str, identity: &str, language: String) -> Result<(), CaptionsError> {
        let key = self.named(name)?;
        if let Some(room) = self.state.get(&key) {
            if !room.has(identity) {
                return Err(CaptionsError::NoParticipant { room: name.to_owned(), identity: identity.to_owned() });
            }
            room.outbox.tell(identity.into(), HashMap::from([(LANGUAGE_ATTRIBUTE.to_owned(), language)]));
        }
        Ok(())
    }

    /// Tells the room whether a participant is heard, when that is another thing than was told last.
    fn announce(&mut self, key: RoomKey, identity: &str) {
        let Some(room) = self.state.get_mut(&key) else { return };
        if let Some(told) = room.news_for(identity) {
            room.outbox.tell(identity.into(), told.attributes());
        }
    }

    fn announce_all(&mut self, key: RoomKey) {
        for identity in self.state.get(&key).map(Room::identities).unwrap_or_default() {
            self.announce(key, &identity);
        }
    }

    /// Events were lost: rooms may be over, and people and microphones may have come and gone.
    fn resync(&mut self) {
        metrics::counter!("auralink_captions_resyncs_total").increment(1);
        self.sweep();
        self.restate = self.rooms.list(&[]).into_iter().map(|room| room.name).collect();
        self.restate_at = Instant::now();
    }

    fn restate_some(&mut self) {
        for name in self.restate.split_off(self.restate.len().saturating_sub(RESTATED_AT_ONCE)) {
            self.rooms.restate(&name);
        }
        self.restate_at = Instant::now() + RESTATE_EVERY;
    }

    /// Forgets rooms that are over.
    fn sweep(&mut self) {
        let over: Vec<RoomKey> =
            self.state.iter().filter(|(key, room)| self.rooms.key(&room.name) != Some(**key)).map(|(key, _)| *key).collect();
        for key in over {
            self.forget(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use auralink_media::control::Command;
    use auralink_media::ids::ParticipantKey;
    use auralink_proto::livekit;
    use auralink_signaling::access::KeySet;
    use auralink_signaling::rooms::{RoomRef, RoomsConfig, media_events};

    /// A service without an engine, a room `r`, and the far end of its media, without which no room stands.
    async fn service() -> (Service, RoomRef, std::sync::mpsc::Receiver<Command>) {
        let (media, commands) = MediaHandle::detached();
        let (_sink, events) = media_events();
        let rooms = Rooms::new(media.clone(), events, KeySet::new([("key", "a secret of thirty-two characters")]), RoomsConfig::default());
        let made = rooms.create(livekit::CreateRoomRequest { name: "r".into(), ..Default::default() }).await.unwrap();
        let room = RoomRef { key: rooms.key("r").unwrap(), sid: made.sid.into(), name: "r".into() };
        let router = Router::start(Vec::new()).unwrap();
        let parts = ServiceParts {
            rooms,
            media,
            availability: Arc::new(Err("no engine".into())),
            router,
            default_on: false,
            endpoint_silence_ms: 500,
            translation: None,
        };
        (Service::new(parts), room, commands)
    }

    fn published(room: &RoomRef, track: u64) -> RoomEvent {
        let participant = ParticipantRef { key: ParticipantKey(1), sid: "PA_1".into(), identity: "ana".into() };
        let info = TrackInfo { source: livekit::TrackSource::Microphone as i32, ..Default::default() };
        RoomEvent { room: room.clone(), what: What::TrackPublished { participant, track: TrackKey(track), info } }
    }

    #[tokio::test]
    async fn a_room_is_known_before_its_events_and_made_anew_is_another() {
        let (mut service, room, _media) = service().await;
        assert_eq!(service.named("r").unwrap(), room.key);
        service.room_event(&published(&room, 5));
        let (key, remade) = {
            service.rooms.delete("r").await.unwrap();
            service.rooms.create(livekit::CreateRoomRequest { name: "r".into(), ..Default::default() }).await.unwrap();
            (room.key, service.named("r").unwrap())
        };
        assert_ne!(key, remade);
        assert!(service.state[&remade].speakers.is_empty());
        // The late word of the old room's end does not touch the new one.
        service.room_event(&RoomEvent { room, what: What::RoomFinished(livekit::Room::default()) });
        assert!(service.state.contains_key(&remade) && !service.state.contains_key(&key));
        assert!(matches!(service.named("none"), Err(CaptionsError::NoRoom(_))));
    }

    #[tokio::test]
    async fn what_was_lost_is_made_good() {
        let (mut service, room, _media) = service().await;
        let over = RoomRef { key: RoomKey(999), name: "over".into(), ..room.clone() };
        service.room_event(&published(&over, 7));
        service.room_event(&published(&room, 5));
        assert_eq!(service.owner.len(), 2);

        let mut events = service.rooms.subscribe_events();
        service.resync();
        assert!(!service.state.contains_key(&over.key), "a room whose end was lost");
        assert!(!service.owner.contains_key(&TrackKey(7)));
        service.restate_some();
        assert!(service.restate.is_empty());
        let present = loop {
            let event = events.recv().await.unwrap();
            if matches!(event.what, What::Present { .. }) {
                break event;
            }
        };
        service.room_event(&present);
        assert!(service.state[&room.key].speakers.is_empty(), "a microphone whose end was lost");
        assert!(service.owner.is_empty());
    }
}
