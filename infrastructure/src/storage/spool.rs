//! Content on its way into a store: counted, hashed and held to its promise before any store shows a byte of it.
//!
//! Small content stays in memory; more goes to a file, so that an upload can be repeated from any byte and its length is known.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use super::checksum::Digest;
use super::{Content, StorageError, StorePath};

/// Bytes that stay in memory.
const IN_MEMORY: usize = 1024 * 1024;

/// Content that is here as a whole.
pub(super) struct Spool {
    held: Held,
    /// Bytes.
    pub(super) size: u64,
    /// Lower-case hex.
    pub(super) sha256: String,
    /// Dropbox's hash, if it was asked for.
    pub(super) dropbox: String,
}

enum Held {
    Memory(Bytes),
    File { file: File, path: Named },
}

/// A file that goes with its owner.
struct Named(Option<PathBuf>);

impl Drop for Named {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // Another process may have tidied it away.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Spool {
    /// Takes all of `content`. Files are made in `folder`; those of a process that died are found there by [`tidy`].
    pub(super) async fn take(store: &str, path: &StorePath, content: Content, folder: &Path, dropbox: bool) -> Result<Self, StorageError> {
        let Content { mut stream, limit, sha256: promised } = content;
        let mut digest = Digest::new(dropbox);
        let mut memory = BytesMut::new();
        let mut spilled: Option<(tokio::fs::File, Named)> = None;
        let io = |error| StorageError::io(store, format!("{path:?} cannot be written", path = path.to_string()), error);
        while let Some(bytes) = stream.next().await {
            let bytes = bytes?;
            digest.update(&bytes);
            if digest.bytes() > limit {
                return Err(StorageError::TooLarge { path: path.to_string(), limit });
            }
            if spilled.is_none() && memory.len() + bytes.len() > IN_MEMORY {
                let (file, named) = create(folder).map_err(io)?;
                let mut file = tokio::fs::File::from_std(file);
                file.write_all(&memory).await.map_err(io)?;
                memory = BytesMut::new();
                spilled = Some((file, named));
            }
            match &mut spilled {
                Some((file, _)) => file.write_all(&bytes).await.map_err(io)?,
                None => memory.extend_from_slice(&bytes),
            }
        }
        let held = match spilled {
            Some((mut file, path)) => {
                file.flush().await.map_err(io)?;
                Held::File { file: file.into_std().await, path }
            }
            None => Held::Memory(memory.freeze()),
        };
        let size = digest.bytes();
        let (sha256, dropbox) = digest.finish();
        if let Some(expected) = promised.map(|promised| promised.to_ascii_lowercase()).filter(|promised| *promised != sha256) {
            return Err(StorageError::Checksum { path: path.to_string(), kind: "SHA-256", expected, actual: sha256 });
        }
        Ok(Self { held, size, sha256, dropbox })
    }

    /// `length` bytes from `from` on; fewer at the end.
    pub(super) async fn part(&self, from: u64, length: usize) -> std::io::Result<Bytes> {
        let length = length.min(usize::try_from(self.size.saturating_sub(from)).unwrap_or(usize::MAX));
        match &self.held {
            Held::Memory(bytes) => {
                let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(from..from + length))
            }
            Held::File { file, .. } => {
                let file = file.try_clone()?;
                tokio::task::spawn_blocking(move || {
                    let mut part = vec![0; length];
                    file.read_exact_at(&mut part, from)?;
                    Ok(part.into())
                })
                .await
                .map_err(std::io::Error::other)?
            }
        }
    }

    /// The content as a file of `folder` that is on disk; the caller renames it. For blocking threads.
    pub(super) fn into_file(self, folder: &Path) -> std::io::Result<(File, SpooledFile)> {
        let (file, named) = match self.held {
            Held::File { file, path } => (file, path),
            Held::Memory(bytes) => {
                let (file, named) = create(folder)?;
                file.write_all_at(&bytes, 0)?;
                (file, named)
            }
        };
        file.sync_all()?;
        Ok((file, SpooledFile(named)))
    }
}

/// A file that is deleted unless it is renamed.
pub(super) struct SpooledFile(Named);

impl SpooledFile {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.0.0.as_deref().expect("only `renamed` takes the path, and it takes self")
    }

    /// It has another name now.
    pub(super) fn renamed(mut self) {
        self.0.0 = None;
    }
}

fn create(folder: &Path) -> std::io::Result<(File, Named)> {
    let path = folder.join(format!("{}.part", uuid::Uuid::new_v4()));
    let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    // Held for as long as the file is open: who tidies up sees that somebody lives.
    file.try_lock().map_err(std::io::Error::from)?;
    Ok((file, Named(Some(path))))
}

/// Makes `folder`, and deletes what a process left behind that died while it wrote. A file that somebody writes is locked, and stays.
pub(super) fn tidy(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        let ours = path.extension().is_some_and(|extension| extension == "part") && entry.file_type().is_ok_and(|kind| kind.is_file());
        let dead = || File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if ours && dead() {
            // Another process may be tidying as well.
            let _ = std::fs::remove_file(&path);
        }
    }
    Ok(())
}
