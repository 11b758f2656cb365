//! `auralink worker`: runs jobs on another machine than the server's, against the same PostgreSQL or Redis.
//!
//! It takes the kinds of jobs that it can do from where it is, and says which: files need stores that the configuration names, vectors an engine
//! that is not in the server's own folder.

use std::time::Duration;

use anyhow::{Context as _, bail};
use auralink_infrastructure::queue::Queue;
use auralink_infrastructure::state::State;

use crate::cli::WorkerArgs;
use crate::config::{Config, VectorEngine};
use crate::embeddings::Embeddings;
use crate::jobs::{Handlers, own_handlers, start_worker};
use crate::serve::stop_signal;
use crate::state_command::configuration;
use crate::vector_imports::VectorImports;
use crate::vectors::VectorStore;
use crate::{speech, telemetry, work};

/// How long running jobs may finish after SIGTERM; then they are given back.
const DRAIN: Duration = Duration::from_secs(30);

/// Runs until SIGTERM or SIGINT.
pub async fn run(args: WorkerArgs) -> anyhow::Result<()> {
    let config = configuration(&args.place)?;
    telemetry::start_logs(&config.logging)?;
    if config.queue.redis.is_none() && config.state.postgres.is_none() {
        bail!("jobs in SQLite are run by the server that has the folder: set `queue.redis` or `state.postgres` for workers elsewhere");
    }
    let state = State::open(&config.state()?).await?;
    let queue = Queue::open(config.queue.opened_with()?, &state).await?;
    let concurrency = args.concurrency.unwrap_or(config.queue.concurrency);
    if concurrency == 0 {
        bail!("a worker that runs no jobs at once does nothing: --concurrency, or `queue.concurrency`");
    }
    let handlers = handlers(&config, &state, &queue).await?;
    let kinds = handlers.keys().cloned().collect::<Vec<_>>().join(", ");
    let worker = start_worker(&queue, concurrency, handlers)?;
    tracing::info!(engine = queue.engine_name(), concurrency, kinds, "the worker runs jobs");
    println!(
        "AuraLink {}: this worker runs up to {concurrency} jobs at once of the queue in {}: {kinds}.",
        env!("CARGO_PKG_VERSION"),
        queue.engine_name()
    );
    let signal = stop_signal().await.context("signals cannot be waited for")?;
    tracing::info!(signal, "stopping: running jobs may finish");
    worker.stop(DRAIN).await;
    state.close().await;
    Ok(())
}

/// What can be done from here.
async fn handlers(config: &Config, state: &State, queue: &Queue) -> anyhow::Result<Handlers> {
    if config.storage.stores.is_empty() {
        println!(
            "Jobs on files are left to the server: the configuration names no stores (`storage.stores`), so they are in its own folder."
        );
        return Ok(own_handlers());
    }
    if config.state.postgres.is_none() {
        println!("Jobs on files are left to the server: what they make is kept in its state, which is not shared (`state.postgres`).");
        return Ok(own_handlers());
    }
    let data_dir = config.data_dir();
    let ai = config.ai.clone();
    let speech = tokio::task::spawn_blocking(move || speech::start(&ai)).await?;
    if let Err(reason) = &speech {
        println!("This worker hears nothing: {reason}");
    }
    if config.vectors.engine == VectorEngine::Embedded {
        let reason = "the vectors are in the server's own folder: name an engine that workers reach too (`vectors.engine`)".to_owned();
        println!("Jobs on vectors are left to the server: {reason}");
        let files = work::files(config, &data_dir, state, queue, speech, Err(reason)).await?;
        let mut handlers = own_handlers();
        handlers.extend(files.handlers());
        return Ok(handlers);
    }
    let vectors = VectorStore::open(&config.vectors, &data_dir, Embeddings::new(&config.embeddings, &config.ai))?;
    let files = work::files(config, &data_dir, state, queue, speech, Ok(&vectors)).await?;
    let imports = VectorImports::new(vectors, files.clone(), queue.clone());
    Ok(work::handlers(&files, &imports))
}
