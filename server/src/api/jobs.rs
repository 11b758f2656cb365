//! `/api/v1/jobs`: long work, and its progress as server-sent events. Scopes `jobs:read` and `jobs:write`.

use std::convert::Infallible;
use std::time::Duration;

use auralink_infrastructure::queue::{self, JobFilter, QueueError};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::extract::{Json, Path, Query};
use crate::api::{ApiError, ErrorBody};
use crate::caller::Caller;
use crate::jobs::{Check, Jobs, JobsError};

/// Between two comments that keep a quiet stream open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The routes.
pub fn routes() -> OpenApiRouter<Jobs> {
    OpenApiRouter::new()
        .routes(routes!(list, purge))
        .routes(routes!(check))
        .routes(routes!(get))
        .routes(routes!(cancel))
        .routes(routes!(retry))
        .routes(routes!(events))
}

impl From<QueueError> for ApiError {
    fn from(error: QueueError) -> Self {
        let text = error.to_string();
        match error {
            QueueError::Invalid(_) => Self::invalid_argument(text),
            QueueError::NotFound(_) => Self::not_found(text),
            QueueError::Exists(_) => Self::already_exists(text),
            QueueError::Condition(_) => Self::failed_precondition(text),
            QueueError::Full(_) => Self::resource_exhausted(text),
            QueueError::NotDurable(_) | QueueError::Engine(_) => {
                // The engine's words may name hosts and paths: for the operator.
                tracing::error!(error = text, "the queue failed");
                Self::unavailable("the queue's engine failed or cannot be reached; try again").retry_after(Some(1))
            }
        }
    }
}

impl From<JobsError> for ApiError {
    fn from(error: JobsError) -> Self {
        match error {
            JobsError::Denied(denied) => denied.into(),
            JobsError::Queue(error) => error.into(),
            JobsError::Watched => Self::resource_exhausted(error.to_string()).retry_after(Some(5)),
        }
    }
}

/// A job. Times are milliseconds since 1970.
#[derive(Debug, Serialize, ToSchema)]
pub struct Job {
    /// Names it.
    #[schema(example = "019ad5a6-5c7e-7d20-9a52-0c6e8f2b41aa")]
    id: String,
    /// What kind of work it is.
    #[schema(example = "check")]
    kind: String,
    /// `queued`, `running`, `waiting`, `done`, `dead` or `cancelled`.
    #[schema(example = "running")]
    state: &'static str,
    /// What it was told.
    #[schema(value_type = Object)]
    payload: Value,
    /// Higher ones run first.
    priority: i32,
    /// How often it was begun.
    attempt: u32,
    /// How often it may be.
    max_attempts: u32,
    /// How far it is.
    progress: Progress,
    /// Of a job that is done.
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
    /// Of the last attempt that failed.
    error: Option<String>,
    /// Its owner wants it ended; its worker was not heard yet.
    cancelling: bool,
    /// When it was accepted.
    created_at_ms: u64,
    /// When its last attempt began.
    started_at_ms: Option<u64>,
    /// When it ended.
    finished_at_ms: Option<u64>,
    /// When a waiting one runs.
    due_at_ms: Option<u64>,
}

/// In units of the job's own choice.
#[derive(Debug, Serialize, ToSchema)]
pub struct Progress {
    /// Units done.
    done: u64,
    /// Units in all; 0: nobody knows.
    total: u64,
    /// What it is at.
    message: String,
}

impl From<queue::Job> for Job {
    fn from(job: queue::Job) -> Self {
        let queue::Progress { done, total, message } = job.progress;
        Self {
            id: job.id.into(),
            kind: job.kind,
            state: job.state.as_str(),
            payload: job.payload,
            priority: job.priority,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            progress: Progress { done, total, message },
            result: job.result,
            error: job.error,
            cancelling: job.cancelling,
            created_at_ms: job.created_ms,
            started_at_ms: job.started_ms,
            finished_at_ms: job.finished_ms,
            due_at_ms: job.due_ms,
        }
    }
}

/// Which jobs.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// In this state alone: queued, running, waiting, done, dead or cancelled.
    state: Option<String>,
    /// Of this kind alone.
    kind: Option<String>,
    /// Older ones than this job: `next` of the page before.
    before: Option<String>,
    /// At most so many, 1 to 1,000. Default 100.
    limit: Option<u32>,
}

/// A page of jobs.
#[derive(Debug, Serialize, ToSchema)]
struct Page {
    /// Newest first.
    jobs: Vec<Job>,
    /// For `before` of the next page; none: there is none.
    next: Option<String>,
}

