//! What was done, kept: records in the state's documents, results (which may be large) in files beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use auralink_infrastructure::state::{Documents, Expect, StateError};
use auralink_infrastructure::tenant::Tenant;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::PipelineError;
use super::record::{AudioFile, Step, StepKind};

/// Collection of recordings: `TENANT/HASH OF SOURCE`.
const SOURCES: &str = "pipeline_files";
/// Collection of steps: `TENANT/SHA-256/STEP-HASH OF PARAMETERS`.
const STEPS: &str = "pipeline_steps";
/// Steps of one content that are listed: several recognisers' results may be kept.
const MAX_STEPS: u32 = 100;

#[derive(Clone)]
pub(super) struct Ledger {
    documents: Arc<dyn Documents>,
    folder: PathBuf,
}

impl Ledger {
    pub(super) fn new(documents: Arc<dyn Documents>, folder: PathBuf) -> Self {
        Self { documents, folder }
    }

    pub(super) async fn source(&self, tenant: &Tenant, source: &str) -> Result<Option<AudioFile>, StateError> {
        let found = self.documents.get(SOURCES, &format!("{tenant}/{}", short(source))).await?;
        found.map(|document| read(&document.value)).transpose()
    }

    pub(super) async fn put_source(&self, tenant: &Tenant, file: &AudioFile) -> Result<(), StateError> {
        let key = format!("{tenant}/{}", short(&file.source));
        self.documents.put(SOURCES, &key, &written(file)?, Expect::Any).await.map(drop)
    }

    pub(super) async fn sources(
        &self,
        tenant: &Tenant,
        after: Option<&str>,
        limit: u32,
    ) -> Result<(Vec<AudioFile>, Option<String>), StateError> {
        let prefix = format!("{tenant}/");
        let after = after.map(|after| format!("{prefix}{after}"));
        let found = self.documents.list(SOURCES, &prefix, after.as_deref(), limit).await?;
        let full = found.len() == limit as usize;
        let next = found.last().filter(|_| full).and_then(|last| last.key.strip_prefix(&prefix)).map(str::to_owned);
        Ok((found.iter().map(|document| read(&document.value)).collect::<Result<_, _>>()?, next))
    }

    /// A step's record; one whose result is no longer there counts for nothing.
    pub(super) async fn step(&self, tenant: &Tenant, sha256: &str, kind: StepKind, parameters: &Value) -> Result<Option<Step>, StateError> {
        let found = self.documents.get(STEPS, &format!("{tenant}/{sha256}/{}", name(kind, parameters))).await?;
        let Some(step) = found.map(|document| read::<Step>(&document.value)).transpose()? else { return Ok(None) };
        let there = match &step.result_sha256 {
            Some(_) => tokio::fs::try_exists(self.result_file(tenant, sha256, &step)).await.unwrap_or(false),
            None => true,
        };
        Ok(Some(step).filter(|_| there))
    }

    pub(super) async fn steps(&self, tenant: &Tenant, sha256: &str) -> Result<Vec<Step>, StateError> {
        let found = self.documents.list(STEPS, &format!("{tenant}/{sha256}/"), None, MAX_STEPS).await?;
        found.iter().map(|document| read(&document.value)).collect()
    }

    pub(super) async fn put_step(&self, tenant: &Tenant, sha256: &str, step: &Step) -> Result<(), StateError> {
        let key = format!("{tenant}/{sha256}/{}", name(step.kind, &step.parameters));
        self.documents.put(STEPS, &key, &written(step)?, Expect::Any).await.map(drop)
    }

    /// Keeps a result; its SHA-256. On disk, whole, when it returns.
    pub(super) async fn put_result(&self, tenant: &Tenant, sha256: &str, step: &Step, result: &Value) -> Result<String, PipelineError> {
        let file = self.result_file(tenant, sha256, step);
        let bytes = result.to_string().into_bytes();
        let hash = hex(&Sha256::digest(&bytes));
        let kept = file.clone();
        tokio::task::spawn_blocking(move || keep(&kept, &bytes))
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|source| PipelineError::Io { what: format!("{} cannot be kept", file.display()), source })?;
        Ok(hash)
    }

    /// A result; `None` when it is gone or was damaged.
    pub(super) async fn result<T: DeserializeOwned>(&self, tenant: &Tenant, sha256: &str, step: &Step) -> Result<Option<T>, PipelineError> {
        let file = self.result_file(tenant, sha256, step);
        let bytes = match tokio::fs::read(&file).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|source| PipelineError::Io { what: format!("{} cannot be read", file.display()), source })?,
        };
        let right = step.result_sha256.as_ref().is_some_and(|kept| *kept == hex(&Sha256::digest(&bytes)));
        Ok(serde_json::from_slice(&bytes).ok().filter(|_| right))
    }

    /// Where a recording's content lies while it is worked on.
    pub(super) fn audio(&self, tenant: &Tenant, source: &str) -> PathBuf {
        self.folder.join("audio").join(tenant.as_str()).join(short(source))
    }

    fn result_file(&self, tenant: &Tenant, sha256: &str, step: &Step) -> PathBuf {
        self.folder.join("results").join(tenant.as_str()).join(sha256).join(format!("{}.json", name(step.kind, &step.parameters)))
    }
}

fn name(kind: StepKind, parameters: &Value) -> String {
    // `Value` keeps its keys in order: the same parameters are the same text.
    format!("{}-{}", kind.as_str(), &short(&parameters.to_string())[..16])
}

fn short(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn keep(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let part = file.with_extension("part");
    let mut out = std::fs::File::create(&part)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    std::fs::rename(&part, file)?;
    std::fs::File::open(folder)?.sync_all()
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<T, StateError> {
    T::deserialize(value).map_err(|error| StateError::Engine(format!("a record of the pipeline is damaged: {error}")))
}

fn written<T: serde::Serialize>(record: &T) -> Result<Value, StateError> {
    serde_json::to_value(record).map_err(|error| StateError::Engine(format!("a record of the pipeline cannot be written: {error}")))
}
