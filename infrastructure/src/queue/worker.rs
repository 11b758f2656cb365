//! Runs jobs. Three loops: one claims as many as there is room for, one gives signs of life for those that run (and hears of cancelling),
//! one keeps house (takes jobs from workers that went away, fires schedules, deletes what is old); and one tells how attempts ended, until
//! it is heard.
//!
//! Rule: a worker that is not sure that a job is still its own stops it.

mod context;
mod house;
mod running;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::job::{check_kind, cut};
use super::store::{Backoff, Claim, End, MAX_LEASE, Outcome};
use super::{JobState, Queue, QueueError};

pub use context::JobContext;
use running::Running;

/// Between two tries of something that an engine refused.
const AGAIN_LEAST: Duration = Duration::from_millis(100);
const AGAIN_MOST: Duration = Duration::from_secs(5);

/// Ends told in one step.
const ENDS: usize = 256;

/// Most kinds of a worker: each is looked for in every claim.
const MAX_KINDS: usize = 64;

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Jobs at once.
    pub concurrency: usize,
    /// How long a job stays this worker's without a sign of life; at most ten minutes. Shorter: a dead worker's jobs go on sooner; longer: an
    /// engine may be away longer before jobs run twice.
    pub lease: Duration,
    /// Between two signs of life; also how soon cancelling and progress travel. At most a third of the lease.
    pub beat: Duration,
    /// Between two looks for jobs when nothing tells of any.
    pub poll: Duration,
    /// Between two passes of the house.
    pub house: Duration,
    /// Wait before the second attempt; doubled with each.
    pub backoff: Duration,
    /// Longest wait between attempts.
    pub backoff_most: Duration,
    /// How long a cancelled job may take to end by itself.
    pub cancel_grace: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            concurrency: 16,
            lease: Duration::from_secs(30),
            beat: Duration::from_secs(1),
            poll: Duration::from_millis(250),
            house: Duration::from_secs(1),
            backoff: Duration::from_secs(1),
            backoff_most: Duration::from_secs(300),
            cancel_grace: Duration::from_secs(30),
        }
    }
}

impl WorkerConfig {
    fn check(&self) -> Result<(), QueueError> {
        let wrong = |what: &str| Err(QueueError::Invalid(what.to_owned()));
        if !(1..=1_024).contains(&self.concurrency) {
            return wrong("a worker runs 1 to 1024 jobs at once");
        }
        if self.lease > MAX_LEASE || self.beat.is_zero() || self.beat * 3 > self.lease {
            return wrong("a lease is at most 600 s and at least three beats long");
        }
        if self.poll.is_zero() || self.house.is_zero() || self.backoff.is_zero() || self.backoff > self.backoff_most {
            return wrong("poll, house and backoff are more than nothing, and backoff is at most backoff_most");
        }
        Ok(())
    }

    pub(super) fn backoff(&self) -> Backoff {
        Backoff { base: self.backoff, most: self.backoff_most }
    }

    /// Before the attempt after this one: doubled each time, and a fifth more or less, so that what failed together does not come back together.
    fn wait_after(&self, attempt: u32) -> Duration {
        let wait = self.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(self.backoff_most);
        wait.mul_f64(rand::random_range(0.8..1.2))
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// Another attempt may succeed.
    #[error("{0}")]
    Retryable(String),
    /// No attempt will.
    #[error("{0}")]
    Fatal(String),
}

impl JobError {
    /// Another attempt may succeed.
    pub fn retryable(error: impl std::fmt::Display) -> Self {
        Self::Retryable(error.to_string())
    }

    /// No attempt will.
    pub fn fatal(error: impl std::fmt::Display) -> Self {
        Self::Fatal(error.to_string())
    }
}

/// Does the jobs of a kind. An attempt may be cut short anywhere (a crash, a lost lease), and then another begins: what it does must bear
/// being done twice.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Does one. The answer is the job's result, at most [`super::MAX_PAYLOAD_BYTES`] of JSON.
    async fn run(&self, job: &JobContext) -> Result<Value, JobError>;
}

#[async_trait]
impl<F, R> Handler for F
where
    F: Fn(JobContext) -> R + Send + Sync,
    R: Future<Output = Result<Value, JobError>> + Send,
{
    async fn run(&self, job: &JobContext) -> Result<Value, JobError> {
        self(job.clone()).await
    }
}

/// What the loops share.
pub(super) struct Parts {
    pub queue: Queue,
    pub config: WorkerConfig,
    pub name: String,
    handlers: BTreeMap<String, Arc<dyn Handler>>,
    pub running: Running,
    ends: mpsc::Sender<(End, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

/// A worker at work. Dropping it ends it as a crash would: its jobs run elsewhere when their leases end. [`Worker::stop`] is kinder.
pub struct Worker {
    parts: Arc<Parts>,
    stopping: watch::Sender<bool>,
    loops: JoinSet<()>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Worker({})", self.parts.name)
    }
}

impl Worker {
    /// Starts one. It claims only jobs of the kinds that it has handlers for; with none it keeps house alone.
    pub fn start(queue: &Queue, config: WorkerConfig, handlers: BTreeMap<String, Arc<dyn Handler>>) -> Result<Self, QueueError> {
        config.check()?;
        handlers.keys().try_for_each(|kind| check_kind(kind))?;
        if handlers.len() > MAX_KINDS {
            return Err(QueueError::Invalid(format!("{} kinds of jobs: a worker has at most {MAX_KINDS}", handlers.len())));
        }
        let (stopping, stop) = watch::channel(false);
        let (ends, told) = mpsc::channel(config.concurrency);
        let parts = Arc::new(Parts {
            queue: queue.clone(),
            name: format!("{}-{}", std::process::id(), uuid::Uuid::new_v4().simple()),
            handlers,
            running: Running::default(),
            ends,
            room: Arc::new(Semaphore::new(config.concurrency)),
            config,
        });
        let mut loops = JoinSet::new();
        loops.spawn(tell(queue.clone(), told));
        loops.spawn(house::keep(Arc::clone(&parts), stop.clone()));
        loops.spawn(running::beat(Arc::clone(&parts)));
        if !parts.handlers.is_empty() {
            loops.spawn(claim(Arc::clone(&parts), stop));
        }
        Ok(Self { parts, stopping, loops })
    }

