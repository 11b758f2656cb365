//! What can be done with files: browse, read and write in the configured stores, and the long work on them as jobs.
//!
//! Place in the flow: gRPC ([`crate::grpc`]), REST ([`crate::api`]) and the command line are faces on this. Rules: a caller sees its tenant's part of a
//! store, and nothing else; what takes long is a job, which bears being begun again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use auralink_infrastructure::queue::{Handler, JobContext, JobError, JobId, NewJob, Queue, QueueError};
use auralink_infrastructure::storage::{Content, Entry, Page, Reading, StorageError, Store, StorePath, Stores, TenantStore, Written};
use auralink_infrastructure::tenant::Tenant;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::api::ApiError;
use crate::caller::{Caller, Scope};
use crate::pipeline::export::Format;
use crate::pipeline::record::StepState;
use crate::pipeline::{Found, Pipeline, PipelineError, Report};

/// Kind of the job that copies a file.
const IMPORT: &str = "files.import";
/// Kind of the job that runs the pipeline.
const PIPELINE: &str = "files.pipeline";
/// Recordings of one run that are worked on at once: the speech engine is shared, and one's import may wait while another is heard.
const AT_ONCE: usize = 2;
/// Failures that a run's result tells in words; the rest is counted.
const TOLD: usize = 50;
/// How long a sender of content may say nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// Entries of a page, unless asked for otherwise.
const PAGE: u32 = 100;

/// A place in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The store's name.
    #[schema(example = "recordings")]
    pub store: String,
    /// A path in it.
    #[serde(default)]
    #[schema(example = "2026/talk.wav")]
    pub path: String,
}

/// Where transcripts are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// The store's name.
    pub store: String,
    /// A folder in it; without it, its root.
    #[serde(default)]
    pub folder: String,
    /// How; without it, in every way.
    #[serde(default)]
    pub formats: Vec<Format>,
}

#[derive(Serialize, Deserialize)]
struct ImportJob {
    from: Place,
    to: Place,
}

#[derive(Serialize, Deserialize)]
struct PipelineJob {
    at: Place,
    export: Option<Export>,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The scope is missing.
    #[error(transparent)]
    Denied(#[from] crate::caller::Denied),
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The pipeline.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
}

impl From<FilesError> for ApiError {
    fn from(error: FilesError) -> Self {
        let message = error.to_string();
        match error {
            FilesError::Denied(denied) => denied.into(),
            FilesError::Storage(error) | FilesError::Pipeline(PipelineError::Storage(error)) => of_storage(&error, message),
            FilesError::Pipeline(PipelineError::Unavailable(_)) => Self::failed_precondition(message),
            FilesError::Pipeline(PipelineError::TooMany) => Self::resource_exhausted(message),
            FilesError::Pipeline(_) => Self::internal(message),
            FilesError::Queue(error) => match error {
                QueueError::Invalid(_) => Self::invalid_argument(message),
                QueueError::NotFound(_) => Self::not_found(message),
                QueueError::Exists(_) => Self::already_exists(message),
                QueueError::Condition(_) => Self::failed_precondition(message),
                QueueError::Full(_) => Self::resource_exhausted(message),
                QueueError::NotDurable(_) | QueueError::Engine(_) => Self::unavailable(message),
            },
        }
    }
}

fn of_storage(error: &StorageError, message: String) -> ApiError {
    let waits = match error {
        StorageError::Busy { seconds, .. } => Some(*seconds),
        _ => None,
    };
    let made = match error.code() {
        "not_found" => ApiError::not_found(message),
        "invalid_argument" => ApiError::invalid_argument(message),
        "failed_precondition" | "aborted" => ApiError::failed_precondition(message),
        "permission_denied" => ApiError::permission_denied(message),
        "resource_exhausted" => ApiError::resource_exhausted(message),
        // What was sent does not hash to what was promised.
        "data_loss" => ApiError::invalid_argument(message),
        "unavailable" => ApiError::unavailable(message),
        _ => ApiError::internal(message),
    };
    made.retry_after(waits)
}

impl From<FilesError> for tonic::Status {
    fn from(error: FilesError) -> Self {
        ApiError::from(error).into()
    }
}

/// The application layer. Clones are the same one.
#[derive(Clone)]
pub struct Files {
    stores: Stores,
    pipeline: Pipeline,
    queue: Queue,
    /// Where imports wait that are on their way from one store to another.
    folder: PathBuf,
}

impl Files {
    /// Over its parts; `folder` is below the data folder.
    pub fn new(stores: Stores, pipeline: Pipeline, queue: Queue, folder: PathBuf) -> Self {
        Self { stores, pipeline, queue, folder }
    }

