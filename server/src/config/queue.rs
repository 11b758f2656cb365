//! The section `queue`: where jobs are, and how many of them.

use std::time::Duration;

use auralink_infrastructure::queue::{QueueConfig, QueueEngine};
use auralink_infrastructure::secret::{SecretError, SecretSource};
use serde::Deserialize;

use super::ConfigError;

/// What is thought of losing jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// A Redis that could lose what it accepted is refused.
    #[default]
    Refused,
    /// It is taken.
    Accepted,
}

/// A Redis for the jobs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://user:password@host:port/number`, read from the environment or a file.
    pub url: SecretSource,
    /// Whether jobs may be lost.
    #[serde(default)]
    pub loss: Loss,
    /// Begins every key.
    #[serde(default = "RedisConfig::default_prefix")]
    pub prefix: String,
}

impl RedisConfig {
    fn default_prefix() -> String {
        "auralink".into()
    }
}

/// Jobs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSection {
    /// A Redis instead of the state's engine.
    pub redis: Option<RedisConfig>,
    /// Jobs that the server runs at once; 0: none, workers elsewhere do.
    pub concurrency: usize,
    /// Unfinished jobs of one tenant.
    pub max_pending: u64,
    /// Finished jobs that are kept, for each of done, dead and cancelled.
    pub max_finished: u64,
    /// How long done and cancelled jobs are kept, hours.
    pub keep_finished_hours: u64,
    /// How long dead letters are kept, hours.
    pub keep_dead_hours: u64,
    /// Schedules of one tenant.
    pub max_schedules: u64,
}

impl Default for QueueSection {
    fn default() -> Self {
        Self {
            redis: None,
            concurrency: 16,
            max_pending: 100_000,
            max_finished: 100_000,
            keep_finished_hours: 168,
            keep_dead_hours: 720,
            max_schedules: 1_000,
        }
    }
}

impl QueueSection {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let range = |key, value: u64, ok, rule| if ok { Ok(()) } else { Err(ConfigError::Range { key, value: value.to_string(), rule }) };
        range("queue.concurrency", self.concurrency as u64, self.concurrency <= 1_024, "0 to 1024")?;
        for (key, value) in [
            ("queue.max_pending", self.max_pending),
            ("queue.max_finished", self.max_finished),
            ("queue.keep_finished_hours", self.keep_finished_hours),
            ("queue.keep_dead_hours", self.keep_dead_hours),
            ("queue.max_schedules", self.max_schedules),
        ] {
            range(key, value, (1..=1_000_000).contains(&value), "1 to 1000000")?;
        }
        Ok(())
    }

    /// What the infrastructure takes; a URL is read now.
    pub fn opened_with(&self) -> Result<QueueConfig, SecretError> {
        let engine = match &self.redis {
            Some(redis) => {
                QueueEngine::Redis { url: redis.url.read()?, loss_accepted: redis.loss == Loss::Accepted, prefix: redis.prefix.clone() }
            }
            None => QueueEngine::State,
        };
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        Ok(QueueConfig {
            engine,
            max_pending: self.max_pending,
            max_finished: self.max_finished,
            keep_finished: hours(self.keep_finished_hours),
            keep_dead: hours(self.keep_dead_hours),
            max_schedules: self.max_schedules,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_url_of_a_redis_stands_in_the_environment_or_a_file_alone_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        std::fs::write(&file, "redis://:s3cret@redis.example:6379\n").unwrap();
        let config = Config::parse(&format!("queue: {{redis: {{url: {{file: {}}}}}}}", file.display()), "test").unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
        let QueueEngine::Redis { url, loss_accepted: false, prefix } = config.queue.opened_with().unwrap().engine else { panic!() };
        assert_eq!((url.reveal(), prefix.as_str()), ("redis://:s3cret@redis.example:6379", "auralink"));
        let absent = Config::parse("queue: {redis: {url: {env: AURALINK_NO_SUCH_VARIABLE}, loss: accepted}}", "test").unwrap();
        assert!(absent.queue.opened_with().unwrap_err().to_string().contains("AURALINK_NO_SUCH_VARIABLE"));
        let quoted = Config::parse("queue: {redis: {url: 'redis://:s3cret@b'}}", "test").unwrap_err().to_string();
        assert!(!quoted.contains("s3cret"), "{quoted}");
        assert!(matches!(Config::default().queue.opened_with().unwrap().engine, QueueEngine::State));
    }
}
