//! Captions: which microphones are heard, and what becomes of the text.
//!
//! One task owns the state. It learns from room events who speaks where, opens a tap and a stream for each microphone that may be
//! heard, and turns the stream's events into data packets of the room ([`packets`], at most four a second per speaker, [`limiter`]) and
//! transcript events for followers. Rule: nobody is heard without the room being told (participant attribute
//! [`STATE_ATTRIBUTE`]), and whoever opts out is not heard from that moment.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use auralink_ai::audio::Samples;
use auralink_ai::scheduler::{Engine, Source, StreamHandle};
use auralink_ai::session::{DegradeRule, SegmentId, SessionConfig, SpeechEvent};
use auralink_media::control::Command;
use auralink_media::ids::{RoomKey, TrackKey};
use auralink_media::net::MediaHandle;
use auralink_proto::livekit;
use auralink_proto::v1::{TranscriptEvent, Word};
use auralink_signaling::rooms::{ParticipantRef, RoomEvent, RoomEvents, RoomRef, Rooms, RoomsError, To, What};
use tokio::sync::{broadcast, mpsc, oneshot};

mod limiter;
mod packets;
pub mod router;

use limiter::Limiter;
use packets::CaptionUpdate;
use router::Router;

/// Participant attribute that tells everybody whether a participant is heard: `on`, `off`, `opted-out`.
pub const STATE_ATTRIBUTE: &str = "auralink.captions";

/// Speech events that wait for the task; AI threads drop (and count) beyond it.
const SPEECH_QUEUE: usize = 4_096;

/// Transcript events that a slow follower may be behind before it loses the oldest.
const TRANSCRIPT_QUEUE: usize = 1_024;

