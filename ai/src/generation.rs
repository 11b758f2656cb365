//! Sequence-to-sequence generation, as `generate` of `transformers` does it, over decoders exported by Optimum.
//!
//! Place: under Whisper, Moonshine and the translators, which give an encoder's output and a prompt and take tokens. [`decoder`] keeps the
//! keys and values of attention with the engine; [`processors`] forbid and force tokens; greedy, sampled and beam search choose.
//! Rule: token for token what `transformers` gives for the same graph; rows that have come to their end cost nothing.

mod beam;
mod cache;
pub mod decoder;
mod greedy;
pub mod processors;
mod scores;

use crate::runtime::{RuntimeError, Value};
pub use cache::Memory;
pub use decoder::{CachedDecoder, DecoderFiles, Source};
use processors::Processor;
pub(crate) use scores::log_sum_exp;

/// When a beam search is done with a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EarlyStopping {
    /// When no running beam is likely to become better than the finished ones.
    #[default]
    Likely,
    /// As soon as there are as many finished ones as beams.
    WhenFull,
    /// When no running beam could become better at the greatest length.
    Never,
}

/// How tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationOptions {
    /// Tokens of a whole sequence, the prompt included.
    pub max_length: usize,
    /// Hypotheses that are followed; 1: greedy.
    pub beams: usize,
    /// Exponent of the length by which a finished hypothesis' score is divided.
    pub length_penalty: f32,
    /// When a beam search is done.
    pub early_stopping: EarlyStopping,
    /// The tokens that end a sequence.
    pub eos: Vec<u32>,
    /// Drawn instead of chosen (with one beam): the temperature, and the seed of the draw.
    pub sampling: Option<(f32, u64)>,
    /// Heads of the cross attention to keep for each token, as (layer, head). The decoder must give attentions.
    pub heads: Vec<(usize, usize)>,
}

/// A generated sequence.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sequence {
    /// Tokens after the prompt; the last ends it, unless it was cut at the greatest length.
    pub tokens: Vec<u32>,
    /// Logarithm of each token's probability, after the processors.
    pub logprobs: Vec<f32>,
    /// The beam search's score; the sum of the logarithms for other searches.
    pub score: f32,
    /// For each token, `[heads, frames]` of the attention that was paid when it was chosen, where heads were asked for.
    pub attentions: Vec<Vec<f32>>,
}

/// The first step of a prompt: where everything begins. A clone shares it.
#[derive(Clone)]
pub struct Begun {
    /// The decoder's memory of the prompt, a row for each source.
    pub memory: Memory,
    /// Logits of the prompt's tokens, `[sources, prompt, vocabulary]`.
    pub logits: Value,
    /// Cross attention of each layer, `[sources, heads, prompt, frames]`, where the decoder gives it.
    pub attentions: Vec<Value>,
    /// Tokens of the prompt.
    pub prompt: usize,
}

/// Runs a prompt. All `prompts` have the same length, at least 1; there is one for each row of the source.
///
/// # Errors
/// [`RuntimeError`] when the decoder refuses.
pub fn begin(decoder: &mut CachedDecoder, source: &Source, prompts: &[Vec<u32>]) -> Result<Begun, RuntimeError> {
    let prompt = prompts.first().map_or(0, Vec::len);
    if prompt == 0 || prompts.iter().any(|other| other.len() != prompt) {
        return Err(decoder::refused("the prompts of a batch have different lengths, or none"));
    }
    let tokens: Vec<u32> = prompts.concat();
    let (memory, step) = decoder.begin(source, &tokens, prompts.len())?;
    Ok(Begun { memory, logits: step.logits, attentions: step.attentions, prompt })
}

/// Looks at a sequence after each token; says when to stop, and the token that it stopped at is taken back.
pub type Watch<'a> = &'a dyn Fn(&Sequence) -> bool;

/// Generates a sequence for each prompt, from its first step on. A `watch` looks at greedy and drawn sequences alone: beams go to and fro.
///
/// # Errors
/// [`RuntimeError`] when the decoder refuses, or gives logits that are not numbers.
pub fn generate(
    decoder: &mut CachedDecoder,
    begun: Begun,
    prompts: &[Vec<u32>],
    processors: &[Box<dyn Processor>],
    options: &GenerationOptions,
    watch: Option<Watch>,
) -> Result<Vec<Sequence>, RuntimeError> {
    if begun.prompt >= options.max_length {
        return Ok(vec![Sequence::default(); prompts.len()]);
    }
    if options.beams > 1 && options.sampling.is_none() {
        beam::search(decoder, begun, prompts, processors, options)
    } else {
        greedy::search(decoder, begun, prompts, processors, options, watch)
    }
}
