//! The queue in the state's SQLite file: one process at a time, whose writer commits together what waits together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use sqlx::{Row, SqliteConnection};

use super::QueueError;
use super::job::{Job, JobFilter, JobId, JobState};
use super::row::{JobRow, ScheduleRow, columns, schedule};
use super::schedule::Schedule;
use super::store::{
    Accepted, Backoff, Beat, Claim, Claimed, End, Heard, MAX_LEASE, NewRow, Reaped, STEP, Stats, Store, max_delay_ms, millis, other_kind,
};
use crate::state::{SqliteState, StateError};
use crate::tenant::Tenant;

/// The queue's tables of an open folder.
pub struct SqliteStore {
    state: Arc<SqliteState>,
}

/// The file is this process's alone, so its clock is the engine's.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn not_read(error: sqlx::Error) -> QueueError {
    StateError::of("the queue was not read", &error).into()
}

const SCHEDULE: &str = "SELECT tenant, name, cron, kind, payload, priority, max_attempts, due FROM schedules ";

impl SqliteStore {
    pub fn new(state: Arc<SqliteState>) -> Self {
        Self { state }
    }
}

/// Inserts one; false when its idempotency key is taken.
async fn insert(connection: &mut SqliteConnection, row: &NewRow, now: i64) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO jobs (id, tenant, kind, state, payload, priority, max_attempts, due, idempotency_key, created)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
    )
    .bind(row.id.as_str().to_owned())
    .bind(row.job.tenant.as_str().to_owned())
    .bind(row.job.kind.clone())
    .bind(row.state().as_str())
    .bind(row.payload.clone())
    .bind(row.job.priority)
    .bind(row.job.max_attempts)
    .bind(now.saturating_add(millis(row.job.delay)))
    .bind(row.job.idempotency_key.clone())
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The job that has the key.
async fn keyed(connection: &mut SqliteConnection, row: &NewRow) -> Result<Option<(String, String)>, sqlx::Error> {
    sqlx::query_as("SELECT id, kind FROM jobs WHERE tenant = ? AND idempotency_key = ?")
        .bind(row.job.tenant.as_str().to_owned())
        .bind(row.job.idempotency_key.clone())
        .fetch_optional(connection)
        .await
}

/// All or none: what cannot be is found before anything is written.
async fn enqueue(connection: &mut SqliteConnection, rows: &[NewRow]) -> Result<Result<Vec<Accepted>, QueueError>, sqlx::Error> {
    for row in rows.iter().filter(|row| row.job.idempotency_key.is_some()) {
        let here = rows.iter().find(|other| other.job.tenant == row.job.tenant && other.job.idempotency_key == row.job.idempotency_key);
        let kind = keyed(connection, row).await?.map(|(_, kind)| kind).or_else(|| here.map(|here| here.job.kind.clone()));
        if let Some(kind) = kind.filter(|kind| *kind != row.job.kind) {
            return Ok(Err(other_kind(row, &kind)));
        }
    }
    let (now, mut accepted) = (now(), Vec::with_capacity(rows.len()));
    for row in rows {
        let new = insert(connection, row, now).await?;
        let id = if new { Some(row.id.clone()) } else { keyed(connection, row).await?.and_then(|(id, _)| id.parse().ok()) };
        let Some(id) = id else { return Err(sqlx::Error::RowNotFound) };
        accepted.push(Accepted { id, new });
    }
    Ok(Ok(accepted))
}

async fn claim(connection: &mut SqliteConnection, claim: &Claim, kinds: &str) -> Result<Vec<JobRow>, sqlx::Error> {
    let now = now();
    sqlx::query(
        "UPDATE jobs SET state = 'queued' WHERE rowid IN
           (SELECT rowid FROM jobs WHERE state = 'waiting' AND (due <= ?1 OR due > ?2) LIMIT ?3)",
    )
    .bind(now)
    .bind(now + max_delay_ms())
    .bind(STEP)
    .execute(&mut *connection)
    .await?;
    // For each kind the first of its index, and the first of those.
    sqlx::query_as(concat!(
        "UPDATE jobs SET state = 'running', attempt = attempt + 1, fence = fence + 1, lease = ?1, worker = ?2, started = ?3,
           progress_done = 0, progress_total = 0, message = '' WHERE rowid IN
           (SELECT j.rowid FROM json_each(?4) k CROSS JOIN jobs j ON j.rowid IN
              (SELECT q.rowid FROM jobs q WHERE q.state = 'queued' AND q.kind = k.value ORDER BY q.priority DESC, q.id LIMIT ?5)
            ORDER BY j.priority DESC, j.id LIMIT ?5) RETURNING ",
        columns!()
    ))
    .bind(now + millis(claim.lease.min(MAX_LEASE)))
    .bind(claim.worker.clone())
    .bind(now)
    .bind(kinds.to_owned())
    .bind(claim.most)
    .fetch_all(connection)
    .await
}

