//! One window: the prompt, the rules, and trying again at higher temperatures when what was said is not to be believed.

use std::sync::Arc;

use super::alignment::Alignment;
use super::segments::{Cut, Segment, cut};
use super::timestamps::TimestampRules;
use super::tokens::WhisperTokens;
use super::words::{TimedWord, TokenTime, spread, timed_words};
use super::{Encoded, FRAME_SECONDS, STRIDE, Whisper, refused};
use crate::generation::processors::{Processor, SuppressTokens, SuppressTokensAtBegin};
use crate::generation::{self, EarlyStopping, GenerationOptions, Sequence, begin};
use crate::runtime::RuntimeError;

/// What is asked of a window.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeOptions {
    /// BCP 47 tag of the language; `None`: it is found.
    pub language: Option<String>,
    /// Writes English whatever is spoken.
    pub translate: bool,
    /// Whether times are said between stretches of text.
    pub timestamps: bool,
    /// Whether words and their times are wanted.
    pub words: bool,
    /// Hypotheses that are followed; 1: greedy.
    pub beams: usize,
    /// What was said before, or is likely to be (names, hotwords), as tokens of text.
    pub prompt: Vec<u32>,
    /// What is already known to be said in this window, as tokens: it is continued.
    pub prefix: Vec<u32>,
    /// Most tokens to say; `None`: what the model's length leaves.
    pub max_tokens: Option<usize>,
    /// Stops before a token for which this frame of 20 ms, or a later one, is attended to most: what is said there may still go on
    /// (AlignAtt). Needs `words`, one beam, and a decoder that gives attention; else it does nothing.
    pub attention_limit: Option<usize>,
    /// When to try again.
    pub fallback: Fallback,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            language: None,
            translate: false,
            timestamps: true,
            words: false,
            beams: 1,
            prompt: Vec::new(),
            prefix: Vec::new(),
            max_tokens: None,
            attention_limit: None,
            fallback: Fallback::default(),
        }
    }
}

/// When what was said is not believed. The thresholds are the original's; `None` leaves one out.
#[derive(Debug, Clone, PartialEq)]
pub struct Fallback {
    /// Tried in this order; 0: the likeliest tokens.
    pub temperatures: Vec<f32>,
    /// Least mean logarithm of the tokens' probabilities (usual: -1).
    pub logprob: Option<f32>,
    /// Most that zlib may compress the tokens: who repeats himself is compressed well (usual: 1.35).
    pub compression_ratio: Option<f32>,
    /// A window with a higher probability of silence, and a mean below `logprob`, is silent (usual: 0.6).
    pub no_speech: Option<f32>,
    /// Of what is drawn at temperatures above 0.
    pub seed: u64,
}

impl Default for Fallback {
    fn default() -> Self {
        Self { temperatures: vec![0.0], logprob: None, compression_ratio: None, no_speech: None, seed: 0 }
    }
}

/// What was heard in a window.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// Code of the language; `None` for a model of English alone.
    pub language: Option<String>,
    /// Tokens after the prompt and the prefix, times included, the end not.
    pub tokens: Vec<u32>,
    /// Logarithm of each token's probability.
    pub logprobs: Vec<f32>,
    /// The text of the tokens.
    pub text: String,
    /// Stretches of text between times; one without times.
    pub segments: Vec<Segment>,
    /// Words, where they were asked for.
    pub words: Vec<TimedWord>,
    /// Where each token ends, seconds from the window's start, where words were asked for and the decoder gives attention.
    pub token_times: Vec<f64>,
    /// The frame of 20 ms that was attended to most when a token was chosen; there when `token_times` are.
    pub attended: Vec<usize>,
    /// Mean of the logarithms, the end included.
    pub avg_logprob: f32,
    /// How likely it is that nothing is said.
    pub no_speech_prob: f32,
    /// Bytes of the tokens over their bytes compressed.
    pub compression_ratio: f32,
    /// The temperature at which it was said.
    pub temperature: f32,
    /// Whether it is silence after all: what was said should be dropped.
    pub silent: bool,
    /// Feature frames after which the next window begins.
    pub(super) advance: usize,
}

/// What was said, before it is cut into segments.
struct Said {
    sequence: Sequence,
    tokens: Vec<u32>,
    avg_logprob: f32,
    compression_ratio: f32,
    temperature: f32,
    silent: bool,
}

impl Whisper {
    /// What is said in a window.
    ///
    /// # Errors
    /// [`RuntimeError`] when the decoder refuses, for a language that the model does not know, or a prompt that leaves no room.
    pub fn decode(&mut self, encoded: &Encoded, options: &DecodeOptions) -> Result<Decoded, RuntimeError> {
        let context = self.context(&options.prompt);
        self.decode_after(encoded, options, &context)
    }

