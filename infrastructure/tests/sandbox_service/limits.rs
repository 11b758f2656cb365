//! What is too much, or not right, is refused before anything is made.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use auralink_infrastructure::vm::service::{Begin, Quota, Request};
use auralink_infrastructure::vm::spec::Destination;
use auralink_infrastructure::vm::{ExecSpec, Limits, Network, TtySize, VmError};

use crate::scripted::{World, open, open_with, program, request, settings, tenant};

#[tokio::test]
async fn tenants_and_server_have_limits_and_places_come_back() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let mut config = settings();
    config.per_tenant = Quota { sandboxes: 2, cpu_millis: 3_000, memory_bytes: 1 << 30, disk_bytes: 1 << 40, snapshots: 1 };
    config.per_server = Quota { sandboxes: 3, ..config.per_server };
    let service = open_with(config, &world, folder.path()).await.unwrap();
    let (a, b) = (tenant("a"), tenant("b"));
    let large = Request { limits: Limits { cpu_millis: 2_500, ..Limits::default() }, ..request() };
    let refused = async |tenant, request| match service.create(tenant, request).await {
        Err(VmError::Exhausted(why)) => why,
        other => panic!("{other:?}"),
    };
    let first = service.create(&a, large.clone()).await.unwrap().id;
    assert!(refused(&a, large).await.contains("cpu_millis 2500 of 3000"));
    assert!(
        refused(&a, Request { limits: Limits { cpu_millis: 10, memory_bytes: 600 << 20, ..Limits::default() }, ..request() })
            .await
            .contains("memory_bytes")
    );
    service.delete(&a, first.as_str()).await.unwrap();
    let one = service.create(&a, request()).await.unwrap();
    service.create(&a, request()).await.unwrap();
    assert!(refused(&a, request()).await.contains("this tenant has sandboxes 2 of 2"));
    service.create(&b, request()).await.unwrap();
    assert!(refused(&b, request()).await.contains("this server has sandboxes 3 of 3"));
    service.snapshot(&a, one.id.as_str(), BTreeMap::new()).await.unwrap();
    assert!(matches!(service.snapshot(&a, one.id.as_str(), BTreeMap::new()).await, Err(VmError::Exhausted(_))));
    assert_eq!(world.conditions().len(), 3);
}

#[tokio::test]
async fn many_at_once_do_not_get_past_the_limit() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let mut config = settings();
    config.per_tenant.sandboxes = 5;
    let service = open_with(config, &world, folder.path()).await.unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { service.create(&tenant("t"), request()).await.is_ok() })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += usize::from(task.await.unwrap());
    }
    assert_eq!((made, world.conditions().len()), (5, 5));
}

#[tokio::test]
async fn a_request_that_is_not_right_is_named_and_makes_nothing() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let env = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let limits = Limits::default();
    let allow = |prefix, port| Network::Allow(vec![Destination { address: Ipv4Addr::LOCALHOST.into(), prefix, port }]);
    let wrong = [
        ("name", Request { name: "UPPER".into(), ..request() }),
        ("name", Request { name: "sb-aaaaaaaaaaaaaaaaaaaa".into(), ..request() }),
        ("name", Request { name: "../x".into(), ..request() }),
        ("cpu_millis", Request { limits: Limits { cpu_millis: 0, ..limits }, ..request() }),
        ("memory_bytes", Request { limits: Limits { memory_bytes: u64::MAX, ..limits }, ..request() }),
        ("disk_bytes", Request { limits: Limits { disk_bytes: 0, ..limits }, ..request() }),
        ("processes", Request { limits: Limits { processes: 0, ..limits }, ..request() }),
        ("env", Request { env: env("A=B", ""), ..request() }),
        ("env", Request { env: env("A", "\0"), ..request() }),
        ("env", Request { env: env("A", &"x".repeat(70_000)), ..request() }),
        ("label", Request { labels: env("a b", ""), ..request() }),
        ("label", Request { labels: (0..65).map(|i| (format!("l{i}"), String::new())).collect(), ..request() }),
        ("workdir", Request { workdir: "relative".into(), ..request() }),
        ("runtime", Request { runtime: "/bin/sh".into(), ..request() }),
        ("allow-list", Request { network: Network::Allow(Vec::new()), ..request() }),
        ("network", Request { network: allow(33, None), ..request() }),
        ("network", Request { network: allow(32, Some(0)), ..request() }),
        ("cannot", Request { network: Network::Nat, ..request() }),
        ("engine", Request { engine: Some("xen".into()), ..request() }),
        ("image", Request::new(Begin::Image("absent".into()))),
        ("image", Request::new(Begin::Image("../../etc".into()))),
        ("snapshot", Request::new(Begin::Snapshot("../../etc".into()))),
        ("allows", Request::new(Begin::RootFs("/etc".into()))),
    ];
    for (word, request) in wrong {
        let error = service.create(&tenant("t"), request).await.unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    assert!(world.conditions().is_empty() && world.keys("sandboxes").is_empty());
}