async fn beat(connection: &mut SqliteConnection, beat: &Beat, lease: Duration) -> Result<Heard, sqlx::Error> {
    let cancelling: Option<i64> = sqlx::query_scalar(
        "UPDATE jobs SET lease = ?1, progress_done = ?2, progress_total = ?3, message = ?4
         WHERE id = ?5 AND fence = ?6 AND state = 'running' RETURNING cancelling",
    )
    .bind(now() + millis(lease.min(MAX_LEASE)))
    .bind(i64::try_from(beat.progress.done).unwrap_or(i64::MAX))
    .bind(i64::try_from(beat.progress.total).unwrap_or(i64::MAX))
    .bind(beat.progress.message.clone())
    .bind(beat.id.as_str().to_owned())
    .bind(beat.fence)
    .fetch_optional(connection)
    .await?;
    Ok(match cancelling {
        None => Heard::Lost,
        Some(0) => Heard::Kept,
        Some(_) => Heard::Cancel,
    })
}

async fn finish(connection: &mut SqliteConnection, end: &End) -> Result<Option<JobState>, sqlx::Error> {
    let (state, result, error, after) = end.outcome.parts();
    let now = now();
    let state: Option<String> = sqlx::query_scalar(
        "UPDATE jobs SET
           state = CASE WHEN ?1 <> 'done' AND cancelling = 1 THEN 'cancelled' WHEN ?1 = 'waiting' AND attempt >= max_attempts THEN 'dead' ELSE ?1 END,
           finished = CASE WHEN ?1 IN ('done', 'dead', 'cancelled') OR cancelling = 1 OR (?1 = 'waiting' AND attempt >= max_attempts) THEN ?2 END,
           attempt = CASE WHEN ?1 = 'queued' THEN attempt - 1 ELSE attempt END,
           result = ?3, error = COALESCE(?4, CASE WHEN ?1 = 'done' THEN NULL ELSE error END), due = ?5, lease = 0, worker = '', cancelling = 0,
           progress_done = ?6, progress_total = ?7, message = ?8
         WHERE id = ?9 AND fence = ?10 AND state = 'running' RETURNING state",
    )
    .bind(state.as_str())
    .bind(now)
    .bind(result.map(str::to_owned))
    .bind(error.map(str::to_owned))
    .bind(now + after)
    .bind(i64::try_from(end.progress.done).unwrap_or(i64::MAX))
    .bind(i64::try_from(end.progress.total).unwrap_or(i64::MAX))
    .bind(end.progress.message.clone())
    .bind(end.id.as_str().to_owned())
    .bind(end.fence)
    .fetch_optional(connection)
    .await?;
    Ok(state.and_then(|state| state.parse().ok()))
}

async fn reap(connection: &mut SqliteConnection, backoff: Backoff) -> Result<Reaped, sqlx::Error> {
    let now = now();
    let states: Vec<String> = sqlx::query_scalar(
        "UPDATE jobs SET
           state = CASE WHEN cancelling = 1 THEN 'cancelled' WHEN attempt >= max_attempts THEN 'dead' ELSE 'waiting' END,
           finished = CASE WHEN cancelling = 1 OR attempt >= max_attempts THEN ?1 END,
           due = ?1 + MIN(?2, ?3 << MIN(attempt - 1, 20)), lease = 0, worker = '', cancelling = 0,
           error = 'its worker went away during attempt ' || attempt
         WHERE rowid IN (SELECT rowid FROM jobs WHERE state = 'running' AND (lease <= ?1 OR lease > ?4) LIMIT ?5) RETURNING state",
    )
    .bind(now)
    .bind(millis(backoff.most))
    .bind(millis(backoff.base))
    .bind(now + millis(MAX_LEASE) + 1)
    .bind(STEP)
    .fetch_all(connection)
    .await?;
    let count = |name: &str| states.iter().filter(|state| *state == name).count() as u64;
    Ok(Reaped { waiting: count("waiting"), dead: count("dead"), cancelled: count("cancelled") })
}

