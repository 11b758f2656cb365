//! Whisper: windows of 30 s in, text, times and languages out; equal to `transformers`' generation to the token.
//!
//! Place: [`crate::pack::WhisperPack`] opens the files; a recogniser encodes what was heard and decodes it as often as it likes
//! ([`Whisper::encode`], [`Whisper::decode`]); files of any length go through [`Whisper::transcribe`]. Rule: an encoded window is shared by
//! everything that is asked of it; nothing is remembered between windows but what a caller passes on.

mod alignment;
mod decode;
mod long;
mod segments;
mod timestamps;
pub mod tokens;
mod words;

use std::sync::Arc;

use crate::features::whisper::{HOP, LogMel};
use crate::generation::{Begun, CachedDecoder, Source};
use crate::pack::WhisperPack;
use crate::runtime::{Element, Model, Runtime, RuntimeError, Tensor, Value};
pub use decode::{DecodeOptions, Decoded, Fallback};
pub use long::{HeardWindow, LongOptions};
pub use segments::Segment;
pub use words::TimedWord;

/// Seconds of an encoder's frame.
pub const FRAME_SECONDS: f64 = 0.02;

/// Feature frames of an encoder's frame.
const STRIDE: usize = 2;

fn refused(reason: impl ToString) -> RuntimeError {
    RuntimeError::Run { runtime: "Whisper", reason: reason.to_string() }
}

/// A pack's networks on one thread.
pub struct Whisper {
    pack: Arc<WhisperPack>,
    encoder: Box<dyn Model>,
    decoder: CachedDecoder,
    log_mel: Arc<LogMel>,
}

/// A window that was encoded.
#[derive(Debug, Clone)]
pub struct Encoded {
    source: Source,
    /// Feature frames that are sound; silence follows.
    sound: usize,
    /// Feature frames that count: text without an end ends there.
    counted: usize,
}

/// A window's features.
pub struct Window {
    /// `[mels, 3000]`.
    pub features: Vec<f32>,
    /// Frames that are sound; silence follows.
    pub sound: usize,
}

impl Encoded {
    /// Seconds of sound in it.
    pub fn seconds(&self) -> f64 {
        (self.sound / STRIDE) as f64 * FRAME_SECONDS
    }
}

impl Whisper {
    /// Loads a pack's graphs and compares them with what its configuration says.
    ///
    /// # Errors
    /// [`RuntimeError`] with the graph that cannot be loaded, or the tensor that is missing or of another shape.
    pub fn load(runtime: &dyn Runtime, pack: Arc<WhisperPack>) -> Result<Self, RuntimeError> {
        let encoder = runtime.load(&pack.files().encoder).map_err(|error| match error {
            RuntimeError::Load { runtime, reason } => RuntimeError::Load { runtime, reason: format!("encoder_model.onnx: {reason}") },
            other => other,
        })?;
        let wanted = [Some(pack.mels()), Some(STRIDE * pack.frames())];
        match encoder.inputs() {
            [input] if input.name == "input_features" && matches!(input.element, Element::F32 | Element::F16) => {
                let declared = input.shape.get(1..).unwrap_or_default();
                if declared.iter().zip(&wanted).any(|(own, wanted)| own.is_some() && own != wanted) {
                    let reason = format!("encoder_model.onnx takes features {declared:?}, config.json says {wanted:?} (mel bins, frames)");
                    return Err(refused(reason));
                }
            }
            inputs => {
                let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
                return Err(refused(format!("encoder_model.onnx has the inputs {names:?}; it should have `input_features` alone")));
            }
        }
        if !encoder.outputs().iter().any(|output| output.name == "last_hidden_state") {
            return Err(refused("encoder_model.onnx has no output `last_hidden_state`"));
        }
        let attentions = !pack.heads().is_empty();
        let decoder = CachedDecoder::load(runtime, &pack.files().decoder, pack.shape(), attentions)?;
        let log_mel = Arc::new(LogMel::new(pack.mels()).map_err(refused)?);
        Ok(Self { pack, encoder, decoder, log_mel })
    }

