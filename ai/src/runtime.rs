//! The one runtime seam: everything that evaluates a neural network goes through [`Runtime`] and [`Model`].
//!
//! Place: `vad` and `recogniser` above, ONNX Runtime (`runtime::onnxruntime`) or the pure-Rust `rten` (`runtime::rten`)
//! below. Rule: tensors are bound by name; no type of a backend leaves this module ([`Value`] hides it), so a GPU provider or
//! another engine is one more file here and one configuration line outside.

mod framing;
mod model_file;
mod onnxruntime;
mod rten;
mod tensor;
mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

pub use model_file::ModelFile;
pub use onnxruntime::OnnxRuntime;
pub use rten::Rten;
pub use tensor::{Element, Tensor, TensorData};
pub use value::Value;

/// Name, element type and declared shape of a model's input or output; `None` is an axis whose extent is free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name in the graph.
    pub name: String,
    /// The type of its elements. rten, which has 32-bit integers alone, says [`Element::I64`] for all of them.
    pub element: Element,
    /// Declared axes.
    pub shape: Vec<Option<usize>>,
}

/// An engine that turns an ONNX file's bytes into something that can be run.
pub trait Runtime: Send + Sync {
    /// The engine and its version, for logs and statistics.
    fn name(&self) -> &str;

    /// Builds a model from an ONNX file; it runs without spinning, on as many threads as the engine was opened with.
    ///
    /// # Errors
    /// [`RuntimeError::Load`] when the bytes are no model, or use an operator that this engine lacks.
    fn load(&self, file: &ModelFile) -> Result<Box<dyn Model>, RuntimeError>;
}

/// A loaded network. One thread runs it at a time; a pool loads one per thread.
pub trait Model: Send {
    /// The inputs that [`Model::run`] needs.
    fn inputs(&self) -> &[TensorInfo];

    /// The outputs that can be asked for.
    fn outputs(&self) -> &[TensorInfo];

    /// The file's `metadata_props`.
    fn metadata(&self) -> &BTreeMap<String, String>;

    /// Evaluates the network on named `inputs` and returns the named `outputs`, in the order asked for; no other output is made. Floats
    /// are converted where the network has 16-bit ones.
    ///
    /// # Errors
    /// [`RuntimeError::Shape`] for a tensor whose shape does not cover its elements, [`RuntimeError::Run`] for
    /// everything that the engine refuses (unknown name, wrong shape or type).
    fn run(&mut self, inputs: Vec<(&str, Value)>, outputs: &[&str]) -> Result<Vec<Value>, RuntimeError>;
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
    /// An execution provider that was asked for is not there.
    #[error(
        "ONNX Runtime cannot use an execution provider that was asked for: {}. Install a build of it that has the provider (ai.onnxruntime names its \
         library), or take it out of ai.providers",
        reason.trim_end_matches('.')
    )]
    Provider {
        /// The library's words.
        reason: String,
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

/// What carries out ONNX Runtime's operators besides the processor; its library must have been built with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// NVIDIA's CUDA.
    Cuda,
    /// NVIDIA's TensorRT.
    TensorRt,
    /// Intel's OpenVINO.
    OpenVino,
    /// Apple's Core ML.
    CoreMl,
    /// Google's XNNPACK, on the processor.
    Xnnpack,
}

impl Provider {
    /// All of them by the names that the configuration uses.
    pub const ALL: [(&'static str, Self); 5] = [
        ("cuda", Self::Cuda),
        ("tensorrt", Self::TensorRt),
        ("openvino", Self::OpenVino),
        ("coreml", Self::CoreMl),
        ("xnnpack", Self::Xnnpack),
    ];
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        let names = || Self::ALL.map(|(known, _)| known).join(", ");
        found.map(|(_, provider)| *provider).ok_or_else(|| format!("`{name}` is no execution provider; there are {}", names()))
    }
}

/// How an engine runs its models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// Threads inside one run. More than one is worth it for large models with few streams; many streams run side by side instead.
    pub threads: usize,
    /// What ONNX Runtime uses before the processor, in this order. One that its library lacks is an error.
    pub providers: Vec<Provider>,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self { threads: 1, providers: Vec::new() }
    }
}

/// Opens the chosen engine. The second value is a sentence to log when `Auto` had to fall back.
///
/// `candidates` are the library files to try, in order (see `pack::onnxruntime_candidates`).
///
/// # Errors
/// [`RuntimeError::Library`] when ONNX Runtime was demanded and is not usable.
pub fn open(choice: &RuntimeChoice, candidates: &[PathBuf]) -> Result<(Arc<dyn Runtime>, Option<String>), RuntimeError> {
    open_with(choice, candidates, &RuntimeOptions::default())
}

/// [`open`], with options.
///
/// # Errors
/// As [`open`]; an execution provider that the library lacks is told when a model is loaded.
pub fn open_with(
    choice: &RuntimeChoice,
    candidates: &[PathBuf],
    options: &RuntimeOptions,
) -> Result<(Arc<dyn Runtime>, Option<String>), RuntimeError> {
    let onnxruntime = || OnnxRuntime::open(candidates).map(|runtime| Arc::new(runtime.with_options(options.clone())));
    let rten = || Arc::new(Rten::with_threads(options.threads));
    match choice {
        RuntimeChoice::Rten => Ok((rten(), None)),
        RuntimeChoice::OnnxRuntime(_) => Ok((onnxruntime()?, None)),
        RuntimeChoice::Auto => match onnxruntime() {
            Ok(runtime) => Ok((runtime, None)),
            Err(error) => Ok((rten(), Some(format!("{error}. Using the slower pure-Rust engine (rten) instead")))),
        },
    }
}