#[async_trait]
impl Store for SqliteStore {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    async fn now(&self) -> Result<i64, QueueError> {
        Ok(now())
    }

    async fn enqueue(&self, rows: &[NewRow]) -> Result<Vec<Accepted>, QueueError> {
        let rows: Arc<[NewRow]> = rows.into();
        self.state
            .writer()?
            .run(move |connection| {
                let rows = Arc::clone(&rows);
                Box::pin(async move { enqueue(connection, &rows).await })
            })
            .await?
    }

    async fn pending(&self, tenant: &Tenant, most: u64) -> Result<u64, QueueError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM (SELECT 1 FROM jobs WHERE tenant = ? AND state IN ('queued', 'running', 'waiting') LIMIT ?)",
        )
        .bind(tenant.as_str())
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_one(self.state.readers())
        .await
        .map_err(not_read)?;
        Ok(count.unsigned_abs())
    }

    async fn get(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>, QueueError> {
        let row: Option<JobRow> = sqlx::query_as(concat!("SELECT ", columns!(), " FROM jobs WHERE id = ? AND tenant = ?"))
            .bind(id.as_str())
            .bind(tenant.as_str())
            .fetch_optional(self.state.readers())
            .await
            .map_err(not_read)?;
        row.map(JobRow::job).transpose()
    }

    async fn list(&self, tenant: &Tenant, filter: &JobFilter) -> Result<Vec<Job>, QueueError> {
        let states: Vec<&str> =
            JobState::ALL.into_iter().filter(|state| filter.state.is_none_or(|only| only == *state)).map(JobState::as_str).collect();
        let rows: Vec<JobRow> = sqlx::query_as(concat!(
            "SELECT ",
            columns!(),
            " FROM jobs WHERE rowid IN (SELECT j.rowid FROM json_each(?1) s CROSS JOIN jobs j ON j.rowid IN
               (SELECT q.rowid FROM jobs q WHERE q.tenant = ?2 AND q.state = s.value AND (?3 IS NULL OR q.kind = ?3) AND (?4 IS NULL OR q.id < ?4)
                ORDER BY q.id DESC LIMIT ?5)) ORDER BY id DESC LIMIT ?5"
        ))
        .bind(serde_json::json!(states).to_string())
        .bind(tenant.as_str())
        .bind(filter.kind.as_deref())
        .bind(filter.before.as_ref().map(JobId::as_str))
        .bind(filter.limit)
        .fetch_all(self.state.readers())
        .await
        .map_err(not_read)?;
        rows.into_iter().map(JobRow::job).collect()
    }

    async fn cancel(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>, QueueError> {
        let (tenant, id) = (tenant.as_str().to_owned(), id.as_str().to_owned());
        let row: Option<JobRow> = self
            .state
            .writer()?
            .run(move |connection| {
                Box::pin(
                    sqlx::query_as(concat!(
                        "UPDATE jobs SET cancelling = CASE state WHEN 'running' THEN 1 ELSE 0 END,
                           finished = CASE WHEN state IN ('queued', 'waiting') THEN ?1 ELSE finished END,
                           state = CASE WHEN state IN ('queued', 'waiting') THEN 'cancelled' ELSE state END
                         WHERE id = ?2 AND tenant = ?3 RETURNING ",
                        columns!()
                    ))
                    .bind(now())
                    .bind(id.clone())
                    .bind(tenant.clone())
                    .fetch_optional(connection),
                )
            })
            .await?;
        row.map(JobRow::job).transpose()
    }

    async fn retry(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>, QueueError> {
        let (tenant, id) = (tenant.as_str().to_owned(), id.as_str().to_owned());
        let row: Option<JobRow> = self
            .state
            .writer()?
            .run(move |connection| {
                Box::pin(
                    sqlx::query_as(concat!(
                        "UPDATE jobs SET state = 'queued', attempt = 0, cancelling = 0, finished = NULL, due = ?1
                         WHERE id = ?2 AND tenant = ?3 AND state IN ('dead', 'cancelled') RETURNING ",
                        columns!()
                    ))
                    .bind(now())
                    .bind(id.clone())
                    .bind(tenant.clone())
                    .fetch_optional(connection),
                )
            })
            .await?;
        row.map(JobRow::job).transpose()
    }

    async fn purge(&self, tenant: Option<&Tenant>, state: JobState, older_ms: i64, most: u32) -> Result<u64, QueueError> {
        let tenant = tenant.map(|tenant| tenant.as_str().to_owned());
        let deleted = self
            .state
            .writer()?
            .run(move |connection| {
                let tenant = tenant.clone();
                Box::pin(async move {
                    sqlx::query(
                        "DELETE FROM jobs WHERE rowid IN (SELECT rowid FROM jobs
                           WHERE state = ?1 AND finished <= ?2 AND finished IS NOT NULL AND (?3 IS NULL OR tenant = ?3) ORDER BY finished LIMIT ?4)",
                    )
                    .bind(state.as_str())
                    .bind(now().saturating_sub(older_ms))
                    .bind(tenant)
                    .bind(most)
                    .execute(connection)
                    .await
                })
            })
            .await?;
        Ok(deleted.rows_affected())
    }

    async fn trim(&self, state: JobState, keep: u64, most: u32) -> Result<u64, QueueError> {
        // Looked up beside the writer: it is a walk over `keep` entries of an index.
        let oldest: Option<i64> = sqlx::query_scalar(
            "SELECT finished FROM jobs WHERE state = ? AND finished IS NOT NULL ORDER BY finished DESC LIMIT 1 OFFSET ?",
        )
        .bind(state.as_str())
        .bind(i64::try_from(keep).unwrap_or(i64::MAX))
        .fetch_optional(self.state.readers())
        .await
        .map_err(not_read)?;
        match oldest {
            Some(finished) => self.purge(None, state, now().saturating_sub(finished), most).await,
            None => Ok(0),
        }
    }

    async fn stats(&self, tenant: &Tenant) -> Result<Stats, QueueError> {
        let rows = sqlx::query("SELECT state, COUNT(*) FROM jobs WHERE tenant = ? GROUP BY state")
            .bind(tenant.as_str())
            .fetch_all(self.state.readers())
            .await
            .map_err(not_read)?;
        let counts: BTreeMap<String, u64> = rows.iter().map(|row| (row.get(0), row.get::<i64, _>(1).unsigned_abs())).collect();
        Ok(Stats::of(&counts))
    }

    async fn claim(&self, wanted: &Claim) -> Result<Vec<Claimed>, QueueError> {
        let (wanted, kinds) = (Arc::new(wanted.clone()), serde_json::json!(wanted.kinds).to_string());
        let rows = self
            .state
            .writer()?
            .run(move |connection| {
                let (wanted, kinds) = (Arc::clone(&wanted), kinds.clone());
                Box::pin(async move { claim(connection, &wanted, &kinds).await })
            })
            .await?;
        rows.into_iter().map(JobRow::claimed).collect()
    }

    async fn beat(&self, beats: &[Beat], lease: Duration) -> Result<Vec<Heard>, QueueError> {
        let beats: Arc<[Beat]> = beats.into();
        let heard = self
            .state
            .writer()?
            .run(move |connection| {
                let beats = Arc::clone(&beats);
                Box::pin(async move {
                    let mut heard = Vec::with_capacity(beats.len());
                    for one in beats.iter() {
                        heard.push(beat(connection, one, lease).await?);
                    }
                    Ok(heard)
                })
            })
            .await?;
        Ok(heard)
    }

    async fn finish(&self, ends: &[End]) -> Result<Vec<Option<JobState>>, QueueError> {
        let ends: Arc<[End]> = ends.into();
        let states = self
            .state
            .writer()?
            .run(move |connection| {
                let ends = Arc::clone(&ends);
                Box::pin(async move {
                    let mut states = Vec::with_capacity(ends.len());
                    for end in ends.iter() {
                        states.push(finish(connection, end).await?);
                    }
                    Ok(states)
                })
            })
            .await?;
        Ok(states)
    }

    async fn reap(&self, backoff: Backoff) -> Result<Reaped, QueueError> {
        Ok(self.state.writer()?.run(move |connection| Box::pin(reap(connection, backoff))).await?)
    }

    async fn schedule_put(&self, schedule: &Schedule, most: u64) -> Result<bool, QueueError> {
        let schedule = Arc::new(schedule.clone());
        let put = self
            .state
            .writer()?
            .run(move |connection| {
                let schedule = Arc::clone(&schedule);
                Box::pin(async move {
                    sqlx::query(
                        "INSERT INTO schedules (tenant, name, cron, kind, payload, priority, max_attempts, due)
                         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE (SELECT COUNT(*) FROM schedules WHERE tenant = ?1 AND name <> ?2) < ?9
                         ON CONFLICT (tenant, name) DO UPDATE SET cron = excluded.cron, kind = excluded.kind, payload = excluded.payload,
                           priority = excluded.priority, max_attempts = excluded.max_attempts, due = excluded.due",
                    )
                    .bind(schedule.tenant.as_str().to_owned())
                    .bind(schedule.name.clone())
                    .bind(schedule.cron.clone())
                    .bind(schedule.kind.clone())
                    .bind(schedule.payload.to_string())
                    .bind(schedule.priority)
                    .bind(schedule.max_attempts)
                    .bind(i64::try_from(schedule.next_ms).unwrap_or(i64::MAX))
                    .bind(i64::try_from(most).unwrap_or(i64::MAX))
                    .execute(connection)
                    .await
                })
            })
            .await?;
        Ok(put.rows_affected() > 0)
    }

    async fn schedule_delete(&self, tenant: &Tenant, name: &str) -> Result<bool, QueueError> {
        let (tenant, name) = (tenant.as_str().to_owned(), name.to_owned());
        let deleted = self
            .state
            .writer()?
            .run(move |connection| {
                Box::pin(
                    sqlx::query("DELETE FROM schedules WHERE tenant = ? AND name = ?")
                        .bind(tenant.clone())
                        .bind(name.clone())
                        .execute(connection),
                )
            })
            .await?;
        Ok(deleted.rows_affected() > 0)
    }

    async fn schedules(&self, tenant: &Tenant) -> Result<Vec<Schedule>, QueueError> {
        let rows: Vec<ScheduleRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{SCHEDULE} WHERE tenant = ? ORDER BY name")))
            .bind(tenant.as_str())
            .fetch_all(self.state.readers())
            .await
            .map_err(not_read)?;
        rows.into_iter().map(schedule).collect()
    }

    async fn schedules_due(&self, most: u32) -> Result<Vec<Schedule>, QueueError> {
        let rows: Vec<ScheduleRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{SCHEDULE} WHERE due <= ? ORDER BY due LIMIT ?")))
            .bind(now())
            .bind(most)
            .fetch_all(self.state.readers())
            .await
            .map_err(not_read)?;
        rows.into_iter().map(schedule).collect()
    }

    async fn fire(&self, schedule: &Schedule, next_ms: i64, row: &NewRow) -> Result<bool, QueueError> {
        let (schedule, row) = (Arc::new(schedule.clone()), Arc::new(row.clone()));
        let fired = self
            .state
            .writer()?
            .run(move |connection| {
                let (schedule, row) = (Arc::clone(&schedule), Arc::clone(&row));
                Box::pin(async move {
                    let moved = sqlx::query("UPDATE schedules SET due = ?1 WHERE tenant = ?2 AND name = ?3 AND due = ?4")
                        .bind(next_ms)
                        .bind(schedule.tenant.as_str().to_owned())
                        .bind(schedule.name.clone())
                        .bind(i64::try_from(schedule.next_ms).unwrap_or(i64::MAX))
                        .execute(&mut *connection)
                        .await?
                        .rows_affected()
                        > 0;
                    Ok(moved && insert(connection, &row, now()).await?)
                })
            })
            .await?;
        Ok(fired)
    }
}
