//! A place for jobs, of its own for each test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use auralink_infrastructure::queue::{
    Handler, Job, JobContext, JobError, JobId, JobState, NewJob, Queue, QueueConfig, QueueEngine, Worker, WorkerConfig,
};
use auralink_infrastructure::secret::Secret;
use auralink_infrastructure::state::{State, StateConfig};
use auralink_infrastructure::tenant::Tenant;
use serde_json::{Value, json};

use crate::{postgres, redis};

/// How long something may take before a test gives up: long, since machines of all kinds run this.
pub const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
    Redis,
}

pub struct Place {
    pub kind: Kind,
    pub folder: tempfile::TempDir,
    pub state: StateConfig,
    pub engine: QueueEngine,
    /// SQLite is one process's; its servers share this.
    shared: Option<State>,
}

impl Place {
    pub async fn new(kind: Kind) -> Self {
        let mut place = Self::closed(kind);
        if kind != Kind::Postgres {
            place.shared = Some(State::open(&place.state).await.unwrap());
        }
        place
    }

    /// One that no server has open.
    pub fn closed(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = match kind {
            Kind::Postgres => StateConfig::Postgres { url: Secret::new(postgres::shared().database()), connections: 4 },
            _ => StateConfig::Sqlite { folder: folder.path().join("state") },
        };
        let engine = match kind {
            Kind::Redis => redis_engine(&redis::shared().url(), &format!("test-{}", uuid::Uuid::new_v4())),
            _ => QueueEngine::State,
        };
        Self { kind, folder, state, engine, shared: None }
    }

    pub async fn server_with(&self, config: QueueConfig) -> Queue {
        let state = match &self.shared {
            Some(state) => state.clone(),
            None => State::open(&self.state).await.unwrap(),
        };
        Queue::open(QueueConfig { engine: self.engine.clone(), ..config }, &state).await.unwrap()
    }

    pub async fn server(&self) -> Queue {
        self.server_with(QueueConfig::default()).await
    }

    /// Opens the state after another process had it.
    pub async fn open(&mut self) -> Queue {
        if self.kind != Kind::Postgres {
            self.shared = Some(State::open(&self.state).await.unwrap());
        }
        self.server().await
    }

    /// Gives it back to other processes.
    pub async fn close(&mut self) {
        if let Some(state) = self.shared.take() {
            state.close().await;
        }
    }

    pub fn sqlite_folder(&self) -> PathBuf {
        self.folder.path().join("state")
    }
}

pub fn redis_engine(url: &str, prefix: &str) -> QueueEngine {
    QueueEngine::Redis { url: Secret::new(url), loss_accepted: false, prefix: prefix.to_owned() }
}

pub fn tenant() -> Tenant {
    "ana".parse().unwrap()
}

pub fn job(kind: &str, payload: Value) -> NewJob {
    NewJob::new(kind, tenant(), payload)
}

/// Quick enough for tests, with leases that a busy machine keeps.
pub fn quick() -> WorkerConfig {
    WorkerConfig {
        concurrency: 4,
        lease: Duration::from_secs(3),
        beat: Duration::from_millis(100),
        poll: Duration::from_millis(50),
        house: Duration::from_millis(50),
        backoff: Duration::from_millis(20),
        backoff_most: Duration::from_millis(200),
        cancel_grace: Duration::from_secs(1),
    }
}

pub type Handlers = BTreeMap<String, Arc<dyn Handler>>;

/// Doubles numbers.
pub fn doubling() -> Handlers {
    handler("double", |job: JobContext| async move {
        let number: i64 = job.payload()?;
        Ok(json!(number * 2))
    })
}

pub fn handler<F, R>(kind: &str, run: F) -> Handlers
where
    F: Fn(JobContext) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Value, JobError>> + Send + 'static,
{
    BTreeMap::from([(kind.to_owned(), Arc::new(run) as Arc<dyn Handler>)])
}

pub fn work(queue: &Queue, handlers: Handlers) -> Worker {
    Worker::start(queue, quick(), handlers).unwrap()
}

/// Waits until the job is in the state.
pub async fn reaches(queue: &Queue, id: &JobId, state: JobState) -> Job {
    until(&format!("{id} is {state}"), async || {
        let job = queue.get(&tenant(), id).await.ok()?;
        assert!(job.state == state || !job.state.is_final(), "{id} is {:?}, not {state}: {job:?}", job.state);
        (job.state == state).then_some(job)
    })
    .await
}

/// Waits until there is an answer.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = look().await {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
