//! Dropbox by its HTTP interface, version 2 (dropbox.com/developers/documentation/http). A file's `rev` is its version; its content hash is
//! compared after every upload and import.

use std::fmt::Write as _;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::config::DropboxConfig;
use super::http::{Http, Outcome, Refusal, without_url};
use super::oauth::{Access, Provider};
use super::spool::Spool;
use super::{Checksum, Content, Engine, Entry, EntryKind, Page, Reading, StorageError, StorePath, Written, exactly, stretch};

/// Bytes of one request of an upload; Dropbox takes 150 MB, and wants multiples of 4 MiB.
const PART: usize = 8 * 1024 * 1024;
/// What Dropbox lists on one page at most.
const MAX_LIST: u32 = 2_000;

pub(super) struct Dropbox {
    http: Http,
    api: String,
    content: String,
    root: StorePath,
    spool: PathBuf,
}

/// Dropbox's "Metadata" union.
#[derive(Deserialize)]
struct Item {
    #[serde(rename = ".tag", default)]
    tag: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    rev: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    server_modified: String,
    content_hash: Option<String>,
    #[serde(default = "yes")]
    is_downloadable: bool,
}

#[derive(Deserialize)]
struct Listing {
    entries: Vec<Item>,
    cursor: String,
    has_more: bool,
}

#[derive(Deserialize)]
struct Session {
    session_id: String,
}

#[derive(Deserialize)]
struct ApiError {
    error_summary: String,
}

fn yes() -> bool {
    true
}

impl Dropbox {
    pub(super) fn provider(store: &str, config: &DropboxConfig) -> Provider {
        Provider {
            store: store.to_owned(),
            authorize_url: config.authorize_url.clone(),
            token_url: config.token_url.clone(),
            client_id: config.app_key.clone(),
            client_secret: config.app_secret.clone(),
            redirect_port: config.redirect_port,
            extra: &[("token_access_type", "offline")],
        }
    }

    pub(super) fn open(
        store: &str,
        config: &DropboxConfig,
        client: reqwest::Client,
        access: Access,
        spool: PathBuf,
    ) -> Result<Self, StorageError> {
        let root = config.root.trim_start_matches('/').parse()?;
        let plain = |url: &str| url.trim_end_matches('/').to_owned();
        Ok(Self { http: Http::new(store, client, access), api: plain(&config.api_url), content: plain(&config.content_url), root, spool })
    }

    /// As Dropbox writes paths: the root is empty, all others begin with `/`.
    fn at(&self, path: &StorePath) -> String {
        let path = self.root.join(path);
        if path.is_root() { String::new() } else { format!("/{}", path.as_str()) }
    }

    /// Calls a function of the API host: JSON in, JSON out.
    async fn rpc(&self, path: &StorePath, function: &str, argument: &Value) -> Result<Response, StorageError> {
        let url = format!("{}/2/files/{function}", self.api);
        match self.http.send(|client| client.post(&url).json(argument)).await? {
            Outcome::Answer(response) => Ok(response),
            Outcome::Refused(refusal) => Err(self.refused(path, refusal)),
        }
    }

    /// Calls a function of the content host: the argument stands in a header, the body is content.
    async fn upload(&self, function: &str, argument: &Value, body: Bytes) -> Result<Outcome, StorageError> {
        let (url, argument) = (format!("{}/2/files/{function}", self.content), header(argument));
        self.http
            .send(|client| {
                client.post(&url).header("Dropbox-API-Arg", &argument).header("Content-Type", "application/octet-stream").body(body.clone())
            })
            .await
    }

    fn refused(&self, path: &StorePath, refusal: Refusal) -> StorageError {
        let (store, path) = (self.http.store().to_owned(), path.to_string());
        let said = serde_json::from_str::<ApiError>(&refusal.body).map_or(refusal.body, |error| error.error_summary);
        let said: String = said.chars().take(300).collect();
        let has = |word: &str| said.contains(word);
        match refusal.status {
            StatusCode::CONFLICT if has("not_found") => StorageError::NotFound { path },
            StatusCode::CONFLICT if has("not_folder") => StorageError::NotAFolder { path },
            StatusCode::CONFLICT if has("not_file") => StorageError::NotAFile { path, reason: "it is a folder" },
            StatusCode::CONFLICT if has("unsupported_file") => {
                StorageError::NotAFile { path, reason: "it is a document that cannot be downloaded" }
            }
            StatusCode::CONFLICT if has("insufficient_space") => StorageError::Full { store, reason: said },
            StatusCode::CONFLICT if has("conflict/folder") => StorageError::NotAFile { path, reason: "a folder is there" },
            StatusCode::CONFLICT if has("reset") => StorageError::PageMark,
            StatusCode::BAD_REQUEST if has("cursor") => StorageError::PageMark,
            StatusCode::UNAUTHORIZED if has("missing_scope") => StorageError::Denied {
                store,
                reason: format!("{said}: the app needs files.metadata.read, files.content.read and files.content.write"),
            },
            StatusCode::UNAUTHORIZED => StorageError::Connect { store, reason: format!("Dropbox no longer takes its token ({said})") },
            StatusCode::RANGE_NOT_SATISFIABLE => StorageError::Changed { path },
            status => StorageError::Denied { store, reason: format!("Dropbox answers {status}: {said}") },
        }
    }

