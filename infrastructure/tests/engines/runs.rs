//! Jobs are run, in order, once, and seen by their tenant alone.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use auralink_infrastructure::queue::{JobContext, JobFilter, JobState, NewJob, QueueError, Worker, WorkerConfig};
use futures_util::StreamExt;
use serde_json::json;

use crate::on_every_engine;
use crate::place::{Place, doubling, handler, job, quick, reaches, tenant, until, work};

on_every_engine!(
    a_job_is_run_and_told_to_its_tenant_alone,
    higher_priorities_and_older_jobs_first,
    an_idempotency_key_makes_one_job,
    pages,
    watching,
    stopping_gives_back
);

async fn a_job_is_run_and_told_to_its_tenant_alone(place: Place) {
    let queue = place.server().await;
    let worker = work(&queue, doubling());
    let id = queue.enqueue(job("double", json!(21))).await.unwrap();
    let done = reaches(&queue, &id, JobState::Done).await;
    assert_eq!((done.result, done.attempt, done.tenant, done.payload), (Some(json!(42)), 1, tenant(), json!(21)));
    assert!(done.created_ms <= done.started_ms.unwrap() && done.started_ms <= done.finished_ms);

    let stranger = "bob".parse().unwrap();
    assert!(matches!(queue.get(&stranger, &id).await, Err(QueueError::NotFound(_))));
    assert!(matches!(queue.cancel(&stranger, &id).await, Err(QueueError::NotFound(_))));
    assert!(matches!(queue.retry(&stranger, &id).await, Err(QueueError::NotFound(_))));
    assert_eq!(queue.purge(&stranger, JobState::Done, Duration::ZERO).await.unwrap(), 0);
    assert_eq!(queue.list(&stranger, &JobFilter::default()).await.unwrap(), []);
    assert_eq!(queue.stats(&stranger).await.unwrap().done, 0);
    assert_eq!(queue.stats(&tenant()).await.unwrap().done, 1);
    worker.stop(Duration::from_secs(5)).await;
}

async fn higher_priorities_and_older_jobs_first(place: Place) {
    let queue = place.server().await;
    let low = NewJob { priority: -5, ..job("note", json!("low")) };
    let later = NewJob { delay: Duration::from_millis(300), priority: 100, ..job("note", json!("later")) };
    let jobs =
        vec![low, job("note", json!("first")), job("note", json!("second")), NewJob { priority: 5, ..job("note", json!("high")) }, later];
    let ids = queue.enqueue_batch(jobs).await.unwrap();
    assert_eq!(queue.get(&tenant(), &ids[4]).await.unwrap().state, JobState::Waiting);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    let handlers = handler("note", move |job: JobContext| {
        let notes = Arc::clone(&notes);
        async move {
            notes.lock().unwrap().push(job.payload::<String>()?);
            Ok(json!(null))
        }
    });
    let worker = Worker::start(&queue, WorkerConfig { concurrency: 1, ..quick() }, handlers).unwrap();
    for id in &ids {
        reaches(&queue, id, JobState::Done).await;
    }
    let mut order = seen.lock().unwrap().clone();
    // It runs when its time has come, whatever the others do by then.
    order.retain(|name| name != "later");
    assert_eq!(order, ["high", "first", "second", "low"]);
    worker.stop(Duration::from_secs(5)).await;
}

async fn an_idempotency_key_makes_one_job(place: Place) {
    let (one, two) = (place.server().await, place.server().await);
    let keyed = |kind: &str, key: &str| NewJob { idempotency_key: Some(key.into()), ..job(kind, json!(1)) };
    let id = one.enqueue(keyed("double", "k")).await.unwrap();
    assert_eq!(two.enqueue(keyed("double", "k")).await.unwrap(), id);
    // In one batch, too; and the others of the batch are accepted.
    let ids =
        two.enqueue_batch(vec![keyed("double", "n"), keyed("double", "k"), keyed("double", "n"), job("double", json!(3))]).await.unwrap();
    assert_eq!((&ids[1], &ids[0]), (&id, &ids[2]));
    assert_ne!(ids[3], ids[0]);
    assert_eq!(one.stats(&tenant()).await.unwrap().queued, 3);
    // Another tenant's key is another key.
    let others = NewJob { tenant: "bob".parse().unwrap(), ..keyed("other", "k") };
    assert_ne!(one.enqueue(others).await.unwrap(), id);
    // Of another kind, it is a mistake, and nothing of the batch is accepted.
    let refused = one.enqueue_batch(vec![job("double", json!(4)), keyed("other", "k")]).await;
    assert!(matches!(&refused, Err(QueueError::Exists(text)) if text.contains("double")), "{refused:?}");
    let refused = one.enqueue_batch(vec![keyed("double", "fresh"), keyed("other", "fresh")]).await;
    assert!(matches!(refused, Err(QueueError::Exists(_))), "{refused:?}");
    assert_eq!(one.stats(&tenant()).await.unwrap().queued, 3);
    // Many at once, from two servers.
    let racing = (0..40).map(|n| {
        let queue = if n % 2 == 0 { one.clone() } else { two.clone() };
        let job = keyed("double", "race");
        tokio::spawn(async move { queue.enqueue(job).await.unwrap() })
    });
    let mut raced: Vec<_> = futures_util::future::join_all(racing).await.into_iter().map(Result::unwrap).collect();
    raced.dedup();
    assert_eq!(raced.len(), 1);
    // It answers after the job is done, as long as the job is kept.
    let worker = work(&one, doubling());
    reaches(&one, &id, JobState::Done).await;
    assert_eq!(two.enqueue(keyed("double", "k")).await.unwrap(), id);
    assert_eq!(one.get(&tenant(), &id).await.unwrap().attempt, 1);
    worker.stop(Duration::from_secs(5)).await;
}

