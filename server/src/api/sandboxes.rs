//! `/api/v1/sandboxes`: sandboxes of the caller's tenant. Scopes `sandboxes:read` to see, `sandboxes:write` to make, use and delete.

mod files;
mod sockets;
mod words;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use auralink_infrastructure::vm::service::{Followed, Sandboxes as Service};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::{Event as SseEvent, KeepAlive};
use bytes::Bytes;
use futures_util::Stream;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::words::{CreateSandbox, EngineList, Exec, Executed, LogList, Sandbox, SandboxList, SandboxUsage, Snapshot, SnapshotList};
use crate::api::extract::{Json, Path, Query};
use crate::api::{ApiError, ErrorBody};
use crate::caller::{Caller, Scope};
use crate::sandboxes::Sandboxes;

/// Bytes of each output that a captured program's answer holds at most.
const CAPTURED: usize = 4 << 20;

/// How long a captured program may take: the server answers every request in 30 s, and who asked shall learn how it ended.
const CAPTURED_FOR: Duration = Duration::from_secs(25);

/// The routes.
pub fn routes() -> OpenApiRouter<Sandboxes> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, delete))
        .routes(routes!(start))
        .routes(routes!(stop))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(exec))
        .routes(routes!(logs))
        .routes(routes!(events))
        .routes(routes!(usage))
        .routes(routes!(snapshot))
        .routes(routes!(engines))
        .routes(routes!(snapshots))
        .routes(routes!(delete_snapshot))
        .merge(files::routes())
        .merge(sockets::routes())
}

/// The service, for a caller that has the scope.
fn allowed<'a>(sandboxes: &'a Sandboxes, caller: &Caller, scope: Scope) -> Result<&'a Service, ApiError> {
    caller.require(scope)?;
    sandboxes.service()
}

/// What is listed.
#[derive(Debug, Deserialize, IntoParams)]
struct Listing {
    /// Those that have this label: `team=video`.
    label: Option<String>,
    /// Those whose ids come after this one.
    after: Option<String>,
    /// 1 to 1000; 100 if absent.
    limit: Option<usize>,
}