/// The jobs of the caller's tenant, newest first.
#[utoipa::path(
    get, path = "/api/v1/jobs", operation_id = "list_jobs", tag = "jobs", params(Wanted),
    responses((status = OK, body = Page), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn list(State(jobs): State<Jobs>, caller: Caller, Query(wanted): Query<Wanted>) -> Result<Json<Page>, ApiError> {
    let Wanted { state, kind, before, limit } = wanted;
    if limit == Some(0) {
        return Err(ApiError::invalid_argument("a page of 0 jobs: 1 to 1000 are given"));
    }
    let (state, before) = (state.map(|state| state.parse()).transpose()?, before.map(|id| id.parse()).transpose()?);
    let filter = JobFilter { state, kind, before, limit: limit.unwrap_or(100) };
    let (jobs, next) = jobs.list(&caller, &filter).await?;
    Ok(Json(Page { jobs: jobs.into_iter().map(Job::from).collect(), next: next.map(String::from) }))
}

/// Which finished jobs to delete.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Finished {
    /// done, dead or cancelled.
    state: String,
    /// Ended so many seconds ago, or earlier. Default 0.
    #[serde(default)]
    older_than_s: u64,
}

/// How many were deleted.
#[derive(Debug, Serialize, ToSchema)]
struct Deleted {
    /// At most 1,000; then there may be more.
    deleted: u64,
}

/// Deletes finished jobs of the caller's tenant, at most 1,000 a call.
#[utoipa::path(
    delete, path = "/api/v1/jobs", operation_id = "purge_jobs", tag = "jobs", params(Finished),
    responses((status = OK, body = Deleted), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn purge(State(jobs): State<Jobs>, caller: Caller, Query(finished): Query<Finished>) -> Result<Json<Deleted>, ApiError> {
    let deleted = jobs.purge(&caller, finished.state.parse()?, Duration::from_secs(finished.older_than_s)).await?;
    Ok(Json(Deleted { deleted }))
}

/// A job that checks that workers run: it waits, and tells its progress.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewCheck {
    /// 0 to 60,000: how long it works.
    #[serde(default)]
    #[schema(example = 2000)]
    work_ms: u32,
    /// Its first attempts fail, so many.
    #[serde(default)]
    failures: u32,
    /// 1 to 100; default 3.
    max_attempts: Option<u32>,
    /// A second one with the same key is the first.
    idempotency_key: Option<String>,
}

/// Accepts a job that checks that workers run.
#[utoipa::path(
    post, path = "/api/v1/jobs/check", operation_id = "check_jobs", tag = "jobs",
    responses((status = ACCEPTED, body = Job), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn check(State(jobs): State<Jobs>, caller: Caller, Json(new): Json<NewCheck>) -> Result<(StatusCode, Json<Job>), ApiError> {
    let NewCheck { work_ms, failures, max_attempts, idempotency_key } = new;
    let job = jobs.check(&caller, &Check { work_ms, failures }, max_attempts, idempotency_key).await?;
    Ok((StatusCode::ACCEPTED, Json(job.into())))
}

/// One job of the caller's tenant.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}", operation_id = "get_job", tag = "jobs", params(("id" = String, Path, description = "The job's id")),
    responses((status = OK, body = Job), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn get(State(jobs): State<Jobs>, caller: Caller, Path(id): Path<String>) -> Result<Json<Job>, ApiError> {
    Ok(Json(jobs.get(&caller, &id).await?.into()))
}

/// Ends a job: at once when it does not run, else its worker is told. One that is finished stays as it is.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/cancel", operation_id = "cancel_job", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = OK, body = Job), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn cancel(State(jobs): State<Jobs>, caller: Caller, Path(id): Path<String>) -> Result<Json<Job>, ApiError> {
    Ok(Json(jobs.cancel(&caller, &id).await?.into()))
}

/// Queues a dead or cancelled job again, with all its attempts.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/retry", operation_id = "retry_job", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = OK, body = Job), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn retry(State(jobs): State<Jobs>, caller: Caller, Path(id): Path<String>) -> Result<Json<Job>, ApiError> {
    Ok(Json(jobs.retry(&caller, &id).await?.into()))
}

/// The job now and after each change, until it is finished: server-sent events `job` whose data is a job. An event `error` ends the stream.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/events", operation_id = "follow_job", tag = "jobs",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = OK, description = "Events", content_type = "text/event-stream", body = Job),
        (status = "4XX", description = "Refused", body = ErrorBody)
    )
)]
async fn events(
    State(jobs): State<Jobs>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>> + Send + 'static>, ApiError> {
    let changes = jobs.watch(&caller, &id).await?;
    let events = changes.map(|change| {
        let event = match change {
            Ok(job) => Event::default().event("job").json_data(Job::from(job)),
            Err(error) => Event::default().event("error").json_data(ErrorBody::from(ApiError::from(error))),
        };
        Ok(event.unwrap_or_else(|_| Event::default().event("error")))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
