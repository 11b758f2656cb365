//! Greedy CTC: the best token of each frame, repetitions merged, blanks dropped.
//!
//! A word is committed when its end was read: letters of an unfinished one may still follow.

use std::sync::Arc;

use super::{DecodedWord, DecoderSpec, Hypothesis};

/// The state of a greedy decoder.
pub struct Greedy {
    spec: Arc<DecoderSpec>,
    frame: u32,
    last: usize,
    words: Vec<DecodedWord>,
    current: Option<Open>,
}

struct Open {
    text: String,
    start: u32,
    end: u32,
    log_prob: f32,
    tokens: u32,
}

impl Open {
    fn peek(&self) -> DecodedWord {
        let confidence = (self.log_prob / self.tokens as f32).exp();
        DecodedWord { text: self.text.clone(), start: self.start, end: self.end, confidence }
    }
}

impl Greedy {
    pub(super) fn new(spec: Arc<DecoderSpec>) -> Self {
        Self { last: spec.blank, spec, frame: 0, words: Vec::new(), current: None }
    }

    pub(super) fn push(&mut self, log_probs: &[f32]) {
        for frame in log_probs.chunks_exact(self.spec.tokens.len()) {
            let (best, &log_prob) = frame.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("a frame has at least one token");
            if best != self.last && best == self.spec.word_end {
                self.words.extend(self.current.take().as_ref().map(Open::peek));
            } else if best != self.last && best != self.spec.blank {
                let word = self.current.get_or_insert_with(|| Open {
                    text: String::new(),
                    start: self.frame,
                    end: self.frame,
                    log_prob: 0.0,
                    tokens: 0,
                });
                word.text.push_str(&self.spec.tokens[best]);
                word.log_prob += log_prob;
                word.tokens += 1;
                word.end = self.frame + 1;
            } else if best == self.last
                && best != self.spec.blank
                && let Some(word) = &mut self.current
            {
                word.end = self.frame + 1;
            }
            self.last = best;
            self.frame += 1;
        }
    }

    pub(super) fn hypothesis(&self) -> Hypothesis {
        let mut words = self.words.clone();
        let committed = words.len();
        words.extend(self.current.as_ref().map(Open::peek));
        Hypothesis { words, committed }
    }

    pub(super) fn finish(&mut self) -> Hypothesis {
        self.words.extend(self.current.take().as_ref().map(Open::peek));
        Hypothesis { words: self.words.clone(), committed: self.words.len() }
    }
}