    /// The pack.
    pub fn pack(&self) -> &Arc<WhisperPack> {
        &self.pack
    }

    /// The filters of its features, for a [`crate::features::whisper::LogMelStream`].
    pub fn log_mel(&self) -> &Arc<LogMel> {
        &self.log_mel
    }

    /// Whether words get their times from attention; else they are spread over their segment by their length.
    pub fn follows_sound(&self) -> bool {
        self.decoder.gives_attentions()
    }

    /// Samples of a window: 480,000.
    pub fn window_samples(&self) -> usize {
        STRIDE * self.pack.frames() * HOP
    }

    /// Encodes at most a window of 16 kHz samples in [-1, 1].
    ///
    /// # Errors
    /// [`RuntimeError`] when the encoder refuses.
    pub fn encode(&mut self, samples: &[f32]) -> Result<Encoded, RuntimeError> {
        let features = self.log_mel.padded(samples, STRIDE * self.pack.frames());
        let sound = samples.len().min(self.window_samples()) / HOP;
        self.encode_windows(vec![Window { features, sound }])?.pop().ok_or_else(|| refused("the encoder gave nothing"))
    }

    /// Encodes several windows in one run.
    ///
    /// # Errors
    /// [`RuntimeError`] when the encoder refuses.
    pub fn encode_windows(&mut self, windows: Vec<Window>) -> Result<Vec<Encoded>, RuntimeError> {
        let (count, mels, frames, width) = (windows.len(), self.pack.mels(), self.pack.frames(), self.pack.width());
        let sound: Vec<usize> = windows.iter().map(|window| window.sound.min(STRIDE * frames)).collect();
        let mut features = Vec::with_capacity(count * mels * STRIDE * frames);
        windows.iter().for_each(|window| features.extend_from_slice(&window.features));
        let features = Tensor::f32([count, mels, STRIDE * frames], features);
        let mut made = self.encoder.run(vec![("input_features", features.into())], &["last_hidden_state"])?;
        let hidden = made.pop().filter(|hidden| hidden.shape() == [count, frames, width]);
        let hidden = hidden.ok_or_else(|| refused(format!("the encoder's output is not [{count}, {frames}, {width}]")))?;
        let encoded = |hidden: Value, sound: usize| Encoded { source: Source { hidden, mask: None }, sound, counted: sound };
        if let [sound] = sound[..] {
            return Ok(vec![encoded(hidden, sound)]);
        }
        let data = hidden.f32().ok_or_else(|| refused("the encoder's output are no floats"))?;
        let rows = data.chunks_exact(frames * width).zip(sound);
        Ok(rows.map(|(row, sound)| encoded(Tensor::f32([1, frames, width], row.to_vec()).into(), sound)).collect())
    }

    /// The likeliest language of a window: its code, its token and its probability among the languages. `None` for a model of English alone.
    ///
    /// # Errors
    /// [`RuntimeError`] when the decoder refuses.
    pub fn detect_language(&mut self, encoded: &Encoded) -> Result<Option<(String, f32)>, RuntimeError> {
        let tokens = self.pack.tokens();
        if tokens.languages().is_empty() {
            return Ok(None);
        }
        let Begun { logits, .. } = crate::generation::begin(&mut self.decoder, &encoded.source, &[vec![tokens.start()]])?;
        let logits = logits.f32().ok_or_else(|| refused("`logits` are no floats"))?;
        let scores: Vec<f32> = tokens.languages().iter().map(|(_, id)| logits.get(*id as usize).copied().unwrap_or(f32::MIN)).collect();
        let mut best = 0;
        scores.iter().enumerate().for_each(|(index, score)| best = if *score > scores[best] { index } else { best });
        let probability = (scores[best] - crate::generation::log_sum_exp(&scores)).exp();
        Ok(Some((tokens.languages()[best].0.clone(), probability)))
    }
}
