//! One file holds everything, and goes into either engine.

use std::path::Path;
use std::time::Duration;

use auralink_infrastructure::queue::{Job, JobFilter, JobState, NewJob, NewSchedule, Queue, QueueConfig};
use auralink_infrastructure::state::{Documents, Expect, State, StateError};
use serde_json::json;
use sqlx::{Connection, SqliteConnection};

use crate::place::{Kind, Place, doubling, job, reaches, tenant, work};

/// A document, a schedule, a done job and a queued one.
async fn filled(place: &Place) -> State {
    let state = State::open(&place.state).await.unwrap();
    let queue = Queue::open(QueueConfig::default(), &state).await.unwrap();
    state.put("c", "k", &json!({ "ü": 1 }), Expect::Absent).await.unwrap();
    state.put("c", "k", &json!({ "ü": 2 }), Expect::Any).await.unwrap();
    let schedule = NewSchedule {
        name: "daily".into(),
        tenant: tenant(),
        cron: "@daily".into(),
        kind: "double".into(),
        payload: json!(1),
        priority: 0,
        max_attempts: 3,
    };
    queue.schedule_put(schedule).await.unwrap();
    let worker = work(&queue, doubling());
    let done = queue.enqueue(job("double", json!(4))).await.unwrap();
    reaches(&queue, &done, JobState::Done).await;
    worker.stop(Duration::from_secs(5)).await;
    queue.enqueue(NewJob { idempotency_key: Some("key".into()), ..job("double", json!(5)) }).await.unwrap();
    state
}

async fn contents(state: &State) -> (Vec<Job>, String) {
    let queue = Queue::open(QueueConfig::default(), state).await.unwrap();
    let jobs = queue.list(&tenant(), &JobFilter::default()).await.unwrap();
    let schedules = queue.schedule_list(&tenant()).await.unwrap();
    let documents = state.list("c", "", None, 100).await.unwrap();
    (jobs, format!("{schedules:?} {documents:?}"))
}

