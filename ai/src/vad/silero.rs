//! Silero VAD 6 on the runtime seam.
//!
//! The network (16 kHz): `input[B, 64 + 512]`, `state[2, B, 128]`, `sr` -> `output[B, 1]`, `stateN[2, B, 128]`. Each window is
//! preceded by the last 64 samples of the one before. Rule: streams are stacked along the batch axis; one run serves all.

use crate::runtime::{Model, ModelFile, Runtime, RuntimeError, Tensor};

/// Samples of a window: 32 ms.
pub const WINDOW: usize = 512;
const CONTEXT: usize = 64;
const LAYERS: usize = 2;
const HIDDEN: usize = 128;

/// The network.
pub struct Silero {
    model: Box<dyn Model>,
}

/// The state of one stream.
pub struct SileroState {
    context: [f32; CONTEXT],
    hidden: [f32; LAYERS * HIDDEN],
}

impl Default for SileroState {
    fn default() -> Self {
        Self { context: [0.0; CONTEXT], hidden: [0.0; LAYERS * HIDDEN] }
    }
}

impl Silero {
    /// Loads `silero_vad.onnx` and tries it on a window of silence.
    ///
    /// # Errors
    /// [`RuntimeError`] when the bytes are no model, or one with other inputs than Silero's.
    pub fn load(runtime: &dyn Runtime, onnx: &ModelFile) -> Result<Self, RuntimeError> {
        let mut silero = Self { model: runtime.load(onnx)? };
        silero.detect(&mut [(&[0.0; WINDOW], &mut SileroState::default())])?;
        Ok(silero)
    }

    /// Probabilities of speech of one window of each stream.
    ///
    /// # Errors
    /// [`RuntimeError`] when the network cannot be run.
    pub fn detect(&mut self, batch: &mut [(&[f32], &mut SileroState)]) -> Result<Vec<f32>, RuntimeError> {
        let size = batch.len();
        let mut input = Vec::with_capacity(size * (CONTEXT + WINDOW));
        let mut hidden = Vec::with_capacity(size * LAYERS * HIDDEN);
        for (window, state) in batch.iter() {
            input.extend_from_slice(&state.context);
            input.extend_from_slice(window);
        }
        for layer in 0..LAYERS {
            for (_, state) in batch.iter() {
                hidden.extend_from_slice(&state.hidden[layer * HIDDEN..(layer + 1) * HIDDEN]);
            }
        }
        let inputs = vec![
            ("input", Tensor::f32([size, CONTEXT + WINDOW], input).into()),
            ("state", Tensor::f32([LAYERS, size, HIDDEN], hidden).into()),
            ("sr", Tensor::i64([], vec![i64::from(crate::audio::SAMPLE_RATE)]).into()),
        ];
        let outputs = self.model.run(inputs, &["output", "stateN"])?;
        let wrong = |reason: &str| RuntimeError::Run { runtime: "Silero VAD", reason: reason.to_owned() };
        let [probabilities, hidden] = outputs.as_slice() else { return Err(wrong("two outputs were expected")) };
        let probabilities = probabilities.f32().filter(|p| p.len() == size).ok_or_else(|| wrong("`output` is not [B, 1]"))?;
        let hidden = hidden.f32().filter(|h| h.len() == LAYERS * size * HIDDEN).ok_or_else(|| wrong("`stateN` is not [2, B, 128]"))?;
        for (index, (window, state)) in batch.iter_mut().enumerate() {
            state.context.copy_from_slice(&window[WINDOW - CONTEXT..]);
            for layer in 0..LAYERS {
                let from = (layer * size + index) * HIDDEN;
                state.hidden[layer * HIDDEN..(layer + 1) * HIDDEN].copy_from_slice(&hidden[from..from + HIDDEN]);
            }
        }
        Ok(probabilities.to_vec())
    }
}
