//! `/api/v1/vectors`: collections of the caller's tenant, their records, and what is near. Scopes `vectors:read` and `vectors:write`.

use auralink_infrastructure::vector::{self as engine, Filter, Metric, Selection, Spec, Value};
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio_util::io::{ReaderStream, StreamReader};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::extract::{Json, Path, Query};
use crate::api::{ApiError, ErrorBody};
use crate::caller::{Caller, Scope};
use crate::files::Place;
use crate::vector_imports::VectorImports;
use crate::vectors::{Asked, Given, VectorStore};

/// Bytes of an export that wait for a reader.
const EXPORT_BUFFER: usize = 256 << 10;

/// The routes.
pub fn routes() -> OpenApiRouter<VectorStore> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(describe, destroy))
        .routes(routes!(page, upsert))
        .routes(routes!(get))
        .routes(routes!(delete))
        .routes(routes!(query))
        .routes(routes!(import))
        .routes(routes!(export))
}

/// The route of imports from files.
pub fn imports() -> OpenApiRouter<VectorImports> {
    OpenApiRouter::new().routes(routes!(import_file))
}

/// A collection to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateCollection {
    /// 1 to 64 of `a-z`, `0-9`, `-` and `_`, beginning and ending with a letter or digit.
    #[schema(example = "talks")]
    name: String,
    /// Numbers of a vector.
    #[schema(example = 384)]
    dimension: u32,
    /// `cosine` (the default), `euclidean` or `dot`.
    #[serde(default)]
    metric: Option<String>,
}

/// A collection.
#[derive(Debug, Serialize, ToSchema)]
struct Collection {
    /// Its name.
    name: String,
    /// Numbers of a vector.
    dimension: u32,
    /// `cosine`, `euclidean` or `dot`.
    metric: String,
    /// Records in it.
    count: u64,
}

impl From<engine::Collection> for Collection {
    fn from(collection: engine::Collection) -> Self {
        let engine::Collection { address, spec, count } = collection;
        Self { name: address.name().to_owned(), dimension: spec.dimension, metric: spec.metric.to_string(), count }
    }
}

/// Collections.
#[derive(Debug, Serialize, ToSchema)]
struct Collections {
    /// By name.
    collections: Vec<Collection>,
}

/// A record.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Unique in the collection, 1 to 256 bytes.
    #[schema(example = "talk-17")]
    id: String,
    /// As many finite numbers as the collection has dimensions; without it, the document is turned into one by the sentence model.
    #[serde(skip_serializing_if = "Option::is_none")]
    vector: Option<Vec<f32>>,
    /// Texts, numbers and booleans by name.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"lang": "en", "year": 2026}))]
    metadata: std::collections::BTreeMap<String, Value>,
    /// The text that the vector stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<String>,
}

impl From<engine::Record> for Record {
    fn from(record: engine::Record) -> Self {
        let engine::Record { id, vector, metadata, document } = record;
        Self { id, vector: Some(vector).filter(|vector| !vector.is_empty()), metadata, document }
    }
}

/// Records to be written.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Records {
    /// At most 1,000; all or none are written.
    records: Vec<Record>,
}

/// How many were written.
#[derive(Debug, Serialize, ToSchema)]
struct Written {
    /// Durable now.
    written: usize,
}

/// Which records.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Ids {
    /// At most 1,000.
    ids: Vec<String>,
}

/// Which records to delete: one of both.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Delete {
    /// These, at most 1,000.
    ids: Option<Vec<String>>,
    /// Those that it fits.
    #[schema(value_type = Option<Object>, example = json!({"year": {"$lt": 2000}}))]
    filter: Option<serde_json::Value>,
}

/// A page of records.
#[derive(Debug, Serialize, ToSchema)]
struct RecordPage {
    /// In the engine's order.
    records: Vec<Record>,
    /// Where the next page begins; none after the last.
    next: Option<String>,
}

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    /// The `next` of the page before.
    from: Option<String>,
    /// At most so many, 1 to 1,000; 100 when absent.
    limit: Option<usize>,
}

