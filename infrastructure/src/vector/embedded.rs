//! The embedded engine, the default: a SQLite file per collection for what must last, memory and an HNSW graph for what must be quick.
//!
//! A write is acknowledged when it is in the file (write-ahead log, `synchronous=FULL`); the graph is built behind it, and what it does not
//! have yet is looked at one by one, so answers are complete at any time. After a crash memory and graph are made of the file again. A
//! collection in use takes 4 bytes of memory for each number of its vectors and some 600 for each record; documents stay on disk.
//!
//! Why the graph is ours: hannoy 0.3 had used about 61 s of CPU for a run at 10,000 x 384 when a time limit cut it off (one setting, busy
//! machine), and opening LMDB is `unsafe`; hnsw_rs 0.3, which was read and not measured, cannot delete, keeps a second copy of the vectors,
//! and unwraps the top of a heap that its filter may have emptied. [`graph`] is the paper's algorithm in 200 lines of safe code.

mod collection;
mod graph;
mod indexer;
mod memory;
mod store;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::{Mutex, OnceCell};

use self::collection::Open;
use self::store::Store;
use super::{Address, Collection, Engine, Match, Page, Query, Record, Selection, Spec, VectorError};
use crate::tenant::Tenant;

const NAME: &str = "embedded";
/// What a folder begins with that is not a collection yet, or no longer. No tenant's name begins so.
const ASIDE: &str = ".aside-";

/// The engine on a folder of its own: `FOLDER/TENANT/NAME/records.db`.
#[derive(Debug)]
pub struct Embedded {
    root: PathBuf,
    open: Mutex<HashMap<Address, Arc<OnceCell<Arc<Open>>>>>,
    /// The kernel's lock; it goes with the process, however that ends.
    _lock: File,
}

impl Embedded {
    /// Takes the folder, which is made if missing. A second process, and a second call, are refused.
    pub fn open(root: &Path) -> Result<Self, VectorError> {
        std::fs::create_dir_all(root).map_err(|why| io_failed(root, why))?;
        let path = root.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(|why| io_failed(&path, why))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| VectorError::InUse { path: root.display().to_string() })?;
        let engine = Self { root: root.to_owned(), open: Mutex::default(), _lock: lock };
        for name in names(root)?.iter().filter(|name| name.starts_with(ASIDE)) {
            clear(&root.join(name))?;
        }
        Ok(engine)
    }

    /// Slots of a collection that the graph does not have yet; for benchmarks and metrics.
    pub async fn tail(&self, address: &Address) -> Result<usize, VectorError> {
        self.collection(address).await?.tail().await
    }

    fn folder(&self, address: &Address) -> PathBuf {
        self.root.join(address.tenant().as_str()).join(address.name())
    }

    async fn collection(&self, address: &Address) -> Result<Arc<Open>, VectorError> {
        let folder = self.folder(address);
        let cell = {
            let mut open = self.open.lock().await;
            if !open.contains_key(address) && !folder.exists() {
                return Err(VectorError::NotFound(address.name().to_owned()));
            }
            Arc::clone(open.entry(address.clone()).or_default())
        };
        cell.get_or_try_init(|| async { Open::open(&folder).await.map(Arc::new) }).await.cloned()
    }

    async fn describe_open(&self, address: Address) -> Result<Collection, VectorError> {
        let open = self.collection(&address).await?;
        Ok(Collection { spec: open.spec.clone(), count: open.store.count().await?, address })
    }
}

