//! From recordings to searchable transcripts: decode, transcribe, analyse, embed, reduce, one step after the other for each file.
//!
//! Place: over a store ([`auralink_infrastructure::storage`]), the speech engine and the sentence model; jobs of the queue and `auralink pipeline` call
//! [`Pipeline::file`]. Rules: a step is known by the content's SHA-256, its name and its parameters, and what is kept is not done again; a result
//! is on disk before its record says so; a step whose engine is absent is recorded as `unavailable`, with a sentence, and the rest goes on.

pub mod download;
pub mod export;
mod ledger;
mod meaning;
pub mod record;
mod speech;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use auralink_ai::scheduler::Engine;
use auralink_infrastructure::state::{Documents, StateError};
use auralink_infrastructure::storage::{StorageError, StorePath, TenantStore};
use auralink_infrastructure::tenant::Tenant;
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use ledger::Ledger;
pub use meaning::{Found, Meaning};
use record::{AudioFile, Step, StepKind, StepState};
pub use speech::{Segment, Transcript};

/// Names that are taken for recordings.
const ENDINGS: [&str; 12] = ["wav", "flac", "mp3", "ogg", "oga", "opus", "m4a", "mp4", "webm", "mkv", "aac", "aiff"];

/// Files of one run at most.
pub const MAX_FILES: usize = 100_000;

/// Why a file or a run could not go on.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The records.
    #[error(transparent)]
    State(#[from] StateError),
    /// The disk.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Somebody ended it.
    #[error("stopped; what is done is kept, and the same again goes on")]
    Stopped,
    /// More files than a run takes.
    #[error("there are more than {MAX_FILES} recordings: run the folders in it one by one")]
    TooMany,
    /// The search cannot be answered.
    #[error("{0}")]
    Unavailable(String),
}

impl PipelineError {
    /// Whether the same again may go better.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_passing(),
            Self::State(_) | Self::Io { .. } => true,
            Self::Stopped | Self::TooMany | Self::Unavailable(_) => false,
        }
    }
}

/// How far a file is: the step, and thousandths of it.
pub type Progress<'a> = &'a (dyn Fn(&str, u64) + Send + Sync);

/// What it stands on.
pub struct Parts {
    /// Where records are kept.
    pub documents: Arc<dyn Documents>,
    /// Where half-imported files are kept.
    pub folder: PathBuf,
    /// The recogniser, or why there is none.
    pub speech: Result<Engine, String>,
    /// Which recogniser: another one makes other transcripts.
    pub recogniser: String,
    /// The sentence model and the index, or why there are none.
    pub meaning: Result<Meaning, String>,
}

/// The pipeline. Clones are the same one.
#[derive(Clone)]
pub struct Pipeline {
    parts: Arc<Parts>,
    ledger: Ledger,
}

/// What came of a file.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The recording.
    pub file: AudioFile,
    /// Its steps, in order.
    pub steps: Vec<Step>,
    /// How many of them were kept from before.
    pub kept: usize,
}

impl Report {
    /// One step of it.
    pub fn step(&self, kind: StepKind) -> Option<&Step> {
        self.steps.iter().find(|step| step.kind == kind)
    }
}

/// A step that was not kept, done now.
enum Done {
    /// With a result to keep, and a word about it.
    Result(Value, Value),
    /// Its result is kept where it belongs; a word about it.
    Kept(Value),
    /// It failed, and would again: kept as such.
    Failed(String),
    /// It failed, and may not again.
    Passing(String),
    /// Nobody can do it.
    Unavailable(String),
}

impl Pipeline {
    /// Over its parts.
    pub fn new(parts: Parts) -> Self {
        let ledger = Ledger::new(parts.documents.clone(), parts.folder.clone());
        Self { parts: Arc::new(parts), ledger }
    }