async fn there_and_back(from: Kind, into: Kind) {
    let (source, target) = (Place::closed(from), Place::closed(into));
    let state = filled(&source).await;
    let expected = contents(&state).await;
    let file = source.folder.path().join("backup");
    // Beside the running server.
    State::backup(&source.state, &file).await.unwrap();
    assert!(matches!(State::backup(&source.state, &file).await, Err(StateError::Invalid(text)) if text.contains("there already")));
    state.put("c", "later", &json!(1), Expect::Absent).await.unwrap();

    State::restore(&target.state, &file, false).await.unwrap();
    let restored = State::open(&target.state).await.unwrap();
    assert_eq!(contents(&restored).await, expected);
    // The queued job is run, the key is known, the done job is not run.
    let queue = Queue::open(QueueConfig::default(), &restored).await.unwrap();
    let again = queue.enqueue(NewJob { idempotency_key: Some("key".into()), ..job("double", json!(5)) }).await.unwrap();
    let worker = work(&queue, doubling());
    assert_eq!(reaches(&queue, &again, JobState::Done).await.result, Some(json!(10)));
    assert_eq!(queue.stats(&tenant()).await.unwrap().done, 2);
    worker.stop(Duration::from_secs(5)).await;
    drop(queue);
    restored.close().await;

    // What is there is replaced only when one says so.
    assert!(matches!(State::restore(&target.state, &file, false).await, Err(StateError::Invalid(text)) if text.contains("--replace")));
    State::restore(&target.state, &file, true).await.unwrap();
    let restored = State::open(&target.state).await.unwrap();
    assert_eq!(contents(&restored).await, expected);
    restored.close().await;
    if into == Kind::Sqlite {
        let kept = std::fs::read_dir(target.sqlite_folder())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("before-restore"));
        assert_eq!(kept.count(), 1, "the old state is kept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_sqlite_into_sqlite() {
    there_and_back(Kind::Sqlite, Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_sqlite_into_postgres() {
    there_and_back(Kind::Sqlite, Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_postgres_into_sqlite() {
    there_and_back(Kind::Postgres, Kind::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_job_is_queued_again_and_its_old_worker_is_fenced_off() {
    let place = Place::closed(Kind::Postgres);
    let state = State::open(&place.state).await.unwrap();
    let queue = Queue::open(QueueConfig::default(), &state).await.unwrap();
    let id = queue.enqueue(job("slow", json!(null))).await.unwrap();
    let (go, wait) = tokio::sync::watch::channel(false);
    let slow = crate::place::handler("slow", move |job: auralink_infrastructure::queue::JobContext| {
        let mut wait = wait.clone();
        async move {
            if job.job().attempt == 1 {
                wait.wait_for(|go| *go).await.unwrap();
            }
            Ok(json!(job.job().attempt))
        }
    });
    let worker = work(&queue, slow);
    reaches(&queue, &id, JobState::Running).await;
    let file = place.folder.path().join("backup");
    State::backup(&place.state, &file).await.unwrap();
    State::restore(&place.state, &file, true).await.unwrap();
    let done = reaches(&queue, &id, JobState::Done).await;
    go.send_replace(true);
    worker.stop(Duration::from_secs(5)).await;
    assert_eq!((done.result.clone(), queue.get(&tenant(), &id).await.unwrap()), (Some(json!(2)), done));
}

async fn change(file: &Path, sql: &'static str) {
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_backup_or_a_newer_one_is_refused_and_changes_nothing() {
    let (source, target) = (Place::closed(Kind::Sqlite), Place::closed(Kind::Sqlite));
    let state = filled(&source).await;
    let folder = source.folder.path();
    let good = folder.join("good");
    State::backup(&source.state, &good).await.unwrap();
    // A restore beside a running server.
    assert!(matches!(State::restore(&source.state, &good, true).await, Err(StateError::Locked(_))));

    let text = folder.join("text");
    std::fs::write(&text, "not a database").unwrap();
    let empty = folder.join("empty");
    change_new(&empty).await;
    let newer = folder.join("newer");
    std::fs::copy(&good, &newer).unwrap();
    change(&newer, "INSERT INTO _sqlx_migrations SELECT version + 90, description, installed_on, success, checksum, execution_time FROM _sqlx_migrations").await;
    let damaged = folder.join("damaged");
    let mut bytes = std::fs::read(&good).unwrap();
    let middle = bytes.len() / 2;
    bytes[4096..middle].fill(0xAA);
    std::fs::write(&damaged, bytes).unwrap();
    for (file, said) in [
        (folder.join("missing"), "no such file"),
        (text, "not a backup"),
        (empty, "no schema"),
        (newer, "newer AuraLink"),
        (damaged, "not a backup"),
    ] {
        let error = State::restore(&target.state, &file, true).await.unwrap_err().to_string();
        assert!(error.contains(said) && error.contains(file.to_str().unwrap()), "{error}");
    }
    assert!(!target.sqlite_folder().join("auralink.db").exists());
    state.close().await;
}

async fn change_new(file: &Path) {
    std::fs::write(file, "").unwrap();
    change(file, "CREATE TABLE t (a); INSERT INTO t VALUES (1)").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_is_newer_or_was_changed_is_refused() {
    let place = Place::closed(Kind::Sqlite);
    let made = State::migrate(&place.state).await.unwrap();
    assert_eq!((made.from, State::migrate(&place.state).await.unwrap().from), (0, made.to));
    let file = place.sqlite_folder().join("auralink.db");
    change(&file, "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1").await;
    assert!(matches!(State::open(&place.state).await, Err(StateError::Schema(text)) if text.contains("was changed")));

    for kind in [Kind::Sqlite, Kind::Postgres] {
        let place = Place::closed(kind);
        State::migrate(&place.state).await.unwrap();
        let newer = "INSERT INTO _sqlx_migrations SELECT version + 90, description, installed_on, success, checksum, execution_time FROM _sqlx_migrations";
        match &place.state {
            auralink_infrastructure::state::StateConfig::Postgres { url, .. } => {
                let mut connection = sqlx::PgConnection::connect(url.reveal()).await.unwrap();
                sqlx::raw_sql(newer).execute(&mut connection).await.unwrap();
            }
            _ => change(&place.sqlite_folder().join("auralink.db"), newer).await,
        }
        assert!(matches!(State::open(&place.state).await, Err(StateError::Schema(text)) if text.contains("a newer one made it")));
    }
}
