//! What only a real file system can do wrong.

use std::os::unix::fs::{PermissionsExt, symlink};

use auralink_infrastructure::storage::{Content, EntryKind, Local, StorageError, Store};
use std::sync::Arc;

use crate::stores::{self, content, names, parts, path};

#[tokio::test]
async fn links_are_not_followed_wherever_they_stand() {
    let opened = stores::local();
    let store = opened.a();
    store.write(&path("inside/file"), Content::bytes("x")).await.unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let root = opened.data.path().join("files/team-a");
    symlink(outside.path(), root.join("folder-link")).unwrap();
    symlink(outside.path().join("secret"), root.join("file-link")).unwrap();
    symlink("inside/file", root.join("link-within")).unwrap();
    for at in ["folder-link/secret", "file-link", "link-within"] {
        let error = content(&store, at).await.unwrap_err();
        assert!(matches!(error, StorageError::NotAFile { .. } | StorageError::NotFound { .. }), "{at}: {error:?}");
        assert!(store.write(&path(at), Content::bytes("overwritten")).await.is_err(), "{at}");
    }
    assert!(store.browse(&path("folder-link"), None, 10).await.is_err());
    assert!(store.write(&path("folder-link/new"), Content::bytes("x")).await.is_err());
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    // They are shown for what they are, and deleting one deletes the link.
    let page = store.browse(&path(""), None, 10).await.unwrap();
    assert_eq!(page.entries.iter().filter(|entry| entry.kind == EntryKind::Other).count(), 3);
    assert!(store.delete(&path("file-link")).await.unwrap());
    assert!(outside.path().join("secret").exists());
}

#[tokio::test]
async fn pipes_and_devices_do_not_hang_a_read() {
    let opened = stores::local();
    let store = opened.a();
    store.write(&path("file"), Content::bytes("x")).await.unwrap();
    let pipe = opened.data.path().join("files/team-a/pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(matches!(content(&store, "pipe").await, Err(StorageError::NotAFile { .. })));
    assert_eq!(store.stat(&path("pipe")).await.unwrap().kind, EntryKind::Other);
}

#[tokio::test]
async fn ten_thousand_entries_come_in_pages() {
    let opened = stores::local();
    let folder = opened.data.path().join("files/team-a/many");
    std::fs::create_dir_all(&folder).unwrap();
    for number in 0..10_000 {
        std::fs::File::create(folder.join(format!("{number:05}.wav"))).unwrap();
    }
    // Names that nobody can ask for are left out, and do not end the listing.
    use std::os::unix::ffi::OsStrExt;
    std::fs::File::create(folder.join(std::ffi::OsStr::from_bytes(b"\xff\xfe.wav"))).unwrap();
    std::fs::File::create(folder.join("line\nbreak")).unwrap();
    let (names, pages) = names(&opened.a(), "many", 1_000).await;
    assert_eq!((names.len(), pages), (10_000, 10));
    assert!(names.is_sorted(), "in the order of names, each once");
    assert_eq!((names.first().unwrap().as_str(), names.last().unwrap().as_str()), ("00000.wav", "09999.wav"));
}

#[tokio::test]
async fn a_change_while_reading_is_told() {
    let opened = stores::local();
    let store = opened.a();
    store.write(&path("long"), parts(stores::noise(3_000_000, 2))).await.unwrap();
    let reading = store.read(&path("long"), 0, None, None).await.unwrap();
    // A writer beside us changes the very file in its place.
    let file = opened.data.path().join("files/team-a/long");
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(1_000_000).unwrap();
    use futures_util::TryStreamExt;
    let error = reading.stream.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(matches!(error, StorageError::Changed { .. }), "{error:?}");
    // A kept checksum is of what was written, and no longer told.
    assert!(store.stat(&path("long")).await.unwrap().checksum.is_none());
}

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_nothing() {
    // A file system of one megabyte, in a mount namespace of a child: this same test, told by a variable.
    const INNER: &str = "AURALINK_TEST_FULL_DISK";
    if let Some(root) = std::env::var_os(INNER) {
        let root = std::path::PathBuf::from(root);
        let local: Arc<dyn auralink_infrastructure::storage::Engine> = Arc::new(Local::open("files", &root).unwrap());
        local.write(&path("kept"), Content::bytes("kept")).await.unwrap();
        for size in [5_000_000, 1_046_000] {
            let error = local.write(&path("too-much"), parts(stores::noise(size, 3))).await.unwrap_err();
            assert!(matches!(error, StorageError::Full { .. }), "{error:?}");
            assert_eq!(error.code(), "resource_exhausted");
        }
        assert_eq!(std::fs::read_dir(root.join(".auralink-partial")).unwrap().count(), 0, "nothing half-written is left");
        assert!(matches!(local.stat(&path("too-much")).await, Err(StorageError::NotFound { .. })));
        local.write(&path("small"), Content::bytes("there is room again")).await.unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=1m none \"$AURALINK_TEST_FULL_DISK\" && exec \"$0\" --nocapture --exact local::a_full_disk_is_said_and_leaves_nothing";
    let child = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(INNER, folder.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
}

#[tokio::test]
async fn what_a_dead_writer_left_is_tidied_and_what_a_living_one_writes_is_not() {
    let opened = stores::local();
    let partial = opened.data.path().join("files/.auralink-partial");
    let (dead, living) = (partial.join("dead.part"), partial.join("living.part"));
    std::fs::write(&dead, "half").unwrap();
    let holder = std::fs::File::create(&living).unwrap();
    holder.lock().unwrap();
    let again = opened.again(&opened.config);
    assert!(!dead.exists() && living.exists());
    drop(again);
}

#[tokio::test]
async fn a_folder_that_is_only_read_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.wav"), "x").unwrap();
    let store = Store::of_engine("folder", Arc::new(Local::open_to_read("folder", folder.path()).unwrap()), 1 << 20);
    let store = store.of(&Default::default());
    assert_eq!(names(&store, "", 10).await.0, ["a.wav"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(Local::open_to_read("folder", &folder.path().join("none")).is_err());
}

#[tokio::test]
async fn written_files_are_for_others_to_read() {
    let opened = stores::local();
    opened.a().write(&path("file"), Content::bytes("x")).await.unwrap();
    let mode = std::fs::metadata(opened.data.path().join("files/team-a/file")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}