    /// The stores.
    pub fn stores(&self, caller: &Caller) -> Result<Vec<Store>, FilesError> {
        caller.require(Scope::FilesRead)?;
        Ok(self.stores.iter().cloned().collect())
    }

    /// A page of a folder; 0 entries: as many as usual.
    pub async fn browse(&self, caller: &Caller, at: &Place, page: Option<&str>, limit: u32) -> Result<Page, FilesError> {
        let (store, path) = self.place(caller, Scope::FilesRead, at)?;
        Ok(store.browse(&path, page, if limit == 0 { PAGE } else { limit }).await?)
    }

    /// One file or folder.
    pub async fn stat(&self, caller: &Caller, at: &Place) -> Result<Entry, FilesError> {
        let (store, path) = self.place(caller, Scope::FilesRead, at)?;
        Ok(store.stat(&path).await?)
    }

    /// Content, from `from` up to, not including, `to`.
    pub async fn read(
        &self,
        caller: &Caller,
        at: &Place,
        from: u64,
        to: Option<u64>,
        version: Option<&str>,
    ) -> Result<Reading, FilesError> {
        let (store, path) = self.place(caller, Scope::FilesRead, at)?;
        Ok(store.read(&path, from, to, version).await?)
    }

    /// Writes content as it comes, whole or not at all.
    pub async fn write(
        &self,
        caller: &Caller,
        at: &Place,
        stream: impl futures_util::Stream<Item = Result<Bytes, String>> + Send + 'static,
        sha256: Option<String>,
    ) -> Result<Written, FilesError> {
        let (store, path) = self.place(caller, Scope::FilesWrite, at)?;
        if let Some(wrong) = sha256.as_ref().filter(|text| text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            let shown: String = wrong.chars().take(80).collect();
            return Err(StorageError::Argument(format!("{shown:?} is no SHA-256: 64 hexadecimal digits are")).into());
        }
        let name = path.to_string();
        let stream =
            tokio_stream::StreamExt::timeout(stream, PATIENCE).map(|part| part.unwrap_or_else(|_| Err("nothing came for 30 s".into())));
        let stream = stream.map_err(move |reason| StorageError::Interrupted { path: name.clone(), reason }).boxed();
        Ok(store.write(&path, Content { stream, limit: store.store().max_file_bytes(), sha256 }).await?)
    }

    /// Deletes; whether it was there.
    pub async fn delete(&self, caller: &Caller, at: &Place) -> Result<bool, FilesError> {
        let (store, path) = self.place(caller, Scope::FilesWrite, at)?;
        Ok(store.delete(&path).await?)
    }

    /// Copies a file from one store into another, as a job.
    pub async fn import(&self, caller: &Caller, from: Place, to: Place) -> Result<JobId, FilesError> {
        Ok(self.queue.enqueue(self.import_job(caller, from, to)?).await?)
    }

    /// That job, not queued yet.
    pub fn import_job(&self, caller: &Caller, from: Place, to: Place) -> Result<NewJob, FilesError> {
        self.place(caller, Scope::FilesRead, &from)?;
        let (target, _) = self.place(caller, Scope::FilesWrite, &to)?;
        if target.store().is_shared() {
            return Err(StorageError::ReadOnly { store: to.store }.into());
        }
        job(caller, IMPORT, &ImportJob { from, to })
    }

    /// Runs the pipeline over a recording or a folder, as a job.
    pub async fn run_pipeline(&self, caller: &Caller, at: Place, export: Option<Export>) -> Result<JobId, FilesError> {
        Ok(self.queue.enqueue(self.pipeline_job(caller, at, export).await?).await?)
    }

    /// That job, not queued yet.
    pub async fn pipeline_job(&self, caller: &Caller, at: Place, export: Option<Export>) -> Result<NewJob, FilesError> {
        let (store, path) = self.place(caller, Scope::FilesRead, &at)?;
        caller.require(Scope::FilesWrite)?;
        if let Some(export) = &export {
            let (target, _) = self.place(caller, Scope::FilesWrite, &Place { store: export.store.clone(), path: export.folder.clone() })?;
            if target.store().is_shared() {
                return Err(StorageError::ReadOnly { store: export.store.clone() }.into());
            }
        }
        // What is not there is told now, not by a job that fails.
        if !path.is_root() {
            store.stat(&path).await?;
        }
        job(caller, PIPELINE, &PipelineJob { at, export })
    }

