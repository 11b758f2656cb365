//! The engine `process` with sandboxes made ahead of their time: the same behaviour, whatever body a sandbox has, and none left over.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use auralink_infrastructure::vm::process::{ProcessConfig, ProcessEngine};
use auralink_infrastructure::vm::spec::SharedFolder;
use auralink_infrastructure::vm::{Condition, Engine, Limits, Source, Spec};

use crate::conformance::{Bench, Expect, eventually, sh};

fn config() -> ProcessConfig {
    ProcessConfig { spares: 1, ..ProcessConfig::default() }
}

/// What shows whether a sandbox has a body that was made before: only of those is anybody's agent begun with `--owned`.
fn is_body(sandbox: &crate::conformance::Sandbox<'_>) -> bool {
    std::fs::read_to_string(sandbox.home.join("process.json")).unwrap().contains("\"body\"")
}

/// A bench whose next usual sandbox has a body that was made before.
pub async fn bench() -> Bench {
    let engine = Arc::new(ProcessEngine::new(config()));
    engine.probe().await.expect("the process engine works here: run `make setup`");
    let bench = Bench {
        engine: engine.clone(),
        again: Box::new(|| Arc::new(ProcessEngine::new(config()))),
        source: Source::Host,
        expect: Expect { users: false, ..Expect::ALL },
        homes: tempfile::tempdir().unwrap(),
    };
    bench.sandbox().await.delete().await;
    eventually("a spare is made", async || engine.spares_ready() == 1).await;
    bench
}

/// The home of the one spare; no other sandbox has the arguments of a start in its home.
fn a_spare(homes: &Path) -> PathBuf {
    let mut homes = std::fs::read_dir(homes).unwrap().map(|home| home.unwrap().path());
    homes.find(|home| home.join("launch.json").exists()).unwrap()
}

/// Agents of the body that was made in this home.
fn agents(home: &Path) -> usize {
    let id = home.file_name().unwrap().to_str().unwrap().to_owned();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let words = processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    // bwrap becomes the agent: its own arguments have the mark too, for a moment.
    words.filter(|words| words.contains("--owned") && words.contains(&id) && words.starts_with("/run/auralink-guest")).count()
}

