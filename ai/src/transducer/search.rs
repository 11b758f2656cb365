//! Tokens out of an encoder's frames: greedy, or modified beam search (at most one token a frame).
//!
//! As sherpa-onnx 2.0 searches. Rules: token 0 is the blank, the unknown token counts as one; hypotheses of the same tokens are one; the
//! best is that with the highest log-probability for its length.

use super::joint::{Context, Joint};
use crate::hotwords::{HotwordGraph, ROOT, State};
use std::sync::Arc;

use crate::runtime::RuntimeError;

/// The token that stands for nothing.
const BLANK: usize = 0;
/// Before log-probabilities of single tokens are told, logits are divided by this (sherpa-onnx's default): confidences less extreme.
const TEMPERATURE: f32 = 2.0;

/// How tokens are searched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SearchOptions {
    /// Hypotheses that are kept; 1: greedy.
    pub paths: usize,
    /// Subtracted from the blank's logit: more gives more tokens.
    pub blank_penalty: f32,
    /// The token for what is unknown.
    pub unknown: Option<usize>,
}

/// A token that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// The token.
    pub token: usize,
    /// The encoder's frame at which it was found, from the search's beginning.
    pub frame: usize,
    /// Its log-probability, softened.
    pub log_prob: f32,
}

/// A row of tokens.
#[derive(Debug, Clone, PartialEq)]
struct Hypothesis {
    tokens: Vec<Found>,
    log_prob: f32,
    /// How far a hotword is matched.
    hotword: State,
}

/// The search of one utterance.
#[derive(Debug, Clone)]
pub struct Search {
    options: SearchOptions,
    context: usize,
    hypotheses: Vec<Hypothesis>,
    hotwords: Option<Arc<HotwordGraph>>,
    frame: usize,
}

impl Search {
    /// At the first frame; `context`: tokens that the decoder looks at.
    pub fn new(options: SearchOptions, context: usize) -> Self {
        Self {
            options,
            context,
            hypotheses: vec![Hypothesis { tokens: Vec::new(), log_prob: 0.0, hotword: ROOT }],
            hotwords: None,
            frame: 0,
        }
    }

    /// With words and phrases to listen for; they count in a beam search alone.
    #[must_use]
    pub fn with_hotwords(mut self, hotwords: Option<Arc<HotwordGraph>>) -> Self {
        self.hotwords = hotwords;
        self
    }

    /// The end: a hotword that is begun and not complete counts no more.
    pub fn finish(&mut self) {
        let Some(hotwords) = &self.hotwords else { return };
        for hypothesis in &mut self.hypotheses {
            hypothesis.log_prob += hotwords.finish(hypothesis.hotword);
            hypothesis.hotword = ROOT;
        }
    }

    /// Frames so far.
    pub fn frames(&self) -> usize {
        self.frame
    }

    /// The best tokens so far.
    pub fn best(&self) -> &[Found] {
        let length = |hypothesis: &Hypothesis| (hypothesis.tokens.len() + self.context) as f32;
        let rank = |hypothesis: &&Hypothesis| hypothesis.log_prob / length(hypothesis);
        self.hypotheses.iter().max_by(|a, b| rank(a).total_cmp(&rank(b))).map_or(&[], |best| &best.tokens)
    }

    /// How many tokens from the beginning all hypotheses agree on: these will not change.
    pub fn agreed(&self) -> usize {
        let best = self.best();
        let alike =
            |other: &Hypothesis| best.iter().zip(&other.tokens).take_while(|(a, b)| (a.token, a.frame) == (b.token, b.frame)).count();
        self.hypotheses.iter().map(alike).min().unwrap_or(0)
    }

    fn context_of(&self, hypothesis: &Hypothesis) -> Context {
        // Before the first token stands the blank, and before that nothing, which is written -1.
        let mut context: Context = vec![-1; self.context];
        context[self.context - 1] = BLANK as i64;
        context.extend(hypothesis.tokens.iter().rev().take(self.context).rev().map(|found| found.token as i64));
        context.split_off(context.len() - self.context)
    }