/// The handle of the service.
#[derive(Clone)]
pub struct Captions {
    requests: mpsc::Sender<Request>,
    availability: Arc<Result<Engine, String>>,
    default_on: bool,
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum CaptionsError {
    /// No engine.
    #[error("captions are not available: {0}")]
    Unavailable(String),
    /// No such room.
    #[error("there is no room `{0}`")]
    NoRoom(String),
    /// The room refused.
    #[error(transparent)]
    Room(#[from] RoomsError),
    /// The service ended.
    #[error("the server is shutting down")]
    Stopped,
}

enum Request {
    SetEnabled { room: String, enabled: bool, reply: oneshot::Sender<Result<(), CaptionsError>> },
    SetOptOut { room: String, identity: String, opted_out: bool, reply: oneshot::Sender<Result<(), CaptionsError>> },
    Follow { room: String, reply: oneshot::Sender<Result<broadcast::Receiver<Arc<TranscriptEvent>>, CaptionsError>> },
    IsEnabled { room: String, reply: oneshot::Sender<bool> },
}

/// What the service needs.
pub struct CaptionsParts {
    /// Rooms, for packets and attributes.
    pub rooms: Rooms,
    /// Media, for taps.
    pub media: MediaHandle,
    /// The engine, or the sentence why there is none.
    pub engine: Result<Engine, String>,
    /// One ring per shard.
    pub taps: Vec<rtrb::Consumer<auralink_media::tap::TapPacket>>,
    /// On in new rooms.
    pub default_on: bool,
    /// Silence that closes a segment.
    pub endpoint_silence_ms: u32,
}

impl Captions {
    /// Starts the service on the current runtime.
    pub fn start(parts: CaptionsParts) -> std::io::Result<Self> {
        let (requests, receiver) = mpsc::channel(256);
        let availability = Arc::new(parts.engine);
        let captions = Self { requests, availability: Arc::clone(&availability), default_on: parts.default_on };
        let (speech, speech_events) = mpsc::channel(SPEECH_QUEUE);
        let task = Task {
            events: parts.rooms.subscribe_events(),
            rooms: parts.rooms,
            media: parts.media,
            availability,
            router: Router::start(parts.taps)?,
            default_on: parts.default_on,
            endpoint_silence_ms: parts.endpoint_silence_ms,
            state: BTreeMap::new(),
            owner: HashMap::new(),
            speech,
            due: BinaryHeap::new(),
            updates: 0,
        };
        tokio::spawn(task.run(receiver, speech_events));
        Ok(captions)
    }

    /// The engine, or the sentence why there is none.
    pub fn engine(&self) -> Result<&Engine, &str> {
        self.availability.as_ref().as_ref().map_err(String::as_str)
    }

    /// On in new rooms.
    pub fn default_on(&self) -> bool {
        self.default_on && self.availability.is_ok()
    }

    /// Turns captions of a room on or off.
    pub async fn set_enabled(&self, room: &str, enabled: bool) -> Result<(), CaptionsError> {
        let room = room.to_owned();
        self.ask(|reply| Request::SetEnabled { room, enabled, reply }).await?
    }

    /// A participant does not want to be heard, or wants again.
    pub async fn set_opt_out(&self, room: &str, identity: &str, opted_out: bool) -> Result<(), CaptionsError> {
        let (room, identity) = (room.to_owned(), identity.to_owned());
        self.ask(|reply| Request::SetOptOut { room, identity, opted_out, reply }).await?
    }

    /// The room's transcript from now on.
    pub async fn follow(&self, room: &str) -> Result<broadcast::Receiver<Arc<TranscriptEvent>>, CaptionsError> {
        let room = room.to_owned();
        self.ask(|reply| Request::Follow { room, reply }).await?
    }

    /// Are the captions of a room on?
    pub async fn is_enabled(&self, room: &str) -> bool {
        let room = room.to_owned();
        self.ask(|reply| Request::IsEnabled { room, reply }).await.unwrap_or(false)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, CaptionsError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| CaptionsError::Stopped)?;
        answer.await.map_err(|_| CaptionsError::Stopped)
    }
}

/// A room with its microphones.
struct RoomCaptions {
    key: RoomKey,
    enabled: bool,
    /// identity -> name, of everybody in the room.
    participants: BTreeMap<String, String>,
    opted_out: HashSet<String>,
    speakers: HashMap<TrackKey, Speaker>,
    transcript: broadcast::Sender<Arc<TranscriptEvent>>,
}

/// A microphone in a room with captions.
struct Speaker {
    participant: ParticipantRef,
    track_sid: String,
    encrypted: bool,
    stream: Option<Arc<StreamHandle>>,
    waiting: Limiter<CaptionUpdate>,
    /// The last entry that was made for it in [`Task::due`].
    woken_at: Option<Instant>,
    /// Of the open segment, how much was committed when it was last pushed.
    committed_chars: usize,
}

/// What an AI thread says of a stream.
struct Heard {
    track: TrackKey,
    event: SpeechEvent,
}

struct Task {
    events: RoomEvents,
    rooms: Rooms,
    media: MediaHandle,
    availability: Arc<Result<Engine, String>>,
    router: Router,
    default_on: bool,
    endpoint_silence_ms: u32,
    /// By room name.
    state: BTreeMap<String, RoomCaptions>,
    owner: HashMap<TrackKey, String>,
    speech: mpsc::Sender<Heard>,
    /// When captions that had to wait may be sent; a speaker who is gone by then is passed over.
    due: BinaryHeap<Reverse<(Instant, TrackKey)>>,
    updates: u64,
}

impl Task {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>, mut speech: mpsc::Receiver<Heard>) {
        loop {
            let due = self.due.peek().map(|Reverse((at, _))| *at);
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.room_event(&event).await,
                    None => return,
                },
                request = requests.recv() => match request {
                    Some(request) => self.request(request).await,
                    None => return,
                },
                Some(heard) = speech.recv() => self.heard(heard).await,
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => self.send_due().await,
            }
        }
    }

    async fn room_event(&mut self, event: &RoomEvent) {
        let name = event.room.name.as_ref();
        match &event.what {
            What::RoomStarted(_) => {
                self.room(&event.room);
            }
            What::RoomFinished(_) => {
                if let Some(room) = self.state.remove(name) {
                    for track in room.speakers.into_keys() {
                        self.router.detach(track);
                        self.owner.remove(&track);
                    }
                }
            }
            What::ParticipantJoined { participant, info } => {
                self.room(&event.room).participants.insert(participant.identity.to_string(), info.name.clone());
                self.announce(name, &participant.identity).await;
            }
            What::ParticipantLeft { participant, .. } => {
                let room = self.room(&event.room);
                room.participants.remove(participant.identity.as_ref());
                room.opted_out.remove(participant.identity.as_ref());
            }
            What::TrackPublished { participant, track, info } if is_microphone(info) => {
                let speaker = Speaker {
                    participant: participant.clone(),
                    track_sid: info.sid.clone(),
                    encrypted: info.encryption != livekit::encryption::Type::None as i32,
                    stream: None,
                    waiting: Limiter::default(),
                    woken_at: None,
                    committed_chars: 0,
                };
                self.room(&event.room).speakers.insert(*track, speaker);
                self.owner.insert(*track, name.to_owned());
                self.listen(name, *track);
            }
            What::TrackUnpublished { track, .. } => {
                if let Some(room) = self.state.get_mut(name) {
                    room.speakers.remove(track);
                }
                self.owner.remove(track);
                self.router.detach(*track);
            }
            What::TapRefused { track, reason } => {
                self.router.detach(*track);
                self.notice(name, *track, reason.clone());
            }
            _ => {}
        }
    }

    fn room(&mut self, room: &RoomRef) -> &mut RoomCaptions {
        let enabled = self.default_on && self.availability.is_ok();
        self.state.entry(room.name.to_string()).or_insert_with(|| RoomCaptions {
            key: room.key,
            enabled,
            participants: BTreeMap::new(),
            opted_out: HashSet::new(),
            speakers: HashMap::new(),
            transcript: broadcast::channel(TRANSCRIPT_QUEUE).0,
        })
    }

    async fn request(&mut self, request: Request) {
        // A requester that went away needs no answer.
        match request {
            Request::SetEnabled { room, enabled, reply } => {
                let _ = reply.send(self.set_enabled(&room, enabled).await);
            }
            Request::SetOptOut { room, identity, opted_out, reply } => {
                let _ = reply.send(self.set_opt_out(&room, &identity, opted_out).await);
            }
            Request::Follow { room, reply } => {
                let transcript = self.state.get(&room).map(|r| r.transcript.subscribe());
                let _ = reply.send(transcript.ok_or(CaptionsError::NoRoom(room)));
            }
            Request::IsEnabled { room, reply } => {
                let _ = reply.send(self.state.get(&room).is_some_and(|r| r.enabled));
            }
        }
    }

    async fn set_enabled(&mut self, name: &str, enabled: bool) -> Result<(), CaptionsError> {
        if let (true, Err(reason)) = (enabled, self.availability.as_ref()) {
            return Err(CaptionsError::Unavailable(reason.clone()));
        }
        let room = self.state.get_mut(name).ok_or_else(|| CaptionsError::NoRoom(name.to_owned()))?;
        room.enabled = enabled;
        let tracks: Vec<TrackKey> = room.speakers.keys().copied().collect();
        let identities: Vec<String> = room.participants.keys().cloned().collect();
        for track in tracks {
            self.listen(name, track);
        }
        for identity in identities {
            self.announce(name, &identity).await;
        }
        tracing::info!(room = name, enabled, "captions");
        Ok(())
    }

    async fn set_opt_out(&mut self, name: &str, identity: &str, opted_out: bool) -> Result<(), CaptionsError> {
        let room = self.state.get_mut(name).ok_or_else(|| CaptionsError::NoRoom(name.to_owned()))?;
        if opted_out {
            room.opted_out.insert(identity.to_owned());
        } else {
            room.opted_out.remove(identity);
        }
        let tracks: Vec<TrackKey> =
            room.speakers.iter().filter(|(_, s)| s.participant.identity.as_ref() == identity).map(|(track, _)| *track).collect();
        for track in tracks {
            self.listen(name, track);
        }
        self.announce(name, identity).await;
        Ok(())
    }

    /// Tells the room whether a participant is heard.
    async fn announce(&self, name: &str, identity: &str) {
        let Some(room) = self.state.get(name) else { return };
        let state = match (room.enabled, room.opted_out.contains(identity)) {
            (true, true) => "opted-out",
            (true, false) => "on",
            (false, _) => "off",
        };
        let attributes = HashMap::from([(STATE_ATTRIBUTE.to_owned(), state.to_owned())]);
        match self.rooms.set_attributes(name, identity, attributes).await {
            Ok(_) | Err(RoomsError::ParticipantNotFound { .. } | RoomsError::NotFound { .. }) => {}
            Err(error) => tracing::warn!(room = name, participant = identity, %error, "the captions state could not be announced"),
        }
    }

    /// Opens or closes a microphone's stream, as the room and the speaker want it.
    fn listen(&mut self, name: &str, track: TrackKey) {
        let Some(room) = self.state.get_mut(name) else { return };
        let Some(speaker) = room.speakers.get_mut(&track) else { return };
        let wanted = room.enabled && !room.opted_out.contains(speaker.participant.identity.as_ref());
        if !wanted {
            speaker.stream = None;
            speaker.waiting = Limiter::default();
            self.router.detach(track);
            self.tap(name, track, false);
            return;
        }
        if speaker.stream.is_some() {
            return;
        }
        if speaker.encrypted {
            self.notice(name, track, "the microphone is end-to-end encrypted: the server cannot hear it".into());
            return;
        }
        let Ok(engine) = self.availability.as_ref() else { return };
        let speech = self.speech.clone();
        let sink = move |event| {
            if speech.try_send(Heard { track, event }).is_err() {
                metrics::counter!("auralink_speech_events_dropped_total").increment(1);
            }
        };
        let config = SessionConfig { endpoint_silence_ms: self.endpoint_silence_ms, ..SessionConfig::default() };
        match engine.open(config, Source::Packets, Box::new(sink)) {
            Ok(stream) => {
                let stream = Arc::new(stream);
                speaker.stream = Some(Arc::clone(&stream));
                self.router.attach(track, stream);
                self.tap(name, track, true);
            }
            Err(error) => self.notice(name, track, error.to_string()),
        }
    }

    fn tap(&self, name: &str, track: TrackKey, enabled: bool) {
        let Some(room) = self.state.get(name) else { return };
        if let Err(error) = self.media.send(Command::SetTap { room: room.key, track, enabled }) {
            tracing::warn!(room = name, %error, "the tap could not be set");
        }
    }

    /// A sentence for followers: why a speaker is not heard, or heard less well.
    fn notice(&self, name: &str, track: TrackKey, text: String) {
        let Some(room) = self.state.get(name) else { return };
        let Some(speaker) = room.speakers.get(&track) else { return };
        tracing::warn!(room = name, participant = %speaker.participant.identity, notice = text, "captions");
        let event = TranscriptEvent {
            participant_identity: speaker.participant.identity.to_string(),
            track_sid: speaker.track_sid.clone(),
            received_at_ms: unix_ms(),
            notice: text,
            ..TranscriptEvent::default()
        };
        // Nobody follows: nobody needs it.
        let _ = room.transcript.send(Arc::new(event));
    }

    async fn heard(&mut self, Heard { track, event }: Heard) {
        let Some(name) = self.owner.get(&track).cloned() else { return };
        let Some(room) = self.state.get_mut(&name) else { return };
        let Some(speaker) = room.speakers.get_mut(&track) else { return };
        if speaker.stream.is_none() {
            return; // said before the speaker opted out; not shown after it
        }
        let language = self.availability.as_ref().as_ref().map(Engine::language).unwrap_or_default();
        let update = match event {
            SpeechEvent::Interim { segment, text, committed_chars, words } => {
                caption(speaker, language, segment, text, committed_chars, false, words)
            }
            SpeechEvent::Final { segment, text, words, .. } => {
                let committed = text.chars().count();
                caption(speaker, language, segment, text, committed, true, words)
            }
            SpeechEvent::Degraded { rule } => return self.notice(&name, track, degraded_text(rule)),
            SpeechEvent::Recovered => return self.notice(&name, track, "the machine keeps up again".into()),
            _ => return,
        };
        let (update, words) = update;
        let participant_name = room.participants.get(speaker.participant.identity.as_ref()).cloned().unwrap_or_default();
        // Nobody follows: nobody needs it.
        let _ = room.transcript.send(Arc::new(transcript_event(&update, participant_name, words)));
        if update.is_final {
            speaker.committed_chars = 0;
            speaker.waiting.push_final(update);
        } else {
            let committing = update.committed_chars > speaker.committed_chars;
            speaker.committed_chars = update.committed_chars;
            speaker.waiting.push_interim(update, committing);
        }
        self.send_due_of(&name, track).await;
    }

    async fn send_due(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((at, track))) = self.due.peek()
            && at <= now
        {
            self.due.pop();
            if let Some(name) = self.owner.get(&track).cloned() {
                self.send_due_of(&name, track).await;
            }
        }
    }

    /// Sends what a speaker's window allows now; what must wait is looked at again when it allows more.
    async fn send_due_of(&mut self, name: &str, track: TrackKey) {
        let Some(speaker) = self.state.get_mut(name).and_then(|room| room.speakers.get_mut(&track)) else { return };
        while let Some(update) = speaker.waiting.poll(Instant::now()) {
            self.updates += 1;
            for packet in update.packets(&format!("ST_{}_{}", speaker.track_sid, self.updates), unix_ms()) {
                if let Err(error) = self.rooms.send_packet(name, packet, true, To::All).await {
                    tracing::warn!(room = name, %error, "a caption could not be sent");
                    return;
                }
            }
        }
        if let Some(at) = speaker.waiting.due().flatten()
            && speaker.woken_at.is_none_or(|woken| woken != at)
        {
            speaker.woken_at = Some(at);
            self.due.push(Reverse((at, track)));
        }
    }
}

