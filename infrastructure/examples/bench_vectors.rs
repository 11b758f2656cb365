//! Recall and speed of the vector engines, in one table, each server beside the plainest client of its own interface.
//!
//!     cargo run --release -p auralink-infrastructure --example bench_vectors -- [RECORDS] [ENGINE...]
//!
//! It starts the servers itself, as the tests do (`make setup` installs them). 384 numbers a vector, made as `vectors/data.rs` says, cosine,
//! k = 10, the truth by looking at each. Inserts are in batches of 500 and count when they are acknowledged. RECORDS (100,000) go into each
//! engine; one that is not full after four minutes is asked with what it has, and its row says how much that is. Our adapter and the plain
//! client ask every question one after the other, in turns first.
#![allow(clippy::unwrap_used, missing_docs, dead_code, reason = "a benchmark, which takes what it needs of the tests' fixtures")]

#[path = "../tests/vectors/chroma_server.rs"]
mod chroma_server;
#[path = "../tests/fixtures/postgres.rs"]
mod postgres;
#[path = "../tests/fixtures/process.rs"]
mod process;
#[path = "../tests/vectors/weaviate_server.rs"]
mod weaviate_server;

#[path = "vectors/asked.rs"]
mod asked;
#[path = "vectors/crash.rs"]
mod crash;
#[path = "vectors/data.rs"]
mod data;
#[path = "vectors/servers.rs"]
mod servers;

use std::time::{Duration, Instant};

use auralink_infrastructure::secret::Secret;
use auralink_infrastructure::vector::chroma::{Chroma, Remote};
use auralink_infrastructure::vector::embedded::Embedded;
use auralink_infrastructure::vector::pgvector::PgVector;
use auralink_infrastructure::vector::weaviate::Weaviate;
use auralink_infrastructure::vector::{Address, Engine, Metric, Query, Spec};

use asked::Asked;
use data::{BATCH, DIMENSION, Data, K};
use servers::{ChromaHttp, Plain, Sqlx, WeaviateHttp};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const TIMEOUT: Duration = Duration::from_secs(120);

/// Fills a new collection; how many records it has, and how long that took.
async fn fill(name: &str, engine: &dyn Engine, address: &Address, data: &Data) -> Result<(usize, Duration), Failure> {
    engine.create(address, &Spec { dimension: DIMENSION as u32, metric: Metric::Cosine }).await?;
    let start = Instant::now();
    let mut records = 0;
    for batch in 0..data.batches() {
        engine.upsert(address, data.records(batch)).await?;
        records = data.stored.len().min((batch + 1) * BATCH);
        if start.elapsed() > servers::PATIENCE {
            break;
        }
    }
    eprintln!("{name}: {records} records in {:.1?}", start.elapsed());
    Ok((records, start.elapsed()))
}

async fn ask(engine: &dyn Engine, address: &Address, vector: &[f32]) -> Result<Vec<String>, Failure> {
    let query = Query { vector: vector.to_vec(), k: K, filter: None, with_vectors: false };
    Ok(engine.query(address, &query).await?.into_iter().map(|found| found.record.id).collect())
}

async fn embedded(name: &str, data: &Data, reopen: bool) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let address = Address::new(&Default::default(), "bench")?;
    {
        let engine = Embedded::open(folder.path())?;
        let (records, insert) = fill(name, &engine, &address, data).await?;
        let start = Instant::now();
        while engine.tail(&address).await? > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let behind = start.elapsed();
        let mut asked = Asked::default();
        for (vector, truth) in data.queries.iter().zip(&data.truth(records)) {
            let start = Instant::now();
            asked.add(start, &ask(&engine, &address, vector).await?, truth);
        }
        asked.row(name, records, Some(insert));
        println!("    the graph was complete {behind:.1?} after the last insert");
    }
    if reopen {
        let start = Instant::now();
        let engine = Embedded::open(folder.path())?;
        assert_eq!(ask(&engine, &address, &data.queries[0]).await?.len(), K);
        println!("    opened again, and the first answer, in {:.1?}", start.elapsed());
    }
    Ok(())
}

