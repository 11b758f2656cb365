//! What somebody must do now and then, and any worker may: each step is atomic, so that it does not matter how many do it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Parts;
use crate::queue::store::millis;
use crate::queue::{JobState, QueueError};

/// Between two looks for what is old.
const CLEAN: Duration = Duration::from_secs(10);

/// Jobs that one look deletes, in each state.
const DELETED: u32 = 5_000;

/// Keeps house until the worker stops.
pub async fn keep(parts: Arc<Parts>, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(parts.config.house);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut cleaned = None::<Instant>;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        if let Err(error) = reap(&parts).await {
            tracing::warn!(%error, "jobs of workers that went away cannot be looked for");
        }
        if let Err(error) = parts.queue.fire_schedules().await {
            tracing::warn!(%error, "schedules cannot be looked at");
        }
        if cleaned.is_none_or(|at| at.elapsed() >= CLEAN) {
            cleaned = Some(Instant::now());
            if let Err(error) = clean(&parts).await {
                tracing::warn!(%error, "old jobs cannot be deleted");
            }
        }
    }
}

async fn reap(parts: &Parts) -> Result<(), QueueError> {
    let reaped = parts.queue.shared.store.reap(parts.config.backoff()).await?;
    let all = reaped.waiting + reaped.dead + reaped.cancelled;
    if all > 0 {
        tracing::warn!(again = reaped.waiting, dead = reaped.dead, cancelled = reaped.cancelled, "jobs of workers that went away");
        metrics::counter!("auralink_jobs_orphaned_total").increment(all);
        metrics::counter!("auralink_jobs_dead_total").increment(reaped.dead);
        parts.queue.changed();
    }
    Ok(())
}

async fn clean(parts: &Parts) -> Result<(), QueueError> {
    let (store, config) = (&parts.queue.shared.store, &parts.queue.shared.config);
    for state in [JobState::Done, JobState::Cancelled, JobState::Dead] {
        let keep = if state == JobState::Dead { config.keep_dead } else { config.keep_finished };
        let old = store.purge(None, state, millis(keep), DELETED).await?;
        let above = store.trim(state, config.max_finished, DELETED).await?;
        metrics::counter!("auralink_jobs_deleted_total").increment(old + above);
    }
    Ok(())
}