/// Microphones are heard; music and screen sound are not.
fn is_microphone(info: &livekit::TrackInfo) -> bool {
    info.r#type == livekit::TrackType::Audio as i32
        && (info.source == livekit::TrackSource::Microphone as i32 || info.source == livekit::TrackSource::Unknown as i32)
}

/// A position on the stream's clock, for the wire.
pub fn wire_ms(samples: Samples) -> i64 {
    i64::try_from(samples.as_ms()).unwrap_or(i64::MAX)
}

/// What a degradation means for the reader.
pub fn degraded_text(rule: DegradeRule) -> String {
    match rule {
        DegradeRule::InterimSuspended => "the machine is busy: text appears once it is certain".into(),
        DegradeRule::AudioDropped { length } => format!("the machine is busy: {} ms of speech were not heard", length.as_ms()),
        DegradeRule::ModelFailed => "the speech model failed on this audio; the server's log says why".into(),
    }
}

fn caption(
    speaker: &Speaker,
    language: &str,
    segment: SegmentId,
    text: String,
    committed_chars: usize,
    is_final: bool,
    words: Vec<auralink_ai::session::Word>,
) -> (CaptionUpdate, Vec<Word>) {
    let words = proto_words(&words);
    let update = CaptionUpdate {
        identity: speaker.participant.identity.to_string(),
        participant_sid: speaker.participant.sid.to_string(),
        track_sid: speaker.track_sid.clone(),
        segment_id: format!("SG_{}_{}", speaker.track_sid, segment.0),
        text,
        committed_chars,
        is_final,
        language: language.to_owned(),
        start_ms: words.first().map_or(0, |w| w.start_ms.unsigned_abs()),
        end_ms: words.last().map_or(0, |w| w.end_ms.unsigned_abs()),
    };
    (update, words)
}

/// Words on the wire.
pub fn proto_words(words: &[auralink_ai::session::Word]) -> Vec<Word> {
    words
        .iter()
        .map(|word| Word { text: word.text.clone(), start_ms: wire_ms(word.start), end_ms: wire_ms(word.end), confidence: word.confidence })
        .collect()
}

fn transcript_event(update: &CaptionUpdate, participant_name: String, words: Vec<Word>) -> TranscriptEvent {
    let committed: usize = update.text.chars().take(update.committed_chars).map(char::len_utf8).sum();
    TranscriptEvent {
        participant_identity: update.identity.clone(),
        participant_name,
        track_sid: update.track_sid.clone(),
        segment_id: update.segment_id.clone(),
        text: update.text.clone(),
        committed: u32::try_from(committed).unwrap_or(u32::MAX),
        r#final: update.is_final,
        words,
        language: update.language.clone(),
        received_at_ms: unix_ms(),
        notice: String::new(),
    }
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
