//! Captions: which microphones are heard, and what becomes of the text.
//!
//! One task ([`service`]) owns the state ([`room`]). It learns from room events who speaks where, opens a tap and a stream for each
//! microphone that may be heard, and turns the stream's events into data packets of the room ([`packets`], at most four a second per
//! speaker, [`limiter`]) and transcript events for followers ([`wording`]). It waits for no room: what is to be sent goes by the
//! room's own [`outbox`]. Who reads another language gets what was said clause by clause in that ([`translated`]), and not the
//! original.
//!
//! Rules: nobody is heard without the room being told, and what it is told is true ([`STATE_ATTRIBUTE`], [`REASON_ATTRIBUTE`]);
//! whoever opts out is not heard from that moment until the room ends or they say otherwise, however often they leave and come back
//! ([`opt_outs`]).

use std::sync::Arc;

use auralink_ai::scheduler::Engine;
use auralink_ai::translation::{TranslationEngine, TranslationStats};
use auralink_media::net::MediaHandle;
use auralink_proto::v1::TranscriptEvent;
use auralink_signaling::access::Claims;
use auralink_signaling::rooms::{Rooms, RoomsError};
use serde::Serialize;
use tokio::sync::{broadcast, mpsc, oneshot};

mod limiter;
mod opt_outs;
mod outbox;
mod packets;
mod room;
pub mod router;
mod service;
mod translated;
mod waiting;
pub mod wording;

use service::{Request, Service, ServiceParts};

/// Participant attribute that tells everybody whether a participant is heard: `on`, `off` (for the whole room), `opted-out` (by own
/// wish), `refused` (it cannot be; [`REASON_ATTRIBUTE`] says why). A token that carries `opted-out` (as a client's newest one does
/// after its opting out) opts its holder out when it joins.
pub const STATE_ATTRIBUTE: &str = "auralink.captions";

/// Participant attribute with a sentence, at most [`REASON_BYTES`] long: why a participant is not heard, or heard less well.
pub const REASON_ATTRIBUTE: &str = "auralink.captions.reason";

/// Participant attribute with the language in which a participant reads captions (BCP 47): set by a token, by the participant
/// (`setAttributes`), or by `PUT /api/v1/rooms/{room}/captions/me`. Empty or absent: as it was said.
pub const LANGUAGE_ATTRIBUTE: &str = "auralink.captions.language";

/// Bytes of the longest reason.
pub const REASON_BYTES: usize = 240;

/// Transcript events that a slow follower may be behind before it loses the oldest.
const TRANSCRIPT_QUEUE: usize = 1_024;

/// The handle of the service.
#[derive(Clone)]
pub struct Captions {
    requests: mpsc::Sender<Request>,
    availability: Arc<Result<Engine, String>>,
    translation: Option<TranslationEngine>,
    default_on: bool,
}

/// Who turns captions of a room on or off: the holder of a token.
pub struct By {
    /// The token's identity.
    pub identity: String,
    /// The token's name; who is in the room is called by the name that people see there.
    pub name: String,
}

impl From<&Claims> for By {
    fn from(claims: &Claims) -> Self {
        Self { identity: claims.identity.clone(), name: claims.name.clone() }
    }
}

/// A model pack, as people are told of it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Model {
    /// Its name and version.
    pub name: String,
    /// It shows that captions work and is not meant to be relied on: packs whose name ends with `-demo`.
    pub demonstrator: bool,
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum CaptionsError {
    /// No engine.
    #[error("captions are not available: {0}")]
    Unavailable(String),
    /// Nobody of this identity is in the room.
    #[error("`{identity}` is not in the room `{room}`: the language is that of somebody who is there")]
    NoParticipant {
        /// The room.
        room: String,
        /// Who is not there.
        identity: String,
    },
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
    /// Translates for those who read another language; without it all read what was said.
    pub translation: Option<TranslationEngine>,
}

impl Captions {
    /// Starts the service on the current runtime.
    pub fn start(parts: CaptionsParts) -> std::io::Result<Self> {
        let (requests, receiver) = mpsc::channel(256);
        let availability = Arc::new(parts.engine);
        let translation = parts.translation.clone();
        let captions = Self { requests, availability: Arc::clone(&availability), translation, default_on: parts.default_on };
        let router = router::Router::start(parts.taps)?;
        let service = Service::new(ServiceParts {
            rooms: parts.rooms,
            media: parts.media,
            availability,
            router,
            default_on: captions.default_on(),
            endpoint_silence_ms: parts.endpoint_silence_ms,
            translation: parts.translation,
        });
        tokio::spawn(service.run(receiver));
        Ok(captions)
    }

    /// The engine, or the sentence why there is none.
    pub fn engine(&self) -> Result<&Engine, &str> {
        self.availability.as_ref().as_ref().map_err(String::as_str)
    }

    /// The languages in which what is said can be read besides its own.
    pub fn translations(&self) -> Vec<String> {
        let (Some(translation), Ok(engine)) = (&self.translation, self.engine()) else { return Vec::new() };
        let spoken = engine.languages().first();
        spoken.map(|language| translation.targets(language)).unwrap_or_default()
    }

    /// What the translation pool did so far.
    pub fn translation_stats(&self) -> Option<TranslationStats> {
        self.translation.as_ref().map(TranslationEngine::stats)
    }

    /// On in new rooms.
    pub fn default_on(&self) -> bool {
        self.default_on && self.availability.is_ok()
    }

    /// Turns captions of a room on or off, and tells everyone there who did it.
    pub async fn set_enabled(&self, room: &str, enabled: bool, by: By) -> Result<(), CaptionsError> {
        let room = room.to_owned();
        self.ask(|reply| Request::SetEnabled { room, enabled, by, reply }).await?
    }

    /// The model pack behind the captions, if there are any.
    pub fn model(&self) -> Option<Model> {
        let name = self.engine().ok()?.stats().pack;
        let demonstrator = is_demonstrator(&name);
        Some(Model { name, demonstrator })
    }

    /// A participant does not want to be heard, or wants again.
    pub async fn set_opt_out(&self, room: &str, identity: &str, opted_out: bool) -> Result<(), CaptionsError> {
        let (room, identity) = (room.to_owned(), identity.to_owned());
        self.ask(|reply| Request::SetOptOut { room, identity, opted_out, reply }).await?
    }

    /// The language in which a participant reads captions; empty: as it was said.
    pub async fn set_language(&self, room: &str, identity: &str, language: &str) -> Result<(), CaptionsError> {
        let (room, identity, language) = (room.to_owned(), identity.to_owned(), language.to_owned());
        self.ask(|reply| Request::SetLanguage { room, identity, language, reply }).await?
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

fn is_demonstrator(pack: &str) -> bool {
    pack.split_whitespace().next().is_some_and(|name| name.ends_with("-demo"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demonstrator_is_known_by_its_name() {
        assert!(is_demonstrator("en-demo 0.2.1") && is_demonstrator("de-demo"));
        assert!(!is_demonstrator("en-large 1.0.0-demo") && !is_demonstrator(""));
    }
}
