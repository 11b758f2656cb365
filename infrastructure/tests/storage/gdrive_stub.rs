//! A strict stub of Google Drive's documented interface, version 3: what is not as the documents say fails the test.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::service::{Service, ranged};
use crate::stores::sha256;

const FOLDER: &str = "application/vnd.google-apps.folder";

#[derive(Clone, Default)]
struct Node {
    name: String,
    parent: String,
    mime: String,
    /// Revision -> content; the last is the head.
    revisions: Vec<(String, Bytes)>,
}

struct Upload {
    id: Option<String>,
    metadata: Value,
    length: usize,
    arrived: Vec<u8>,
}

#[derive(Default)]
struct Drive {
    nodes: BTreeMap<String, Node>,
    uploads: HashMap<String, Upload>,
}

type Shared = Arc<Mutex<Drive>>;

pub struct GdriveStub;

impl GdriveStub {
    pub async fn start() -> Arc<Service> {
        let drive = Shared::default();
        let api = Router::new()
            .route("/drive/v3/files", get(list).post(make))
            .route("/drive/v3/files/{id}", get(metadata).delete(delete))
            .route("/drive/v3/files/{id}/revisions/{revision}", get(download))
            .route("/upload/drive/v3/files", post(upload))
            .route("/upload/drive/v3/files/{id}", axum::routing::patch(update))
            .route("/session/{session}", put(part))
            .route("/seed", post(seed))
            .with_state(drive);
        Service::start(api, Some("https://www.googleapis.com/auth/drive")).await
    }
}

fn error(status: u16, reason: &str, message: &str) -> Response {
    let body =
        json!({"error": {"code": status, "message": message, "errors": [{"domain": "global", "reason": reason, "message": message}]}});
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

fn described(id: &str, node: &Node) -> Value {
    let mut said = json!({"id": id, "name": node.name, "mimeType": node.mime, "modifiedTime": "2026-11-30T12:00:00.000Z"});
    if let Some((revision, content)) = node.revisions.last() {
        said["size"] = content.len().to_string().into();
        said["headRevisionId"] = revision.as_str().into();
        said["sha256Checksum"] = sha256(content).into();
    }
    said
}

/// `'ID' in parents and name = 'NAME' and trashed = false`, with or without the name; quotes and backslashes escaped.
fn query(q: &str) -> (String, Option<String>) {
    let rest = q.strip_suffix(" and trashed = false").expect("a query that leaves trash out");
    let rest = rest.strip_prefix('\'').unwrap();
    let (parent, rest) = rest.split_once("' in parents").unwrap();
    let name = rest.strip_prefix(" and name = '").map(|name| {
        let name = name.strip_suffix('\'').unwrap();
        let (mut plain, mut characters) = (String::new(), name.chars());
        while let Some(character) = characters.next() {
            assert_ne!(character, '\'', "a quote that is not escaped: {q}");
            plain.push(if character == '\\' { characters.next().unwrap() } else { character });
        }
        plain
    });
    (parent.to_owned(), name)
}

async fn list(State(drive): State<Shared>, Query(asked): Query<HashMap<String, String>>) -> Response {
    let (parent, name) = query(&asked["q"]);
    assert!(asked["fields"].starts_with("nextPageToken,files("), "{asked:?}");
    let size: usize = asked["pageSize"].parse().unwrap();
    assert!((1..=1_000).contains(&size));
    let drive = drive.lock().unwrap();
    if parent != "root" && !drive.nodes.contains_key(&parent) {
        return error(404, "notFound", "File not found: .");
    }
    let mut found: Vec<_> = drive
        .nodes
        .iter()
        // Drive compares names without regard to case.
        .filter(|(_, node)| node.parent == parent && name.as_ref().is_none_or(|name| name.eq_ignore_ascii_case(&node.name)))
        .collect();
    found.sort_by(|a, b| a.1.name.cmp(&b.1.name));
    let from = match asked.get("pageToken").map(|token| token.strip_prefix("token-").and_then(|at| at.parse::<usize>().ok())) {
        None => 0,
        Some(Some(at)) => at,
        Some(None) => return error(400, "invalid", "Invalid Value for pageToken"),
    };
    let page: Vec<_> = found.iter().skip(from).take(size).map(|(id, node)| described(id, node)).collect();
    let mut answer = json!({"files": page});
    if from + size < found.len() {
        answer["nextPageToken"] = format!("token-{}", from + size).into();
    }
    Json(answer).into_response()
}

fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// Not Drive's: ten thousand files in `team-a/many`, so that a test need not upload them.
async fn seed(State(drive): State<Shared>) {
    let mut drive = drive.lock().unwrap();
    let node =
        |name: &str, parent: &str, mime: &str| Node { name: name.into(), parent: parent.into(), mime: mime.into(), revisions: Vec::new() };
    drive.nodes.insert("a".into(), node("team-a", "root", FOLDER));
    drive.nodes.insert("many".into(), node("many", "a", FOLDER));
    for number in 0..10_000 {
        let mut file = node(&format!("{number:05}.wav"), "many", "audio/wav");
        file.revisions.push((new_id(), Bytes::from_static(b"x")));
        drive.nodes.insert(format!("file-{number}"), file);
    }
}

async fn make(State(drive): State<Shared>, Json(body): Json<Value>) -> Response {
    assert_eq!(body["mimeType"], FOLDER);
    let (id, node) = (new_id(), named(&body, FOLDER));
    let mut drive = drive.lock().unwrap();
    let answer = described(&id, &node);
    drive.nodes.insert(id, node);
    Json(answer).into_response()
}

fn named(body: &Value, mime: &str) -> Node {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    Node { name: text(&body["name"]), parent: text(&body["parents"][0]), mime: mime.into(), revisions: Vec::new() }
}

async fn metadata(State(drive): State<Shared>, Path(id): Path<String>) -> Response {
    match drive.lock().unwrap().nodes.get(&id) {
        Some(node) => Json(described(&id, node)).into_response(),
        None => error(404, "notFound", "File not found"),
    }
}

async fn delete(State(drive): State<Shared>, Path(id): Path<String>) -> Response {
    match drive.lock().unwrap().nodes.remove(&id) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => error(404, "notFound", "File not found"),
    }
}

