//! The queue in Redis, for any number of servers and workers: one script, each of whose steps is atomic.
//!
//! Rule: a Redis that may lose what it has accepted is refused, unless the loss is accepted in words.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind};

use super::QueueError;
use super::job::{Job, JobFilter, JobId, JobState};
use super::row::JobRow;
use super::schedule::Schedule;
use super::store::{
    Accepted, Backoff, Beat, Claim, Claimed, End, Heard, MAX_LEASE, NewRow, Reaped, STEP, Stats, Store, max_delay_ms, millis, other_kind,
};
use crate::secret::Secret;
use crate::tenant::Tenant;

/// How long an answer may take: `appendfsync always` waits for the disk.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

const STEPS: &str = include_str!("redis/steps.lua");

/// A job's fields and their texts.
type Fields = HashMap<String, String>;

/// The queue's keys of a Redis.
pub struct RedisStore {
    connection: ConnectionManager,
    script: Script,
    prefix: String,
}

fn failed(error: &RedisError) -> QueueError {
    let text = error.to_string();
    if text.contains("OOM ") || text.contains("MISCONF") {
        return QueueError::Full(format!("Redis takes no more ({text}): make room; nothing was changed"));
    }
    QueueError::Engine(format!("Redis failed or cannot be reached: {text}"))
}

impl RedisStore {
    /// Connects, and looks whether what Redis accepts is on disk.
    pub async fn open(url: &Secret, loss_accepted: bool, prefix: &str) -> Result<Self, QueueError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(plain) {
            return Err(QueueError::Invalid(format!(
                "{prefix:?} cannot begin Redis keys: 1 to 64 of letters, digits, '-', '_' and '.' are taken"
            )));
        }
        // The library's own words could hold the password.
        let client = redis::Client::open(url.reveal())
            .map_err(|_| QueueError::Invalid("the queue's Redis URL is not of the form redis://user:password@host:port/number".into()))?;
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(ANSWER))
            .set_connection_timeout(Some(CONNECT))
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_secs(2));
        let mut connection = ConnectionManager::new_with_config(client, config).await.map_err(|error| failed(&error))?;
        if loss_accepted {
            tracing::warn!("the queue's Redis may lose jobs that were accepted: the configuration accepts it");
        } else {
            durable(&mut connection).await?;
        }
        Ok(Self { connection, script: Script::new(STEPS), prefix: format!("{{{prefix}}}:") })
    }

    /// A step and what it takes.
    async fn step<T: FromRedisValue>(&self, step: &str, arguments: &[&str]) -> Result<T, QueueError> {
        let mut call = self.script.prepare_invoke();
        call.key(&self.prefix).arg(step);
        for argument in arguments {
            call.arg(*argument);
        }
        let mut connection = self.connection.clone();
        call.invoke_async(&mut connection).await.map_err(|error| failed(&error))
    }

    async fn jobs(&self, step: &str, arguments: &[&str]) -> Result<Vec<JobRow>, QueueError> {
        let rows: Vec<Fields> = self.step(step, arguments).await?;
        rows.iter().map(|fields| JobRow::of(|name| fields.get(name).cloned())).collect()
    }

    async fn schedule_rows(&self, step: &str, arguments: &[&str]) -> Result<Vec<Schedule>, QueueError> {
        let rows: Vec<(String, String)> = self.step(step, arguments).await?;
        let schedule = |(text, due): (String, String)| {
            let wrong = |why: String| QueueError::Engine(format!("a schedule in Redis is damaged: {why}"));
            let mut schedule: Schedule = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
            schedule.next_ms = due.parse().map_err(|_| wrong(format!("its time is {due}")))?;
            Ok(schedule)
        };
        rows.into_iter().map(schedule).collect()
    }
}

