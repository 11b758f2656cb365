//! What a job is, as its owner sees it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::QueueError;
use crate::tenant::Tenant;

/// Largest payload or result, bytes of JSON. Larger things are files, and the payload says where.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;

/// Longest message of progress and longest error that are kept, bytes; longer ones are cut.
pub const MAX_MESSAGE_BYTES: usize = 2_048;

/// Longest kind, bytes.
pub const MAX_KIND_BYTES: usize = 64;

/// Longest idempotency key, bytes.
pub const MAX_IDEMPOTENCY_BYTES: usize = 200;

/// Most attempts that may be asked for.
pub const MAX_ATTEMPTS: u32 = 100;

/// Longest delay. Also what tells a time that a clock which went back has left behind from a true one.
pub const MAX_DELAY: Duration = Duration::from_secs(366 * 24 * 3_600);

/// The name of a job: a UUID of version 7, so that names are in the order of their making.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(String);

impl JobId {
    /// A new one.
    pub(crate) fn new() -> Self {
        Self(uuid::Uuid::now_v7().hyphenated().to_string())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for JobId {
    type Err = QueueError;

    fn from_str(text: &str) -> Result<Self, QueueError> {
        let wrong = |_| QueueError::Invalid(format!("{:?} does not name a job", text.chars().take(64).collect::<String>()));
        uuid::Uuid::parse_str(text).map(|id| Self(id.hyphenated().to_string())).map_err(wrong)
    }
}

impl TryFrom<String> for JobId {
    type Error = QueueError;

    fn try_from(text: String) -> Result<Self, QueueError> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// Which handler does it: 1 to 64 of `a-z`, `0-9`, `.`, `-` and `_`.
    pub kind: String,
    /// Whose it is.
    pub tenant: Tenant,
    /// What the handler is told.
    pub payload: Value,
    /// A second job of the tenant with the same key is the first one.
    pub idempotency_key: Option<String>,
    /// -100 to 100; higher ones run first.
    pub priority: i32,
    /// Not before this.
    pub delay: Duration,
    /// 1 to 100: how often it is begun at most, whatever ends it.
    pub max_attempts: u32,
}

impl NewJob {
    /// A job with the usual settings: at once, three attempts.
    pub fn new(kind: impl Into<String>, tenant: Tenant, payload: Value) -> Self {
        Self { kind: kind.into(), tenant, payload, idempotency_key: None, priority: 0, delay: Duration::ZERO, max_attempts: 3 }
    }

    /// Its payload's text, if everything is within the limits.
    pub(crate) fn checked(&self) -> Result<String, QueueError> {
        check_kind(&self.kind)?;
        check_settings(self.priority, self.max_attempts)?;
        let wrong = |what: String| Err(QueueError::Invalid(what));
        if self.delay > MAX_DELAY {
            return wrong(format!("the delay is {} s: at most {} are taken", self.delay.as_secs(), MAX_DELAY.as_secs()));
        }
        if let Some(key) = &self.idempotency_key
            && (key.is_empty() || key.len() > MAX_IDEMPOTENCY_BYTES || key.chars().any(char::is_control))
        {
            return wrong(format!("the idempotency key is not 1 to {MAX_IDEMPOTENCY_BYTES} bytes without control characters"));
        }
        payload_text(&self.payload)
    }
}

/// The text of a payload that is not too large.
pub(crate) fn payload_text(payload: &Value) -> Result<String, QueueError> {
    let text = payload.to_string();
    if text.len() > MAX_PAYLOAD_BYTES {
        return Err(QueueError::Invalid(format!("the payload has {} bytes: at most {MAX_PAYLOAD_BYTES} are taken", text.len())));
    }
    Ok(text)
}

pub(crate) fn check_settings(priority: i32, max_attempts: u32) -> Result<(), QueueError> {
    if !(-100..=100).contains(&priority) {
        return Err(QueueError::Invalid(format!("the priority is {priority}: -100 to 100 are taken")));
    }
    if !(1..=MAX_ATTEMPTS).contains(&max_attempts) {
        return Err(QueueError::Invalid(format!("{max_attempts} attempts: 1 to {MAX_ATTEMPTS} are taken")));
    }
    Ok(())
}

pub(crate) fn check_kind(kind: &str) -> Result<(), QueueError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if (1..=MAX_KIND_BYTES).contains(&kind.len()) && kind.bytes().all(plain) {
        return Ok(());
    }
    let shown: String = kind.chars().take(64).collect();
    Err(QueueError::Invalid(format!("{shown:?} is no kind of job: 1 to {MAX_KIND_BYTES} of a-z, 0-9, '.', '-' and '_' are taken")))
}

/// Where a job is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Runs as soon as a worker is free.
    Queued,
    /// A worker has it.
    Running,
    /// Runs later: it was asked to, or its last attempt failed.
    Waiting,
    /// Done; its result is there.
    Done,
    /// Given up: its error says why. It can be retried.
    Dead,
    /// Ended by its owner.
    Cancelled,
}

