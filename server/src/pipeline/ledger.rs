//! What was done, kept in the state's documents: records, and results in parts that a document can hold. So they are in its backups, and workers
//! on other machines see the same.

use std::path::PathBuf;
use std::sync::Arc;

use auralink_infrastructure::state::{Documents, Expect, StateError};
use auralink_infrastructure::tenant::Tenant;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::record::{AudioFile, Step, StepKind};

/// Collection of recordings: `TENANT/HASH OF SOURCE`.
const SOURCES: &str = "pipeline_files";
/// Collection of steps: `TENANT/SHA-256/STEP-HASH OF PARAMETERS`.
const STEPS: &str = "pipeline_steps";
/// Collection of results: a step's key, and the number of the part.
const RESULTS: &str = "pipeline_results";
/// Collection of where a content was seen last: `TENANT/SHA-256`.
const CONTENTS: &str = "pipeline_contents";
/// Bytes of a result in one part: twice as many in a document, at worst, whose limit is a mebibyte.
const PART_BYTES: usize = 384 * 1024;
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
        self.documents.put(CONTENTS, &format!("{tenant}/{}", file.sha256), &Value::from(file.source.as_str()), Expect::Any).await?;
        let key = format!("{tenant}/{}", short(&file.source));
        self.documents.put(SOURCES, &key, &written(file)?, Expect::Any).await.map(drop)
    }

    /// Where a content was seen last.
    pub(super) async fn seen(&self, tenant: &Tenant, sha256: &str) -> Result<Option<String>, StateError> {
        let found = self.documents.get(CONTENTS, &format!("{tenant}/{sha256}")).await?;
        Ok(found.and_then(|document| document.value.as_str().map(str::to_owned)))
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

    /// A step's record.
    pub(super) async fn step(&self, tenant: &Tenant, sha256: &str, kind: StepKind, parameters: &Value) -> Result<Option<Step>, StateError> {
        let found = self.documents.get(STEPS, &key(tenant, sha256, kind, parameters)).await?;
        found.map(|document| read(&document.value)).transpose()
    }

    pub(super) async fn steps(&self, tenant: &Tenant, sha256: &str) -> Result<Vec<Step>, StateError> {
        let found = self.documents.list(STEPS, &format!("{tenant}/{sha256}/"), None, MAX_STEPS).await?;
        found.iter().map(|document| read(&document.value)).collect()
    }

    pub(super) async fn put_step(&self, tenant: &Tenant, sha256: &str, step: &Step) -> Result<(), StateError> {
        let key = key(tenant, sha256, step.kind, &step.parameters);
        self.documents.put(STEPS, &key, &written(step)?, Expect::Any).await.map(drop)
    }

    /// Keeps a result; its SHA-256. On disk, whole, when it returns.
    pub(super) async fn put_result(&self, tenant: &Tenant, sha256: &str, step: &Step, result: &Value) -> Result<String, StateError> {
        let text = result.to_string();
        let parts = parts(&text);
        for (number, part) in parts.iter().enumerate() {
            let key = format!("{}/{number}", key(tenant, sha256, step.kind, &step.parameters));
            self.documents.put(RESULTS, &key, &json!({"of": parts.len(), "text": part}), Expect::Any).await?;
        }
        Ok(hex(&Sha256::digest(&text)))
    }

    /// A result; `None` when it is gone or was damaged.
    pub(super) async fn result<T: DeserializeOwned>(&self, tenant: &Tenant, sha256: &str, step: &Step) -> Result<Option<T>, StateError> {
        let (mut text, mut number, mut of) = (String::new(), 0, 1);
        while number < of {
            let key = format!("{}/{number}", key(tenant, sha256, step.kind, &step.parameters));
            let Some(part) = self.documents.get(RESULTS, &key).await? else { return Ok(None) };
            of = part.value["of"].as_u64().unwrap_or(0);
            text.push_str(part.value["text"].as_str().unwrap_or_default());
            number += 1;
        }
        let right = step.result_sha256.as_ref().is_some_and(|kept| *kept == hex(&Sha256::digest(&text)));
        Ok(serde_json::from_str(&text).ok().filter(|_| right))
    }

    /// Where a recording's content lies while it is worked on.
    pub(super) fn audio(&self, tenant: &Tenant, source: &str) -> PathBuf {
        self.folder.join("audio").join(tenant.as_str()).join(short(source))
    }
}

fn key(tenant: &Tenant, sha256: &str, kind: StepKind, parameters: &Value) -> String {
    // `Value` keeps its keys in order: the same parameters are the same text.
    format!("{tenant}/{sha256}/{}-{}", kind.as_str(), &short(&parameters.to_string())[..16])
}

/// At most [`PART_BYTES`] each, cut between letters.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while rest.len() > PART_BYTES {
        let (part, more) = rest.split_at(rest.floor_char_boundary(PART_BYTES));
        parts.push(part);
        rest = more;
    }
    parts.push(rest);
    parts
}

/// Names a text in few letters.
pub(super) fn short(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<T, StateError> {
    T::deserialize(value).map_err(|error| StateError::Engine(format!("a record of the pipeline is damaged: {error}")))
}

fn written<T: serde::Serialize>(record: &T) -> Result<Value, StateError> {
    serde_json::to_value(record).map_err(|error| StateError::Engine(format!("a record of the pipeline cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_bounded_and_come_together_again() {
        for text in [String::new(), "a".repeat(PART_BYTES), format!("a{}", "ä".repeat(PART_BYTES)), "€".repeat(PART_BYTES)] {
            let parts = parts(&text);
            assert!(parts.iter().all(|part| part.len() <= PART_BYTES));
            assert_eq!(parts.concat(), text);
            assert_eq!(parts.len(), text.len().div_ceil(PART_BYTES).max(1));
        }
    }
}