/// Whether what Redis has accepted is on its disk.
async fn durable(connection: &mut ConnectionManager) -> Result<(), QueueError> {
    let told: Result<HashMap<String, String>, _> =
        redis::cmd("CONFIG").arg("GET").arg("appendonly").arg("appendfsync").arg("maxmemory-policy").query_async(connection).await;
    let accept = "or accept the loss of jobs (`queue.redis.loss: accepted`)";
    let told = match told {
        Ok(told) => told,
        Err(error)
            if matches!(error.kind(), ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::ResponseError))
                || error.code().is_some() =>
        {
            return Err(QueueError::NotDurable(format!(
                "Redis does not tell whether it keeps what it accepts ({error}): allow CONFIG GET, {accept}"
            )));
        }
        Err(error) => return Err(failed(&error)),
    };
    for (setting, wanted) in [("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction")] {
        let is = told.get(setting).map_or("unknown", String::as_str);
        if is != wanted {
            return Err(QueueError::NotDurable(format!(
                "Redis can lose jobs that it accepted: its `{setting}` is `{is}`. Set it to `{wanted}`, {accept}"
            )));
        }
    }
    Ok(())
}

/// A new job as the script takes it.
fn new_job(row: &NewRow) -> [String; 9] {
    let job = &row.job;
    [
        row.id.to_string(),
        job.tenant.to_string(),
        job.kind.clone(),
        row.state().to_string(),
        row.payload.clone(),
        job.priority.to_string(),
        job.max_attempts.to_string(),
        millis(job.delay).to_string(),
        job.idempotency_key.clone().unwrap_or_default(),
    ]
}