impl JobState {
    /// Every one.
    pub const ALL: [Self; 6] = [Self::Queued, Self::Running, Self::Waiting, Self::Done, Self::Dead, Self::Cancelled];

    /// As the engines keep it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens to it by itself.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Dead | Self::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = QueueError;

    fn from_str(text: &str) -> Result<Self, QueueError> {
        let wrong = || QueueError::Invalid(format!("{:?} is no state of a job: queued, running, waiting, done, dead, cancelled", text));
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(wrong)
    }
}

/// How far a job is, in units of its handler's choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all; 0 when nobody knows.
    pub total: u64,
    /// What it is at.
    pub message: String,
}

/// A job. Times are milliseconds since 1970 by the engine's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Which handler does it.
    pub kind: String,
    /// Where it is.
    pub state: JobState,
    /// What the handler is told.
    pub payload: Value,
    /// -100 to 100.
    pub priority: i32,
    /// How often it was begun since it was enqueued or retried.
    pub attempt: u32,
    /// How often it may be.
    pub max_attempts: u32,
    /// How far it is.
    pub progress: Progress,
    /// Of a job that is done.
    pub result: Option<Value>,
    /// Of the last attempt that failed.
    pub error: Option<String>,
    /// Its owner wants it ended; its worker was not heard yet.
    pub cancelling: bool,
    /// When it was accepted.
    pub created_ms: u64,
    /// When its last attempt began.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub finished_ms: Option<u64>,
    /// When a waiting one runs.
    pub due_ms: Option<u64>,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only in this state.
    pub state: Option<JobState>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only older ones than this: the last one of the page before.
    pub before: Option<JobId>,
    /// At most so many, 1 to 1,000; 0: 100.
    pub limit: u32,
}

/// A text cut to what is kept, at a character's end.
pub(crate) fn cut(text: &str) -> String {
    if text.len() <= MAX_MESSAGE_BYTES {
        // NUL cannot be kept in PostgreSQL.
        return text.replace('\0', "");
    }
    let mut end = MAX_MESSAGE_BYTES - '…'.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end]).replace('\0', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_the_limits_is_refused_with_its_value() {
        let good = NewJob::new("files.import", Tenant::default(), Value::Null);
        assert!(good.checked().is_ok());
        let kind = NewJob { kind: "Files/../x".into(), ..good.clone() };
        assert!(kind.checked().unwrap_err().to_string().contains("Files/../x"));
        let large = NewJob { payload: Value::String("x".repeat(MAX_PAYLOAD_BYTES)), ..good.clone() };
        assert!(large.checked().unwrap_err().to_string().contains("262146"));
        for bad in [
            NewJob { priority: 101, ..good.clone() },
            NewJob { max_attempts: 0, ..good.clone() },
            NewJob { max_attempts: 101, ..good.clone() },
            NewJob { delay: MAX_DELAY + Duration::from_secs(1), ..good.clone() },
            NewJob { idempotency_key: Some(String::new()), ..good.clone() },
            NewJob { idempotency_key: Some("x".repeat(201)), ..good },
        ] {
            assert!(matches!(bad.checked(), Err(QueueError::Invalid(_))), "{bad:?}");
        }
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        assert_eq!(cut("a\0b"), "ab");
        let cut = cut(&"é".repeat(2_000));
        assert!(cut.len() <= MAX_MESSAGE_BYTES && cut.ends_with('…'));
    }
}
