//! Starts the speech engine from the configuration. Without one the server runs on, and says why there are no captions.

use std::path::PathBuf;

use std::sync::Arc;

use auralink_ai::pack::{self, PackSource, TranslationPack};
use auralink_ai::runtime::{self, RuntimeChoice, RuntimeOptions};
use auralink_ai::scheduler::{Engine, EngineConfig};
use auralink_ai::translation::{TranslationConfig, TranslationEngine};

use crate::config::{AiConfig, Runtime};

/// The engine, or the sentence that says what is missing and what to do.
pub fn start(config: &AiConfig) -> Result<Engine, String> {
    let engine = Engine::start(EngineConfig {
        threads: config.threads,
        pack: config.pack.clone().map_or(PackSource::BuiltIn, PackSource::Folder),
        smaller: config.smaller_pack.clone().map(PackSource::Folder),
        vad: config.vad.clone(),
        runtime: runtime(config.runtime, config.onnxruntime.clone()),
        options: options(config),
        max_streams: config.max_streams,
        ..EngineConfig::default()
    })
    .map_err(|error| error.to_string())?;
    for note in engine.notes() {
        tracing::warn!("{note}");
    }
    Ok(engine)
}

/// Translation by the packs that the configuration names. What cannot be used is told, and captions stay as they are said.
pub fn start_translation(config: &AiConfig) -> Option<TranslationEngine> {
    if config.translation.is_empty() {
        return None;
    }
    let started = open_translation(config);
    if let Err(reason) = &started {
        tracing::error!(reason, "captions are not translated");
    }
    started.ok()
}

fn open_translation(config: &AiConfig) -> Result<TranslationEngine, String> {
    let packs = config.translation.iter().map(|folder| TranslationPack::open(folder).map(Arc::new)).collect::<Result<Vec<_>, _>>();
    let packs = packs.map_err(|error| error.to_string())?;
    let candidates = pack::onnxruntime_candidates(config.onnxruntime.as_deref());
    let (runtime, _) = runtime::open_with(&runtime(config.runtime, config.onnxruntime.clone()), &candidates, &options(config))
        .map_err(|e| e.to_string())?;
    let started =
        TranslationEngine::start(packs, &runtime, TranslationConfig { threads: config.translation_threads, ..Default::default() });
    let engine = started.map_err(|error| error.to_string())?;
    tracing::info!(pairs = engine.pairs(), "captions are translated");
    Ok(engine)
}

/// How models are run; the names of providers were checked with the configuration.
fn options(config: &AiConfig) -> RuntimeOptions {
    RuntimeOptions { threads: config.threads_per_run, providers: config.providers.iter().filter_map(|name| name.parse().ok()).collect() }
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
