//! The engine `firecracker` against a stub that checks every request by Firecracker's published OpenAPI document, with the real agent behind
//! its vsock. It shows that requests, their order and the vsock convention are right; not that a guest boots.
#![allow(clippy::unwrap_used, reason = "a test's steps")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vm::firecracker::{Api, FirecrackerConfig, FirecrackerEngine, Jailer};
use auralink_infrastructure::vm::{Condition, Engine, ExecOutput, ExecSpec, Limits, Network, SandboxId, Source, Spec, VmError};

fn stub() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/firecracker/stub.py")
}

/// A kernel folder that has what the stub looks for: a file.
fn kernel(folder: &Path) -> PathBuf {
    let kernel = folder.join("kernel");
    std::fs::create_dir_all(kernel.join("modules")).unwrap();
    std::fs::write(kernel.join("vmlinux"), "a kernel").unwrap();
    std::fs::write(kernel.join("modules/order"), "").unwrap();
    kernel
}

struct Bench {
    folder: tempfile::TempDir,
    engine: FirecrackerEngine,
    id: SandboxId,
    spec: Spec,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        let spec = Spec {
            tenant: "tests".parse::<Tenant>().unwrap(),
            source: Source::RootFs(root),
            limits: Limits { memory_bytes: 128 << 20, disk_bytes: 32 << 20, ..Limits::default() },
            network: Network::None,
            env: [("FLAVOUR".to_owned(), "plain".to_owned())].into(),
            workdir: "/tmp".into(),
            labels: [].into(),
            runtime: String::new(),
            shared: Vec::new(),
        };
        let engine = FirecrackerEngine::new(FirecrackerConfig { program: stub(), kernel: kernel(folder.path()) });
        let id = SandboxId::random().unwrap();
        std::fs::create_dir_all(folder.path().join("homes").join(id.as_str())).unwrap();
        Self { folder, engine, id, spec }
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("homes").join(self.id.as_str())
    }

    async fn out(&self, script: &str) -> String {
        let exec = ExecSpec { argv: ["sh", "-c", script].map(str::to_owned).into(), ..ExecSpec::default() };
        let mut exec = self.engine.exec(&self.id, &self.home(), exec).await.unwrap();
        let mut text = String::new();
        while let Some(output) = exec.output.recv().await {
            match output.unwrap() {
                ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
                ExecOutput::Exited(_) => return text,
            }
        }
        panic!("no end; so far {text}");
    }
}

#[tokio::test]
async fn from_create_to_delete_by_the_published_requests_alone() {
    let bench = Bench::new();
    let (engine, id, home) = (&bench.engine, &bench.id, bench.home());
    assert!(engine.probe().await.unwrap().notes.iter().any(|note| note.contains("never tested")));
    engine.create(id, &bench.spec, &home).await.unwrap();
    assert_eq!(engine.condition(id, &home).await.unwrap(), Condition::Stopped);
    engine.start(id, &bench.spec, &home).await.unwrap();
    assert_eq!(engine.condition(id, &home).await.unwrap(), Condition::Running);
    assert_eq!(bench.out("echo $FLAVOUR; pwd").await, "plain\n/tmp\n");
    engine.pause(id, &home).await.unwrap();
    assert_eq!(engine.condition(id, &home).await.unwrap(), Condition::Paused);
    let refused = engine.exec(id, &home, ExecSpec { argv: vec!["true".into()], ..ExecSpec::default() }).await;
    assert!(matches!(refused, Err(VmError::Condition { .. })));
    engine.resume(id, &home).await.unwrap();
    assert_eq!(bench.out("echo on").await, "on\n");
    // A restarted server finds it.
    let again = FirecrackerEngine::new(FirecrackerConfig { program: stub(), kernel: kernel(bench.folder.path()) });
    assert_eq!(again.found(home.parent().unwrap()).await.unwrap(), std::slice::from_ref(id));
    assert!(again.usage(id, &home).await.unwrap().processes > 0);
    assert!(!home.join("refused").exists(), "{}", std::fs::read_to_string(home.join("refused")).unwrap_or_default());
    engine.stop(id, &home, Duration::from_millis(200)).await.unwrap();
    assert_eq!(engine.condition(id, &home).await.unwrap(), Condition::Stopped);
    engine.delete(id, &home).await.unwrap();
    assert_eq!(engine.condition(id, &home).await.unwrap(), Condition::Gone);
}

#[tokio::test]
async fn snapshots_are_asked_for_as_published() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let mut stub = std::process::Command::new(stub()).arg("--api-sock").arg(&socket).spawn().unwrap();
    let api = Api::new(socket);
    while api.state().await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (state, memory) = (folder.path().join("state"), folder.path().join("memory"));
    let refused = api.save(&state, &memory).await.unwrap_err();
    assert!(refused.to_string().contains("not running"), "the reason comes through: {refused}");
    for file in [&state, &memory] {
        std::fs::write(file, "").unwrap();
    }
    api.load(&state, &memory, &folder.path().join("vsock.sock")).await.unwrap();
    assert_eq!(api.state().await.unwrap(), "Paused");
    api.save(&state, &memory).await.unwrap();
    api.set_paused(false).await.unwrap();
    assert_eq!(api.state().await.unwrap(), "Running");
    stub.kill().unwrap();
    stub.wait().unwrap();
}

#[tokio::test]
async fn what_is_missing_is_said_in_words() {
    let engine = FirecrackerEngine::new(FirecrackerConfig { program: "/no/such/firecracker".into(), kernel: "/no/such".into() });
    assert!(matches!(engine.probe().await, Err(VmError::Unavailable { reason, .. }) if reason.contains("/no/such/firecracker")));
}

#[test]
fn the_jailer_is_told_what_it_takes() {
    let jailer = Jailer { program: "/usr/bin/jailer".into(), base: "/srv/jailer".into(), user: (1234, 1235) };
    let id = SandboxId::random().unwrap();
    let line = jailer.arguments(Path::new("/usr/bin/firecracker"), &id).join(" ");
    let expected = format!(
        "--id {id} --exec-file /usr/bin/firecracker --uid 1234 --gid 1235 --chroot-base-dir /srv/jailer --cgroup-version 2 --daemonize --new-pid-ns -- --api-sock /api.sock"
    );
    assert_eq!(line, expected);
}