async fn download(
    State(drive): State<Shared>,
    Path((id, revision)): Path<(String, String)>,
    Query(asked): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    assert_eq!(asked["alt"], "media");
    let drive = drive.lock().unwrap();
    let found = drive.nodes.get(&id).and_then(|node| node.revisions.iter().find(|(known, _)| *known == revision));
    match found {
        Some((_, content)) => ranged(&headers, content),
        None => error(404, "notFound", "File not found"),
    }
}

fn open(drive: &Shared, headers: &HeaderMap, id: Option<String>, asked: &HashMap<String, String>, metadata: Value) -> Response {
    assert_eq!(asked["uploadType"], "resumable");
    let length = headers["x-upload-content-length"].to_str().unwrap().parse().unwrap();
    let session = new_id();
    let location = format!("http://{}/session/{session}", headers["host"].to_str().unwrap());
    drive.lock().unwrap().uploads.insert(session, Upload { id, metadata, length, arrived: Vec::new() });
    (StatusCode::OK, [("location", location)]).into_response()
}

async fn upload(
    State(drive): State<Shared>,
    Query(asked): Query<HashMap<String, String>>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    open(&drive, &headers, None, &asked, body)
}

async fn update(
    State(drive): State<Shared>,
    Path(id): Path<String>,
    Query(asked): Query<HashMap<String, String>>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    if !drive.lock().unwrap().nodes.contains_key(&id) {
        return error(404, "notFound", "File not found");
    }
    open(&drive, &headers, Some(id), &asked, body)
}

/// `bytes FROM-TO/LENGTH` with content, or `bytes */LENGTH` to ask how far it is.
async fn part(State(drive): State<Shared>, Path(session): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let mut drive = drive.lock().unwrap();
    let Some(mut upload) = drive.uploads.remove(&session) else { return error(404, "notFound", "no such session") };
    let range = headers["content-range"].to_str().unwrap().strip_prefix("bytes ").unwrap().to_owned();
    let (range, length) = range.split_once('/').unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), upload.length);
    if range != "*" {
        let (from, to) = range.split_once('-').unwrap();
        let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
        assert_eq!(to + 1 - from, body.len(), "the range is as long as the content");
        assert!(to + 1 == upload.length || body.len().is_multiple_of(256 * 1024), "parts are multiples of 256 KiB");
        if from > upload.arrived.len() {
            return error(400, "badRequest", "a gap in the upload");
        }
        upload.arrived.truncate(from);
        upload.arrived.extend_from_slice(&body);
    }
    if upload.arrived.len() < upload.length {
        let mut answer = StatusCode::PERMANENT_REDIRECT.into_response();
        if !upload.arrived.is_empty() {
            answer.headers_mut().insert("range", format!("bytes=0-{}", upload.arrived.len() - 1).parse().unwrap());
        }
        drive.uploads.insert(session, upload);
        return answer;
    }
    let id = upload.id.unwrap_or_else(new_id);
    let node = drive.nodes.entry(id.clone()).or_insert_with(|| named(&upload.metadata, "application/octet-stream"));
    node.revisions.push((new_id(), upload.arrived.into()));
    let answer = described(&id, node);
    Json(answer).into_response()
}
