//! Files of a sandbox, and images, over REST: bodies are streamed, never held whole.

use auralink_infrastructure::vm::image::Image;
use auralink_infrastructure::vm::{FileEntry, FileKind};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio_util::io::{ReaderStream, StreamReader};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::allowed;
use crate::api::extract::{Json, Path, Query};
use crate::api::{ApiError, ErrorBody};
use crate::caller::{Caller, Scope};
use crate::sandboxes::Sandboxes;

/// The routes.
pub fn routes() -> OpenApiRouter<Sandboxes> {
    OpenApiRouter::new().routes(routes!(read, write)).routes(routes!(folder)).routes(routes!(images)).routes(routes!(import, delete_image))
}

/// Which file.
#[derive(Debug, Deserialize, IntoParams)]
struct Place {
    /// Absolute path in the sandbox.
    path: String,
    /// Permission bits of a file that is written, octal; 644 if absent.
    mode: Option<String>,
}

/// Reads a file.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{sandbox}/files", operation_id = "read_sandbox_file", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name"), Place),
    responses((status = OK, description = "The content", content_type = "application/octet-stream"), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn read(
    State(sandboxes): State<Sandboxes>,
    caller: Caller,
    Path(id): Path<String>,
    Query(place): Query<Place>,
) -> Result<Response, ApiError> {
    let service = allowed(&sandboxes, &caller, Scope::SandboxesWrite)?;
    let (size, content) = service.read_file(&caller.tenant, &id, &place.path).await?;
    let mut response = Body::from_stream(ReaderStream::with_capacity(content, 64 << 10)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    // A stranger's file is never shown as a page of this origin.
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

/// Writes a file from the body, whole or not at all; `Content-Length` must be there.
#[utoipa::path(
    put, path = "/api/v1/sandboxes/{sandbox}/files", operation_id = "write_sandbox_file", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name"), Place),
    request_body(content_type = "application/octet-stream", description = "The content"),
    responses((status = NO_CONTENT, description = "Written"), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn write(
    State(sandboxes): State<Sandboxes>,
    caller: Caller,
    Path(id): Path<String>,
    Query(place): Query<Place>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let service = allowed(&sandboxes, &caller, Scope::SandboxesWrite)?;
    let said = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let size: u64 =
        said.ok_or_else(|| ApiError::new(StatusCode::LENGTH_REQUIRED, "length_required", "send the file's size as Content-Length"))?;
    let mode = place.mode.as_deref().unwrap_or("644");
    let mode = u32::from_str_radix(mode, 8).map_err(|_| ApiError::invalid_argument("`mode` is octal, such as 644 or 755"))?;
    let mut content = StreamReader::new(request.into_body().into_data_stream().map_err(std::io::Error::other));
    service.write_file(&caller.tenant, &id, &place.path, mode, size, &mut content).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An entry of a folder.
#[derive(Debug, Serialize, ToSchema)]
struct Entry {
    name: String,
    /// `file`, `folder`, `link`, `other`.
    kind: &'static str,
    size: u64,
    /// Permission bits.
    mode: u32,
}

impl From<FileEntry> for Entry {
    fn from(entry: FileEntry) -> Self {
        let kind = match entry.kind {
            FileKind::File => "file",
            FileKind::Folder => "folder",
            FileKind::Link => "link",
            FileKind::Other => "other",
        };
        Self { name: entry.name, kind, size: entry.size, mode: entry.mode }
    }
}

/// A folder's entries.
#[derive(Debug, Serialize, ToSchema)]
struct Folder {
    /// In the order of names; at most 1000.
    entries: Vec<Entry>,
}

/// Lists a folder.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{sandbox}/folder", operation_id = "list_sandbox_folder", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name"), Place),
    responses((status = OK, body = Folder), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn folder(
    State(sandboxes): State<Sandboxes>,
    caller: Caller,
    Path(id): Path<String>,
    Query(place): Query<Place>,
) -> Result<Json<Folder>, ApiError> {
    let service = allowed(&sandboxes, &caller, Scope::SandboxesWrite)?;
    let entries = service.list_folder(&caller.tenant, &id, &place.path, 1_000).await?;
    Ok(Json(Folder { entries: entries.into_iter().map(Entry::from).collect() }))
}

/// An image.
#[derive(Debug, Serialize, ToSchema)]
struct SandboxImage {
    name: String,
    /// Whether every tenant has it.
    shared: bool,
    digest: String,
    bytes: u64,
    entries: u64,
    /// Devices and pipes that were left out.
    dropped: u64,
    /// Files that lost set-user-id bits.
    stripped: u64,
    imported_ms: u64,
}

impl From<Image> for SandboxImage {
    fn from(image: Image) -> Self {
        let Image { name, owner, digest, bytes, entries, dropped, stripped, imported_ms } = image;
        Self { name, shared: owner.is_none(), digest, bytes, entries, dropped, stripped, imported_ms }
    }
}

/// Images.
#[derive(Debug, Serialize, ToSchema)]
struct ImageList {
    /// By name.
    images: Vec<SandboxImage>,
}

/// Images that sandboxes can begin from.
#[utoipa::path(
    get, path = "/api/v1/sandbox-images", operation_id = "list_sandbox_images", tag = "sandboxes",
    responses((status = OK, body = ImageList), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn images(State(sandboxes): State<Sandboxes>, caller: Caller) -> Result<Json<ImageList>, ApiError> {
    let images = allowed(&sandboxes, &caller, Scope::SandboxesRead)?.list_images(&caller.tenant).await?;
    Ok(Json(ImageList { images: images.into_iter().map(SandboxImage::from).collect() }))
}

/// Imports a root filesystem from a `.tar` or `.tar.gz` body, which may take as long as it keeps coming; one of that name is replaced.
#[utoipa::path(
    put, path = "/api/v1/sandbox-images/{image}", operation_id = "import_sandbox_image", tag = "sandboxes",
    params(("image" = String, Path, description = "Name")),
    request_body(content_type = "application/x-tar", description = "The archive"),
    responses((status = CREATED, body = SandboxImage), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn import(
    State(sandboxes): State<Sandboxes>,
    caller: Caller,
    Path(name): Path<String>,
    request: Request,
) -> Result<(StatusCode, Json<SandboxImage>), ApiError> {
    let service = allowed(&sandboxes, &caller, Scope::SandboxesWrite)?;
    let archive = StreamReader::new(request.into_body().into_data_stream().map_err(std::io::Error::other));
    let image = service.import_image(&caller.tenant, &name, false, archive).await?;
    Ok((StatusCode::CREATED, Json(image.into())))
}

/// Deletes an image of the caller's tenant.
#[utoipa::path(
    delete, path = "/api/v1/sandbox-images/{image}", operation_id = "delete_sandbox_image", tag = "sandboxes",
    params(("image" = String, Path, description = "Name")),
    responses((status = NO_CONTENT, description = "Deleted"), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn delete_image(State(sandboxes): State<Sandboxes>, caller: Caller, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    allowed(&sandboxes, &caller, Scope::SandboxesWrite)?.delete_image(&caller.tenant, &name, false).await?;
    Ok(StatusCode::NO_CONTENT)
}
