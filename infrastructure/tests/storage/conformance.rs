//! What every engine promises, said once.

use auralink_infrastructure::storage::{Checksum, Content, EntryKind, StorageError, TenantStore};
use bytes::Bytes;
use futures_util::StreamExt;

use crate::stores::{self, Opened, content, names, noise, parts, path, sha256, stretch};

macro_rules! every_engine {
    ($($engine:ident),*) => {
        $(mod $engine {
            #[tokio::test(flavor = "multi_thread")]
            async fn keeps_its_promises() {
                super::promises(super::opened::$engine().await).await;
            }
        })*
    };
}

mod opened {
    use super::{Opened, stores};

    pub async fn local() -> Opened {
        stores::local()
    }
    pub use stores::{dropbox, gdrive, s3};
}

every_engine!(local, s3, gdrive, dropbox);

async fn promises(opened: Opened) {
    let store = opened.a();
    nothing_is_there_yet(&store).await;
    a_file_is_what_was_written(&store).await;
    ranges(&store).await;
    odd_names(&store).await;
    a_large_file_comes_back(&store).await;
    what_does_not_fit_is_not_there(&store).await;
    pages(&store).await;
    a_version_is_read_or_nothing(&store).await;
    deleting(&store).await;
    tenants_see_their_own(&opened).await;
    a_shared_store_is_read_only(&opened).await;
}

async fn nothing_is_there_yet(store: &TenantStore) {
    let page = store.browse(&path(""), None, 10).await.unwrap();
    assert!(page.entries.is_empty() && page.next.is_none(), "a tenant begins with an empty folder");
    for error in [
        store.stat(&path("no.wav")).await.unwrap_err(),
        content(store, "no/such/file.wav").await.unwrap_err(),
        store.browse(&path("no"), None, 10).await.unwrap_err(),
    ] {
        assert!(matches!(error, StorageError::NotFound { .. }), "{error:?}");
        assert!(!error.to_string().contains("team-a"), "a tenant's own path is named: {error}");
    }
    assert!(!store.delete(&path("no.wav")).await.unwrap());
    for limit in [0, 1_001] {
        assert_eq!(store.browse(&path(""), None, limit).await.unwrap_err().code(), "invalid_argument");
    }
}

async fn a_file_is_what_was_written(store: &TenantStore) {
    let written = store.write(&path("a/b/hello.txt"), Content::bytes("hello, world")).await.unwrap();
    assert_eq!((written.size, written.sha256.as_str()), (12, sha256(b"hello, world").as_str()));
    let entry = store.stat(&path("a/b/hello.txt")).await.unwrap();
    assert_eq!((entry.name.as_str(), entry.kind, entry.size), ("hello.txt", EntryKind::File, 12));
    assert_eq!(entry.version, written.version);
    assert!(entry.modified_ms > 1_500_000_000_000, "milliseconds since 1970: {}", entry.modified_ms);
    if let Some(Checksum::Sha256(kept)) = entry.checksum {
        assert_eq!(kept, written.sha256);
    }
    assert_eq!(store.stat(&path("a/b")).await.unwrap().kind, EntryKind::Folder);
    // Over one that is there; then an empty one.
    let again = store.write(&path("a/b/hello.txt"), Content::bytes("bye")).await.unwrap();
    assert_ne!(again.version, written.version);
    assert_eq!(content(store, "a/b/hello.txt").await.unwrap(), b"bye");
    store.write(&path("a/empty"), Content::bytes("")).await.unwrap();
    assert_eq!(content(store, "a/empty").await.unwrap(), b"");
    // A folder is no file, and a file no folder.
    assert!(matches!(content(store, "a/b").await, Err(StorageError::NotAFile { .. } | StorageError::NotFound { .. })));
    assert!(store.browse(&path("a/b/hello.txt"), None, 10).await.is_err());
    assert!(store.write(&path(""), Content::bytes("x")).await.is_err());
}

async fn ranges(store: &TenantStore) {
    store.write(&path("digits"), Content::bytes("0123456789")).await.unwrap();
    assert_eq!(stretch(store, "digits", 3, Some(6)).await.unwrap(), b"345");
    assert_eq!(stretch(store, "digits", 7, None).await.unwrap(), b"789");
    assert_eq!(stretch(store, "digits", 7, Some(1_000)).await.unwrap(), b"789");
    assert_eq!(stretch(store, "digits", 10, None).await.unwrap(), b"");
    assert_eq!(stretch(store, "digits", 4, Some(4)).await.unwrap(), b"");
    assert!(matches!(stretch(store, "digits", 11, None).await, Err(StorageError::Range { from: 11, size: 10, .. })));
}