/// Where to resume an import.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ImportQuery {
    /// Lines before this one (from 0) are passed over.
    from_line: Option<u64>,
}

/// What to look for: a vector or a text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Search {
    /// Near to this.
    vector: Option<Vec<f32>>,
    /// Near to what this means, by the sentence model.
    text: Option<String>,
    /// At most so many, 1 to 1,000; 10 when absent.
    k: Option<usize>,
    /// Only among those that it fits: `$eq $ne $gt $gte $lt $lte $in $nin $exists` on a field, `$and $or $not`.
    #[schema(value_type = Option<Object>, example = json!({"lang": "en", "year": {"$gte": 2020}}))]
    filter: Option<serde_json::Value>,
    /// Whether matches carry their vectors.
    #[serde(default)]
    with_vectors: bool,
}

/// A record that was found.
#[derive(Debug, Serialize, ToSchema)]
struct Match {
    /// The record.
    record: Record,
    /// Larger is nearer: cosine similarity, inner product, or 1 / (1 + distance) for euclidean.
    score: f32,
    /// Smaller is nearer: 1 - cosine similarity, the negative inner product, or the euclidean distance.
    distance: f32,
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
struct Matches {
    /// Nearest first.
    matches: Vec<Match>,
}

/// How an import went.
#[derive(Debug, Serialize, ToSchema)]
struct Imported {
    /// Records that are durable.
    imported: u64,
    /// Lines that were passed over.
    rejected: u64,
    /// The first 100 of these.
    errors: Vec<LineError>,
    /// Where to resume: every line before this one (from 0) is dealt with.
    next_line: u64,
    /// Why it stopped before the end, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
}

/// A line that is no record.
#[derive(Debug, Serialize, ToSchema)]
struct LineError {
    /// Its number, from 1.
    line: u64,
    /// What is wrong with it.
    reason: String,
}

fn filter_of(json: Option<serde_json::Value>) -> Result<Option<Filter>, ApiError> {
    json.map(|json| Filter::parse(&json)).transpose().map_err(|why| ApiError::invalid_argument(why.to_string()))
}

/// Lists the collections.
#[utoipa::path(
    get, path = "/api/v1/vectors/collections", operation_id = "list_collections", tag = "vectors",
    responses((status = OK, body = Collections), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn list(State(store): State<VectorStore>, caller: Caller) -> Result<Json<Collections>, ApiError> {
    caller.require(Scope::VectorsRead)?;
    let collections = store.service().list(&caller.tenant).await?.into_iter().map(Into::into).collect();
    Ok(Json(Collections { collections }))
}

/// Makes a collection.
#[utoipa::path(
    post, path = "/api/v1/vectors/collections", operation_id = "create_collection", tag = "vectors",
    responses((status = CREATED, body = Collection), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn create(
    State(store): State<VectorStore>,
    caller: Caller,
    Json(asked): Json<CreateCollection>,
) -> Result<(StatusCode, Json<Collection>), ApiError> {
    caller.require(Scope::VectorsWrite)?;
    let metric = asked.metric.as_deref().map_or(Ok(Metric::Cosine), str::parse)?;
    let made = store.service().create(&caller.tenant, &asked.name, Spec { dimension: asked.dimension, metric }).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// Describes a collection.
#[utoipa::path(
    get, path = "/api/v1/vectors/collections/{name}", operation_id = "get_collection", tag = "vectors",
    params(("name" = String, Path, description = "The collection")),
    responses((status = OK, body = Collection), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn describe(State(store): State<VectorStore>, caller: Caller, Path(name): Path<String>) -> Result<Json<Collection>, ApiError> {
    caller.require(Scope::VectorsRead)?;
    Ok(Json(store.service().describe(&caller.tenant, &name).await?.into()))
}

/// Deletes a collection with all its records.
#[utoipa::path(
    delete, path = "/api/v1/vectors/collections/{name}", operation_id = "delete_collection", tag = "vectors",
    params(("name" = String, Path, description = "The collection")),
    responses((status = NO_CONTENT), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn destroy(State(store): State<VectorStore>, caller: Caller, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    caller.require(Scope::VectorsWrite)?;
    store.service().destroy(&caller.tenant, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pages through the records.
#[utoipa::path(
    get, path = "/api/v1/vectors/collections/{name}/records", operation_id = "list_records", tag = "vectors",
    params(("name" = String, Path, description = "The collection"), PageQuery),
    responses((status = OK, body = RecordPage), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn page(
    State(store): State<VectorStore>,
    caller: Caller,
    Path(name): Path<String>,
    Query(asked): Query<PageQuery>,
) -> Result<Json<RecordPage>, ApiError> {
    caller.require(Scope::VectorsRead)?;
    let page = store.service().page(&caller.tenant, &name, asked.from.as_deref(), asked.limit.unwrap_or(100)).await?;
    Ok(Json(RecordPage { records: page.records.into_iter().map(Into::into).collect(), next: page.next }))
}

/// Writes records, all or none; a record whose id is there is replaced whole.
#[utoipa::path(
    put, path = "/api/v1/vectors/collections/{name}/records", operation_id = "upsert_records", tag = "vectors",
    params(("name" = String, Path, description = "The collection")),
    responses((status = OK, body = Written), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn upsert(
    State(store): State<VectorStore>,
    caller: Caller,
    Path(name): Path<String>,
    Json(asked): Json<Records>,
) -> Result<Json<Written>, ApiError> {
    caller.require(Scope::VectorsWrite)?;
    let written = asked.records.len();
    let given = asked.records.into_iter().map(|Record { id, vector, metadata, document }| Given { id, vector, metadata, document });
    store.upsert(&caller.tenant, &name, given.collect()).await?;
    Ok(Json(Written { written }))
}

/// Reads records by their ids; those that are not there are passed over.
#[utoipa::path(
    post, path = "/api/v1/vectors/collections/{name}/records/get", operation_id = "get_records", tag = "vectors",
    params(("name" = String, Path, description = "The collection")),
    responses((status = OK, body = RecordPage), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn get(
    State(store): State<VectorStore>,
    caller: Caller,
    Path(name): Path<String>,
    Json(asked): Json<Ids>,
) -> Result<Json<RecordPage>, ApiError> {
    caller.require(Scope::VectorsRead)?;
    let records = store.service().get(&caller.tenant, &name, &asked.ids).await?;
    Ok(Json(RecordPage { records: records.into_iter().map(Into::into).collect(), next: None }))
}

/// Deletes records by their ids, or those that a filter fits.
#[utoipa::path(
    post, path = "/api/v1/vectors/collections/{name}/records/delete", operation_id = "delete_records", tag = "vectors",
    params(("name" = String, Path, description = "The collection")),
    responses((status = NO_CONTENT), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn delete(
    State(store): State<VectorStore>,
    caller: Caller,
    Path(name): Path<String>,
    Json(asked): Json<Delete>,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::VectorsWrite)?;
    let selection = match (asked.ids, filter_of(asked.filter)?) {
        (Some(ids), None) => Selection::Ids(ids),
        (None, Some(filter)) => Selection::Filter(filter),
        _ => return Err(ApiError::invalid_argument("give `ids` or `filter`, one of both")),
    };
    store.service().delete(&caller.tenant, &name, selection).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Finds the nearest records to a vector or a text.
#[utoipa::path(
    post, path = "/api/v1/vectors/collections/{name}/query", operation_id = "query_vectors", tag = "vectors",
    params(("name" = String, Path, description = "The collection")),
    responses((status = OK, body = Matches), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn query(
    State(store): State<VectorStore>,
    caller: Caller,
    Path(name): Path<String>,
    Json(asked): Json<Search>,
) -> Result<Json<Matches>, ApiError> {
    caller.require(Scope::VectorsRead)?;
    let near = match (asked.vector, asked.text) {
        (Some(vector), None) => Asked::Vector(vector),
        (None, Some(text)) => Asked::Text(text),
        _ => return Err(ApiError::invalid_argument("give `vector` or `text`, one of both")),
    };
    let filter = filter_of(asked.filter)?;
    let found = store.query(&caller.tenant, &name, near, asked.k.unwrap_or(10), filter, asked.with_vectors).await?;
    let matches = found.into_iter().map(|found| Match { record: found.record.into(), score: found.score, distance: found.distance });
    Ok(Json(Matches { matches: matches.collect() }))
}

/// Imports JSON lines, one record a line, of any length in all. Bad lines are told and passed over; an import that stopped is resumed by its line.
#[utoipa::path(
    post, path = "/api/v1/vectors/collections/{name}/import", operation_id = "import_vectors", tag = "vectors",
    params(("name" = String, Path, description = "The collection"), ImportQuery),
    request_body(content = String, content_type = "application/x-ndjson"),
    responses((status = OK, body = Imported), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn import(
    State(store): State<VectorStore>,
    caller: Caller,
    Path(name): Path<String>,
    Query(asked): Query<ImportQuery>,
    body: Body,
) -> Result<Json<Imported>, ApiError> {
    caller.require(Scope::VectorsWrite)?;
    let mut lines = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
    let done = store.service().import(&caller.tenant, &name, &mut lines, asked.from_line.unwrap_or(0), &mut |_| true).await;
    let (progress, stopped) = match done {
        Ok(progress) => (progress, None),
        Err(stopped) if stopped.progress.next_line == asked.from_line.unwrap_or(0) => return Err(stopped.why.into()),
        Err(stopped) => (stopped.progress, Some(stopped.why.to_string())),
    };
    let errors = progress.errors.into_iter().map(|error| LineError { line: error.line, reason: error.reason }).collect();
    let (imported, rejected, next_line) = (progress.imported, progress.rejected, progress.next_line);
    Ok(Json(Imported { imported, rejected, errors, next_line, stopped }))
}

/// Exports all records as JSON lines. The last line of an export that failed half-way is no record: `{"error": ...}`.
#[utoipa::path(
    get, path = "/api/v1/vectors/collections/{name}/export", operation_id = "export_vectors", tag = "vectors",
    params(("name" = String, Path, description = "The collection")),
    responses((status = OK, body = String, content_type = "application/x-ndjson"), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn export(State(store): State<VectorStore>, caller: Caller, Path(name): Path<String>) -> Result<Response, ApiError> {
    caller.require(Scope::VectorsRead)?;
    store.service().describe(&caller.tenant, &name).await?;
    let (mut writer, reader) = tokio::io::duplex(EXPORT_BUFFER);
    tokio::spawn(async move {
        // A reader that goes away ends the export with a broken pipe.
        if let Err(why) = store.service().export(&caller.tenant, &name, &mut writer).await {
            let line = format!("{}\n", serde_json::json!({"error": why.to_string()}));
            let _ = tokio::io::AsyncWriteExt::write_all(&mut writer, line.as_bytes()).await;
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(ReaderStream::new(reader))).into_response())
}

/// An import that was accepted.
#[derive(Debug, Serialize, ToSchema)]
struct StartedImport {
    /// Its job, `/api/v1/jobs/{id}`.
    job_id: String,
}

/// Imports records from a file of a store (JSON lines, as `export` writes them) as a job, whose progress is in bytes of the file. Scopes
/// `vectors:write` and `files:read`.
#[utoipa::path(
    post, path = "/api/v1/vectors/collections/{name}/imports", operation_id = "import_vectors_from_file", tag = "vectors",
    params(("name" = String, Path, description = "The collection")),
    responses((status = ACCEPTED, body = StartedImport), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn import_file(
    State(imports): State<VectorImports>,
    caller: Caller,
    Path(name): Path<String>,
    Json(from): Json<Place>,
) -> Result<(StatusCode, Json<StartedImport>), ApiError> {
    let job = imports.start(&caller, name, from).await?;
    Ok((StatusCode::ACCEPTED, Json(StartedImport { job_id: job.into() })))
}
