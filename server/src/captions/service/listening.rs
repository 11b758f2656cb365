//! From a microphone to captions: opening and closing taps and streams, and what becomes of the engine's events.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use auralink_ai::scheduler::{EngineError, Source};
use auralink_ai::session::{SessionConfig, SpeechEvent};
use auralink_media::control::Command;
use auralink_media::ids::{RoomKey, TrackKey};

use auralink_signaling::rooms::To;

use super::translating::translatable;
use super::{Heard, Hearing, Service};
use crate::captions::limiter::Limiter;
use crate::captions::wording::{ENCRYPTED, NO_STREAM, caption, degraded_text, notice_event, transcript_event, trouble_text, unix_ms};

impl Service {
    /// Opens or closes a microphone's stream, as the room and the speaker want it. What people are told is up to the caller.
    pub(super) fn listen(&mut self, key: RoomKey, track: TrackKey) {
        let Some(room) = self.state.get_mut(&key) else { return };
        let Some(identity) = room.speakers.get(&track).map(|speaker| speaker.participant.identity.clone()) else { return };
        let wanted = room.enabled && !room.opted_out(&identity);
        let Some(speaker) = room.speakers.get_mut(&track) else { return };
        if !wanted {
            let was_open = matches!(speaker.hearing, Hearing::Open { .. });
            speaker.hearing = Hearing::Idle;
            speaker.waiting = Limiter::default();
            self.waiting.remove(track);
            self.router.detach(track);
            if was_open {
                self.tap(key, track, false);
            }
            return;
        }
        if matches!(speaker.hearing, Hearing::Open { .. }) {
            return;
        }
        if speaker.encrypted {
            return self.refuse(key, track, ENCRYPTED.to_owned());
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
                speaker.hearing = Hearing::Open { trouble: None };
                self.router.attach(track, Arc::new(stream));
                self.tap(key, track, true);
            }
            Err(EngineError::TooManyStreams { .. } | EngineError::Overloaded { .. }) if self.waiting.push(key, track) => {
                self.refuse(key, track, NO_STREAM.to_owned())
            }
            Err(error) => self.refuse(key, track, error.to_string()),
        }
    }

    /// Gives streams that have become free to those who wait, in order.
    pub(super) fn retry(&mut self) {
        while let Ok(engine) = self.availability.as_ref()
            && !engine.is_full()
            && let Some((key, track)) = self.waiting.pop()
        {
            self.listen(key, track);
            if let Some(identity) = self.identity_of(key, track) {
                self.announce(key, &identity);
            }
        }
    }

    /// Media cannot give this microphone's sound: its stream is free for another.
    pub(super) fn refused(&mut self, key: RoomKey, track: TrackKey, reason: &str) {
        self.router.detach(track);
        self.refuse(key, track, reason.to_owned());
        if let Some(identity) = self.identity_of(key, track) {
            self.announce(key, &identity);
        }
    }

    fn refuse(&mut self, key: RoomKey, track: TrackKey, reason: String) {
        let Some(speaker) = self.state.get_mut(&key).and_then(|room| room.speakers.get_mut(&track)) else { return };
        let known = matches!(&speaker.hearing, Hearing::Refused(known) if *known == reason);
        speaker.hearing = Hearing::Refused(reason.clone());
        speaker.waiting = Limiter::default();
        if !known {
            self.notice(key, track, reason);
        }
    }

    fn identity_of(&self, key: RoomKey, track: TrackKey) -> Option<Arc<str>> {
        Some(self.state.get(&key)?.speakers.get(&track)?.participant.identity.clone())
    }

    fn tap(&self, key: RoomKey, track: TrackKey, enabled: bool) {
        if let Err(error) = self.media.send(Command::SetTap { room: key, track, enabled }) {
            tracing::warn!(room = key.0, %error, "the tap could not be set");
        }
    }

    /// A sentence for followers: why a speaker is not heard, or heard less well.
    fn notice(&self, key: RoomKey, track: TrackKey, text: String) {
        let Some(room) = self.state.get(&key) else { return };
        let Some(speaker) = room.speakers.get(&track) else { return };
        tracing::warn!(room = &*room.name, participant = &*speaker.participant.identity, notice = text, "captions");
        let name = room.name_of(&speaker.participant.identity);
        // Nobody follows: nobody needs it.
        let _ = room.transcript.send(Arc::new(notice_event(speaker, name, text)));
    }

    pub(super) fn heard(&mut self, Heard { track, event }: Heard) {
        let Some(key) = self.owner.get(&track).copied() else { return };
        let Some(room) = self.state.get_mut(&key) else { return };
        let Some(speaker) = room.speakers.get_mut(&track) else { return };
        if !matches!(speaker.hearing, Hearing::Open { .. }) {
            return; // said before the speaker opted out; not shown after it
        }
        let identity = speaker.participant.identity.clone();
        let now = Instant::now();
        let ((update, words), said) = match event {
            SpeechEvent::Interim { segment, text, committed_chars, words, language } => {
                (caption(speaker, &language, segment, text, Some(committed_chars), &words), words)
            }
            SpeechEvent::Final { segment, text, words, language, .. } => (caption(speaker, &language, segment, text, None, &words), words),
            SpeechEvent::Degraded { rule } => {
                let (reason, lasting) = trouble_text(rule);
                speaker.troubled(reason, lasting, now);
                self.notice(key, track, degraded_text(rule));
                return self.announce(key, &identity);
            }
            SpeechEvent::Recovered => {
                speaker.recovered();
                self.notice(key, track, "the machine keeps up again".into());
                return self.announce(key, &identity);
            }
            _ => return,
        };
        self.translate(key, track, &update, &said);
        let Some(room) = self.state.get_mut(&key) else { return };
        let Some(speaker) = room.speakers.get_mut(&track) else { return };
        let all_well = speaker.text_came(now);
        let transcript = transcript_event(&update, room.name_of(&identity), words);
        // Nobody follows: nobody needs it.
        let _ = room.transcript.send(Arc::new(transcript));
        let Some(speaker) = room.speakers.get_mut(&track) else { return };
        if update.is_final {
            speaker.committed_chars = 0;
            speaker.waiting.push_final(update);
        } else {
            let committing = update.committed_chars > speaker.committed_chars;
            speaker.committed_chars = update.committed_chars;
            speaker.waiting.push_interim(update, committing);
        }
        self.send_due_of(key, track);
        if all_well {
            self.announce(key, &identity);
        }
    }

    pub(super) fn send_due(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((at, track))) = self.due.peek()
            && at <= now
        {
            self.due.pop();
            if let Some(key) = self.owner.get(&track).copied() {
                self.send_due_of(key, track);
            }
        }
    }

    /// Sends what a speaker's window allows now; what must wait is looked at again when it allows more.
    fn send_due_of(&mut self, key: RoomKey, track: TrackKey) {
        let Some(room) = self.state.get_mut(&key) else { return };
        while let Some(speaker) = room.speakers.get_mut(&track)
            && let Some(update) = speaker.waiting.poll(Instant::now())
        {
            let identity = speaker.participant.identity.clone();
            // Who reads another language gets it in that.
            let others = room.readers_of(&translatable(self.translation.as_ref(), room, &update.language));
            let to = if others.is_empty() { To::All } else { To::Except(others) };
            self.updates += 1;
            let packets = update.packets(&format!("ST_{}_{}", update.track_sid, self.updates), unix_ms());
            room.outbox.send(identity, packets, to);
        }
        let Some(speaker) = room.speakers.get_mut(&track) else { return };
        if let Some(at) = speaker.waiting.due().flatten()
            && speaker.woken_at.is_none_or(|woken| woken != at)
        {
            speaker.woken_at = Some(at);
            self.due.push(Reverse((at, track)));
        }
    }
}
