//! From probabilities to speech and silence: hysteresis and the two clocks of an utterance.
//!
//! Place: each stream session has one. Rule: it counts samples, never time of day. Speech begins after
//! [`MIN_SPEECH`] above [`ONSET`]; silence is counted below [`OFFSET`], from the end of the last window that was speech.

use crate::audio::Samples;

/// Probability from which a window begins speech (Silero's default). Higher misses soft onsets, lower opens for noise.
const ONSET: f32 = 0.5;
/// Probability below which a window is silent once speech goes on (Silero's default: 0.15 below the onset).
const OFFSET: f32 = 0.35;
/// Speech shorter than this is a click, samples (50 ms).
const MIN_SPEECH: u64 = 800;

/// What a window changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Speech began; the position of its first window.
    Started(Samples),
}

/// Speech or silence of one stream.
#[derive(Debug, Default)]
pub struct Activity {
    speaking: bool,
    /// Samples above the onset in a row, while not speaking.
    rising: u64,
    last_voiced: Samples,
}

impl Activity {
    /// Takes the probability of the window of `length` samples that ends at `end`.
    pub fn push(&mut self, probability: f32, length: u64, end: Samples) -> Change {
        if self.speaking {
            if probability >= OFFSET {
                self.last_voiced = end;
            }
            return Change::None;
        }
        if probability < ONSET {
            self.rising = 0;
            return Change::None;
        }
        self.rising += length;
        if self.rising < MIN_SPEECH {
            return Change::None;
        }
        self.speaking = true;
        self.last_voiced = end;
        let started = end.saturating_sub(Samples(self.rising));
        self.rising = 0;
        Change::Started(started)
    }

    /// Whether a segment is going on.
    pub fn is_speaking(&self) -> bool {
        self.speaking
    }

    /// Whether this window may be the beginning of speech.
    pub fn is_rising(&self) -> bool {
        self.rising > 0
    }

    /// The end of the last window that was speech.
    pub fn last_voiced(&self) -> Samples {
        self.last_voiced
    }

    /// The audio pauses: what might have become speech did not.
    pub fn settle(&mut self) {
        self.rising = 0;
    }

    /// The segment was closed: what follows is judged anew.
    pub fn close(&mut self) {
        self.speaking = false;
        self.rising = 0;
    }
}
