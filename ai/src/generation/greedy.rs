//! The likeliest token at each step, or one that is drawn.

use super::decoder::{CachedDecoder, floats};
use super::processors::Processor;
use super::scores::{argmax, last, log_sum_exp};
use super::{Begun, GenerationOptions, Sequence, Watch};
use crate::runtime::{RuntimeError, Value};

/// Likeliest tokens among which is drawn (the default of `transformers`).
const DRAWN_AMONG: usize = 50;

/// Follows each prompt by itself; rows that have ended leave the batch.
pub(super) fn search(
    decoder: &mut CachedDecoder,
    begun: Begun,
    prompts: &[Vec<u32>],
    processors: &[Box<dyn Processor>],
    options: &GenerationOptions,
    watch: Option<Watch>,
) -> Result<Vec<Sequence>, RuntimeError> {
    let vocabulary = decoder.shape().vocabulary;
    let Begun { mut memory, mut logits, mut attentions, prompt } = begun;
    let mut histories = prompts.to_vec();
    let mut sequences = vec![Sequence::default(); prompts.len()];
    let mut running: Vec<usize> = (0..prompts.len()).collect();
    let mut random = options.sampling.map(|(temperature, seed)| (temperature, Random(seed)));
    let mut scores = vec![0.0; vocabulary];
    loop {
        let mut kept = Vec::new();
        let all = floats(&logits)?;
        for (row, &index) in running.iter().enumerate() {
            scores.copy_from_slice(last(&all, row, running.len(), vocabulary)?);
            processors.iter().for_each(|processor| processor.process(&histories[index], &mut scores));
            let total = log_sum_exp(&scores);
            let token = match &mut random {
                Some((temperature, random)) => random.draw(&scores, *temperature),
                None => argmax(&scores),
            };
            let sequence = &mut sequences[index];
            sequence.tokens.push(token as u32);
            sequence.logprobs.push(scores[token] - total);
            sequence.score += scores[token] - total;
            if !options.heads.is_empty() {
                sequence.attentions.push(paid(&attentions, row, &options.heads));
            }
            if watch.is_some_and(|watch| watch(sequence)) {
                sequence.take_back();
                continue;
            }
            histories[index].push(token as u32);
            if !options.eos.contains(&(token as u32)) && prompt + sequence.tokens.len() < options.max_length {
                kept.push(row);
            }
        }
        drop(all);
        if kept.is_empty() {
            return Ok(sequences);
        }
        memory.select(&kept)?;
        running = kept.iter().map(|&row| running[row]).collect();
        let tokens: Vec<u32> = running.iter().filter_map(|&index| histories[index].last().copied()).collect();
        let step = decoder.step(&mut memory, &tokens)?;
        attentions = step.attentions;
        logits = step.logits;
    }
}

impl Sequence {
    /// Forgets the last token.
    fn take_back(&mut self) {
        self.tokens.pop();
        self.attentions.pop();
        self.score -= self.logprobs.pop().unwrap_or(0.0);
    }
}

/// What one row paid attention to in its last token: `[heads, frames]`.
pub(super) fn paid(attentions: &[Value], row: usize, heads: &[(usize, usize)]) -> Vec<f32> {
    let mut paid = Vec::new();
    for &(layer, head) in heads {
        let Some((value, &[_, count, tokens, frames])) = attentions.get(layer).map(|value| (value, value.shape())) else { continue };
        let Some(data) = value.f32() else { continue };
        let start = ((row * count + head) * tokens + tokens - 1) * frames;
        paid.extend_from_slice(data.get(start..start + frames).unwrap_or_default());
    }
    paid
}

/// SplitMix64 (Steele, Lea and Flood, 2014): the same draws for the same seed.
struct Random(u64);

impl Random {
    /// A number in [0, 1).
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A token by its probability at a temperature, among the likeliest.
    fn draw(&mut self, scores: &[f32], temperature: f32) -> usize {
        let mut ranked: Vec<usize> = (0..scores.len()).filter(|&token| scores[token] > f32::NEG_INFINITY).collect();
        if ranked.is_empty() {
            return 0;
        }
        ranked.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        ranked.truncate(DRAWN_AMONG);
        let weight = |token: usize| f64::from((scores[token] - scores[ranked[0]]) / temperature.max(1e-3)).exp();
        let mut left = self.next() * ranked.iter().map(|&token| weight(token)).sum::<f64>();
        for &token in &ranked {
            left -= weight(token);
            if left < 0.0 {
                return token;
            }
        }
        ranked[0]
    }
}
