//! Sandboxes beside what a user would start himself: create to first exec, and one more exec. `process` beside `bwrap` with the same
//! confinement. `cargo run --release --example bench_sandboxes -- [ROUNDS]`; needs the guest agent and bubblewrap (`make setup`).
//!
//! Another engine is measured by one more line in `main`: the engine, its source, and the command of its peer.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use auralink_infrastructure::vm::process::{ProcessConfig, ProcessEngine};
use auralink_infrastructure::vm::{Engine, ExecOutput, ExecSpec, Limits, Network, SandboxId, Source, Spec};

/// One exec of `true` in bubblewrap with what the engine gives: namespaces, no capabilities, the host's programs.
const BWRAP: &[&str] = &[
    "bwrap",
    "--unshare-all",
    "--uid",
    "0",
    "--gid",
    "0",
    "--cap-drop",
    "ALL",
    "--new-session",
    "--clearenv",
    "--hostname",
    "bench",
    "--ro-bind",
    "/usr",
    "/usr",
    "--symlink",
    "usr/bin",
    "/bin",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--ro-bind",
    "/etc/alternatives",
    "/etc/alternatives",
    "--ro-bind",
    "/etc/ssl/certs",
    "/etc/ssl/certs",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--tmpfs",
    "/tmp",
    "--tmpfs",
    "/workspace",
    "--",
    "/usr/bin/true",
];

fn main() {
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(30);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    println!("{:<10} {:<34} {:>9} {:>9} {:>7}", "engine", "what", "p50 ms", "p99 ms", "ratio");
    runtime.block_on(async {
        // As a server has it: the usual sandbox was made ahead of its time.
        let usual = ProcessEngine::new(ProcessConfig { spares: 1, ..ProcessConfig::default() });
        let ready = async || {
            while usual.spares_ready() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        measure(&usual, "process", Source::Host, BWRAP, rounds, ready).await;
        let anew = ProcessEngine::new(ProcessConfig::default());
        measure(&anew, "anew", Source::Host, BWRAP, rounds, async || {}).await;
    });
}

/// Before each round but the first, `ready` is waited for.
async fn measure(engine: &dyn Engine, name: &str, source: Source, peer: &[&str], rounds: usize, ready: impl AsyncFn()) {
    if let Err(error) = engine.probe().await {
        return println!("{:<10} not measured: {error}", engine.name());
    }
    let homes = tempfile::tempdir().unwrap();
    let (mut created, mut execs, mut peers, mut bare) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // One after the other in each round, so that a busy machine is busy for both.
    for _ in 0..rounds {
        peers.push(spawned(peer));
        bare.push(spawned(&["/usr/bin/true"]));
        let (first, more) = sandbox(engine, &source, homes.path()).await;
        created.push(first);
        execs.extend(more);
        ready().await;
    }
    let own = row(name, "its peer's own command", &mut peers, None);
    row(name, "create to the end of the first exec", &mut created, Some(own));
    let spawn = row(name, "a bare spawn on the host", &mut bare, None);
    let exec = row(name, "one more exec", &mut execs, Some(spawn));
    println!("{name:<10} exec overhead over a bare spawn: {:.2} ms", exec - spawn);
}

fn row(engine: &str, what: &str, times: &mut [Duration], beside: Option<f64>) -> f64 {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1_000.0;
    let ratio = beside.map_or(String::new(), |other| format!("{:.2}", at(0.5) / other));
    println!("{engine:<10} {what:<34} {:>9.2} {:>9.2} {ratio:>7}", at(0.5), at(0.99));
    at(0.5)
}

fn spawned(argv: &[&str]) -> Duration {
    let began = Instant::now();
    let status = Command::new(argv[0]).args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{argv:?}");
    began.elapsed()
}

async fn sandbox(engine: &dyn Engine, source: &Source, homes: &Path) -> (Duration, Vec<Duration>) {
    let id = SandboxId::random().unwrap();
    let home = homes.join(id.as_str());
    std::fs::create_dir(&home).unwrap();
    let spec = Spec {
        tenant: "bench".parse().unwrap(),
        source: source.clone(),
        limits: Limits::default(),
        network: Network::None,
        env: BTreeMap::new(),
        workdir: "/workspace".into(),
        labels: BTreeMap::new(),
        runtime: String::new(),
        shared: Vec::new(),
    };
    let began = Instant::now();
    engine.create(&id, &spec, &home).await.unwrap();
    engine.start(&id, &spec, &home).await.unwrap();
    exec(engine, &id, &home).await;
    let first = began.elapsed();
    let mut more = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        exec(engine, &id, &home).await;
        more.push(began.elapsed());
    }
    engine.delete(&id, &home).await.unwrap();
    (first, more)
}

async fn exec(engine: &dyn Engine, id: &SandboxId, home: &Path) {
    let spec = ExecSpec { argv: vec!["/usr/bin/true".into()], ..ExecSpec::default() };
    let mut exec = engine.exec(id, home, spec).await.unwrap();
    loop {
        match exec.output.recv().await {
            Some(Ok(ExecOutput::Exited(status))) => return assert_eq!(status.code, 0),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}
