//! What a session reports.
//!
//! Place: from [`super::StreamSession`] to whoever opened the stream. Rule: plain values; times are positions in the stream.

use crate::audio::Samples;

/// Counts the segments of a stream from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u64);

/// A recognised word.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// As it is written.
    pub text: String,
    /// Whether a space stands before it, unless it is the first.
    pub spaced: bool,
    /// Where it begins.
    pub start: Samples,
    /// Where it ends.
    pub end: Samples,
    /// How sure the recogniser is, 0 to 1 (geometric mean over the word's frames).
    pub confidence: f32,
}

/// Why less is served than was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DegradeRule {
    /// Rule 1: text that may still change is no longer reported; committed words are.
    InterimSuspended,
    /// Rule 2: what is said from here on is recognised by a smaller model, until [`SpeechEvent::Recovered`].
    SmallerModel,
    /// Rule 3: audio was skipped; it will never be text.
    AudioDropped {
        /// How much.
        length: Samples,
    },
    /// The models could not be run on this audio.
    ModelFailed,
}

/// An event of a stream, in the order of time.
#[derive(Debug, Clone, PartialEq)]
pub enum SpeechEvent {
    /// Somebody began to speak.
    SpeechStarted {
        /// Where.
        at: Samples,
    },
    /// The open segment's text changed, or more of it is committed.
    Interim {
        /// Which segment.
        segment: SegmentId,
        /// The whole segment so far.
        text: String,
        /// So many characters (Unicode scalars) from the beginning will not change.
        committed_chars: usize,
        /// The words of `text`.
        words: Vec<Word>,
        /// BCP 47; empty while it is not known.
        language: String,
    },
    /// A segment is closed; its text will not change.
    Final {
        /// Which segment.
        segment: SegmentId,
        /// The whole text; empty when interim text was withdrawn.
        text: String,
        /// The words of `text`.
        words: Vec<Word>,
        /// Where its speech begins.
        start: Samples,
        /// Where its speech ends.
        end: Samples,
        /// BCP 47; empty when it is not known.
        language: String,
    },
    /// The speaker may have stopped: the shorter silence of [`super::SessionConfig::eager_silence_ms`] passed. Either
    /// [`SpeechEvent::TurnResumed`] or [`SpeechEvent::TurnEnded`] follows.
    TurnMayEnd {
        /// Where the speech ended.
        at: Samples,
        /// The words of the open segment so far.
        text: String,
    },
    /// The speaker goes on after all.
    TurnResumed {
        /// Where the speech goes on.
        at: Samples,
    },
    /// The speaker has stopped: the configured silence passed.
    TurnEnded {
        /// Where the speech ended.
        at: Samples,
    },
    /// Less is served from here on, or audio was lost.
    Degraded {
        /// By which rule.
        rule: DegradeRule,
    },
    /// Everything is served again.
    Recovered,
}

/// The words as one text.
pub(crate) fn join(words: &[Word]) -> String {
    let mut text = String::new();
    for word in words {
        if word.spaced && !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&word.text);
    }
    text
}
