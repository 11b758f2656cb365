//! Files brought to this machine: whole and right, whatever happens on the way.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use auralink_infrastructure::storage::{Checksum, Content, Imported, StorageError, StoreConfig, TenantStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::service::Fault;
use crate::stores::{self, Opened, noise, parts, path, sha256};

const SIZE: usize = 3_000_000;

async fn import(store: &TenantStore, target: &Path) -> Result<Imported, StorageError> {
    store.import(&path("talk.wav"), target, &|_, _| {}).await
}

fn files_of(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

async fn whole(opened: Opened) {
    let (store, folder) = (opened.a(), tempfile::tempdir().unwrap());
    let (bytes, target) = (noise(SIZE, 4), folder.path().join("deeper/talk.wav"));
    store.write(&path("talk.wav"), parts(bytes.clone())).await.unwrap();
    let last = AtomicU64::new(0);
    let progress = |done, of| {
        assert_eq!(of, SIZE as u64);
        assert!(done >= last.swap(done, Ordering::Relaxed), "progress goes one way");
    };
    let imported = store.import(&path("talk.wav"), &target, &progress).await.unwrap();
    assert_eq!((imported.size, &imported.sha256, imported.resumed_from), (SIZE as u64, &sha256(&bytes), 0));
    assert_eq!(last.load(Ordering::Relaxed), SIZE as u64);
    assert!(std::fs::read(&target).unwrap() == bytes);
    assert_eq!(files_of(target.parent().unwrap()), 1, "nothing lies beside it");
    // A process that died while it imported: half of this version is here, and only the rest is read.
    let half = SIZE / 2;
    std::fs::remove_file(&target).unwrap();
    std::fs::write(target.with_extension("wav.part"), &bytes[..half]).unwrap();
    let note = serde_json::json!({"version": imported.version, "size": SIZE});
    std::fs::write(target.with_extension("wav.part.json"), note.to_string()).unwrap();
    let resumed = import(&store, &target).await.unwrap();
    assert_eq!((resumed.resumed_from, resumed.sha256), (half as u64, imported.sha256.clone()));
    assert!(std::fs::read(&target).unwrap() == bytes);
    // Half of another version, or bytes without a note, are not gone on with.
    std::fs::write(target.with_extension("wav.part"), noise(half, 5)).unwrap();
    let anew = import(&store, &target).await.unwrap();
    assert_eq!((anew.resumed_from, anew.sha256), (0, imported.sha256.clone()));
    // Damage of what lay here is found by the checksum where the store has one, and begun anew by the next try.
    std::fs::write(target.with_extension("wav.part"), noise(half, 6)).unwrap();
    std::fs::write(target.with_extension("wav.part.json"), note.to_string()).unwrap();
    if matches!(store.stat(&path("talk.wav")).await.unwrap().checksum, Some(Checksum::Sha256(_) | Checksum::Dropbox(_))) {
        assert!(matches!(import(&store, &target).await, Err(StorageError::Checksum { .. })));
    }
    assert_eq!(import(&store, &target).await.unwrap().sha256, imported.sha256);
    // Larger than the store's limit, or no file.
    let mut config = opened.config.clone();
    match &mut config {
        StoreConfig::Local(c) => c.max_file_bytes = 10,
        StoreConfig::S3(c) => c.max_file_bytes = 10,
        StoreConfig::Gdrive(c) => c.max_file_bytes = 10,
        StoreConfig::Dropbox(c) => c.max_file_bytes = 10,
    }
    let small = opened.again(&config).of(&"team-a".parse().unwrap());
    assert!(matches!(import(&small, &target).await, Err(StorageError::TooLarge { limit: 10, .. })));
    store.write(&path("folder/file"), Content::bytes("x")).await.unwrap();
    let folder = store.import(&path("folder"), &target, &|_, _| {}).await;
    assert!(matches!(folder, Err(StorageError::NotAFile { .. })), "{folder:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_from_local() {
    whole(stores::local()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_from_s3() {
    whole(stores::s3().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_from_gdrive() {
    whole(stores::gdrive().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_from_dropbox() {
    whole(stores::dropbox().await).await;
}

/// The network is cut in the middle, three times; what has arrived is not asked for again.
async fn cut(opened: Opened, content_path: &str) {
    let (store, folder) = (opened.a(), tempfile::tempdir().unwrap());
    let (bytes, target) = (noise(SIZE, 7), folder.path().join("talk.wav"));
    store.write(&path("talk.wav"), parts(bytes.clone())).await.unwrap();
    let service = opened.service.as_ref().unwrap();
    service.fail(content_path, [Fault::Cut(1_000_000), Fault::Short(500_000), Fault::Cut(10)]);
    let imported = import(&store, &target).await.unwrap();
    assert_eq!(service.faults_left(), 0, "every fault was met");
    assert_eq!((imported.size, imported.sha256), (SIZE as u64, sha256(&bytes)));
    assert!(std::fs::read(&target).unwrap() == bytes);
    // Content that was altered on its way is never taken for the file.
    std::fs::remove_file(&target).unwrap();
    service.fail(content_path, [Fault::Damage]);
    assert!(matches!(import(&store, &target).await, Err(StorageError::Checksum { .. })));
    assert!(!target.exists());
    assert_eq!(files_of(folder.path()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_from_gdrive() {
    cut(stores::gdrive().await, "/revisions/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_from_dropbox() {
    cut(stores::dropbox().await, "/2/files/download").await;
}

/// A relay that ends a connection after so many bytes of an answer, for the first `cuts` connections that come so far.
async fn relay(to: String, after: usize, cuts: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let left = Arc::new(AtomicUsize::new(cuts));
    let counted = left.clone();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let (to, left) = (to.trim_start_matches("http://").to_owned(), left.clone());
            tokio::spawn(async move {
                let server = TcpStream::connect(to).await.unwrap();
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
                let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let (mut part, mut passed) = (vec![0; 16 * 1024], 0);
                while let Ok(read @ 1..) = from_server.read(&mut part).await {
                    passed += read;
                    let cut = passed > after && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
                    if cut || to_client.write_all(&part[..read]).await.is_err() {
                        break;
                    }
                }
                up.abort();
            });
        }
    });
    (url, counted)
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_from_s3() {
    let opened = stores::s3().await;
    let bytes = noise(SIZE, 8);
    opened.a().write(&path("talk.wav"), parts(bytes.clone())).await.unwrap();
    let StoreConfig::S3(mut config) = opened.config.clone() else { panic!("it is S3") };
    let (url, left) = relay(config.endpoint.unwrap(), 700_000, 3).await;
    config.endpoint = Some(url);
    let store = opened.again(&StoreConfig::S3(config)).of(&"team-a".parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("talk.wav");
    let imported = import(&store, &target).await.unwrap();
    assert_eq!(left.load(Ordering::SeqCst), 0, "every cut was met");
    assert_eq!(imported.sha256, sha256(&bytes));
    assert!(std::fs::read(&target).unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_in_between_is_brought_as_it_is_now() {
    for opened in [stores::local(), stores::gdrive().await, stores::dropbox().await, stores::s3().await] {
        let (store, folder) = (opened.a(), tempfile::tempdir().unwrap());
        let target = folder.path().join("talk.wav");
        store.write(&path("talk.wav"), parts(noise(SIZE, 9))).await.unwrap();
        let old = import(&store, &target).await.unwrap();
        // Half of the old one lies here when the new one is written.
        std::fs::write(target.with_extension("wav.part"), noise(SIZE / 2, 9)).unwrap();
        std::fs::write(target.with_extension("wav.part.json"), serde_json::json!({"version": old.version, "size": SIZE}).to_string())
            .unwrap();
        let new = noise(SIZE, 10);
        store.write(&path("talk.wav"), parts(new.clone())).await.unwrap();
        let imported = import(&store, &target).await.unwrap();
        assert_eq!((imported.resumed_from, imported.sha256), (0, sha256(&new)), "{}", opened.store.kind());
        assert!(std::fs::read(&target).unwrap() == new);
    }
}