/// Sandboxes of the caller's tenant, in the order of their ids.
#[utoipa::path(
    get, path = "/api/v1/sandboxes", operation_id = "list_sandboxes", tag = "sandboxes", params(Listing),
    responses((status = OK, body = SandboxList), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn list(State(sandboxes): State<Sandboxes>, caller: Caller, Query(wanted): Query<Listing>) -> Result<Json<SandboxList>, ApiError> {
    let service = allowed(&sandboxes, &caller, Scope::SandboxesRead)?;
    let label = wanted.label.as_deref().map(|label| label.split_once('=').unwrap_or((label, "")));
    let labels: BTreeMap<String, String> = label.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
    let page = service.list(&caller.tenant, &labels, wanted.after.as_deref(), wanted.limit.unwrap_or(100));
    Ok(Json(SandboxList { sandboxes: page.into_iter().map(Sandbox::from).collect() }))
}

/// Makes a sandbox and starts it, unless `start` is false.
#[utoipa::path(
    post, path = "/api/v1/sandboxes", operation_id = "create_sandbox", tag = "sandboxes",
    responses((status = CREATED, body = Sandbox), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn create(
    State(sandboxes): State<Sandboxes>,
    caller: Caller,
    Json(wanted): Json<CreateSandbox>,
) -> Result<(StatusCode, Json<Sandbox>), ApiError> {
    let service = allowed(&sandboxes, &caller, Scope::SandboxesWrite)?;
    let made = service.create(&caller.tenant, wanted.into_request()?).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// One sandbox, by id or name.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{sandbox}", operation_id = "get_sandbox", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name")),
    responses((status = OK, body = Sandbox), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn get(State(sandboxes): State<Sandboxes>, caller: Caller, Path(id): Path<String>) -> Result<Json<Sandbox>, ApiError> {
    Ok(Json(allowed(&sandboxes, &caller, Scope::SandboxesRead)?.get(&caller.tenant, &id)?.into()))
}

/// Deletes a sandbox with all that it holds.
#[utoipa::path(
    delete, path = "/api/v1/sandboxes/{sandbox}", operation_id = "delete_sandbox", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name")),
    responses((status = NO_CONTENT, description = "Deleted"), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn delete(State(sandboxes): State<Sandboxes>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    allowed(&sandboxes, &caller, Scope::SandboxesWrite)?.delete(&caller.tenant, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Starts a sandbox.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{sandbox}/start", operation_id = "start_sandbox", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name")),
    responses((status = OK, body = Sandbox), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn start(State(sandboxes): State<Sandboxes>, caller: Caller, Path(id): Path<String>) -> Result<Json<Sandbox>, ApiError> {
    Ok(Json(allowed(&sandboxes, &caller, Scope::SandboxesWrite)?.start(&caller.tenant, &id).await?.into()))
}

/// How a sandbox is stopped.
#[derive(Debug, Deserialize, IntoParams)]
struct Stopping {
    /// Milliseconds that it is asked before it is killed; 10000 if absent.
    grace_ms: Option<u32>,
}

/// Stops a sandbox; its files stay.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{sandbox}/stop", operation_id = "stop_sandbox", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name"), Stopping),
    responses((status = OK, body = Sandbox), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn stop(
    State(sandboxes): State<Sandboxes>,
    caller: Caller,
    Path(id): Path<String>,
    Query(how): Query<Stopping>,
) -> Result<Json<Sandbox>, ApiError> {
    let grace = Duration::from_millis(how.grace_ms.unwrap_or(10_000).into());
    Ok(Json(allowed(&sandboxes, &caller, Scope::SandboxesWrite)?.stop(&caller.tenant, &id, grace).await?.into()))
}

/// Freezes a sandbox.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{sandbox}/pause", operation_id = "pause_sandbox", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name")),
    responses((status = OK, body = Sandbox), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn pause(State(sandboxes): State<Sandboxes>, caller: Caller, Path(id): Path<String>) -> Result<Json<Sandbox>, ApiError> {
    Ok(Json(allowed(&sandboxes, &caller, Scope::SandboxesWrite)?.pause(&caller.tenant, &id).await?.into()))
}

/// Lets a frozen sandbox go on.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{sandbox}/resume", operation_id = "resume_sandbox", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name")),
    responses((status = OK, body = Sandbox), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn resume(State(sandboxes): State<Sandboxes>, caller: Caller, Path(id): Path<String>) -> Result<Json<Sandbox>, ApiError> {
    Ok(Json(allowed(&sandboxes, &caller, Scope::SandboxesWrite)?.resume(&caller.tenant, &id).await?.into()))
}

/// Runs a program to its end, for at most 25 s. Each of its outputs is cut at 4 MiB and said to be; for more, or for a terminal, there is a
/// WebSocket.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{sandbox}/exec", operation_id = "exec_in_sandbox", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name")),
    responses((status = OK, body = Executed), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn exec(
    State(sandboxes): State<Sandboxes>,
    caller: Caller,
    Path(id): Path<String>,
    Json(wanted): Json<Exec>,
) -> Result<Json<Executed>, ApiError> {
    let service = allowed(&sandboxes, &caller, Scope::SandboxesWrite)?;
    let (mut exec, stdin) = wanted.into_spec();
    exec.timeout = Some(exec.timeout.unwrap_or(CAPTURED_FOR).min(CAPTURED_FOR));
    let done = service.exec_captured(&caller.tenant, &id, exec, Bytes::from(stdin), CAPTURED).await?;
    Ok(Json(done.into()))
}

/// The newest output of the sandbox's programs.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{sandbox}/logs", operation_id = "sandbox_logs", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name")),
    responses((status = OK, body = LogList), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn logs(State(sandboxes): State<Sandboxes>, caller: Caller, Path(id): Path<String>) -> Result<Json<LogList>, ApiError> {
    let logs = allowed(&sandboxes, &caller, Scope::SandboxesRead)?.logs(&caller.tenant, &id, None).await?;
    Ok(Json(LogList { logs: logs.into_iter().map(Into::into).collect() }))
}

/// Events of a sandbox as server-sent events: those kept first, then those to come. The data is JSON.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{sandbox}/events", operation_id = "sandbox_events", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name")),
    responses((status = OK, description = "text/event-stream", content_type = "text/event-stream"), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn events(
    State(sandboxes): State<Sandboxes>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, ApiError> {
    let following = allowed(&sandboxes, &caller, Scope::SandboxesRead)?.follow(&caller.tenant, Some(&id))?;
    let events = futures_util::stream::unfold(following, |mut following| async move {
        let (kind, data) = match following.next().await? {
            Followed::Event(event) => (event.kind.as_str(), serde_json::to_string(&event).unwrap_or_default()),
            Followed::Missed(count) => ("missed", format!("{{\"missed\":{count}}}")),
        };
        Some((Ok(SseEvent::default().event(kind).data(data)), following))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

/// What a sandbox uses now.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{sandbox}/usage", operation_id = "sandbox_usage", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name")),
    responses((status = OK, body = SandboxUsage), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn usage(State(sandboxes): State<Sandboxes>, caller: Caller, Path(id): Path<String>) -> Result<Json<SandboxUsage>, ApiError> {
    Ok(Json(allowed(&sandboxes, &caller, Scope::SandboxesRead)?.usage(&caller.tenant, &id).await?.into()))
}

/// Takes a snapshot, from which sandboxes can begin.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{sandbox}/snapshot", operation_id = "snapshot_sandbox", tag = "sandboxes",
    params(("sandbox" = String, Path, description = "Id or name")),
    responses((status = CREATED, body = Snapshot), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn snapshot(
    State(sandboxes): State<Sandboxes>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Snapshot>), ApiError> {
    let taken = allowed(&sandboxes, &caller, Scope::SandboxesWrite)?.snapshot(&caller.tenant, &id, BTreeMap::new()).await?;
    Ok((StatusCode::CREATED, Json(taken.into())))
}

/// The engines of this server, what they can do or why they cannot be used.
#[utoipa::path(
    get, path = "/api/v1/sandbox-engines", operation_id = "list_sandbox_engines", tag = "sandboxes",
    responses((status = OK, body = EngineList), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn engines(State(sandboxes): State<Sandboxes>, caller: Caller) -> Result<Json<EngineList>, ApiError> {
    let engines = allowed(&sandboxes, &caller, Scope::SandboxesRead)?.engines().await;
    Ok(Json(EngineList { engines: engines.into_iter().map(Into::into).collect() }))
}

/// Snapshots of the caller's tenant, newest first.
#[utoipa::path(
    get, path = "/api/v1/sandbox-snapshots", operation_id = "list_sandbox_snapshots", tag = "sandboxes",
    responses((status = OK, body = SnapshotList), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn snapshots(State(sandboxes): State<Sandboxes>, caller: Caller) -> Result<Json<SnapshotList>, ApiError> {
    let snapshots = allowed(&sandboxes, &caller, Scope::SandboxesRead)?.snapshots(&caller.tenant);
    Ok(Json(SnapshotList { snapshots: snapshots.into_iter().map(Into::into).collect() }))
}

/// Deletes a snapshot that no sandbox stands on.
#[utoipa::path(
    delete, path = "/api/v1/sandbox-snapshots/{snapshot}", operation_id = "delete_sandbox_snapshot", tag = "sandboxes",
    params(("snapshot" = String, Path, description = "Id")),
    responses((status = NO_CONTENT, description = "Deleted"), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn delete_snapshot(State(sandboxes): State<Sandboxes>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    allowed(&sandboxes, &caller, Scope::SandboxesWrite)?.delete_snapshot(&caller.tenant, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