    /// [`Whisper::decode`], after a context that is as the model wants it.
    pub(super) fn decode_after(&mut self, encoded: &Encoded, options: &DecodeOptions, context: &[u32]) -> Result<Decoded, RuntimeError> {
        let language = match &options.language {
            Some(language) => Some(language.clone()),
            None => self.detect_language(encoded)?.map(|(language, _)| language),
        };
        let pack = self.pack.clone();
        let tokens = pack.tokens();
        let initial = initial_tokens(tokens, language.as_deref(), options)?;
        let prompt = [context.to_vec(), initial.clone(), options.prefix.clone()].concat();
        let room = pack.positions().min(pack.max_length());
        if prompt.len() + 1 > room {
            return Err(refused(format!("prompt and prefix have {} tokens; the model takes {room} with what is said", prompt.len())));
        }
        let begin = prompt.len() - options.prefix.len();
        let start = begin - initial.len();
        let (said, no_speech_prob) = self.say(encoded, options, &prompt, start, begin)?;
        let Cut { segments, advance } = cut(tokens, &said.tokens, encoded.counted);
        let mut decoded = Decoded {
            language: language.and_then(|language| tokens.language(&language)).and_then(|id| tokens.code(id)).map(str::to_owned),
            text: tokens.decode(&said.tokens),
            logprobs: said.sequence.logprobs[..said.tokens.len()].to_vec(),
            tokens: said.tokens,
            segments,
            words: Vec::new(),
            token_times: Vec::new(),
            attended: Vec::new(),
            avg_logprob: said.avg_logprob,
            no_speech_prob,
            compression_ratio: said.compression_ratio,
            temperature: said.temperature,
            silent: said.silent,
            advance,
        };
        if options.words {
            self.add_words(&mut decoded, &said.sequence, encoded.sound / STRIDE);
        }
        Ok(decoded)
    }

    /// The context before the start of the transcript: at most half of the model's positions, the latest.
    pub(super) fn context(&self, prompt: &[u32]) -> Vec<u32> {
        let Some(previous) = self.pack.tokens().previous().filter(|_| !prompt.is_empty()) else { return Vec::new() };
        let most = self.pack.positions() / 2 - 1;
        let latest = &prompt[prompt.len().saturating_sub(most)..];
        [&[previous], latest].concat()
    }

    /// Tries the temperatures until one is believed; with the probability that nothing is said. `start` is the place of the transcript's
    /// start in the prompt, `begin` that of the first token said.
    fn say(
        &mut self,
        encoded: &Encoded,
        options: &DecodeOptions,
        prompt: &[u32],
        start: usize,
        first: usize,
    ) -> Result<(Said, f32), RuntimeError> {
        let pack = self.pack.clone();
        let vocabulary = pack.shape().vocabulary;
        let rules = self.rules(options, first);
        let prompts = [prompt.to_vec()];
        let begun = begin(&mut self.decoder, &encoded.source, &prompts)?;
        let no_speech = {
            let logits = begun.logits.f32().ok_or_else(|| refused("`logits` are no floats"))?;
            let at_start = logits.get(start * vocabulary..(start + 1) * vocabulary).ok_or_else(|| refused("there are too few logits"))?;
            let total = generation::log_sum_exp(at_start);
            pack.tokens().no_speech().map_or(0.0, |token| (at_start[token as usize] - total).exp())
        };
        let length = options.max_tokens.map_or(pack.max_length(), |most| (prompt.len() + most).min(pack.positions()));
        let fallback = &options.fallback;
        let temperatures = if fallback.temperatures.is_empty() { &[0.0][..] } else { &fallback.temperatures };
        let (heads, median, sound) = (pack.heads().len(), pack.median(), encoded.sound / STRIDE);
        let limit = options.attention_limit.filter(|_| options.words && self.decoder.gives_attentions());
        let too_far = limit.map(|limit| {
            move |sequence: &Sequence| {
                // One token alone stands out from nothing.
                let rows = Some(&sequence.attentions).filter(|rows| rows.len() > 1);
                let alignment = rows.and_then(|rows| Alignment::new(rows, heads, sound, median));
                alignment.and_then(|alignment| alignment.most_attended().last().copied()).is_some_and(|frame| frame >= limit)
            }
        });
        let watch = too_far.as_ref().map(|watch| watch as generation::Watch);
        let mut said = None;
        for (index, &temperature) in temperatures.iter().enumerate() {
            let drawn = temperature > 0.0;
            let generation = GenerationOptions {
                max_length: length,
                beams: if drawn { 1 } else { options.beams.max(1) },
                length_penalty: 1.0,
                early_stopping: EarlyStopping::Likely,
                eos: vec![pack.tokens().eos()],
                sampling: drawn.then_some((temperature, fallback.seed.wrapping_add(index as u64))),
                heads: if options.words && self.decoder.gives_attentions() { pack.heads().to_vec() } else { Vec::new() },
            };
            let sequence = generation::generate(&mut self.decoder, begun.clone(), &prompts, &rules, &generation, watch)?.remove(0);
            let (tried, believed) = judge(pack.tokens(), vocabulary, sequence, temperature, no_speech, fallback);
            said = Some(tried);
            if believed {
                break;
            }
        }
        said.map(|said| (said, no_speech)).ok_or_else(|| refused("nothing was tried"))
    }

