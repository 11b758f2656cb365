//! The streaming encoder: windows of features and the states of streams in, frames and states out, for all streams that are due at once.
//!
//! Rule: each stream owns its states, as values of the engine; one stream alone passes them on without a copy, several are stacked along
//! the axis that the file leaves open.

use std::borrow::Cow;

use crate::runtime::{Element, Model, ModelFile, Runtime, RuntimeError, Tensor, Value};

/// Input of features.
const FEATURES: &str = "x";

/// What is known of a streaming encoder before it is loaded: from the file's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderSpec {
    /// Feature frames of a run.
    pub window: usize,
    /// Feature frames by which the next run is further.
    pub chunk: usize,
    /// Values of a feature frame.
    pub n_mels: usize,
}

impl EncoderSpec {
    /// Of an encoder's file; `None`: it is no streaming one.
    ///
    /// # Errors
    /// A sentence naming the value that cannot be.
    pub fn read(file: &ModelFile) -> Result<Option<Self>, String> {
        let metadata = file.metadata();
        let number = |key: &str| {
            metadata.get(key).map(|value| value.trim().parse::<usize>().map_err(|_| format!("its `{key}` is `{value}`"))).transpose()
        };
        let (window, chunk) = match (number("T")?, number("decode_chunk_len")?) {
            (None, None) => return Ok(None),
            (Some(window), Some(chunk)) => (window, chunk),
            _ => return Err("it has one of `T` and `decode_chunk_len` in its metadata, and both are needed".to_owned()),
        };
        if !(1..=window).contains(&chunk) || window > 2_000 {
            return Err(format!("its window `T` is {window} and its step `decode_chunk_len` {chunk}"));
        }
        Ok(Some(Self { window, chunk, n_mels: 80 }))
    }
}

/// A state tensor.
#[derive(Debug, Clone)]
struct State {
    input: String,
    output: String,
    shape: Vec<usize>,
    axis: usize,
    integer: bool,
}

/// The states of one stream.
#[derive(Clone)]
pub struct StreamingState(Vec<Value>);

/// A streaming encoder on one thread.
pub struct StreamingEncoder {
    model: Box<dyn Model>,
    spec: EncoderSpec,
    states: Vec<State>,
    output: &'static str,
}

fn wrong(reason: String) -> RuntimeError {
    RuntimeError::Run { runtime: "the encoder", reason }
}

impl StreamingEncoder {
    /// Loads the network and runs it on silence, for one stream and for two. `output`: what it gives (`encoder_out`, or `log_probs` of CTC).
    ///
    /// # Errors
    /// [`RuntimeError`] naming the tensor that is missing or has another shape.
    pub fn load(runtime: &dyn Runtime, file: &ModelFile, spec: EncoderSpec, output: &'static str) -> Result<Self, RuntimeError> {
        let model = runtime.load(file)?;
        let lacks = |reason: String| RuntimeError::Load { runtime: "the encoder", reason };
        let states = states(&*model, output).map_err(lacks)?;
        let mut encoder = Self { model, spec, states, output };
        let silence = vec![0.0; spec.window * spec.n_mels];
        let (mut a, mut b) = (encoder.new_state(), encoder.new_state());
        encoder.run(&mut [(&silence, &mut a)])?;
        encoder.run(&mut [(&silence, &mut a), (&silence, &mut b)])?;
        Ok(encoder)
    }

    /// What it needs.
    pub fn spec(&self) -> EncoderSpec {
        self.spec
    }

    /// The states of a stream that begins: zeros.
    pub fn new_state(&self) -> StreamingState {
        let zeros = |state: &State| {
            let count = state.shape.iter().product();
            let tensor = if state.integer {
                Tensor::i64(state.shape.clone(), vec![0; count])
            } else {
                Tensor::f32(state.shape.clone(), vec![0.0; count])
            };
            Value::from(tensor)
        };
        StreamingState(self.states.iter().map(zeros).collect())
    }

