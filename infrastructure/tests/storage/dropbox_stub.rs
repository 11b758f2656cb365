//! A strict stub of Dropbox's documented interface, version 2: what is not as the documents say fails the test.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::service::{Service, ranged};

const BLOCK: usize = 4 * 1024 * 1024;

#[derive(Clone)]
struct File {
    /// As it was written; the key is lower case, since Dropbox does not tell cases apart.
    path: String,
    rev: String,
    content: Bytes,
}

#[derive(Default)]
struct Box {
    files: BTreeMap<String, File>,
    /// What any revision held.
    revisions: HashMap<String, Bytes>,
    sessions: HashMap<String, Vec<u8>>,
    cursors: HashMap<String, (Vec<Value>, usize, usize)>,
}

type Shared = Arc<Mutex<Box>>;

pub struct DropboxStub;

impl DropboxStub {
    pub async fn start() -> Arc<Service> {
        let api = Router::new()
            .route("/2/files/list_folder", post(list))
            .route("/2/files/list_folder/continue", post(go_on))
            .route("/2/files/get_metadata", post(metadata))
            .route("/2/files/delete_v2", post(delete))
            .route("/2/files/download", post(download))
            .route("/2/files/upload", post(upload))
            .route("/2/files/upload_session/start", post(start))
            .route("/2/files/upload_session/append_v2", post(append))
            .route("/2/files/upload_session/finish", post(finish))
            .route("/seed", post(seed))
            .with_state(Shared::default());
        Service::start(api, None).await
    }
}

fn conflict(summary: &str) -> Response {
    (StatusCode::CONFLICT, Json(json!({"error_summary": format!("{summary}/.."), "error": {".tag": "path"}}))).into_response()
}

