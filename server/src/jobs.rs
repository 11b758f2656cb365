//! Jobs as callers see them: the application layer under gRPC and REST. A caller has its tenant's jobs, with the scopes `jobs:read` and `jobs:write`.
//!
//! Slices enqueue their own kinds with [`Jobs::queue`] and give their handlers to [`start_worker`]; here is one kind of the server's own, which checks
//! that workers run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use auralink_infrastructure::queue::{
    Handler, Job, JobContext, JobError, JobFilter, JobId, JobState, NewJob, Queue, QueueError, Worker, WorkerConfig,
};
use futures_util::stream::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::caller::{Caller, Denied, Scope};

/// Kind of the job that checks that workers run.
pub const CHECK: &str = "check";

/// Longest work of a check.
const CHECK_MS_MAX: u32 = 60_000;

/// Jobs that are watched at once, over all faces: each asks the engine up to ten times a second.
const WATCHED_MAX: usize = 512;

/// By kind.
pub type Handlers = BTreeMap<String, Arc<dyn Handler>>;

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    /// The caller may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The queue refused or failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Too many watch.
    #[error("{WATCHED_MAX} jobs are watched already: ask for the job now and then instead, or try again later")]
    Watched,
}

/// What a check does.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Check {
    /// How long it works.
    pub work_ms: u32,
    /// Its first attempts fail, so many.
    pub failures: u32,
}

/// The jobs of every tenant. Clones are the same.
#[derive(Debug, Clone)]
pub struct Jobs {
    queue: Queue,
    watched: Arc<Semaphore>,
}

impl Jobs {
    /// Over a queue.
    pub fn new(queue: Queue) -> Self {
        Self { queue, watched: Arc::new(Semaphore::new(WATCHED_MAX)) }
    }

    /// For slices that enqueue their own kinds.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Accepts a check.
    pub async fn check(
        &self,
        caller: &Caller,
        check: &Check,
        max_attempts: Option<u32>,
        idempotency_key: Option<String>,
    ) -> Result<Job, JobsError> {
        let new = Self::check_job(caller, check)?;
        let max_attempts = max_attempts.unwrap_or(new.max_attempts);
        let id = self.queue.enqueue(NewJob { idempotency_key, max_attempts, ..new }).await?;
        Ok(self.queue.get(&caller.tenant, &id).await?)
    }

    /// A check, not queued yet.
    pub fn check_job(caller: &Caller, check: &Check) -> Result<NewJob, JobsError> {
        caller.require(Scope::JobsWrite)?;
        if check.work_ms > CHECK_MS_MAX {
            return Err(QueueError::Invalid(format!("a check works for {} ms: at most {CHECK_MS_MAX}", check.work_ms)).into());
        }
        Ok(NewJob::new(CHECK, caller.tenant.clone(), json!(check)))
    }

    /// One of the caller's.
    pub async fn get(&self, caller: &Caller, id: &str) -> Result<Job, JobsError> {
        caller.require(Scope::JobsRead)?;
        Ok(self.queue.get(&caller.tenant, &id.parse()?).await?)
    }

    /// A page, newest first, and the place of the next one.
    pub async fn list(&self, caller: &Caller, filter: &JobFilter) -> Result<(Vec<Job>, Option<JobId>), JobsError> {
        caller.require(Scope::JobsRead)?;
        let limit = if filter.limit == 0 { 100 } else { filter.limit };
        let jobs = self.queue.list(&caller.tenant, &JobFilter { limit, ..filter.clone() }).await?;
        let next = jobs.last().filter(|_| jobs.len() == limit as usize).map(|job| job.id.clone());
        Ok((jobs, next))
    }

    /// Ends one.
    pub async fn cancel(&self, caller: &Caller, id: &str) -> Result<Job, JobsError> {
        caller.require(Scope::JobsWrite)?;
        Ok(self.queue.cancel(&caller.tenant, &id.parse()?).await?)
    }

    /// Queues a dead or cancelled one again.
    pub async fn retry(&self, caller: &Caller, id: &str) -> Result<Job, JobsError> {
        caller.require(Scope::JobsWrite)?;
        let id = id.parse()?;
        // What it does again needs what doing it needs.
        match self.queue.get(&caller.tenant, &id).await?.kind.split_once('.') {
            Some(("files", _)) => caller.require(Scope::FilesWrite)?,
            Some(("vectors", _)) => caller.require(Scope::VectorsWrite)?,
            _ => {}
        }
        Ok(self.queue.retry(&caller.tenant, &id).await?)
    }

    /// Deletes finished ones; how many.
    pub async fn purge(&self, caller: &Caller, state: JobState, older_than: Duration) -> Result<u64, JobsError> {
        caller.require(Scope::JobsWrite)?;
        Ok(self.queue.purge(&caller.tenant, state, older_than).await?)
    }

    /// The job now and after each change, until it is finished.
    pub async fn watch(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<impl Stream<Item = Result<Job, QueueError>> + Send + 'static + use<>, JobsError> {
        caller.require(Scope::JobsRead)?;
        let id: JobId = id.parse()?;
        let place = Arc::clone(&self.watched).try_acquire_owned().map_err(|_| {
            metrics::counter!("auralink_api_refused_total", "why" => "watched").increment(1);
            JobsError::Watched
        })?;
        // What is not there is an answer, not a stream.
        self.queue.get(&caller.tenant, &id).await?;
        let changes = self.queue.watch(&caller.tenant, &id);
        Ok(changes.inspect(move |_| {
            // Held as long as the stream.
            let _ = &place;
        }))
    }
}

/// The handlers of the server's own kinds.
pub fn own_handlers() -> Handlers {
    Handlers::from([(CHECK.to_owned(), Arc::new(check) as Arc<dyn Handler>)])
}

/// Runs jobs in this process.
pub fn start_worker(queue: &Queue, concurrency: usize, handlers: Handlers) -> Result<Worker, QueueError> {
    let config = WorkerConfig::default();
    match concurrency {
        // Schedules are fired and old jobs deleted all the same.
        0 => Worker::start(queue, config, Handlers::new()),
        concurrency => Worker::start(queue, WorkerConfig { concurrency, ..config }, handlers),
    }
}

async fn check(job: JobContext) -> Result<Value, JobError> {
    let Check { work_ms, failures } = job.payload()?;
    let steps = 20;
    for step in 0..steps {
        job.progress(step, steps, "checking that jobs run");
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(u64::from(work_ms) / steps)) => {}
            () = job.cancelled() => return Err(JobError::retryable("it was told to end")),
        }
    }
    if job.job().attempt <= failures {
        return Err(JobError::retryable(format!("attempt {} fails, as was asked for", job.job().attempt)));
    }
    job.progress(steps, steps, "checked");
    Ok(json!({ "attempts": job.job().attempt }))
}
