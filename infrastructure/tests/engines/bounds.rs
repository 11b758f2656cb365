//! Everything that can grow has a limit, and says so.

use std::time::Duration;

use auralink_infrastructure::queue::{
    JobContext, JobFilter, JobState, MAX_BATCH, MAX_PAYLOAD_BYTES, NewJob, QueueConfig, QueueError, Worker, WorkerConfig,
};
use serde_json::json;

use crate::child::Server;
use crate::on_every_engine;
use crate::place::{Kind, Place, handler, job, quick, reaches, tenant, until, work};

on_every_engine!(large_things_are_refused, tenants_have_a_limit_each, finished_jobs_do_not_pile_up);

async fn large_things_are_refused(place: Place) {
    let queue = place.server().await;
    let largest = "x".repeat(MAX_PAYLOAD_BYTES - 2);
    let id = queue.enqueue(job("echo", json!(largest))).await.unwrap();
    let refused = queue.enqueue_batch(vec![job("echo", json!(1)), job("echo", json!(format!("{largest}x")))]).await;
    assert!(matches!(&refused, Err(QueueError::Invalid(text)) if text.contains(&MAX_PAYLOAD_BYTES.to_string())), "{refused:?}");
    assert_eq!(queue.stats(&tenant()).await.unwrap().queued, 1, "none of the batch");
    let many = (0..=MAX_BATCH).map(|n| job("echo", json!(n))).collect();
    assert!(matches!(queue.enqueue_batch(many).await, Err(QueueError::Invalid(_))));
    let worker = work(
        &queue,
        handler("echo", |job: JobContext| async move {
            let text: String = job.payload()?;
            Ok(json!({ "too large": text }))
        }),
    );
    let dead = reaches(&queue, &id, JobState::Dead).await;
    assert!(dead.error.unwrap().contains("its result has"), "not tried again: it would be as large");
    // What databases do not like is kept all the same.
    let odd = json!("\u{0}\u{1}🎛'\"\\%");
    let id =
        queue.enqueue(NewJob { kind: "odd".into(), idempotency_key: Some("'; -- \"".into()), ..job("odd", odd.clone()) }).await.unwrap();
    assert_eq!(queue.get(&tenant(), &id).await.unwrap().payload, odd);
    worker.stop(Duration::from_secs(5)).await;
}

async fn tenants_have_a_limit_each(place: Place) {
    let queue = place.server_with(QueueConfig { max_pending: 5, ..QueueConfig::default() }).await;
    let five = || (0..5).map(|n| job("double", json!(n))).collect::<Vec<_>>();
    let ids = queue.enqueue_batch(five()).await.unwrap();
    let refused = queue.enqueue(job("double", json!(6))).await;
    assert!(matches!(&refused, Err(QueueError::Full(text)) if text.contains("ana") && text.contains('5')), "{refused:?}");
    queue.enqueue(NewJob { tenant: "bob".parse().unwrap(), ..job("double", json!(6)) }).await.unwrap();
    // Room is seen at once where it is needed.
    queue.cancel(&tenant(), &ids[0]).await.unwrap();
    queue.enqueue(job("double", json!(6))).await.unwrap();
    assert!(matches!(queue.enqueue(job("double", json!(7))).await, Err(QueueError::Full(_))));
}

async fn finished_jobs_do_not_pile_up(place: Place) {
    let queue = place.server_with(QueueConfig { max_finished: 10, ..QueueConfig::default() }).await;
    let ids = queue.enqueue_batch((0..30).map(|n| job("echo", json!(n))).collect()).await.unwrap();
    let echo = || handler("echo", |job: JobContext| async move { Ok(job.job().payload.clone()) });
    let worker = Worker::start(&queue, WorkerConfig { concurrency: 1, ..quick() }, echo()).unwrap();
    until("all are done", async || {
        let stats = queue.stats(&tenant()).await.unwrap();
        (stats.queued + stats.running == 0).then_some(())
    })
    .await;
    worker.stop(Duration::from_secs(5)).await;
    // A worker looks for what is old when it begins.
    let worker = work(&queue, echo());
    let kept = until("ten are left", async || {
        let kept = queue.list(&tenant(), &JobFilter::default()).await.unwrap();
        (kept.len() == 10).then_some(kept)
    })
    .await;
    let kept: Vec<_> = kept.into_iter().map(|job| job.id).collect();
    assert_eq!(kept, ids[20..].iter().rev().cloned().collect::<Vec<_>>(), "the youngest");
    worker.stop(Duration::from_secs(5)).await;
}

/// On a disk of four megabytes, in a mount namespace of the child's own.
#[test]
fn a_full_disk_is_told_and_nothing_accepted_is_lost() {
    let place = Place::closed(Kind::Sqlite);
    std::fs::create_dir(place.sqlite_folder()).unwrap();
    let script = format!("mount -t tmpfs -o size=4m none '{}' && exec \"$@\"", place.sqlite_folder().display());
    let flags = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let mut server = Server::start_under(&place, "fill", &["unshare", flags, "sh", "-c", &script, "sh"]);
    let full = server.line("full").expect("the disk is full some time");
    let (count, error) = full.split_once(' ').unwrap();
    assert!(count.parse::<u64>().unwrap() >= 20, "{full}");
    assert!(error.contains("disk of the state is full") && error.contains("make room"), "{error}");
    assert_eq!(server.line("went-on").and_then(|there| there.parse().ok()), Some(count.parse::<u64>().unwrap() + 1));
    assert!(server.wait().success());
}