    fn rules(&self, options: &DecodeOptions, first: usize) -> Vec<Box<dyn Processor>> {
        let pack = &self.pack;
        let mut rules: Vec<Box<dyn Processor>> = Vec::new();
        if !pack.suppress_at_begin().is_empty() {
            rules.push(Box::new(SuppressTokensAtBegin { tokens: Arc::from(pack.suppress_at_begin()), begin: first }));
        }
        if !pack.suppress().is_empty() {
            rules.push(Box::new(SuppressTokens(Arc::from(pack.suppress()))));
        }
        if options.timestamps {
            rules.push(Box::new(TimestampRules {
                no_timestamps: pack.tokens().no_timestamps(),
                eos: pack.tokens().eos(),
                begin: first,
                max_initial: pack.max_initial_timestamp(),
            }));
        }
        rules
    }

    fn add_words(&self, decoded: &mut Decoded, sequence: &Sequence, frames: usize) {
        let tokens = self.pack.tokens();
        let heads = self.pack.heads().len();
        let align = |paid: &[Vec<f32>]| Alignment::new(paid, heads, frames, self.pack.median());
        // What a token was fed with says where the next one is: where it ends.
        let (first, following) = sequence.attentions.split_at(sequence.attentions.len().min(1));
        let times: Vec<TokenTime> = if self.follows_sound() && !first.is_empty() {
            let count = decoded.tokens.len();
            let starts = align(following).map(|alignment| alignment.starts()).unwrap_or_default();
            let mut ends: Vec<f64> = starts.into_iter().map(|frame| frame as f64 * FRAME_SECONDS).collect();
            ends.resize(sequence.tokens.len(), ends.last().copied().unwrap_or(0.0));
            ends.truncate(count);
            decoded.token_times = ends;
            decoded.attended = align(&sequence.attentions).map(|alignment| alignment.most_attended()).unwrap_or_default();
            decoded.attended.truncate(count);
            TokenTime::between(&decoded.token_times)
        } else {
            spread(tokens, &decoded.segments)
        };
        decoded.words = timed_words(tokens, decoded.language.as_deref(), &decoded.tokens, &decoded.logprobs, &times);
    }
}

/// Start, language, task, and whether times are wanted.
fn initial_tokens(tokens: &WhisperTokens, language: Option<&str>, options: &DecodeOptions) -> Result<Vec<u32>, RuntimeError> {
    let mut initial = vec![tokens.start()];
    if tokens.languages().is_empty() {
        if let Some(language) = language.filter(|language| crate::recogniser::primary(language) != "en") {
            return Err(refused(format!("the model knows English alone, not `{language}`")));
        }
        if options.translate {
            return Err(refused("the model knows English alone and does not translate"));
        }
    } else if let Some(language) = language {
        let token = tokens.language(language).ok_or_else(|| refused(format!("the model does not know the language `{language}`")))?;
        initial.push(token);
        initial.extend(tokens.task(options.translate));
    }
    if !options.timestamps {
        initial.push(tokens.no_timestamps());
    }
    Ok(initial)
}

/// What is thought of a sequence, and whether it is believed.
fn judge(
    tokens: &WhisperTokens,
    vocabulary: usize,
    sequence: Sequence,
    temperature: f32,
    no_speech: f32,
    fallback: &Fallback,
) -> (Said, bool) {
    let count = sequence.logprobs.len();
    let avg_logprob = if count == 0 { 0.0 } else { sequence.logprobs.iter().sum::<f32>() / count as f32 };
    let compression_ratio = compression_ratio(&sequence.tokens, vocabulary);
    let unlikely = fallback.logprob.is_some_and(|least| avg_logprob < least);
    let repeats = fallback.compression_ratio.is_some_and(|most| compression_ratio > most);
    let silent = unlikely && fallback.no_speech.is_some_and(|most| no_speech > most);
    let text = sequence.tokens.strip_suffix(&[tokens.eos()]).unwrap_or(&sequence.tokens).to_vec();
    (Said { sequence, tokens: text, avg_logprob, compression_ratio, temperature, silent }, silent || !(unlikely || repeats))
}

/// The tokens' bytes, as few for each as the vocabulary needs, over what zlib makes of them.
fn compression_ratio(tokens: &[u32], vocabulary: usize) -> f32 {
    let width = ((vocabulary as f64).log2() / 8.0) as usize + 1;
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes().into_iter().take(width.min(4))).collect();
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    // Writing to memory does not fail.
    let written = std::io::Write::write_all(&mut encoder, &bytes).and_then(|()| encoder.finish());
    written.map_or(1.0, |compressed| bytes.len() as f32 / compressed.len().max(1) as f32)
}