async fn pages(place: Place) {
    let queue = place.server().await;
    let jobs = (0..25).map(|n| job(if n % 5 == 0 { "five" } else { "other" }, json!(n))).collect();
    let ids = queue.enqueue_batch(jobs).await.unwrap();
    queue.cancel(&tenant(), &ids[3]).await.unwrap();
    let (mut before, mut seen) = (None, Vec::new());
    loop {
        let page = queue.list(&tenant(), &JobFilter { before: before.clone(), limit: 10, ..JobFilter::default() }).await.unwrap();
        before = page.last().map(|job| job.id.clone());
        let last = page.len() < 10;
        seen.extend(page.into_iter().map(|job| job.id));
        if last {
            break;
        }
    }
    let newest_first: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(seen, newest_first);
    let fives = queue.list(&tenant(), &JobFilter { kind: Some("five".into()), limit: 3, ..JobFilter::default() }).await.unwrap();
    assert_eq!(fives.iter().map(|job| job.payload.clone()).collect::<Vec<_>>(), [json!(20), json!(15), json!(10)]);
    let cancelled = queue.list(&tenant(), &JobFilter { state: Some(JobState::Cancelled), ..JobFilter::default() }).await.unwrap();
    assert_eq!(cancelled.iter().map(|job| &job.id).collect::<Vec<_>>(), [&ids[3]]);
    let too_many = queue.list(&tenant(), &JobFilter { limit: 1_001, ..JobFilter::default() }).await;
    assert!(matches!(too_many, Err(QueueError::Invalid(_))));
}

async fn watching(place: Place) {
    let (queue, other) = (place.server().await, place.server().await);
    let id = queue.enqueue(job("step", json!(null))).await.unwrap();
    // From a server that does not run it.
    let watched = tokio::spawn(other.watch(&tenant(), &id).collect::<Vec<_>>());
    let (go, gone) = tokio::sync::watch::channel(0);
    let handlers = handler("step", move |job: JobContext| {
        let mut gone = gone.clone();
        async move {
            for n in 1..=3 {
                job.progress(n, 3, &format!("part {n}"));
                gone.wait_for(|now| *now >= n).await.unwrap();
            }
            Ok(json!("all"))
        }
    });
    let worker = work(&queue, handlers);
    for n in 1..=3 {
        until("its progress is seen", async || other.get(&tenant(), &id).await.unwrap().progress.done.eq(&n).then_some(())).await;
        // Longer than what makes two changes one.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        go.send_replace(n);
    }
    let changes: Vec<_> = watched.await.unwrap().into_iter().map(|job| job.unwrap()).collect();
    let parts: Vec<_> = changes.iter().map(|job| job.progress.done).collect();
    assert!(parts.is_sorted() && [1, 2, 3].iter().all(|n| parts.contains(n)), "{parts:?}");
    let last = changes.last().unwrap();
    assert_eq!((last.state, &last.result, last.progress.message.as_str()), (JobState::Done, &Some(json!("all")), "part 3"));
    let nobody: Vec<_> = other.watch(&"bob".parse().unwrap(), &id).collect().await;
    assert!(matches!(nobody.as_slice(), [Err(QueueError::NotFound(_))]));
    worker.stop(Duration::from_secs(5)).await;
}

async fn stopping_gives_back(place: Place) {
    let queue = place.server().await;
    let id = queue.enqueue(job("long", json!(null))).await.unwrap();
    let long = handler("long", |_| async { std::future::pending().await });
    let worker = work(&queue, long);
    reaches(&queue, &id, JobState::Running).await;
    worker.stop(Duration::from_millis(50)).await;
    let back = queue.get(&tenant(), &id).await.unwrap();
    assert_eq!((back.state, back.attempt), (JobState::Queued, 0), "the attempt does not count");
    let worker = work(&queue, handler("long", |_| async { Ok(json!("short")) }));
    assert_eq!(reaches(&queue, &id, JobState::Done).await.attempt, 1);
    worker.stop(Duration::from_secs(5)).await;
}
