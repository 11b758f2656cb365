//! Opening the service: what an earlier run left is adopted or reaped.

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use super::super::image::Images;
use super::super::remove::remove_tree;
use super::super::tools::Tools;
use super::super::{Condition, Engine, SandboxId, VmError, disk};
use super::events::{EventKind, Journal};
use super::places::Places;
use super::record::Store;
use super::{Entry, Inner, QUICK, SLOW, Sandboxes, ServiceConfig, Status, blocking, lifetime, locked, within};
use crate::state::Documents;

/// Sandboxes looked at at once.
const AT_ONCE: usize = 8;

/// Imports of images at once.
const IMPORTS: usize = 2;

impl Sandboxes {
    /// Opens the service in `folder`: adopts the sandboxes that run, reaps what was half made, re-arms lifetimes.
    ///
    /// # Errors
    /// When the folder is used by another server, cannot be used, or the records cannot be read. An engine that is away is no error: its
    /// sandboxes are kept as recorded and looked at again.
    pub async fn open(
        config: ServiceConfig,
        documents: Arc<dyn Documents>,
        engines: Vec<Arc<dyn Engine>>,
        folder: &Path,
    ) -> Result<Self, VmError> {
        let folder = folder.to_owned();
        let (images_at, bounds, most) = (config.image_folder.clone(), config.image_bounds, config.images_per_tenant);
        let (folder, lock, server, images) = blocking("opening the sandboxes' folder", move || {
            let (folder, lock) = own(&folder)?;
            let server = server_id(&folder)?;
            let images = Images::open(&images_at.unwrap_or_else(|| folder.join("images")), bounds, most)?;
            Ok((folder, lock, server, images))
        })
        .await?;
        let tools = config.tools.clone().map(Tools::open).transpose()?;
        let engines: std::collections::BTreeMap<_, _> = engines.into_iter().map(|engine| (engine.name(), engine)).collect();
        let capable: HashMap<_, _> = engines.keys().map(|name| (*name, OnceCell::new())).collect();
        let places = Places::new(config.archives_per_tenant, config.archives_at_once);
        let inner = Arc::new(Inner {
            config,
            engines,
            capable,
            images,
            tools,
            store: Store::new(documents, server),
            folder,
            table: Mutex::default(),
            snapshots: Mutex::default(),
            journal: Journal::new(),
            imports: Arc::new(Semaphore::new(IMPORTS)),
            places,
            _lock: lock,
        });
        inner.recover().await?;
        let house = tokio::spawn(lifetime::house(Arc::downgrade(&inner)));
        Ok(Self { inner, _house: Arc::new(AbortOnDropHandle::new(house)) })
    }
}

/// Makes the folders (0700) and takes the lock.
fn own(folder: &Path) -> Result<(std::path::PathBuf, std::fs::File), VmError> {
    let failed = |path: &Path, source| VmError::Io { what: format!("opening {}", path.display()), source };
    for part in ["", "homes", "logs", "snapshots"] {
        let path = folder.join(part);
        disk::private_folder(&path).map_err(|source| failed(&path, source))?;
    }
    let folder = folder.canonicalize().map_err(|source| failed(folder, source))?;
    let path = folder.join("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let lock = opened.map_err(|source| failed(&path, source))?;
    match lock.try_lock() {
        Ok(()) => Ok((folder, lock)),
        Err(std::fs::TryLockError::WouldBlock) => Err(VmError::Io {
            what: format!("the sandboxes' folder {}", folder.display()),
            source: io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another server works in it: stop that one, or give this one another data folder",
            ),
        }),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(&path, source)),
    }
}