#[async_trait]
impl Engine for Embedded {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn create(&self, address: &Address, spec: &Spec) -> Result<(), VectorError> {
        // The lock is held throughout: of two that make the same one, the second finds it.
        let _open = self.open.lock().await;
        let folder = self.folder(address);
        if folder.exists() {
            return Err(VectorError::Exists(address.name().to_owned()));
        }
        let aside = self.root.join(format!("{ASIDE}{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&aside).map_err(|why| io_failed(&aside, why))?;
        if let Err(why) = Store::create(&aside, spec).await {
            let _ = clear(&aside);
            return Err(why);
        }
        let place = || {
            let tenant = self.root.join(address.tenant().as_str());
            std::fs::create_dir_all(&tenant)?;
            std::fs::rename(&aside, &folder)?;
            File::open(&tenant)?.sync_all()?;
            File::open(&self.root)?.sync_all()
        };
        place().map_err(|why| io_failed(&folder, why))
    }

    async fn destroy(&self, address: &Address) -> Result<(), VectorError> {
        let mut open = self.open.lock().await;
        let (folder, aside) = (self.folder(address), self.root.join(format!("{ASIDE}{}", uuid::Uuid::new_v4())));
        if let Some(collection) = open.remove(address).and_then(|cell| cell.get().cloned()) {
            collection.close().await;
        }
        match std::fs::rename(&folder, &aside) {
            Ok(()) => {}
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Err(VectorError::NotFound(address.name().to_owned())),
            Err(why) => return Err(io_failed(&folder, why)),
        }
        clear(&aside)
    }

    async fn list(&self, tenant: &Tenant) -> Result<Vec<Collection>, VectorError> {
        let mut collections = Vec::new();
        for name in names(&self.root.join(tenant.as_str()))? {
            let Ok(address) = Address::new(tenant, &name) else { continue };
            match self.describe_open(address).await {
                Ok(collection) => collections.push(collection),
                // It was deleted in between.
                Err(VectorError::NotFound(_)) => {}
                Err(why) => return Err(why),
            }
        }
        Ok(collections)
    }

    async fn describe(&self, address: &Address) -> Result<Collection, VectorError> {
        self.describe_open(address.clone()).await
    }

    async fn upsert(&self, address: &Address, records: Vec<Record>) -> Result<(), VectorError> {
        let open = self.collection(address).await?;
        // A task of its own: who gives up waiting does not leave memory behind the file.
        finish(tokio::spawn(async move { open.upsert(records).await })).await
    }

    async fn delete(&self, address: &Address, selection: &Selection) -> Result<(), VectorError> {
        let (open, selection) = (self.collection(address).await?, selection.clone());
        finish(tokio::spawn(async move { open.delete(selection).await })).await
    }

    async fn get(&self, address: &Address, ids: &[String]) -> Result<Vec<Record>, VectorError> {
        let open = self.collection(address).await?;
        let asked: Vec<&str> = ids.iter().map(String::as_str).collect();
        Ok(super::in_order(ids, open.store.get(&asked).await?))
    }

    async fn query(&self, address: &Address, query: &Query) -> Result<Vec<Match>, VectorError> {
        self.collection(address).await?.query(query).await
    }

    async fn page(&self, address: &Address, from: Option<&str>, limit: usize) -> Result<Page, VectorError> {
        self.collection(address).await?.store.page(from, limit).await
    }
}

async fn finish(task: tokio::task::JoinHandle<Result<(), VectorError>>) -> Result<(), VectorError> {
    task.await.unwrap_or_else(|why| Err(VectorError::Engine { engine: NAME, reason: format!("a write failed: {why}") }))
}

/// The names in a folder, in order; none when it is not there.
fn names(folder: &Path) -> Result<Vec<String>, VectorError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(why) => return Err(io_failed(folder, why)),
    };
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Deletes a collection's folder: the files that it has and itself, nothing below it.
fn clear(folder: &Path) -> Result<(), VectorError> {
    for name in names(folder)? {
        let path = folder.join(name);
        std::fs::remove_file(&path).map_err(|why| io_failed(&path, why))?;
    }
    std::fs::remove_dir(folder).map_err(|why| io_failed(folder, why))
}

fn io_failed(path: &Path, why: io::Error) -> VectorError {
    if why.kind() == io::ErrorKind::StorageFull {
        return VectorError::DiskFull { path: path.display().to_string() };
    }
    VectorError::Engine { engine: NAME, reason: format!("{}: {why}", path.display()) }
}
