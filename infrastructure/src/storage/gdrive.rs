//! Google Drive by its HTTP interface, version 3 (developers.google.com/drive/api). Drive knows files by ids, not by paths: each name is looked
//! up in its folder, and folders' ids are remembered. A file's head revision is its version; its SHA-256 is Drive's own.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::config::GdriveConfig;
use super::http::{Http, Outcome, Refusal, without_url};
use super::oauth::{Access, Provider};
use super::spool::Spool;
use super::{Checksum, Content, Engine, Entry, EntryKind, Page, Reading, StorageError, StorePath, Written, exactly, stretch};

/// Bytes of one request of an upload; Drive wants multiples of 256 KiB.
const PART: usize = 8 * 1024 * 1024;
/// What Drive calls a folder.
const FOLDER: &str = "application/vnd.google-apps.folder";
/// Documents of Google's editors and shortcuts begin so: they have no content to download.
const NATIVE: &str = "application/vnd.google-apps.";
/// Folders whose ids are remembered.
const MAX_FOLDERS: usize = 10_000;
/// What is asked of a file.
const FIELDS: &str = "id,name,mimeType,size,modifiedTime,headRevisionId,sha256Checksum";

pub(super) struct Gdrive {
    http: Http,
    api: String,
    root: String,
    spool: PathBuf,
    folders: Mutex<HashMap<StorePath, String>>,
    /// Two uploads into a new folder must not make it twice: Drive takes two folders of one name.
    making: tokio::sync::Mutex<()>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct File {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    mime_type: String,
    /// A number, as text.
    #[serde(default)]
    size: String,
    #[serde(default)]
    modified_time: String,
    #[serde(default)]
    head_revision_id: String,
    sha256_checksum: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Files {
    #[serde(default)]
    files: Vec<File>,
    next_page_token: Option<String>,
}

impl Gdrive {
    pub(super) fn provider(store: &str, config: &GdriveConfig) -> Provider {
        Provider {
            store: store.to_owned(),
            authorize_url: config.authorize_url.clone(),
            token_url: config.token_url.clone(),
            client_id: config.client_id.clone(),
            client_secret: Some(config.client_secret.clone()),
            redirect_port: config.redirect_port,
            extra: &[("scope", "https://www.googleapis.com/auth/drive"), ("access_type", "offline"), ("prompt", "consent")],
        }
    }

    pub(super) fn open(store: &str, config: &GdriveConfig, client: reqwest::Client, access: Access, spool: PathBuf) -> Self {
        Self {
            http: Http::new(store, client, access),
            api: config.api_url.trim_end_matches('/').to_owned(),
            root: config.root.clone(),
            spool,
            folders: Mutex::default(),
            making: tokio::sync::Mutex::default(),
        }
    }

    async fn list(&self, query: &str, order: &str, page: Option<&str>, limit: u32) -> Result<Files, Answer> {
        let url = format!("{}/drive/v3/files", self.api);
        let (fields, limit) = (format!("nextPageToken,files({FIELDS})"), limit.to_string());
        let sent = self
            .http
            .send(|client| {
                let request = client.get(&url).query(&[
                    ("q", query),
                    ("fields", &fields),
                    ("pageSize", &limit),
                    ("orderBy", order),
                    ("supportsAllDrives", "true"),
                    ("includeItemsFromAllDrives", "true"),
                ]);
                if let Some(page) = page { request.query(&[("pageToken", page)]) } else { request }
            })
            .await?;
        match sent {
            Outcome::Answer(response) => Ok(self.http.json(response).await?),
            Outcome::Refused(refusal) => Err(Answer::Refused(refusal)),
        }
    }

    /// The entry of this name. Drive takes several; the one that was changed last is the one that is meant.
    async fn named(&self, folder: &str, name: &str, path: &StorePath) -> Result<Option<File>, StorageError> {
        let query = format!("'{}' in parents and name = '{}' and trashed = false", quoted(folder), quoted(name));
        let found = self.list(&query, "modifiedTime desc", None, 10).await.map_err(|answer| self.told(path, answer))?;
        // Drive compares names without regard to case.
        Ok(found.files.into_iter().find(|file| file.name == name))
    }

    /// The id of a folder.
    async fn folder(&self, path: &StorePath, make: bool) -> Result<String, StorageError> {
        if let Some(id) = self.remembered(path) {
            return Ok(id);
        }
        let mut id = self.root.clone();
        let mut at = StorePath::root();
        for name in path.names() {
            at = at.child(name)?;
            if let Some(known) = self.remembered(&at) {
                id = known;
                continue;
            }
            id = match self.named(&id, name, path).await? {
                Some(file) if file.mime_type == FOLDER => file.id,
                Some(_) => return Err(StorageError::NotAFolder { path: at.to_string() }),
                None if make => self.make(&id, name, path).await?,
                None => return Err(StorageError::NotFound { path: path.to_string() }),
            };
            let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
            if folders.len() >= MAX_FOLDERS {
                folders.clear();
            }
            folders.insert(at.clone(), id.clone());
        }
        Ok(id)
    }

    fn remembered(&self, path: &StorePath) -> Option<String> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    fn forget(&self) {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    async fn make(&self, folder: &str, name: &str, path: &StorePath) -> Result<String, StorageError> {
        let _one = self.making.lock().await;
        if let Some(file) = self.named(folder, name, path).await?.filter(|file| file.mime_type == FOLDER) {
            return Ok(file.id);
        }
        let url = format!("{}/drive/v3/files?fields={FIELDS}&supportsAllDrives=true", self.api);
        let body = json!({"name": name, "mimeType": FOLDER, "parents": [folder]});
        let sent = self.http.send(|client| client.post(&url).json(&body)).await?;
        let made: File = self.http.json(self.answered(path, sent)?).await?;
        Ok(made.id)
    }

    async fn find(&self, path: &StorePath) -> Result<File, StorageError> {
        let name = path.name().ok_or_else(|| StorageError::NotAFile { path: path.to_string(), reason: "it is the store's root" })?;
        let look = || async {
            let folder = self.folder(&path.folder(), false).await.map_err(|error| match error {
                StorageError::NotAFolder { .. } => StorageError::NotFound { path: path.to_string() },
                other => other,
            })?;
            self.named(&folder, name, path).await?.ok_or_else(|| StorageError::NotFound { path: path.to_string() })
        };
        let remembered = self.remembered(&path.folder()).is_some();
        match look().await {
            // A folder may have been moved or made anew since its id was remembered.
            Err(StorageError::NotFound { .. }) if remembered => {
                self.forget();
                look().await
            }
            found => found,
        }
    }

    fn told(&self, path: &StorePath, answer: Answer) -> StorageError {
        match answer {
            Answer::Failed(error) => error,
            Answer::Refused(refusal) => self.refused(path, refusal),
        }
    }

    fn answered(&self, path: &StorePath, outcome: Outcome) -> Result<Response, StorageError> {
        match outcome {
            Outcome::Answer(response) => Ok(response),
            Outcome::Refused(refusal) => Err(self.refused(path, refusal)),
        }
    }

    fn refused(&self, path: &StorePath, refusal: Refusal) -> StorageError {
        let (store, path) = (self.http.store().to_owned(), path.to_string());
        let body: Value = serde_json::from_str(&refusal.body).unwrap_or_default();
        let reason = body["error"]["errors"][0]["reason"].as_str().unwrap_or_default();
        let said: String = body["error"]["message"].as_str().unwrap_or(&refusal.body).chars().take(300).collect();
        match (refusal.status, reason) {
            (StatusCode::NOT_FOUND, _) => {
                self.forget();
                StorageError::NotFound { path }
            }
            (StatusCode::UNAUTHORIZED, _) => StorageError::Connect { store, reason: format!("Google no longer takes its token ({said})") },
            (StatusCode::FORBIDDEN, "storageQuotaExceeded" | "teamDriveFileLimitExceeded") => StorageError::Full { store, reason: said },
            (StatusCode::FORBIDDEN, "fileNotDownloadable") => {
                StorageError::NotAFile { path, reason: "it is a document that cannot be downloaded" }
            }
            (StatusCode::BAD_REQUEST, "invalid") if said.contains("page") || said.contains("Page") => StorageError::PageMark,
            (StatusCode::RANGE_NOT_SATISFIABLE, _) => StorageError::Changed { path },
            (status, _) => StorageError::Denied { store, reason: format!("Google answers {status}: {said}") },
        }
    }

    /// Opens a resumable upload: a new file, or new content of the one that is there.
    async fn session(&self, path: &StorePath, folder: &str, name: &str, there: Option<&File>, size: u64) -> Result<String, StorageError> {
        let query = format!("uploadType=resumable&fields={FIELDS}&supportsAllDrives=true");
        let (url, body) = match there {
            Some(file) => (format!("{}/upload/drive/v3/files/{}?{query}", self.api, file.id), json!({})),
            None => (format!("{}/upload/drive/v3/files?{query}", self.api), json!({"name": name, "parents": [folder]})),
        };
        let sent = self
            .http
            .send(|client| {
                let request = if there.is_some() { client.patch(&url) } else { client.post(&url) };
                request.header("X-Upload-Content-Length", size).header("X-Upload-Content-Type", "application/octet-stream").json(&body)
            })
            .await?;
        let response = self.answered(path, sent)?;
        let location = response.headers().get("Location").and_then(|value| value.to_str().ok());
        location.map(str::to_owned).ok_or_else(|| self.http.odd("an upload was opened, and its address is missing"))
    }

    /// Sends the content in parts, from where the service says that it is.
    async fn send(&self, path: &StorePath, session: &str, spool: &Spool) -> Result<File, StorageError> {
        let io = |error| StorageError::io(self.http.store(), "the upload's spool cannot be read", error);
        let mut at = 0;
        let mut stuck = 0;
        loop {
            let part = spool.part(at, PART).await.map_err(io)?;
            let range = match part.len() as u64 {
                0 => format!("bytes */{}", spool.size),
                length => format!("bytes {at}-{}/{}", at + length - 1, spool.size),
            };
            let sent = self.http.send(|client| client.put(session).header("Content-Range", &range).body(part.clone())).await?;
            let response = self.answered(path, sent)?;
            if response.status() != StatusCode::PERMANENT_REDIRECT {
                return self.http.json(response).await;
            }
            // `Range: bytes=0-N` says what has arrived; without it nothing has.
            let arrived =
                response.headers().get("Range").and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("bytes=0-"));
            let further = arrived.and_then(|last| last.parse::<u64>().ok()).map_or(0, |last| last + 1);
            stuck = if further > at { 0 } else { stuck + 1 };
            if further > spool.size || stuck > 3 {
                return Err(self.http.odd("an upload does not get on"));
            }
            at = further;
        }
    }
}

/// What a listing may come to, before it is told for a path.
enum Answer {
    Failed(StorageError),
    Refused(Refusal),
}

impl From<StorageError> for Answer {
    fn from(error: StorageError) -> Self {
        Self::Failed(error)
    }
}

#[async_trait]
impl Engine for Gdrive {
    fn kind(&self) -> &'static str {
        "gdrive"
    }

    async fn browse(&self, folder: &StorePath, page: Option<&str>, limit: u32) -> Result<Page, StorageError> {
        let id = self.folder(folder, false).await?;
        let query = format!("'{}' in parents and trashed = false", quoted(&id));
        let listed = self.list(&query, "name", page, limit).await.map_err(|answer| self.told(folder, answer))?;
        let mut names = std::collections::HashSet::new();
        let entries = listed.files.iter().filter(|file| {
            // Of several of one name only one can be asked for.
            let named = folder.child(&file.name).is_ok() && names.insert(file.name.clone());
            if !named {
                metrics::counter!("auralink_storage_names_left_out_total").increment(1);
            }
            named
        });
        Ok(Page { entries: entries.map(entry).collect(), next: listed.next_page_token })
    }

    async fn stat(&self, path: &StorePath) -> Result<Entry, StorageError> {
        if path.is_root() {
            return Ok(Entry {
                name: String::new(),
                kind: EntryKind::Folder,
                size: 0,
                modified_ms: 0,
                version: String::new(),
                checksum: None,
            });
        }
        Ok(entry(&self.find(path).await?))
    }

    async fn read(&self, path: &StorePath, from: u64, to: Option<u64>, version: Option<&str>) -> Result<Reading, StorageError> {
        let file = self.find(path).await?;
        let found = entry(&file);
        match found.kind {
            EntryKind::File => {}
            EntryKind::Folder => return Err(StorageError::NotAFile { path: path.to_string(), reason: "it is a folder" }),
            EntryKind::Other => {
                return Err(StorageError::NotAFile { path: path.to_string(), reason: "it is a document that cannot be downloaded" });
            }
        }
        if version.is_some_and(|version| version != found.version) {
            return Err(StorageError::Changed { path: path.to_string() });
        }
        let (from, length) = stretch(path, found.size, from, to)?;
        let reading = |stream| Reading { size: found.size, from, length, version: found.version.clone(), stream };
        if length == 0 {
            return Ok(reading(futures_util::stream::empty().boxed()));
        }
        // By revision: whatever is written meanwhile, this content is read.
        let url = format!("{}/drive/v3/files/{}/revisions/{}?alt=media", self.api, file.id, file.head_revision_id);
        let range = format!("bytes={from}-{}", from + length - 1);
        let response = self.answered(path, self.http.send(|client| client.get(&url).header("Range", &range)).await?)?;
        if from > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(self.http.odd("a range was asked for, and all came"));
        }
        let at = path.to_string();
        let stream =
            response.bytes_stream().map_err(move |error| StorageError::Interrupted { path: at.clone(), reason: without_url(&error) });
        Ok(reading(exactly(stream.boxed(), length, path)))
    }

