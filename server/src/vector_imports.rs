//! Records from a file of a store into a collection, as a job with progress in bytes of the file.
//!
//! Begun again, it reads the file from its beginning: a record that is there already is replaced by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use auralink_infrastructure::queue::{Handler, JobContext, JobError, JobId, NewJob, Queue};
use auralink_infrastructure::storage::{EntryKind, StorageError};
use auralink_infrastructure::vector::VectorError;
use auralink_infrastructure::vector::transfer::Progress;
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::io::StreamReader;

use crate::api::ApiError;
use crate::caller::{Caller, Scope};
use crate::files::{Files, FilesError, Place, of_attempt};
use crate::jobs::Handlers;
use crate::vectors::VectorStore;

/// Kind of the job.
const KIND: &str = "vectors.import";

#[derive(Serialize, Deserialize)]
struct ImportJob {
    collection: String,
    from: Place,
}

/// The application layer. Clones are the same one.
#[derive(Clone)]
pub struct VectorImports {
    vectors: VectorStore,
    files: Files,
    queue: Queue,
}

impl VectorImports {
    /// Over its parts.
    pub fn new(vectors: VectorStore, files: Files, queue: Queue) -> Self {
        Self { vectors, files, queue }
    }

    /// Imports a file of JSON lines, as a job.
    pub async fn start(&self, caller: &Caller, collection: String, from: Place) -> Result<JobId, ApiError> {
        Ok(self.queue.enqueue(self.job(caller, collection, from).await?).await?)
    }

    /// That job, not queued yet. What is not there is told now, not by a job that fails.
    pub async fn job(&self, caller: &Caller, collection: String, from: Place) -> Result<NewJob, ApiError> {
        caller.require(Scope::VectorsWrite)?;
        self.vectors.service().describe(&caller.tenant, &collection).await?;
        if self.files.stat(caller, &from).await?.kind != EntryKind::File {
            return Err(ApiError::invalid_argument(format!("{}:{} is no file: a file of JSON lines is imported", from.store, from.path)));
        }
        let payload = serde_json::to_value(ImportJob { collection, from }).map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(NewJob::new(KIND, caller.tenant.clone(), payload))
    }

    /// What does these jobs.
    pub fn handlers(&self) -> Handlers {
        Handlers::from([(KIND.to_owned(), Arc::new(Importer(self.clone())) as Arc<dyn Handler>)])
    }
}

struct Importer(VectorImports);

#[async_trait]
impl Handler for Importer {
    async fn run(&self, job: &JobContext) -> Result<Value, JobError> {
        let (ImportJob { collection, from }, tenant) = (job.payload()?, &job.job().tenant);
        let (store, path) = self.0.files.of(tenant, &from).map_err(JobError::fatal)?;
        let reading = store.read(&path, 0, None, None).await.map_err(|error| of_attempt(&error))?;
        let (size, read) = (reading.size, Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&read);
        let content = reading.stream.inspect_ok(move |part| {
            counted.fetch_add(part.len() as u64, Ordering::Relaxed);
        });
        let mut lines = StreamReader::new(Box::pin(content.map_err(std::io::Error::other)));
        let mut tell = |progress: &Progress| {
            let told = format!("{} records, {} lines rejected", progress.imported, progress.rejected);
            job.progress(read.load(Ordering::Relaxed), size, &told);
            !job.is_cancelled()
        };
        let done = self.0.vectors.service().import(tenant, &collection, &mut lines, 0, &mut tell).await;
        if job.is_cancelled() {
            return Err(JobError::retryable("cancelled"));
        }
        match done {
            Ok(progress) => Ok(json!({"imported": progress.imported, "rejected": progress.rejected, "errors": progress.errors})),
            // Lines that are no records are passed over: what stops it is the store, the engine or a limit.
            Err(stopped) => Err(match stopped.why {
                VectorError::NotFound(_) | VectorError::Exhausted(_) => JobError::fatal(stopped),
                _ => JobError::retryable(stopped),
            }),
        }
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        FilesError::from(error).into()
    }
}