    /// Claims no more, waits at most `grace` for what runs, gives the rest back without counting the attempt, and ends.
    pub async fn stop(mut self, grace: Duration) {
        self.stopping.send_replace(true);
        let all = u32::try_from(self.parts.config.concurrency).unwrap_or(u32::MAX);
        if tokio::time::timeout(grace, self.parts.room.acquire_many(all)).await.is_err() {
            self.parts.running.release_all();
            // Told to the engine, or the engine is away and leases tell.
            let _ = tokio::time::timeout(AGAIN_MOST, self.parts.room.acquire_many(all)).await;
        }
        self.loops.shutdown().await;
    }
}

/// Waits longer each time, up to a bound.
#[derive(Default)]
struct Again {
    wait: Duration,
}

impl Again {
    async fn sleep(&mut self) {
        self.wait = (self.wait * 2).clamp(AGAIN_LEAST, AGAIN_MOST);
        tokio::time::sleep(self.wait).await;
    }

    fn reset(&mut self) {
        self.wait = Duration::ZERO;
    }
}

/// Claims as many jobs as there is room for.
async fn claim(parts: Arc<Parts>, mut stop: watch::Receiver<bool>) {
    let kinds: Vec<String> = parts.handlers.keys().cloned().collect();
    let mut again = Again::default();
    loop {
        // Listened to before looking, so that nothing is missed in between.
        let ready = parts.queue.shared.ready.notified();
        let room = tokio::select! {
            room = Arc::clone(&parts.room).acquire_owned() => room.expect("it is never closed"),
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let more = parts.room.available_permits();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let mut room = match Arc::clone(&parts.room).try_acquire_many_owned(more) {
            Ok(mut others) => {
                others.merge(room);
                others
            }
            Err(_) => room,
        };
        let most = u32::try_from(room.num_permits()).unwrap_or(u32::MAX);
        let claim = Claim { kinds: kinds.clone(), worker: parts.name.clone(), lease: parts.config.lease, most };
        match parts.queue.shared.store.claim(&claim).await {
            Ok(claimed) => {
                again.reset();
                metrics::counter!("auralink_jobs_claimed_total").increment(claimed.len() as u64);
                let full = claimed.len() == most as usize;
                if !claimed.is_empty() {
                    parts.queue.changed();
                }
                for one in claimed {
                    let permit = room.split(1).expect("no more are claimed than there is room for");
                    running::spawn(Arc::clone(&parts), one, permit);
                }
                drop(room);
                if !full {
                    tokio::select! {
                        () = ready => {}
                        () = tokio::time::sleep(parts.config.poll) => {}
                        _ = stop.wait_for(|stop| *stop) => return,
                    }
                }
            }
            Err(error) => {
                drop(room);
                tracing::warn!(%error, "no jobs can be claimed");
                tokio::select! {
                    () = again.sleep() => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
            }
        }
        if *stop.borrow() {
            return;
        }
    }
}

/// Tells how attempts ended, together, until it is heard.
async fn tell(queue: Queue, mut told: mpsc::Receiver<(End, OwnedSemaphorePermit)>) {
    let mut again = Again::default();
    let mut together = Vec::new();
    while told.recv_many(&mut together, ENDS).await > 0 {
        let (ends, room): (Vec<End>, Vec<OwnedSemaphorePermit>) = together.drain(..).unzip();
        loop {
            match queue.shared.store.finish(&ends).await {
                Ok(states) => {
                    states.iter().for_each(|state| count(*state));
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, jobs = ends.len(), "the ends of jobs cannot be told yet");
                    again.sleep().await;
                }
            }
        }
        again.reset();
        drop(room);
        queue.changed();
    }
}

fn count(state: Option<JobState>) {
    match state {
        Some(JobState::Done) => metrics::counter!("auralink_jobs_done_total").increment(1),
        Some(JobState::Waiting) => metrics::counter!("auralink_jobs_retried_total").increment(1),
        Some(JobState::Dead) => metrics::counter!("auralink_jobs_dead_total").increment(1),
        Some(JobState::Cancelled) => metrics::counter!("auralink_jobs_cancelled_total").increment(1),
        Some(JobState::Queued | JobState::Running) => metrics::counter!("auralink_jobs_released_total").increment(1),
        // Its lease had ended, and another has it now.
        None => metrics::counter!("auralink_jobs_fenced_total").increment(1),
    }
}

/// What an attempt's answer means.
fn outcome(answer: Result<Value, JobError>, config: &WorkerConfig, attempt: u32) -> Outcome {
    match answer {
        Ok(result) => {
            let text = result.to_string();
            if text.len() > super::MAX_PAYLOAD_BYTES {
                let most = super::MAX_PAYLOAD_BYTES;
                return Outcome::Dead(format!(
                    "its result has {} bytes: at most {most} are kept; larger ones belong into files",
                    text.len()
                ));
            }
            Outcome::Done(text)
        }
        Err(JobError::Retryable(error)) => Outcome::Retry { after: config.wait_after(attempt), error: cut(&error) },
        Err(JobError::Fatal(error)) => Outcome::Dead(cut(&error)),
    }
}
