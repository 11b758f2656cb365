//! What may come next: scores of tokens changed by what came before, in the order of transformers' `LogitsProcessorList`.

use super::GenerationConfig;

/// Changes the scores of the next token of one sequence. `tokens` are those of the sequence so far, the decoder's start included;
/// `scores` has one value for each token of the vocabulary.
pub trait LogitsProcessor {
    /// Changes `scores`.
    fn process(&self, tokens: &[i64], scores: &mut [f32]);
}

impl LogitsProcessor for GenerationConfig {
    fn process(&self, tokens: &[i64], scores: &mut [f32]) {
        no_repeated_ngram(self.no_repeat_ngram_size, tokens, scores);
        no_bad_words(&self.bad_words_ids, &self.eos_token_ids, tokens, scores);
        if let Some(forced) = self.forced_bos_token_id.filter(|_| tokens.len() == 1) {
            force(&[forced], scores);
        }
        if let Some(forced) = self.forced_eos_token_id.filter(|_| tokens.len() + 1 == self.max_length) {
            force(&[forced], scores);
        }
        suppress(&self.suppress_tokens, scores);
        if self.renormalize_logits {
            log_softmax(scores);
        }
    }
}

/// Only these tokens can come, each with the score zero.
pub fn force(allowed: &[i64], scores: &mut [f32]) {
    scores.fill(f32::NEG_INFINITY);
    for &token in allowed {
        if let Some(score) = usize::try_from(token).ok().and_then(|token| scores.get_mut(token)) {
            *score = 0.0;
        }
    }
}

/// These tokens cannot come.
pub fn suppress(tokens: &[i64], scores: &mut [f32]) {
    for &token in tokens {
        if let Some(score) = usize::try_from(token).ok().and_then(|token| scores.get_mut(token)) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// No row of `size` tokens comes twice.
fn no_repeated_ngram(size: usize, tokens: &[i64], scores: &mut [f32]) {
    if size == 0 || tokens.len() + 1 < size {
        return;
    }
    let last = &tokens[tokens.len() + 1 - size..];
    let banned: Vec<i64> = tokens.windows(size).filter(|row| row[..size - 1] == *last).map(|row| row[size - 1]).collect();
    suppress(&banned, scores);
}

/// None of these rows of tokens comes; one that is nothing but the end of a sequence is no bad word.
fn no_bad_words(words: &[Vec<i64>], ends: &[i64], tokens: &[i64], scores: &mut [f32]) {
    for word in words {
        let Some((&last, before)) = word.split_last() else { continue };
        let is_end = before.is_empty() && ends.contains(&last);
        if !is_end && word.len() <= tokens.len() + 1 && tokens.ends_with(before) {
            suppress(&[last], scores);
        }
    }
}

/// Logarithms of probabilities, in place: `x - ln(sum(exp(x)))`.
pub fn log_softmax(scores: &mut [f32]) {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !highest.is_finite() {
        return;
    }
    let sum: f32 = scores.iter().map(|score| (score - highest).exp()).sum();
    let norm = highest + sum.ln();
    scores.iter_mut().for_each(|score| *score -= norm);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banned(change: impl FnOnce(&mut [f32])) -> Vec<usize> {
        let mut scores = vec![0.0; 8];
        change(&mut scores);
        (0..8).filter(|&token| scores[token] == f32::NEG_INFINITY).collect()
    }

    #[test]
    fn rows_come_once() {
        assert_eq!(banned(|scores| no_repeated_ngram(2, &[1, 2, 3, 1], scores)), [2]);
        assert_eq!(banned(|scores| no_repeated_ngram(3, &[1, 2, 3, 1, 2], scores)), [3]);
        assert_eq!(banned(|scores| no_repeated_ngram(1, &[5, 6], scores)), [5, 6]);
        assert!(banned(|scores| no_repeated_ngram(3, &[1], scores)).is_empty());
    }

    #[test]
    fn bad_words_end_before_their_last_token() {
        let words = [vec![7], vec![1, 2], vec![0], vec![], vec![-1], vec![99]];
        assert_eq!(banned(|scores| no_bad_words(&words, &[0], &[4, 1], scores)), [2, 7]);
        assert_eq!(banned(|scores| no_bad_words(&words, &[0], &[4], scores)), [7]);
    }

    #[test]
    fn probabilities_sum_to_one_and_nothing_stays_nothing() {
        let mut scores = [1.0, 2.0, f32::NEG_INFINITY, 30.0];
        log_softmax(&mut scores);
        assert!((scores.iter().map(|score| score.exp()).sum::<f32>() - 1.0).abs() < 1e-6);
        let mut nothing = [f32::NEG_INFINITY; 3];
        log_softmax(&mut nothing);
        assert_eq!(nothing, [f32::NEG_INFINITY; 3]);
    }
}
