//! Jobs that come again by the clock: a cron pattern in UTC, read by croner.
//!
//! A schedule is moved on and its job is enqueued in one step, so that any number of servers makes one job for each time. Times that passed
//! while no server ran are one job.

use chrono::{DateTime, Utc};
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::job::{check_kind, check_settings, payload_text};
use super::store::NewRow;
use super::{NewJob, Queue, QueueError};
use crate::tenant::Tenant;

/// Longest name of a schedule, bytes.
const MAX_NAME_BYTES: usize = 128;

/// Longest pattern, bytes.
const MAX_CRON_BYTES: usize = 256;

/// Schedules that one pass of the house looks at.
const DUE: u32 = 200;

/// What to do again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSchedule {
    /// Its name; one of the tenant's with the same name is replaced.
    pub name: String,
    /// Whose it is.
    pub tenant: Tenant,
    /// Five fields (minute, hour, day, month, weekday), or six with seconds first; `@hourly` and such. UTC.
    pub cron: String,
    /// As of a [`NewJob`].
    pub kind: String,
    /// As of a [`NewJob`].
    pub payload: Value,
    /// As of a [`NewJob`].
    pub priority: i32,
    /// As of a [`NewJob`].
    pub max_attempts: u32,
}

/// A schedule as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub tenant: Tenant,
    /// When.
    pub cron: String,
    /// What.
    pub kind: String,
    /// With what.
    pub payload: Value,
    /// Of its jobs.
    pub priority: i32,
    /// Of its jobs.
    pub max_attempts: u32,
    /// Its next time, milliseconds since 1970 by the engine's clock.
    pub next_ms: u64,
}

fn parse(cron: &str) -> Result<Cron, QueueError> {
    let shown: String = cron.chars().take(64).collect();
    let wrong = |why: String| QueueError::Invalid(format!("the cron pattern {shown:?} is not right: {why}"));
    if cron.len() > MAX_CRON_BYTES {
        return Err(wrong(format!("it has {} bytes, at most {MAX_CRON_BYTES} are read", cron.len())));
    }
    CronParser::builder().seconds(Seconds::Optional).build().parse(cron).map_err(|error| wrong(error.to_string()))
}

/// The pattern's first time after `after_ms`.
fn next(cron: &str, after_ms: i64) -> Result<i64, QueueError> {
    // Whole seconds: croner would carry the rest along.
    let after = DateTime::<Utc>::from_timestamp(after_ms.div_euclid(1_000), 0)
        .ok_or_else(|| QueueError::Engine(format!("the engine's clock says {after_ms} ms, which is no time")))?;
    let next = parse(cron)?
        .find_next_occurrence(&after, false)
        .map_err(|error| QueueError::Invalid(format!("the cron pattern {cron:?} has no next time: {error}")))?;
    Ok(next.timestamp_millis())
}

impl Queue {
    /// Writes a schedule; answers it with its next time.
    pub async fn schedule_put(&self, new: NewSchedule) -> Result<Schedule, QueueError> {
        if new.name.is_empty() || new.name.len() > MAX_NAME_BYTES || new.name.chars().any(char::is_control) {
            return Err(QueueError::Invalid(format!("a schedule's name is 1 to {MAX_NAME_BYTES} bytes without control characters")));
        }
        check_kind(&new.kind)?;
        check_settings(new.priority, new.max_attempts)?;
        payload_text(&new.payload)?;
        let next_ms = next(&new.cron, self.shared.store.now().await?)?;
        let NewSchedule { name, tenant, cron, kind, payload, priority, max_attempts } = new;
        let schedule =
            Schedule { name, tenant, cron, kind, payload, priority, max_attempts, next_ms: u64::try_from(next_ms).unwrap_or_default() };
        let most = self.shared.config.max_schedules;
        if !self.shared.store.schedule_put(&schedule, most).await? {
            return Err(QueueError::Full(format!("the tenant {} has {most} schedules: delete one first", schedule.tenant)));
        }
        Ok(schedule)
    }

    /// The tenant's schedules, by name.
    pub async fn schedule_list(&self, tenant: &Tenant) -> Result<Vec<Schedule>, QueueError> {
        self.shared.store.schedules(tenant).await
    }

    /// Deletes a schedule; its jobs stay.
    pub async fn schedule_delete(&self, tenant: &Tenant, name: &str) -> Result<(), QueueError> {
        if self.shared.store.schedule_delete(tenant, name).await? {
            return Ok(());
        }
        Err(QueueError::NotFound(format!(
            "the tenant {tenant} has no schedule {:?}",
            name.chars().take(MAX_NAME_BYTES).collect::<String>()
        )))
    }

    /// Enqueues the jobs of schedules whose time has come; how many this server did.
    pub(super) async fn fire_schedules(&self) -> Result<u64, QueueError> {
        let due = self.shared.store.schedules_due(DUE).await?;
        if due.is_empty() {
            return Ok(0);
        }
        let now = self.shared.store.now().await?;
        let mut fired = 0;
        for schedule in due {
            let next_ms = next(&schedule.cron, now)?;
            let job = NewJob {
                idempotency_key: Some(format!("schedule/{}/{}", schedule.name, schedule.next_ms)),
                priority: schedule.priority,
                max_attempts: schedule.max_attempts,
                ..NewJob::new(schedule.kind.clone(), schedule.tenant.clone(), schedule.payload.clone())
            };
            if self.shared.store.fire(&schedule, next_ms, &NewRow::new(job)?).await? {
                fired += 1;
            }
        }
        metrics::counter!("auralink_schedules_fired_total").increment(fired);
        self.shared.ready.notify_waiters();
        Ok(fired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_in_utc_with_or_without_seconds() {
        let midnight = 1_764_547_200_000; // 2025-12-01T00:00:00Z
        assert_eq!(next("*/5 * * * *", midnight).unwrap(), midnight + 300_000);
        assert_eq!(next("*/2 * * * * *", midnight + 1).unwrap(), midnight + 2_000);
        assert_eq!(next("@daily", midnight - 114).unwrap(), midnight);
        assert_eq!(next("@daily", midnight).unwrap(), midnight + 86_400_000);
        for bad in ["", "61 * * * *", "x", &"* ".repeat(200)] {
            assert!(matches!(next(bad, midnight), Err(QueueError::Invalid(_))), "{bad}");
        }
        // Never: the 30th of February.
        assert!(matches!(next("0 0 30 2 *", midnight), Err(QueueError::Invalid(_))));
    }
}