    async fn whole(&self, path: &StorePath, spool: &Spool) -> Result<Response, StorageError> {
        let commit = json!({"path": self.at(path), "mode": "overwrite", "autorename": false, "mute": true});
        let io = |error| StorageError::io(self.http.store(), "the upload's spool cannot be read", error);
        if spool.size <= PART as u64 {
            let body = spool.part(0, PART).await.map_err(io)?;
            return self.answered(path, self.upload("upload", &commit, body).await?);
        }
        let first = spool.part(0, PART).await.map_err(io)?;
        let mut at = first.len() as u64;
        let started = self.answered(path, self.upload("upload_session/start", &json!({"close": false}), first).await?)?;
        let Session { session_id } = self.http.json(started).await?;
        while spool.size - at > PART as u64 {
            let part = spool.part(at, PART).await.map_err(io)?;
            let sent = part.len() as u64;
            let argument = json!({"cursor": {"session_id": session_id, "offset": at}, "close": false});
            match self.upload("upload_session/append_v2", &argument, part).await? {
                Outcome::Answer(_) => at += sent,
                Outcome::Refused(refusal) => at = self.resume(path, refusal, spool.size)?,
            }
        }
        loop {
            let part = spool.part(at, PART).await.map_err(io)?;
            let argument = json!({"cursor": {"session_id": session_id, "offset": at}, "commit": commit});
            match self.upload("upload_session/finish", &argument, part).await? {
                Outcome::Answer(response) => return Ok(response),
                Outcome::Refused(refusal) => {
                    let further = self.resume(path, refusal, spool.size)?;
                    if further == at {
                        return Err(self.http.odd("it names the offset that it refuses"));
                    }
                    at = further;
                }
            }
        }
    }

    /// Where an upload goes on: a repeated part that had arrived is refused with the right offset.
    fn resume(&self, path: &StorePath, refusal: Refusal, size: u64) -> Result<u64, StorageError> {
        let body: Value = serde_json::from_str(&refusal.body).unwrap_or_default();
        let error = &body["error"];
        let error = if error["lookup_failed"].is_object() { &error["lookup_failed"] } else { error };
        match error["correct_offset"].as_u64().filter(|at| *at <= size) {
            Some(at) => Ok(at),
            None => Err(self.refused(path, refusal)),
        }
    }

    fn answered(&self, path: &StorePath, outcome: Outcome) -> Result<Response, StorageError> {
        match outcome {
            Outcome::Answer(response) => Ok(response),
            Outcome::Refused(refusal) => Err(self.refused(path, refusal)),
        }
    }
}