    /// Runs one window of each stream, `[window, n_mels]`; the frames of each, `[frames, dimension]`.
    ///
    /// # Errors
    /// [`RuntimeError`]; no state has changed then.
    pub fn run(&mut self, batch: &mut [(&[f32], &mut StreamingState)]) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let size = batch.len();
        let features: Vec<f32> = batch.iter().flat_map(|(window, _)| window.iter().copied()).collect();
        let mut inputs = vec![(FEATURES, Value::from(Tensor::f32([size, self.spec.window, self.spec.n_mels], features)))];
        for (index, state) in self.states.iter().enumerate() {
            let parts: Vec<&Value> = batch.iter().map(|(_, streams)| &streams.0[index]).collect();
            inputs.push((&state.input, stack(&parts, state.axis)?));
        }
        let names: Vec<&str> = std::iter::once(self.output).chain(self.states.iter().map(|state| state.output.as_str())).collect();
        let mut given = self.model.run(inputs, &names)?.into_iter();
        let out = given.next().ok_or_else(|| wrong("it gave nothing".to_owned()))?;
        let [rows, frames, dimension] = out.shape() else {
            return Err(wrong(format!("`{}` has the shape {:?}", self.output, out.shape())));
        };
        if *rows != size {
            return Err(wrong(format!("`{}` has {rows} rows for {size} streams", self.output)));
        }
        let values = out.f32().ok_or_else(|| wrong(format!("`{}` is no float", self.output)))?;
        let row = frames * dimension;
        let outputs = (0..size).map(|stream| values[stream * row..(stream + 1) * row].to_vec()).collect();
        let mut news: Vec<Vec<Value>> = Vec::with_capacity(self.states.len());
        for (state, value) in self.states.iter().zip(given) {
            let mut shape = state.shape.clone();
            shape[state.axis] = size;
            if value.shape() != shape {
                return Err(wrong(format!("`{}` has the shape {:?}, {shape:?} is needed", state.output, value.shape())));
            }
            news.push(split(value, state.axis, size)?);
        }
        for (index, values) in news.into_iter().enumerate() {
            batch.iter_mut().zip(values).for_each(|((_, streams), value)| streams.0[index] = value);
        }
        Ok(outputs)
    }
}

/// Every input but the features is a state; its output is `new_` and its name.
fn states(model: &dyn Model, given: &str) -> Result<Vec<State>, String> {
    let mut states = Vec::new();
    for input in model.inputs().iter().filter(|input| input.name != FEATURES) {
        let output = format!("new_{}", input.name);
        if !model.outputs().iter().any(|other| other.name == output) {
            return Err(format!("it has an input `{}` and no output `{output}`", input.name));
        }
        let open: Vec<usize> = (0..input.shape.len()).filter(|&axis| input.shape[axis].is_none()).collect();
        let [axis] = open[..] else {
            return Err(format!("its state `{}` leaves {} axes open; one, the streams', is needed", input.name, open.len()));
        };
        let shape: Vec<usize> = input.shape.iter().map(|extent| extent.unwrap_or(1)).collect();
        if shape.iter().try_fold(1_usize, |product, extent| product.checked_mul(*extent)).is_none_or(|count| count > 1 << 24) {
            return Err(format!("its state `{}` has the shape {shape:?}", input.name));
        }
        states.push(State { input: input.name.clone(), output, shape, axis, integer: input.element == Element::I64 });
    }
    let has = |name: &str| model.inputs().iter().any(|input| input.name == name);
    match () {
        () if !has(FEATURES) => Err(format!("it has no input `{FEATURES}`")),
        () if !model.outputs().iter().any(|output| output.name == given) => Err(format!("it has no output `{given}`")),
        () => Ok(states),
    }
}

/// Tensors of one stream each, along an axis.
fn stack(parts: &[&Value], axis: usize) -> Result<Value, RuntimeError> {
    let [first, ..] = parts else { return Err(wrong("no stream".to_owned())) };
    if parts.len() == 1 {
        return Ok((*first).clone());
    }
    let mut shape = first.shape().to_vec();
    let inner: usize = shape[axis + 1..].iter().product();
    shape[axis] = parts.len();
    fn interleave<T: Copy>(parts: &[Cow<'_, [T]>], inner: usize) -> Vec<T> {
        let length = parts.first().map_or(0, |part| part.len());
        let mut stacked = Vec::with_capacity(length * parts.len());
        for from in (0..length).step_by(inner.max(1)) {
            parts.iter().for_each(|part| stacked.extend_from_slice(&part[from..from + inner]));
        }
        stacked
    }
    if let Some(floats) = parts.iter().map(|part| part.f32()).collect::<Option<Vec<_>>>() {
        return Ok(Tensor::f32(shape, interleave(&floats, inner)).into());
    }
    let integers =
        parts.iter().map(|part| part.i64()).collect::<Option<Vec<_>>>().ok_or_else(|| wrong("states of two types".to_owned()))?;
    Ok(Tensor::i64(shape, interleave(&integers, inner)).into())
}

/// The tensors of each stream.
fn split(value: Value, axis: usize, streams: usize) -> Result<Vec<Value>, RuntimeError> {
    if streams == 1 {
        return Ok(vec![value]);
    }
    let mut shape = value.shape().to_vec();
    let inner: usize = shape[axis + 1..].iter().product();
    shape[axis] = 1;
    fn pick<T: Copy>(values: &[T], stream: usize, streams: usize, inner: usize) -> Vec<T> {
        values.chunks_exact((streams * inner).max(1)).flat_map(|row| &row[stream * inner..(stream + 1) * inner]).copied().collect()
    }
    if let Some(floats) = value.f32() {
        return Ok((0..streams).map(|stream| Tensor::f32(shape.clone(), pick(&floats, stream, streams, inner)).into()).collect());
    }
    let integers = value.i64().ok_or_else(|| wrong("a state that is neither float nor integer".to_owned()))?;
    Ok((0..streams).map(|stream| Tensor::i64(shape.clone(), pick(&integers, stream, streams, inner)).into()).collect())
}
