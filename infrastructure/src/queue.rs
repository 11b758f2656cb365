//! Work that outlives the process. An accepted job is on disk and is run until it is done, cancelled or a dead letter; a job acknowledged as
//! done is not run again.
//!
//! Place: over a [`State`]'s SQLite or PostgreSQL, or over Redis. [`Queue`] has the limits, the names and the schedules; [`Worker`] runs jobs; a
//! `Store` for each engine makes single atomic steps. Rule: each claim of a job has a number, its fence, and only the newest may finish the job.

mod job;
mod pending;
mod postgres;
mod redis;
mod row;
mod schedule;
mod sqlite;
mod store;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::Notify;
use tokio::sync::watch;

pub use job::{
    Job, JobFilter, JobId, JobState, MAX_ATTEMPTS, MAX_DELAY, MAX_IDEMPOTENCY_BYTES, MAX_KIND_BYTES, MAX_MESSAGE_BYTES, MAX_PAYLOAD_BYTES,
    NewJob, Progress,
};
pub use schedule::{NewSchedule, Schedule};
pub use store::Stats;
pub use worker::{Handler, JobContext, JobError, Worker, WorkerConfig};

use crate::secret::Secret;
use crate::state::{Engine, State, StateError};
use crate::tenant::Tenant;
use store::{NewRow, Store};

/// Most jobs that one call enqueues.
pub const MAX_BATCH: usize = 1_000;

/// Most jobs that one call lists or purges.
pub const MAX_PAGE: u32 = 1_000;

/// Between two looks at a job that is watched, at least: a burst of progress is one change.
const WATCH_LEAST: Duration = Duration::from_millis(100);

/// And at most: what another process did is seen after this.
const WATCH_MOST: Duration = Duration::from_millis(500);

/// Where the jobs are.
#[derive(Debug, Clone, Default)]
pub enum QueueEngine {
    /// In the state's database.
    #[default]
    State,
    /// In Redis 6.2 or newer.
    Redis {
        /// `redis://user:password@host:port/number`, or `rediss://`.
        url: Secret,
        /// Whether jobs may be lost: without it, a Redis that is not set to `appendfsync always` and `noeviction` is refused.
        loss_accepted: bool,
        /// Begins every key, so that several AuraLinks can share a Redis.
        prefix: String,
    },
}

/// How a queue is kept within bounds.
#[derive(Debug, Clone)]
pub struct QueueConfig {
    /// Where the jobs are.
    pub engine: QueueEngine,
    /// Jobs of one tenant that are not finished; one more is refused. Held to within what several servers accept in five seconds.
    pub max_pending: u64,
    /// Finished jobs that are kept, for each state: done, dead, cancelled. Above it, the oldest are deleted.
    pub max_finished: u64,
    /// How long done and cancelled jobs are kept.
    pub keep_finished: Duration,
    /// How long dead letters are kept.
    pub keep_dead: Duration,
    /// Schedules of one tenant.
    pub max_schedules: u64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3_600);
        Self {
            engine: QueueEngine::State,
            max_pending: 100_000,
            max_finished: 100_000,
            keep_finished: 7 * day,
            keep_dead: 30 * day,
            max_schedules: 1_000,
        }
    }
}

/// Why something with a job did not work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// What was asked for is outside the limits.
    #[error("{0}")]
    Invalid(String),
    /// The tenant has no such job or schedule.
    #[error("{0}")]
    NotFound(String),
    /// The idempotency key belongs to a job of another kind.
    #[error("{0}")]
    Exists(String),
    /// It cannot be done in the job's state.
    #[error("{0}")]
    Condition(String),
    /// A limit is reached, or the disk is full.
    #[error("{0}")]
    Full(String),
    /// The engine is set so that it can lose what it accepts.
    #[error("{0}")]
    NotDurable(String),
    /// The engine failed, refused, or is gone. Whether the last step was made is not known: ask again with the same idempotency key.
    #[error("{0}")]
    Engine(String),
}

impl From<StateError> for QueueError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Full(text) => Self::Full(text),
            StateError::Invalid(text) => Self::Invalid(text),
            other => Self::Engine(other.to_string()),
        }
    }
}

/// What the handles of a queue share.
struct Shared {
    store: Box<dyn Store>,
    config: QueueConfig,
    /// Wakes workers of this process when there is something to claim.
    ready: Notify,
    /// Wakes heartbeats of this process when a running job is cancelled.
    cancels: Notify,
    /// One more with every change of a job that this process made.
    changes: watch::Sender<u64>,
    pending: pending::Pending,
}

/// A queue. Clones are the same one.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({})", self.shared.store.name())
    }
}

fn no_job(id: &JobId) -> QueueError {
    QueueError::NotFound(format!("there is no job {id}: it was never there, or is gone with its time"))
}

impl Queue {
    /// Opens the queue. `state` is used where the engine is the state's.
    pub async fn open(config: QueueConfig, state: &State) -> Result<Self, QueueError> {
        let store: Box<dyn Store> = match (&config.engine, &state.engine) {
            (QueueEngine::Redis { url, loss_accepted, prefix }, _) => Box::new(redis::RedisStore::open(url, *loss_accepted, prefix).await?),
            (QueueEngine::State, Engine::Sqlite(sqlite)) => Box::new(sqlite::SqliteStore::new(Arc::clone(sqlite))),
            (QueueEngine::State, Engine::Postgres(postgres)) => Box::new(postgres::PostgresStore::new(Arc::clone(postgres))),
        };
        let pending = pending::Pending::new(config.max_pending);
        let shared = Shared { store, config, ready: Notify::new(), cancels: Notify::new(), changes: watch::Sender::new(0), pending };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// `sqlite`, `postgres` or `redis`.
    pub fn engine_name(&self) -> &'static str {
        self.shared.store.name()
    }

