//! What fails is tried again, later each time, and at last kept as a dead letter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use auralink_infrastructure::queue::{JobContext, JobError, JobFilter, JobState, NewJob, QueueError, Worker, WorkerConfig};
use serde_json::json;

use crate::on_every_engine;
use crate::place::{Place, handler, job, quick, reaches, tenant, until, work};

on_every_engine!(
    a_failed_job_waits_and_is_tried_again,
    dead_letters_are_listed_retried_and_purged,
    a_panic_is_an_attempt_that_failed,
    a_late_worker_is_fenced_off
);

async fn a_failed_job_waits_and_is_tried_again(place: Place) {
    let queue = place.server().await;
    let id = queue.enqueue(job("flaky", json!(null))).await.unwrap();
    let flaky = handler("flaky", |job: JobContext| async move {
        if job.job().attempt < 3 {
            Err(JobError::retryable(format!("not yet, {}", job.job().attempt)))
        } else {
            Ok(json!(job.job().attempt))
        }
    });
    // Long waits: they can be seen.
    let slow = WorkerConfig { backoff: Duration::from_secs(2), backoff_most: Duration::from_secs(4), ..quick() };
    let worker = Worker::start(&queue, slow, flaky).unwrap();
    let first = reaches(&queue, &id, JobState::Waiting).await;
    assert_eq!((first.attempt, first.error.as_deref()), (1, Some("not yet, 1")));
    let started = first.started_ms.unwrap();
    assert!(first.due_ms.unwrap() >= started + 1_600, "two seconds, a fifth less at most: {first:?}");
    let second = until("the second attempt failed", async || {
        let job = queue.get(&tenant(), &id).await.unwrap();
        (job.state == JobState::Waiting && job.attempt == 2).then_some(job)
    })
    .await;
    assert!(second.started_ms.unwrap() >= first.due_ms.unwrap(), "not before its time");
    assert!(second.due_ms.unwrap() >= second.started_ms.unwrap() + 3_200, "twice as long: {second:?}");
    let done = reaches(&queue, &id, JobState::Done).await;
    assert_eq!((done.result, done.error, done.attempt), (Some(json!(3)), None, 3));
    worker.stop(Duration::from_secs(5)).await;
}

async fn dead_letters_are_listed_retried_and_purged(place: Place) {
    let queue = place.server().await;
    let bad = handler("bad", |job: JobContext| async move {
        match job.payload::<String>()?.as_str() {
            "fatal" => Err(JobError::fatal("no way")),
            text => Err(JobError::retryable(format!("{text} {}", "x".repeat(5_000)))),
        }
    });
    let worker = work(&queue, bad);
    let fatal = queue.enqueue(job("bad", json!("fatal"))).await.unwrap();
    let tired = queue.enqueue(NewJob { max_attempts: 2, ..job("bad", json!("again")) }).await.unwrap();
    let wrong = queue.enqueue(job("bad", json!({ "not": "a text" }))).await.unwrap();
    let dead = reaches(&queue, &fatal, JobState::Dead).await;
    assert_eq!((dead.attempt, dead.error.as_deref()), (1, Some("no way")));
    let dead = reaches(&queue, &tired, JobState::Dead).await;
    assert_eq!(dead.attempt, 2);
    let error = dead.error.unwrap();
    assert!(error.starts_with("again x") && error.len() <= 2_048, "{}", error.len());
    assert!(reaches(&queue, &wrong, JobState::Dead).await.error.unwrap().contains("payload"));

    let filter = JobFilter { state: Some(JobState::Dead), ..JobFilter::default() };
    let listed: Vec<_> = queue.list(&tenant(), &filter).await.unwrap().into_iter().map(|job| job.id).collect();
    assert_eq!(listed, [wrong, tired.clone(), fatal.clone()]);
    worker.stop(Duration::from_secs(5)).await;

    let again = queue.retry(&tenant(), &tired).await.unwrap();
    assert_eq!((again.state, again.attempt), (JobState::Queued, 0));
    assert!(matches!(queue.retry(&tenant(), &tired).await, Err(QueueError::Condition(_))));
    let better = work(&queue, handler("bad", |_| async { Ok(json!("better")) }));
    assert_eq!(reaches(&queue, &tired, JobState::Done).await.result, Some(json!("better")));
    better.stop(Duration::from_secs(5)).await;

    assert_eq!(queue.purge(&tenant(), JobState::Dead, Duration::from_secs(3_600)).await.unwrap(), 0, "they are younger");
    assert_eq!(queue.purge(&tenant(), JobState::Dead, Duration::ZERO).await.unwrap(), 2);
    assert!(matches!(queue.get(&tenant(), &fatal).await, Err(QueueError::NotFound(_))));
    assert!(matches!(queue.purge(&tenant(), JobState::Queued, Duration::ZERO).await, Err(QueueError::Condition(_))));
    assert_eq!(queue.stats(&tenant()).await.unwrap().done, 1);
}

async fn a_panic_is_an_attempt_that_failed(place: Place) {
    let queue = place.server().await;
    let id = queue.enqueue(job("shaky", json!(null))).await.unwrap();
    let shaky = handler("shaky", |job: JobContext| async move {
        assert!(job.job().attempt > 1, "attempt {}", job.job().attempt);
        Ok(json!("calm"))
    });
    let worker = work(&queue, shaky);
    let waiting = until("the first attempt failed", async || queue.get(&tenant(), &id).await.unwrap().error).await;
    assert!(waiting.contains("panicked: attempt 1"), "{waiting}");
    assert_eq!(reaches(&queue, &id, JobState::Done).await.attempt, 2);
    worker.stop(Duration::from_secs(5)).await;
}

/// A worker whose whole runtime stands still past its lease: it gives no sign of life, another takes the job, and what the late one says counts no more.
async fn a_late_worker_is_fenced_off(place: Place) {
    let queue = place.server().await;
    let id = queue.enqueue(job("slow", json!(null))).await.unwrap();
    let short = WorkerConfig { lease: Duration::from_millis(600), ..quick() };
    let (late_queue, late_config) = (place.server().await, short.clone());
    let (over, was_over) = std::sync::mpsc::sync_channel::<()>(1);
    let (end, ended) = std::sync::mpsc::sync_channel::<()>(1);
    let late = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let ended = std::sync::Mutex::new(ended);
            let begun = Arc::new(AtomicBool::new(false));
            let begins = Arc::clone(&begun);
            let handlers = handler("slow", move |_| {
                begins.store(true, Ordering::SeqCst);
                // The one thread of this runtime: no beat is given meanwhile.
                ended.lock().unwrap().recv().unwrap();
                async { Ok(json!("late")) }
            });
            let worker = Worker::start(&late_queue, late_config, handlers).unwrap();
            while !begun.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            worker.stop(Duration::from_secs(10)).await;
            over.send(()).unwrap();
        });
    });
    reaches(&queue, &id, JobState::Running).await;
    let prompt = Worker::start(&queue, short, handler("slow", |_| async { Ok(json!("in time")) })).unwrap();
    let done = reaches(&queue, &id, JobState::Done).await;
    assert_eq!((done.result, done.attempt), (Some(json!("in time")), 2));
    end.send(()).unwrap();
    tokio::task::spawn_blocking(move || was_over.recv().unwrap()).await.unwrap();
    late.join().unwrap();
    let still = queue.get(&tenant(), &id).await.unwrap();
    assert_eq!((still.result, still.attempt, still.finished_ms), (Some(json!("in time")), 2, done.finished_ms));
    prompt.stop(Duration::from_secs(5)).await;
}
