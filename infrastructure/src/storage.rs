//! Files in named stores: a local folder, an S3 bucket, Google Drive, Dropbox.
//!
//! Place: `server::files` and the pipeline stand above and bring tenants; an engine knows neither. Rules: a path is checked before an engine
//! sees it ([`StorePath`]); a file appears whole or not at all, with a known SHA-256; a read that ends early is an error and never
//! a short file; credentials come by [`crate::secret`] and stand in no error.
//!
//! S3 is OpenDAL's. Google Drive and Dropbox are written over their documented HTTP interfaces, because OpenDAL 0.59 fixes their addresses (nothing
//! but the real services could ever be tested), uploads to Drive in one request that cannot be resumed, takes refresh tokens only (no
//! authorization code), and knows no version to hold a read to. The local folder is written over file descriptors, because OpenDAL's
//! follows symbolic links out of its root and does not sync the folder that a file was renamed into.

mod checksum;
mod config;
mod dropbox;
mod error;
mod gdrive;
mod http;
mod import;
mod local;
pub mod oauth;
mod path;
mod s3;
mod spool;
mod stores;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub use checksum::{Checksum, Digest};
pub use config::{DropboxConfig, GdriveConfig, LocalConfig, S3Config, StorageConfig, StoreConfig};
pub use error::StorageError;
pub use import::{Imported, Progress};
pub use local::Local;
pub use path::{PathError, StorePath};
pub use stores::{Store, Stores, TenantStore};

/// Entries of one page at most.
pub const MAX_PAGE: u32 = 1_000;

/// Content as it flows.
pub type ByteStream = BoxStream<'static, Result<Bytes, StorageError>>;

/// What an entry of a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Can be read.
    File,
    /// Can be browsed.
    Folder,
    /// Is there, and cannot be read: a symbolic link, a device, a document that exists only in its owner's editor.
    Other,
}

/// A file or a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name in its folder.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes; 0 for what is no file.
    pub size: u64,
    /// When it was last changed, milliseconds since 1970; 0 when the engine does not say.
    pub modified_ms: u64,
    /// Changes with the content; empty when the engine does not say (folders).
    pub version: String,
    /// What the engine knows of the content.
    pub checksum: Option<Checksum>,
}

/// Some entries of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In the engine's order (by name where it has one), each name once.
    pub entries: Vec<Entry>,
    /// Ask with this for the rest.
    pub next: Option<String>,
}

/// Content that is being read.
pub struct Reading {
    /// Bytes of the whole file.
    pub size: u64,
    /// First byte of the stream.
    pub from: u64,
    /// Bytes that the stream brings, or it ends with an error.
    pub length: u64,
    /// The version that is read.
    pub version: String,
    /// The content.
    pub stream: ByteStream,
}

/// Content that is to be written.
pub struct Content {
    /// The bytes.
    pub stream: ByteStream,
    /// How many at most; one more is refused.
    pub limit: u64,
    /// What they must hash to, lower-case hex of SHA-256.
    pub sha256: Option<String>,
}

impl Content {
    /// Content that is in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let limit = bytes.len() as u64;
        Self { stream: futures_util::stream::once(async move { Ok(bytes) }).boxed(), limit, sha256: None }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Bytes.
    pub size: u64,
    /// Lower-case hex.
    pub sha256: String,
    /// The version that was made.
    pub version: String,
}

/// One kind of store. Paths are those of the store, below nobody's tenant.
#[async_trait]
pub trait Engine: Send + Sync {
    /// `local`, `s3`, `gdrive`, `dropbox`.
    fn kind(&self) -> &'static str;

    /// Entries of a folder, 1 to [`MAX_PAGE`] of them.
    async fn browse(&self, folder: &StorePath, page: Option<&str>, limit: u32) -> Result<Page, StorageError>;

    /// One file or folder.
    async fn stat(&self, path: &StorePath) -> Result<Entry, StorageError>;

    /// Reads `from` up to, not including, `to`, or to the end; of this version or not at all, when one is given.
    async fn read(&self, path: &StorePath, from: u64, to: Option<u64>, version: Option<&str>) -> Result<Reading, StorageError>;

    /// Writes a file, over one that is there, and makes its folders: whole, durable, or not at all.
    async fn write(&self, path: &StorePath, content: Content) -> Result<Written, StorageError>;

    /// Deletes a file; whether it was there. Folders are not deleted.
    async fn delete(&self, path: &StorePath) -> Result<bool, StorageError>;
}

/// Holds a stream to its length: more or less than promised is an error.
fn exactly(stream: ByteStream, length: u64, path: &StorePath) -> ByteStream {
    let path = path.clone();
    futures_util::stream::unfold((stream, length, path, false), |(mut stream, left, path, done)| async move {
        if done {
            return None;
        }
        let item = match stream.next().await {
            Some(Ok(bytes)) if bytes.len() as u64 <= left => {
                let left = left - bytes.len() as u64;
                return Some((Ok(bytes), (stream, left, path, false)));
            }
            Some(Ok(_)) => Err(StorageError::Interrupted { path: path.to_string(), reason: "it brings more than it announced".into() }),
            Some(Err(error)) => Err(error),
            None if left > 0 => {
                Err(StorageError::Interrupted { path: path.to_string(), reason: format!("it ended {left} bytes before its end") })
            }
            None => return None,
        };
        Some((item, (stream, left, path, true)))
    })
    .boxed()
}

/// The stretch of a file that was asked for: its first byte and its length.
fn stretch(path: &StorePath, size: u64, from: u64, to: Option<u64>) -> Result<(u64, u64), StorageError> {
    let to = to.unwrap_or(size).min(size);
    if from > to {
        return Err(StorageError::Range { path: path.to_string(), from, size });
    }
    Ok((from, to - from))
}
