//! One segment: from the onset of speech to its close.
//!
//! Place: inside a session while somebody speaks. Rule: it starts with a fresh utterance, so that no segment depends on another;
//! it counts in samples of its stream.

use std::sync::Arc;

use super::event::{SegmentId, SpeechEvent, Word, join};
use crate::audio::Samples;
use crate::recogniser::{Due, RecognisedWord, SpeechPack, Transcript, Utterance, UtteranceOptions};

/// Why a segment is being closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// The speaker stopped.
    Silence,
    /// It grew too long, or what follows is to be heard otherwise: the speaker goes on.
    Cut,
}

/// An open segment.
pub struct Segment {
    id: SegmentId,
    /// Position of its first sample (before the onset).
    begin: Samples,
    /// Position of the onset.
    start: Samples,
    utterance: Box<dyn Utterance>,
    language: String,
    /// Whether the smaller model recognises it.
    smaller: bool,
    closing: Option<Closing>,
    reported: (String, usize),
}

impl Segment {
    pub fn new(
        id: SegmentId,
        begin: Samples,
        start: Samples,
        pack: &Arc<dyn SpeechPack>,
        smaller: bool,
        options: &UtteranceOptions,
    ) -> Self {
        let spoken = pack.languages().first().filter(|_| !pack.abilities().detects_language);
        let language = if options.language.is_empty() { spoken.cloned().unwrap_or_default() } else { options.language.clone() };
        let utterance = pack.clone().begin(options);
        Self { id, begin, start, utterance, language, smaller, closing: None, reported: (String::new(), 0) }
    }

    /// BCP 47; empty while it is not known.
    pub fn language(&self) -> &str {
        &self.language
    }

    /// Whether the smaller model recognises it.
    pub fn is_smaller(&self) -> bool {
        self.smaller
    }

    /// Position of the onset.
    pub fn start(&self) -> Samples {
        self.start
    }

    pub fn push_audio(&mut self, samples: &[f32]) {
        self.utterance.push_audio(samples);
    }

    /// Asks for the end: the audio up to `speech_end` is recognised, then the segment is finished.
    pub fn close(&mut self, speech_end: Samples, closing: Closing) {
        self.closing = Some(closing);
        self.utterance.close(speech_end.saturating_sub(self.begin));
    }

    pub fn closing(&self) -> Option<Closing> {
        self.closing
    }

    /// Whether the recogniser is to be run before more audio is taken.
    pub fn is_due(&self) -> bool {
        let due = self.utterance.due();
        due == Due::Now || (due == Due::CaughtUp && self.closing.is_some())
    }

    /// Whether the recogniser is to be run when no more audio waits.
    pub fn is_due_when_caught_up(&self) -> bool {
        self.utterance.due() != Due::Later
    }

    pub fn utterance(&mut self) -> &mut dyn Utterance {
        &mut *self.utterance
    }

    /// The words so far.
    pub fn words_so_far(&mut self) -> Vec<Word> {
        let transcript = self.utterance.transcript();
        self.words(&transcript.words)
    }

    /// The interim event, if there is something new to say. Without `interim` only committed words count.
    pub fn progress(&mut self, interim: bool) -> Option<SpeechEvent> {
        let transcript = self.utterance.transcript();
        self.learn_language(&transcript);
        let committed = transcript.committed.min(transcript.words.len());
        let shown = if interim { transcript.words.len() } else { committed };
        let words = self.words(&transcript.words[..shown]);
        let text = join(&words);
        let committed_chars = join(&words[..committed]).chars().count();
        if (&text, committed_chars) == (&self.reported.0, self.reported.1) {
            return None;
        }
        self.reported = (text.clone(), committed_chars);
        Some(SpeechEvent::Interim { segment: self.id, text, committed_chars, words, language: self.language.clone() })
    }

    /// The final event; `None` when no word was found and none was ever reported.
    pub fn finish(mut self, end: Samples) -> Option<SpeechEvent> {
        let transcript = self.utterance.finish();
        self.learn_language(&transcript);
        let words = self.words(&transcript.words);
        let text = join(&words);
        if text.is_empty() && self.reported.0.is_empty() {
            return None;
        }
        let start = words.first().map_or(self.start, |word| word.start);
        let end = words.last().map_or(end, |word| word.end).max(start);
        Some(SpeechEvent::Final { segment: self.id, text, words, start, end, language: self.language })
    }

    fn learn_language(&mut self, transcript: &Transcript) {
        if let Some(language) = &transcript.language {
            self.language.clone_from(language);
        }
    }

    fn words(&self, recognised: &[RecognisedWord]) -> Vec<Word> {
        let word = |word: &RecognisedWord| Word {
            text: word.text.clone(),
            spaced: word.spaced,
            start: self.begin + word.start,
            end: self.begin + word.end,
            confidence: word.confidence,
        };
        recognised.iter().map(word).collect()
    }
}
