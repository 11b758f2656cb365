//! What a handler sees of its job.

use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::JobError;
use crate::queue::job::cut;
use crate::queue::{Job, Progress};

/// A job in its handler's hands. Clones are the same one.
#[derive(Debug, Clone)]
pub struct JobContext {
    job: Arc<Job>,
    progress: Arc<Mutex<Progress>>,
    cancelled: CancellationToken,
}

impl JobContext {
    pub(super) fn new(job: Job) -> Self {
        Self { job: Arc::new(job), progress: Arc::default(), cancelled: CancellationToken::new() }
    }

    /// The job as it was when this attempt began.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Its payload as a type of the handler's; one that does not fit is fatal.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, JobError> {
        T::deserialize(&self.job.payload)
            .map_err(|error| JobError::Fatal(format!("the payload is not what `{}` takes: {error}", self.job.kind)))
    }

    /// Notes how far it is: cheap, as often as one likes. It travels with the next sign of life.
    pub fn progress(&self, done: u64, total: u64, message: &str) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Progress { done, total, message: cut(message) };
    }

    pub(super) fn progress_now(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it should end: its owner wants so, or it is this worker's no longer.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Waits until it should end.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    /// For handing on to what can be cancelled.
    pub fn token(&self) -> &CancellationToken {
        &self.cancelled
    }
}
