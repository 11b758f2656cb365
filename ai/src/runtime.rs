//! The one runtime seam: everything that evaluates a neural network goes through [`Runtime`] and [`Model`].
//!
//! Place: `vad` and `recogniser` above, ONNX Runtime (`runtime::onnxruntime`) or the pure-Rust `rten` (`runtime::rten`)
//! below. Rule: tensors are bound by name and own their memory; no type of a backend leaves this module, so a GPU
//! provider or another engine is one more file here and one configuration line outside.

mod framing;
mod onnxruntime;
mod rten;

use std::path::PathBuf;
use std::sync::Arc;

pub use onnxruntime::OnnxRuntime;
pub use rten::Rten;

/// The elements of a [`Tensor`], row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit integers.
    I64(Vec<i64>),
}

/// A dense tensor that owns its memory: row-major elements and a shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Extent of each axis; the product is the number of elements. Empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: TensorData,
}

impl Tensor {
    /// A float tensor. `data.len()` must be the product of `shape`; a backend refuses it otherwise.
    pub fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self { shape: shape.into(), data: TensorData::F32(data) }
    }

    /// An integer tensor. `data.len()` must be the product of `shape`; a backend refuses it otherwise.
    pub fn i64(shape: impl Into<Vec<usize>>, data: Vec<i64>) -> Self {
        Self { shape: shape.into(), data: TensorData::I64(data) }
    }

    /// The float elements, or `None` for an integer tensor.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            TensorData::F32(values) => Some(values),
            TensorData::I64(_) => None,
        }
    }

    fn check(&self, name: &str) -> Result<(), RuntimeError> {
        let length = match &self.data {
            TensorData::F32(values) => values.len(),
            TensorData::I64(values) => values.len(),
        };
        if length == self.shape.iter().product::<usize>() {
            return Ok(());
        }
        Err(RuntimeError::Shape { name: name.to_owned(), shape: self.shape.clone(), elements: length })
    }
}

/// Name and declared shape of a model's input or output; `None` is an axis whose extent is free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the graph.
    pub name: String,
    /// Declared axes.
    pub shape: Vec<Option<usize>>,
}

/// An engine that turns an ONNX file's bytes into something that can be run.
pub trait Runtime: Send + Sync {
    /// The engine and its version, for logs and statistics.
    fn name(&self) -> &str;

    /// Builds a model from the bytes of an ONNX file; one thread runs it, without spinning.
    ///
    /// # Errors
    /// [`RuntimeError::Load`] when the bytes are no model, or use an operator that this engine lacks.
    fn load(&self, onnx: &[u8]) -> Result<Box<dyn Model>, RuntimeError>;
}

/// A loaded network. One thread runs it at a time; a pool loads one per thread.
pub trait Model: Send {
    /// The inputs that [`Model::run`] needs.
    fn inputs(&self) -> &[TensorInfo];

    /// The outputs that can be asked for.
    fn outputs(&self) -> &[TensorInfo];

    /// Evaluates the network on named `inputs` and returns the named `outputs`, in the order asked for.
    ///
    /// # Errors
    /// [`RuntimeError::Shape`] for a tensor whose shape does not cover its elements, [`RuntimeError::Run`] for
    /// everything that the engine refuses (unknown name, wrong shape or type).
    fn run(&mut self, inputs: Vec<(&str, Tensor)>, outputs: &[&str]) -> Result<Vec<Tensor>, RuntimeError>;
}

/// What the runtime seam can refuse.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No usable ONNX Runtime library.
    #[error(
        "ONNX Runtime was not found or could not be used: {}. Install it with `make setup`, or name the file libonnxruntime.so \
         (1.24 or later) in the configuration or in ORT_DYLIB_PATH",
        tried.join("; ")
    )]
    Library {
        /// Each place that was looked at, and what was wrong there.
        tried: Vec<String>,
    },
    /// The model could not be built.
    #[error("{runtime} cannot load the model: {reason}. Check that the file is a complete ONNX model")]
    Load {
        /// The engine.
        runtime: &'static str,
        /// Its words.
        reason: String,
    },
    /// A tensor whose shape and elements disagree.
    #[error("tensor `{name}` has shape {shape:?} but {elements} elements")]
    Shape {
        /// The input's name.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// How many elements it holds.
        elements: usize,
    },
    /// The evaluation failed.
    #[error("{runtime} cannot run the model: {reason}")]
    Run {
        /// The engine.
        runtime: &'static str,
        /// Its words.
        reason: String,
    },
}

/// Which engine to use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// ONNX Runtime where it is found, the pure-Rust engine otherwise.
    #[default]
    Auto,
    /// ONNX Runtime or an error. The path of its library, or `None` to search for it.
    OnnxRuntime(Option<PathBuf>),
    /// The pure-Rust engine.
    Rten,
}

/// Opens the chosen engine. The second value is a sentence to log when `Auto` had to fall back.
///
/// `candidates` are the library files to try, in order (see `pack::onnxruntime_candidates`).
///
/// # Errors
/// [`RuntimeError::Library`] when ONNX Runtime was demanded and is not usable.
pub fn open(choice: &RuntimeChoice, candidates: &[PathBuf]) -> Result<(Arc<dyn Runtime>, Option<String>), RuntimeError> {
    match choice {
        RuntimeChoice::Rten => Ok((Arc::new(Rten), None)),
        RuntimeChoice::OnnxRuntime(_) => Ok((Arc::new(OnnxRuntime::open(candidates)?), None)),
        RuntimeChoice::Auto => match OnnxRuntime::open(candidates) {
            Ok(runtime) => Ok((Arc::new(runtime), None)),
            Err(error) => Ok((Arc::new(Rten), Some(format!("{error}. Using the slower pure-Rust engine (rten) instead")))),
        },
    }
}
