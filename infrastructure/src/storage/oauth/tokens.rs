//! The tokens of one store, in a file that only its owner reads.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What the service gave. No `Debug`: it is all secret.
#[derive(Serialize, Deserialize)]
pub(super) struct Tokens {
    pub(super) access_token: String,
    pub(super) refresh_token: String,
    /// Seconds since 1970.
    pub(super) expires_at: u64,
}

impl Tokens {
    pub(super) async fn read(file: &Path) -> std::io::Result<Option<Self>> {
        match tokio::fs::read(file).await {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|_| std::io::Error::other("it is damaged: connect again")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// On disk when it returns, whole or as before.
    pub(super) async fn write(&self, file: &Path) -> std::io::Result<()> {
        let (bytes, file) = (serde_json::to_vec(self)?, file.to_owned());
        blocking(move || {
            let folder = folder(&file)?;
            let part = file.with_extension(format!("{}.part", uuid::Uuid::new_v4()));
            let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).and_then(|mut out| {
                out.write_all(&bytes)?;
                out.sync_all()
            });
            if let Err(error) = written.and_then(|()| std::fs::rename(&part, &file)) {
                let _ = std::fs::remove_file(&part);
                return Err(error);
            }
            File::open(folder)?.sync_all()
        })
        .await
    }
}

/// Keeps other processes from renewing the same tokens until it is dropped.
pub(super) async fn lock(file: &Path) -> std::io::Result<File> {
    let path = file.with_extension("lock");
    blocking(move || {
        folder(&path)?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        lock.lock()?;
        Ok(lock)
    })
    .await
}

fn folder(file: &Path) -> std::io::Result<PathBuf> {
    let folder = file.parent().map_or_else(PathBuf::new, Path::to_owned);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
