//! A folder of this machine. Every name of a path is opened from its folder's descriptor and no symbolic link is followed, so that
//! nothing outside the root can be reached, whoever changes the folder meanwhile.

use std::collections::BinaryHeap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::path::RESERVED;
use super::spool::{self, Spool};
use super::{Checksum, Content, Engine, Entry, EntryKind, Page, Reading, StorageError, StorePath, Written, exactly, stretch};

/// Bytes of one read.
const READ: usize = 256 * 1024;
/// Where files stand until they are whole.
const PARTIAL: &str = ".auralink-partial";
/// The attribute that keeps a file's SHA-256, with the version that it is of.
const SHA256_ATTRIBUTE: &str = "user.auralink.sha256";

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::RDONLY).union(OFlags::NONBLOCK);

/// The engine.
pub struct Local {
    inner: Arc<Inner>,
}

struct Inner {
    store: String,
    root: OwnedFd,
    partial: Option<PathBuf>,
}

impl Local {
    /// Opens a folder, and makes it when it is not there. Blocks.
    ///
    /// # Errors
    /// [`StorageError::Config`], [`StorageError::Denied`]
    pub fn open(store: &str, root: &Path) -> Result<Self, StorageError> {
        let failed = |error| StorageError::io(store, format!("the folder {} cannot be used", root.display()), error);
        std::fs::create_dir_all(root).map_err(failed)?;
        let partial = root.join(PARTIAL);
        spool::tidy(&partial).map_err(failed)?;
        Self::with(store, root, Some(partial))
    }

    /// Opens a folder that is there, to read only: nothing is made in it. Blocks.
    ///
    /// # Errors
    /// As [`Local::open`].
    pub fn open_to_read(store: &str, root: &Path) -> Result<Self, StorageError> {
        Self::with(store, root, None)
    }

    fn with(store: &str, root: &Path, partial: Option<PathBuf>) -> Result<Self, StorageError> {
        // The root itself may be a link: the operator named it.
        let root = rustix::fs::open(root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| StorageError::io(store, format!("the folder {} cannot be opened", root.display()), error.into()))?;
        Ok(Self { inner: Arc::new(Inner { store: store.to_owned(), root, partial }) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(|error| StorageError::Io { what: "a blocking thread ended".into(), source: std::io::Error::other(error) })?
    }
}

impl Inner {
    /// Opens the folder at `path`, link by none.
    fn folder(&self, path: &StorePath, make: bool) -> Result<OwnedFd, StorageError> {
        let mut at = self.root.try_clone().map_err(|error| self.failed(path, error))?;
        for name in path.names() {
            at = match rustix::fs::openat(&at, name, FOLDER, Mode::empty()) {
                Err(Errno::NOENT) if make => {
                    match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) => rustix::fs::fsync(&at).map_err(|errno| self.failed(path, errno.into()))?,
                        Err(Errno::EXIST) => {}
                        Err(errno) => return Err(self.failed(path, errno.into())),
                    }
                    rustix::fs::openat(&at, name, FOLDER, Mode::empty())
                }
                opened => opened,
            }
            .map_err(|errno| match errno {
                Errno::NOENT => StorageError::NotFound { path: path.to_string() },
                Errno::LOOP | Errno::NOTDIR => StorageError::NotAFolder { path: path.to_string() },
                errno => self.failed(path, errno.into()),
            })?;
        }
        Ok(at)
    }

