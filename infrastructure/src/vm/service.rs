//! Sandboxes as callers know them: owned by a tenant, limited, recorded, found again after a crash.
//!
//! Place: faces (gRPC, REST, CLI) stand above, [`Engine`]s and [`Images`] below, records in [`Documents`]. Rule: a record is on disk before
//! an engine acts on it, and says what is being done, so that a crash at any point leaves nothing that [`Sandboxes::open`] cannot adopt or
//! reap. One change at a time is made to a sandbox; a change that was begun is finished even when its caller goes away.
//!
//! On disk, below the data folder: `homes/<id>` (the engine's), `logs/<id>` (output and events), `snapshots/<id>`, `images/`, `server-id`, `lock`.

mod archive;
mod change;
mod check;
mod config;
mod create;
mod events;
mod exec;
mod files;
mod gauges;
mod images;
mod lifetime;
mod logs;
mod places;
mod record;
mod recover;
mod snapshot;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::image::Images;
use super::tools::Tools;
use super::{Capabilities, Engine, SandboxId, VmError};
use crate::tenant::Tenant;

pub use super::bridge::Pace;
pub use archive::Uploaded;
pub use check::{Begin, Request};
pub use config::{Quota, ServiceConfig};
pub use events::{Event, EventKind, Followed, Following};
pub use exec::{Captured, Started};
pub use logs::{Log, LogChunk};
pub use record::{Record, SnapshotRecord, Status};

use events::Journal;
use logs::Logs;
use places::Places;
use record::Store;

/// The sandboxes of one server. Clones are the same.
#[derive(Clone)]
pub struct Sandboxes {
    inner: Arc<Inner>,
    /// Ends lifetimes, watches, tries again; ends with the last clone.
    _house: Arc<AbortOnDropHandle<()>>,
}

/// What an engine said of itself.
#[derive(Debug, Clone)]
pub struct EngineInfo {
    /// Its name.
    pub name: &'static str,
    /// Whether it is used when a caller names none.
    pub default: bool,
    /// What it can do, or why it cannot be used.
    pub state: Result<Capabilities, String>,
}

struct Inner {
    config: ServiceConfig,
    engines: BTreeMap<&'static str, Arc<dyn Engine>>,
    capable: HashMap<&'static str, OnceCell<Capabilities>>,
    images: Images,
    tools: Option<Tools>,
    store: Store,
    folder: PathBuf,
    table: Mutex<HashMap<SandboxId, Arc<Entry>>>,
    snapshots: Mutex<HashMap<String, SnapshotRecord>>,
    journal: Journal,
    imports: Arc<Semaphore>,
    places: Arc<Places>,
    /// Held as long as the service lives: no second server works in the same folder.
    _lock: std::fs::File,
}

/// One sandbox in memory.
struct Entry {
    id: SandboxId,
    record: Mutex<Record>,
    /// Who changes it holds this.
    turn: Arc<tokio::sync::Mutex<()>>,
    execs: Arc<Semaphore>,
    forwards: Arc<Semaphore>,
    logs: Arc<Logs>,
}

/// A lock of plain data: who panicked while holding it changed single fields only.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    fn snapshot(&self) -> Record {
        locked(&self.record).clone()
    }

    fn status(&self) -> Status {
        locked(&self.record).status
    }
}

impl Sandboxes {
    /// Engines by name, what they can do here or why not.
    pub async fn engines(&self) -> Vec<EngineInfo> {
        let mut engines = Vec::with_capacity(self.inner.engines.len());
        for name in self.inner.engines.keys() {
            let state = self.inner.capable(name).await.map_err(|error| error.to_string());
            engines.push(EngineInfo { name, default: *name == self.inner.config.default_engine, state });
        }
        engines
    }

    /// One of the tenant's, by id or by name.
    ///
    /// # Errors
    /// [`VmError::NotFound`], in the same words for what is another tenant's and for what is not there.
    pub fn get(&self, tenant: &Tenant, id: &str) -> Result<Record, VmError> {
        Ok(self.inner.entry(tenant, id)?.snapshot())
    }

