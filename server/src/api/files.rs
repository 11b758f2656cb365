//! `/api/v1/files`: files in the configured stores, and the pipeline. Scopes `files:read`, `files:write`.

use auralink_infrastructure::storage::{Checksum, Entry, EntryKind, StorageError};
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::extract::{Json, Path, Query};
use crate::api::{ApiError, ErrorBody};
use crate::caller::Caller;
use crate::files::{Export, Files, FilesError, Place};
use crate::pipeline::Found;
use crate::pipeline::record::{AudioFile, Step};

/// Carries a content's SHA-256, hex.
const CHECKSUM: &str = "x-checksum-sha256";

/// The routes.
pub fn routes() -> OpenApiRouter<Files> {
    // Content has its store's limit (`max_file_bytes`), not that of requests held in memory.
    let content = OpenApiRouter::new().routes(routes!(download, upload, delete)).layer(DefaultBodyLimit::disable());
    OpenApiRouter::new()
        .routes(routes!(stores))
        .routes(routes!(browse))
        .routes(routes!(import))
        .routes(routes!(run_pipeline, pipelines))
        .routes(routes!(search))
        .merge(content)
}

/// A store.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct StoreInfo {
    /// Its name.
    pub name: String,
    /// `local`, `s3`, `gdrive`, `dropbox`.
    pub kind: String,
    /// All tenants read all of it, and nobody writes.
    pub shared: bool,
    /// The largest file that is written or imported.
    pub max_file_bytes: u64,
}

/// The stores.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct StoreList {
    /// By name.
    pub stores: Vec<StoreInfo>,
}

/// A file or a folder.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FileInfo {
    /// Its name in its folder.
    pub name: String,
    /// `file`, `folder`, or `other` for what cannot be read.
    pub kind: String,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since 1970; 0: the store does not say.
    pub modified_ms: u64,
    /// Changes with the content.
    pub version: String,
    /// Lower-case hex, where the store keeps one.
    pub sha256: Option<String>,
}

/// A page of a folder.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FilePage {
    /// In the store's order.
    pub entries: Vec<FileInfo>,
    /// Ask with `page` for the rest.
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct BrowseQuery {
    /// The folder; without it, the root.
    #[serde(default)]
    path: String,
    /// `next` of the page before.
    page: Option<String>,
    /// Entries, 1 to 1000; default 100.
    #[serde(default)]
    limit: u32,
}

/// What was written.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct WrittenFile {
    /// Bytes.
    pub size: u64,
    /// Lower-case hex.
    pub sha256: String,
    /// The version that was made.
    pub version: String,
}

/// From where to where.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportFile {
    /// The file.
    pub from: Place,
    /// Its copy.
    pub to: Place,
}

/// What the pipeline is to run over.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunPipeline {
    /// The store's name.
    pub store: String,
    /// A recording or a folder; without it, the whole store.
    #[serde(default)]
    pub path: String,
    /// Where transcripts are written; without it, they are only kept.
    #[serde(default)]
    pub export: Option<Export>,
}

/// A job that was accepted.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct StartedFileJob {
    /// `GET /api/v1/jobs/{id}` follows it.
    pub job_id: String,
}

/// A recording and its steps.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PipelineReport {
    /// The recording.
    pub file: AudioFile,
    /// Its steps, in order.
    pub steps: Vec<Step>,
}

/// Recordings and their steps.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct PipelineReports {
    /// In no order that means something.
    pub reports: Vec<PipelineReport>,
    /// Ask with `after` for the rest.
    pub next: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct PipelinesQuery {
    /// `next` of the page before.
    after: Option<String>,
    /// Recordings, 1 to 1000; default 100.
    #[serde(default)]
    limit: u32,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct SearchQuery {
    /// Words that mean what is sought.
    q: String,
    /// Stretches of speech, 1 to 100; default 10.
    #[serde(default)]
    limit: u32,
}

/// What was found.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct FoundList {
    /// Best first.
    pub found: Vec<Found>,
}

