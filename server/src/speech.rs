//! Starts the speech engine from the configuration. Without one the server runs on, and says why there are no captions.

use std::path::PathBuf;

use auralink_ai::pack::PackSource;
use auralink_ai::runtime::RuntimeChoice;
use auralink_ai::scheduler::{Engine, EngineConfig};

use crate::config::{AiConfig, Runtime};

/// The engine, or the sentence that says what is missing and what to do.
pub fn start(config: &AiConfig) -> Result<Engine, String> {
    let engine = Engine::start(EngineConfig {
        threads: config.threads,
        pack: config.pack.clone().map_or(PackSource::BuiltIn, PackSource::Folder),
        vad: config.vad.clone(),
        runtime: runtime(config.runtime, config.onnxruntime.clone()),
        max_streams: config.max_streams,
        ..EngineConfig::default()
    })
    .map_err(|error| error.to_string())?;
    for note in engine.notes() {
        tracing::warn!("{note}");
    }
    Ok(engine)
}

/// Which engine a configuration means.
pub fn runtime(wanted: Runtime, library: Option<PathBuf>) -> RuntimeChoice {
    match (wanted, library) {
        (Runtime::Builtin, _) => RuntimeChoice::Rten,
        // A library that was named is used or is an error.
        (Runtime::Onnxruntime, library) | (Runtime::Auto, library @ Some(_)) => RuntimeChoice::OnnxRuntime(library),
        (Runtime::Auto, None) => RuntimeChoice::Auto,
    }
}
