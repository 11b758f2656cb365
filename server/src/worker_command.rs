//! `auralink worker`: runs jobs on another machine than the server's, against the same PostgreSQL or Redis.

use std::time::Duration;

use anyhow::{Context as _, bail};
use auralink_infrastructure::queue::Queue;
use auralink_infrastructure::state::State;

use crate::cli::WorkerArgs;
use crate::jobs::{own_handlers, start_worker};
use crate::serve::stop_signal;
use crate::state_command::configuration;
use crate::telemetry;

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
    let worker = start_worker(&queue, concurrency, own_handlers())?;
    tracing::info!(engine = queue.engine_name(), concurrency, "the worker runs jobs");
    println!(
        "AuraLink {}: this worker runs up to {concurrency} jobs at once of the queue in {}.",
        env!("CARGO_PKG_VERSION"),
        queue.engine_name()
    );
    let signal = stop_signal().await.context("signals cannot be waited for")?;
    tracing::info!(signal, "stopping: running jobs may finish");
    worker.stop(DRAIN).await;
    state.close().await;
    Ok(())
}
