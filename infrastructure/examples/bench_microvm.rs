//! MicroVMs by QEMU, beside what was asked of them: ready 3 s after they are asked for, an exec in 30 ms, both under emulation.
//! `cargo run --release --example bench_microvm -- [ROUNDS]`; needs the guest agent, QEMU, a kernel and busybox (`make setup`).
//!
//! "Ready" is from before `create`, which makes the disks, to the agent's greeting; the first exec stands apart.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use auralink_infrastructure::vm::qemu::{QemuConfig, QemuEngine};
use auralink_infrastructure::vm::{Engine, ExecOutput, ExecSpec, Limits, Network, SandboxId, Source, Spec};

/// Execs in each machine.
const EXECS: usize = 20;

fn main() {
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(5);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure(&QemuEngine::new(QemuConfig::default()), rounds));
}

async fn measure(engine: &dyn Engine, rounds: usize) {
    let notes = match engine.probe().await {
        Ok(told) => told.notes,
        Err(error) => return println!("qemu: not measured: {error}"),
    };
    let emulated = notes.iter().find(|note| note.contains("TCG"));
    println!("qemu, {}", emulated.map_or("by KVM", String::as_str));
    println!("{rounds} machines one after the other, {EXECS} execs in each; load of this machine {}", load());
    let folder = tempfile::tempdir().unwrap();
    let root = busybox_root(folder.path());
    let mut times = Times::default();
    for _ in 0..rounds {
        times.of_one(engine, &root, folder.path()).await;
    }
    println!("{:<28} {:>9} {:>9} {:>9}", "what", "p50 ms", "p99 ms", "goal ms");
    row("create (disks)", &mut times.created, None);
    row("start to ready", &mut times.started, None);
    row("create to ready", &mut times.ready, Some(3_000));
    row("first exec", &mut times.first, None);
    row("one more exec", &mut times.execs, Some(30));
    row("delete", &mut times.deleted, None);
}

#[derive(Default)]
struct Times {
    created: Vec<Duration>,
    started: Vec<Duration>,
    ready: Vec<Duration>,
    first: Vec<Duration>,
    execs: Vec<Duration>,
    deleted: Vec<Duration>,
}

impl Times {
    async fn of_one(&mut self, engine: &dyn Engine, root: &Path, folder: &Path) {
        let id = SandboxId::random().unwrap();
        let home = folder.join(id.as_str());
        std::fs::create_dir(&home).unwrap();
        let spec = Spec {
            tenant: "bench".parse().unwrap(),
            source: Source::RootFs(root.to_path_buf()),
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
        self.created.push(began.elapsed());
        let start = Instant::now();
        engine.start(&id, &spec, &home).await.unwrap();
        self.started.push(start.elapsed());
        self.ready.push(began.elapsed());
        self.first.push(exec(engine, &id, &home).await);
        for _ in 0..EXECS {
            self.execs.push(exec(engine, &id, &home).await);
        }
        let began = Instant::now();
        engine.delete(&id, &home).await.unwrap();
        self.deleted.push(began.elapsed());
    }
}

async fn exec(engine: &dyn Engine, id: &SandboxId, home: &Path) -> Duration {
    let began = Instant::now();
    let spec = ExecSpec { argv: vec!["/bin/true".into()], ..ExecSpec::default() };
    let mut exec = engine.exec(id, home, spec).await.unwrap();
    loop {
        match exec.output.recv().await {
            Some(Ok(ExecOutput::Exited(status))) => {
                assert_eq!(status.code, 0);
                return began.elapsed();
            }
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn row(what: &str, times: &mut [Duration], goal: Option<u32>) {
    times.sort();
    let at = |part: f64| times.get((times.len().saturating_sub(1) as f64 * part) as usize).map_or(0.0, |t| t.as_secs_f64() * 1_000.0);
    let goal = goal.map_or(String::new(), |goal| goal.to_string());
    println!("{what:<28} {:>9.2} {:>9.2} {goal:>9}", at(0.5), at(0.99));
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Busybox alone.
fn busybox_root(folder: &Path) -> std::path::PathBuf {
    let root = folder.join("root");
    for name in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy("/usr/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed: run `make setup`");
    for name in ["sh", "true", "cat"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    root
}
