//! What the embedded engine promises about its folder: kill -9, a full disk, a second process.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vector::embedded::Embedded;
use auralink_infrastructure::vector::{Address, Engine, Metric, Query, Record, Spec, VectorError};

use crate::promises::record;

/// Where the child works; a test that finds this set is the child.
const FOLDER: &str = "AURALINK_TEST_VECTORS_FOLDER";
const DIMENSION: u32 = 96;

fn address() -> Address {
    Address::new(&Tenant::default(), "c").unwrap()
}

fn batch(number: usize) -> Vec<Record> {
    let mut next = crate::promises::noise(number as u64);
    (0..50).map(|i| record(&format!("{number}-{i}"), (0..DIMENSION).map(|_| next()).collect())).collect()
}

/// This very binary, running one of the tests below as a child.
fn child(test: &str, folder: &std::path::Path, before: &[&str]) -> Child {
    let this = std::env::current_exe().unwrap();
    let arguments = [test, "--exact", "--nocapture"];
    let mut command = match before {
        [] => Command::new(&this),
        [program, rest @ ..] => {
            let mut command = Command::new(program);
            command.args(rest).arg(&this);
            command
        }
    };
    command.args(arguments).env(FOLDER, folder).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Writes without end, and says what was acknowledged.
#[tokio::test]
async fn child_that_writes() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let engine = Embedded::open(folder.as_ref()).unwrap();
    let _ = engine.create(&address(), &Spec { dimension: DIMENSION, metric: Metric::Cosine }).await;
    let begin = engine.describe(&address()).await.unwrap().count as usize / 50 + 1_000;
    let mut failures = 0;
    for number in begin.. {
        match engine.upsert(&address(), batch(number)).await {
            Ok(()) => println!("\nacknowledged {number}"),
            Err(why) => {
                println!("\nfailed {}: {why}", matches!(why, VectorError::DiskFull { .. }));
                failures += 1;
            }
        }
        if failures == 5 {
            break;
        }
    }
    // What is there can still be counted and found.
    let count = engine.describe(&address()).await.unwrap().count;
    let query = Query { vector: batch(begin)[0].vector.clone(), k: 1, filter: None, with_vectors: false };
    let found = engine.query(&address(), &query).await.unwrap();
    println!("\ncounted {count} {}", found[0].record.id == format!("{begin}-0"));
}

fn numbers(child: &mut Child, most: usize) -> Vec<usize> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let acknowledged = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
    acknowledged.take(most).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let mut writer = child("crash::child_that_writes", folder.path(), &[]);
        acknowledged.extend(numbers(&mut writer, 15 + round * 7));
        writer.kill().unwrap();
        writer.wait().unwrap();
    }
    assert_eq!(acknowledged.len(), 15 + 22 + 29);
    let engine = Embedded::open(folder.path()).unwrap();
    for number in acknowledged {
        let records = batch(number);
        let ids: Vec<String> = records.iter().map(|record| record.id.clone()).collect();
        assert_eq!(engine.get(&address(), &ids).await.unwrap(), records, "batch {number}");
        let query = Query { vector: records[7].vector.clone(), k: 1, filter: None, with_vectors: false };
        assert_eq!(engine.query(&address(), &query).await.unwrap()[0].record.id, records[7].id);
    }
    let count = engine.describe(&address()).await.unwrap().count;
    assert_eq!(count % 50, 0, "a batch is written whole or not at all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    // A mount namespace of the child's own: nothing of the mount is left when it ends.
    let script = format!("mount -t tmpfs -o size=3m none '{}' && exec \"$@\"", folder.path().display());
    let mut arguments = vec!["unshare"];
    if !rustix::process::geteuid().is_root() {
        arguments.push("-r");
    }
    arguments.extend(["-m", "sh", "-c", &script, "sh"]);
    let mut writer = child("crash::child_that_writes", folder.path(), &arguments);
    let said: Vec<String> = BufReader::new(writer.stdout.take().unwrap()).lines().map_while(Result::ok).collect();
    assert!(writer.wait().unwrap().success(), "{said:?}");
    let acknowledged = said.iter().filter(|line| line.starts_with("acknowledged ")).count();
    assert!(acknowledged > 3, "{said:?}");
    // SQLite may find room again when its log begins anew: then a later batch is taken, and counted.
    let failed: Vec<&String> = said.iter().filter(|line| line.starts_with("failed ")).collect();
    assert!(failed.len() == 5 && failed.iter().all(|line| line.starts_with("failed true") && line.contains("make room")), "{failed:?}");
    assert!(said.contains(&format!("counted {} true", acknowledged * 50)), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = child("crash::child_that_writes", folder.path(), &[]);
    assert_eq!(numbers(&mut writer, 1).len(), 1);
    let refused = Embedded::open(folder.path()).unwrap_err();
    assert!(matches!(&refused, VectorError::InUse { .. }) && refused.to_string().contains("another process"), "{refused}");
    writer.kill().unwrap();
    writer.wait().unwrap();
    let engine = Embedded::open(folder.path()).unwrap();
    assert!(engine.describe(&address()).await.unwrap().count >= 50);
    assert!(matches!(Embedded::open(folder.path()), Err(VectorError::InUse { .. })), "a second time in one process, too");
}

#[tokio::test]
async fn what_a_crash_left_aside_is_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let aside = folder.path().join(".aside-x");
    std::fs::create_dir(&aside).unwrap();
    std::fs::write(aside.join("records.db"), "half").unwrap();
    let engine = Embedded::open(folder.path()).unwrap();
    assert!(!aside.exists());
    assert!(engine.list(&Tenant::default()).await.unwrap().is_empty());
}
