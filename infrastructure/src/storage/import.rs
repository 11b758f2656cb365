//! A store's file brought to this machine: goes on where it stopped, notices a change in between, and is there whole, with the right
//! checksum, or not at all.
//!
//! While it is under way `FILE.part` holds what has arrived and `FILE.part.json` says of which version.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Checksum, Digest, Entry, EntryKind, StorageError, StorePath, TenantStore};

/// Failures in a row, without one byte between them, after which an import ends.
const TRIES: u32 = 5;
/// Changes of the file in the store after which an import ends: it is being written.
const CHANGES: u32 = 2;
/// Before the second try; doubled for each further one.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// So many bytes between two syncs: what a crash may cost.
const SYNC_EVERY: u64 = 64 * 1024 * 1024;

/// How far an import is: bytes of bytes.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// What was brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Bytes.
    pub size: u64,
    /// Lower-case hex.
    pub sha256: String,
    /// The version that it is.
    pub version: String,
    /// So many bytes were here from an earlier try.
    pub resumed_from: u64,
}

/// Which version `FILE.part` is the beginning of.
#[derive(Serialize, Deserialize, PartialEq)]
struct Beginning {
    version: String,
    size: u64,
}

struct Part {
    data: PathBuf,
    note: PathBuf,
}

impl TenantStore {
    /// Brings a file to `target`, over one that is there.
    ///
    /// # Errors
    /// [`StorageError`]; what has arrived stays beside `target` for the next try, unless it was damaged.
    pub async fn import(&self, path: &StorePath, target: &Path, progress: Progress<'_>) -> Result<Imported, StorageError> {
        let part = Part::of(target);
        let (mut tries, mut changes, mut wait) = (0, 0, FIRST_WAIT);
        let mut resumed_from = None;
        loop {
            let before = part.length().await;
            let error = match self.attempt(path, &part, &mut resumed_from, progress).await {
                Ok((entry, sha256)) => {
                    part.become_file(target).await.map_err(|error| self.here(target, error))?;
                    let resumed_from = resumed_from.unwrap_or(0);
                    return Ok(Imported { size: entry.size, sha256, version: entry.version, resumed_from });
                }
                Err(error) => error,
            };
            match &error {
                StorageError::Changed { .. } if changes < CHANGES => {
                    changes += 1;
                    resumed_from = None;
                    part.forget().await;
                    continue;
                }
                StorageError::Checksum { .. } => part.forget().await,
                _ => {}
            }
            if part.length().await > before {
                (tries, wait) = (0, FIRST_WAIT);
            }
            tries += 1;
            if !error.is_passing() || tries >= TRIES {
                return Err(error);
            }
            metrics::counter!("auralink_storage_imports_resumed_total", "store" => self.store().name().to_owned()).increment(1);
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(10));
        }
    }

    async fn attempt(
        &self,
        path: &StorePath,
        part: &Part,
        resumed_from: &mut Option<u64>,
        progress: Progress<'_>,
    ) -> Result<(Entry, String), StorageError> {
        let entry = self.stat(path).await?;
        if entry.kind != EntryKind::File {
            return Err(StorageError::NotAFile { path: path.to_string(), reason: "only files can be imported" });
        }
        let limit = self.store().max_file_bytes();
        if entry.size > limit {
            return Err(StorageError::TooLarge { path: path.to_string(), limit });
        }
        let io = |error| self.here(&part.data, error);
        let beginning = Beginning { version: entry.version.clone(), size: entry.size };
        let mut digest = Digest::new(matches!(entry.checksum, Some(Checksum::Dropbox(_))));
        let mut file = part.open(&beginning).await.map_err(io)?;
        hash_on(&mut file, &mut digest).await.map_err(io)?;
        let at = digest.bytes();
        resumed_from.get_or_insert(at);
        progress(at, entry.size);
        if at < entry.size {
            let reading = self.read(path, at, None, Some(&entry.version)).await?;
            let mut stream = reading.stream;
            let mut synced = at;
            while let Some(bytes) = stream.next().await {
                // What arrived before an error is kept for the next try.
                let bytes = match bytes {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        file.flush().await.map_err(io)?;
                        return Err(error);
                    }
                };
                file.write_all(&bytes).await.map_err(io)?;
                digest.update(&bytes);
                if digest.bytes() - synced >= SYNC_EVERY {
                    file.sync_data().await.map_err(io)?;
                    synced = digest.bytes();
                }
                progress(digest.bytes(), entry.size);
            }
        }
        file.flush().await.map_err(io)?;
        file.sync_all().await.map_err(io)?;
        let size = digest.bytes();
        if size != entry.size {
            return Err(StorageError::Interrupted { path: path.to_string(), reason: format!("{size} of {} bytes came", entry.size) });
        }
        let sha256 = verified(path, &entry, digest)?;
        Ok((entry, sha256))
    }

    fn here(&self, file: &Path, error: std::io::Error) -> StorageError {
        StorageError::io("this machine", format!("{} cannot be used", file.display()), error)
    }
}

impl Part {
    fn of(target: &Path) -> Self {
        let with = |ending: &str| {
            let mut name = target.file_name().unwrap_or_default().to_owned();
            name.push(ending);
            target.with_file_name(name)
        };
        Self { data: with(".part"), note: with(".part.json") }
    }

    async fn length(&self) -> u64 {
        tokio::fs::metadata(&self.data).await.map_or(0, |metadata| metadata.len())
    }

    /// What has arrived of this version; an empty file when it is another's. The note is written first: bytes without a note count for nothing.
    async fn open(&self, beginning: &Beginning) -> std::io::Result<File> {
        let noted = tokio::fs::read(&self.note).await.ok().and_then(|note| serde_json::from_slice::<Beginning>(&note).ok());
        let same = !beginning.version.is_empty() && noted.as_ref() == Some(beginning) && self.length().await <= beginning.size;
        if !same {
            self.forget().await;
            if let Some(folder) = self.data.parent() {
                tokio::fs::create_dir_all(folder).await?;
            }
            let mut note = File::create(&self.note).await?;
            note.write_all(&serde_json::to_vec(beginning)?).await?;
            note.sync_all().await?;
        }
        OpenOptions::new().read(true).write(true).create(true).truncate(!same).open(&self.data).await
    }

    async fn forget(&self) {
        // Data first: a note without data is an import that has not begun.
        for file in [&self.data, &self.note] {
            let _ = tokio::fs::remove_file(file).await;
        }
    }

    async fn become_file(&self, target: &Path) -> std::io::Result<()> {
        tokio::fs::rename(&self.data, target).await?;
        if let Some(folder) = target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder).await?.sync_all().await?;
        }
        let _ = tokio::fs::remove_file(&self.note).await;
        Ok(())
    }
}

async fn hash_on(file: &mut File, digest: &mut Digest) -> std::io::Result<()> {
    let mut part = vec![0; 256 * 1024];
    loop {
        match file.read(&mut part).await? {
            0 => return Ok(()),
            read => digest.update(&part[..read]),
        }
    }
}

fn verified(path: &StorePath, entry: &Entry, digest: Digest) -> Result<String, StorageError> {
    let (sha256, dropbox) = digest.finish();
    let (kind, expected, actual) = match &entry.checksum {
        None => return Ok(sha256),
        Some(Checksum::Sha256(expected)) => ("SHA-256", expected, &sha256),
        Some(Checksum::Dropbox(expected)) => ("content_hash", expected, &dropbox),
    };
    if expected.eq_ignore_ascii_case(actual) {
        return Ok(sha256);
    }
    Err(StorageError::Checksum { path: path.to_string(), kind, expected: expected.clone(), actual: actual.clone() })
}
