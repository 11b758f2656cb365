//! What is written of a sandbox and of a snapshot, and where.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::{SandboxId, Spec, VmError};
use crate::state::{Document, Documents, Expect, StateError};
use crate::tenant::Tenant;

/// Where a sandbox is in its life. The words that end in -ing are written before an engine acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Being made.
    Creating,
    /// Made and not started, or stopped.
    Stopped,
    /// Being started.
    Starting,
    /// Programs can run.
    Running,
    /// Frozen.
    Paused,
    /// Being stopped.
    Stopping,
    /// Being deleted; tried again until it is done.
    Deleting,
}

impl Status {
    /// As text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Deleting => "deleting",
        }
    }
}

/// A sandbox as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: SandboxId,
    /// Its name among its tenant's; may be empty.
    pub name: String,
    /// Which engine runs it.
    pub engine: String,
    /// What it shall be; the source as engines see it.
    pub spec: Spec,
    /// What its source is in the caller's words: `host`, `image busybox`, `snapshot snap-…`, `rootfs /…`.
    pub source: String,
    /// Digest of its image.
    pub image: Option<String>,
    /// Snapshot that it began from.
    pub snapshot: Option<String>,
    /// Where it is in its life.
    pub status: Status,
    /// Why it is so, when it was not asked for.
    pub why: String,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// When it was started last.
    pub started_ms: Option<u64>,
    /// When it will be deleted.
    pub expires_ms: Option<u64>,
}

/// A snapshot as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// `snap-` and 20 letters.
    pub id: String,
    /// Whose it is.
    pub tenant: Tenant,
    /// Which engine wrote it and can begin from it.
    pub engine: String,
    /// The sandbox that it was taken of.
    pub sandbox: SandboxId,
    /// Digest of that sandbox's image: still needed where the snapshot holds changes alone.
    pub image: Option<String>,
    /// Labels of the caller's.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Whether it is complete.
    pub ready: bool,
    /// When it was taken, milliseconds since 1970.
    pub created_ms: u64,
}

const SANDBOXES: &str = "sandboxes";
const SNAPSHOTS: &str = "sandbox_snapshots";

/// Documents read at once.
const PAGE: u32 = 500;

/// The records of this server; other servers on the same state have theirs under other ids.
pub(super) struct Store {
    documents: Arc<dyn Documents>,
    server: String,
}

impl Store {
    pub(super) fn new(documents: Arc<dyn Documents>, server: String) -> Self {
        Self { documents, server }
    }

    fn key(&self, id: &str) -> String {
        format!("{}/{id}", self.server)
    }

    pub(super) async fn make(&self, record: &Record) -> Result<(), VmError> {
        self.put(SANDBOXES, record.id.as_str(), record, Expect::Absent).await
    }

    pub(super) async fn save(&self, record: &Record) -> Result<(), VmError> {
        self.put(SANDBOXES, record.id.as_str(), record, Expect::Any).await
    }

    pub(super) async fn forget(&self, id: &SandboxId) -> Result<(), VmError> {
        self.documents.delete(SANDBOXES, &self.key(id.as_str()), Expect::Any).await.map_err(failed)?;
        Ok(())
    }

    pub(super) async fn save_snapshot(&self, record: &SnapshotRecord) -> Result<(), VmError> {
        self.put(SNAPSHOTS, &record.id, record, Expect::Any).await
    }

    pub(super) async fn forget_snapshot(&self, id: &str) -> Result<(), VmError> {
        self.documents.delete(SNAPSHOTS, &self.key(id), Expect::Any).await.map_err(failed)?;
        Ok(())
    }

    /// All records of sandboxes. One that cannot be read is an error: what it stood for would be reaped otherwise.
    pub(super) async fn records(&self) -> Result<Vec<Record>, VmError> {
        self.all(SANDBOXES).await
    }

    pub(super) async fn snapshots(&self) -> Result<Vec<SnapshotRecord>, VmError> {
        self.all(SNAPSHOTS).await
    }

    async fn put<T: Serialize + Sync>(&self, collection: &str, id: &str, record: &T, expect: Expect) -> Result<(), VmError> {
        let value = serde_json::to_value(record).map_err(|error| failed(StateError::Engine(error.to_string())))?;
        self.documents.put(collection, &self.key(id), &value, expect).await.map_err(failed)?;
        Ok(())
    }

    async fn all<T: for<'de> Deserialize<'de>>(&self, collection: &str) -> Result<Vec<T>, VmError> {
        let (prefix, mut after, mut all) = (self.key(""), None::<String>, Vec::new());
        loop {
            let page = self.documents.list(collection, &prefix, after.as_deref(), PAGE).await.map_err(failed)?;
            let Some(last) = page.last() else { return Ok(all) };
            after = Some(last.key.clone());
            for Document { key, value, .. } in page {
                let unreadable = |error| failed(StateError::Engine(format!("the record {collection}/{key} cannot be read: {error}")));
                all.push(serde_json::from_value(value).map_err(unreadable)?);
            }
        }
    }
}

fn failed(error: StateError) -> VmError {
    VmError::Io { what: "keeping the records of sandboxes".into(), source: std::io::Error::other(error) }
}