    fn file(&self, path: &StorePath) -> Result<(File, Stat), StorageError> {
        let name = path.name().ok_or_else(|| not_a_file(path, "it is the store's root"))?;
        let folder = self.folder(&path.folder(), false).map_err(|error| match error {
            // Below a file there is nothing.
            StorageError::NotAFolder { .. } => StorageError::NotFound { path: path.to_string() },
            other => other,
        })?;
        let file = rustix::fs::openat(&folder, name, FILE, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => StorageError::NotFound { path: path.to_string() },
            Errno::LOOP => not_a_file(path, "it is a symbolic link, and links are not followed"),
            Errno::NXIO => not_a_file(path, "it is a socket or a pipe"),
            errno => self.failed(path, errno.into()),
        })?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| self.failed(path, errno.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok((File::from(file), stat)),
            FileType::Directory => Err(not_a_file(path, "it is a folder")),
            _ => Err(not_a_file(path, "it is a device, a socket or a pipe")),
        }
    }

    fn browse(&self, folder: &StorePath, after: Option<&str>, limit: usize) -> Result<Page, StorageError> {
        let at = self.folder(folder, false)?;
        // The `limit + 1` first names after the mark: however large the folder, memory is bounded by the page.
        let mut names: BinaryHeap<String> = BinaryHeap::with_capacity(limit + 2);
        for entry in Dir::read_from(&at).map_err(|errno| self.failed(folder, errno.into()))? {
            let entry = entry.map_err(|errno| self.failed(folder, errno.into()))?;
            let Some(name) = addressable(folder, entry.file_name().to_bytes()) else { continue };
            if after.is_none_or(|after| name > after) && (names.len() <= limit || names.peek().is_some_and(|last| name < last.as_str())) {
                names.push(name.to_owned());
                if names.len() > limit + 1 {
                    names.pop();
                }
            }
        }
        let mut names = names.into_sorted_vec();
        let more = names.len() > limit;
        names.truncate(limit);
        let next = names.last().filter(|_| more).cloned();
        // What was deleted since is left out.
        let entries = names.iter().filter_map(|name| self.entry(&at, name).transpose()).collect::<Result<_, _>>()?;
        Ok(Page { entries, next })
    }

    fn entry(&self, folder: &OwnedFd, name: &str) -> Result<Option<Entry>, StorageError> {
        match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(entry(name, &stat, None))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(StorageError::io(&self.store, format!("{name:?} cannot be looked at"), errno.into())),
        }
    }

    fn stat(&self, path: &StorePath) -> Result<Entry, StorageError> {
        match self.file(path) {
            Ok((file, stat)) => Ok(entry(path.name().unwrap_or_default(), &stat, kept_sha256(&file, &stat))),
            Err(StorageError::NotAFile { .. }) => {
                let (folder, name) = (self.folder(&path.folder(), false)?, path.name().unwrap_or("."));
                self.entry(&folder, name)?.ok_or_else(|| StorageError::NotFound { path: path.to_string() })
            }
            Err(error) => Err(error),
        }
    }

    fn put(&self, path: &StorePath, partial: &Path, spool: Spool) -> Result<Written, StorageError> {
        let name = path.name().ok_or_else(|| not_a_file(path, "it is the store's root"))?;
        let folder = self.folder(&path.folder(), true)?;
        if rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| kind(&stat) != EntryKind::File) {
            return Err(not_a_file(path, "a folder or a link is there"));
        }
        let (size, sha256) = (spool.size, spool.sha256.clone());
        let (file, spooled) = spool.into_file(partial).map_err(|error| self.failed(path, error))?;
        let put = || -> rustix::io::Result<Stat> {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
            let stat = rustix::fs::fstat(&file)?;
            // A file system without attributes keeps no checksum; the write is as good.
            let _ = rustix::fs::fsetxattr(&file, SHA256_ATTRIBUTE, format!("{sha256} {}", version(&stat)).as_bytes(), XattrFlags::empty());
            rustix::fs::renameat(rustix::fs::CWD, spooled.path(), &folder, name)?;
            rustix::fs::fsync(&folder)?;
            Ok(stat)
        };
        let stat = put().map_err(|errno| self.failed(path, errno.into()))?;
        spooled.renamed();
        Ok(Written { size, sha256, version: version(&stat) })
    }

    fn delete(&self, path: &StorePath) -> Result<bool, StorageError> {
        let name = path.name().ok_or_else(|| not_a_file(path, "it is the store's root"))?;
        let folder = match self.folder(&path.folder(), false) {
            Err(StorageError::NotFound { .. } | StorageError::NotAFolder { .. }) => return Ok(false),
            opened => opened?,
        };
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) => rustix::fs::fsync(&folder).map(|()| true).map_err(|errno| self.failed(path, errno.into())),
            Err(Errno::NOENT) => Ok(false),
            Err(Errno::ISDIR) => Err(not_a_file(path, "it is a folder, and folders are not deleted")),
            Err(errno) => Err(self.failed(path, errno.into())),
        }
    }

    fn failed(&self, path: &StorePath, error: std::io::Error) -> StorageError {
        StorageError::io(&self.store, format!("{:?} cannot be used", path.to_string()), error)
    }
}

