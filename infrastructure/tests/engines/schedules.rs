//! Jobs by the clock: one for each time, however many servers look at it.

use std::collections::BTreeSet;
use std::time::Duration;

use auralink_infrastructure::queue::{JobFilter, JobState, NewSchedule, QueueConfig, QueueError, Worker};
use serde_json::json;

use crate::on_every_engine;
use crate::place::{Place, handler, quick, tenant, until};

on_every_engine!(n_servers_make_one_job_for_each_time, schedules_are_written_listed_and_deleted);

fn schedule(name: &str, cron: &str) -> NewSchedule {
    NewSchedule {
        name: name.into(),
        tenant: tenant(),
        cron: cron.into(),
        kind: "tick".into(),
        payload: json!(7),
        priority: 1,
        max_attempts: 2,
    }
}

async fn n_servers_make_one_job_for_each_time(place: Place) {
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(place.server().await);
    }
    servers[0].schedule_put(schedule("each-second", "* * * * * *")).await.unwrap();
    let workers: Vec<_> =
        servers.iter().map(|queue| Worker::start(queue, quick(), handler("tick", |_| async { Ok(json!(null)) })).unwrap()).collect();
    let done = JobFilter { state: Some(JobState::Done), ..JobFilter::default() };
    let jobs = until("there were four times", async || {
        let jobs = servers[1].list(&tenant(), &done).await.unwrap();
        (jobs.len() >= 4).then_some(jobs)
    })
    .await;
    // A time that is late makes the next one later: two of one second are two of one time.
    let seconds: BTreeSet<_> = jobs.iter().map(|job| job.created_ms / 1_000).collect();
    assert_eq!(seconds.len(), jobs.len(), "{jobs:?}");
    assert!(jobs.iter().all(|job| (job.payload == json!(7)) && (job.priority, job.max_attempts) == (1, 2)));
    servers[2].schedule_delete(&tenant(), "each-second").await.unwrap();
    for worker in workers {
        worker.stop(Duration::from_secs(5)).await;
    }
    let all = servers[0].list(&tenant(), &JobFilter::default()).await.unwrap();
    let seconds: BTreeSet<_> = all.iter().map(|job| job.created_ms / 1_000).collect();
    assert_eq!(seconds.len(), all.len());
}

async fn schedules_are_written_listed_and_deleted(place: Place) {
    let queue = place.server_with(QueueConfig { max_schedules: 2, ..QueueConfig::default() }).await;
    let daily = queue.schedule_put(schedule("b", "@daily")).await.unwrap();
    assert_eq!(daily.next_ms % 86_400_000, 0, "midnight UTC");
    queue.schedule_put(schedule("a", "0 3 * * MON")).await.unwrap();
    let names = async || queue.schedule_list(&tenant()).await.unwrap().into_iter().map(|s| s.name).collect::<Vec<_>>();
    assert_eq!(names().await, ["a", "b"]);
    // The same name is the same schedule; a third one is too many.
    let hourly = queue.schedule_put(schedule("b", "@hourly")).await.unwrap();
    assert_eq!(queue.schedule_list(&tenant()).await.unwrap()[1], hourly);
    assert!(matches!(queue.schedule_put(schedule("c", "@daily")).await, Err(QueueError::Full(_))));
    assert!(
        matches!(queue.schedule_put(schedule("b", "every day")).await, Err(QueueError::Invalid(text)) if text.contains("EVERY DAY") || text.contains("every day"))
    );
    let stranger = "bob".parse().unwrap();
    assert_eq!(queue.schedule_list(&stranger).await.unwrap(), []);
    assert!(matches!(queue.schedule_delete(&stranger, "a").await, Err(QueueError::NotFound(_))));
    queue.schedule_delete(&tenant(), "a").await.unwrap();
    assert_eq!(names().await, ["b"]);
    assert!(matches!(queue.schedule_delete(&tenant(), "a").await, Err(QueueError::NotFound(_))));
}
