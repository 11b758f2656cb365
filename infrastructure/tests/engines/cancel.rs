//! An owner ends jobs, wherever they are.

use std::time::Duration;

use auralink_infrastructure::queue::{JobContext, JobError, JobState, NewJob, QueueError};
use serde_json::json;

use crate::on_every_engine;
use crate::place::{Place, handler, job, reaches, tenant, work};

on_every_engine!(what_does_not_run_ends_at_once, what_runs_is_told_and_ends, what_does_not_listen_is_ended, what_is_finished_stays);

async fn what_does_not_run_ends_at_once(place: Place) {
    let queue = place.server().await;
    let queued = queue.enqueue(job("late", json!(null))).await.unwrap();
    let waiting = queue.enqueue(NewJob { delay: Duration::from_secs(60), ..job("late", json!(null)) }).await.unwrap();
    for id in [&queued, &waiting] {
        let job = queue.cancel(&tenant(), id).await.unwrap();
        assert_eq!((job.state, job.due_ms), (JobState::Cancelled, None));
        assert!(job.finished_ms.is_some());
    }
    let worker = work(&queue, handler("late", |_| async { Ok(json!("ran")) }));
    let other = queue.enqueue(job("late", json!(null))).await.unwrap();
    reaches(&queue, &other, JobState::Done).await;
    assert_eq!(queue.get(&tenant(), &queued).await.unwrap().state, JobState::Cancelled);
    // It can be wanted after all.
    queue.retry(&tenant(), &queued).await.unwrap();
    reaches(&queue, &queued, JobState::Done).await;
    worker.stop(Duration::from_secs(5)).await;
}

async fn what_runs_is_told_and_ends(place: Place) {
    let (queue, other) = (place.server().await, place.server().await);
    let id = queue.enqueue(job("patient", json!(null))).await.unwrap();
    let worker = work(
        &queue,
        handler("patient", |job: JobContext| async move {
            job.cancelled().await;
            Err(JobError::retryable("I was told to end"))
        }),
    );
    reaches(&queue, &id, JobState::Running).await;
    // From a server that does not run it.
    assert!(other.cancel(&tenant(), &id).await.unwrap().cancelling);
    let job = reaches(&queue, &id, JobState::Cancelled).await;
    assert_eq!((job.error.as_deref(), job.attempt, job.cancelling), (Some("I was told to end"), 1, false));
    worker.stop(Duration::from_secs(5)).await;
}

async fn what_does_not_listen_is_ended(place: Place) {
    let queue = place.server().await;
    let id = queue.enqueue(job("deaf", json!(null))).await.unwrap();
    let worker = work(&queue, handler("deaf", |_| async { std::future::pending().await }));
    reaches(&queue, &id, JobState::Running).await;
    queue.cancel(&tenant(), &id).await.unwrap();
    let job = reaches(&queue, &id, JobState::Cancelled).await;
    assert!(job.error.unwrap().contains("did not end by itself"));
    worker.stop(Duration::from_secs(5)).await;
}

async fn what_is_finished_stays(place: Place) {
    let queue = place.server().await;
    let worker = work(&queue, handler("fine", |_| async { Ok(json!(1)) }));
    let id = queue.enqueue(job("fine", json!(null))).await.unwrap();
    let done = reaches(&queue, &id, JobState::Done).await;
    assert_eq!(queue.cancel(&tenant(), &id).await.unwrap(), done);
    assert!(matches!(queue.retry(&tenant(), &id).await, Err(QueueError::Condition(text)) if text.contains("done")));
    worker.stop(Duration::from_secs(5)).await;
}
