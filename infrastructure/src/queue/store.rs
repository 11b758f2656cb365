//! What an engine must do for the queue: single atomic steps. Time is the engine's: one clock for all workers.
//!
//! Rule: a lease or a wait that ends later than any could was given by a clock that went back, and counts as ended.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use super::QueueError;
use super::job::{Job, JobFilter, JobId, JobState, MAX_DELAY, NewJob, Progress};
use super::schedule::Schedule;
use crate::tenant::Tenant;

/// Longest lease that a worker may ask for.
pub const MAX_LEASE: Duration = Duration::from_secs(600);

/// Waiting jobs that one step queues, and running ones that it takes from workers that went away.
pub const STEP: u32 = 500;

/// Milliseconds, as the engines count.
pub fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Longest wait in an engine's milliseconds.
pub fn max_delay_ms() -> i64 {
    millis(MAX_DELAY) + 1
}

/// A job that was checked and named.
#[derive(Debug, Clone)]
pub struct NewRow {
    pub id: JobId,
    pub payload: String,
    pub job: NewJob,
}

impl NewRow {
    pub fn new(job: NewJob) -> Result<Self, QueueError> {
        let payload = job.checked()?;
        Ok(Self { id: JobId::new(), payload, job })
    }

    /// Where it begins.
    pub fn state(&self) -> JobState {
        if self.job.delay.is_zero() { JobState::Queued } else { JobState::Waiting }
    }
}

/// The answer to a [`NewRow`].
#[derive(Debug, Clone)]
pub struct Accepted {
    pub id: JobId,
    /// Whether it was not there before.
    pub new: bool,
}

/// The key is another job's.
pub fn other_kind(row: &NewRow, kind: &str) -> QueueError {
    QueueError::Exists(format!(
        "the idempotency key {:?} belongs to a job of the kind {kind}, not {}: take another key",
        row.job.idempotency_key.as_deref().unwrap_or_default(),
        row.job.kind
    ))
}

/// A job in a worker's hands.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub job: Job,
    pub fence: i64,
}

/// How a worker wants to claim.
#[derive(Debug, Clone)]
pub struct Claim {
    pub kinds: Vec<String>,
    pub worker: String,
    pub lease: Duration,
    pub most: u32,
}

/// A sign of life.
#[derive(Debug, Clone)]
pub struct Beat {
    pub id: JobId,
    pub fence: i64,
    pub progress: Progress,
}

/// What a worker hears back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Go on.
    Kept,
    /// Its owner wants it ended.
    Cancel,
    /// It is another's, or gone: stop.
    Lost,
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The result, as JSON.
    Done(String),
    /// It may be tried again, after this.
    Retry { after: Duration, error: String },
    /// It may not.
    Dead(String),
    /// Its owner wanted it ended, and it was.
    Cancelled(String),
    /// The worker stops: the attempt does not count.
    Released,
}

impl Outcome {
    /// The state that is asked for, the result, the error and the delay.
    pub fn parts(&self) -> (JobState, Option<&str>, Option<&str>, i64) {
        match self {
            Self::Done(result) => (JobState::Done, Some(result), None, 0),
            Self::Retry { after, error } => (JobState::Waiting, None, Some(error), millis(*after)),
            Self::Dead(error) => (JobState::Dead, None, Some(error), 0),
            Self::Cancelled(error) => (JobState::Cancelled, None, Some(error), 0),
            Self::Released => (JobState::Queued, None, None, 0),
        }
    }
}

/// The end of an attempt.
#[derive(Debug, Clone)]
pub struct End {
    pub id: JobId,
    pub fence: i64,
    pub progress: Progress,
    pub outcome: Outcome,
}

/// Jobs taken from workers that went away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reaped {
    pub waiting: u64,
    pub dead: u64,
    pub cancelled: u64,
}

/// How jobs wait between attempts: `base * 2^(attempt - 1)`, at most `most`.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    pub base: Duration,
    pub most: Duration,
}

/// How many jobs there are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Ready.
    pub queued: u64,
    /// With a worker.
    pub running: u64,
    /// For later.
    pub waiting: u64,
    /// Done.
    pub done: u64,
    /// Dead letters.
    pub dead: u64,
    /// Cancelled.
    pub cancelled: u64,
}

impl Stats {
    pub(crate) fn of(counts: &BTreeMap<String, u64>) -> Self {
        let of = |state: JobState| counts.get(state.as_str()).copied().unwrap_or(0);
        Self {
            queued: of(JobState::Queued),
            running: of(JobState::Running),
            waiting: of(JobState::Waiting),
            done: of(JobState::Done),
            dead: of(JobState::Dead),
            cancelled: of(JobState::Cancelled),
        }
    }
}

/// An engine.
#[async_trait]
pub trait Store: Send + Sync {
    /// `sqlite`, `postgres` or `redis`.
    fn name(&self) -> &'static str;

    /// The engine's clock, milliseconds since 1970.
    async fn now(&self) -> Result<i64, QueueError>;

    /// All or none.
    async fn enqueue(&self, rows: &[NewRow]) -> Result<Vec<Accepted>, QueueError>;

    /// Unfinished jobs of the tenant, counted up to `most`.
    async fn pending(&self, tenant: &Tenant, most: u64) -> Result<u64, QueueError>;

    async fn get(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>, QueueError>;

    async fn list(&self, tenant: &Tenant, filter: &JobFilter) -> Result<Vec<Job>, QueueError>;

    /// Ends what does not run, marks what does; the job afterwards.
    async fn cancel(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>, QueueError>;

    /// The job afterwards; none when it is not dead or cancelled, or not there.
    async fn retry(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>, QueueError>;

    /// Deletes finished jobs, of one tenant or of all, that ended `older_ms` ago or earlier.
    async fn purge(&self, tenant: Option<&Tenant>, state: JobState, older_ms: i64, most: u32) -> Result<u64, QueueError>;

    /// Deletes the oldest finished jobs in a state above `keep`; at most `most`.
    async fn trim(&self, state: JobState, keep: u64, most: u32) -> Result<u64, QueueError>;

    async fn stats(&self, tenant: &Tenant) -> Result<Stats, QueueError>;

    /// Queues what has waited long enough, and gives the next jobs to a worker.
    async fn claim(&self, claim: &Claim) -> Result<Vec<Claimed>, QueueError>;

    /// Prolongs leases and notes progress; an answer for each, in order.
    async fn beat(&self, beats: &[Beat], lease: Duration) -> Result<Vec<Heard>, QueueError>;

    /// Ends attempts; for each, in order, the job's state now, or none when the attempt was not the newest.
    async fn finish(&self, ends: &[End]) -> Result<Vec<Option<JobState>>, QueueError>;

    /// Takes jobs from workers that gave no sign of life.
    async fn reap(&self, backoff: Backoff) -> Result<Reaped, QueueError>;

    /// Writes a schedule unless the tenant has `most` others; whether it did.
    async fn schedule_put(&self, schedule: &Schedule, most: u64) -> Result<bool, QueueError>;

    async fn schedule_delete(&self, tenant: &Tenant, name: &str) -> Result<bool, QueueError>;

    async fn schedules(&self, tenant: &Tenant) -> Result<Vec<Schedule>, QueueError>;

    /// Schedules whose time has come.
    async fn schedules_due(&self, most: u32) -> Result<Vec<Schedule>, QueueError>;

    /// Moves a schedule from its time to the next and enqueues its job, in one step; not when another did it before.
    async fn fire(&self, schedule: &Schedule, next_ms: i64, row: &NewRow) -> Result<bool, QueueError>;
}
