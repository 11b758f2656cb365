//! S3 by OpenDAL. An object's ETag is its version; its SHA-256 stands in its metadata. A large object is written in parts and
//! exists when the last request has joined them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use opendal::layers::{RetryLayer, TimeoutLayer};
use opendal::{ErrorKind, Metadata, Operator};

use super::config::S3Config;
use super::spool::Spool;
use super::{Checksum, Content, Engine, Entry, EntryKind, Page, Reading, StorageError, StorePath, Written, exactly, stretch};

/// Bytes of one part of an upload: S3 takes 10,000 parts of 5 MiB or more.
const PART: usize = 8 * 1024 * 1024;
/// Bytes of one request of a read, so that a slow reader holds no connection for hours.
const CHUNK: usize = 8 * 1024 * 1024;
/// A request that brings nothing for so long is repeated.
const PATIENCE: Duration = Duration::from_secs(30);
/// Entries that one page may have to look at: S3 tells folders before files, so a page is cut only where a file shows how far S3 is.
const MAX_LISTED: usize = 100_000;
/// The metadata's key.
const SHA256: &str = "sha256";

pub(super) struct S3 {
    store: String,
    operator: Operator,
    /// The same without repetition: a stream that is not held to a version yet must not be begun twice.
    once: Operator,
    spool: PathBuf,
}

impl S3 {
    pub(super) fn open(store: &str, config: &S3Config, spool: PathBuf) -> Result<Self, StorageError> {
        let wrong = |reason: String| StorageError::Config { store: store.to_owned(), reason };
        let key = config.access_key_id.read().map_err(|error| wrong(error.to_string()))?;
        let secret = config.secret_access_key.read().map_err(|error| wrong(error.to_string()))?;
        // Its HTTP client, once for the process: without its constructor that runs before `main`, nobody else does it.
        opendal::install_default();
        let mut builder = opendal::services::S3::default()
            .bucket(&config.bucket)
            .region(&config.region)
            .root(&format!("/{}", config.root.trim_matches('/')))
            .access_key_id(key.reveal())
            .secret_access_key(secret.reveal())
            // Only what the configuration says: no profile, no role of the machine.
            .disable_config_load()
            .disable_ec2_metadata();
        if let Some(endpoint) = &config.endpoint {
            builder = builder.endpoint(endpoint);
        }
        let operator = Operator::new(builder).map_err(|error| wrong(error.message().to_owned()))?;
        let once = operator.layer(TimeoutLayer::new().with_timeout(PATIENCE).with_io_timeout(PATIENCE));
        let operator = once.clone().layer(RetryLayer::new().with_max_times(4).with_min_delay(Duration::from_millis(200)).with_jitter());
        Ok(Self { store: store.to_owned(), operator, once, spool })
    }

    /// Asks for a file from `from` to its end. What it is, and its bytes when they are no more than [`CHUNK`]; a longer file is read in
    /// chunks, and so is one whose bytes did not all come. Nothing when the caller should ask for the file's metadata first.
    async fn begin(
        &self,
        path: &StorePath,
        from: u64,
        version: Option<&str>,
    ) -> Result<Option<(Metadata, Option<Vec<Bytes>>)>, StorageError> {
        let mut reader = self.once.reader_with(path.as_str());
        if let Some(version) = version {
            reader = reader.if_match(version);
        }
        let reader = reader.await.map_err(|error| self.failed(path, error))?;
        let mut stream = reader.into_bytes_stream(from..).await.map_err(|error| self.failed(path, error))?;
        let metadata = match stream.metadata().await {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConditionNotMatch) => {
                return Err(self.failed(path, error));
            }
            // Past the end, which only the size can tell from wrong; or a failure, which is repeated with patience.
            Err(_) => return Ok(None),
        };
        let left = metadata.content_length().saturating_sub(from);
        let whole = if left <= CHUNK as u64 { stream.try_collect::<Vec<Bytes>>().await.ok() } else { None };
        let whole = whole.filter(|parts| parts.iter().map(|part| part.len() as u64).sum::<u64>() == left);
        Ok(Some((metadata, whole)))
    }

    fn failed(&self, path: &StorePath, error: opendal::Error) -> StorageError {
        let (store, path) = (self.store.clone(), path.to_string());
        // The service's own words are in the message; the rest of the error holds whole requests.
        let said: String = error.message().chars().take(400).collect();
        match error.kind() {
            ErrorKind::NotFound => StorageError::NotFound { path },
            ErrorKind::PermissionDenied => StorageError::Denied {
                store,
                reason: format!("{said}. Check access_key_id, secret_access_key, region and the key's rights on the bucket"),
            },
            ErrorKind::ConditionNotMatch | ErrorKind::Conflict => StorageError::Changed { path },
            ErrorKind::IsADirectory => StorageError::NotAFile { path, reason: "it is a folder" },
            ErrorKind::NotADirectory => StorageError::NotAFolder { path },
            ErrorKind::RateLimited => StorageError::Busy { store, seconds: 30 },
            ErrorKind::ConfigInvalid => StorageError::Config { store, reason: said },
            _ if said.contains("NoSuchBucket") => StorageError::Config { store, reason: said },
            _ if said.contains("XMinioStorageFull") || said.contains("QuotaExceeded") => StorageError::Full { store, reason: said },
            _ => StorageError::Unavailable { store, reason: said },
        }
    }
}

