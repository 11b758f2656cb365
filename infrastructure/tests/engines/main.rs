//! What every engine of the state and of the queue promises, held by the real ones: SQLite, PostgreSQL 18 and Redis 7.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../fixtures/postgres.rs"]
mod postgres;
#[path = "../fixtures/process.rs"]
mod process;
#[path = "../fixtures/redis.rs"]
mod redis;

mod backup;
mod bounds;
mod cancel;
mod child;
mod crash;
mod documents;
mod folder;
mod outage;
mod place;
mod retries;
mod runs;
mod schedules;

/// Each behaviour is a function of a place; this makes tests of it for all engines.
macro_rules! on_every_engine {
    ($($name:ident),+ $(,)?) => { $(mod $name {
        use crate::place::{Kind, Place};

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn sqlite() {
            super::$name(Place::new(Kind::Sqlite).await).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn postgres() {
            super::$name(Place::new(Kind::Postgres).await).await;
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn redis() {
            super::$name(Place::new(Kind::Redis).await).await;
        }
    })+ };
}
use on_every_engine;
