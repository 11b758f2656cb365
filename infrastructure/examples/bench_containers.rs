//! Docker through this crate beside the `docker` command line, and beside the client library alone, in one run on one daemon.
//!
//! `cargo run --release -p auralink-infrastructure --example bench_containers [ROUNDS]`, as root, after `make setup`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/sandboxes/daemons.rs"]
#[allow(dead_code)]
mod daemons;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use auralink_infrastructure::vm::{Engine, ExecOutput, ExecSpec, Limits, Network, SandboxId, Source, Spec};
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::query_parameters::{CreateImageOptionsBuilder, InspectContainerOptions};
use futures_util::StreamExt;

#[tokio::main]
async fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(10, |text| text.parse().unwrap());
    let daemon = daemons::docker();
    let socket = daemon.socket();
    let api =
        Docker::connect_with_unix(&socket.to_string_lossy(), 120, bollard::API_DEFAULT_VERSION).unwrap().negotiate_version().await.unwrap();
    import(&api).await;
    let engine = daemon.engine();
    let homes = tempfile::tempdir().unwrap();
    let guest = daemons::guest();
    let (mut adapter, mut cli) = (Figures::default(), Figures::default());
    let (mut raw_exec, mut raw_look) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Who comes first has no advantage over all rounds.
        if round % 2 == 0 {
            cli.round(&socket, &guest, round);
        }
        let id = SandboxId::random().unwrap();
        let home = homes.path().join(id.as_str());
        std::fs::create_dir(&home).unwrap();
        let began = Instant::now();
        engine.create(&id, &spec(), &home).await.unwrap();
        engine.start(&id, &spec(), &home).await.unwrap();
        run(&engine, &id, &home).await;
        adapter.first.push(began.elapsed());
        adapter.exec.push(timed(run(&engine, &id, &home)).await);
        raw_exec.push(timed(raw(&api, &format!("auralink-{id}"))).await);
        for _ in 0..20 {
            adapter.look.push(
                timed(async {
                    engine.condition(&id, &home).await.unwrap();
                })
                .await,
            );
            let name = format!("auralink-{id}");
            raw_look.push(timed(async { drop(api.inspect_container(&name, None::<InspectContainerOptions>).await.unwrap()) }).await);
        }
        engine.delete(&id, &home).await.unwrap();
        if round % 2 == 1 {
            cli.round(&socket, &guest, round);
        }
    }
    println!("Docker, medians of {rounds} rounds, ms:");
    println!("| | adapter | beside | ratio |");
    println!("|---|---|---|---|");
    row("create, start, first exec; `docker run -d`, `docker exec`", &mut adapter.first, &mut cli.first);
    row("exec; `docker exec`", &mut adapter.exec, &mut cli.exec);
    row("exec; the client library alone", &mut adapter.exec, &mut raw_exec);
    row("a look; the client library alone", &mut adapter.look, &mut raw_look);
}

#[derive(Default)]
struct Figures {
    first: Vec<Duration>,
    exec: Vec<Duration>,
    look: Vec<Duration>,
}

impl Figures {
    fn round(&mut self, socket: &Path, guest: &Path, round: usize) {
        let name = format!("cli-{round}");
        let docker = |words: &[&str]| {
            let mut command = Command::new("docker");
            command.arg("-H").arg(format!("unix://{}", socket.display())).args(words).stdin(Stdio::null()).stdout(Stdio::null());
            assert!(command.status().unwrap().success(), "docker {words:?}");
        };
        let bind = format!("{}:/.auralink-guest:ro", guest.display());
        let began = Instant::now();
        docker(&[
            "run",
            "-d",
            "--name",
            &name,
            "--network",
            "none",
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
            "--memory",
            "512m",
            "--memory-swap",
            "512m",
            "--cpus",
            "1",
            "--pids-limit",
            "257",
            "--log-driver",
            "none",
            "-v",
            &bind,
            "--entrypoint",
            "/.auralink-guest",
            "bench:1",
            "container",
            "keep",
        ]);
        docker(&["exec", &name, "true"]);
        self.first.push(began.elapsed());
        let began = Instant::now();
        docker(&["exec", &name, "true"]);
        self.exec.push(began.elapsed());
        docker(&["rm", "-f", &name]);
    }
}

fn spec() -> Spec {
    Spec {
        tenant: "bench".parse().unwrap(),
        source: Source::Image("bench:1".into()),
        limits: Limits::default(),
        network: Network::None,
        env: Default::default(),
        workdir: String::new(),
        labels: Default::default(),
        runtime: String::new(),
        shared: Vec::new(),
    }
}

async fn import(api: &Docker) {
    let options = CreateImageOptionsBuilder::default().from_src("-").repo("bench:1").build();
    let body = bollard::body_full(std::fs::read(daemons::rootfs()).unwrap().into());
    let mut progress = api.create_image(Some(options), Some(body), None);
    while let Some(step) = progress.next().await {
        step.unwrap();
    }
}

async fn run(engine: &dyn Engine, id: &SandboxId, home: &Path) {
    let mut exec = engine.exec(id, home, ExecSpec { argv: vec!["true".into()], ..ExecSpec::default() }).await.unwrap();
    while let Some(item) = exec.output.recv().await {
        if let ExecOutput::Exited(status) = item.unwrap() {
            return assert_eq!(status.code, 0);
        }
    }
    panic!("no end");
}

async fn raw(api: &Docker, name: &str) {
    let options = CreateExecOptions {
        cmd: Some(vec!["true"]),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..Default::default()
    };
    let exec = api.create_exec(name, options).await.unwrap().id;
    let StartExecResults::Attached { mut output, input: _input } = api.start_exec(&exec, None).await.unwrap() else { panic!("detached") };
    while let Some(piece) = output.next().await {
        let _: LogOutput = piece.unwrap();
    }
    while api.inspect_exec(&exec).await.unwrap().running == Some(true) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn timed(work: impl Future<Output = ()>) -> Duration {
    let began = Instant::now();
    work.await;
    began.elapsed()
}

fn row(what: &str, one: &mut [Duration], other: &mut [Duration]) {
    let (one, other) = (median(one), median(other));
    println!("| {what} | {:.2} | {:.2} | {:.2} |", one * 1e3, other * 1e3, one / other);
}

fn median(figures: &mut [Duration]) -> f64 {
    figures.sort();
    figures[figures.len() / 2].as_secs_f64()
}
