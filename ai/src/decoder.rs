//! From log-probabilities of tokens to words: greedy, or a prefix beam search over a lexicon and a language model.
//!
//! Place: after the recogniser, one per segment. Rule: a committed word never changes; what is committed early is what every
//! hypothesis that survives agrees on, or what lies so far back that the others are given up.

mod beam;
mod greedy;
pub mod language_model;
pub mod lexicon;

use std::sync::Arc;

use beam::Beam;
use greedy::Greedy;
use language_model::LanguageModel;
use lexicon::Lexicon;

use crate::hotwords::HotwordGraph;
use crate::recogniser::Hotword;

/// A word that was found. Frames are output frames of the network, from the segment's beginning.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedWord {
    /// As it is written.
    pub text: String,
    /// Frame of its first token.
    pub start: u32,
    /// Frame after its last token.
    pub end: u32,
    /// Geometric mean of its tokens' probabilities.
    pub confidence: f32,
}

/// The best reading so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hypothesis {
    /// Its words; the last may be unfinished.
    pub words: Vec<DecodedWord>,
    /// So many words from the beginning will not change.
    pub committed: usize,
}

/// What is constant for a pack.
pub struct DecoderSpec {
    /// Text of each token, the blank's included.
    pub tokens: Vec<String>,
    /// The CTC blank.
    pub blank: usize,
    /// The token after every word.
    pub word_end: usize,
    /// The beam search; without it the letters are taken as they come.
    pub beam: Option<BeamSpec>,
    /// Output frames after its last token when a word is settled: fewer commit earlier and are wrong more often.
    pub settle_frames: u32,
}

/// Parameters of the beam search.
pub struct BeamSpec {
    /// Words by their spelling.
    pub lexicon: Lexicon,
    /// Probabilities of words after words.
    pub language_model: LanguageModel,
    /// Hypotheses kept after each frame.
    pub width: usize,
    /// Hypotheses that are less likely than the best by more than this (natural logarithm) are dropped.
    pub beam_threshold: f32,
    /// Tokens less likely than this (natural logarithm) extend nothing.
    pub token_threshold: f32,
    /// Weight of the language model against the network.
    pub lm_weight: f32,
    /// Added for each word (natural logarithm): balances insertions and deletions.
    pub word_bonus: f32,
    /// Added for a word outside the lexicon (natural logarithm, negative).
    pub unknown_penalty: f32,
}

/// The decoder of one segment.
pub enum Decoder {
    /// Best token of each frame.
    Greedy(Greedy),
    /// Prefix beam search.
    Beam(Box<Beam>),
}

impl Decoder {
    /// A decoder that has heard nothing.
    pub fn new(spec: Arc<DecoderSpec>) -> Self {
        Self::with_hotwords(spec, &[])
    }

    /// A decoder that listens for words and phrases; they count in the beam search alone.
    pub fn with_hotwords(spec: Arc<DecoderSpec>, hotwords: &[Hotword]) -> Self {
        match &spec.beam {
            Some(_) => {
                let graph = HotwordGraph::of_ended_words(hotwords, &spec.tokens, spec.blank, spec.word_end);
                Self::Beam(Box::new(Beam::new(spec, graph.map(Arc::new))))
            }
            None => Self::greedy(spec),
        }
    }

    /// A decoder that ignores lexicon and language model.
    pub fn greedy(spec: Arc<DecoderSpec>) -> Self {
        Self::Greedy(Greedy::new(spec))
    }

    /// Takes log-probabilities, `[frames, tokens]`.
    pub fn push(&mut self, log_probs: &[f32]) {
        match self {
            Self::Greedy(greedy) => greedy.push(log_probs),
            Self::Beam(beam) => beam.push(log_probs),
        }
    }

    /// The best reading so far.
    pub fn hypothesis(&mut self) -> Hypothesis {
        match self {
            Self::Greedy(greedy) => greedy.hypothesis(),
            Self::Beam(beam) => beam.hypothesis(),
        }
    }

    /// The reading at the end: every word is finished, all is committed.
    pub fn finish(&mut self) -> Hypothesis {
        match self {
            Self::Greedy(greedy) => greedy.finish(),
            Self::Beam(beam) => beam.finish(),
        }
    }
}
