//! Greedy and beam search, as `GenerationMixin._sample` (without sampling) and `_beam_search` of transformers 4.57 decide.
//!
//! Rules: scores are 32-bit floats and are added in the reference's order, so that the same sequences win; rows of a batch do not
//! depend on each other, but that all run until the last is done.

use super::processors::{LogitsProcessor, log_softmax};
use super::{Cache, Decoder, EarlyStopping, Encoded, GenerationConfig};
use crate::runtime::RuntimeError;

/// Worse than any score that comes of probabilities; the reference's own number, since sums with it must order as they do there.
const IMPOSSIBLE: f32 = -1.0e9;

/// What was generated for one input.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sequence {
    /// The tokens behind the prompt, the end included where one came.
    pub tokens: Vec<i64>,
    /// Greedy: the sum of the tokens' log-probabilities; beams: the score, which is divided by the length.
    pub score: f32,
}

/// Generates for each row of `encoded`. `prompts` are the tokens that the decoder is given first, of one length for all rows;
/// `processor` changes scores (a [`GenerationConfig`] is one).
///
/// # Errors
/// [`RuntimeError`] when the network cannot be run.
pub fn generate(
    decoder: &mut Decoder,
    encoded: &Encoded,
    prompts: &[Vec<i64>],
    config: &GenerationConfig,
    processor: &dyn LogitsProcessor,
) -> Result<Vec<Sequence>, RuntimeError> {
    let length = prompts.first().map_or(0, Vec::len);
    if length == 0 || prompts.iter().any(|prompt| prompt.len() != length) {
        return Err(RuntimeError::Run {
            runtime: "the decoder",
            reason: "prompts of one length, at least one token, are needed".to_owned(),
        });
    }
    if length >= config.max_length {
        return Ok(vec![Sequence::default(); prompts.len()]);
    }
    if config.num_beams > 1 {
        beams(decoder, encoded, prompts, config, processor)
    } else {
        greedy(decoder, encoded, prompts, config, processor)
    }
}

fn greedy(
    decoder: &mut Decoder,
    encoded: &Encoded,
    prompts: &[Vec<i64>],
    config: &GenerationConfig,
    processor: &dyn LogitsProcessor,
) -> Result<Vec<Sequence>, RuntimeError> {
    let mut rows: Vec<(Vec<i64>, f32, bool)> = prompts.iter().map(|prompt| (prompt.clone(), 0.0, false)).collect();
    let mut cache: Option<Cache> = None;
    loop {
        let mut logits = advance(decoder, encoded, &mut cache, rows.iter().map(|(tokens, ..)| tokens.as_slice()))?;
        for ((tokens, score, done), scores) in rows.iter_mut().zip(logits.chunks_exact_mut(decoder.vocabulary())) {
            if *done {
                tokens.push(config.pad_token_id);
                continue;
            }
            let mut raw = scores.to_vec();
            processor.process(tokens, scores);
            let best = argmax(scores);
            log_softmax(&mut raw);
            *score += raw[best];
            tokens.push(best as i64);
            *done = config.is_end(best as i64) || tokens.len() >= config.max_length;
        }
        if rows.iter().all(|(.., done)| *done) {
            break;
        }
    }
    let finish = |(tokens, score, _): (Vec<i64>, f32, bool)| Sequence { tokens: trimmed(&tokens[prompts[0].len()..], config), score };
    Ok(rows.into_iter().map(finish).collect())
}

/// Without what fills the row behind its end.
fn trimmed(tokens: &[i64], config: &GenerationConfig) -> Vec<i64> {
    let end = tokens.iter().position(|token| config.is_end(*token)).map_or(tokens.len(), |end| end + 1);
    tokens[..end].to_vec()
}

