//! Files in and out, and ports.

use auralink_infrastructure::vm::{FileKind, VmError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Bench, eventually, sh, until};

pub async fn files_go_in_and_out(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7 % 253) as u8).collect();
    sandbox.write("/workspace/new/folders/big.bin", &content).await.unwrap();
    assert_eq!(sandbox.out("wc -c < /workspace/new/folders/big.bin | tr -d ' '").await, "3000000");
    assert!(sandbox.read("/workspace/new/folders/big.bin").await.unwrap() == content);
    // Replaced whole, permissions as asked for.
    sandbox
        .engine
        .write_file(&sandbox.id, &sandbox.home, "/workspace/new/folders/big.bin", 0o755, 9, &mut &b"echo hi\n\n"[..])
        .await
        .unwrap();
    assert_eq!(sandbox.out("/workspace/new/folders/big.bin || sh /workspace/new/folders/big.bin").await, "hi");
    assert_eq!(sandbox.out("test -x /workspace/new/folders/big.bin && echo yes").await, "yes");
    sandbox.write("/workspace/empty", b"").await.unwrap();
    assert_eq!(sandbox.read("/workspace/empty").await.unwrap(), b"");
    sandbox.out("printf 'made inside' > /workspace/inside").await;
    assert_eq!(sandbox.read("/workspace/inside").await.unwrap(), b"made inside");
    sandbox.delete().await;
}

pub async fn a_short_upload_leaves_nothing(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    sandbox.write("/workspace/kept", b"before").await.unwrap();
    let mut short = &b"only this"[..];
    let done = sandbox.engine.write_file(&sandbox.id, &sandbox.home, "/workspace/kept", 0o644, 1_000, &mut short).await;
    assert!(done.is_err(), "a file of 1,000 bytes was made of 9");
    assert_eq!(sandbox.read("/workspace/kept").await.unwrap(), b"before");
    let mut short = &b"only this"[..];
    assert!(sandbox.engine.write_file(&sandbox.id, &sandbox.home, "/workspace/other", 0o644, 1_000, &mut short).await.is_err());
    eventually("nothing of a short upload is left", async || sandbox.out("ls -A /workspace").await == "kept").await;
    sandbox.delete().await;
}

pub async fn folders_are_listed(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    sandbox.out("cd /workspace && mkdir -p list/folder && cd list && printf 12345 > file && chmod 640 file && ln -s /nowhere link && printf x > zz").await;
    let list = sandbox.engine.list_folder(&sandbox.id, &sandbox.home, "/workspace/list", 100).await.unwrap();
    let seen: Vec<_> = list.iter().map(|entry| (entry.name.as_str(), entry.kind)).collect();
    assert_eq!(seen, [("file", FileKind::File), ("folder", FileKind::Folder), ("link", FileKind::Link), ("zz", FileKind::File)]);
    assert_eq!((list[0].size, list[0].mode & 0o777), (5, 0o640));
    let list = sandbox.engine.list_folder(&sandbox.id, &sandbox.home, "/workspace/list", 2).await.unwrap();
    assert_eq!(list.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["file", "folder"]);
    sandbox.delete().await;
}

pub async fn what_is_missing_is_told(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    assert!(matches!(sandbox.read("/no/such/file").await, Err(VmError::NotFound(_))));
    assert!(matches!(sandbox.engine.list_folder(&sandbox.id, &sandbox.home, "/no/such", 9).await, Err(VmError::NotFound(_))));
    assert!(sandbox.read("/workspace").await.is_err(), "a folder is no file");
    assert!(sandbox.write("/proc/no-such/file", b"x").await.is_err());
    assert_eq!(sandbox.out("echo well").await, "well");
    sandbox.delete().await;
}

/// A link in the sandbox leads where it leads there, never on the host.
pub async fn links_in_uploads_stay_inside(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("secret");
    std::fs::write(&target, "of the host").unwrap();
    let path = target.to_str().unwrap();
    sandbox.out(&format!("cd /workspace && ln -s {path} link && ln -s {} folder", outside.path().display())).await;
    assert!(!sandbox.read("/workspace/link").await.is_ok_and(|content| content == b"of the host"));
    assert!(!sandbox.read("/workspace/folder/secret").await.is_ok_and(|content| content == b"of the host"));
    assert!(!sandbox.read(&format!("/workspace/../../../../../..{path}")).await.is_ok_and(|content| content == b"of the host"));
    // Whether these are refused or go to such a path inside: the host's file and folder stay as they are.
    let _ = sandbox.write("/workspace/link", b"overwritten").await;
    let _ = sandbox.write("/workspace/folder/planted", b"planted").await;
    let _ = sandbox.write(&format!("/workspace/../../../../../..{}/up", outside.path().display()), b"planted").await;
    assert_eq!(std::fs::read(&target).unwrap(), b"of the host");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    sandbox.delete().await;
}

/// Needs `nc` (busybox or OpenBSD's) or python3 inside.
pub async fn ports_are_reached(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let listen = "python3 -c 'import socket\ns = socket.create_server((\"127.0.0.1\", 7000))\nprint(\"listening\", flush=True)\nc, _ = s.accept()\nd = c.recv(99)\nc.sendall(b\"got \" + d)\nc.close()' 2>/dev/null \
                  || { echo listening; printf 'got ping' | busybox nc -l -p 7000 > /tmp/heard; }";
    let mut exec = sandbox.exec(sh(listen)).await.unwrap();
    until(&mut exec, "listening").await;
    let mut answer = String::new();
    eventually("the port answers", async || sandbox.engine.dial(&sandbox.id, &sandbox.home, 7001).await.is_err()).await;
    let mut stream = loop {
        match sandbox.engine.dial(&sandbox.id, &sandbox.home, 7000).await {
            Ok(stream) => break stream,
            Err(VmError::NotFound(_)) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            Err(other) => panic!("{other}"),
        }
    };
    stream.write_all(b"ping").await.unwrap();
    stream.flush().await.unwrap();
    let _ = tokio::time::timeout(super::PATIENCE, async {
        while !answer.contains("ping") {
            let mut chunk = [0; 64];
            let n = stream.read(&mut chunk).await.unwrap();
            assert_ne!(n, 0, "it ended after {answer:?}");
            answer.push_str(&String::from_utf8_lossy(&chunk[..n]));
        }
    })
    .await;
    assert_eq!(answer, "got ping");
    drop(exec);
    sandbox.delete().await;
}