    /// The tenant's, in the order of their ids, after `after`, that have all of `labels`; at most `limit` (1 to 1,000).
    pub fn list(&self, tenant: &Tenant, labels: &BTreeMap<String, String>, after: Option<&str>, limit: usize) -> Vec<Record> {
        let entries: Vec<Arc<Entry>> = locked(&self.inner.table).values().cloned().collect();
        let fits = |record: &Record| {
            record.spec.tenant == *tenant
                && after.is_none_or(|after| record.id.as_str() > after)
                && labels.iter().all(|(key, value)| record.spec.labels.get(key) == Some(value))
        };
        let mut records: Vec<Record> = entries.iter().filter(|entry| fits(&locked(&entry.record))).map(|entry| entry.snapshot()).collect();
        records.sort_by(|a, b| a.id.cmp(&b.id));
        records.truncate(limit.clamp(1, 1_000));
        records
    }

    /// What it uses now.
    ///
    /// # Errors
    /// As the engine has it.
    pub async fn usage(&self, tenant: &Tenant, id: &str) -> Result<super::Usage, VmError> {
        let entry = self.inner.entry(tenant, id)?;
        let (engine, home) = (self.inner.engine_of(&entry)?, self.inner.home(&entry.id));
        within("asking what the sandbox uses", QUICK, engine.usage(&entry.id, &home)).await
    }

    /// The images, for reading.
    pub fn images(&self) -> &Images {
        &self.inner.images
    }
}

/// For what an engine answers out of hand.
const QUICK: Duration = Duration::from_secs(30);
/// For what moves memory or files.
const SLOW: Duration = Duration::from_secs(600);

/// An engine that does not answer is not waited for without end.
async fn within<T>(what: &str, after: Duration, work: impl Future<Output = Result<T, VmError>>) -> Result<T, VmError> {
    match tokio::time::timeout(after, work).await {
        Ok(done) => done,
        Err(_) => Err(VmError::Late { what: what.to_owned(), after }),
    }
}

impl Inner {
    fn home(&self, id: &SandboxId) -> PathBuf {
        self.folder.join("homes").join(id.as_str())
    }

    fn entry(&self, tenant: &Tenant, id: &str) -> Result<Arc<Entry>, VmError> {
        let table = locked(&self.table);
        let own = |entry: &&Arc<Entry>| locked(&entry.record).spec.tenant == *tenant;
        let by_id = id.parse::<SandboxId>().ok().and_then(|id| table.get(&id)).filter(own);
        let found = by_id.or_else(|| table.values().filter(own).find(|entry| !id.is_empty() && locked(&entry.record).name == id));
        found.cloned().ok_or_else(|| no_sandbox(id))
    }

    /// Whether it is still the one that the table has: a change may have waited for its deletion.
    fn is_known(&self, entry: &Entry) -> bool {
        locked(&self.table).contains_key(&entry.id)
    }

    fn engine(&self, name: &str) -> Result<&Arc<dyn Engine>, VmError> {
        self.engines.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.engines.keys().copied().collect();
            let shown: String = name.chars().take(32).collect();
            VmError::Invalid(format!("there is no sandbox engine {shown:?} on this server: it has {}", known.join(", ")))
        })
    }

    fn engine_of(&self, entry: &Entry) -> Result<Arc<dyn Engine>, VmError> {
        let name = locked(&entry.record).engine.clone();
        Ok(Arc::clone(self.engine(&name)?))
    }

    /// What the engine can do; asked until it says so once.
    async fn capable(&self, name: &str) -> Result<Capabilities, VmError> {
        let engine = self.engine(name)?;
        let cell = &self.capable[engine.name()];
        cell.get_or_try_init(|| within("looking whether the engine works", QUICK, engine.probe())).await.cloned()
    }

    /// Runs a change to its end, whatever becomes of who asked for it.
    async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Result<T, VmError>> + Send + 'static) -> Result<T, VmError> {
        match tokio::spawn(work).await {
            Ok(done) => done,
            Err(failed) => Err(VmError::Io { what: "a change of the sandbox was cut short".into(), source: std::io::Error::other(failed) }),
        }
    }
}

fn no_sandbox(id: &str) -> VmError {
    let shown: String = id.chars().take(64).collect();
    VmError::NotFound(format!("there is no sandbox {shown:?}"))
}

/// Blocking work where it may block.
async fn blocking<T: Send + 'static>(what: &str, work: impl FnOnce() -> Result<T, VmError> + Send + 'static) -> Result<T, VmError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => Err(VmError::Io { what: format!("{what} was cut short"), source: std::io::Error::other(failed) }),
    }
}