    async fn write(&self, path: &StorePath, content: Content) -> Result<Written, StorageError> {
        let name = path.name().ok_or_else(|| StorageError::NotAFile { path: path.to_string(), reason: "it is the store's root" })?;
        let spool = Spool::take(self.http.store(), path, content, &self.spool, false).await?;
        let folder = self.folder(&path.folder(), true).await?;
        let there = self.named(&folder, name, path).await?;
        if there.as_ref().is_some_and(|file| file.mime_type.starts_with(NATIVE)) {
            return Err(StorageError::NotAFile { path: path.to_string(), reason: "a folder or a document is there" });
        }
        let session = self.session(path, &folder, name, there.as_ref(), spool.size).await?;
        let file = self.send(path, &session, &spool).await?;
        match file.sha256_checksum.as_deref() {
            Some(hash) if hash != spool.sha256 => {
                Err(StorageError::Checksum { path: path.to_string(), kind: "SHA-256", expected: spool.sha256, actual: hash.to_owned() })
            }
            _ => Ok(Written { size: spool.size, sha256: spool.sha256, version: file.head_revision_id }),
        }
    }

    async fn delete(&self, path: &StorePath) -> Result<bool, StorageError> {
        let file = match self.find(path).await {
            Err(StorageError::NotFound { .. }) => return Ok(false),
            found => found?,
        };
        if file.mime_type == FOLDER {
            return Err(StorageError::NotAFile { path: path.to_string(), reason: "it is a folder, and folders are not deleted" });
        }
        let url = format!("{}/drive/v3/files/{}?supportsAllDrives=true", self.api, file.id);
        match self.answered(path, self.http.send(|client| client.delete(&url)).await?) {
            // A try whose answer was lost had deleted it.
            Ok(_) | Err(StorageError::NotFound { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// A text within Drive's query language.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

fn entry(file: &File) -> Entry {
    let kind = match file.mime_type.as_str() {
        FOLDER => EntryKind::Folder,
        native if native.starts_with(NATIVE) => EntryKind::Other,
        _ => EntryKind::File,
    };
    let modified = chrono::DateTime::parse_from_rfc3339(&file.modified_time).map_or(0, |at| at.timestamp_millis());
    Entry {
        name: file.name.clone(),
        kind,
        size: file.size.parse().unwrap_or(0),
        modified_ms: u64::try_from(modified).unwrap_or(0),
        version: file.head_revision_id.clone(),
        checksum: file.sha256_checksum.clone().map(Checksum::Sha256),
    }
}
