//! Recall and speed of the vector engines, in one table, each beside its own raw client where it has one.
//!
//!     cargo run --release -p auralink-infrastructure --example bench_vectors -- [RECORDS] [postgres://...] [http://CHROMA]
//!
//! 384 numbers a vector, clustered (1,000 centres, noise 0.7 of their spread), cosine, k = 10, the truth by looking at each. Inserts are in batches
//! of 500 and count when they are acknowledged durable. The embedded engine has RECORDS (100,000), the servers a tenth of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use auralink_infrastructure::secret::Secret;
use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vector::chroma::{Chroma, Remote};
use auralink_infrastructure::vector::embedded::Embedded;
use auralink_infrastructure::vector::metric::{dot, unit};
use auralink_infrastructure::vector::pgvector::PgVector;
use auralink_infrastructure::vector::{Address, Engine, Metric, Query, Record, Spec};
use serde_json::json;
use sqlx::Row;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const DIMENSION: usize = 384;
const K: usize = 10;
const QUERIES: usize = 500;
const BATCH: usize = 500;
const TIMEOUT: Duration = Duration::from_secs(120);

/// Normally distributed numbers, the same in every run.
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 + 0.5) / (1u64 << 24) as f32
    }

    fn normal(&mut self) -> f32 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f32::consts::TAU * self.uniform()).cos()
    }

    fn vectors(&mut self, centres: &[Vec<f32>], many: usize) -> Vec<Vec<f32>> {
        let mut near = || {
            let centre = &centres[(self.uniform() * centres.len() as f32) as usize % centres.len()];
            unit(&centre.iter().map(|number| number + 0.7 * self.normal()).collect::<Vec<f32>>())
        };
        (0..many).map(|_| near()).collect()
    }
}

struct Data {
    stored: Vec<Vec<f32>>,
    queries: Vec<Vec<f32>>,
    truth: Vec<Vec<String>>,
}

impl Data {
    fn new(records: usize) -> Self {
        let mut noise = Noise(1);
        let centres: Vec<Vec<f32>> = (0..1_000).map(|_| (0..DIMENSION).map(|_| noise.normal()).collect()).collect();
        let (stored, queries) = (noise.vectors(&centres, records), noise.vectors(&centres, QUERIES));
        let truth = queries.iter().map(|query| {
            let mut all: Vec<(f32, usize)> = stored.iter().enumerate().map(|(i, vector)| (-dot(query, vector), i)).collect();
            all.select_nth_unstable_by(K, |a, b| a.0.total_cmp(&b.0));
            all[..K].iter().map(|(_, i)| i.to_string()).collect()
        });
        let truth = truth.collect();
        Self { stored, queries, truth }
    }

    fn records(&self, batch: usize) -> Vec<Record> {
        let from = batch * BATCH;
        let part = &self.stored[from..self.stored.len().min(from + BATCH)];
        part.iter()
            .enumerate()
            .map(|(i, vector)| Record { id: (from + i).to_string(), vector: vector.clone(), ..Record::default() })
            .collect()
    }

    fn batches(&self) -> usize {
        self.stored.len().div_ceil(BATCH)
    }
}

/// Times and hits of queries.
#[derive(Default)]
struct Asked {
    times: Vec<Duration>,
    hits: usize,
}

impl Asked {
    fn add(&mut self, start: Instant, found: &[String], truth: &[String]) {
        self.times.push(start.elapsed());
        self.hits += found.iter().filter(|id| truth.contains(id)).count();
    }

    fn row(mut self, name: &str, records: usize, insert: Duration) {
        self.times.sort_unstable();
        let at = |part: usize| self.times[self.times.len() * part / 100].as_secs_f64() * 1e3;
        let recall = self.hits as f64 / (self.times.len() * K) as f64;
        let rate = records as f64 / insert.as_secs_f64();
        println!("{name:<34} {records:>8} {recall:>10.4} {:>9.2} {:>9.2} {rate:>10.0}", at(50), at(99));
    }
}

async fn measured(name: &str, engine: &dyn Engine, address: &Address, data: &Data) -> Result<Duration, Failure> {
    let start = Instant::now();
    for batch in 0..data.batches() {
        engine.upsert(address, data.records(batch)).await?;
    }
    let insert = start.elapsed();
    eprintln!("{name}: {} records in {insert:.1?}", data.stored.len());
    Ok(insert)
}

async fn asked(engine: &dyn Engine, address: &Address, data: &Data) -> Result<Asked, Failure> {
    let mut asked = Asked::default();
    for (vector, truth) in data.queries.iter().zip(&data.truth) {
        let query = Query { vector: vector.clone(), k: K, filter: None, with_vectors: false };
        let start = Instant::now();
        let found = engine.query(address, &query).await?;
        let ids: Vec<String> = found.into_iter().map(|found| found.record.id).collect();
        asked.add(start, &ids, truth);
    }
    Ok(asked)
}