/// The stores that there are.
#[utoipa::path(
    get, path = "/api/v1/files", operation_id = "list_stores", tag = "files",
    responses((status = OK, body = StoreList), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn stores(State(files): State<Files>, caller: Caller) -> Result<Json<StoreList>, ApiError> {
    let stores = files.stores(&caller)?;
    let stores = stores.iter().map(|store| StoreInfo {
        name: store.name().to_owned(),
        kind: store.kind().to_owned(),
        shared: store.is_shared(),
        max_file_bytes: store.max_file_bytes(),
    });
    Ok(Json(StoreList { stores: stores.collect() }))
}

/// A page of a folder.
#[utoipa::path(
    get, path = "/api/v1/files/browse/{store}", operation_id = "browse_files", tag = "files",
    params(("store" = String, Path, description = "The store's name"), BrowseQuery),
    responses((status = OK, body = FilePage), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn browse(
    State(files): State<Files>,
    caller: Caller,
    Path(store): Path<String>,
    Query(BrowseQuery { path, page, limit }): Query<BrowseQuery>,
) -> Result<Json<FilePage>, ApiError> {
    let found = files.browse(&caller, &Place { store, path }, page.as_deref(), limit).await?;
    Ok(Json(FilePage { entries: found.entries.into_iter().map(info).collect(), next: found.next }))
}

/// Reads a file, or with `Range` one stretch of it; with `If-Match`, that version or nothing.
#[utoipa::path(
    get, path = "/api/v1/files/content/{store}/{*path}", operation_id = "read_file", tag = "files",
    params(("store" = String, Path, description = "The store's name"), ("path" = String, Path, description = "The file")),
    responses(
        (status = OK, description = "The content", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = PARTIAL_CONTENT, description = "The stretch that was asked for", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = "4XX", description = "Refused", body = ErrorBody)
    )
)]
async fn download(
    State(files): State<Files>,
    caller: Caller,
    Path((store, path)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let version = text(header::IF_MATCH).map(|tag| tag.trim_matches('"')).filter(|tag| *tag != "*");
    let place = Place { store, path };
    let entry = files.stat(&caller, &place).await?;
    if let Some(version) = version.filter(|version| *version != entry.version.trim_matches('"')) {
        return Err(ApiError::failed_precondition(format!("the version {version} is no longer there: it is {} now", entry.version)));
    }
    let range = text(header::RANGE).and_then(range);
    let (from, to) = match range {
        None => (0, None),
        Some(Range::Between(from, to)) => (from, to),
        Some(Range::Last(bytes)) => (entry.size.saturating_sub(bytes), None),
    };
    if range.is_some() && (from >= entry.size || to == Some(from)) {
        return Ok((StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, format!("bytes */{}", entry.size))]).into_response());
    }
    let reading = files.read(&caller, &place, from, to, Some(&entry.version)).await?;
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, mime_guess::from_path(&place.path).first_or_octet_stream().as_ref())
        // What somebody uploaded is never shown as a page of this server's.
        .header(header::CONTENT_DISPOSITION, "attachment")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_LENGTH, reading.length)
        .header(header::ETAG, format!("\"{}\"", reading.version.trim_matches('"')));
    if range.is_some() {
        let last = (from + reading.length).saturating_sub(1);
        response =
            response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, format!("bytes {from}-{last}/{}", reading.size));
    }
    response.body(Body::from_stream(reading.stream)).map_err(|error| ApiError::internal(error.to_string()))
}

