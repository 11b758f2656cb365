//! What forbids and forces tokens before one is chosen: the logits processors of `transformers`, with their names.
//!
//! Rule: each takes the tokens so far, the prompt included, and changes the scores in place; their order is the caller's.

use std::sync::Arc;

use super::scores::log_softmax;

/// Changes scores (logits, or logarithms of probabilities in a beam search).
pub trait Processor: Send + Sync {
    /// `tokens` so far, the prompt included; a score for each token of the vocabulary.
    fn process(&self, tokens: &[u32], scores: &mut [f32]);
}

fn forbid(scores: &mut [f32], token: u32) {
    if let Some(score) = scores.get_mut(token as usize) {
        *score = f32::NEG_INFINITY;
    }
}

fn force(scores: &mut [f32], token: u32) {
    scores.fill(f32::NEG_INFINITY);
    if let Some(score) = scores.get_mut(token as usize) {
        *score = 0.0;
    }
}

/// These never.
pub struct SuppressTokens(pub Arc<[u32]>);

impl Processor for SuppressTokens {
    fn process(&self, _: &[u32], scores: &mut [f32]) {
        self.0.iter().for_each(|&token| forbid(scores, token));
    }
}

/// These not as the first token after the prompt.
pub struct SuppressTokensAtBegin {
    /// The tokens.
    pub tokens: Arc<[u32]>,
    /// Length of the prompt.
    pub begin: usize,
}

impl Processor for SuppressTokensAtBegin {
    fn process(&self, tokens: &[u32], scores: &mut [f32]) {
        if tokens.len() == self.begin {
            self.tokens.iter().for_each(|&token| forbid(scores, token));
        }
    }
}

/// What was said already is less likely: positive scores are divided, negative ones multiplied.
pub struct RepetitionPenalty(pub f32);

impl Processor for RepetitionPenalty {
    fn process(&self, tokens: &[u32], scores: &mut [f32]) {
        let mut said = tokens.to_vec();
        said.sort_unstable();
        said.dedup();
        for token in said {
            if let Some(score) = scores.get_mut(token as usize) {
                *score = if *score < 0.0 { *score * self.0 } else { *score / self.0 };
            }
        }
    }
}

/// No so many tokens in a row that came before, the prompt included.
pub struct NoRepeatNGram(pub usize);

impl Processor for NoRepeatNGram {
    fn process(&self, tokens: &[u32], scores: &mut [f32]) {
        let size = self.0;
        if size == 0 || tokens.len() + 1 < size {
            return;
        }
        let begun = &tokens[tokens.len() + 1 - size..];
        for before in tokens.windows(size).filter(|before| before[..size - 1] == *begun) {
            forbid(scores, before[size - 1]);
        }
    }
}

/// None of these words, each a sequence of tokens.
pub struct NoBadWords(pub Vec<Vec<u32>>);

impl Processor for NoBadWords {
    fn process(&self, tokens: &[u32], scores: &mut [f32]) {
        for word in &self.0 {
            let Some((&last, before)) = word.split_last() else { continue };
            if tokens.len() > before.len().saturating_sub(1) && tokens.ends_with(before) {
                forbid(scores, last);
            }
        }
    }
}

/// The end not before so many tokens, the prompt included.
pub struct MinLength {
    /// So many.
    pub length: usize,
    /// The tokens that end.
    pub eos: Vec<u32>,
}

impl Processor for MinLength {
    fn process(&self, tokens: &[u32], scores: &mut [f32]) {
        if tokens.len() < self.length {
            self.eos.iter().for_each(|&token| forbid(scores, token));
        }
    }
}

/// This one after the decoder's start.
pub struct ForcedBos(pub u32);

impl Processor for ForcedBos {
    fn process(&self, tokens: &[u32], scores: &mut [f32]) {
        if tokens.len() == 1 {
            force(scores, self.0);
        }
    }
}

/// This one at the greatest length.
pub struct ForcedEos {
    /// The token.
    pub token: u32,
    /// The greatest length.
    pub max_length: usize,
}

impl Processor for ForcedEos {
    fn process(&self, tokens: &[u32], scores: &mut [f32]) {
        if tokens.len() + 1 == self.max_length {
            force(scores, self.token);
        }
    }
}

/// Makes probabilities of what is left sum up to 1 again.
pub struct Renormalise;

impl Processor for Renormalise {
    fn process(&self, _: &[u32], scores: &mut [f32]) {
        log_softmax(scores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden(processor: &dyn Processor, tokens: &[u32]) -> Vec<usize> {
        let mut scores = vec![0.0; 8];
        processor.process(tokens, &mut scores);
        (0..8).filter(|&token| scores[token] == f32::NEG_INFINITY).collect()
    }

    #[test]
    fn n_grams_are_said_once() {
        assert_eq!(forbidden(&NoRepeatNGram(2), &[1, 2, 3, 1]), [2]);
        assert_eq!(forbidden(&NoRepeatNGram(3), &[1, 2, 3, 1, 2]), [3]);
        assert_eq!(forbidden(&NoRepeatNGram(1), &[1, 2]), [1, 2]);
        assert!(forbidden(&NoRepeatNGram(3), &[1]).is_empty());
    }

    #[test]
    fn bad_words_are_not_finished() {
        let bad = NoBadWords(vec![vec![7], vec![1, 2, 3]]);
        assert_eq!(forbidden(&bad, &[0]), [7]);
        assert_eq!(forbidden(&bad, &[1, 2]), [3, 7]);
    }

    #[test]
    fn the_first_and_the_last_token_are_forced() {
        assert_eq!(forbidden(&ForcedBos(3), &[0]), [0, 1, 2, 4, 5, 6, 7]);
        assert!(forbidden(&ForcedBos(3), &[0, 3]).is_empty());
        assert_eq!(forbidden(&ForcedEos { token: 2, max_length: 4 }, &[0, 3, 1]), [0, 1, 3, 4, 5, 6, 7]);
    }
}
