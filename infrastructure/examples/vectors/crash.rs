//! Kill -9 under a writer: a child process that inserts, killed in the middle, and the folder opened again.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use auralink_infrastructure::vector::embedded::Embedded;
use auralink_infrastructure::vector::{Address, Engine, Metric, Spec};

use super::Failure;
use super::data::{BATCH, DIMENSION, Data};

/// Where the child works; a process that finds this set is the child.
pub const FOLDER: &str = "AURALINK_BENCH_VECTORS_FOLDER";
/// The child is killed after so many acknowledged batches.
const BATCHES: usize = 60;

fn address() -> Result<Address, Failure> {
    Ok(Address::new(&Default::default(), "killed")?)
}

/// The child: writes without end, and says what was acknowledged.
pub async fn write(folder: &Path) -> Result<(), Failure> {
    let data = Data::noise(BATCHES * 2 * BATCH);
    let engine = Embedded::open(folder)?;
    engine.create(&address()?, &Spec { dimension: DIMENSION as u32, metric: Metric::Cosine }).await?;
    for batch in 0..data.batches() {
        engine.upsert(&address()?, data.records(batch)).await?;
        println!("{batch}");
    }
    Ok(())
}

pub async fn measure() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let mut child = Command::new(std::env::current_exe()?).env(FOLDER, folder.path()).stdout(Stdio::piped()).spawn()?;
    let lines = BufReader::new(child.stdout.take().ok_or("it is piped")?).lines();
    let acknowledged: Vec<usize> = lines.map_while(Result::ok).filter_map(|line| line.parse().ok()).take(BATCHES).collect();
    child.kill()?;
    child.wait()?;
    let data = Data::noise(BATCHES * 2 * BATCH);
    let start = Instant::now();
    let engine = Embedded::open(folder.path())?;
    let there = engine.describe(&address()?).await?.count;
    let opened = start.elapsed();
    let mut lost = 0;
    for batch in &acknowledged {
        let records = data.records(*batch);
        let ids: Vec<String> = records.iter().map(|record| record.id.clone()).collect();
        let found = engine.get(&address()?, &ids).await?;
        lost += records.iter().filter(|record| !found.contains(record)).count();
    }
    println!(
        "embedded, kill -9 under inserts: {} records acknowledged, {there} there when opened again ({opened:.1?}), {lost} lost",
        acknowledged.len() * BATCH
    );
    Ok(())
}
