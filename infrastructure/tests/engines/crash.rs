//! Kill -9 at any point loses no accepted job and repeats none that was acknowledged.

use std::collections::BTreeSet;
use std::time::Duration;

use auralink_infrastructure::queue::{JobFilter, JobId, JobState, NewJob, Worker, WorkerConfig};
use serde_json::json;

use crate::child::{self, Server, attempts, noting};
use crate::place::{Kind, Place, job, quick, reaches, tenant, until, work};

/// Jobs that a child accepts before it is killed.
const ACCEPTED: usize = 150;

async fn killed_in_the_middle(kind: Kind) {
    let mut place = Place::closed(kind);
    for round in 1..=3 {
        let mut accepted: Vec<String> = Vec::new();
        let mut server = Server::start(&place, "numbers");
        while accepted.len() < ACCEPTED * round {
            accepted.push(server.line("accepted").expect("the child runs until it is killed"));
        }
        accepted.extend(server.kill("accepted"));
        let accepted: Vec<(u64, JobId)> = accepted
            .iter()
            .map(|line| line.split_once(' ').map(|(number, id)| (number.parse().unwrap(), id.parse().unwrap())).unwrap())
            .collect();

        let queue = place.open().await;
        let mut acknowledged = BTreeSet::new();
        for (number, id) in &accepted {
            let job = queue.get(&tenant(), id).await.expect("an accepted job is there");
            if job.state == JobState::Done {
                assert_eq!((job.result, job.attempt), (Some(json!(number)), 1));
                acknowledged.insert(*number);
            }
        }
        assert!(!acknowledged.is_empty(), "the child had begun to run them");
        let before = attempts(&place).len();
        let worker = work(&queue, noting(&child::log(&place)));
        for (number, id) in &accepted {
            assert_eq!(reaches(&queue, id, JobState::Done).await.result, Some(json!(number)));
        }
        // One more may have been accepted without the child being able to say so.
        until("nothing is left", async || {
            let stats = queue.stats(&tenant()).await.unwrap();
            (stats.queued + stats.running + stats.waiting == 0).then_some(())
        })
        .await;
        let again: Vec<_> = attempts(&place).into_iter().skip(before).filter(|number| acknowledged.contains(number)).collect();
        assert_eq!(again, [0_u64; 0], "what was acknowledged is not run again");
        assert_eq!(queue.stats(&tenant()).await.unwrap().dead, 0);
        worker.stop(Duration::from_secs(10)).await;
        while queue.purge(&tenant(), JobState::Done, Duration::ZERO).await.unwrap() > 0 {}
        std::fs::remove_file(child::log(&place)).unwrap();
        drop(queue);
        place.close().await;
    }
}

async fn kills_its_worker(kind: Kind) {
    let mut place = Place::closed(kind);
    let queue = place.open().await;
    let id = queue.enqueue(NewJob { max_attempts: 2, ..job("deadly", json!(null)) }).await.unwrap();
    drop(queue);
    place.close().await;
    for attempt in 1..=2 {
        let mut server = Server::start(&place, "deadly");
        assert_eq!(server.line("attempt"), Some(attempt.to_string()));
        assert!(!server.wait().success(), "it was aborted");
    }
    let queue = place.open().await;
    // A worker that could run it never gets it.
    let worker = Worker::start(&queue, WorkerConfig { ..quick() }, noting(&child::log(&place))).unwrap();
    let dead = reaches(&queue, &id, JobState::Dead).await;
    assert_eq!((dead.attempt, dead.error.as_deref()), (2, Some("its worker went away during attempt 2")));
    assert_eq!(queue.list(&tenant(), &JobFilter { state: Some(JobState::Dead), ..JobFilter::default() }).await.unwrap(), [dead]);
    worker.stop(Duration::from_secs(5)).await;
}

macro_rules! on_every_engine {
    ($($name:ident),+) => { $(mod $name {
        use crate::place::Kind;

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn sqlite() {
            super::$name(Kind::Sqlite).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn postgres() {
            super::$name(Kind::Postgres).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn redis() {
            super::$name(Kind::Redis).await;
        }
    })+ };
}
on_every_engine!(killed_in_the_middle, kills_its_worker);