/// Writes a file, whole or not at all. `X-Checksum-SHA256` (hex) is compared with what comes.
#[utoipa::path(
    put, path = "/api/v1/files/content/{store}/{*path}", operation_id = "write_file", tag = "files",
    params(
        ("store" = String, Path, description = "The store's name"), ("path" = String, Path, description = "The file"),
        ("X-Checksum-SHA256" = Option<String>, Header, description = "What the content must hash to, hex")
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = CREATED, body = WrittenFile), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn upload(
    State(files): State<Files>,
    caller: Caller,
    Path((store, path)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<WrittenFile>), ApiError> {
    let sha256 = match headers.get(CHECKSUM).map(|value| value.to_str()) {
        None => None,
        Some(Ok(text)) => Some(text.to_owned()),
        Some(Err(_)) => return Err(ApiError::invalid_argument("X-Checksum-SHA256 is no text")),
    };
    let content = body.into_data_stream().map_err(|error| format!("the sender went away: {error}")).boxed();
    let written = files.write(&caller, &Place { store, path }, content, sha256).await?;
    Ok((StatusCode::CREATED, Json(WrittenFile { size: written.size, sha256: written.sha256, version: written.version })))
}

/// Deletes a file.
#[utoipa::path(
    delete, path = "/api/v1/files/content/{store}/{*path}", operation_id = "delete_file", tag = "files",
    params(("store" = String, Path, description = "The store's name"), ("path" = String, Path, description = "The file")),
    responses((status = NO_CONTENT, description = "Deleted"), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn delete(State(files): State<Files>, caller: Caller, Path((store, path)): Path<(String, String)>) -> Result<StatusCode, ApiError> {
    let place = Place { store, path };
    match files.delete(&caller, &place).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(FilesError::from(StorageError::NotFound { path: place.path }).into()),
    }
}

/// Copies a file from one store into another, as a job.
#[utoipa::path(
    post, path = "/api/v1/files/import", operation_id = "import_file", tag = "files",
    responses((status = ACCEPTED, body = StartedFileJob), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn import(
    State(files): State<Files>,
    caller: Caller,
    Json(wanted): Json<ImportFile>,
) -> Result<(StatusCode, Json<StartedFileJob>), ApiError> {
    let job = files.import(&caller, wanted.from, wanted.to).await?;
    Ok((StatusCode::ACCEPTED, Json(StartedFileJob { job_id: job.into() })))
}

/// Takes recordings to transcripts that can be searched, as a job.
#[utoipa::path(
    post, path = "/api/v1/files/pipelines", operation_id = "run_pipeline", tag = "files",
    responses((status = ACCEPTED, body = StartedFileJob), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn run_pipeline(
    State(files): State<Files>,
    caller: Caller,
    Json(RunPipeline { store, path, export }): Json<RunPipeline>,
) -> Result<(StatusCode, Json<StartedFileJob>), ApiError> {
    let job = files.run_pipeline(&caller, Place { store, path }, export).await?;
    Ok((StatusCode::ACCEPTED, Json(StartedFileJob { job_id: job.into() })))
}

/// What the pipeline made of the tenant's recordings.
#[utoipa::path(
    get, path = "/api/v1/files/pipelines", operation_id = "list_pipelines", tag = "files", params(PipelinesQuery),
    responses((status = OK, body = PipelineReports), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn pipelines(
    State(files): State<Files>,
    caller: Caller,
    Query(PipelinesQuery { after, limit }): Query<PipelinesQuery>,
) -> Result<Json<PipelineReports>, ApiError> {
    let (reports, next) = files.pipelines(&caller, after.as_deref(), limit).await?;
    let reports = reports.into_iter().map(|report| PipelineReport { file: report.file, steps: report.steps });
    Ok(Json(PipelineReports { reports: reports.collect(), next }))
}

/// Stretches of speech that mean what the words mean.
#[utoipa::path(
    get, path = "/api/v1/files/search", operation_id = "search_speech", tag = "files", params(SearchQuery),
    responses((status = OK, body = FoundList), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn search(
    State(files): State<Files>,
    caller: Caller,
    Query(SearchQuery { q, limit }): Query<SearchQuery>,
) -> Result<Json<FoundList>, ApiError> {
    Ok(Json(FoundList { found: files.search(&caller, &q, limit).await? }))
}

fn info(entry: Entry) -> FileInfo {
    let kind = match entry.kind {
        EntryKind::File => "file",
        EntryKind::Folder => "folder",
        EntryKind::Other => "other",
    };
    let sha256 = match entry.checksum {
        Some(Checksum::Sha256(sha256)) => Some(sha256),
        _ => None,
    };
    FileInfo { name: entry.name, kind: kind.to_owned(), size: entry.size, modified_ms: entry.modified_ms, version: entry.version, sha256 }
}

/// One range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    /// From, and up to, not including.
    Between(u64, Option<u64>),
    /// So many at the end.
    Last(u64),
}

/// RFC 9110, section 14: one range; what is not understood, and several at once, is answered with the whole.
fn range(text: &str) -> Option<Range> {
    let (from, to) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
    match (from, to) {
        ("", last) => last.parse().ok().map(Range::Last),
        (from, "") => from.parse().ok().map(|from| Range::Between(from, None)),
        (from, to) => {
            let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
            (from <= to).then(|| Range::Between(from, Some(to.saturating_add(1))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_says() {
        assert_eq!(range("bytes=0-0"), Some(Range::Between(0, Some(1))));
        assert_eq!(range("bytes=5-"), Some(Range::Between(5, None)));
        assert_eq!(range("bytes=-3"), Some(Range::Last(3)));
        for whole in ["bytes=3-2", "bytes=", "bytes=a-b", "items=0-1", "bytes=0-1,3-4", "bytes=-"] {
            assert_eq!(range(whole), None, "{whole}");
        }
    }
}