#[tokio::test]
async fn root_filesystems_come_from_allowed_folders_alone() {
    let (world, folder, allowed) = (World::new(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut config = settings();
    config.rootfs_folders = vec![allowed.path().to_owned()];
    let service = open_with(config, &world, folder.path()).await.unwrap();
    std::fs::create_dir(allowed.path().join("busybox")).unwrap();
    std::os::unix::fs::symlink("/etc", allowed.path().join("sly")).unwrap();
    let begin = |path: &str| Request::new(Begin::RootFs(allowed.path().join(path)));
    assert!(service.create(&tenant("t"), begin("busybox")).await.is_ok());
    for path in ["sly", "busybox/../../..", "absent", "/etc"] {
        assert!(matches!(service.create(&tenant("t"), begin(path)).await, Err(VmError::Invalid(_))), "{path}");
    }
}

#[tokio::test]
async fn programs_and_paths_that_are_not_right_are_refused() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let t = tenant("t");
    let id = service.create(&t, request()).await.unwrap().id;
    let exec = |argv: &[&str]| ExecSpec { argv: argv.iter().map(|word| (*word).to_owned()).collect(), ..ExecSpec::default() };
    let wrong = [
        exec(&[]),
        exec(&[""]),
        exec(&["a", "b\0c"]),
        exec(&["x"; 5_000]),
        ExecSpec { cwd: "tmp".into(), ..program("true") },
        ExecSpec { user: "a b".into(), ..program("true") },
        ExecSpec { tty: Some(TtySize { rows: 0, columns: 80 }), ..program("true") },
        ExecSpec { timeout: Some(std::time::Duration::ZERO), ..program("true") },
    ];
    for exec in wrong {
        assert!(matches!(service.exec(&t, id.as_str(), exec.clone()).await, Err(VmError::Invalid(_))), "{exec:?}");
    }
    assert!(matches!(service.exec(&t, id.as_str(), program("absent")).await, Err(VmError::NoProgram(_))));
    for path in ["", "etc/passwd", "/a/../../etc", "/..", "/a\0b", &format!("/{}", "x".repeat(5_000)), &format!("/{}", "x".repeat(300))] {
        assert!(matches!(service.read_file(&t, id.as_str(), path).await, Err(VmError::Invalid(_))), "{path:?}");
        assert!(matches!(service.list_folder(&t, id.as_str(), path, 1).await, Err(VmError::Invalid(_))), "{path:?}");
        let written = service.write_file(&t, id.as_str(), path, 0o644, 0, &mut tokio::io::empty()).await;
        assert!(matches!(written, Err(VmError::Invalid(_))), "{path:?}");
    }
    let large = service.write_file(&t, id.as_str(), "/large", 0o644, 2 << 30, &mut tokio::io::empty()).await;
    assert!(matches!(large, Err(VmError::Exhausted(_))));
    assert!(matches!(service.dial(&t, id.as_str(), 0).await, Err(VmError::Invalid(_))));
}

#[tokio::test]
async fn runtimes_are_those_that_the_operator_offers() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let refused = service.create(&tenant("t"), Request { runtime: "runc-privileged".into(), ..request() }).await;
    let Err(VmError::Invalid(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("runc-privileged") && why.contains("sandboxes.runtimes"), "{why}");
    assert!(world.conditions().is_empty());
}