conformance!(bench);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_body_is_the_spare_with_limits_of_its_own() {
    let bench = bench().await;
    let spare = a_spare(bench.homes.path());
    let limits = Limits { memory_bytes: 96 << 20, processes: 20, disk_bytes: 3 << 20, ..Limits::default() };
    let sandbox = bench.sandbox_of(Spec { limits, workdir: "/work/here".into(), ..bench.spec() }).await;
    assert!(!spare.exists(), "its home is nobody's any more");
    assert_eq!(agents(&spare), 1, "its agent is the sandbox's");
    assert_eq!(sandbox.out("pwd").await, "/work/here");
    assert_eq!(sandbox.out("ulimit -f").await, (limits.disk_bytes / 512).to_string());
    let taken = tempfile::tempdir().unwrap();
    sandbox.engine.snapshot(&sandbox.id, &sandbox.home, taken.path()).await.unwrap();
    let record = std::fs::read_to_string(taken.path().join("process.json")).unwrap();
    assert!(!record.contains("FLAVOUR") && !record.contains("body"), "a snapshot has neither its environment nor its body: {record}");
    // More processes than are allowed, and a file that is larger than the disk.
    assert_ne!(sandbox.sh("for n in $(seq 40); do sleep 5 & done; wait").await.code(), 0);
    assert_ne!(sandbox.sh("head -c 5000000 /dev/zero > /work/here/large").await.code(), 0);
    // Another server value goes on with it, stops it and begins it anew, in a body of its own.
    let again = sandbox.with((bench.again)());
    drop(sandbox);
    assert_eq!(again.out("echo kept > kept; pwd").await, "/work/here");
    assert_eq!(again.engine.found(bench.homes.path()).await.unwrap().iter().filter(|id| **id == again.id).count(), 1);
    again.engine.stop(&again.id, &again.home, Duration::from_millis(100)).await.unwrap();
    eventually("its body is gone", async || agents(&spare) == 0).await;
    assert_eq!(again.engine.condition(&again.id, &again.home).await.unwrap(), Condition::Stopped);
    again.engine.start(&again.id, &again.spec, &again.home).await.unwrap();
    assert_eq!(again.out("cat kept; pwd").await, "kept\n/work/here");
    again.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_may_be_given_more_than_a_spare_has() {
    let bench = bench().await;
    let limits = Limits { memory_bytes: 2 * Limits::default().memory_bytes, processes: 400, ..bench.spec().limits };
    let sandbox = bench.sandbox_of(Spec { limits, ..bench.spec() }).await;
    assert!(is_body(&sandbox));
    // More than the spare's limit, in memory that counts.
    let half_as_much_again = Limits::default().memory_bytes * 3 / 2;
    let script = format!("python3 -c 'held = bytearray({half_as_much_again}); print(len(held))'");
    assert_eq!(sandbox.out(&script).await, half_as_much_again.to_string());
    sandbox.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_while_it_begins_does_not_mistake_its_body() {
    let bench = bench().await;
    let spare = a_spare(bench.homes.path());
    let made = bench.made(bench.spec()).await;
    let (asking, begun) = (std::sync::atomic::AtomicBool::new(true), std::sync::atomic::AtomicBool::new(false));
    let ask = async {
        while asking.load(std::sync::atomic::Ordering::Relaxed) {
            // Neither is of any use before it runs.
            let _ = made.engine.usage(&made.id, &made.home).await;
            let _ = made.engine.list_folder(&made.id, &made.home, "/", 1).await;
            begun.store(true, std::sync::atomic::Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    };
    let start = async {
        while !begun.load(std::sync::atomic::Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        made.engine.start(&made.id, &made.spec, &made.home).await.unwrap();
        asking.store(false, std::sync::atomic::Ordering::Relaxed);
    };
    tokio::join!(ask, start);
    assert!(is_body(&made));
    made.engine.pause(&made.id, &made.home).await.unwrap();
    made.engine.resume(&made.id, &made.home).await.unwrap();
    made.delete().await;
    eventually("its body is gone", async || agents(&spare) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_as_many_as_are_wanted() {
    let homes = tempfile::tempdir().unwrap();
    let engine = Arc::new(ProcessEngine::new(ProcessConfig { spares: 3, ..ProcessConfig::default() }));
    let bench = Bench { engine: engine.clone(), homes, ..bench().await };
    bench.sandbox().await.delete().await;
    eventually("three are made", async || engine.spares_ready() == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_files_are_gone_is_made_from_nothing() {
    let bench = bench().await;
    let spare = a_spare(bench.homes.path());
    std::fs::remove_dir_all(spare.join("root")).unwrap();
    let sandbox = bench.sandbox().await;
    assert!(!is_body(&sandbox));
    assert_eq!(sandbox.out("echo here").await, "here");
    sandbox.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_made_and_not_started_does_not_run() {
    let bench = bench().await;
    let spare = a_spare(bench.homes.path());
    let made = bench.made(bench.spec()).await;
    assert_eq!(made.engine.condition(&made.id, &made.home).await.unwrap(), Condition::Stopped);
    assert!(made.engine.exec(&made.id, &made.home, sh("true")).await.is_err());
    made.delete().await;
    eventually("its body is gone too", async || agents(&spare) == 0 && !spare.exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_more_is_begun_from_nothing() {
    let bench = bench().await;
    let spare = a_spare(bench.homes.path());
    let root = tempfile::tempdir().unwrap();
    let shared = vec![SharedFolder { from: root.path().to_owned(), at: "/opt/shared".into() }];
    let sandbox = bench.sandbox_of(Spec { shared, ..bench.spec() }).await;
    assert_eq!(sandbox.out("ls -d /opt/shared").await, "/opt/shared");
    assert_eq!((agents(&spare), spare.exists()), (1, true), "the spare waits on");
    sandbox.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cannot_be_used_is_replaced_by_a_body_begun_from_nothing() {
    let bench = bench().await;
    let spare = a_spare(bench.homes.path());
    // Its socket cannot be taken over.
    std::fs::remove_file(spare.join("agent.sock")).unwrap();
    let sandbox = bench.sandbox().await;
    assert_eq!(sandbox.out("echo here; pwd; echo $FLAVOUR").await, "here\n/workspace\nplain");
    eventually("the spare is gone", async || agents(&spare) == 0 && !spare.exists()).await;
    sandbox.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_ends_with_its_server() {
    let bench = bench().await;
    let spare = a_spare(bench.homes.path());
    let Bench { engine, homes, .. } = bench;
    drop(engine);
    assert!(!spare.exists());
    // Who was killed is there for a moment more.
    eventually("its agent is gone", async || agents(&spare) == 0).await;
    drop(homes);
}

/// As after a kill: another server value knows nothing of it. (That its agent ends by itself: `tests/e2e/sandboxes.test.mjs`.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_of_another_server_value_is_a_stray() {
    let bench = bench().await;
    let spare = a_spare(bench.homes.path());
    let id = spare.file_name().unwrap().to_str().unwrap().parse().unwrap();
    assert!(!bench.engine.found(bench.homes.path()).await.unwrap().contains(&id), "its own knows whose it is");
    let again = (bench.again)();
    assert!(again.found(bench.homes.path()).await.unwrap().contains(&id));
    again.delete(&id, &spare).await.unwrap();
    eventually("its agent is gone", async || agents(&spare) == 0).await;
    // The engine whose spare was taken away begins the next one from nothing.
    bench.sandbox().await.delete().await;
}
