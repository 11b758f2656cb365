//! An engine that goes away and comes back: calls say so, nothing accepted is lost, and what was done meanwhile is told when it is back.

use std::time::Duration;

use auralink_infrastructure::queue::{JobContext, JobState, Queue, QueueConfig, QueueEngine, QueueError, Worker, WorkerConfig};
use auralink_infrastructure::secret::Secret;
use auralink_infrastructure::state::{Documents, State, StateConfig};
use serde_json::json;

use crate::place::{handler, job, quick, reaches, redis_engine, tenant};
use crate::{postgres::Postgres, redis};

/// `away` and `back` kill and start the engine.
async fn outage(queue: Queue, away: impl AsyncFnOnce(), back: impl AsyncFnOnce()) {
    // Longer than the outage: the job stays this worker's.
    let config = WorkerConfig { lease: Duration::from_secs(300), ..quick() };
    let (over, wait) = tokio::sync::watch::channel(false);
    let handlers = handler("through", move |_: JobContext| {
        let mut wait = wait.clone();
        async move {
            wait.wait_for(|over| *over).await.unwrap();
            Ok(json!("done while it was away"))
        }
    });
    let worker = Worker::start(&queue, config, handlers).unwrap();
    let running = queue.enqueue(job("through", json!(null))).await.unwrap();
    reaches(&queue, &running, JobState::Running).await;
    let waiting = queue.enqueue(job("other", json!(null))).await.unwrap();

    away().await;
    let refused = queue.enqueue(job("through", json!(null))).await;
    assert!(matches!(refused, Err(QueueError::Engine(_))), "{refused:?}");
    assert!(matches!(queue.get(&tenant(), &waiting).await, Err(QueueError::Engine(_))));
    over.send_replace(true);
    back().await;

    let done =
        crate::place::until("the end was heard", async || queue.get(&tenant(), &running).await.ok().filter(|job| job.state.is_final()))
            .await;
    assert_eq!((done.state, done.result, done.attempt), (JobState::Done, Some(json!("done while it was away")), 1));
    assert_eq!(queue.get(&tenant(), &waiting).await.unwrap().state, JobState::Queued);
    let after = queue.enqueue(job("through", json!(null))).await.unwrap();
    reaches(&queue, &after, JobState::Done).await;
    worker.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_goes_and_comes_back() {
    let server = std::sync::Mutex::new(Postgres::start());
    let url = server.lock().unwrap().database();
    let state = State::open(&StateConfig::Postgres { url: Secret::new(url), connections: 4 }).await.unwrap();
    let queue = Queue::open(QueueConfig::default(), &state).await.unwrap();
    outage(queue, async || server.lock().unwrap().kill(), async || server.lock().unwrap().start_again()).await;
    assert_eq!(state.get("c", "k").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_goes_and_comes_back() {
    let server = std::sync::Mutex::new(redis::Redis::start(redis::DURABLE));
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(&StateConfig::Sqlite { folder: folder.path().join("state") }).await.unwrap();
    let url = server.lock().unwrap().url();
    let queue = Queue::open(QueueConfig { engine: redis_engine(&url, "outage"), ..QueueConfig::default() }, &state).await.unwrap();
    outage(queue, async || server.lock().unwrap().kill(), async || server.lock().unwrap().start_again()).await;
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_said_so_without_its_password() {
    let port = crate::process::free_port();
    let url = Secret::new(format!("postgres://ana:s3cret@127.0.0.1:{port}/none"));
    let error = State::open(&StateConfig::Postgres { url, connections: 2 }).await.unwrap_err().to_string();
    assert!(error.contains("PostgreSQL cannot be reached") && !error.contains("s3cret"), "{error}");
    let wrong =
        State::open(&StateConfig::Postgres { url: Secret::new("postgres://ana:s3cret@[/"), connections: 2 }).await.unwrap_err().to_string();
    assert!(wrong.contains("postgres://user:password@host") && !wrong.contains("s3cret"), "{wrong}");

    let folder = tempfile::tempdir().unwrap();
    let state = State::open(&StateConfig::Sqlite { folder: folder.path().join("state") }).await.unwrap();
    for url in [format!("redis://:s3cret@127.0.0.1:{port}"), "redis:/s3cret@".into()] {
        let engine = QueueEngine::Redis { url: Secret::new(url), loss_accepted: false, prefix: "p".into() };
        let error = Queue::open(QueueConfig { engine, ..QueueConfig::default() }, &state).await.unwrap_err().to_string();
        assert!(error.contains("Redis") && !error.contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn a_redis_that_can_lose_jobs_is_refused_unless_the_loss_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let state = State::open(&StateConfig::Sqlite { folder: folder.path().join("state") }).await.unwrap();
    for (settings, named) in [
        ("", "appendonly"),
        ("--appendonly yes --appendfsync everysec", "appendfsync"),
        ("--appendonly yes --appendfsync always --maxmemory-policy allkeys-lru", "maxmemory-policy"),
    ] {
        let server = redis::Redis::start(settings);
        let engine = redis_engine(&server.url(), "p");
        let error = Queue::open(QueueConfig { engine: engine.clone(), ..QueueConfig::default() }, &state).await.unwrap_err();
        assert!(
            matches!(&error, QueueError::NotDurable(text) if text.contains(&format!("`{named}`")) && text.contains("queue.redis.loss")),
            "{error}"
        );
        let QueueEngine::Redis { url, prefix, .. } = engine else { unreachable!() };
        let accepted = QueueEngine::Redis { url, prefix, loss_accepted: true };
        let queue = Queue::open(QueueConfig { engine: accepted, ..QueueConfig::default() }, &state).await.unwrap();
        queue.enqueue(job("any", json!(1))).await.unwrap();
    }
}
