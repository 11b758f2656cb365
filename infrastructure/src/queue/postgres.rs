//! The queue in PostgreSQL, for any number of servers and workers. Rows that another has locked are passed over, never waited for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{PgConnection, PgPool, Row};

use super::QueueError;
use super::job::{Job, JobFilter, JobId, JobState};
use super::row::{JobRow, ScheduleRow, columns, schedule};
use super::schedule::Schedule;
use super::store::{
    Accepted, Backoff, Beat, Claim, Claimed, End, Heard, MAX_LEASE, NewRow, Reaped, STEP, Stats, Store, max_delay_ms, millis, other_kind,
};
use crate::state::{PostgresState, StateError};
use crate::tenant::Tenant;

/// The server's clock, milliseconds since 1970.
macro_rules! now {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    };
}

/// Two batches with crossing keys, or a row that went between two looks: the step is made again, so often at most.
const TRIES: u32 = 5;

/// The queue's tables of a database.
pub struct PostgresStore {
    state: Arc<PostgresState>,
}

fn not_read(error: sqlx::Error) -> QueueError {
    StateError::of("the queue was not read", &error).into()
}

fn not_changed(error: sqlx::Error) -> QueueError {
    StateError::of("the queue was not changed", &error).into()
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl PostgresStore {
    pub fn new(state: Arc<PostgresState>) -> Self {
        Self { state }
    }

    fn pool(&self) -> &PgPool {
        self.state.pool()
    }
}

/// Inserts those whose idempotency keys are free; answers the names of those.
async fn insert(connection: &mut PgConnection, rows: &[&NewRow]) -> Result<Vec<String>, sqlx::Error> {
    fn texts<'a>(rows: &[&'a NewRow], of: impl Fn(&'a NewRow) -> &'a str) -> Vec<&'a str> {
        rows.iter().map(|row| of(row)).collect()
    }
    let numbers = |of: fn(&NewRow) -> i64| rows.iter().map(|row| of(row)).collect::<Vec<_>>();
    sqlx::query_scalar(concat!(
        "INSERT INTO jobs (id, tenant, kind, state, payload, priority, max_attempts, due, idempotency_key, created)
         SELECT n.id, n.tenant, n.kind, n.state, n.payload, n.priority, n.max_attempts, now.ms + n.delay, n.key, now.ms
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::text[])
           WITH ORDINALITY n (id, tenant, kind, state, payload, priority, max_attempts, delay, key, at),
           (SELECT ",
        now!(),
        " AS ms) now ORDER BY n.at ON CONFLICT DO NOTHING RETURNING id"
    ))
    .bind(texts(rows, |row| row.id.as_str()))
    .bind(texts(rows, |row| row.job.tenant.as_str()))
    .bind(texts(rows, |row| row.job.kind.as_str()))
    .bind(texts(rows, |row| row.state().as_str()))
    .bind(texts(rows, |row| row.payload.as_str()))
    .bind(numbers(|row| i64::from(row.job.priority)))
    .bind(numbers(|row| i64::from(row.job.max_attempts)))
    .bind(numbers(|row| millis(row.job.delay)))
    .bind(rows.iter().map(|row| row.job.idempotency_key.as_deref()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await
}

/// All or none; none when a job was deleted between two looks, and it must be done again.
async fn enqueue(pool: &PgPool, rows: &[NewRow]) -> Result<Option<Vec<Accepted>>, QueueError> {
    // One order for everybody, so that two batches do not wait for each other.
    let mut ordered: Vec<&NewRow> = rows.iter().collect();
    ordered.sort_by(|a, b| (&a.job.idempotency_key, &a.id).cmp(&(&b.job.idempotency_key, &b.id)));
    if rows.iter().all(|row| row.job.idempotency_key.is_none()) {
        let mut connection = pool.acquire().await.map_err(not_changed)?;
        insert(&mut connection, &ordered).await.map_err(not_changed)?;
        return Ok(Some(rows.iter().map(|row| Accepted { id: row.id.clone(), new: true }).collect()));
    }
    let mut step = pool.begin().await.map_err(not_changed)?;
    let new = insert(&mut step, &ordered).await.map_err(not_changed)?;
    let mut accepted = Vec::with_capacity(rows.len());
    for row in rows {
        if new.iter().any(|id| id == row.id.as_str()) {
            accepted.push(Accepted { id: row.id.clone(), new: true });
            continue;
        }
        let there: Option<(String, String)> = sqlx::query_as("SELECT id, kind FROM jobs WHERE tenant = $1 AND idempotency_key = $2")
            .bind(row.job.tenant.as_str())
            .bind(row.job.idempotency_key.as_deref())
            .fetch_optional(&mut *step)
            .await
            .map_err(not_changed)?;
        match there {
            Some((_, kind)) if kind != row.job.kind => return Err(other_kind(row, &kind)),
            Some((id, _)) => accepted.push(Accepted { id: id.parse()?, new: false }),
            None => return Ok(None),
        }
    }
    step.commit().await.map_err(not_changed)?;
    Ok(Some(accepted))
}

#[async_trait]
impl Store for PostgresStore {
    fn name(&self) -> &'static str {
        "postgres"
    }

    async fn now(&self) -> Result<i64, QueueError> {
        sqlx::query_scalar(concat!("SELECT ", now!())).fetch_one(self.pool()).await.map_err(not_read)
    }

    async fn enqueue(&self, rows: &[NewRow]) -> Result<Vec<Accepted>, QueueError> {
        for _ in 0..TRIES {
            if let Some(accepted) = enqueue(self.pool(), rows).await? {
                return Ok(accepted);
            }
        }
        Err(QueueError::Engine("jobs with the same idempotency keys come and go: try again".into()))
    }

    async fn pending(&self, tenant: &Tenant, most: u64) -> Result<u64, QueueError> {
        let count: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM (SELECT 1 FROM jobs WHERE tenant = $1 AND state IN ('queued', 'running', 'waiting') LIMIT $2) counted",
        )
        .bind(tenant.as_str())
        .bind(number(most))
        .fetch_one(self.pool())
        .await
        .map_err(not_read)?;
        Ok(count.unsigned_abs())
    }

    async fn get(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>, QueueError> {
        let row: Option<JobRow> = sqlx::query_as(concat!("SELECT ", columns!(), " FROM jobs WHERE id = $1 AND tenant = $2"))
            .bind(id.as_str())
            .bind(tenant.as_str())
            .fetch_optional(self.pool())
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
            " FROM unnest($1::text[]) s (wanted) CROSS JOIN LATERAL
               (SELECT * FROM jobs WHERE tenant = $2 AND state = s.wanted AND ($3::text IS NULL OR kind = $3) AND ($4::text IS NULL OR id < $4)
                ORDER BY id DESC LIMIT $5) page ORDER BY id DESC LIMIT $5"
        ))
        .bind(states)
        .bind(tenant.as_str())
        .bind(filter.kind.as_deref())
        .bind(filter.before.as_ref().map(JobId::as_str))
        .bind(i64::from(filter.limit))
        .fetch_all(self.pool())
        .await
        .map_err(not_read)?;
        rows.into_iter().map(JobRow::job).collect()
    }

    async fn cancel(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>, QueueError> {
        let row: Option<JobRow> = sqlx::query_as(concat!(
            "UPDATE jobs SET cancelling = CASE state WHEN 'running' THEN 1 ELSE 0 END,
               finished = CASE WHEN state IN ('queued', 'waiting') THEN ",
            now!(),
            " ELSE finished END, state = CASE WHEN state IN ('queued', 'waiting') THEN 'cancelled' ELSE state END
             WHERE id = $1 AND tenant = $2 RETURNING ",
            columns!()
        ))
        .bind(id.as_str())
        .bind(tenant.as_str())
        .fetch_optional(self.pool())
        .await
        .map_err(not_changed)?;
        row.map(JobRow::job).transpose()
    }

    async fn retry(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>, QueueError> {
        let row: Option<JobRow> = sqlx::query_as(concat!(
            "UPDATE jobs SET state = 'queued', attempt = 0, cancelling = 0, finished = NULL, due = ",
            now!(),
            " WHERE id = $1 AND tenant = $2 AND state IN ('dead', 'cancelled') RETURNING ",
            columns!()
        ))
        .bind(id.as_str())
        .bind(tenant.as_str())
        .fetch_optional(self.pool())
        .await
        .map_err(not_changed)?;
        row.map(JobRow::job).transpose()
    }

    async fn purge(&self, tenant: Option<&Tenant>, state: JobState, older_ms: i64, most: u32) -> Result<u64, QueueError> {
        let deleted = sqlx::query(concat!(
            "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE state = $1 AND finished IS NOT NULL AND finished <= ",
            now!(),
            " - $2 AND ($3::text IS NULL OR tenant = $3) ORDER BY finished LIMIT $4 FOR UPDATE SKIP LOCKED)"
        ))
        .bind(state.as_str())
        .bind(older_ms)
        .bind(tenant.map(Tenant::as_str))
        .bind(i64::from(most))
        .execute(self.pool())
        .await
        .map_err(not_changed)?;
        Ok(deleted.rows_affected())
    }

    async fn trim(&self, state: JobState, keep: u64, most: u32) -> Result<u64, QueueError> {
        let age: Option<i64> = sqlx::query_scalar(concat!(
            "SELECT ",
            now!(),
            " - finished FROM jobs WHERE state = $1 AND finished IS NOT NULL ORDER BY finished DESC LIMIT 1 OFFSET $2"
        ))
        .bind(state.as_str())
        .bind(number(keep))
        .fetch_optional(self.pool())
        .await
        .map_err(not_read)?;
        match age {
            Some(age) => self.purge(None, state, age, most).await,
            None => Ok(0),
        }
    }

    async fn stats(&self, tenant: &Tenant) -> Result<Stats, QueueError> {
        let rows = sqlx::query("SELECT state, COUNT(*) FROM jobs WHERE tenant = $1 GROUP BY state")
            .bind(tenant.as_str())
            .fetch_all(self.pool())
            .await
            .map_err(not_read)?;
        let counts: BTreeMap<String, u64> = rows.iter().map(|row| (row.get(0), row.get::<i64, _>(1).unsigned_abs())).collect();
        Ok(Stats::of(&counts))
    }

    async fn claim(&self, claim: &Claim) -> Result<Vec<Claimed>, QueueError> {
        sqlx::query(concat!(
            "UPDATE jobs SET state = 'queued' WHERE id IN (SELECT id FROM jobs WHERE state = 'waiting' AND (due <= ",
            now!(),
            " OR due > ",
            now!(),
            " + $1) LIMIT $2 FOR UPDATE SKIP LOCKED)"
        ))
        .bind(max_delay_ms())
        .bind(i64::from(STEP))
        .execute(self.pool())
        .await
        .map_err(not_changed)?;
        let rows: Vec<JobRow> = sqlx::query_as(concat!(
            "WITH next AS MATERIALIZED (SELECT ready.id FROM unnest($1::text[]) k (wanted) CROSS JOIN LATERAL
               (SELECT id, priority FROM jobs WHERE state = 'queued' AND kind = k.wanted ORDER BY priority DESC, id LIMIT $2 FOR UPDATE SKIP LOCKED) ready
             ORDER BY ready.priority DESC, ready.id LIMIT $2)
             UPDATE jobs SET state = 'running', attempt = attempt + 1, fence = fence + 1, lease = ",
            now!(),
            " + $3, worker = $4, started = ",
            now!(),
            ", progress_done = 0, progress_total = 0, message = '' WHERE id IN (SELECT id FROM next) RETURNING ",
            columns!()
        ))
        .bind(&claim.kinds)
        .bind(i64::from(claim.most))
        .bind(millis(claim.lease.min(MAX_LEASE)))
        .bind(&claim.worker)
        .fetch_all(self.pool())
        .await
        .map_err(not_changed)?;
        rows.into_iter().map(JobRow::claimed).collect()
    }

    async fn beat(&self, beats: &[Beat], lease: Duration) -> Result<Vec<Heard>, QueueError> {
        let rows: Vec<(String, i64)> = sqlx::query_as(concat!(
            "UPDATE jobs SET lease = ",
            now!(),
            " + $1, progress_done = b.done, progress_total = b.total, message = b.message
             FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[]) b (id, fence, done, total, message)
             WHERE jobs.id = b.id AND jobs.fence = b.fence AND jobs.state = 'running' RETURNING jobs.id, jobs.cancelling"
        ))
        .bind(millis(lease.min(MAX_LEASE)))
        .bind(beats.iter().map(|beat| beat.id.as_str()).collect::<Vec<_>>())
        .bind(beats.iter().map(|beat| beat.fence).collect::<Vec<_>>())
        .bind(beats.iter().map(|beat| number(beat.progress.done)).collect::<Vec<_>>())
        .bind(beats.iter().map(|beat| number(beat.progress.total)).collect::<Vec<_>>())
        .bind(beats.iter().map(|beat| beat.progress.message.as_str()).collect::<Vec<_>>())
        .fetch_all(self.pool())
        .await
        .map_err(not_changed)?;
        let kept: BTreeMap<String, i64> = rows.into_iter().collect();
        let heard = |beat: &Beat| match kept.get(beat.id.as_str()) {
            None => Heard::Lost,
            Some(0) => Heard::Kept,
            Some(_) => Heard::Cancel,
        };
        Ok(beats.iter().map(heard).collect())
    }

    async fn finish(&self, ends: &[End]) -> Result<Vec<Option<JobState>>, QueueError> {
        let parts: Vec<_> = ends.iter().map(|end| end.outcome.parts()).collect();
        let rows: Vec<(String, i64, String)> = sqlx::query_as(concat!(
            "UPDATE jobs SET
               state = CASE WHEN e.state <> 'done' AND cancelling = 1 THEN 'cancelled'
                            WHEN e.state = 'waiting' AND attempt >= max_attempts THEN 'dead' ELSE e.state END,
               finished = CASE WHEN e.state IN ('done', 'dead', 'cancelled') OR cancelling = 1 OR (e.state = 'waiting' AND attempt >= max_attempts)
                               THEN ",
            now!(),
            " END, attempt = CASE WHEN e.state = 'queued' THEN attempt - 1 ELSE attempt END, result = e.result,
               error = COALESCE(e.error, CASE WHEN e.state = 'done' THEN NULL ELSE jobs.error END), due = ",
            now!(),
            " + e.after, lease = 0, worker = '', cancelling = 0, progress_done = e.done, progress_total = e.total, message = e.message
             FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::text[])
               e (id, fence, state, result, error, after, done, total, message)
             WHERE jobs.id = e.id AND jobs.fence = e.fence AND jobs.state = 'running' RETURNING jobs.id, jobs.fence, jobs.state"
        ))
        .bind(ends.iter().map(|end| end.id.as_str()).collect::<Vec<_>>())
        .bind(ends.iter().map(|end| end.fence).collect::<Vec<_>>())
        .bind(parts.iter().map(|part| part.0.as_str()).collect::<Vec<_>>())
        .bind(parts.iter().map(|part| part.1).collect::<Vec<_>>())
        .bind(parts.iter().map(|part| part.2).collect::<Vec<_>>())
        .bind(parts.iter().map(|part| part.3).collect::<Vec<_>>())
        .bind(ends.iter().map(|end| number(end.progress.done)).collect::<Vec<_>>())
        .bind(ends.iter().map(|end| number(end.progress.total)).collect::<Vec<_>>())
        .bind(ends.iter().map(|end| end.progress.message.as_str()).collect::<Vec<_>>())
        .fetch_all(self.pool())
        .await
        .map_err(not_changed)?;
        let state = |end: &End| {
            let row = rows.iter().find(|(id, fence, _)| id == end.id.as_str() && *fence == end.fence);
            row.and_then(|(_, _, state)| state.parse().ok())
        };
        Ok(ends.iter().map(state).collect())
    }

    async fn reap(&self, backoff: Backoff) -> Result<Reaped, QueueError> {
        let states: Vec<String> = sqlx::query_scalar(concat!(
            "UPDATE jobs SET
               state = CASE WHEN cancelling = 1 THEN 'cancelled' WHEN attempt >= max_attempts THEN 'dead' ELSE 'waiting' END,
               finished = CASE WHEN cancelling = 1 OR attempt >= max_attempts THEN ",
            now!(),
            " END, due = ",
            now!(),
            " + LEAST($1, $2 << LEAST(attempt - 1, 20)::int), lease = 0, worker = '', cancelling = 0,
               error = 'its worker went away during attempt ' || attempt
             WHERE id IN (SELECT id FROM jobs WHERE state = 'running' AND (lease <= ",
            now!(),
            " OR lease > ",
            now!(),
            " + $3) LIMIT $4 FOR UPDATE SKIP LOCKED) RETURNING state"
        ))
        .bind(millis(backoff.most))
        .bind(millis(backoff.base))
        .bind(millis(MAX_LEASE) + 1)
        .bind(i64::from(STEP))
        .fetch_all(self.pool())
        .await
        .map_err(not_changed)?;
        let count = |name: &str| states.iter().filter(|state| *state == name).count() as u64;
        Ok(Reaped { waiting: count("waiting"), dead: count("dead"), cancelled: count("cancelled") })
    }

    async fn schedule_put(&self, schedule: &Schedule, most: u64) -> Result<bool, QueueError> {
        let put = sqlx::query(
            "INSERT INTO schedules (tenant, name, cron, kind, payload, priority, max_attempts, due)
             SELECT $1, $2, $3, $4, $5, $6, $7, $8 WHERE (SELECT COUNT(*) FROM schedules WHERE tenant = $1 AND name <> $2) < $9
             ON CONFLICT (tenant, name) DO UPDATE SET cron = excluded.cron, kind = excluded.kind, payload = excluded.payload,
               priority = excluded.priority, max_attempts = excluded.max_attempts, due = excluded.due",
        )
        .bind(schedule.tenant.as_str())
        .bind(&schedule.name)
        .bind(&schedule.cron)
        .bind(&schedule.kind)
        .bind(schedule.payload.to_string())
        .bind(i64::from(schedule.priority))
        .bind(i64::from(schedule.max_attempts))
        .bind(number(schedule.next_ms))
        .bind(number(most))
        .execute(self.pool())
        .await
        .map_err(not_changed)?;
        Ok(put.rows_affected() > 0)
    }

    async fn schedule_delete(&self, tenant: &Tenant, name: &str) -> Result<bool, QueueError> {
        let deleted = sqlx::query("DELETE FROM schedules WHERE tenant = $1 AND name = $2")
            .bind(tenant.as_str())
            .bind(name)
            .execute(self.pool())
            .await
            .map_err(not_changed)?;
        Ok(deleted.rows_affected() > 0)
    }

    async fn schedules(&self, tenant: &Tenant) -> Result<Vec<Schedule>, QueueError> {
        let rows: Vec<ScheduleRow> = sqlx::query_as(
            "SELECT tenant, name, cron, kind, payload, priority, max_attempts, due FROM schedules WHERE tenant = $1 ORDER BY name",
        )
        .bind(tenant.as_str())
        .fetch_all(self.pool())
        .await
        .map_err(not_read)?;
        rows.into_iter().map(schedule).collect()
    }

    async fn schedules_due(&self, most: u32) -> Result<Vec<Schedule>, QueueError> {
        let rows: Vec<ScheduleRow> = sqlx::query_as(concat!(
            "SELECT tenant, name, cron, kind, payload, priority, max_attempts, due FROM schedules WHERE due <= ",
            now!(),
            " ORDER BY due LIMIT $1"
        ))
        .bind(i64::from(most))
        .fetch_all(self.pool())
        .await
        .map_err(not_read)?;
        rows.into_iter().map(schedule).collect()
    }

    async fn fire(&self, schedule: &Schedule, next_ms: i64, row: &NewRow) -> Result<bool, QueueError> {
        let mut step = self.pool().begin().await.map_err(not_changed)?;
        let moved = sqlx::query("UPDATE schedules SET due = $1 WHERE tenant = $2 AND name = $3 AND due = $4")
            .bind(next_ms)
            .bind(schedule.tenant.as_str())
            .bind(&schedule.name)
            .bind(number(schedule.next_ms))
            .execute(&mut *step)
            .await
            .map_err(not_changed)?;
        let fired = moved.rows_affected() > 0 && !insert(&mut step, &[row]).await.map_err(not_changed)?.is_empty();
        step.commit().await.map_err(not_changed)?;
        Ok(fired)
    }
}
