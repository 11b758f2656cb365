//! Archives into a sandbox and images into the server: what a stranger sends, and what a stranger does not send.

use std::io::Cursor;
use std::time::Duration;

use auralink_infrastructure::vm::VmError;
use auralink_infrastructure::vm::service::Pace;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::scripted::{World, open, open_with, request, settings, tenant};

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // As bytes: the crate's own setters refuse what a stranger's archive may hold.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn archives_go_in_file_by_file_and_names_that_lead_out_are_refused() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let t = tenant("t");
    let id = service.create(&t, request()).await.unwrap().id;
    let large = vec![7; 300_000];
    let good = archive(&[("./a", b"one"), ("b/c", &large), ("empty", b"")]);
    let uploaded = service.upload(&t, id.as_str(), "/work", Cursor::new(good)).await.unwrap();
    assert_eq!((uploaded.files, uploaded.bytes, uploaded.skipped), (3, 300_003, 0));
    let (size, mut content) = service.read_file(&t, id.as_str(), "/work/b/c").await.unwrap();
    let mut read = Vec::new();
    content.read_to_end(&mut read).await.unwrap();
    assert!(size == 300_000 && read == large);
    for path in ["../x", "/etc/passwd", "a/../../x"] {
        let error = service.upload(&t, id.as_str(), "/work", Cursor::new(archive(&[(path, b"x")]))).await.unwrap_err();
        assert!(matches!(error, VmError::Invalid(_)), "{path}: {error}");
    }
    let mut short = archive(&[("cut", &large)]);
    short.truncate(100_000);
    assert!(service.upload(&t, id.as_str(), "/work", Cursor::new(short)).await.is_err());
    assert!(service.read_file(&t, id.as_str(), "/work/cut").await.is_err(), "whole or not at all");
}

/// An entry of GNU's that gives the next one its name, of any declared size; then the file.
fn long_named(name: &[u8], declared: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(declared);
    header.set_cksum();
    let mut bytes = [header.as_bytes().as_slice(), name].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(archive(&[("short", b"one")]));
    bytes
}

#[tokio::test]
async fn names_of_an_upload_are_as_long_as_paths_and_never_as_they_declare() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let service = open(&world, folder.path()).await.unwrap();
    let t = tenant("t");
    let id = service.create(&t, request()).await.unwrap().id;
    let name = format!("{}/{}", "a".repeat(120), "b".repeat(120));
    service.upload(&t, id.as_str(), "/work", Cursor::new(long_named(name.as_bytes(), 241))).await.unwrap();
    assert!(service.read_file(&t, id.as_str(), &format!("/work/{name}")).await.is_ok());
    // A gigabyte that is declared and comes for ever: only its beginning is looked at.
    let header = long_named(b"", 1 << 30)[..512].to_vec();
    let endless = Cursor::new(header).chain(tokio::io::repeat(b'x'));
    let error = service.upload(&t, id.as_str(), "/work", endless).await.unwrap_err();
    assert!(matches!(&error, VmError::Exhausted(why) if why.contains("name or header")), "{error}");
    let leading_out = long_named(b"../x", 4);
    assert!(matches!(service.upload(&t, id.as_str(), "/work", Cursor::new(leading_out)).await, Err(VmError::Invalid(_))));
}

#[tokio::test]
async fn silent_callers_are_ended_and_hold_a_bounded_number_of_places() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let mut config = settings();
    config.archives_per_tenant = 2;
    config.archive_stall = Duration::from_millis(400);
    let service = open_with(config, &world, folder.path()).await.unwrap();
    let t = tenant("t");
    let id = service.create(&t, request()).await.unwrap().id;
    let (silent, _kept) = tokio::io::duplex(64);
    let (silent_image, _kept_too) = tokio::io::duplex(64);
    let upload = service.upload(&t, id.as_str(), "/work", silent);
    let import = service.import_image(&t, "box", false, silent_image);
    let third = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        (
            service.upload(&t, id.as_str(), "/work", tokio::io::empty()).await,
            service.download(&t, id.as_str(), "/", tokio::io::sink()).await,
        )
    };
    let (upload, import, (third, fourth)) = tokio::join!(upload, import, third);
    for refused in [third.map(|_| ()), fourth] {
        assert!(matches!(&refused, Err(VmError::Exhausted(why)) if why.contains("under way")), "{refused:?}");
    }
    for ended in [upload.map(|_| ()), import.map(|_| ())] {
        assert!(ended.as_ref().is_err_and(|error| error.to_string().contains("nothing moved")), "{ended:?}");
    }
    service.download(&t, id.as_str(), "/", tokio::io::sink()).await.unwrap();
}

#[tokio::test]
async fn an_image_that_trickles_in_loses_its_place() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let mut config = settings();
    config.import_pace = Pace { bytes_per_s: 1_000, grace: Duration::from_millis(100), whole: Duration::from_secs(60) };
    let service = open_with(config, &world, folder.path()).await.unwrap();
    let (archive, mut sender) = tokio::io::duplex(64);
    let trickle = tokio::spawn(async move {
        while sender.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let error = service.import_image(&tenant("t"), "box", false, archive).await.unwrap_err().to_string();
    assert!(error.contains("slower than"), "{error}");
    trickle.await.unwrap();
}

#[tokio::test]
async fn a_caller_that_went_away_does_not_free_the_thread_that_waits_for_it() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let mut config = settings();
    config.archive_stall = Duration::from_secs(1);
    let service = open_with(config, &world, folder.path()).await.unwrap();
    let t = tenant("t");
    let mut kept = Vec::new();
    for name in ["a", "b"] {
        let (silent, other_end) = tokio::io::duplex(64);
        kept.push(other_end);
        let import = service.import_image(&t, name, false, silent);
        assert!(tokio::time::timeout(Duration::from_millis(50), import).await.is_err(), "it waits");
    }
    let refused = service.import_image(&t, "c", false, tokio::io::empty()).await.unwrap_err();
    assert!(matches!(&refused, VmError::Exhausted(why) if why.contains("other images")), "{refused}");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let free = service.import_image(&t, "c", false, tokio::io::empty()).await.unwrap_err();
    assert!(free.to_string().contains("empty"), "{free}");
}
