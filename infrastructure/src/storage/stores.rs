//! The configured stores, and a tenant's view of one: its own folder, or the whole of a store that is shared for reading.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::{StorageConfig, StoreConfig};
use super::dropbox::Dropbox;
use super::gdrive::Gdrive;
use super::http::Http;
use super::oauth::Access;
use super::s3::S3;
use super::{Content, Engine, Entry, Local, MAX_PAGE, Page, Reading, StorageError, StorePath, Written, spool};
use crate::tenant::Tenant;

/// Stores at most.
const MAX_STORES: usize = 64;

/// One configured store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    name: String,
    engine: Arc<dyn Engine>,
    shared: bool,
    max_file_bytes: u64,
    access: Option<Access>,
}

/// All of them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Stores {
    stores: Arc<BTreeMap<String, Store>>,
}

impl Stores {
    /// Opens every store that the configuration names; nothing is asked of a service yet. Blocks.
    ///
    /// # Errors
    /// [`StorageError::Config`] names the store.
    pub fn open(config: &StorageConfig, data_dir: &Path) -> Result<Self, StorageError> {
        if config.stores.len() > MAX_STORES {
            return Err(StorageError::Argument(format!("storage.stores has {}: {MAX_STORES} at most", config.stores.len())));
        }
        let opened = config.stores.iter().map(|(name, config)| Ok((name.clone(), Store::open(name, config, data_dir)?)));
        Ok(Self { stores: Arc::new(opened.collect::<Result<_, StorageError>>()?) })
    }

    /// One by its name.
    ///
    /// # Errors
    /// [`StorageError::NoStore`] lists those that there are.
    pub fn get(&self, name: &str) -> Result<&Store, StorageError> {
        self.stores.get(name).ok_or_else(|| {
            let known = match self.stores.len() {
                0 => "none is configured (`storage: {stores: {...}}`)".to_owned(),
                _ => format!("there are {}", self.stores.keys().cloned().collect::<Vec<_>>().join(", ")),
            };
            StorageError::NoStore { name: name.chars().take(64).collect(), known }
        })
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Store> {
        self.stores.values()
    }
}

impl Store {
    /// Opens one. Blocks.
    ///
    /// # Errors
    /// [`StorageError::Config`]
    pub fn open(name: &str, config: &StoreConfig, data_dir: &Path) -> Result<Self, StorageError> {
        let wrong = |reason: String| StorageError::Config { store: name.to_owned(), reason };
        // The rule of a tenant's name is the rule of a store's.
        name.parse::<Tenant>().map_err(|_| wrong("its name must be 1 to 48 of a-z, 0-9 and `-`".into()))?;
        let client = || Http::client().map_err(|error| wrong(format!("no HTTP client can be made: {error}")));
        let mut access = None;
        let engine: Arc<dyn Engine> = match config {
            StoreConfig::Local(local) if local.shared => Arc::new(Local::open_to_read(name, &local.root)?),
            StoreConfig::Local(local) => Arc::new(Local::open(name, &local.root)?),
            StoreConfig::S3(s3) => Arc::new(S3::open(name, s3, spool_folder(name, data_dir)?)?),
            StoreConfig::Gdrive(gdrive) => {
                let client = client()?;
                let given = Access::new(Gdrive::provider(name, gdrive), client.clone(), data_dir);
                access = Some(given.clone());
                Arc::new(Gdrive::open(name, gdrive, client, given, spool_folder(name, data_dir)?))
            }
            StoreConfig::Dropbox(dropbox) => {
                let client = client()?;
                let given = Access::new(Dropbox::provider(name, dropbox), client.clone(), data_dir);
                access = Some(given.clone());
                Arc::new(Dropbox::open(name, dropbox, client, given, spool_folder(name, data_dir)?)?)
            }
        };
        Ok(Self { name: name.to_owned(), engine, shared: config.shared(), max_file_bytes: config.max_file_bytes(), access })
    }

    /// A store over an engine that is open, shared for reading: a folder that a command was given.
    pub fn of_engine(name: &str, engine: Arc<dyn Engine>, max_file_bytes: u64) -> Self {
        Self { name: name.to_owned(), engine, shared: true, max_file_bytes, access: None }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `local`, `s3`, `gdrive`, `dropbox`.
    pub fn kind(&self) -> &'static str {
        self.engine.kind()
    }

    /// Whether all tenants read the whole of it, and nobody writes.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Bytes of the largest file.
    pub fn max_file_bytes(&self) -> u64 {
        self.max_file_bytes
    }

    /// The person's access that it needs; `None` for stores with a key of their own.
    pub fn access(&self) -> Option<&Access> {
        self.access.as_ref()
    }

