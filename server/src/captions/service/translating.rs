//! Captions for those who read another language.
//!
//! Rule: a room waits for no translation; what cannot be translated is shown as it was said, and counted.

use auralink_ai::session::Word;
use auralink_ai::translation::{Pair, TranslationEngine};
use auralink_media::ids::{RoomKey, TrackKey};
use auralink_signaling::rooms::To;

use super::{Hearing, Room, Service, Told};
use crate::captions::packets::CaptionUpdate;
use crate::captions::wording::{transcript_event, unix_ms};

/// The languages besides `spoken` that people in the room read and that can be made of it.
pub(super) fn translatable(translation: Option<&TranslationEngine>, room: &Room, spoken: &str) -> Vec<String> {
    let Some(translation) = translation else { return Vec::new() };
    let mut languages = room.languages_besides(spoken);
    languages.retain(|language| translation.translates(&Pair::new(spoken, language)));
    languages
}

impl Service {
    /// Asks for the clauses that are new in an update, in every language that somebody reads.
    pub(super) fn translate(&mut self, key: RoomKey, track: TrackKey, update: &CaptionUpdate, words: &[Word]) {
        let Some(translation) = &self.translation else { return };
        let Some(room) = self.state.get_mut(&key) else { return };
        let languages = translatable(Some(translation), room, &update.language);
        let Some(speaker) = room.speakers.get_mut(&track) else { return };
        let (asks, shown) = speaker.translated.said(update, words, &languages);
        for ask in asks {
            let (told, said) = (self.told.clone(), ask.text.clone());
            let pair = Pair::new(&update.language, &ask.language);
            let refused = Told { key, track, text: said.clone(), ask: ask.clone() };
            let sink = move |answer: Result<String, _>| {
                let text = answer.unwrap_or_else(|error| {
                    tracing::warn!(%error, "a clause is shown as it was said");
                    metrics::counter!("auralink_captions_untranslated_total").increment(1);
                    said
                });
                if told.try_send(Told { key, track, ask, text }).is_err() {
                    metrics::counter!("auralink_speech_events_dropped_total").increment(1);
                }
            };
            if let Err(error) = translation.submit(refused.text.clone(), pair, Box::new(sink)) {
                tracing::warn!(%error, "a clause is shown as it was said");
                metrics::counter!("auralink_captions_untranslated_total").increment(1);
                if self.told.try_send(refused).is_err() {
                    metrics::counter!("auralink_speech_events_dropped_total").increment(1);
                }
            }
        }
        for update in shown {
            self.show_translated(key, track, &update);
        }
    }

    /// A clause came back.
    pub(super) fn translated(&mut self, Told { key, track, ask, text }: Told) {
        let Some(speaker) = self.state.get_mut(&key).and_then(|room| room.speakers.get_mut(&track)) else { return };
        let news = speaker.translated.translated(&ask, text);
        if !matches!(speaker.hearing, Hearing::Open { .. }) {
            return; // said before the speaker opted out; not shown after it
        }
        if let Some(update) = news {
            self.show_translated(key, track, &update);
        }
    }

    fn show_translated(&mut self, key: RoomKey, track: TrackKey, update: &CaptionUpdate) {
        let Some(room) = self.state.get(&key) else { return };
        let Some(speaker) = room.speakers.get(&track) else { return };
        let identity = speaker.participant.identity.clone();
        // Nobody follows: nobody needs it.
        let _ = room.transcript.send(transcript_event(update, room.name_of(&identity), Vec::new()).into());
        let readers = room.readers_of(std::slice::from_ref(&update.language));
        if readers.is_empty() {
            return; // they left, or read another language by now
        }
        self.updates += 1;
        let packets = update.packets(&format!("ST_{}_{}", update.track_sid, self.updates), unix_ms());
        room.outbox.send(identity, packets, To::Identities(readers));
    }
}
