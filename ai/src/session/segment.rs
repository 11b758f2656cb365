//! One segment: from the onset of speech to its close.
//!
//! Place: inside a session while somebody speaks. Rule: it starts with fresh states of features, network and decoder, so that no
//! segment depends on another; it counts in samples of its stream and frames of its network.

use std::sync::Arc;

use super::event::{SegmentId, SpeechEvent, Word};
use crate::audio::Samples;
use crate::decoder::{DecodedWord, Decoder};
use crate::features::FeatureExtractor;
use crate::pack::Pack;
use crate::recogniser::RecogniserState;

/// Why a segment is being closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    BySilence,
    ByLength,
}

/// An open segment.
pub struct Segment {
    id: SegmentId,
    pack: Arc<Pack>,
    /// Position of its first sample (before the onset).
    begin: Samples,
    /// Position of the onset.
    start: Samples,
    audio: Samples,
    features: FeatureExtractor,
    frames: Vec<f32>,
    state: RecogniserState,
    decoder: Decoder,
    closing: Closing,
    reported: (String, usize),
}

impl Segment {
    pub fn new(id: SegmentId, begin: Samples, start: Samples, pack: &Arc<Pack>) -> Self {
        Self {
            id,
            begin,
            start,
            audio: Samples(0),
            features: FeatureExtractor::new(pack.filter_bank().clone()),
            frames: Vec::new(),
            state: RecogniserState::new(pack.recogniser()),
            decoder: Decoder::new(pack.decoder().clone()),
            closing: Closing::No,
            reported: (String::new(), 0),
            pack: pack.clone(),
        }
    }

    /// Position of the onset.
    pub fn start(&self) -> Samples {
        self.start
    }

    pub fn push_audio(&mut self, samples: &[f32]) {
        self.audio = self.audio + Samples(samples.len() as u64);
        self.features.push(samples, &mut self.frames);
    }

    /// Asks for the end: the audio up to `speech_end` is recognised, then the segment is finished.
    pub fn close(&mut self, speech_end: Samples, by_silence: bool) {
        self.closing = if by_silence { Closing::BySilence } else { Closing::ByLength };
        let pack = self.pack.clone();
        let (spec, hop) = (pack.recogniser(), pack.filter_bank().spec().hop_length);
        // Frames that wait for a chunk are only silence if the speech ended well before them.
        let waiting = Samples((self.frames.len() / spec.n_mels * hop) as u64);
        let audio_end = self.begin + self.audio;
        if audio_end.saturating_sub(waiting) >= speech_end + spec.tail {
            self.frames.clear();
            return;
        }
        let missing = (speech_end + spec.tail).saturating_sub(audio_end);
        self.push_audio(&vec![0.0; missing.0 as usize]);
        while self.frames.is_empty() || !self.frames.len().is_multiple_of(spec.chunk_values()) {
            self.push_audio(&vec![0.0; hop]);
        }
    }

    pub fn is_closing(&self) -> bool {
        self.closing != Closing::No
    }

    pub fn closed_by_silence(&self) -> bool {
        self.closing == Closing::BySilence
    }

    /// Whether the network can be run.
    pub fn has_chunk(&self) -> bool {
        self.frames.len() >= self.pack.recogniser().chunk_values()
    }

    /// The next chunk's features and the network's state.
    pub fn chunk(&mut self) -> (&[f32], &mut RecogniserState) {
        let values = self.pack.recogniser().chunk_values();
        (&self.frames[..values.min(self.frames.len())], &mut self.state)
    }

    /// Takes the log-probabilities of the chunk, `[frames, vocabulary]`.
    pub fn handle_chunk(&mut self, log_probs: &[f32]) {
        let stride = self.pack.recogniser().chunk_values().min(self.frames.len());
        self.frames.drain(..stride);
        self.decoder.push(log_probs);
    }

    /// The interim event, if there is something new to say. Without `interim` only committed words count.
    pub fn progress(&mut self, interim: bool) -> Option<SpeechEvent> {
        let hypothesis = self.decoder.hypothesis();
        let committed = hypothesis.committed.min(hypothesis.words.len());
        let shown = if interim { hypothesis.words.len() } else { committed };
        let words = self.words(&hypothesis.words[..shown]);
        let text = join(&words);
        let committed_chars = join(&words[..committed]).chars().count();
        if (&text, committed_chars) == (&self.reported.0, self.reported.1) {
            return None;
        }
        self.reported = (text.clone(), committed_chars);
        Some(SpeechEvent::Interim { segment: self.id, text, committed_chars, words })
    }

    /// The final event; `None` when no word was found and none was ever reported.
    pub fn finish(mut self, end: Samples) -> Option<SpeechEvent> {
        let hypothesis = self.decoder.finish();
        let words = self.words(&hypothesis.words);
        let text = join(&words);
        if text.is_empty() && self.reported.0.is_empty() {
            return None;
        }
        let start = words.first().map_or(self.start, |word| word.start);
        let end = words.last().map_or(end, |word| word.end).max(start);
        Some(SpeechEvent::Final { segment: self.id, text, words, start, end })
    }

    fn words(&self, decoded: &[DecodedWord]) -> Vec<Word> {
        let spec = self.pack.recogniser();
        let frame = (spec.subsampling * self.pack.filter_bank().spec().hop_length) as u64;
        let at = |frames: u32| self.begin + Samples(u64::from(frames) * frame).saturating_sub(spec.emission_delay);
        decoded
            .iter()
            .map(|word| Word { text: word.text.clone(), start: at(word.start), end: at(word.end), confidence: word.confidence })
            .collect()
    }
}

fn join(words: &[Word]) -> String {
    words.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ")
}
