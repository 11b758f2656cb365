//! The engine `firecracker` against a stub that checks every request by Firecracker's published OpenAPI document, with the real agent behind
//! its vsock. It shows that requests, their order and the vsock convention are right; not that a guest boots.
#![allow(clippy::unwrap_used, reason = "a test's steps")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vm::firecracker::{Api, FirecrackerConfig, FirecrackerEngine, Jailer};
use auralink_infrastructure::vm::network::Networks;
use auralink_infrastructure::vm::{Condition, Engine, ExecOutput, ExecSpec, Limits, Network, SandboxId, Source, Spec, VmError};

#[path = "../sandboxes/network_world.rs"]
mod network_world;
mod vsock;

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
        let config = FirecrackerConfig { program: stub(), kernel: kernel(folder.path()), ..FirecrackerConfig::default() };
        let id = SandboxId::random().unwrap();
        let bench = Self { folder, engine: FirecrackerEngine::new(config), id: id.clone(), spec };
        std::fs::create_dir_all(bench.home_of(&id)).unwrap();
        bench
    }

    fn home(&self) -> PathBuf {
        self.home_of(&self.id)
    }

    fn home_of(&self, id: &SandboxId) -> PathBuf {
        self.folder.path().join("homes").join(id.as_str())
    }

    fn snapshot(&self) -> PathBuf {
        let folder = self.folder.path().join("snapshot");
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// One that is begun from [`Bench::snapshot`] and runs.
    async fn begun(&self, network: Network) -> SandboxId {
        let id = SandboxId::random().unwrap();
        let home = self.home_of(&id);
        std::fs::create_dir_all(&home).unwrap();
        let spec = Spec { source: Source::Snapshot(self.snapshot()), network, ..self.spec.clone() };
        self.engine.create(&id, &spec, &home).await.unwrap();
        self.engine.start(&id, &spec, &home).await.unwrap();
        id
    }

    async fn out(&self, script: &str) -> String {
        self.out_of(&self.id, script).await
    }

    async fn out_of(&self, id: &SandboxId, script: &str) -> String {
        let exec = ExecSpec { argv: ["sh", "-c", script].map(str::to_owned).into(), ..ExecSpec::default() };
        let mut exec = self.engine.exec(id, &self.home_of(id), exec).await.unwrap();
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
    let again =
        FirecrackerEngine::new(FirecrackerConfig { program: stub(), kernel: kernel(bench.folder.path()), ..FirecrackerConfig::default() });
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
    api.load(&state, &memory, &folder.path().join("vsock.sock"), &[]).await.unwrap();
    assert_eq!(api.state().await.unwrap(), "Paused");
    for file in [&state, &memory] {
        std::fs::remove_file(file).unwrap();
    }
    api.save(&state, &memory).await.unwrap();
    api.set_paused(false).await.unwrap();
    assert_eq!(api.state().await.unwrap(), "Running");
    stub.kill().unwrap();
    stub.wait().unwrap();
}

/// What the agent was greeted with, of everything that was said to it.
fn entropy(place: &Path) -> Vec<String> {
    let said = String::from_utf8_lossy(&std::fs::read(place.join("said")).unwrap()).into_owned();
    said.split(r#""entropy":""#).skip(1).map(|rest| rest.chars().take_while(char::is_ascii_hexdigit).collect()).collect()
}

fn nothing_refused(place: &Path) {
    assert!(!place.join("refused").exists(), "{}", std::fs::read_to_string(place.join("refused")).unwrap_or_default());
}

#[tokio::test]
async fn two_begun_from_a_snapshot_have_disks_of_their_own_and_other_entropy() {
    let bench = Bench::new();
    let (engine, id, home) = (&bench.engine, &bench.id, bench.home());
    engine.create(id, &bench.spec, &home).await.unwrap();
    engine.start(id, &bench.spec, &home).await.unwrap();
    engine.snapshot(id, &home, &bench.snapshot()).await.unwrap();
    assert_eq!(engine.condition(id, &home).await.unwrap(), Condition::Running, "it goes on");
    let clones = [bench.begun(Network::None).await, bench.begun(Network::None).await];
    // Its own disks are there to be opened alone: the first one's are gone.
    engine.delete(id, &home).await.unwrap();
    let mut seen = entropy(&bench.home_of(&clones[0]));
    seen.extend(entropy(&bench.home_of(&clones[1])));
    assert_eq!(seen.len(), 2, "each was greeted once: {seen:?}");
    assert!(seen.iter().all(|bytes| bytes.len() >= 64) && seen[0] != seen[1], "{seen:?}");
    for clone in &clones {
        let home = bench.home_of(clone);
        assert_eq!(bench.out_of(clone, "echo $FLAVOUR").await, "plain\n");
        assert!(!home.join("memory").exists(), "it is begun from once");
        nothing_refused(&home);
        // One that was begun from a snapshot can be written to another.
        engine.snapshot(clone, &home, &bench.snapshot()).await.unwrap();
        engine.delete(clone, &home).await.unwrap();
    }
    let other = Spec { source: Source::Snapshot(bench.snapshot()), network: Network::Nat, ..bench.spec.clone() };
    std::fs::create_dir_all(bench.home()).unwrap();
    let refused = engine.create(&bench.id, &other, &bench.home()).await;
    assert!(matches!(refused, Err(VmError::Unsupported { .. })), "{refused:?}");
}

#[tokio::test]
async fn the_jailer_shuts_it_in_and_nothing_is_left() {
    let mut bench = Bench::new();
    let program = bench.folder.path().join("firecracker");
    std::fs::copy(stub(), &program).unwrap();
    std::fs::copy(stub().with_file_name("schema.json"), bench.folder.path().join("schema.json")).unwrap();
    // The jail's user passes the folders above it.
    std::os::unix::fs::PermissionsExt::set_mode(&mut std::fs::metadata(bench.folder.path()).unwrap().permissions(), 0o755);
    let base = bench.folder.path().join("jails");
    let config = FirecrackerConfig {
        program,
        kernel: kernel(bench.folder.path()),
        jailer: Some(Jailer { program: stub().with_file_name("jailer.py"), base: base.clone(), user: (61_234, 61_235) }),
        ..FirecrackerConfig::default()
    };
    bench.engine = FirecrackerEngine::new(config.clone());
    let (engine, id, home) = (&bench.engine, &bench.id, bench.home());
    assert!(!engine.probe().await.unwrap().notes.iter().any(|note| note.contains("no jailer")));
    engine.create(id, &bench.spec, &home).await.unwrap();
    engine.start(id, &bench.spec, &home).await.unwrap();
    let cell = base.join("firecracker").join(id.as_str());
    nothing_refused(&cell.join("root"));
    assert_eq!(bench.out("id -u; id -g; ls /root.img /disk.img").await, "61234\n61235\n/disk.img\n/root.img\n");
    engine.pause(id, &home).await.unwrap();
    engine.snapshot(id, &home, &bench.snapshot()).await.unwrap();
    assert_eq!(engine.condition(id, &home).await.unwrap(), Condition::Paused);
    engine.resume(id, &home).await.unwrap();
    let clone = bench.begun(Network::None).await;
    assert_eq!(bench.out_of(&clone, "echo on").await, "on\n");
    engine.stop(&clone, &bench.home_of(&clone), Duration::from_millis(200)).await.unwrap();
    engine.delete(&clone, &bench.home_of(&clone)).await.unwrap();
    // A server that comes later finds a jail without a home, another's not.
    let again = FirecrackerEngine::new(config);
    std::fs::remove_dir_all(&home).unwrap();
    assert_eq!(again.found(home.parent().unwrap()).await.unwrap(), std::slice::from_ref(id));
    let others = tempfile::tempdir().unwrap();
    assert!(again.found(others.path()).await.unwrap().is_empty());
    again.delete(id, &home).await.unwrap();
    assert!(!cell.exists());
    assert!(again.found(home.parent().unwrap()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_is_a_tap_that_a_snapshot_gets_anew() {
    let world = network_world::World::new();
    let mut bench = Bench::new();
    let config =
        FirecrackerConfig { program: stub(), kernel: kernel(bench.folder.path()), network: world.config(), ..FirecrackerConfig::default() };
    bench.engine = FirecrackerEngine::new(config);
    bench.spec.network = Network::Nat;
    let (engine, id, home) = (&bench.engine, &bench.id, bench.home());
    engine.create(id, &bench.spec, &home).await.unwrap();
    engine.start(id, &bench.spec, &home).await.unwrap();
    let own = "ip addr show dev eth0 | grep -o 'ether [^ ]*\\|inet [^ ]*'; cat /etc/resolv.conf";
    let first = bench.out(own).await;
    assert!(
        first.starts_with("ether 02:a1:0a:d5:") && first.contains("inet 10.213.") && first.contains("nameserver 203.0.113.9"),
        "{first}"
    );
    engine.snapshot(id, &home, &bench.snapshot()).await.unwrap();
    let clone = bench.begun(Network::Nat).await;
    let other = bench.out_of(&clone, own).await;
    assert!(first.lines().zip(other.lines()).take(2).all(|(one, other)| one != other), "{first}{other}");
    let networks = Networks::new(world.config(), home.parent().unwrap()).unwrap();
    assert_eq!(networks.found_taps().len(), 2);
    for each in [id, &clone] {
        nothing_refused(&bench.home_of(each));
        engine.delete(each, &bench.home_of(each)).await.unwrap();
    }
    assert!(networks.found().is_empty());
}

#[tokio::test]
async fn what_is_missing_is_said_in_words() {
    let engine = FirecrackerEngine::new(FirecrackerConfig {
        program: "/no/such/firecracker".into(),
        kernel: "/no/such".into(),
        ..FirecrackerConfig::default()
    });
    assert!(matches!(engine.probe().await, Err(VmError::Unavailable { reason, .. }) if reason.contains("/no/such/firecracker")));
}

#[test]
fn the_jailer_is_told_what_it_takes() {
    let jailer = Jailer { program: "/usr/bin/jailer".into(), base: "/srv/jailer".into(), user: (1234, 1235) };
    let id = SandboxId::random().unwrap();
    let line = jailer.arguments(Path::new("/usr/bin/firecracker"), &id, Some(Path::new("/run/netns/sandboxes"))).join(" ");
    let expected = format!(
        "--id {id} --exec-file /usr/bin/firecracker --uid 1234 --gid 1235 --chroot-base-dir /srv/jailer --cgroup-version 2 --netns /run/netns/sandboxes --daemonize --new-pid-ns -- --api-sock /api.sock"
    );
    assert_eq!(line, expected);
}