    /// Takes the next frames of several searches, which all have as many: `[frames, dimension]` each.
    ///
    /// # Errors
    /// [`RuntimeError`] when a network cannot be run.
    pub fn advance(joint: &mut Joint, searches: &mut [(&mut Self, &[f32])], dimension: usize) -> Result<(), RuntimeError> {
        let frames = searches.first().map_or(0, |(_, frames)| frames.len() / dimension.max(1));
        for frame in 0..frames {
            let mut rows: Vec<(&[f32], Context)> = Vec::new();
            for (search, values) in searches.iter() {
                let values = &values[frame * dimension..(frame + 1) * dimension];
                rows.extend(search.hypotheses.iter().map(|hypothesis| (values, search.context_of(hypothesis))));
            }
            let mut logits = joint.logits(&rows)?;
            let vocabulary = joint.vocabulary();
            let mut rest = logits.as_mut_slice();
            for (search, _) in searches.iter_mut() {
                let (own, others) = rest.split_at_mut(search.hypotheses.len() * vocabulary);
                rest = others;
                search.take(own, vocabulary);
            }
        }
        Ok(())
    }

    /// One frame: logits `[hypotheses, vocabulary]`.
    fn take(&mut self, logits: &mut [f32], vocabulary: usize) {
        let penalty = self.options.blank_penalty;
        let penalise = |logits: &mut [f32]| logits.chunks_exact_mut(vocabulary).for_each(|row| row[BLANK] -= penalty);
        if self.options.paths <= 1 {
            penalise(logits);
            self.greedy(logits);
        } else {
            // The reference tells what a token's probability would be without the penalty here, and with it above.
            let softened: Vec<f32> = logits.chunks_exact(vocabulary).flat_map(soft).collect();
            penalise(logits);
            self.beam(logits, &softened, vocabulary);
        }
        self.frame += 1;
    }

    fn is_token(&self, token: usize) -> bool {
        token != BLANK && Some(token) != self.options.unknown
    }

    fn greedy(&mut self, logits: &mut [f32]) {
        let better = |best: usize, (token, logit): (usize, &f32)| if *logit > logits[best] { token } else { best };
        let token = logits.iter().enumerate().fold(0, better);
        if self.is_token(token) {
            let log_prob = soft(logits)[token];
            self.hypotheses[0].tokens.push(Found { token, frame: self.frame, log_prob });
        }
    }

    fn beam(&mut self, logits: &mut [f32], softened: &[f32], vocabulary: usize) {
        for (row, hypothesis) in logits.chunks_exact_mut(vocabulary).zip(&self.hypotheses) {
            log_softmax(row);
            row.iter_mut().for_each(|score| *score += hypothesis.log_prob);
        }
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let paths = self.options.paths.min(order.len());
        let by_score = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        if paths < order.len() {
            order.select_nth_unstable_by(paths, by_score);
            order.truncate(paths);
        }
        order.sort_unstable_by(by_score);
        let mut next: Vec<Hypothesis> = Vec::with_capacity(paths);
        for index in order {
            let (parent, token) = (&self.hypotheses[index / vocabulary], index % vocabulary);
            let mut hypothesis = Hypothesis { tokens: parent.tokens.clone(), log_prob: logits[index], hotword: parent.hotword };
            if self.is_token(token) {
                hypothesis.tokens.push(Found { token, frame: self.frame, log_prob: softened[index] });
                if let Some(hotwords) = &self.hotwords {
                    let (boost, state) = hotwords.step(parent.hotword, token);
                    hypothesis.log_prob += boost;
                    hypothesis.hotword = state;
                }
            }
            let same = |other: &&mut Hypothesis| {
                other.tokens.iter().map(|found| found.token).eq(hypothesis.tokens.iter().map(|found| found.token))
            };
            match next.iter_mut().find(same) {
                Some(known) => known.log_prob = log_add(known.log_prob, hypothesis.log_prob),
                None => next.push(hypothesis),
            }
        }
        self.hypotheses = next;
    }
}

/// Logarithms of probabilities, in place.
fn log_softmax(scores: &mut [f32]) {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if highest.is_finite() {
        let norm = highest + scores.iter().map(|score| (score - highest).exp()).sum::<f32>().ln();
        scores.iter_mut().for_each(|score| *score -= norm);
    }
}

/// Log-probabilities, softened.
fn soft(logits: &[f32]) -> Vec<f32> {
    let mut soft: Vec<f32> = logits.iter().map(|logit| logit / TEMPERATURE).collect();
    log_softmax(&mut soft);
    soft
}

/// `ln(exp(a) + exp(b))`.
fn log_add(a: f32, b: f32) -> f32 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f32::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}