async fn embedded(data: &Data) -> Result<(), Failure> {
    let folder = std::env::temp_dir().join(format!("auralink-bench-vectors-{}", std::process::id()));
    let address = Address::new(&Tenant::default(), "bench")?;
    let many = data.stored.len();
    {
        let engine = Embedded::open(&folder)?;
        engine.create(&address, &Spec { dimension: DIMENSION as u32, metric: Metric::Cosine }).await?;
        let insert = measured("embedded", &engine, &address, data).await?;
        let start = Instant::now();
        while engine.tail(&address).await? > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        eprintln!("embedded: the graph is complete {:.1?} after the last insert", start.elapsed());
        asked(&engine, &address, data).await?.row("embedded", many, insert);
    }
    let start = Instant::now();
    let engine = Embedded::open(&folder)?;
    let found = engine.query(&address, &Query { vector: data.queries[0].clone(), k: K, filter: None, with_vectors: false }).await?;
    assert_eq!(found.len(), K);
    eprintln!("embedded: opened again, and the first answer, in {:.1?}", start.elapsed());
    engine.destroy(&address).await?;
    std::fs::remove_dir(folder.join("default"))?;
    std::fs::remove_file(folder.join("lock"))?;
    std::fs::remove_dir(&folder)?;
    Ok(())
}

async fn pgvector(url: &str, data: &Data) -> Result<(), Failure> {
    let engine = PgVector::new(&Secret::new(url), TIMEOUT)?;
    let address = Address::new(&Tenant::default(), "bench")?;
    let _ = engine.destroy(&address).await;
    engine.create(&address, &Spec { dimension: DIMENSION as u32, metric: Metric::Cosine }).await?;
    let insert = measured("pgvector", &engine, &address, data).await?;
    asked(&engine, &address, data).await?.row("pgvector, by AuraLink", data.stored.len(), insert);
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(1).connect(url).await?;
    let table: i64 = sqlx::query("SELECT max(id) FROM auralink_vectors.collections").fetch_one(&pool).await?.get(0);
    sqlx::query("SET hnsw.ef_search = 100").execute(&pool).await?;
    let sql =
        format!("SELECT id, metadata::text, document FROM auralink_vectors.c{table} ORDER BY embedding <=> $1::real[]::vector LIMIT 10");
    let mut raw = Asked::default();
    for (vector, truth) in data.queries.iter().zip(&data.truth) {
        let start = Instant::now();
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql.as_str())).bind(vector).fetch_all(&pool).await?;
        raw.add(start, &rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>(), truth);
    }
    raw.row("pgvector, by sqlx alone", data.stored.len(), insert);
    engine.destroy(&address).await?;
    Ok(())
}

async fn chroma(url: &str, data: &Data) -> Result<(), Failure> {
    let engine = Chroma::new(Remote { url: url.to_owned(), token: None, timeout: TIMEOUT }, "default_tenant", "default_database")?;
    let address = Address::new(&Tenant::default(), "bench")?;
    let _ = engine.destroy(&address).await;
    engine.create(&address, &Spec { dimension: DIMENSION as u32, metric: Metric::Cosine }).await?;
    let insert = measured("chroma", &engine, &address, data).await?;
    asked(&engine, &address, data).await?.row("chroma, by AuraLink", data.stored.len(), insert);
    let base = format!("{url}/api/v2/tenants/default_tenant/databases/default_database/collections");
    let client = reqwest::Client::new();
    let made: serde_json::Value = client.get(format!("{base}/{}", address.flat())).send().await?.json().await?;
    let path = format!("{base}/{}/query", made["id"].as_str().unwrap_or_default());
    let mut raw = Asked::default();
    for (vector, truth) in data.queries.iter().zip(&data.truth) {
        let start = Instant::now();
        let body = json!({"query_embeddings": [vector], "n_results": K, "include": ["distances", "metadatas", "documents"]});
        let found: serde_json::Value = client.post(&path).json(&body).send().await?.json().await?;
        let ids = found["ids"][0].as_array().into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned)).collect::<Vec<_>>();
        raw.add(start, &ids, truth);
    }
    raw.row("chroma, by reqwest alone", data.stored.len(), insert);
    engine.destroy(&address).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let (mut records, mut urls) = (100_000, Vec::new());
    for word in std::env::args().skip(1) {
        match word.parse() {
            Ok(number) => records = number,
            Err(_) => urls.push(word),
        }
    }
    println!("{:<34} {:>8} {:>10} {:>9} {:>9} {:>10}", "engine", "records", "recall@10", "p50 ms", "p99 ms", "insert/s");
    let data = Arc::new(Data::new(records));
    let start = Instant::now();
    let mut flat = Asked::default();
    for (query, truth) in data.queries.iter().zip(&data.truth).take(50) {
        let start = Instant::now();
        let mut all: Vec<(f32, usize)> = data.stored.iter().enumerate().map(|(i, vector)| (-dot(query, vector), i)).collect();
        all.select_nth_unstable_by(K, |a, b| a.0.total_cmp(&b.0));
        flat.add(start, &all[..K].iter().map(|(_, i)| i.to_string()).collect::<Vec<_>>(), truth);
    }
    flat.row("looking at each, in memory", records, start.elapsed());
    embedded(&data).await?;
    let small = Data::new(records / 10);
    for url in &urls {
        match url.starts_with("http") {
            true => chroma(url, &small).await?,
            false => pgvector(url, &small).await?,
        }
    }
    Ok(())
}
