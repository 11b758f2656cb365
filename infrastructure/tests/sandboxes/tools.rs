//! Tools by manifest, from a server of this test's own on the loopback.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use auralink_infrastructure::vm::tools::{Manifest, Progress, Tool, Tools, ToolsConfig};
use auralink_infrastructure::vm::{Spec, VmError};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let script = b"#!/bin/sh\necho \"hello from $GREETER_HOME\"\n";
    let mut header = tar::Header::new_gnu();
    header.set_size(script.len() as u64);
    header.set_mode(0o755);
    header.set_cksum();
    tar.append_data(&mut header, "greeter-1.0/bin/greet", &script[..]).unwrap();
    tar.into_inner().unwrap().finish().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Answers `/greeter.tar.gz`, cuts `/cut.tar.gz` short, sends `/away` to another host; the rest is not there. Counts requests.
async fn server(content: Vec<u8>) -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let content = content.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    let mut chunk = [0; 1024];
                    match stream.read(&mut chunk).await {
                        Ok(n) if n > 0 => request.extend_from_slice(&chunk[..n]),
                        _ => return,
                    }
                }
                let path = String::from_utf8_lossy(&request).split(' ').nth(1).unwrap_or_default().to_owned();
                let full = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
                let (head, body) = match path.as_str() {
                    "/greeter.tar.gz" => (full, content.as_slice()),
                    "/cut.tar.gz" => (full, &content[..content.len() / 2]),
                    "/away" => (
                        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2:1/x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(),
                        &[][..],
                    ),
                    _ => ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(), &[][..]),
                };
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(body).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (host, count)
}

fn greeter(url: String, hash: String) -> Tool {
    Tool {
        name: "greeter".into(),
        version: "1.0".into(),
        url,
        sha256: hash,
        bin: vec!["bin".into()],
        env: BTreeMap::from([("GREETER_HOME".into(), "{root}".into())]),
        strip: true,
    }
}

fn one(tool: Tool) -> Manifest {
    Manifest { tools: vec![tool] }
}

/// Nothing but the empty folders of the cache itself, and locks.
fn holds_nothing(cache: &Path) -> bool {
    let names: Vec<_> = std::fs::read_dir(cache).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.iter().all(|name| name == "tmp" || name == "lock") && std::fs::read_dir(cache.join("tmp")).unwrap().next().is_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_are_fetched_once_and_run_in_sandboxes() {
    let content = archive();
    let (host, count) = server(content.clone()).await;
    let cache = tempfile::tempdir().unwrap();
    let config = ToolsConfig { hosts: vec![host.clone()], ..ToolsConfig::new(cache.path().to_path_buf()) };
    let tools = Arc::new(Tools::open(config.clone()).unwrap());
    let manifest = one(greeter(format!("http://{host}/greeter.tar.gz"), sha256(&content)));
    // Ten at once: one fetches, nine wait.
    let all = (0..10).map(|_| {
        let (tools, manifest) = (tools.clone(), manifest.clone());
        tokio::spawn(async move { tools.install(&manifest, &|_, _| ()).await })
    });
    let mut installed = Vec::new();
    for task in all {
        installed.push(task.await.unwrap().unwrap());
    }
    assert!(installed.iter().all(|each| *each == installed[0]));
    assert_eq!(count.load(Ordering::SeqCst), 1);
    // Another server with the same cache has it at once.
    let seen = std::sync::Mutex::new(Vec::new());
    let again = Tools::open(config).unwrap().install(&manifest, &|_, progress| seen.lock().unwrap().push(progress)).await.unwrap();
    assert_eq!((again, seen.into_inner().unwrap()), (installed[0].clone(), vec![Progress::Cached]));
    let bench = crate::process::bench().await;
    let mut env = bench.spec().env;
    env.extend(installed[0].env.clone());
    let sandbox = bench.sandbox_of(Spec { shared: installed[0].shared.clone(), env, ..bench.spec() }).await;
    assert_eq!(sandbox.out("greet").await, "hello from /opt/tools/greeter-1.0");
    assert_ne!(sandbox.sh("echo bad > /opt/tools/greeter-1.0/bin/greet").await.code(), 0, "it is read-only");
    sandbox.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_told_and_leaves_nothing() {
    let content = archive();
    let (host, _) = server(content.clone()).await;
    let cache = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let allowed = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("greeter.tar.gz"), &content).unwrap();
    std::fs::write(allowed.path().join("greeter.tar.gz"), &content).unwrap();
    std::os::unix::fs::symlink(outside.path().join("greeter.tar.gz"), allowed.path().join("link.tar.gz")).unwrap();
    let config = ToolsConfig {
        hosts: vec![host.clone()],
        folders: vec![allowed.path().to_path_buf()],
        ..ToolsConfig::new(cache.path().to_path_buf())
    };
    let tools = Tools::open(config.clone()).unwrap();
    let right = sha256(&content);
    let url = |path: &str| format!("http://{host}/{path}");
    let file = |folder: &Path, name: &str| format!("file://{}/{name}", folder.display());
    let install = async |url: String, hash: &str| tools.install(&one(greeter(url, hash.to_owned())), &|_, _| ()).await.unwrap_err();
    let error = install(url("greeter.tar.gz"), &"0".repeat(64)).await;
    assert!(matches!(&error, VmError::Invalid(told) if told.contains(&right)), "{error}");
    let error = install(url("missing.tar.gz?token=secret"), &right).await;
    assert!(matches!(&error, VmError::NotFound(told) if told.contains("404") && !told.contains("secret")), "{error}");
    let error = install(url("cut.tar.gz"), &right).await;
    assert!(error.to_string().contains("cut short"), "{error}");
    let error = install(url("away"), &right).await;
    assert!(error.to_string().contains("127.0.0.2"), "{error}");
    let error = install("http://127.0.0.2:1/x.tar.gz".into(), &right).await;
    assert!(error.to_string().contains("hosts"), "{error}");
    for url in [file(outside.path(), "greeter.tar.gz"), file(allowed.path(), "link.tar.gz"), "file:///etc/shadow".into()] {
        let error = install(url, &right).await;
        assert!(matches!(error, VmError::Invalid(_)), "{error}");
    }
    let error = install(file(allowed.path(), "none.tar.gz"), &right).await;
    assert!(matches!(error, VmError::NotFound(_)), "{error}");
    let small = Tools::open(ToolsConfig { max_bytes: 10, ..config }).unwrap();
    let error = small.install(&one(greeter(url("greeter.tar.gz"), right.clone())), &|_, _| ()).await.unwrap_err();
    assert!(matches!(error, VmError::Exhausted(_)), "{error}");
    let mut tool = greeter(url("greeter.tar.gz"), right.clone());
    tool.bin = vec!["sbin".into()];
    let error = tools.install(&one(tool), &|_, _| ()).await.unwrap_err();
    assert!(error.to_string().contains("sbin"), "{error}");
    assert!(holds_nothing(cache.path()));
    let installed = tools.install(&one(greeter(file(allowed.path(), "greeter.tar.gz"), right)), &|_, _| ()).await.unwrap();
    assert!(installed.shared[0].from.join("bin/greet").is_file());
}