    /// What the pipeline made of the tenant's recordings; 0 reports: as many as usual.
    pub async fn pipelines(&self, caller: &Caller, after: Option<&str>, limit: u32) -> Result<(Vec<Report>, Option<String>), FilesError> {
        caller.require(Scope::FilesRead)?;
        if limit > 1_000 || after.is_some_and(|after| after.len() > 100) {
            return Err(StorageError::Argument("a page has 1 to 1000 reports, and `after` is the `next` of another page".into()).into());
        }
        Ok(self.pipeline.status(&caller.tenant, after, if limit == 0 { PAGE } else { limit }).await?)
    }

    /// Speech that means what the words mean; 0: ten stretches of it.
    pub async fn search(&self, caller: &Caller, words: &str, limit: u32) -> Result<Vec<Found>, FilesError> {
        caller.require(Scope::FilesRead)?;
        if words.trim().is_empty() || words.len() > 4_096 || limit > 100 {
            return Err(StorageError::Argument("a search has 1 to 4096 bytes of words and finds 1 to 100 stretches".into()).into());
        }
        Ok(self.pipeline.search(&caller.tenant, words, if limit == 0 { 10 } else { limit }).await?)
    }

    /// What does this layer's jobs, by their kinds.
    pub fn handlers(&self) -> BTreeMap<String, Arc<dyn Handler>> {
        let import: Arc<dyn Handler> = Arc::new(Importer(self.clone()));
        let pipeline: Arc<dyn Handler> = Arc::new(Runner(self.clone()));
        [(IMPORT.to_owned(), import), (PIPELINE.to_owned(), pipeline)].into()
    }

    fn place(&self, caller: &Caller, scope: Scope, at: &Place) -> Result<(TenantStore, StorePath), FilesError> {
        caller.require(scope)?;
        Ok(self.of(&caller.tenant, at)?)
    }