    /// All of it, for a command of the machine's own user.
    pub fn whole(&self) -> TenantStore {
        TenantStore { store: self.clone(), root: StorePath::root() }
    }

    /// What a tenant sees of it.
    pub fn of(&self, tenant: &Tenant) -> TenantStore {
        let root = if self.shared { StorePath::root() } else { tenant.as_str().parse().expect("a tenant's name is a path's name") };
        TenantStore { store: self.clone(), root }
    }
}

/// A store as one tenant sees it. Cheap to clone.
#[derive(Clone)]
pub struct TenantStore {
    store: Store,
    root: StorePath,
}

impl TenantStore {
    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Entries of a folder: 1 to [`MAX_PAGE`] on a page.
    ///
    /// # Errors
    /// [`StorageError`]
    pub async fn browse(&self, folder: &StorePath, page: Option<&str>, limit: u32) -> Result<Page, StorageError> {
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(StorageError::Argument(format!("a page of {limit} entries: 1 to {MAX_PAGE} are given")));
        }
        if page.is_some_and(|page| page.len() > 16 * 1024) {
            return Err(StorageError::PageMark);
        }
        match self.store.engine.browse(&self.at(folder), page, limit).await {
            // A tenant that has not written yet has an empty folder, not none.
            Err(StorageError::NotFound { .. }) if folder.is_root() => Ok(Page { entries: Vec::new(), next: None }),
            page => self.told(page),
        }
    }

    /// One file or folder.
    ///
    /// # Errors
    /// [`StorageError`]
    pub async fn stat(&self, path: &StorePath) -> Result<Entry, StorageError> {
        self.told(self.store.engine.stat(&self.at(path)).await)
    }

    /// Reads from `from` up to, not including, `to` or the end.
    ///
    /// # Errors
    /// [`StorageError::Changed`] when `version` is given and another is there.
    pub async fn read(&self, path: &StorePath, from: u64, to: Option<u64>, version: Option<&str>) -> Result<Reading, StorageError> {
        self.told(self.store.engine.read(&self.file(path)?, from, to, version).await)
    }

    /// Writes a file, whole or not at all; durable when it returns.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`], [`StorageError::Checksum`], [`StorageError::Full`] and others: nothing was changed then.
    pub async fn write(&self, path: &StorePath, mut content: Content) -> Result<Written, StorageError> {
        self.writable()?;
        content.limit = content.limit.min(self.store.max_file_bytes);
        let written = self.told(self.store.engine.write(&self.file(path)?, content).await);
        if let Ok(written) = &written {
            metrics::counter!("auralink_storage_bytes_written_total", "store" => self.store.name.clone()).increment(written.size);
        }
        written
    }

    /// Deletes a file; whether it was there.
    ///
    /// # Errors
    /// [`StorageError`]
    pub async fn delete(&self, path: &StorePath) -> Result<bool, StorageError> {
        self.writable()?;
        self.told(self.store.engine.delete(&self.file(path)?).await)
    }

    fn writable(&self) -> Result<(), StorageError> {
        if self.store.shared { Err(StorageError::ReadOnly { store: self.store.name.clone() }) } else { Ok(()) }
    }

    fn at(&self, path: &StorePath) -> StorePath {
        self.root.join(path)
    }

    /// A tenant's root is a folder, whatever an engine thinks of its name.
    fn file(&self, path: &StorePath) -> Result<StorePath, StorageError> {
        if path.is_root() {
            return Err(StorageError::NotAFile { path: path.to_string(), reason: "it is the store's root" });
        }
        Ok(self.at(path))
    }

    /// Errors name the tenant's own paths.
    fn told<T>(&self, done: Result<T, StorageError>) -> Result<T, StorageError> {
        if self.root.is_root() {
            return done;
        }
        done.map_err(|mut error| {
            use StorageError as E;
            if let E::NotFound { path }
            | E::NotAFile { path, .. }
            | E::NotAFolder { path }
            | E::TooLarge { path, .. }
            | E::Checksum { path, .. }
            | E::Changed { path }
            | E::Range { path, .. }
            | E::Interrupted { path, .. } = &mut error
            {
                let own = path.strip_prefix(self.root.as_str()).map(|own| own.strip_prefix('/').unwrap_or("/").to_owned());
                *path = own.unwrap_or_else(|| std::mem::take(path));
            }
            error
        })
    }
}

/// Where uploads wait for a service.
fn spool_folder(store: &str, data_dir: &Path) -> Result<PathBuf, StorageError> {
    let folder = data_dir.join("storage").join("spool");
    spool::tidy(&folder).map_err(|error| StorageError::io(store, format!("{} cannot be used", folder.display()), error))?;
    Ok(folder)
}
