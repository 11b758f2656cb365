//! What runs the queue's jobs, put together: by the server for its own, and by `auralink worker` on another machine.

use std::path::Path;
use std::sync::Arc;

use auralink_ai::scheduler::Engine;
use auralink_infrastructure::queue::Queue;
use auralink_infrastructure::state::State;
use auralink_infrastructure::storage::{LocalConfig, StorageConfig, StoreConfig, Stores};

use crate::config::Config;
use crate::files::Files;
use crate::jobs::{Handlers, own_handlers};
use crate::pipeline::{Meaning, Parts, Pipeline};
use crate::pipeline_command;
use crate::vector_imports::VectorImports;
use crate::vectors::VectorStore;

/// The store of a server whose configuration names none.
const DEFAULT_STORE: &str = "local";

/// Stores, and the pipeline over them.
pub async fn files(
    config: &Config,
    data_dir: &Path,
    state: &State,
    queue: &Queue,
    speech: Result<Engine, String>,
    vectors: Result<&VectorStore, String>,
) -> anyhow::Result<Files> {
    let (storage, folder) = (stores(&config.storage, data_dir), data_dir.to_owned());
    let stores = tokio::task::spawn_blocking(move || Stores::open(&storage, &folder)).await??;
    let meaning = match vectors {
        Ok(vectors) => Meaning::open(vectors.clone()).await,
        Err(reason) => Err(reason),
    };
    let pipeline = Pipeline::new(Parts {
        documents: Arc::new(state.clone()),
        folder: data_dir.join("pipeline"),
        speech,
        recogniser: pipeline_command::recogniser(config),
        meaning,
    });
    Ok(Files::new(stores, pipeline, queue.clone(), data_dir.join("files")))
}

/// Those of the configuration; without any, a folder below the data folder.
pub fn stores(config: &StorageConfig, data_dir: &Path) -> StorageConfig {
    let mut config = config.clone();
    if config.stores.is_empty() {
        let local = StoreConfig::Local(LocalConfig::at(data_dir.join("stores").join(DEFAULT_STORE)));
        config.stores.insert(DEFAULT_STORE.to_owned(), local);
    }
    config
}

/// What can be done where all of it is.
pub fn handlers(files: &Files, imports: &VectorImports) -> Handlers {
    let mut handlers = own_handlers();
    handlers.extend(files.handlers());
    handlers.extend(imports.handlers());
    handlers
}
