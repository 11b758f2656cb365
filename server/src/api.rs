//! REST under `/api/v1`, with its description (`/api/v1/openapi.json`, generated from the handlers) and a page to try it (`/api/v1/docs`).
//!
//! Place in the flow: thin handlers over the application layers; the same layers stand under gRPC. Each slice has a file here with
//! `routes()`, every handler described by `#[utoipa::path]`, and `impl From<ItsError> for ApiError`. Rule: whatever happens under
//! `/api/v1`, the answer is JSON, and an error is `{"error":{"code","message"}}`.

mod admission;
mod docs;
mod embeddings;
mod error;
pub mod extract;
pub mod files;
mod jobs;
mod keys;
mod rooms;
mod sandboxes;
mod schedules;
mod vectors;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

pub use error::{ApiError, ErrorBody};
pub use keys::{CreateKey, CreatedKey, KeyList};
pub use rooms::RoomsState;

use crate::caller::Callers;
use crate::config::ApiConfig;
use crate::embeddings::Embeddings;
use crate::files::Files;
use crate::jobs::Jobs;
use crate::sandboxes::Sandboxes;
use crate::schedules::Schedules;
use crate::vector_imports::VectorImports;
use crate::vectors::VectorStore;

/// What the handlers share, slice by slice.
#[derive(Clone)]
pub struct ApiState {
    /// Rooms and captions.
    pub rooms: RoomsState,
    /// Who calls; and the API keys.
    pub callers: Callers,
    /// Texts into vectors.
    pub embeddings: Embeddings,
    /// Collections of vectors.
    pub vectors: VectorStore,
    /// Records from files.
    pub imports: VectorImports,
    /// Long work.
    pub jobs: Jobs,
    /// Long work that comes again.
    pub schedules: Schedules,
    /// Sandboxes.
    pub sandboxes: Sandboxes,
    /// Files and the pipeline.
    pub files: Files,
    /// Limits.
    pub config: ApiConfig,
}

/// The routes and what they are.
fn described(state: &ApiState) -> (Router, OpenApi) {
    let slices = OpenApiRouter::with_openapi(docs::about())
        .merge(rooms::routes().with_state(state.rooms.clone()))
        .merge(jobs::routes().with_state(state.jobs.clone()))
        .merge(schedules::routes().with_state(state.schedules.clone()))
        .merge(keys::routes().with_state(state.callers.api_keys().clone()))
        .merge(sandboxes::routes().with_state(state.sandboxes.clone()))
        .merge(embeddings::routes().with_state(state.embeddings.clone()))
        .merge(vectors::routes().with_state(state.vectors.clone()))
        .merge(vectors::imports().with_state(state.imports.clone()))
        .merge(files::routes().with_state(state.files.clone()));
    let (router, mut description) = slices.split_for_parts();
    docs::complete(&mut description);
    (router, description)
}

/// The routes.
pub fn router(state: &ApiState) -> Router {
    let (router, description) = described(state);
    let router = match state.config.docs {
        true => router.merge(docs::router(description)),
        false => router,
    };
    router
        .layer(DefaultBodyLimit::max(state.config.max_body_bytes))
        .layer(axum::middleware::from_fn_with_state(state.callers.clone(), admission::admit))
}

/// Is the path the API's? What is not there is then answered by [`nothing`].
pub fn owns(path: &str) -> bool {
    path.strip_prefix("/api").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Does a request bring content of any length, which is worked on while it comes?
pub fn takes_content(method: &Method, path: &str) -> bool {
    let Some(path) = path.strip_prefix("/api/v1/") else { return false };
    let (vectors, sandboxes) = (path.starts_with("vectors/collections/"), path.starts_with("sandboxes/"));
    match *method {
        Method::PUT => path.starts_with("files/content/") || path.starts_with("sandbox-images/") || sandboxes && path.ends_with("/files"),
        Method::POST => vectors && path.ends_with("/import"),
        _ => false,
    }
}

/// The answer for a path that is none.
pub fn nothing(uri: &Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", admission::nothing_at(uri.path()))
}

#[cfg(test)]
mod tests;
