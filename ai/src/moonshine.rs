//! Moonshine: an utterance of any length in, English text out; equal to `transformers`' generation to the token.
//!
//! Place: [`crate::pack::MoonshinePack`] opens the files. Rule: the work grows with the sound, there is no window; it gives no times, so words are
//! spread over the utterance by whoever needs them. So many tokens a second are enough for any speech: more are a loop.

use std::sync::Arc;

use crate::audio::SAMPLE_RATE;
use crate::generation::{self, CachedDecoder, EarlyStopping, GenerationOptions, Source, begin};
use crate::pack::MoonshinePack;
use crate::runtime::{Element, Model, Runtime, RuntimeError, Tensor, Value};

/// Most tokens in a second of sound, as the model's makers advise.
pub const TOKENS_PER_SECOND: f64 = 6.5;

/// The convolutions need so many samples; shorter sound is followed by silence.
const LEAST_SAMPLES: usize = 1_600;

/// A pack's networks on one thread.
pub struct Moonshine {
    pack: Arc<MoonshinePack>,
    encoder: Box<dyn Model>,
    takes_mask: bool,
    decoder: CachedDecoder,
}

/// What is asked of an utterance.
#[derive(Debug, Clone, PartialEq)]
pub struct MoonshineOptions {
    /// Hypotheses that are followed; 1: greedy.
    pub beams: usize,
    /// What is already known to be said, as tokens: it is continued.
    pub prefix: Vec<u32>,
    /// Most tokens in a second of sound; `None`: what the model's length leaves.
    pub tokens_per_second: Option<f64>,
}

impl Default for MoonshineOptions {
    fn default() -> Self {
        Self { beams: 1, prefix: Vec::new(), tokens_per_second: Some(TOKENS_PER_SECOND) }
    }
}

/// What was heard.
#[derive(Debug, Clone, PartialEq)]
pub struct MoonshineText {
    /// Tokens after the prefix; the last ends the text, unless it was cut.
    pub tokens: Vec<u32>,
    /// Logarithm of each token's probability.
    pub logprobs: Vec<f32>,
    /// The text of prefix and tokens.
    pub text: String,
}

fn refused(reason: impl ToString) -> RuntimeError {
    RuntimeError::Run { runtime: "Moonshine", reason: reason.to_string() }
}

impl Moonshine {
    /// Loads a pack's graphs and compares them with what its configuration says.
    ///
    /// # Errors
    /// [`RuntimeError`] with the graph that cannot be loaded, or the tensor that is missing or of another shape.
    pub fn load(runtime: &dyn Runtime, pack: Arc<MoonshinePack>) -> Result<Self, RuntimeError> {
        let encoder = runtime.load(&pack.files().encoder).map_err(|error| match error {
            RuntimeError::Load { runtime, reason } => RuntimeError::Load { runtime, reason: format!("encoder_model.onnx: {reason}") },
            other => other,
        })?;
        let floats = |name: &str, element: Element| name == "input_values" && matches!(element, Element::F32 | Element::F16);
        let takes_mask = encoder.inputs().iter().any(|input| input.name == "attention_mask");
        let known = encoder.inputs().iter().all(|input| floats(&input.name, input.element) || input.name == "attention_mask");
        if !known || encoder.inputs().len() != 1 + usize::from(takes_mask) {
            let names: Vec<&str> = encoder.inputs().iter().map(|input| input.name.as_str()).collect();
            return Err(refused(format!("encoder_model.onnx has the inputs {names:?}; it should have input_values (and attention_mask)")));
        }
        if !encoder.outputs().iter().any(|output| output.name == "last_hidden_state") {
            return Err(refused("encoder_model.onnx has no output `last_hidden_state`"));
        }
        let decoder = CachedDecoder::load(runtime, &pack.files().decoder, pack.shape(), false)?;
        Ok(Self { pack, encoder, takes_mask, decoder })
    }

    /// The pack.
    pub fn pack(&self) -> &Arc<MoonshinePack> {
        &self.pack
    }

    /// What is said in an utterance: 16 kHz mono in [-1, 1].
    ///
    /// # Errors
    /// [`RuntimeError`] when a graph refuses, or the prefix leaves no room.
    pub fn transcribe(&mut self, samples: &[f32], options: &MoonshineOptions) -> Result<MoonshineText, RuntimeError> {
        let source = self.encode(samples)?;
        let prompts = [[&[self.pack.start()], options.prefix.as_slice()].concat()];
        let begun = begin(&mut self.decoder, &source, &prompts)?;
        let seconds = samples.len() as f64 / f64::from(SAMPLE_RATE);
        let enough = options.tokens_per_second.map(|rate| (seconds * rate).max(1.0) as usize + 1);
        let max_length = enough.unwrap_or(usize::MAX).min(self.pack.max_length());
        if prompts[0].len() > self.pack.max_length() {
            return Err(refused(format!("the prefix has {} tokens: the model takes {}", options.prefix.len(), self.pack.max_length() - 1)));
        }
        let generation = GenerationOptions {
            max_length,
            beams: options.beams.max(1),
            length_penalty: 1.0,
            early_stopping: EarlyStopping::Likely,
            eos: self.pack.eos().to_vec(),
            sampling: None,
            heads: Vec::new(),
        };
        let sequence = generation::generate(&mut self.decoder, begun, &prompts, &[], &generation, None)?.pop().unwrap_or_default();
        let text = self.pack.decode(&[options.prefix.as_slice(), &sequence.tokens].concat());
        Ok(MoonshineText { tokens: sequence.tokens, logprobs: sequence.logprobs, text })
    }

    fn encode(&mut self, samples: &[f32]) -> Result<Source, RuntimeError> {
        // A sample that is not a number would make all of it none.
        let mut sound: Vec<f32> = samples.iter().map(|&sample| if sample.is_finite() { sample } else { 0.0 }).collect();
        sound.resize(sound.len().max(LEAST_SAMPLES), 0.0);
        let count = sound.len();
        // Both graphs take a mask of samples; the decoder thins it out to the encoder's frames itself.
        let mask: Value = Tensor::i64([1, count], vec![1; count]).into();
        let mut inputs = vec![("input_values", Tensor::f32([1, count], sound).into())];
        if self.takes_mask {
            inputs.push(("attention_mask", mask.clone()));
        }
        let hidden = self.encoder.run(inputs, &["last_hidden_state"])?.pop();
        let hidden = hidden.filter(|hidden| matches!(hidden.shape(), &[1, frames, _] if frames > 0));
        let hidden = hidden.ok_or_else(|| refused("the encoder's output is not [1, frames, width]"))?;
        Ok(Source { hidden, mask: Some(mask) })
    }
}
