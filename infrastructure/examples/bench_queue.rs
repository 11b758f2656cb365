//! Jobs a second, end to end: accepted durably, run, done. On SQLite, and on PostgreSQL and Redis where their URLs are given.
//!
//!     cargo run --release -p auralink-infrastructure --example bench_queue -- [JOBS] [postgres://...] [redis://...]
//!
//! Beside it what a user would write by hand instead: a table on the same SQLite settings with three commits a job, one job after the other, and
//! none of the queue's promises.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use auralink_infrastructure::queue::{Handler, JobContext, NewJob, Queue, QueueConfig, QueueEngine, Worker, WorkerConfig};
use auralink_infrastructure::secret::Secret;
use auralink_infrastructure::state::{State, StateConfig};
use auralink_infrastructure::tenant::Tenant;
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Who enqueue at once: one caller alone, and a busy server.
const CLIENTS: [usize; 2] = [1, 64];

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut jobs = 10_000;
    let mut urls = Vec::new();
    for word in std::env::args().skip(1) {
        match word.parse() {
            Ok(number) => jobs = number,
            Err(_) => urls.push(word),
        }
    }
    println!("{:<44} {:>8} {:>10} {:>12} {:>12}", "queue", "clients", "jobs/s", "enqueue p50", "enqueue p99");
    let folder = std::env::temp_dir().join(format!("auralink-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    for clients in CLIENTS {
        let config = StateConfig::Sqlite { folder: folder.join(format!("sqlite-{clients}")) };
        measured("AuraLink on SQLite", &config, QueueEngine::State, clients, jobs).await?;
        for url in &urls {
            if url.starts_with("redis") {
                let config = StateConfig::Sqlite { folder: folder.join(format!("redis-{clients}")) };
                let prefix = format!("bench-{}-{clients}", std::process::id());
                let engine = QueueEngine::Redis { url: Secret::new(url), loss_accepted: false, prefix };
                measured("AuraLink on Redis", &config, engine, clients, jobs).await?;
            } else {
                let config = StateConfig::Postgres { url: Secret::new(url), connections: 16 };
                measured("AuraLink on PostgreSQL", &config, QueueEngine::State, clients, jobs).await?;
            }
        }
    }
    by_hand(&folder.join("by-hand"), jobs_for(1, jobs)).await?;
    // Its own files alone, one by one.
    for entry in std::fs::read_dir(&folder)? {
        let entry = entry?.path();
        for file in std::fs::read_dir(&entry)? {
            std::fs::remove_file(file?.path())?;
        }
        std::fs::remove_dir(entry)?;
    }
    std::fs::remove_dir(&folder)?;
    Ok(())
}

/// One client waits for the disk each time: fewer jobs tell as much.
fn jobs_for(clients: usize, jobs: usize) -> usize {
    if clients == 1 { jobs / 10 } else { jobs }.max(1)
}

fn row(name: &str, clients: usize, jobs: usize, elapsed: Duration, mut waits: Vec<Duration>) {
    waits.sort_unstable();
    let at = |share: f64| waits.get(((waits.len() - 1) as f64 * share) as usize).copied().unwrap_or_default().as_secs_f64() * 1e3;
    let rate = jobs as f64 / elapsed.as_secs_f64();
    println!("{name:<44} {clients:>8} {rate:>10.0} {:>9.2} ms {:>9.2} ms", at(0.5), at(0.99));
}

async fn measured(name: &str, config: &StateConfig, engine: QueueEngine, clients: usize, jobs: usize) -> Result<(), Failure> {
    let state = State::open(config).await?;
    let queue = Queue::open(QueueConfig { engine, max_pending: 1_000_000, ..QueueConfig::default() }, &state).await?;
    run(name, &queue, clients, jobs_for(clients, jobs)).await?;
    state.close().await;
    Ok(())
}

/// From the first enqueue to the last done, with a worker at work all the while.
async fn run(name: &str, queue: &Queue, clients: usize, jobs: usize) -> Result<(), Failure> {
    let tenant: Tenant = format!("bench-{clients}").parse()?;
    let handler = |job: JobContext| async move { Ok(job.job().payload.clone()) };
    let handlers = BTreeMap::from([("bench".to_owned(), Arc::new(handler) as Arc<dyn Handler>)]);
    let before = queue.stats(&tenant).await?.done;
    let worker = Worker::start(queue, WorkerConfig { concurrency: 128, ..WorkerConfig::default() }, handlers)?;
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let (queue, tenant) = (queue.clone(), tenant.clone());
        let share = jobs / clients + usize::from(client < jobs % clients);
        tasks.spawn(async move {
            let mut waits = Vec::with_capacity(share);
            for number in 0..share {
                let begun = Instant::now();
                queue.enqueue(NewJob::new("bench", tenant.clone(), json!({ "client": client, "number": number }))).await?;
                waits.push(begun.elapsed());
            }
            Ok::<_, Failure>(waits)
        });
    }
    let mut waits = Vec::with_capacity(jobs);
    while let Some(done) = tasks.join_next().await {
        waits.extend(done??);
    }
    while queue.stats(&tenant).await?.done < before + jobs as u64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    row(name, clients, jobs, start.elapsed(), waits);
    worker.stop(Duration::from_secs(10)).await;
    Ok(())
}

/// What one writes in ten lines: no heartbeats, fences, retries or progress.
async fn by_hand(folder: &Path, jobs: usize) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)?;
    let options = SqliteConnectOptions::new()
        .filename(folder.join("jobs.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let mut connection = options.connect().await?;
    sqlx::raw_sql(
        "CREATE TABLE jobs (id INTEGER PRIMARY KEY, state TEXT NOT NULL, payload TEXT NOT NULL); CREATE INDEX ready ON jobs (state)",
    )
    .execute(&mut connection)
    .await?;
    let (start, mut waits) = (Instant::now(), Vec::with_capacity(jobs));
    for number in 0..jobs {
        let (begun, payload) = (Instant::now(), json!({ "number": number }).to_string());
        sqlx::query("INSERT INTO jobs (state, payload) VALUES ('queued', ?)").bind(payload).execute(&mut connection).await?;
        waits.push(begun.elapsed());
        let claim = "UPDATE jobs SET state = 'running' WHERE id = (SELECT id FROM jobs WHERE state = 'queued' LIMIT 1) RETURNING id";
        let id: i64 = sqlx::query_scalar(claim).fetch_one(&mut connection).await?;
        sqlx::query("UPDATE jobs SET state = 'done' WHERE id = ?").bind(id).execute(&mut connection).await?;
    }
    row("a table by hand on SQLite, same durability", 1, jobs, start.elapsed(), waits);
    connection.close().await?;
    Ok(())
}
