//! A job as the SQL engines keep it.

use sqlx::{ColumnIndex, Database, Decode, FromRow, Row, Type};

use super::QueueError;
use super::job::{Job, JobState, Progress};
use super::schedule::Schedule;
use super::store::Claimed;

/// The columns of a [`JobRow`].
macro_rules! columns {
    () => {
        "id, tenant, kind, state, payload, priority, attempt, max_attempts, fence, due, cancelling, progress_done, progress_total, message, \
         result, error, created, started, finished"
    };
}
pub(crate) use columns;

/// A row.
pub struct JobRow {
    id: String,
    tenant: String,
    kind: String,
    state: String,
    payload: String,
    priority: i64,
    attempt: i64,
    max_attempts: i64,
    fence: i64,
    due: i64,
    cancelling: i64,
    progress_done: i64,
    progress_total: i64,
    message: String,
    result: Option<String>,
    error: Option<String>,
    created: i64,
    started: Option<i64>,
    finished: Option<i64>,
}

impl<'r, D, R> FromRow<'r, R> for JobRow
where
    D: Database,
    R: Row<Database = D>,
    &'static str: ColumnIndex<R>,
    String: Decode<'r, D> + Type<D>,
    i64: Decode<'r, D> + Type<D>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            tenant: row.try_get("tenant")?,
            kind: row.try_get("kind")?,
            state: row.try_get("state")?,
            payload: row.try_get("payload")?,
            priority: row.try_get("priority")?,
            attempt: row.try_get("attempt")?,
            max_attempts: row.try_get("max_attempts")?,
            fence: row.try_get("fence")?,
            due: row.try_get("due")?,
            cancelling: row.try_get("cancelling")?,
            progress_done: row.try_get("progress_done")?,
            progress_total: row.try_get("progress_total")?,
            message: row.try_get("message")?,
            result: row.try_get("result")?,
            error: row.try_get("error")?,
            created: row.try_get("created")?,
            started: row.try_get("started")?,
            finished: row.try_get("finished")?,
        })
    }
}

fn unsigned<T: TryFrom<i64> + Default>(number: i64) -> T {
    T::try_from(number.max(0)).unwrap_or_default()
}

impl JobRow {
    /// Out of fields of text, as Redis keeps them.
    pub fn of(field: impl Fn(&str) -> Option<String>) -> Result<Self, QueueError> {
        let id = field("id").unwrap_or_default();
        let wrong = |name: &str| QueueError::Engine(format!("the job {id} in Redis is damaged: its {name}"));
        let text = |name: &str| field(name).ok_or_else(|| wrong(name));
        let number = |name: &str| text(name)?.parse::<i64>().map_err(|_| wrong(name));
        let maybe = |name: &str| field(name).map(|text| text.parse::<i64>().map_err(|_| wrong(name))).transpose();
        Ok(Self {
            tenant: text("tenant")?,
            kind: text("kind")?,
            state: text("state")?,
            payload: text("payload")?,
            priority: number("priority")?,
            attempt: number("attempt")?,
            max_attempts: number("max_attempts")?,
            fence: number("fence")?,
            due: number("due")?,
            cancelling: number("cancelling")?,
            progress_done: number("progress_done")?,
            progress_total: number("progress_total")?,
            message: text("message")?,
            result: field("result"),
            error: field("error"),
            created: number("created")?,
            started: maybe("started")?,
            finished: maybe("finished")?,
            id: id.clone(),
        })
    }

    /// As its owner sees it.
    pub fn job(self) -> Result<Job, QueueError> {
        let wrong = |what: &str| QueueError::Engine(format!("the job {} in the database is damaged: {what}", self.id));
        let json = |text: &str| serde_json::from_str(text).map_err(|error| wrong(&error.to_string()));
        let state: JobState = self.state.parse()?;
        Ok(Job {
            id: self.id.parse()?,
            tenant: self.tenant.parse().map_err(|_| wrong("its tenant"))?,
            state,
            payload: json(&self.payload)?,
            priority: i32::try_from(self.priority).unwrap_or_default(),
            attempt: unsigned(self.attempt),
            max_attempts: unsigned(self.max_attempts),
            progress: Progress { done: unsigned(self.progress_done), total: unsigned(self.progress_total), message: self.message.clone() },
            result: self.result.as_deref().map(json).transpose()?,
            error: self.error.clone(),
            cancelling: self.cancelling != 0,
            created_ms: unsigned(self.created),
            started_ms: self.started.map(unsigned),
            finished_ms: self.finished.map(unsigned),
            due_ms: (state == JobState::Waiting).then(|| unsigned(self.due)),
            kind: self.kind,
        })
    }

    /// As its worker gets it.
    pub fn claimed(self) -> Result<Claimed, QueueError> {
        let fence = self.fence;
        Ok(Claimed { job: self.job()?, fence })
    }
}

/// Tenant, name, cron, kind, payload, priority, attempts, time.
pub type ScheduleRow = (String, String, String, String, String, i64, i64, i64);

/// A row of the schedules.
pub fn schedule((tenant, name, cron, kind, payload, priority, max_attempts, due): ScheduleRow) -> Result<Schedule, QueueError> {
    let wrong = |what: String| QueueError::Engine(format!("the schedule {name} in the database is damaged: {what}"));
    Ok(Schedule {
        tenant: tenant.parse().map_err(|_| wrong("its tenant".into()))?,
        payload: serde_json::from_str(&payload).map_err(|error| wrong(error.to_string()))?,
        cron,
        kind,
        priority: i32::try_from(priority).unwrap_or_default(),
        max_attempts: unsigned(max_attempts),
        next_ms: unsigned(due),
        name,
    })
}
