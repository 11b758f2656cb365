//! The sections `captions`, `ai` and `embeddings`: who is heard, and by which models.

use std::path::PathBuf;

use serde::Deserialize;

/// Captions in rooms.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionsConfig {
    /// On in new rooms.
    pub default: bool,
    /// Silence that closes a segment, 200 to 5,000 ms.
    pub endpoint_silence_ms: u32,
}

impl Default for CaptionsConfig {
    fn default() -> Self {
        Self { default: true, endpoint_silence_ms: 550 }
    }
}

/// Which runtime runs the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// ONNX Runtime if its library is found, else the built-in one.
    #[default]
    Auto,
    /// ONNX Runtime or no captions.
    Onnxruntime,
    /// The built-in pure-Rust runtime.
    Builtin,
}

/// How speech is recognised.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AiConfig {
    /// Folder of a model pack; default: the built-in demonstrator.
    pub pack: Option<PathBuf>,
    /// Folder of a smaller pack, for what is said while the machine does not keep up with `pack`; default: none.
    pub smaller_pack: Option<PathBuf>,
    /// Folder of the Silero VAD pack; default: looked for in the cache folder, else a built-in detector.
    pub vad: Option<PathBuf>,
    /// libonnxruntime.so; default: looked for in the cache folder.
    pub onnxruntime: Option<PathBuf>,
    /// Which runtime.
    pub runtime: Runtime,
    /// Threads for models, 1 to 64.
    pub threads: usize,
    /// Threads inside one run of a model, 1 to 64: for large models and few streams.
    pub threads_per_run: usize,
    /// What ONNX Runtime uses before the processor, in this order: cuda, tensorrt, openvino, coreml, xnnpack. One that its library lacks is an error.
    pub providers: Vec<String>,
    /// Folders of translation packs, for those who read captions in another language; of several for a pair the first is used.
    pub translation: Vec<PathBuf>,
    /// Threads for translation, 1 to 64.
    pub translation_threads: usize,
    /// Streams heard at once; one more is refused with a reason.
    pub max_streams: usize,
}

impl Default for AiConfig {
    fn default() -> Self {
        Self {
            pack: None,
            smaller_pack: None,
            vad: None,
            onnxruntime: None,
            runtime: Runtime::Auto,
            threads: 1,
            threads_per_run: 1,
            providers: Vec::new(),
            translation: Vec::new(),
            translation_threads: 1,
            max_streams: 64,
        }
    }
}

/// How texts become vectors.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddingsConfig {
    /// Folder of a sentence model; default: looked for in the cache folder when it is first needed.
    pub pack: Option<PathBuf>,
    /// Threads, 1 to 64. The runtime is that of `ai`.
    pub threads: usize,
}

impl Default for EmbeddingsConfig {
    fn default() -> Self {
        Self { pack: None, threads: 1 }
    }
}