fn borrowed(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[async_trait]
impl Store for RedisStore {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn now(&self) -> Result<i64, QueueError> {
        self.step("now", &[]).await
    }

    async fn enqueue(&self, rows: &[NewRow]) -> Result<Vec<Accepted>, QueueError> {
        let arguments: Vec<String> = std::iter::once(rows.len().to_string()).chain(rows.iter().flat_map(new_job)).collect();
        let answer: redis::Value = self.step("enqueue", &borrowed(&arguments)).await?;
        if let Ok((word, at, kind)) = <(String, usize, String)>::from_redis_value(answer.clone())
            && word == "other"
            && let Some(row) = rows.get(at)
        {
            return Err(other_kind(row, &kind));
        }
        let damaged = |error| QueueError::Engine(format!("Redis answered with something else: {error}"));
        let accepted = Vec::<(String, u8)>::from_redis_value(answer).map_err(damaged)?;
        accepted.into_iter().map(|(id, new)| Ok(Accepted { id: id.parse()?, new: new == 1 })).collect()
    }

    async fn pending(&self, tenant: &Tenant, _most: u64) -> Result<u64, QueueError> {
        self.step("pending", &[tenant.as_str()]).await
    }

    async fn get(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>, QueueError> {
        self.jobs("get", &[tenant.as_str(), id.as_str()]).await?.pop().map(JobRow::job).transpose()
    }

    async fn list(&self, tenant: &Tenant, filter: &JobFilter) -> Result<Vec<Job>, QueueError> {
        let states: Vec<&str> =
            JobState::ALL.into_iter().filter(|state| filter.state.is_none_or(|only| only == *state)).map(JobState::as_str).collect();
        let (limit, count) = (filter.limit.to_string(), states.len().to_string());
        let before = filter.before.as_ref().map_or("", JobId::as_str);
        let mut arguments = vec![tenant.as_str(), filter.kind.as_deref().unwrap_or(""), before, &limit, &count];
        arguments.extend(states);
        self.jobs("list", &arguments).await?.into_iter().map(JobRow::job).collect()
    }

    async fn cancel(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>, QueueError> {
        self.jobs("cancel", &[tenant.as_str(), id.as_str()]).await?.pop().map(JobRow::job).transpose()
    }

    async fn retry(&self, tenant: &Tenant, id: &JobId) -> Result<Option<Job>, QueueError> {
        self.jobs("retry", &[tenant.as_str(), id.as_str()]).await?.pop().map(JobRow::job).transpose()
    }

    async fn purge(&self, tenant: Option<&Tenant>, state: JobState, older_ms: i64, most: u32) -> Result<u64, QueueError> {
        let tenant = tenant.map_or("", Tenant::as_str);
        self.step("purge", &[tenant, state.as_str(), &older_ms.to_string(), &most.to_string()]).await
    }

    async fn trim(&self, state: JobState, keep: u64, most: u32) -> Result<u64, QueueError> {
        self.step("trim", &[state.as_str(), &keep.to_string(), &most.to_string()]).await
    }

    async fn stats(&self, tenant: &Tenant) -> Result<Stats, QueueError> {
        let counts: Vec<(String, u64)> = self.step("stats", &[tenant.as_str()]).await?;
        Ok(Stats::of(&counts.into_iter().collect::<BTreeMap<_, _>>()))
    }

    async fn claim(&self, claim: &Claim) -> Result<Vec<Claimed>, QueueError> {
        let numbers =
            [millis(claim.lease.min(MAX_LEASE)), i64::from(claim.most), max_delay_ms(), i64::from(STEP), claim.kinds.len() as i64];
        let numbers = numbers.map(|number| number.to_string());
        let mut arguments = vec![claim.worker.as_str()];
        arguments.extend(numbers.iter().map(String::as_str));
        arguments.extend(claim.kinds.iter().map(String::as_str));
        self.jobs("claim", &arguments).await?.into_iter().map(JobRow::claimed).collect()
    }

    async fn beat(&self, beats: &[Beat], lease: Duration) -> Result<Vec<Heard>, QueueError> {
        let mut arguments = vec![millis(lease.min(MAX_LEASE)).to_string(), beats.len().to_string()];
        for Beat { id, fence, progress } in beats {
            arguments.extend([
                id.to_string(),
                fence.to_string(),
                progress.done.to_string(),
                progress.total.to_string(),
                progress.message.clone(),
            ]);
        }
        let heard: Vec<u8> = self.step("beat", &borrowed(&arguments)).await?;
        let meaning = |answer| match answer {
            1 => Heard::Kept,
            2 => Heard::Cancel,
            _ => Heard::Lost,
        };
        Ok(heard.into_iter().map(meaning).collect())
    }

    async fn finish(&self, ends: &[End]) -> Result<Vec<Option<JobState>>, QueueError> {
        let mut arguments = vec![ends.len().to_string()];
        for End { id, fence, progress, outcome } in ends {
            let (state, result, error, after) = outcome.parts();
            arguments.extend([
                id.to_string(),
                fence.to_string(),
                state.to_string(),
                result.unwrap_or("").to_owned(),
                error.unwrap_or("").to_owned(),
            ]);
            arguments.extend([after.to_string(), progress.done.to_string(), progress.total.to_string(), progress.message.clone()]);
        }
        let states: Vec<String> = self.step("finish", &borrowed(&arguments)).await?;
        Ok(states.iter().map(|state| state.parse().ok()).collect())
    }

    async fn reap(&self, backoff: Backoff) -> Result<Reaped, QueueError> {
        let numbers = [millis(backoff.base), millis(backoff.most), millis(MAX_LEASE) + 1, i64::from(STEP)].map(|number| number.to_string());
        let (waiting, dead, cancelled) = self.step("reap", &borrowed(&numbers)).await?;
        Ok(Reaped { waiting, dead, cancelled })
    }

    async fn schedule_put(&self, schedule: &Schedule, most: u64) -> Result<bool, QueueError> {
        let text = serde_json::to_string(schedule).map_err(|error| QueueError::Invalid(error.to_string()))?;
        let put: u8 = self
            .step("schedule_put", &[schedule.tenant.as_str(), &schedule.name, &schedule.next_ms.to_string(), &text, &most.to_string()])
            .await?;
        Ok(put == 1)
    }

    async fn schedule_delete(&self, tenant: &Tenant, name: &str) -> Result<bool, QueueError> {
        let deleted: u8 = self.step("schedule_delete", &[tenant.as_str(), name]).await?;
        Ok(deleted == 1)
    }

    async fn schedules(&self, tenant: &Tenant) -> Result<Vec<Schedule>, QueueError> {
        let mut schedules = self.schedule_rows("schedules", &[tenant.as_str()]).await?;
        schedules.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(schedules)
    }

    async fn schedules_due(&self, most: u32) -> Result<Vec<Schedule>, QueueError> {
        self.schedule_rows("schedules_due", &[&most.to_string()]).await
    }

    async fn fire(&self, schedule: &Schedule, next_ms: i64, row: &NewRow) -> Result<bool, QueueError> {
        let mut arguments = vec![format!("{}/{}", schedule.tenant, schedule.name), schedule.next_ms.to_string(), next_ms.to_string()];
        arguments.extend(new_job(row));
        let fired: u8 = self.step("fire", &borrowed(&arguments)).await?;
        Ok(fired == 1)
    }
}
