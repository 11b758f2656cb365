//! `/api/v1/schedules`: long work that comes again by the clock. Scopes `jobs:read` and `jobs:write`, and those of the work.

use auralink_infrastructure::queue;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::extract::{Json, Path};
use crate::api::{ApiError, ErrorBody};
use crate::caller::Caller;
use crate::schedules::{Schedules, Work};

/// The routes.
pub fn routes() -> OpenApiRouter<Schedules> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(put, delete))
}

/// A schedule to be written.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PutSchedule {
    /// Five fields (minute, hour, day, month, weekday), or six with seconds first; `@hourly` and such. UTC.
    #[schema(example = "0 3 * * *")]
    cron: String,
    /// What is done each time, as a job.
    work: Work,
}

/// A schedule.
#[derive(Debug, Serialize, ToSchema)]
struct Schedule {
    /// Its name.
    #[schema(example = "nightly")]
    name: String,
    /// When.
    cron: String,
    /// Kind of its jobs.
    #[schema(example = "files.pipeline")]
    kind: String,
    /// What they are told.
    #[schema(value_type = Object)]
    payload: Value,
    /// Its next time, milliseconds since 1970.
    next_ms: u64,
}

impl From<queue::Schedule> for Schedule {
    fn from(schedule: queue::Schedule) -> Self {
        let queue::Schedule { name, cron, kind, payload, next_ms, .. } = schedule;
        Self { name, cron, kind, payload, next_ms }
    }
}

/// The schedules of a tenant.
#[derive(Debug, Serialize, ToSchema)]
struct ScheduleList {
    /// By name.
    schedules: Vec<Schedule>,
}

/// The schedules of the caller's tenant.
#[utoipa::path(
    get, path = "/api/v1/schedules", operation_id = "list_schedules", tag = "jobs",
    responses((status = OK, body = ScheduleList), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn list(State(schedules): State<Schedules>, caller: Caller) -> Result<Json<ScheduleList>, ApiError> {
    Ok(Json(ScheduleList { schedules: schedules.list(&caller).await?.into_iter().map(Schedule::from).collect() }))
}

/// Writes a schedule, over one of the same name. Its work is done as jobs; times that pass while no server runs are one job.
#[utoipa::path(
    put, path = "/api/v1/schedules/{name}", operation_id = "put_schedule", tag = "jobs",
    params(("name" = String, Path, description = "The schedule's name, 1 to 128 bytes")),
    responses((status = OK, body = Schedule), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn put(
    State(schedules): State<Schedules>,
    caller: Caller,
    Path(name): Path<String>,
    Json(PutSchedule { cron, work }): Json<PutSchedule>,
) -> Result<Json<Schedule>, ApiError> {
    Ok(Json(schedules.put(&caller, name, cron, work).await?.into()))
}

/// Deletes a schedule; its jobs stay.
#[utoipa::path(
    delete, path = "/api/v1/schedules/{name}", operation_id = "delete_schedule", tag = "jobs",
    params(("name" = String, Path, description = "The schedule's name")),
    responses((status = NO_CONTENT), (status = "4XX", description = "Refused", body = ErrorBody))
)]
async fn delete(State(schedules): State<Schedules>, caller: Caller, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    schedules.delete(&caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
