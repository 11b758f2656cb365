//! Installed tools in microVMs: read-only disks, made once.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use auralink_infrastructure::vm::qemu::{QemuConfig, QemuEngine};
use auralink_infrastructure::vm::{Engine, SharedFolder, Source, Spec};

use crate::conformance::{Bench, Expect};

fn engine() -> Arc<dyn Engine> {
    Arc::new(QemuEngine::new(QemuConfig { kvm: false, ..QemuConfig::default() }))
}

fn bench() -> Bench {
    Bench {
        engine: engine(),
        again: Box::new(engine),
        source: Source::RootFs(crate::qemu::root().to_path_buf()),
        expect: Expect { limits: false, own_kernel: true, ..Expect::ALL },
        homes: tempfile::tempdir().unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_are_seen_read_only_by_all_from_one_disk() {
    let bench = bench();
    let cache = tempfile::tempdir().unwrap();
    let mut shared = Vec::new();
    for name in ["greeter", "farewell"] {
        let bin = cache.path().join(name).join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("say"), format!("#!/bin/sh\necho {name}\n")).unwrap();
        std::fs::set_permissions(bin.join("say"), std::fs::Permissions::from_mode(0o755)).unwrap();
        shared.push(SharedFolder { from: cache.path().join(name), at: format!("/opt/tools/{name}-1.0") });
    }
    let spec = Spec { shared, ..bench.spec() };
    let sandbox = bench.sandbox_of(spec.clone()).await;
    assert_eq!(sandbox.out("/opt/tools/greeter-1.0/bin/say; /opt/tools/farewell-1.0/bin/say").await, "greeter\nfarewell");
    assert_ne!(sandbox.sh("echo x > /opt/tools/greeter-1.0/bin/say").await.code(), 0);
    let made = std::fs::metadata(cache.path().join("greeter.ext4")).unwrap();
    let second = bench.sandbox_of(spec).await;
    assert_eq!(second.out("/opt/tools/greeter-1.0/bin/say").await, "greeter");
    assert_eq!(std::fs::metadata(cache.path().join("greeter.ext4")).unwrap().ino(), made.ino(), "the disk was made again");
    // Deleting one takes nothing from the other.
    sandbox.delete().await;
    assert_eq!(second.out("/opt/tools/farewell-1.0/bin/say").await, "farewell");
    second.delete().await;
}