async fn odd_names(store: &TenantStore) {
    let odd = ["a b.wav", "Ünïcödé 音声 🎙.wav", "100%#&+=@!$,;.wav", "'quo\"ted'.wav", "-rf", "...", "a'b and name = 'c"];
    for name in odd {
        let at = format!("odd/{name}");
        store.write(&path(&at), Content::bytes(name)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(content(store, &at).await.unwrap_or_else(|error| panic!("{name}: {error}")), name.as_bytes());
    }
    let mut found = names(store, "odd", 100).await.0;
    let mut odd = odd.map(str::to_owned).to_vec();
    found.sort();
    odd.sort();
    assert_eq!(found, odd);
}

/// Larger than a part, and no multiple of one.
async fn a_large_file_comes_back(store: &TenantStore) {
    let bytes = noise(17 * 1024 * 1024 + 123, 1);
    let written = store.write(&path("large.bin"), parts(bytes.clone())).await.unwrap();
    assert_eq!((written.size, &written.sha256), (bytes.len() as u64, &sha256(&bytes)));
    assert!(content(store, "large.bin").await.unwrap() == bytes);
    let (from, to) = (8 * 1024 * 1024 - 5, 8 * 1024 * 1024 + 5);
    assert_eq!(stretch(store, "large.bin", from, Some(to)).await.unwrap(), bytes[from as usize..to as usize]);
    assert_eq!(store.stat(&path("large.bin")).await.unwrap().version, written.version);
}

async fn what_does_not_fit_is_not_there(store: &TenantStore) {
    store.write(&path("kept"), Content::bytes("before")).await.unwrap();
    let limited = Content { limit: 5, ..parts(b"123456".to_vec()) };
    assert!(matches!(store.write(&path("kept"), limited).await, Err(StorageError::TooLarge { limit: 5, .. })));
    let promised = Content { sha256: Some(sha256(b"other")), ..Content::bytes("this") };
    assert!(matches!(store.write(&path("kept"), promised).await, Err(StorageError::Checksum { .. })));
    // The sender goes away in the middle.
    let broken: Vec<Result<Bytes, StorageError>> =
        vec![Ok("half".into()), Err(StorageError::Interrupted { path: "kept".into(), reason: "the sender went away".into() })];
    let broken = Content { stream: futures_util::stream::iter(broken).boxed(), limit: 100, sha256: None };
    assert!(matches!(store.write(&path("kept"), broken).await, Err(StorageError::Interrupted { .. })));
    assert_eq!(content(store, "kept").await.unwrap(), b"before", "what was there stays");
    let right = Content { sha256: Some(sha256(b"after").to_uppercase()), ..Content::bytes("after") };
    store.write(&path("kept"), right).await.unwrap();
    assert_eq!(content(store, "kept").await.unwrap(), b"after");
    assert_eq!(names(store, "", 100).await.0.iter().filter(|name| name.contains("part") || name.contains("auralink")).count(), 0);
}

async fn pages(store: &TenantStore) {
    let mut expected = Vec::new();
    for number in 0..23 {
        let at = if number % 5 == 0 { format!("pages/{number:02}/inside") } else { format!("pages/{number:02}") };
        store.write(&path(&at), Content::bytes("x")).await.unwrap();
        expected.push(format!("{number:02}"));
    }
    for limit in [1, 7, 23, 1_000] {
        let (mut found, pages) = names(store, "pages", limit).await;
        found.sort();
        assert_eq!(found, expected, "pages of {limit}");
        assert!(pages >= 23usize.div_ceil(limit as usize));
    }
}

async fn a_version_is_read_or_nothing(store: &TenantStore) {
    let first = store.write(&path("version"), Content::bytes("first")).await.unwrap();
    let reading = store.read(&path("version"), 2, None, Some(&first.version)).await.unwrap();
    assert_eq!((reading.size, reading.from, reading.length, &reading.version), (5, 2, 3, &first.version));
    drop(reading);
    store.write(&path("version"), Content::bytes("secnd")).await.unwrap();
    let old = store.read(&path("version"), 0, None, Some(&first.version)).await.err();
    assert!(matches!(old, Some(StorageError::Changed { .. })), "{old:?}");
}

async fn deleting(store: &TenantStore) {
    store.write(&path("gone/file"), Content::bytes("x")).await.unwrap();
    assert!(store.delete(&path("gone/file")).await.unwrap());
    assert!(!store.delete(&path("gone/file")).await.unwrap());
    assert!(matches!(store.stat(&path("gone/file")).await, Err(StorageError::NotFound { .. })));
}

async fn tenants_see_their_own(opened: &Opened) {
    let (a, b) = (opened.a(), opened.tenant("team-b"));
    a.write(&path("mine"), Content::bytes("a's")).await.unwrap();
    assert!(b.browse(&path(""), None, 10).await.unwrap().entries.is_empty());
    assert!(matches!(b.stat(&path("mine")).await, Err(StorageError::NotFound { .. })));
    assert!(matches!(content(&b, "team-a/mine").await, Err(StorageError::NotFound { .. })));
    assert!(!b.delete(&path("mine")).await.unwrap());
    b.write(&path("mine"), Content::bytes("b's")).await.unwrap();
    assert_eq!(content(&a, "mine").await.unwrap(), b"a's");
}

async fn a_shared_store_is_read_only(opened: &Opened) {
    use auralink_infrastructure::storage::StoreConfig;
    let mut config = opened.config.clone();
    match &mut config {
        StoreConfig::Local(c) => c.shared = true,
        StoreConfig::S3(c) => c.shared = true,
        StoreConfig::Gdrive(c) => c.shared = true,
        StoreConfig::Dropbox(c) => c.shared = true,
    }
    let shared = opened.again(&config).of(&"team-c".parse().unwrap());
    assert_eq!(content(&shared, "team-a/mine").await.unwrap(), b"a's", "all of it is seen");
    assert!(matches!(shared.write(&path("x"), Content::bytes("x")).await, Err(StorageError::ReadOnly { .. })));
    assert!(matches!(shared.delete(&path("team-a/mine")).await, Err(StorageError::ReadOnly { .. })));
}