#[async_trait]
impl Engine for S3 {
    fn kind(&self) -> &'static str {
        "s3"
    }

    async fn browse(&self, folder: &StorePath, page: Option<&str>, limit: u32) -> Result<Page, StorageError> {
        let at = if folder.is_root() { "/".to_owned() } else { format!("{folder}/") };
        let mut listing = self.operator.lister_with(&at);
        if let Some(after) = page {
            listing = listing.start_after(format!("{}{after}", at.trim_start_matches('/')).as_str());
        }
        let mut listing = listing.await.map_err(|error| self.failed(folder, error))?;
        let (mut found_all, mut empty) = (Sorted::default(), true);
        while let Some(found) = listing.try_next().await.map_err(|error| self.failed(folder, error))? {
            empty = false;
            let name = found.name().trim_end_matches('/');
            // The folder itself; a folder that the mark stands for, which S3 names again; a key that no path can name.
            if found.path() == at || found.path() == "/" || page.is_some_and(|mark| mark.trim_end_matches('/') == name) {
                continue;
            }
            if folder.child(name).is_err() {
                metrics::counter!("auralink_storage_names_left_out_total").increment(1);
                continue;
            }
            if found_all.add(entry(name, found.metadata())) > limit as usize {
                return Ok(found_all.page(limit as usize));
            }
            if found_all.entries.len() > MAX_LISTED {
                return Err(StorageError::Argument(format!(
                    "{folder} has more than {MAX_LISTED} folders in it, which S3 cannot list in pages: browse a folder further down"
                )));
            }
        }
        if empty && page.is_none() && !folder.is_root() {
            return match self.operator.stat(folder.as_str()).await {
                Ok(_) => Err(StorageError::NotAFolder { path: folder.to_string() }),
                Err(error) => Err(self.failed(folder, error)),
            };
        }
        found_all.settled = found_all.entries.len();
        Ok(found_all.page(limit as usize))
    }

    async fn stat(&self, path: &StorePath) -> Result<Entry, StorageError> {
        let Some(name) = path.name() else { return Ok(folder("")) };
        match self.operator.stat(path.as_str()).await {
            Ok(metadata) => Ok(entry(name, &metadata)),
            // There are no folders in S3, only keys with longer names.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let prefix = format!("{path}/");
                let below = self.operator.list_with(&prefix).limit(1).await.map_err(|error| self.failed(path, error))?;
                if below.is_empty() { Err(StorageError::NotFound { path: path.to_string() }) } else { Ok(folder(name)) }
            }
            Err(error) => Err(self.failed(path, error)),
        }
    }

    async fn read(&self, path: &StorePath, from: u64, to: Option<u64>, version: Option<&str>) -> Result<Reading, StorageError> {
        if path.is_root() {
            return Err(StorageError::NotAFile { path: path.to_string(), reason: "it is the store's root" });
        }
        // One request for a file up to its end, if it is small; its size is not known before.
        let first = if to.is_none() { self.begin(path, from, version).await? } else { None };
        let (metadata, whole) = match first {
            Some((metadata, whole)) => (metadata, whole),
            None => (self.operator.stat(path.as_str()).await.map_err(|error| self.failed(path, error))?, None),
        };
        let found = metadata.etag().unwrap_or_default().to_owned();
        if version.is_some_and(|version| version != found) {
            return Err(StorageError::Changed { path: path.to_string() });
        }
        let size = metadata.content_length();
        let (from, length) = stretch(path, size, from, to)?;
        let stream = match whole {
            Some(parts) => futures_util::stream::iter(parts.into_iter().map(Ok)).boxed(),
            None if length == 0 => futures_util::stream::empty().boxed(),
            None => {
                let mut reader = self.operator.reader_with(path.as_str()).chunk(CHUNK);
                if !found.is_empty() {
                    // Every request of the stream names the version: a change is an error, never a mixture.
                    reader = reader.if_match(&found);
                }
                let reader = reader.await.map_err(|error| self.failed(path, error))?;
                let (store, at) = (self.store.clone(), path.clone());
                let bytes = reader.into_bytes_stream(from..from + length).await.map_err(|error| self.failed(path, error))?;
                bytes.map_err(move |error| interrupted(&store, &at, &error)).boxed()
            }
        };
        Ok(Reading { size, from, length, version: found, stream: exactly(stream, length, path) })
    }

    async fn write(&self, path: &StorePath, content: Content) -> Result<Written, StorageError> {
        if path.is_root() {
            return Err(StorageError::NotAFile { path: path.to_string(), reason: "it is the store's root" });
        }
        let spool = Spool::take(&self.store, path, content, &self.spool, false).await?;
        let metadata = HashMap::from([(SHA256.to_owned(), spool.sha256.clone())]);
        let io = |error| StorageError::io(&self.store, "the upload's spool cannot be read", error);
        let written = if spool.size <= PART as u64 {
            let bytes = spool.part(0, PART).await.map_err(io)?;
            self.operator.write_with(path.as_str(), bytes).user_metadata(metadata).await.map_err(|error| self.failed(path, error))?
        } else {
            let mut writer = self
                .operator
                .writer_with(path.as_str())
                .chunk(PART)
                .user_metadata(metadata)
                .await
                .map_err(|error| self.failed(path, error))?;
            let mut at = 0;
            let sent = loop {
                if at == spool.size {
                    break writer.close().await;
                }
                let part = spool.part(at, PART).await.map_err(io)?;
                at += part.len() as u64;
                if let Err(error) = writer.write(part).await {
                    break Err(error);
                }
            };
            match sent {
                Ok(metadata) => metadata,
                Err(error) => {
                    // The parts that arrived cost money as long as they lie there; S3's own life-cycle rules are the second net.
                    if let Err(error) = writer.abort().await {
                        tracing::warn!(store = self.store, %path, error = error.message(), "parts of a failed upload are left in the bucket");
                    }
                    return Err(self.failed(path, error));
                }
            }
        };
        let version = match written.etag() {
            Some(etag) => etag.to_owned(),
            None => self.stat(path).await?.version,
        };
        Ok(Written { size: spool.size, sha256: spool.sha256, version })
    }

    async fn delete(&self, path: &StorePath) -> Result<bool, StorageError> {
        match self.operator.stat(path.as_str()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            stat => stat.map_err(|error| self.failed(path, error))?,
        };
        self.operator.delete(path.as_str()).await.map_err(|error| self.failed(path, error))?;
        Ok(true)
    }
}