    /// Accepts a job: on disk when this returns.
    pub async fn enqueue(&self, job: NewJob) -> Result<JobId, QueueError> {
        let ids = self.enqueue_batch(vec![job]).await?;
        ids.into_iter().next().ok_or_else(|| QueueError::Engine("the engine accepted a job without naming it".into()))
    }

    /// Accepts all or none, at most [`MAX_BATCH`]; answers their names in the order given.
    pub async fn enqueue_batch(&self, jobs: Vec<NewJob>) -> Result<Vec<JobId>, QueueError> {
        if jobs.len() > MAX_BATCH {
            return Err(QueueError::Invalid(format!("{} jobs at once: at most {MAX_BATCH} are taken", jobs.len())));
        }
        let rows = jobs.into_iter().map(NewRow::new).collect::<Result<Vec<_>, _>>()?;
        let reserved = self.shared.pending.reserve(self.shared.store.as_ref(), &rows).await.inspect_err(|_| {
            metrics::counter!("auralink_jobs_refused_total").increment(rows.len() as u64);
        })?;
        let accepted = self.shared.store.enqueue(&rows).await?;
        reserved.keep();
        metrics::counter!("auralink_jobs_enqueued_total").increment(accepted.iter().filter(|accepted| accepted.new).count() as u64);
        self.shared.ready.notify_waiters();
        Ok(accepted.into_iter().map(|accepted| accepted.id).collect())
    }

    /// A job of the tenant's.
    pub async fn get(&self, tenant: &Tenant, id: &JobId) -> Result<Job, QueueError> {
        self.shared.store.get(tenant, id).await?.ok_or_else(|| no_job(id))
    }

    /// The tenant's jobs, newest first. A page that is full may have another after it.
    pub async fn list(&self, tenant: &Tenant, filter: &JobFilter) -> Result<Vec<Job>, QueueError> {
        if let Some(kind) = &filter.kind {
            job::check_kind(kind)?;
        }
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        if limit > MAX_PAGE {
            return Err(QueueError::Invalid(format!("a page of {limit} jobs: at most {MAX_PAGE} are given")));
        }
        self.shared.store.list(tenant, &JobFilter { limit, ..filter.clone() }).await
    }

    /// Ends a job: at once when it does not run; else its worker is told, and ends it. One that is finished stays as it is.
    pub async fn cancel(&self, tenant: &Tenant, id: &JobId) -> Result<Job, QueueError> {
        let job = self.shared.store.cancel(tenant, id).await?.ok_or_else(|| no_job(id))?;
        match job.state {
            JobState::Cancelled => metrics::counter!("auralink_jobs_cancelled_total").increment(1),
            JobState::Running => self.shared.cancels.notify_waiters(),
            _ => {}
        }
        self.changed();
        Ok(job)
    }

    /// Queues a dead or cancelled job again, with all its attempts.
    pub async fn retry(&self, tenant: &Tenant, id: &JobId) -> Result<Job, QueueError> {
        let retried = self.shared.store.retry(tenant, id).await?;
        self.changed();
        self.shared.ready.notify_waiters();
        match retried {
            Some(job) => Ok(job),
            None => {
                let job = self.get(tenant, id).await?;
                Err(QueueError::Condition(format!("the job {id} is {}: only dead and cancelled ones are retried", job.state)))
            }
        }
    }

    /// Deletes the tenant's jobs in a final state that ended `older_than` ago or earlier; at most [`MAX_PAGE`] a call. How many.
    pub async fn purge(&self, tenant: &Tenant, state: JobState, older_than: Duration) -> Result<u64, QueueError> {
        if !state.is_final() {
            return Err(QueueError::Condition(format!("{state} jobs are not purged: cancel them first")));
        }
        self.shared.store.purge(Some(tenant), state, store::millis(older_than), MAX_PAGE).await
    }

    /// The job now and after each change, until it is finished, gone, or the engine fails. Changes in quick succession are one.
    pub fn watch(&self, tenant: &Tenant, id: &JobId) -> impl Stream<Item = Result<Job, QueueError>> + Send + use<> {
        let (queue, tenant, id) = (self.clone(), tenant.clone(), id.clone());
        let changes = self.shared.changes.subscribe();
        futures_util::stream::unfold(Some((queue, tenant, id, changes, None::<Job>)), async |state| {
            let (queue, tenant, id, mut changes, last) = state?;
            loop {
                if last.is_some() {
                    tokio::time::sleep(WATCH_LEAST).await;
                    let _ = tokio::time::timeout(WATCH_MOST, changes.changed()).await;
                }
                changes.mark_unchanged();
                let job = match queue.get(&tenant, &id).await {
                    Ok(job) => job,
                    Err(error) => return Some((Err(error), None)),
                };
                if last.as_ref() == Some(&job) {
                    continue;
                }
                let next = (!job.state.is_final()).then(|| (queue, tenant, id, changes, Some(job.clone())));
                return Some((Ok(job), next));
            }
        })
    }

    /// How many of the tenant's jobs there are in each state.
    pub async fn stats(&self, tenant: &Tenant) -> Result<Stats, QueueError> {
        self.shared.store.stats(tenant).await
    }

    /// A job of this process was changed.
    fn changed(&self) {
        self.shared.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}
