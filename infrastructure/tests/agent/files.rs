//! Files and ports.

use auralink_infrastructure::vm::{FileKind, VmError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Guest, eventually, run};

#[tokio::test]
async fn a_file_goes_in_and_out_unchanged() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let content: Vec<u8> = (0..3_000_001_u32).map(|n| (n * 7 % 251) as u8).collect();
    let path = guest.path("made/on/the/way/file.bin");
    agent.write_file(&path, 0o640, content.len() as u64, &mut content.as_slice()).await.unwrap();
    let (size, mut reader) = agent.read_file(&path).await.unwrap();
    let mut back = Vec::new();
    reader.read_to_end(&mut back).await.unwrap();
    assert_eq!(size, content.len() as u64);
    assert!(back == content);
    assert_eq!(run(&agent, &format!("stat -c %a {path}")).await.text(), "640\n");
    agent.write_file(&path, 0o644, 0, &mut [].as_slice()).await.unwrap();
    assert_eq!(agent.read_file(&path).await.unwrap().0, 0, "an empty file replaces it");
}

#[tokio::test]
async fn what_ends_early_leaves_the_old_file_and_no_part() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let path = guest.path("files/kept");
    agent.write_file(&path, 0o644, 3, &mut b"old".as_slice()).await.unwrap();
    let error = agent.write_file(&path, 0o644, 10, &mut b"short".as_slice()).await.unwrap_err();
    assert!(matches!(&error, VmError::Invalid(text) if text.contains("ended after 5 bytes")), "{error}");
    eventually("the part is removed", async || agent.list_folder(&guest.path("files"), 10).await.unwrap().len() == 1).await;
    let (_, mut reader) = agent.read_file(&path).await.unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "old");
}

#[tokio::test]
async fn a_link_in_the_files_place_is_replaced_not_followed() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let (target, link) = (guest.path("target"), guest.path("link"));
    std::fs::write(&target, "untouched").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    agent.write_file(&link, 0o644, 3, &mut b"new".as_slice()).await.unwrap();
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "untouched");
    assert_eq!(std::fs::read_to_string(&link).unwrap(), "new");
    assert!(!std::fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[tokio::test]
async fn wrong_paths_are_told_apart() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    assert!(matches!(agent.read_file("/no/such/file").await.err(), Some(VmError::NotFound(text)) if text.contains("/no/such/file")));
    assert!(matches!(agent.read_file("/dev/zero").await.err(), Some(VmError::Invalid(_))), "it would never end");
    assert!(matches!(agent.read_file(&guest.path("")).await.err(), Some(VmError::Invalid(_))), "a folder");
    assert!(matches!(agent.read_file("").await.err(), Some(VmError::Invalid(_))));
    assert!(matches!(agent.list_folder("/etc/passwd", 10).await, Err(VmError::Invalid(_))));
    let into_folder = agent.write_file(guest.folder.path().to_str().unwrap(), 0o644, 1, &mut b"x".as_slice()).await;
    assert!(matches!(into_folder, Err(VmError::Invalid(_))), "{into_folder:?}");
    let into_file = agent.write_file("/etc/passwd/x", 0o644, 1, &mut b"x".as_slice()).await;
    assert!(matches!(into_file, Err(VmError::Invalid(_))), "{into_file:?}");
}

#[tokio::test]
async fn where_nothing_can_be_written_is_told() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let error = agent.write_file("/proc/auralink-cannot", 0o644, 1, &mut b"x".as_slice()).await.unwrap_err();
    assert!(error.to_string().contains("/proc/auralink-cannot"), "{error}");
}

#[tokio::test]
async fn folders_are_listed_by_name_and_cut() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let folder = guest.path("many");
    std::fs::create_dir(&folder).unwrap();
    for n in 0..1500 {
        std::fs::write(format!("{folder}/file-{n:05}-{}", "long".repeat(20)), "x").unwrap();
    }
    std::fs::create_dir(format!("{folder}/a-folder")).unwrap();
    std::os::unix::fs::symlink("nowhere", format!("{folder}/b-link")).unwrap();
    let all = agent.list_folder(&folder, 10_000).await.unwrap();
    assert_eq!(all.len(), 1502);
    assert_eq!((all[0].name.as_str(), all[0].kind), ("a-folder", FileKind::Folder));
    assert_eq!((all[1].name.as_str(), all[1].kind), ("b-link", FileKind::Link));
    assert!(all[2].name.starts_with("file-00000") && all[2].size == 1 && all[2].kind == FileKind::File);
    assert_eq!(agent.list_folder(&folder, 3).await.unwrap(), all[..3]);
}

#[tokio::test]
async fn ports_are_reached_both_ways() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all.reverse();
        stream.write_all(&all).await.unwrap();
        drop(stream);
        let (mut cut, _) = listener.accept().await.unwrap();
        let mut byte = [0];
        cut.write_all(b"hello").await.unwrap();
        cut.read(&mut byte).await.unwrap_or(0)
    });
    let mut stream = agent.dial(port).await.unwrap();
    let sent: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 253) as u8).collect();
    stream.write_all(&sent).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert!(back.iter().rev().eq(sent.iter()), "a half-closed connection still brings the answer");
    let mut stream = agent.dial(port).await.unwrap();
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    drop(stream);
    assert_eq!(server.await.unwrap(), 0, "dropping the stream cuts the connection");
    assert!(matches!(agent.dial(port).await.err(), Some(VmError::NotFound(text)) if text.contains(&port.to_string())));
}