/// What a stream says that had begun.
fn interrupted(store: &str, path: &StorePath, error: &std::io::Error) -> StorageError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<opendal::Error>());
    match inner.map(opendal::Error::kind) {
        Some(ErrorKind::ConditionNotMatch | ErrorKind::NotFound) => StorageError::Changed { path: path.to_string() },
        _ => {
            let said = inner.map_or_else(|| error.to_string(), |inner| inner.message().to_owned());
            StorageError::Interrupted { path: path.to_string(), reason: format!("{store}: {}", said.chars().take(400).collect::<String>()) }
        }
    }
}

/// A listing put into the order of keys. OpenDAL gives each answer of S3's with its folders first and its files after them, and does not
/// say where an answer ends. What is known: nothing that comes later is before a file that has come, and a folder after a
/// file begins the next answer, so that all before it is there.
#[derive(Default)]
struct Sorted {
    entries: Vec<Entry>,
    /// So many of the first are before all that can come.
    settled: usize,
    /// The last file's key.
    file: Option<String>,
}

impl Sorted {
    /// A folder's key ends in a slash.
    fn key(entry: &Entry) -> String {
        if entry.kind == EntryKind::Folder { format!("{}/", entry.name) } else { entry.name.clone() }
    }

    /// Answers how many entries are before all that can come.
    fn add(&mut self, entry: Entry) -> usize {
        if entry.kind == EntryKind::Folder {
            if self.file.take().is_some() {
                self.settled = self.entries.len();
            }
            self.entries.push(entry);
            return self.settled;
        }
        let key = Self::key(&entry);
        self.entries.push(entry);
        let before = self.entries[self.settled..].iter().filter(|entry| Self::key(entry) <= key).count();
        self.file = Some(key);
        self.settled + before
    }

    /// The first `limit` of those that are before all that can come.
    fn page(self, limit: usize) -> Page {
        let Self { entries, settled, file } = self;
        let mut keyed: Vec<(String, Entry)> = entries
            .into_iter()
            .enumerate()
            .map(|(at, entry)| (at, Self::key(&entry), entry))
            .filter(|(at, key, _)| *at < settled || file.as_ref().is_some_and(|file| key <= file))
            .map(|(_, key, entry)| (key, entry))
            .collect();
        keyed.sort_by(|one, other| one.0.cmp(&other.0));
        let more = keyed.len() > limit;
        keyed.truncate(limit);
        let next = keyed.last().filter(|_| more).map(|(key, _)| key.clone());
        Page { entries: keyed.into_iter().map(|(_, entry)| entry).collect(), next }
    }
}

fn folder(name: &str) -> Entry {
    Entry { name: name.to_owned(), kind: EntryKind::Folder, size: 0, modified_ms: 0, version: String::new(), checksum: None }
}

fn entry(name: &str, metadata: &Metadata) -> Entry {
    if metadata.is_dir() {
        return folder(name);
    }
    Entry {
        name: name.to_owned(),
        kind: EntryKind::File,
        size: metadata.content_length(),
        modified_ms: metadata.last_modified().map_or(0, |at| u64::try_from(at.into_inner().as_millisecond()).unwrap_or(0)),
        version: metadata.etag().unwrap_or_default().to_owned(),
        checksum: metadata.user_metadata().and_then(|kept| kept.get(SHA256).map(|hash| Checksum::Sha256(hash.to_owned()))),
    }
}