fn content_hash(content: &[u8]) -> String {
    let blocks: Vec<u8> = content.chunks(BLOCK).flat_map(|block| Sha256::digest(block).to_vec()).collect();
    Sha256::digest(blocks).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn described(file: &File) -> Value {
    json!({
        ".tag": "file", "name": file.path.rsplit('/').next().unwrap(), "path_display": file.path, "rev": file.rev, "size": file.content.len(),
        "server_modified": "2026-11-30T12:00:00Z", "content_hash": content_hash(&file.content), "is_downloadable": true,
    })
}

/// The content host's argument: JSON, ASCII, in a header.
fn argument(headers: &HeaderMap) -> Value {
    let text = headers["dropbox-api-arg"].to_str().expect("only visible ASCII stands in a header");
    serde_json::from_str(text).unwrap()
}

fn path_of(argument: &Value) -> String {
    let path = argument["path"].as_str().unwrap();
    assert!(path.is_empty() || (path.starts_with('/') && !path.ends_with('/')), "a path as Dropbox writes it: {path:?}");
    path.to_owned()
}

fn entries(store: &Box, folder: &str) -> Vec<Value> {
    let prefix = format!("{}/", folder.to_lowercase());
    let mut folders = BTreeMap::new();
    let mut found = Vec::new();
    for (key, file) in store.files.range(prefix.clone()..) {
        let Some(rest) = key.strip_prefix(&prefix) else { break };
        match rest.split_once('/') {
            None => found.push(described(file)),
            Some((name, _)) => {
                let shown = file.path[prefix.len()..].split('/').next().unwrap();
                folders.entry(name.to_owned()).or_insert_with(|| json!({".tag": "folder", "name": shown}));
            }
        }
    }
    found.extend(folders.into_values());
    found
}

fn page(store: &mut Box, entries: Vec<Value>, at: usize, limit: usize) -> Response {
    // "Approximately": one more than was asked for.
    let end = (at + limit + 1).min(entries.len());
    let cursor = uuid::Uuid::new_v4().to_string();
    let answer = json!({"entries": entries[at..end], "cursor": cursor, "has_more": end < entries.len()});
    store.cursors.insert(cursor, (entries, end, limit));
    Json(answer).into_response()
}

async fn list(State(store): State<Shared>, Json(body): Json<Value>) -> Response {
    let (path, limit) = (path_of(&body), body["limit"].as_u64().unwrap());
    assert!((1..=2_000).contains(&limit));
    let mut store = store.lock().unwrap();
    let found = entries(&store, &path);
    if found.is_empty() && !path.is_empty() {
        let is_file = store.files.contains_key(&path.to_lowercase());
        return conflict(if is_file { "path/not_folder" } else { "path/not_found" });
    }
    page(&mut store, found, 0, limit as usize)
}

/// Not Dropbox's: ten thousand files in `team-a/many`, so that a test need not upload them.
async fn seed(State(store): State<Shared>) {
    let mut store = store.lock().unwrap();
    for number in 0..10_000 {
        let path = format!("/AuraLink/team-a/many/{number:05}.wav");
        store.files.insert(path.to_lowercase(), File { path, rev: format!("rev-{number}"), content: Bytes::from_static(b"x") });
    }
}

async fn go_on(State(store): State<Shared>, Json(body): Json<Value>) -> Response {
    let mut store = store.lock().unwrap();
    // A cursor is good more than once.
    match store.cursors.get(body["cursor"].as_str().unwrap()).cloned() {
        Some((entries, at, limit)) => page(&mut store, entries, at, limit),
        None => conflict("reset"),
    }
}

async fn metadata(State(store): State<Shared>, Json(body): Json<Value>) -> Response {
    let path = path_of(&body);
    assert!(!path.is_empty(), "the root has no metadata");
    let store = store.lock().unwrap();
    match store.files.get(&path.to_lowercase()) {
        Some(file) => Json(described(file)).into_response(),
        None if !entries(&store, &path).is_empty() => {
            Json(json!({".tag": "folder", "name": path.rsplit('/').next().unwrap()})).into_response()
        }
        None => conflict("path/not_found"),
    }
}

async fn delete(State(store): State<Shared>, Json(body): Json<Value>) -> Response {
    match store.lock().unwrap().files.remove(&path_of(&body).to_lowercase()) {
        Some(file) => Json(json!({"metadata": described(&file)})).into_response(),
        None => conflict("path_lookup/not_found"),
    }
}

async fn download(State(store): State<Shared>, headers: HeaderMap) -> Response {
    let argument = argument(&headers);
    let revision = argument["path"].as_str().unwrap().strip_prefix("rev:").expect("content is read by revision");
    match store.lock().unwrap().revisions.get(revision) {
        Some(content) => ranged(&headers, content),
        None => conflict("path/not_found"),
    }
}

fn commit(store: &mut Box, argument: &Value, content: Bytes) -> Response {
    assert_eq!(argument["mode"], "overwrite");
    assert_eq!(argument["autorename"], false);
    let path = path_of(argument);
    if !entries(store, &path).is_empty() {
        return conflict("path/conflict/folder");
    }
    let file = File { path: path.clone(), rev: uuid::Uuid::new_v4().simple().to_string(), content: content.clone() };
    let mut answer = described(&file);
    answer.as_object_mut().unwrap().remove(".tag");
    store.revisions.insert(file.rev.clone(), content);
    store.files.insert(path.to_lowercase(), file);
    Json(answer).into_response()
}

async fn upload(State(store): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    assert_eq!(headers["content-type"], "application/octet-stream");
    assert!(body.len() <= 150_000_000);
    commit(&mut store.lock().unwrap(), &argument(&headers), body)
}

async fn start(State(store): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    assert_eq!(argument(&headers)["close"], false);
    assert_eq!(body.len() % BLOCK, 0, "parts are multiples of 4 MiB");
    let id = uuid::Uuid::new_v4().to_string();
    store.lock().unwrap().sessions.insert(id.clone(), body.to_vec());
    Json(json!({"session_id": id})).into_response()
}

/// Adds a part at its offset; or says which offset is right.
fn add(store: &mut Box, argument: &Value, body: &[u8]) -> Result<Vec<u8>, Response> {
    let id = argument["cursor"]["session_id"].as_str().unwrap();
    let offset = argument["cursor"]["offset"].as_u64().unwrap() as usize;
    let session = store.sessions.get_mut(id).ok_or_else(|| conflict("not_found"))?;
    if offset != session.len() {
        let error = json!({".tag": "incorrect_offset", "correct_offset": session.len()});
        return Err((StatusCode::CONFLICT, Json(json!({"error_summary": "incorrect_offset/.", "error": error}))).into_response());
    }
    session.extend_from_slice(body);
    Ok(session.clone())
}

async fn append(State(store): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    assert_eq!(body.len() % BLOCK, 0, "parts are multiples of 4 MiB");
    match add(&mut store.lock().unwrap(), &argument(&headers), &body) {
        Ok(_) => Json(Value::Null).into_response(),
        Err(answer) => answer,
    }
}

async fn finish(State(store): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let (mut store, argument) = (store.lock().unwrap(), argument(&headers));
    match add(&mut store, &argument, &body) {
        Ok(content) => commit(&mut store, &argument["commit"], content.into()),
        Err(answer) => answer,
    }
}