#[async_trait]
impl Engine for Dropbox {
    fn kind(&self) -> &'static str {
        "dropbox"
    }

    async fn browse(&self, folder: &StorePath, page: Option<&str>, limit: u32) -> Result<Page, StorageError> {
        // Dropbox's pages may hold more than was asked for ("approximately"), so they are cut here: the mark is `SKIP:CURSOR`, where the cursor
        // is the page's own and SKIP says how many of its entries were handed out.
        let limit = limit.min(MAX_LIST);
        let (skip, cursor) = match page {
            None => (0, ""),
            Some(mark) => {
                mark.split_once(':').and_then(|(skip, cursor)| Some((skip.parse().ok()?, cursor))).ok_or(StorageError::PageMark)?
            }
        };
        let response = if cursor.is_empty() {
            let argument = json!({"path": self.at(folder), "limit": limit, "include_deleted": false});
            self.rpc(folder, "list_folder", &argument).await?
        } else {
            self.rpc(folder, "list_folder/continue", &json!({"cursor": cursor})).await?
        };
        let listing: Listing = self.http.json(response).await?;
        let end = skip + limit as usize;
        let next = if listing.entries.len() > end {
            Some(format!("{end}:{cursor}"))
        } else {
            listing.has_more.then(|| format!("0:{}", listing.cursor))
        };
        let entries = listing.entries.iter().skip(skip).take(limit as usize).filter(|item| item.tag != "deleted").map(entry);
        Ok(Page { entries: entries.filter(|entry| named(folder, entry)).collect(), next })
    }

    async fn stat(&self, path: &StorePath) -> Result<Entry, StorageError> {
        if self.root.join(path).is_root() {
            // Dropbox has no metadata of its root.
            return Ok(Entry {
                name: String::new(),
                kind: EntryKind::Folder,
                size: 0,
                modified_ms: 0,
                version: String::new(),
                checksum: None,
            });
        }
        let response = self.rpc(path, "get_metadata", &json!({"path": self.at(path)})).await?;
        Ok(entry(&self.http.json(response).await?))
    }

    async fn read(&self, path: &StorePath, from: u64, to: Option<u64>, version: Option<&str>) -> Result<Reading, StorageError> {
        let found = self.stat(path).await?;
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
        let (url, argument) = (format!("{}/2/files/download", self.content), header(&json!({"path": format!("rev:{}", found.version)})));
        let range = format!("bytes={from}-{}", from + length - 1);
        let sent = self.http.send(|client| client.post(&url).header("Dropbox-API-Arg", &argument).header("Range", &range)).await?;
        let response = self.answered(path, sent)?;
        // A server that does not know ranges sends the whole.
        if from > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(self.http.odd("a range was asked for, and all came"));
        }
        let at = path.to_string();
        let stream =
            response.bytes_stream().map_err(move |error| StorageError::Interrupted { path: at.clone(), reason: without_url(&error) });
        Ok(reading(exactly(stream.boxed(), length, path)))
    }

    async fn write(&self, path: &StorePath, content: Content) -> Result<Written, StorageError> {
        if path.is_root() {
            return Err(StorageError::NotAFile { path: path.to_string(), reason: "it is the store's root" });
        }
        let spool = Spool::take(self.http.store(), path, content, &self.spool, true).await?;
        let written: Item = self.http.json(self.whole(path, &spool).await?).await?;
        match written.content_hash.as_deref() {
            Some(hash) if hash == spool.dropbox => Ok(Written { size: spool.size, sha256: spool.sha256, version: written.rev }),
            hash => {
                // Damaged on its way: better nothing than that.
                self.delete(path).await?;
                let actual = hash.unwrap_or("nothing").to_owned();
                Err(StorageError::Checksum { path: path.to_string(), kind: "content_hash", expected: spool.dropbox, actual })
            }
        }
    }

    async fn delete(&self, path: &StorePath) -> Result<bool, StorageError> {
        match self.stat(path).await {
            Err(StorageError::NotFound { .. }) => return Ok(false),
            Ok(entry) if entry.kind == EntryKind::Folder => {
                return Err(StorageError::NotAFile { path: path.to_string(), reason: "it is a folder, and folders are not deleted" });
            }
            found => found?,
        };
        match self.rpc(path, "delete_v2", &json!({"path": self.at(path)})).await {
            Ok(_) => Ok(true),
            // A try whose answer was lost had deleted it.
            Err(StorageError::NotFound { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// JSON in a header: everything beyond ASCII is escaped, as Dropbox asks for.
fn header(argument: &Value) -> String {
    let mut safe = String::new();
    for unit in argument.to_string().chars() {
        if unit.is_ascii() && unit != '\u{7f}' {
            safe.push(unit);
        } else {
            for half in unit.encode_utf16(&mut [0; 2]) {
                write!(safe, "\\u{half:04x}").expect("writing to a String never fails");
            }
        }
    }
    safe
}

fn named(folder: &StorePath, entry: &Entry) -> bool {
    let named = folder.child(&entry.name).is_ok();
    if !named {
        metrics::counter!("auralink_storage_names_left_out_total").increment(1);
    }
    named
}

fn entry(item: &Item) -> Entry {
    let kind = match item.tag.as_str() {
        "folder" => EntryKind::Folder,
        // `upload` answers a file without a tag.
        "file" | "" if item.is_downloadable => EntryKind::File,
        _ => EntryKind::Other,
    };
    let modified = chrono::DateTime::parse_from_rfc3339(&item.server_modified).map_or(0, |at| at.timestamp_millis());
    Entry {
        name: item.name.clone(),
        kind,
        size: item.size,
        modified_ms: u64::try_from(modified).unwrap_or(0),
        version: item.rev.clone(),
        checksum: item.content_hash.clone().map(Checksum::Dropbox),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_ascii_and_says_the_same() {
        let argument = json!({"path": "/Ünïcödé/🎙 \u{7f}.wav"});
        let header = header(&argument);
        assert!(header.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{header}");
        assert_eq!(serde_json::from_str::<Value>(&header).unwrap(), argument);
    }
}
