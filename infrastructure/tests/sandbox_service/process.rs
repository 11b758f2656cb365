//! The service over the real process engine: what callers do all day, and a server that goes away and comes back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use auralink_infrastructure::vm::process::{ProcessConfig, ProcessEngine};
use auralink_infrastructure::vm::service::{Begin, Captured, Request, Sandboxes, ServiceConfig, Status};
use auralink_infrastructure::vm::{ExecOutput, ExecSpec, Limits, VmError};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::scripted::{Scripted, World, tenant};

/// A new process of the server: a new engine value over the same folder and records.
async fn open(world: &Arc<World>, folder: &Path) -> Sandboxes {
    let mut last = None;
    for _ in 0..200 {
        let engine = Arc::new(ProcessEngine::new(ProcessConfig::default()));
        match Sandboxes::open(ServiceConfig::default(), Arc::new(Scripted(Arc::clone(world))), vec![engine], folder).await {
            Ok(service) => return service,
            // The house of the service before holds the lock for a moment longer.
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{last:?}")
}

fn request() -> Request {
    Request { limits: Limits { memory_bytes: 256 << 20, disk_bytes: 64 << 20, ..Limits::default() }, ..Request::new(Begin::Host) }
}

fn shell(script: &str) -> ExecSpec {
    ExecSpec { argv: vec!["/bin/sh".into(), "-c".into(), script.into()], timeout: Some(Duration::from_secs(60)), ..ExecSpec::default() }
}

async fn run(service: &Sandboxes, id: &str, script: &str) -> Captured {
    service.exec_captured(&tenant("t"), id, shell(script), Bytes::new(), 1 << 20).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_its_making_to_its_end() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let (service, t) = (open(&world, folder.path()).await, tenant("t"));
    let made = service.create(&t, Request { name: "box".into(), ..request() }).await.unwrap();
    assert_eq!(made.status, Status::Running);
    let done = run(&service, "box", "echo out; echo err >&2; exit 7").await;
    assert_eq!((&done.stdout[..], &done.stderr[..], done.exit.code), (&b"out\n"[..], &b"err\n"[..], 7));
    let echoed =
        service.exec_captured(&t, "box", ExecSpec { argv: vec!["cat".into()], ..ExecSpec::default() }, Bytes::from_static(b"in"), 10).await;
    assert_eq!(&echoed.unwrap().stdout[..], b"in");
    let absent = ExecSpec { argv: vec!["/no/such/program".into()], ..ExecSpec::default() };
    assert!(matches!(service.exec(&t, "box", absent).await, Err(VmError::NoProgram(_))));
    let late = ExecSpec { timeout: Some(Duration::from_millis(300)), ..shell("sleep 600") };
    let late = service.exec_captured(&t, "box", late, Bytes::new(), 10).await.unwrap();
    assert!(late.exit.timed_out, "{:?}", late.exit);
    let kinds: Vec<&str> = service.events(&t, "box").unwrap().iter().map(|event| event.kind.as_str()).collect();
    assert!(kinds.starts_with(&["created", "started", "exec_started", "exec_ended"]) && kinds.contains(&"timed_out"), "{kinds:?}");
    assert!(service.usage(&t, "box").await.is_ok());
    service.stop(&t, "box", Duration::from_secs(1)).await.unwrap();
    assert!(matches!(service.exec(&t, "box", shell("true")).await, Err(VmError::Condition { .. })));
    service.start(&t, "box").await.unwrap();
    assert_eq!(run(&service, "box", "exit 3").await.exit.code, 3);
    service.delete(&t, "box").await.unwrap();
    for part in ["homes", "logs"] {
        assert_eq!(std::fs::read_dir(folder.path().join(part)).unwrap().count(), 0, "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_folders_go_in_and_come_out() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let (service, t) = (open(&world, folder.path()).await, tenant("t"));
    let id = service.create(&t, request()).await.unwrap().id;
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    service.write_file(&t, id.as_str(), "/workspace/a/b", 0o755, content.len() as u64, &mut content.as_slice()).await.unwrap();
    assert_eq!(run(&service, id.as_str(), "stat -c '%a %s' /workspace/a/b").await.stdout, "755 1200000\n");
    let (size, mut reader) = service.read_file(&t, id.as_str(), "/workspace/a/b").await.unwrap();
    let mut read = Vec::new();
    reader.read_to_end(&mut read).await.unwrap();
    assert!(size == content.len() as u64 && read == content);
    assert!(matches!(service.read_file(&t, id.as_str(), "/workspace/absent").await, Err(VmError::NotFound(_))));
    // A link that a program made leads nowhere on the host.
    run(&service, id.as_str(), "ln -s /etc/shadow /workspace/sly; ln -s / /workspace/root").await;
    let host = std::fs::read("/etc/shadow").unwrap_or_default();
    if let Ok((_, mut reader)) = service.read_file(&t, id.as_str(), "/workspace/sly").await {
        let mut read = Vec::new();
        reader.read_to_end(&mut read).await.unwrap();
        assert!(read.is_empty() || read != host, "the host's file came out");
    }
    let (out, mut come) = tokio::io::duplex(64 << 10);
    let (downloading, mut archive) = (service.download(&t, id.as_str(), "/workspace", out), Vec::new());
    let (done, read) = tokio::join!(downloading, come.read_to_end(&mut archive));
    done.unwrap();
    read.unwrap();
    let uploaded = service.upload(&t, id.as_str(), "/workspace/copy", std::io::Cursor::new(archive)).await.unwrap();
    assert_eq!((uploaded.files, uploaded.bytes), (1, 1_200_000));
    assert_eq!(run(&service, id.as_str(), "cmp /workspace/a/b /workspace/copy/a/b && echo same").await.stdout, "same\n");
    service.delete(&t, id.as_str()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_sandbox_outlives_the_server_and_is_adopted() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let t = tenant("t");
    let service = open(&world, folder.path()).await;
    let id = service.create(&t, request()).await.unwrap().id;
    run(&service, id.as_str(), "echo kept > /workspace/file; (setsid sleep 3600 & echo $! > /workspace/pid) >/dev/null 2>&1").await;
    let stopped = service.create(&t, Request { start: false, ..request() }).await.unwrap().id;
    drop(service);
    let service = open(&world, folder.path()).await;
    assert_eq!(service.get(&t, id.as_str()).unwrap().status, Status::Running);
    assert_eq!(service.get(&t, stopped.as_str()).unwrap().status, Status::Stopped);
    let done = run(&service, id.as_str(), "cat /workspace/file; kill -0 $(cat /workspace/pid) && echo alive").await;
    assert_eq!(done.stdout, "kept\nalive\n");
    let logs = service.logs(&t, id.as_str(), None).await.unwrap();
    assert_eq!(logs.len(), 2, "output of before the restart is kept");
    for record in service.list(&t, &BTreeMap::new(), None, 10) {
        service.delete(&t, record.id.as_str()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_of_output_is_passed_on_and_kept_in_part() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let (service, t) = (open(&world, folder.path()).await, tenant("t"));
    let id = service.create(&t, request()).await.unwrap().id;
    let mut started = service.exec(&t, id.as_str(), shell("head -c 1073741824 /dev/zero")).await.unwrap();
    let mut passed = 0;
    loop {
        match started.exec.output.recv().await {
            Some(Ok(ExecOutput::Stdout(bytes))) => passed += bytes.len(),
            Some(Ok(ExecOutput::Exited(exit))) => break assert_eq!(exit.code, 0),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(passed, 1 << 30);
    let log = service.logs(&t, id.as_str(), Some(started.number)).await.unwrap().remove(0);
    let kept: usize = log.chunks.iter().map(|chunk| chunk.bytes.len()).sum();
    assert_eq!((kept, log.dropped), (64 << 10, (1 << 30) - (64 << 10)));
    service.delete(&t, id.as_str()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_begins_sandboxes_and_cannot_be_deleted_under_them() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let (service, t) = (open(&world, folder.path()).await, tenant("t"));
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find_map(|path| std::fs::read(path).ok());
    let busybox = busybox.expect("a static busybox is missing: run `make setup`");
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(busybox.len() as u64);
    builder.append_data(&mut header, "bin/busybox", busybox.as_slice()).unwrap();
    for name in ["sh", "cat", "ls"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        builder.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    service.import_image(&t, "busybox:1", false, std::io::Cursor::new(builder.into_inner().unwrap())).await.unwrap();
    let begin = || Request { limits: request().limits, ..Request::new(Begin::Image("busybox:1".into())) };
    let (one, two) = (service.create(&t, begin()).await.unwrap().id, service.create(&t, begin()).await.unwrap().id);
    assert_eq!(run(&service, one.as_str(), "echo mine > /file; ls /").await.exit.code, 0);
    let other = run(&service, two.as_str(), "cat /file").await;
    assert_ne!(other.exit.code, 0, "what one writes the other does not see");
    assert!(matches!(service.delete_image(&t, "busybox:1", false).await, Err(VmError::Condition { .. })));
    service.delete(&t, one.as_str()).await.unwrap();
    service.delete(&t, two.as_str()).await.unwrap();
    service.delete_image(&t, "busybox:1", false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_the_sandbox_is_reached() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let (service, t) = (open(&world, folder.path()).await, tenant("t"));
    let id = service.create(&t, request()).await.unwrap().id;
    let script = "import socket\ns=socket.create_server(('127.0.0.1',8080))\nprint('up',flush=True)\nwhile True:\n c,_=s.accept()\n c.sendall(c.recv(100)[::-1])\n c.close()";
    let server = ExecSpec { argv: vec!["python3".into(), "-c".into(), script.into()], ..ExecSpec::default() };
    let mut started = service.exec(&t, id.as_str(), server).await.unwrap();
    assert!(matches!(started.exec.output.recv().await, Some(Ok(ExecOutput::Stdout(_)))));
    let mut stream = service.dial(&t, id.as_str(), 8080).await.unwrap();
    stream.write_all(b"abc").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"cba");
    assert!(service.dial(&t, id.as_str(), 9).await.is_err(), "nobody listens there");
    service.delete(&t, id.as_str()).await.unwrap();
}