    /// The recordings below a folder, in the order of their paths: files whose names end as recordings do.
    ///
    /// # Errors
    /// [`PipelineError::Storage`], [`PipelineError::TooMany`]
    pub async fn recordings(store: &TenantStore, folder: &StorePath) -> Result<Vec<StorePath>, PipelineError> {
        use auralink_infrastructure::storage::{EntryKind, MAX_PAGE};
        let (mut found, mut folders) = (Vec::new(), vec![folder.clone()]);
        while let Some(folder) = folders.pop() {
            let mut mark = None;
            loop {
                let page = store.browse(&folder, mark.as_deref(), MAX_PAGE).await?;
                for entry in page.entries {
                    let path = folder.child(&entry.name).map_err(StorageError::from)?;
                    match entry.kind {
                        EntryKind::Folder => folders.push(path),
                        EntryKind::File if is_recording(&entry.name) => found.push(path),
                        _ => {}
                    }
                }
                if found.len() + folders.len() > MAX_FILES {
                    return Err(PipelineError::TooMany);
                }
                mark = page.next;
                if mark.is_none() {
                    break;
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Takes one file through every step that is not kept.
    ///
    /// # Errors
    /// [`PipelineError`] when the store, the records or the disk fail; a step that fails is in the report.
    pub async fn file(
        &self,
        tenant: &Tenant,
        store: &TenantStore,
        path: &StorePath,
        stop: &CancellationToken,
        progress: Progress<'_>,
    ) -> Result<Report, PipelineError> {
        let entry = store.stat(path).await?;
        let name = path.name().unwrap_or_default().to_owned();
        let source = format!("{}:{path}", store.store().name());
        let known = self.ledger.source(tenant, &source).await?.filter(|file| !entry.version.is_empty() && file.version == entry.version);
        let mut work = Work { pipeline: self, tenant, name, audio: None, stop, progress, steps: Vec::new(), kept: 0 };
        let file = match known {
            Some(file) => file,
            None => {
                let (audio, imported) = work.import(store, path, &source).await?;
                work.audio = Some(audio);
                let (name, now_ms) = (work.name.clone(), now_ms());
                let file = AudioFile {
                    sha256: imported.sha256,
                    name,
                    source: source.clone(),
                    size: imported.size,
                    version: imported.version,
                    added_ms: now_ms,
                };
                self.ledger.put_source(tenant, &file).await?;
                file
            }
        };
        let done = work.steps(&file, store, path, &source).await;
        done?;
        // After a stop the audio stays for the next run; a finished file's is gone, also what a run that was killed had left.
        let _ = tokio::fs::remove_file(self.ledger.audio(tenant, &source)).await;
        Ok(Report { file, steps: work.steps, kept: work.kept })
    }

    /// The tenant's recordings with their steps: at most `limit` after `after`, which is a report's `file.source`'s key.
    ///
    /// # Errors
    /// [`PipelineError::State`]
    pub async fn status(&self, tenant: &Tenant, after: Option<&str>, limit: u32) -> Result<(Vec<Report>, Option<String>), PipelineError> {
        let (files, next) = self.ledger.sources(tenant, after, limit).await?;
        let mut reports = Vec::new();
        for file in files {
            let mut steps = self.ledger.steps(tenant, &file.sha256).await?;
            steps.sort_by_key(|step| (step.kind, step.finished_ms));
            let kept = steps.len();
            reports.push(Report { file, steps, kept });
        }
        Ok((reports, next))
    }

    /// The transcript of a report's file, if its step is done.
    ///
    /// # Errors
    /// [`PipelineError`] when it cannot be read.
    pub async fn transcript(&self, tenant: &Tenant, report: &Report) -> Result<Option<Transcript>, PipelineError> {
        match report.step(StepKind::Transcribe).filter(|step| step.state == StepState::Done) {
            None => Ok(None),
            Some(step) => Ok(self.ledger.result(tenant, &report.file.sha256, step).await?),
        }
    }

    /// Segments of the tenant's transcripts that mean what `words` mean, best first.
    ///
    /// # Errors
    /// [`PipelineError::Unavailable`] says what is missing.
    pub async fn search(&self, tenant: &Tenant, words: &str, limit: u32) -> Result<Vec<Found>, PipelineError> {
        let meaning = self.parts.meaning.as_ref().map_err(|reason| PipelineError::Unavailable(reason.clone()))?;
        meaning.search(&self.ledger, tenant, &self.parts.recogniser, words, limit as usize).await
    }
}

impl Pipeline {
    /// What a step's result depends on beside the content.
    fn parameters(&self, kind: StepKind) -> Value {
        let parts = &self.parts;
        // What is known without starting the recogniser, so that a search finds what a run has kept.
        let speech = || json!({"recogniser": parts.recogniser});
        match kind {
            StepKind::Decode => json!({"rate": auralink_ai::audio::SAMPLE_RATE}),
            StepKind::Transcribe => speech(),
            StepKind::Embed => match &parts.meaning {
                Ok(meaning) => json!({"of": speech(), "model": meaning.model(), "index": meaning.engine()}),
                Err(_) => json!({"of": speech()}),
            },
            StepKind::Analyse | StepKind::Reduce => json!({}),
        }
    }
}

/// One file under way.
struct Work<'a> {
    pipeline: &'a Pipeline,
    tenant: &'a Tenant,
    name: String,
    /// The content on this machine, once it was needed.
    audio: Option<PathBuf>,
    stop: &'a CancellationToken,
    progress: Progress<'a>,
    steps: Vec<Step>,
    kept: usize,
}

impl Work<'_> {
    async fn steps(&mut self, file: &AudioFile, store: &TenantStore, path: &StorePath, source: &str) -> Result<(), PipelineError> {
        for kind in StepKind::ALL {
            if self.stop.is_cancelled() {
                return Err(PipelineError::Stopped);
            }
            let parameters = self.pipeline.parameters(kind);
            let kept = self.pipeline.ledger.step(self.tenant, &file.sha256, kind, &parameters).await?;
            if let Some(kept) = kept.filter(|kept| kept.state == StepState::Done || kept.is_final) {
                self.kept += 1;
                self.steps.push(kept);
                continue;
            }
            if kind.needs_audio() && self.audio.is_none() && self.can(kind) {
                let (audio, imported) = self.import(store, path, source).await?;
                self.audio = Some(audio);
                if imported.sha256 != file.sha256 {
                    return Err(StorageError::Changed { path: path.to_string() }.into());
                }
            }
            let (started_ms, started) = (now_ms(), Instant::now());
            let done = self.step(kind, file).await?;
            let mut step = Step {
                kind,
                state: StepState::Done,
                is_final: true,
                parameters,
                reason: String::new(),
                summary: Value::Null,
                result_sha256: None,
                started_ms,
                finished_ms: 0,
                took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            };
            match done {
                Done::Result(result, summary) => {
                    step.result_sha256 = Some(self.pipeline.ledger.put_result(self.tenant, &file.sha256, &step, &result).await?);
                    step.summary = summary;
                }
                Done::Kept(summary) => step.summary = summary,
                Done::Failed(reason) => (step.state, step.reason) = (StepState::Failed, reason),
                Done::Passing(reason) => (step.state, step.reason, step.is_final) = (StepState::Failed, reason, false),
                Done::Unavailable(reason) => (step.state, step.reason, step.is_final) = (StepState::Unavailable, reason, false),
            }
            step.finished_ms = now_ms();
            self.pipeline.ledger.put_step(self.tenant, &file.sha256, &step).await?;
            let labels = [("step", kind.as_str()), ("state", step.state.as_str())];
            metrics::counter!("auralink_pipeline_steps_total", &labels).increment(1);
            self.steps.push(step);
        }
        Ok(())
    }

    fn can(&self, kind: StepKind) -> bool {
        kind == StepKind::Decode || (kind == StepKind::Transcribe && self.pipeline.parts.speech.is_ok() && self.was_done(StepKind::Decode))
    }

    fn was_done(&self, kind: StepKind) -> bool {
        self.steps.iter().any(|step| step.kind == kind && step.state == StepState::Done)
    }

    async fn step(&self, kind: StepKind, file: &AudioFile) -> Result<Done, PipelineError> {
        (self.progress)(kind.as_str(), 0);
        match kind {
            StepKind::Decode => self.decode().await,
            _ if !self.was_done(StepKind::Decode) => Ok(Done::Passing("it could not be decoded".into())),
            StepKind::Transcribe => self.transcribe().await,
            StepKind::Analyse => Ok(Done::Unavailable("this version has no audio analysis".into())),
            StepKind::Embed => self.embed(file).await,
            StepKind::Reduce => Ok(Done::Unavailable("this version has no UMAP, which makes the map of recordings".into())),
        }
    }

    async fn decode(&self) -> Result<Done, PipelineError> {
        let (audio, name, stop) = (self.here()?, self.name.clone(), self.stop.clone());
        match blocking(move || speech::decode(&audio, &name, &stop)).await? {
            Err(_) if self.stop.is_cancelled() => Err(PipelineError::Stopped),
            Ok(decoded) => {
                let said = serde_json::to_value(decoded).unwrap_or_default();
                Ok(Done::Result(said.clone(), said))
            }
            Err(reason) => Ok(Done::Failed(reason)),
        }
    }

    async fn transcribe(&self) -> Result<Done, PipelineError> {
        let engine = match &self.pipeline.parts.speech {
            Ok(engine) => engine.clone(),
            Err(reason) => return Ok(Done::Unavailable(format!("there is no speech engine: {reason}"))),
        };
        let (audio, name, stop) = (self.here()?, self.name.clone(), self.stop.clone());
        let decoded = self.steps.iter().find(|step| step.kind == StepKind::Decode);
        let duration_ms = decoded.and_then(|step| step.summary["duration_ms"].as_u64()).unwrap_or(0);
        let (report, mut told) = tokio::sync::watch::channel(0);
        let work = blocking(move || speech::transcribe(&engine, &audio, &name, duration_ms, &stop, &report));
        tokio::pin!(work);
        let transcript = loop {
            tokio::select! {
                done = &mut work => break done?,
                Ok(()) = told.changed() => (self.progress)(StepKind::Transcribe.as_str(), *told.borrow_and_update()),
            }
        };
        match transcript {
            Err(_) if self.stop.is_cancelled() => Err(PipelineError::Stopped),
            Err(reason) => Ok(Done::Passing(reason)),
            Ok(transcript) => {
                let summary = json!({"segments": transcript.segments.len(), "skipped_ms": transcript.skipped_ms});
                Ok(Done::Result(serde_json::to_value(transcript).unwrap_or_default(), summary))
            }
        }
    }

    async fn embed(&self, file: &AudioFile) -> Result<Done, PipelineError> {
        let meaning = match &self.pipeline.parts.meaning {
            Ok(meaning) => meaning,
            Err(reason) => return Ok(Done::Unavailable(reason.clone())),
        };
        let Some(step) = self.steps.iter().find(|step| step.kind == StepKind::Transcribe && step.state == StepState::Done) else {
            return Ok(Done::Passing("there is no transcript".into()));
        };
        let transcript: Option<Transcript> = self.pipeline.ledger.result(self.tenant, &file.sha256, step).await?;
        let Some(transcript) = transcript else { return Ok(Done::Passing("the transcript is gone: run it again".into())) };
        match meaning.keep(self.tenant, file, &self.pipeline.parts.recogniser, &transcript).await {
            Ok(segments) => Ok(Done::Kept(json!({"segments": segments}))),
            Err(reason) => Ok(Done::Passing(reason)),
        }
    }

    fn here(&self) -> Result<PathBuf, PipelineError> {
        self.audio
            .clone()
            .ok_or_else(|| PipelineError::Io { what: "the audio is not here".into(), source: std::io::ErrorKind::NotFound.into() })
    }

    async fn import(
        &self,
        store: &TenantStore,
        path: &StorePath,
        source: &str,
    ) -> Result<(PathBuf, auralink_infrastructure::storage::Imported), PipelineError> {
        let target = self.pipeline.ledger.audio(self.tenant, source);
        let progress = |done: u64, of: u64| (self.progress)("import", done.saturating_mul(1_000).checked_div(of).unwrap_or(1_000));
        tokio::select! {
            imported = store.import(path, &target, &progress) => Ok((target.clone(), imported?)),
            () = self.stop.cancelled() => Err(PipelineError::Stopped),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, PipelineError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| PipelineError::Io { what: "a thread of the pipeline ended".into(), source: std::io::Error::other(error) })
}

/// Whether a name ends as recordings' names do.
pub fn is_recording(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, ending)| ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(ending)))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