    /// What a tenant sees of a store, and a path in it.
    pub fn of(&self, tenant: &Tenant, at: &Place) -> Result<(TenantStore, StorePath), StorageError> {
        Ok((self.stores.get(&at.store)?.of(tenant), at.path.parse()?))
    }
}

fn job(caller: &Caller, kind: &str, payload: &impl Serialize) -> Result<NewJob, FilesError> {
    let payload = serde_json::to_value(payload).map_err(|error| QueueError::Invalid(error.to_string()))?;
    Ok(NewJob::new(kind, caller.tenant.clone(), payload))
}

/// Does `files.import`.
struct Importer(Files);

#[async_trait]
impl Handler for Importer {
    async fn run(&self, job: &JobContext) -> Result<Value, JobError> {
        let ImportJob { from, to } = job.payload()?;
        let tenant = &job.job().tenant;
        let (source, from_path) = self.0.of(tenant, &from).map_err(JobError::fatal)?;
        let (target, to_path) = self.0.of(tenant, &to).map_err(JobError::fatal)?;
        // Named after the job: another attempt goes on where this one stops.
        let here = self.0.folder.join("imports").join(format!("{:x}", Sha256::digest(job.job().id.as_str())));
        let told = |done, of| job.progress(done, of, "import");
        let imported = tokio::select! {
            imported = source.import(&from_path, &here, &told) => imported.map_err(|error| of_attempt(&error))?,
            () = job.cancelled() => return Err(JobError::retryable("cancelled")),
        };
        let written = write_file(&target, &to_path, &here, imported.sha256).await;
        let _ = tokio::fs::remove_file(&here).await;
        let written = written.map_err(|error| of_attempt(&error))?;
        Ok(json!({"size": written.size, "sha256": written.sha256, "version": written.version, "resumed_from": imported.resumed_from}))
    }
}

async fn write_file(target: &TenantStore, path: &StorePath, file: &std::path::Path, sha256: String) -> Result<Written, StorageError> {
    let failed = |error| StorageError::Io { what: format!("{} cannot be read", file.display()), source: error };
    let open = tokio::fs::File::open(file).await.map_err(failed)?;
    let name = path.to_string();
    let stream = tokio_util::io::ReaderStream::with_capacity(open, 256 * 1024)
        .map_err(move |source| StorageError::Io { what: format!("{name} cannot be read on its way"), source })
        .boxed();
    target.write(path, Content { stream, limit: target.store().max_file_bytes(), sha256: Some(sha256) }).await
}

/// What an attempt that met it says to the queue.
pub fn of_attempt(error: &StorageError) -> JobError {
    match error {
        error if error.is_passing() => JobError::retryable(error),
        StorageError::Changed { .. } | StorageError::Checksum { .. } | StorageError::Full { .. } | StorageError::Io { .. } => {
            JobError::retryable(error)
        }
        error => JobError::fatal(error),
    }
}

/// Does `files.pipeline`.
struct Runner(Files);

#[async_trait]
impl Handler for Runner {
    async fn run(&self, job: &JobContext) -> Result<Value, JobError> {
        let PipelineJob { at, export } = job.payload()?;
        let tenant = &job.job().tenant;
        let (store, path) = self.0.of(tenant, &at).map_err(JobError::fatal)?;
        let recordings = recordings(&store, &path).await.map_err(|error| of_pipeline(&error))?;
        let total = recordings.len() as u64;
        job.progress(0, total, "");
        let export = match &export {
            Some(export) => Some((
                self.0.of(tenant, &Place { store: export.store.clone(), path: export.folder.clone() }).map_err(JobError::fatal)?,
                export,
            )),
            None => None,
        };
        let mut done = 0;
        let (mut failed, mut words) = (0u64, Vec::new());
        let mut under_way = futures_util::stream::iter(recordings)
            .map(|recording| {
                let (store, path, export) = (&store, &path, &export);
                async move {
                    let report = self.0.pipeline.file(tenant, store, &recording, job.token(), &untold).await?;
                    if let Some(((target, folder), export)) = export {
                        write_transcript(&self.0.pipeline, tenant, &report, target, &exported(folder, path, &recording)?, &export.formats)
                            .await?;
                    }
                    Ok::<_, PipelineError>(report)
                }
            })
            .buffer_unordered(AT_ONCE);
        while let Some(report) = under_way.next().await {
            let report = report.map_err(|error| of_pipeline(&error))?;
            done += 1;
            job.progress(done, total, &report.file.name);
            if let Some(step) = report.steps.iter().find(|step| step.state == StepState::Failed) {
                failed += 1;
                if words.len() < TOLD {
                    words.push(json!({"source": report.file.source, "step": step.kind, "reason": step.reason}));
                }
            }
        }
        Ok(json!({"recordings": total, "failed": failed, "failures": words}))
    }
}

/// A run tells of whole files.
fn untold(_: &str, _: u64) {}

/// One recording, or those below a folder.
pub async fn recordings(store: &TenantStore, path: &StorePath) -> Result<Vec<StorePath>, PipelineError> {
    use auralink_infrastructure::storage::EntryKind;
    if !path.is_root() && store.stat(path).await?.kind == EntryKind::File {
        return Ok(vec![path.clone()]);
    }
    Pipeline::recordings(store, path).await
}

fn of_pipeline(error: &PipelineError) -> JobError {
    match error {
        PipelineError::Storage(error) => of_attempt(error),
        PipelineError::Stopped => JobError::retryable(error),
        error if error.is_passing() => JobError::retryable(error),
        error => JobError::fatal(error),
    }
}

/// Where a recording's transcript goes: as deep below `folder` as the recording is below the folder that was run.
pub fn exported(folder: &StorePath, run: &StorePath, recording: &StorePath) -> Result<StorePath, StorageError> {
    let below = recording.as_str().strip_prefix(run.as_str()).unwrap_or(recording.as_str()).trim_start_matches('/');
    let below = if below.is_empty() { recording.name().unwrap_or_default() } else { below };
    Ok(folder.join(&below.parse()?))
}

/// Writes a report's transcript beside `path`, once for each format: `talk.wav.txt` and so on. A file without one writes nothing.
pub async fn write_transcript(
    pipeline: &Pipeline,
    tenant: &Tenant,
    report: &Report,
    target: &TenantStore,
    path: &StorePath,
    formats: &[Format],
) -> Result<(), PipelineError> {
    let Some(transcript) = pipeline.transcript(tenant, report).await? else { return Ok(()) };
    let formats = if formats.is_empty() { &[Format::Txt, Format::Srt, Format::Vtt, Format::Json] } else { formats };
    for format in formats {
        let name = format!("{}.{}", path.name().unwrap_or_default(), format.ending());
        let path = path.folder().child(&name).map_err(StorageError::from)?;
        let text = format.write(&transcript);
        let sha256 = format!("{:x}", Sha256::digest(&text));
        // What is there already is not written again.
        let there = target.stat(&path).await.ok().and_then(|entry| entry.checksum);
        if there != Some(auralink_infrastructure::storage::Checksum::Sha256(sha256)) {
            target.write(&path, Content::bytes(text)).await?;
        }
    }
    Ok(())
}
