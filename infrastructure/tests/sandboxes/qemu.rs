//! The engine `qemu`: microVMs, emulated; and what it does when KVM cannot be used.

use std::path::Path;
use std::sync::Arc;

use auralink_infrastructure::vm::qemu::{QemuConfig, QemuEngine};
use auralink_infrastructure::vm::{Engine, SharedFolder, Source, Spec, VmError};

use crate::conformance::{Bench, Expect};

/// A root filesystem of busybox alone, made once for all tests.
pub fn root() -> &'static Path {
    static ROOT: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let make = || {
        let root = tempfile::tempdir().unwrap();
        for folder in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
            std::fs::create_dir(root.path().join(folder)).unwrap();
        }
        let busybox = root.path().join("bin/busybox");
        std::fs::copy("/usr/bin/busybox", &busybox).expect("busybox-static is installed: run `make setup`");
        let names = std::process::Command::new(&busybox).arg("--list").output().unwrap().stdout;
        for name in String::from_utf8(names).unwrap().lines().filter(|name| *name != "busybox") {
            std::os::unix::fs::symlink("busybox", root.path().join("bin").join(name)).unwrap();
        }
        root
    };
    ROOT.get_or_init(make).path()
}

fn engine() -> Arc<dyn Engine> {
    Arc::new(QemuEngine::new(QemuConfig { kvm: false, ..QemuConfig::default() }))
}

async fn bench() -> Bench {
    Bench {
        engine: engine(),
        again: Box::new(engine),
        source: Source::RootFs(root().to_path_buf()),
        // A share of a processor cannot be given; memory, processes and the disk are held by the machine itself.
        expect: Expect { limits: false, own_kernel: true, ..Expect::ALL },
        homes: tempfile::tempdir().unwrap(),
    }
}

// Chosen, since each takes a machine that is emulated on the cores that the other tests need too.
conformance!(bench; exec: standard_input_comes_back, a_flood_is_held_back, a_missing_program_is_told);
conformance!(bench; files: a_short_upload_leaves_nothing, ports_are_reached);
conformance!(bench; life: a_paused_one_waits, another_server_adopts_it);
conformance!(bench; limits: a_memory_bomb_is_killed_and_told, a_fork_bomb_is_contained, a_disk_bomb_is_contained);
conformance!(bench; escape: host_files_are_not_seen);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_kvm_cannot_be_used_it_is_told_and_guests_run_all_the_same() {
    let engine = Arc::new(QemuEngine::new(QemuConfig::default()));
    let told = engine.probe().await.unwrap();
    let emulated = told.notes.iter().any(|note| note.contains("emulated (TCG)") && note.len() > 60);
    let bench = Bench { engine, ..bench().await };
    let sandbox = bench.sandbox().await;
    let clock = sandbox.out("cat /sys/devices/system/clocksource/clocksource0/available_clocksource").await;
    assert_eq!(!clock.contains("kvm-clock"), emulated, "{told:?}: {clock}");
    sandbox.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_limit_is_told_from_other_ends() {
    let bench = bench().await;
    let sandbox = bench.sandbox().await;
    let status = sandbox.sh("a=0123456789abcdef; while :; do a=$a$a; done").await.status.unwrap();
    assert!(status.out_of_memory, "{status:?}");
    sandbox.delete().await;
}

#[tokio::test]
async fn what_is_not_there_is_said_in_words() {
    let engine = QemuEngine::new(QemuConfig { program: "/no/such/qemu".into(), ..QemuConfig::default() });
    assert!(matches!(engine.probe().await, Err(VmError::Unavailable { reason, .. }) if reason.contains("/no/such/qemu")));
    let engine = QemuEngine::new(QemuConfig { kernel: "/no/such/kernel".into(), ..QemuConfig::default() });
    assert!(matches!(engine.probe().await, Err(VmError::Unavailable { reason, .. }) if reason.contains("make setup")));
    let bench = bench().await;
    let home = tempfile::tempdir().unwrap();
    let id = auralink_infrastructure::vm::SandboxId::random().unwrap();
    let tools = SharedFolder { from: "/no/such/tool".into(), at: "/opt/tool".into() };
    let spec = Spec { shared: vec![tools], ..bench.spec() };
    assert!(matches!(bench.engine.create(&id, &spec, home.path()).await, Err(VmError::NotFound(_))));
}
