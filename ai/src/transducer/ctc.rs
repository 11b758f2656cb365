//! Tokens out of a CTC network's log-probabilities: the best of each frame, repetitions merged, blanks dropped.
//!
//! As sherpa-onnx 2.0 searches. Rule: what was found does not change.

use super::search::Found;

/// The search of one utterance.
#[derive(Debug, Clone, Default)]
pub struct CtcSearch {
    blank: usize,
    found: Vec<Found>,
    last: Option<usize>,
    frame: usize,
}

impl CtcSearch {
    /// At the first frame; `blank`: the token that stands for nothing.
    pub fn new(blank: usize) -> Self {
        Self { blank, ..Self::default() }
    }

    /// Takes log-probabilities, `[frames, vocabulary]`.
    pub fn advance(&mut self, log_probs: &[f32], vocabulary: usize) {
        for row in log_probs.chunks_exact(vocabulary.max(1)) {
            let better = |best: usize, (token, score): (usize, &f32)| if *score > row[best] { token } else { best };
            let token = row.iter().enumerate().fold(0, better);
            if token != self.blank && Some(token) != self.last {
                self.found.push(Found { token, frame: self.frame, log_prob: row[token] });
            }
            self.last = Some(token);
            self.frame += 1;
        }
    }

    /// The tokens so far.
    pub fn found(&self) -> &[Found] {
        &self.found
    }
}
