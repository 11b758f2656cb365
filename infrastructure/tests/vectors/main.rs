//! What every vector engine promises, held against each of them: the embedded one, a real Chroma, a real PostgreSQL with pgvector, a real
//! Weaviate, and a stub of Qdrant's documented API (its server is not to be had here). Then what only one of them can show.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test's helpers")]

#[path = "../fixtures/postgres.rs"]
mod postgres;
#[path = "../fixtures/process.rs"]
mod process;

mod chroma_server;
mod crash;
mod engines;
mod promises;
mod qdrant_stub;
mod service;
mod transfer;
mod two_servers;
mod unreachable;
mod weaviate_server;

/// One test for each engine and promise.
macro_rules! conformance {
    ($($engine:ident),*; $promises:tt) => { $(conformance!(@engine $engine $promises);)* };
    (@engine $engine:ident { $($promise:ident),* $(,)? }) => {
        mod $engine {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let held = crate::engines::$engine().await;
                crate::promises::$promise(&held.place()).await;
            })*
        }
    };
}

conformance!(embedded, chroma, pgvector, weaviate, qdrant; {
    collections_are_made_listed_and_deleted,
    tenants_do_not_meet,
    records_come_back_as_they_were_given,
    an_upsert_replaces_the_whole_record,
    deleting_by_ids_and_by_filter,
    scores_are_exact_in_every_metric,
    every_filter_gives_what_looking_at_each_gives,
    pages_have_every_record_once,
    a_big_batch_is_written_and_found,
    writers_side_by_side_lose_nothing,
    what_is_not_there_is_told,
});
