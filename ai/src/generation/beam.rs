//! Beam search as `transformers` does it since its 4.50: twice as many candidates as beams are looked at in each step, so that enough of
//! them go on; finished ones are kept by their score over length; a heuristic says when no running one can become better.

use std::sync::Arc;

use super::decoder::{CachedDecoder, floats};
use super::greedy::paid;
use super::processors::Processor;
use super::scores::{last, log_softmax, log_sum_exp};
use super::{Begun, EarlyStopping, GenerationOptions, Sequence};
use crate::runtime::{RuntimeError, Value};

/// The score of beams that do not count: at first all but one, so that they do not all begin alike.
const NOTHING: f32 = -1e9;

/// A hypothesis of one source.
#[derive(Clone)]
struct Beam {
    /// Prompt and tokens.
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    /// What was paid attention to, shared with those that went the same way.
    attentions: Vec<Arc<Vec<f32>>>,
    /// Sum of the logarithms.
    score: f32,
    /// Its row in the last step.
    row: usize,
}

/// A source that is being searched.
struct Search {
    index: usize,
    running: Vec<Beam>,
    /// Best first, by score over length.
    finished: Vec<Beam>,
}

struct Candidate {
    score: f32,
    beam: usize,
    token: usize,
    logprob: f32,
}

/// Follows `options.beams` hypotheses of each prompt and gives the best of each.
pub(super) fn search(
    decoder: &mut CachedDecoder,
    begun: Begun,
    prompts: &[Vec<u32>],
    processors: &[Box<dyn Processor>],
    options: &GenerationOptions,
) -> Result<Vec<Sequence>, RuntimeError> {
    let vocabulary = decoder.shape().vocabulary;
    let Begun { mut memory, mut logits, attentions, prompt } = begun;
    let mut searches: Vec<Search> = prompts.iter().enumerate().map(|(index, tokens)| Search::new(index, tokens, options.beams)).collect();
    let mut sequences = vec![Sequence::default(); prompts.len()];
    attend(&mut searches, &attentions, &options.heads);
    let mut rows = prompts.len();
    loop {
        let all = floats(&logits)?;
        for search in &mut searches {
            search.advance(&all, rows, vocabulary, prompt, processors, options)?;
        }
        drop(all);
        searches.retain_mut(|search| {
            let done = search.is_done(prompt, options);
            if done {
                sequences[search.index] = search.best(prompt);
            }
            !done
        });
        if searches.is_empty() {
            return Ok(sequences);
        }
        let from: Vec<usize> = searches.iter().flat_map(|search| search.running.iter().map(|beam| beam.row)).collect();
        memory.select(&from)?;
        let tokens: Vec<u32> = searches.iter().flat_map(|search| &search.running).filter_map(|beam| beam.tokens.last().copied()).collect();
        rows = tokens.len();
        let step = decoder.step(&mut memory, &tokens)?;
        for (row, beam) in searches.iter_mut().flat_map(|search| &mut search.running).enumerate() {
            beam.row = row;
        }
        attend(&mut searches, &step.attentions, &options.heads);
        logits = step.logits;
    }
}

/// Keeps what each running beam paid attention to.
fn attend(searches: &mut [Search], attentions: &[Value], heads: &[(usize, usize)]) {
    if heads.is_empty() {
        return;
    }
    for beam in searches.iter_mut().flat_map(|search| &mut search.running) {
        beam.attentions.push(Arc::new(paid(attentions, beam.row, heads)));
    }
}

impl Search {
    fn new(index: usize, prompt: &[u32], beams: usize) -> Self {
        let beam = |number: usize| Beam {
            tokens: prompt.to_vec(),
            logprobs: Vec::new(),
            attentions: Vec::new(),
            score: if number == 0 { 0.0 } else { NOTHING },
            row: index,
        };
        Self { index, running: (0..beams).map(beam).collect(), finished: Vec::new() }
    }

    /// Takes the best continuations of all beams.
    fn advance(
        &mut self,
        logits: &[f32],
        rows: usize,
        vocabulary: usize,
        prompt: usize,
        processors: &[Box<dyn Processor>],
        options: &GenerationOptions,
    ) -> Result<(), RuntimeError> {
        let keep = (1 + options.eos.len()).max(2) * options.beams;
        let mut candidates: Vec<Candidate> = Vec::with_capacity(keep + 1);
        let mut scores: Vec<f32> = Vec::new();
        let mut total = 0.0;
        let mut of_row = usize::MAX;
        for (number, beam) in self.running.iter().enumerate() {
            // In the first step all beams are one row.
            if beam.row != of_row {
                scores.clear();
                scores.extend_from_slice(last(logits, beam.row, rows, vocabulary)?);
                log_softmax(&mut scores);
                processors.iter().for_each(|processor| processor.process(&beam.tokens, &mut scores));
                total = log_sum_exp(&scores);
                of_row = beam.row;
            }
            for (token, &logprob) in scores.iter().enumerate() {
                let score = logprob + beam.score;
                if candidates.len() == keep && candidates[keep - 1].score >= score {
                    continue;
                }
                let place = candidates.partition_point(|other| other.score >= score);
                candidates.insert(place, Candidate { score, beam: number, token, logprob: logprob - total });
                candidates.truncate(keep);
            }
        }
        let length = self.running[0].tokens.len() + 1;
        let ends = |token: usize| options.eos.contains(&(token as u32)) || length >= options.max_length;
        let mut going: Vec<Beam> = Vec::with_capacity(options.beams);
        let full = options.early_stopping == EarlyStopping::WhenFull && self.finished.len() == options.beams;
        for (rank, candidate) in candidates.iter().enumerate() {
            let next = || self.running[candidate.beam].with(candidate);
            if !ends(candidate.token) {
                if going.len() < options.beams {
                    going.push(next());
                }
            } else if rank < options.beams && !full {
                let score = candidate.score / ((length - prompt) as f32).powf(options.length_penalty);
                let place = self.finished.partition_point(|other| other.score >= score);
                self.finished.insert(place, Beam { score, ..next() });
                self.finished.truncate(options.beams);
            }
        }
        self.running = going;
        Ok(())
    }

    /// Whether the best is known.
    fn is_done(&self, prompt: usize, options: &GenerationOptions) -> bool {
        let Some(best) = self.running.first() else { return true };
        let Some(worst) = self.finished.last().filter(|_| self.finished.len() == options.beams) else { return false };
        if options.early_stopping == EarlyStopping::WhenFull {
            return true;
        }
        let never = options.early_stopping == EarlyStopping::Never && options.length_penalty > 0.0;
        let length = if never { options.max_length } else { best.tokens.len() } - prompt;
        best.score / (length as f32).powf(options.length_penalty) <= worst.score
    }

    fn best(&self, prompt: usize) -> Sequence {
        let Some(best) = self.finished.first().or(self.running.first()) else { return Sequence::default() };
        Sequence {
            tokens: best.tokens[prompt..].to_vec(),
            logprobs: best.logprobs.clone(),
            score: best.score,
            attentions: best.attentions.iter().map(|attention| attention.to_vec()).collect(),
        }
    }
}

impl Beam {
    fn with(&self, candidate: &Candidate) -> Self {
        let mut next = self.clone();
        next.tokens.push(candidate.token as u32);
        next.logprobs.push(candidate.logprob);
        next.score = candidate.score;
        next
    }
}