/// Made once: tells this server's records from those of others on the same state.
fn server_id(folder: &Path) -> Result<String, VmError> {
    let path = folder.join("server-id");
    let failed = |source| VmError::Io { what: format!("the server's id {}", path.display()), source };
    match std::fs::read_to_string(&path) {
        Ok(text) if text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') => Ok(text),
        Ok(_) => Err(failed(io::Error::new(io::ErrorKind::InvalidData, "it is no id: restore the file, or delete it with the folder"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = uuid::Uuid::new_v4().to_string();
            disk::write_whole(&path, id.as_bytes()).map_err(failed)?;
            Ok(id)
        }
        Err(error) => Err(failed(error)),
    }
}

impl Inner {
    async fn recover(self: &Arc<Self>) -> Result<(), VmError> {
        let snapshots = self.store.snapshots().await?;
        *locked(&self.snapshots) = snapshots.iter().map(|record| (record.id.clone(), record.clone())).collect();
        for record in snapshots.iter().filter(|record| !record.ready) {
            if let Err(error) = self.remove_snapshot(&record.id).await {
                tracing::warn!(snapshot = record.id, %error, "a half-taken snapshot cannot be removed yet");
            }
        }
        let records = self.store.records().await?;
        let entries: Vec<Arc<Entry>> = {
            let inner = Arc::clone(self);
            blocking("reading what is kept of sandboxes", move || {
                Ok(records.into_iter().map(|record| Arc::new(inner.entry_of(record))).collect())
            })
            .await?
        };
        *locked(&self.table) = entries.iter().map(|entry| (entry.id.clone(), Arc::clone(entry))).collect();
        futures_util::stream::iter(&entries).for_each_concurrent(AT_ONCE, |entry| self.recover_one(entry)).await;
        self.reap_strays().await;
        self.reap_folders().await;
        let inner = Arc::clone(self);
        blocking("looking through images", move || {
            inner.images.sweep(&|digest| inner.uses_image(digest));
            Ok(())
        })
        .await
    }

    /// One that a record knows.
    async fn recover_one(&self, entry: &Entry) {
        let _turn = entry.turn.lock().await;
        let status = entry.status();
        if matches!(status, Status::Creating | Status::Deleting) {
            return self.reap(entry, "the server ended while it was being made or deleted").await;
        }
        let home = self.home(&entry.id);
        let condition = match self.engine_of(entry) {
            Ok(engine) => within("asking how the sandbox is", QUICK, engine.condition(&entry.id, &home)).await,
            Err(error) => Err(error),
        };
        match condition {
            Ok(Condition::Gone) => self.reap(entry, "its engine knows nothing of it any more").await,
            Ok(Condition::Stopped) => {
                let why = if status == Status::Stopped { "" } else { "it ended while the server was away" };
                self.mark_after(entry, Status::Stopped, why).await;
            }
            // It was being stopped: that is finished now. Or started: what it lacks (its network, its limits) nobody can tell.
            Ok(Condition::Running | Condition::Paused) if matches!(status, Status::Stopping | Status::Starting) => {
                if let Err(error) = self.stop_locked(entry, std::time::Duration::from_secs(10)).await {
                    tracing::warn!(sandbox = %entry.id, %error, "a sandbox that was being started or stopped cannot be stopped yet");
                }
            }
            Ok(condition) => {
                let now = if condition == Condition::Paused { Status::Paused } else { Status::Running };
                self.mark_after(entry, now, "").await;
                self.tell(entry, EventKind::Recovered, "");
            }
            Err(error) => {
                tracing::warn!(sandbox = %entry.id, %error, "its engine does not say how it is: it is kept as recorded and looked at again");
            }
        }
    }

    async fn reap(&self, entry: &Entry, why: &str) {
        metrics::counter!("auralink_sandbox_reaped_total").increment(1);
        if let Err(error) = self.delete_locked(entry, EventKind::Reaped, why).await {
            tracing::warn!(sandbox = %entry.id, %error, "what was left of a sandbox cannot be removed yet: it is tried again");
        }
    }

    /// What engines have and no record knows.
    async fn reap_strays(&self) {
        let homes = self.folder.join("homes");
        for (name, engine) in &self.engines {
            let found = match within("looking for sandboxes", SLOW, engine.found(&homes)).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(engine = name, %error, "what the engine may have left cannot be looked for");
                    continue;
                }
            };
            for id in found {
                let known = locked(&self.table).get(&id).map(|entry| locked(&entry.record).engine.clone());
                // A home is seen by every engine that looks at folders: only its own may call it a stray.
                if known.is_none() {
                    tracing::warn!(engine = name, sandbox = %id, "a sandbox without a record is removed");
                    metrics::counter!("auralink_sandbox_reaped_total").increment(1);
                    if let Err(error) = within("removing a stray", SLOW, engine.delete(&id, &self.home(&id))).await {
                        tracing::error!(engine = name, sandbox = %id, %error, "a sandbox without a record cannot be removed");
                    }
                }
            }
        }
    }

    /// Folders whose sandbox has no record.
    async fn reap_folders(self: &Arc<Self>) {
        let (sandboxes, snapshots): (HashSet<SandboxId>, HashSet<String>) =
            (locked(&self.table).keys().cloned().collect(), locked(&self.snapshots).keys().cloned().collect());
        let folder = self.folder.clone();
        let done = blocking("removing folders without a record", move || {
            for part in ["homes", "logs", "snapshots"] {
                for entry in std::fs::read_dir(folder.join(part)).into_iter().flatten().flatten() {
                    let name = entry.file_name();
                    let name = name.to_str().unwrap_or_default();
                    // What has no name of ours is somebody else's: it stays.
                    let ours = if part == "snapshots" { name.starts_with("snap-") } else { name.parse::<SandboxId>().is_ok() };
                    let known = if part == "snapshots" {
                        snapshots.contains(name)
                    } else {
                        name.parse().is_ok_and(|id: SandboxId| sandboxes.contains(&id))
                    };
                    if ours
                        && !known
                        && let Err(error) = remove_tree(&entry.path())
                    {
                        tracing::error!(folder = %entry.path().display(), %error, "a folder without a record cannot be removed");
                    }
                }
            }
            Ok(())
        });
        // Each failure was told where it happened.
        let _ = done.await;
    }
}