/// Our adapter and a plain client, in turns.
async fn beside(
    name: &str,
    engine: &dyn Engine,
    address: &Address,
    (records, insert): (usize, Duration),
    mut plain: impl Plain,
    data: &Data,
) -> Result<(), Failure> {
    let (mut ours, mut theirs) = (Asked::default(), Asked::default());
    for (at, (vector, truth)) in data.queries.iter().zip(&data.truth(records)).enumerate() {
        for turn in 0..2 {
            if (at + turn) % 2 == 0 {
                let start = Instant::now();
                let found = ask(engine, address, vector).await?;
                ours.add(start, &found, truth);
            } else {
                let start = Instant::now();
                let found = plain.nearest(vector).await?;
                theirs.add(start, &found, truth);
            }
        }
    }
    ours.row(&format!("{name}, by AuraLink"), records, Some(insert));
    theirs.row(&format!("{name}, by its plain client"), records, None);
    let added = ours.at(50) - theirs.at(50);
    println!("    added: {added:+.2} ms; goal at most 1 ms: {}", if added <= 1.0 { "reached" } else { "MISSED" });
    Ok(())
}

async fn pgvector(data: &Data) -> Result<(), Failure> {
    let server = tokio::task::spawn_blocking(postgres::Postgres::start).await?;
    let url = server.database();
    let (engine, address) = (PgVector::new(&Secret::new(url.as_str()), TIMEOUT)?, Address::new(&Default::default(), "bench")?);
    let filled = fill("pgvector", &engine, &address, data).await?;
    beside("pgvector", &engine, &address, filled, Sqlx::new(&url).await?, data).await
}

fn remote(url: &str) -> Remote {
    Remote { url: url.to_owned(), token: None, timeout: TIMEOUT }
}

async fn chroma(data: &Data) -> Result<(), Failure> {
    let server = tokio::task::spawn_blocking(chroma_server::ChromaServer::start).await?;
    let address = Address::new(&Default::default(), "bench")?;
    let engine = Chroma::new(remote(&server.url()), "default_tenant", "default_database")?;
    let filled = fill("chroma", &engine, &address, data).await?;
    beside("chroma", &engine, &address, filled, ChromaHttp::new(&server.url(), &address).await?, data).await
}

async fn weaviate(data: &Data) -> Result<(), Failure> {
    let server = tokio::task::spawn_blocking(weaviate_server::WeaviateServer::start).await?;
    let (engine, address) = (Weaviate::new(remote(&server.url()))?, Address::new(&Default::default(), "bench")?);
    let filled = fill("weaviate", &engine, &address, data).await?;
    beside("weaviate", &engine, &address, filled, WeaviateHttp::new(&server.url()).await?, data).await
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    if let Some(folder) = std::env::var_os(crash::FOLDER) {
        return crash::write(folder.as_ref()).await;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let records = words.iter().find_map(|word| word.parse().ok()).unwrap_or(100_000);
    let wanted = |engine: &str| words.iter().all(|word| word.parse::<usize>().is_ok()) || words.iter().any(|word| word == engine);
    let data = Data::sentences(records);
    println!("like sentences: {}", data.describe());
    asked::head();
    let mut each = Asked::default();
    for query in &data.queries[..50] {
        let start = Instant::now();
        let found = data.nearest(query, records);
        each.add(start, &found.iter().cloned().collect::<Vec<_>>(), &found);
    }
    each.row("looking at each, in memory", records, None);
    if wanted("embedded") {
        embedded("embedded", &data, true).await?;
        embedded("embedded, without structure", &Data::noise(records), false).await?;
        crash::measure().await?;
    }
    if wanted("weaviate") {
        weaviate(&data).await?;
    }
    if wanted("chroma") {
        chroma(&data).await?;
    }
    if wanted("pgvector") {
        pgvector(&data).await?;
    }
    Ok(())
}