#[async_trait]
impl Engine for Local {
    fn kind(&self) -> &'static str {
        "local"
    }

    async fn browse(&self, folder: &StorePath, page: Option<&str>, limit: u32) -> Result<Page, StorageError> {
        let (folder, after) = (folder.clone(), page.map(str::to_owned));
        self.blocking(move |inner| inner.browse(&folder, after.as_deref(), limit as usize)).await
    }

    async fn stat(&self, path: &StorePath) -> Result<Entry, StorageError> {
        let path = path.clone();
        self.blocking(move |inner| inner.stat(&path)).await
    }

    async fn read(&self, path: &StorePath, from: u64, to: Option<u64>, wanted: Option<&str>) -> Result<Reading, StorageError> {
        let (at, wanted) = (path.clone(), wanted.map(str::to_owned));
        let (file, stat, size, from, length, first) = self
            .blocking(move |inner| {
                let (file, stat) = inner.file(&at)?;
                if wanted.is_some_and(|wanted| wanted != version(&stat)) {
                    return Err(StorageError::Changed { path: at.to_string() });
                }
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let (from, length) = stretch(&at, size, from, to)?;
                let first = read_at(&file, from, length, &stat, &at)?;
                Ok((Arc::new(file), stat, size, from, length, first))
            })
            .await?;
        let version = version(&stat);
        let (inner, path, end, at) = (self.inner.clone(), path.clone(), from + length, from + first.len() as u64);
        let rest = futures_util::stream::try_unfold(at, {
            let path = path.clone();
            move |at| {
                let (file, path, inner) = (file.clone(), path.clone(), inner.clone());
                async move {
                    if at >= end {
                        return Ok(None);
                    }
                    let engine = Self { inner };
                    let part = engine.blocking(move |_| read_at(&file, at, end - at, &stat, &path)).await?;
                    // An empty part: the file has become shorter, which the length tells.
                    let next = if part.is_empty() { end } else { at + part.len() as u64 };
                    Ok(Some((part, next)))
                }
            }
        });
        let stream = futures_util::stream::once(async move { Ok(first) }).chain(rest).boxed();
        Ok(Reading { size, from, length, version, stream: exactly(stream, length, &path) })
    }

    async fn write(&self, path: &StorePath, content: Content) -> Result<Written, StorageError> {
        let partial = self.inner.partial.clone().ok_or_else(|| StorageError::ReadOnly { store: self.inner.store.clone() })?;
        let spool = Spool::take(&self.inner.store, path, content, &partial, false).await?;
        let path = path.clone();
        self.blocking(move |inner| inner.put(&path, &partial, spool)).await
    }

    async fn delete(&self, path: &StorePath) -> Result<bool, StorageError> {
        let path = path.clone();
        self.blocking(move |inner| inner.delete(&path)).await
    }
}

/// Reads on, and looks whether the file is still the one that was opened: a version is read whole or not at all.
fn read_at(file: &File, at: u64, length: u64, opened: &Stat, path: &StorePath) -> Result<Bytes, StorageError> {
    let mut part = vec![0; READ.min(usize::try_from(length).unwrap_or(READ))];
    let failed = |error| StorageError::Io { what: format!("{:?} cannot be read", path.to_string()), source: error };
    let read = rustix::io::pread(file.as_fd(), &mut part, at).map_err(|errno| failed(errno.into()))?;
    part.truncate(read);
    let now = rustix::fs::fstat(file).map_err(|errno| failed(errno.into()))?;
    if version(&now) != version(opened) {
        return Err(StorageError::Changed { path: path.to_string() });
    }
    Ok(part.into())
}

/// A name that a path can hold; others are counted and left out, since nobody could ask for them.
fn addressable<'a>(folder: &StorePath, name: &'a [u8]) -> Option<&'a str> {
    if name == b"." || name == b".." || name.starts_with(RESERVED.as_bytes()) {
        return None;
    }
    let text = OsStr::from_bytes(name).to_str().filter(|text| folder.child(text).is_ok());
    if text.is_none() {
        metrics::counter!("auralink_storage_names_left_out_total").increment(1);
    }
    text
}

fn kind(stat: &Stat) -> EntryKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Folder,
        _ => EntryKind::Other,
    }
}

fn entry(name: &str, stat: &Stat, sha256: Option<String>) -> Entry {
    let kind = kind(stat);
    let file = kind == EntryKind::File;
    let modified_ms = u64::try_from(stat.st_mtime).unwrap_or(0) * 1_000 + stat.st_mtime_nsec / 1_000_000;
    Entry {
        name: name.to_owned(),
        kind,
        size: if file { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
        modified_ms,
        version: if file { version(stat) } else { String::new() },
        checksum: sha256.map(Checksum::Sha256),
    }
}

/// Which file, how long, and when it was written last.
fn version(stat: &Stat) -> String {
    format!("{:x}-{:x}-{:x}.{:x}", stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec)
}

/// The checksum that was kept at the writing, if the file is still what was written.
fn kept_sha256(file: &File, stat: &Stat) -> Option<String> {
    let mut kept = [0; 256];
    let length = rustix::fs::fgetxattr(file, SHA256_ATTRIBUTE, &mut kept).ok()?;
    let (sha256, of) = std::str::from_utf8(kept.get(..length)?).ok()?.split_once(' ')?;
    (of == version(stat)).then(|| sha256.to_owned())
}

fn not_a_file(path: &StorePath, reason: &'static str) -> StorageError {
    StorageError::NotAFile { path: path.to_string(), reason }
}