/// The logits after each row's tokens; only the last of them is new once there is a cache.
fn advance<'a>(
    decoder: &mut Decoder,
    encoded: &Encoded,
    cache: &mut Option<Cache>,
    rows: impl Iterator<Item = &'a [i64]>,
) -> Result<Vec<f32>, RuntimeError> {
    match cache {
        Some(cache) => {
            let last: Vec<i64> = rows.filter_map(|tokens| tokens.last().copied()).collect();
            decoder.step(&last, encoded, cache)
        }
        None => {
            let (mut tokens, mut count) = (Vec::new(), 0);
            rows.for_each(|row| {
                tokens.extend_from_slice(row);
                count += 1;
            });
            let (logits, made) = decoder.begin(&tokens, count, encoded)?;
            *cache = Some(made);
            Ok(logits)
        }
    }
}

/// The first of the highest.
fn argmax(scores: &[f32]) -> usize {
    let better = |best: usize, (index, score): (usize, &f32)| if *score > scores[best] { index } else { best };
    scores.iter().enumerate().fold(0, better)
}

/// A beam, running or finished.
#[derive(Clone)]
struct Beam {
    tokens: Vec<i64>,
    score: f32,
    /// The row of the cache that it goes on from.
    row: usize,
    finished: bool,
}

/// The beams of one input.
struct Search {
    running: Vec<Beam>,
    finished: Vec<Beam>,
    improvable: bool,
    stuck: bool,
}

fn beams(
    decoder: &mut Decoder,
    encoded: &Encoded,
    prompts: &[Vec<i64>],
    config: &GenerationConfig,
    processor: &dyn LogitsProcessor,
) -> Result<Vec<Sequence>, RuntimeError> {
    let (width, prompt) = (config.num_beams, prompts[0].len());
    // All beams of an input begin alike: the first step is made once for each input.
    let (first, made) = {
        let tokens: Vec<i64> = prompts.concat();
        decoder.begin(&tokens, prompts.len(), encoded)?
    };
    let repeated: Vec<usize> = (0..prompts.len()).flat_map(|row| std::iter::repeat_n(row, width)).collect();
    let encoded = encoded.gather(&repeated)?;
    let mut cache = made;
    cache.gather(&repeated, false)?;
    let vocabulary = decoder.vocabulary();
    let mut logits: Vec<f32> = repeated.iter().flat_map(|row| &first[row * vocabulary..(row + 1) * vocabulary]).copied().collect();
    let begin = |(index, prompt): (usize, &Vec<i64>)| {
        let beam = |n: usize, score: f32| Beam { tokens: prompt.clone(), score, row: index * width + n, finished: false };
        Search {
            running: (0..width).map(|n| beam(n, if n == 0 { 0.0 } else { IMPOSSIBLE })).collect(),
            finished: (0..width).map(|n| beam(n, IMPOSSIBLE)).collect(),
            improvable: true,
            stuck: false,
        }
    };
    let mut searches: Vec<Search> = prompts.iter().enumerate().map(begin).collect();
    loop {
        for (search, scores) in searches.iter_mut().zip(logits.chunks_exact_mut(width * vocabulary)) {
            search.advance(scores, vocabulary, prompt, config, processor);
        }
        let improvable = searches.iter().any(|search| search.improvable);
        let full =
            config.early_stopping == EarlyStopping::Full && searches.iter().all(|search| search.finished.iter().all(|beam| beam.finished));
        if !improvable || full || searches.iter().all(|search| search.stuck) {
            break;
        }
        let rows: Vec<usize> = searches.iter().flat_map(|search| search.running.iter().map(|beam| beam.row)).collect();
        cache.gather(&rows, true)?;
        for (index, search) in searches.iter_mut().enumerate() {
            search.running.iter_mut().enumerate().for_each(|(n, beam)| beam.row = index * width + n);
        }
        let last: Vec<i64> =
            searches.iter().flat_map(|search| search.running.iter().filter_map(|beam| beam.tokens.last().copied())).collect();
        logits = decoder.step(&last, &encoded, &mut cache)?;
    }
    let best = |search: Search| {
        let beam = search.finished.into_iter().next();
        beam.map_or_else(Sequence::default, |beam| Sequence { tokens: trimmed(&beam.tokens[prompt..], config), score: beam.score })
    };
    Ok(searches.into_iter().map(best).collect())
}

