//! Docker and Podman when something is wrong: with the daemon, with what is asked for, with what comes out of a terminal.

use std::sync::Arc;

use auralink_infrastructure::vm::container::{ContainerEngine, Flavour, Settings};
use auralink_infrastructure::vm::{Condition, Engine, ExecOutput, ExecSpec, SandboxId, Source, Spec, TtySize, VmError};

use crate::conformance::{Bench, Expect, PATIENCE, sh, until};
use crate::daemons::{Daemon, docker, guest, podman, rootfs};

fn bench_of(daemon: &Daemon) -> Bench {
    let settings = daemon.settings();
    Bench {
        engine: Arc::new(daemon.engine()),
        again: Box::new(move || Arc::new(ContainerEngine::new(settings.clone()))),
        source: Source::RootFs(rootfs().to_owned()),
        expect: Expect::ALL,
        homes: tempfile::tempdir().unwrap(),
    }
}

async fn refused(bench: &Bench, spec: Spec) -> VmError {
    let id = SandboxId::random().unwrap();
    let home = bench.homes.path().join(id.as_str());
    std::fs::create_dir(&home).unwrap();
    let error = bench.engine.create(&id, &spec, &home).await.unwrap_err();
    assert_eq!(bench.engine.condition(&id, &home).await.unwrap(), Condition::Gone);
    error
}

#[tokio::test]
async fn an_absent_daemon_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let deaf = folder.path().join("deaf");
    drop(std::os::unix::net::UnixListener::bind(&deaf).unwrap());
    for (flavour, start) in [(Flavour::Docker, "systemctl start docker"), (Flavour::Podman, "podman system service")] {
        for socket in [folder.path().join("none"), deaf.clone()] {
            let engine = ContainerEngine::new(Settings { socket: socket.clone(), ..Settings::new(flavour, guest()) });
            let error = engine.probe().await.unwrap_err();
            assert!(matches!(&error, VmError::Unavailable { .. }), "{error:?}");
            let told = error.to_string();
            assert!(told.contains(start) && told.contains(&*socket.to_string_lossy()), "{told}");
            let id = SandboxId::random().unwrap();
            assert!(matches!(engine.condition(&id, folder.path()).await, Err(VmError::Unavailable { .. })));
        }
    }
    let settings = Settings { guest: folder.path().join("no-agent"), ..docker().settings() };
    let told = ContainerEngine::new(settings).probe().await.unwrap_err().to_string();
    assert!(told.contains("no-agent") && told.contains("make setup"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_docker_that_dies_half_way_finds_its_sandboxes_again() {
    dies_half_way(Flavour::Docker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_podman_that_dies_half_way_finds_its_sandboxes_again() {
    dies_half_way(Flavour::Podman).await;
}

async fn dies_half_way(flavour: Flavour) {
    let daemon = tokio::task::spawn_blocking(move || Daemon::start(flavour)).await.unwrap();
    let bench = bench_of(&daemon);
    let sandbox = bench.sandbox().await;
    sandbox.out("echo kept > /workspace/file").await;
    let mut exec = sandbox.exec(sh("echo ready; sleep 1000")).await.unwrap();
    until(&mut exec, "ready").await;
    daemon.kill();
    // Podman's programs go on without it, and so may their stream; Docker's stream ends, which is told as no exit.
    if flavour == Flavour::Docker {
        match tokio::time::timeout(PATIENCE, exec.output.recv()).await.unwrap() {
            Some(Err(VmError::Engine { .. } | VmError::Unavailable { .. } | VmError::Ended(_))) => {}
            other => panic!("{other:?}"),
        }
    }
    let refused = sandbox.exec(sh("true")).await;
    assert!(matches!(refused, Err(VmError::Unavailable { .. })), "{refused:?}");
    drop(exec);
    tokio::task::block_in_place(|| daemon.again());
    let again = (bench.again)();
    assert_eq!(again.found(bench.homes.path()).await.unwrap(), std::slice::from_ref(&sandbox.id));
    if again.condition(&sandbox.id, &sandbox.home).await.unwrap() == Condition::Stopped {
        again.start(&sandbox.id, &sandbox.spec, &sandbox.home).await.unwrap();
    }
    assert_eq!(sandbox.out("cat /workspace/file").await, "kept");
    sandbox.delete().await;
    assert_eq!(again.found(bench.homes.path()).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_cannot_give_is_refused_with_the_reason() {
    for daemon in [docker(), podman()] {
        let bench = bench_of(daemon);
        let told = refused(&bench, Spec { source: Source::Image("no-such-image:1".into()), ..bench.spec() }).await;
        assert!(matches!(&told, VmError::NotFound(text) if text.contains("no-such-image") && text.contains("pull")), "{told:?}");
        for name in ["", "../x", "-x", "a b", "x\n"] {
            let told = refused(&bench, Spec { source: Source::Image(name.into()), ..bench.spec() }).await;
            assert!(matches!(told, VmError::Invalid(_)), "{name:?}: {told:?}");
        }
        assert!(matches!(refused(&bench, Spec { source: Source::Host, ..bench.spec() }).await, VmError::Unsupported { .. }));
        let told = refused(&bench, Spec { runtime: "no-such-runtime".into(), ..bench.spec() }).await;
        assert!(told.to_string().contains("no-such-runtime"), "{told}");
        let text = bench.homes.path().join("text.tar");
        std::fs::write(&text, "no archive").unwrap();
        assert!(matches!(refused(&bench, Spec { source: Source::RootFs(text), ..bench.spec() }).await, VmError::Invalid(_)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_root_filesystem_goes_with_its_last_sandbox() {
    for daemon in [docker(), podman()] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
        std::fs::write(root.join("own"), "its own").unwrap();
        let bench = Bench { source: Source::RootFs(root), ..bench_of(daemon) };
        let one = bench.sandbox().await;
        let two = bench.sandbox().await;
        assert_eq!(one.out("busybox cat /own").await, "its own");
        let api = bollard::Docker::connect_with_unix(&daemon.socket().to_string_lossy(), 60, bollard::API_DEFAULT_VERSION).unwrap();
        let api = api.negotiate_version().await.unwrap();
        let image = api.inspect_container(&format!("auralink-{}", one.id), None).await.unwrap().config.unwrap().image.unwrap();
        assert!(api.inspect_image(&image).await.is_ok(), "{image}");
        one.delete().await;
        assert!(api.inspect_image(&image).await.is_ok(), "{image} is still used");
        two.delete().await;
        assert!(api.inspect_image(&image).await.is_err(), "{image} is left");
    }
}

/// The bytes that begin a frame, on a terminal, are a terminal's bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_may_print_any_bytes() {
    for daemon in [docker(), podman()] {
        let bench = bench_of(daemon);
        let sandbox = bench.sandbox().await;
        let tty = Some(TtySize { rows: 24, columns: 80 });
        let mut exec = sandbox.exec(ExecSpec { tty, ..sh(r"printf '\001\000\000\000\377\377\377\377abc'; sleep 1") }).await.unwrap();
        let mut seen = Vec::new();
        while let Some(Ok(ExecOutput::Stdout(bytes))) = tokio::time::timeout(PATIENCE, exec.output.recv()).await.unwrap() {
            seen.extend(bytes);
        }
        assert_eq!(seen, b"\x01\0\0\0\xff\xff\xff\xffabc");
        let missing = sandbox.exec(ExecSpec { argv: vec!["no-such-program".into()], tty, ..ExecSpec::default() }).await;
        assert!(matches!(missing, Err(VmError::NoProgram(_))), "{missing:?}");
        sandbox.delete().await;
    }
}
