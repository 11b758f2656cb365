//! The network of our own packs: chunks of features in, log-probabilities of tokens out.
//!
//! Place: on the runtime seam, under the CTC decoder. Rules: the network's memory (its states) belongs to the stream; the streams
//! that are due are stacked along the batch axis and run at once; shapes are checked when the pack is loaded, not in a call.

use crate::audio::Samples;
use crate::pack::Pack;
use crate::runtime::{Model, Runtime, RuntimeError, Tensor, Value};

/// One state tensor of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSpec {
    /// Its name as an input.
    pub input: String,
    /// Its name as an output.
    pub output: String,
    /// Its shape for one stream, with 1 at `batch_axis`.
    pub shape: Vec<usize>,
    /// The axis along which streams are stacked.
    pub batch_axis: usize,
}

impl StateSpec {
    fn values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// What is known of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Input of features, `[B, chunk_frames, n_mels]`.
    pub input: String,
    /// Output of log-probabilities, `[B, output_frames, vocabulary]`.
    pub output: String,
    /// Values of a feature frame.
    pub n_mels: usize,
    /// Feature frames of a run, a multiple of `subsampling`.
    pub chunk_frames: usize,
    /// Feature frames for one output frame.
    pub subsampling: usize,
    /// Tokens, blank included.
    pub vocabulary: usize,
    /// Silence after the last sound that brings out what the network still holds.
    pub tail: Samples,
    /// How long after it was spoken the network names a token (the median): word times are so much earlier than its output.
    pub emission_delay: Samples,
    /// The network's memory.
    pub states: Vec<StateSpec>,
}

impl NetworkSpec {
    /// Values of the input of one stream.
    pub fn chunk_values(&self) -> usize {
        self.chunk_frames * self.n_mels
    }

    fn output_values(&self) -> usize {
        self.chunk_frames / self.subsampling * self.vocabulary
    }
}

/// The network's memory of one stream.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkState {
    tensors: Vec<Vec<f32>>,
}

impl NetworkState {
    /// The memory at the beginning: zeros.
    pub fn new(spec: &NetworkSpec) -> Self {
        Self { tensors: spec.states.iter().map(|state| vec![0.0; state.values()]).collect() }
    }
}

/// The network, on one thread.
pub struct Network {
    spec: NetworkSpec,
    model: Box<dyn Model>,
}

impl Network {
    /// Loads the pack's network and runs it once on silence, for two streams, so that a wrong manifest is found here.
    ///
    /// # Errors
    /// [`RuntimeError`] when it is no model or its shapes are not the manifest's.
    pub fn load(runtime: &dyn Runtime, pack: &Pack) -> Result<Self, RuntimeError> {
        let spec = pack.network().clone();
        let mut network = Self { model: runtime.load(pack.model())?, spec };
        let silence = vec![0.0; network.spec.chunk_values()];
        let (mut a, mut b) = (NetworkState::new(&network.spec), NetworkState::new(&network.spec));
        network.run(&mut [(&silence, &mut a), (&silence, &mut b)])?;
        Ok(network)
    }

    /// The network's shapes.
    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// Runs one chunk of each stream; the log-probabilities of each, `[output_frames, vocabulary]`, in the order of `batch`.
    ///
    /// # Errors
    /// [`RuntimeError`]; no state has changed then.
    pub fn run(&mut self, batch: &mut [(&[f32], &mut NetworkState)]) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let spec = &self.spec;
        let size = batch.len();
        let features = batch.iter().flat_map(|(chunk, _)| chunk.iter().copied()).collect();
        let mut inputs = vec![(spec.input.as_str(), Tensor::f32([size, spec.chunk_frames, spec.n_mels], features).into())];
        for (index, state) in spec.states.iter().enumerate() {
            let parts: Vec<&[f32]> = batch.iter().map(|(_, memory)| memory.tensors[index].as_slice()).collect();
            let mut shape = state.shape.clone();
            shape[state.batch_axis] = size;
            inputs.push((state.input.as_str(), Tensor::f32(shape, stack(&parts, inner_values(state))).into()));
        }
        let names: Vec<&str> = std::iter::once(spec.output.as_str()).chain(spec.states.iter().map(|state| state.output.as_str())).collect();
        let outputs = self.model.run(inputs, &names)?;
        let values = |index: usize, expected: usize| match outputs.get(index).and_then(Value::f32) {
            Some(values) if values.len() == expected * size => Ok(values),
            _ => Err(RuntimeError::Run {
                runtime: "the recogniser",
                reason: format!("output `{}` has not the {expected} values per stream that the manifest says", names[index]),
            }),
        };
        let log_probs = values(0, spec.output_values())?;
        let memories = spec.states.iter().enumerate().map(|(i, state)| values(i + 1, state.values())).collect::<Result<Vec<_>, _>>()?;
        for ((index, state), memory) in spec.states.iter().enumerate().zip(memories) {
            for (stream, (_, own)) in batch.iter_mut().enumerate() {
                unstack(&memory, &mut own.tensors[index], stream, size, inner_values(state));
            }
        }
        Ok(log_probs.chunks(spec.output_values().max(1)).map(<[f32]>::to_vec).collect())
    }
}

/// Values of one stream that lie together: everything behind the batch axis.
fn inner_values(state: &StateSpec) -> usize {
    state.shape[state.batch_axis + 1..].iter().product()
}

/// Interleaves the streams' tensors along the batch axis.
fn stack(parts: &[&[f32]], inner: usize) -> Vec<f32> {
    let length = parts.first().map_or(0, |part| part.len());
    let mut stacked = Vec::with_capacity(length * parts.len());
    for outer in 0..length / inner.max(1) {
        for part in parts {
            stacked.extend_from_slice(&part[outer * inner..(outer + 1) * inner]);
        }
    }
    stacked
}

/// Takes one stream's tensor out of the stack.
fn unstack(stacked: &[f32], own: &mut [f32], stream: usize, streams: usize, inner: usize) {
    for (outer, part) in own.chunks_mut(inner.max(1)).enumerate() {
        let from = (outer * streams + stream) * inner;
        part.copy_from_slice(&stacked[from..from + inner]);
    }
}