impl Search {
    /// One step: `logits [beams, vocabulary]` of the running beams' next tokens.
    fn advance(
        &mut self,
        logits: &mut [f32],
        vocabulary: usize,
        prompt: usize,
        config: &GenerationConfig,
        processor: &dyn LogitsProcessor,
    ) {
        let width = config.num_beams;
        let length = self.running.first().map_or(0, |beam| beam.tokens.len());
        let mut candidates: Vec<(f32, usize)> = Vec::with_capacity(width * vocabulary);
        for (n, (beam, scores)) in self.running.iter().zip(logits.chunks_exact_mut(vocabulary)).enumerate() {
            log_softmax(scores);
            processor.process(&beam.tokens, scores);
            candidates.extend(scores.iter().enumerate().map(|(token, score)| (score + beam.score, n * vocabulary + token)));
        }
        // Enough that, if the best all end, as many are left to go on.
        let keep = (2.max(1 + config.eos_token_ids.len()) * width).min(candidates.len());
        let kept = best(&mut candidates, keep);
        let extended: Vec<Beam> = kept
            .iter()
            .map(|&(score, index)| {
                let parent = &self.running[index / vocabulary];
                let token = (index % vocabulary) as i64;
                let tokens = parent.tokens.iter().copied().chain([token]).collect();
                Beam { tokens, score, row: parent.row, finished: config.is_end(token) || length + 1 >= config.max_length }
            })
            .collect();
        self.stuck = extended.iter().all(|beam| beam.finished);
        let running: Vec<Beam> = ranked(
            extended.iter().map(|beam| Beam { score: beam.score + if beam.finished { IMPOSSIBLE } else { 0.0 }, ..beam.clone() }),
            width,
        );
        self.finish(&extended, length, prompt, config);
        self.running = running;
        self.look_ahead(length + 1, prompt, config);
    }

    /// The best of the finished sequences and those that ended among the best extensions.
    fn finish(&mut self, extended: &[Beam], length: usize, prompt: usize, config: &GenerationConfig) {
        let width = config.num_beams;
        let divisor = f64::from((length + 1 - prompt) as u32).powf(f64::from(config.length_penalty)) as f32;
        let full = config.early_stopping == EarlyStopping::Full && self.finished.iter().all(|beam| beam.finished);
        let ended = extended.iter().enumerate().map(|(place, beam)| {
            let ended = beam.finished && place < width;
            let mut score = beam.score / divisor;
            for no in [full, !self.improvable, !ended] {
                score += if no { IMPOSSIBLE } else { 0.0 };
            }
            Beam { score, finished: ended, ..beam.clone() }
        });
        self.finished = ranked(self.finished.iter().cloned().chain(ended), width);
    }

    /// Whether a running beam may still become better than the worst finished one.
    fn look_ahead(&mut self, length: usize, prompt: usize, config: &GenerationConfig) {
        let never = config.early_stopping == EarlyStopping::Never && config.length_penalty > 0.0;
        let reach = if never { config.max_length } else { length } - prompt;
        let divisor = f64::from(reach as u32).powf(f64::from(config.length_penalty)) as f32;
        let possible = self.running.first().map_or(f32::NEG_INFINITY, |beam| beam.score) / divisor;
        let worst = self.finished.iter().map(|beam| beam.score).fold(f32::INFINITY, f32::min);
        let beatable = self.finished.iter().any(|beam| possible > if beam.finished { worst } else { IMPOSSIBLE });
        self.improvable &= beatable;
    }
}

/// The `count` highest of scored things, in order; of equals the first.
fn best(candidates: &mut [(f32, usize)], count: usize) -> &[(f32, usize)] {
    let order = |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, order);
    }
    candidates[..count].sort_unstable_by(order);
    &candidates[..count]
}

fn ranked(beams: impl Iterator<Item = Beam>, count: usize) -> Vec<Beam> {
    let mut beams: Vec<Beam> = beams.collect();
    beams.sort_by(|a, b| b.score.total_cmp(&a.score));
    beams.truncate(count);
    beams
}
