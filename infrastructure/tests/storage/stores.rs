//! Opens a store of each kind for a test.

use std::sync::Arc;

use auralink_infrastructure::storage::{
    ByteStream, Content, DropboxConfig, GdriveConfig, LocalConfig, S3Config, StorageConfig, StorageError, Store, StoreConfig, StorePath,
    Stores, TenantStore,
};
use auralink_infrastructure::tenant::Tenant;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use tempfile::TempDir;

use crate::dropbox_stub::DropboxStub;
use crate::gdrive_stub::GdriveStub;
use crate::minio::{self, Minio};
use crate::service::{Service, secret_file};

/// A store with what it stands on.
pub struct Opened {
    pub store: Store,
    pub data: TempDir,
    pub service: Option<Arc<Service>>,
    pub config: StoreConfig,
    _minio: Option<Minio>,
}

impl Opened {
    pub fn tenant(&self, name: &str) -> TenantStore {
        self.store.of(&name.parse::<Tenant>().unwrap())
    }

    pub fn a(&self) -> TenantStore {
        self.tenant("team-a")
    }

    /// The same store with a part of its configuration changed.
    pub fn again(&self, config: &StoreConfig) -> Store {
        open(config, &self.data)
    }
}

pub fn open(config: &StoreConfig, data: &TempDir) -> Store {
    let config = StorageConfig { stores: [("files".to_owned(), config.clone())].into() };
    Stores::open(&config, data.path()).unwrap().get("files").unwrap().clone()
}

pub fn local() -> Opened {
    let data = tempfile::tempdir().unwrap();
    let config = StoreConfig::Local(LocalConfig { root: data.path().join("files"), shared: false, max_file_bytes: 1 << 30 });
    Opened { store: open(&config, &data), data, service: None, config, _minio: None }
}

pub async fn s3() -> Opened {
    let data = tempfile::tempdir().unwrap();
    let minio = Minio::start().await;
    let config = StoreConfig::S3(S3Config {
        bucket: minio::BUCKET.into(),
        endpoint: Some(minio.endpoint.clone()),
        region: "us-east-1".into(),
        root: "below/here".into(),
        access_key_id: secret_file(&data, "key", minio::USER),
        secret_access_key: secret_file(&data, "secret", minio::PASSWORD),
        shared: false,
        max_file_bytes: 1 << 30,
    });
    Opened { store: open(&config, &data), data, service: None, config, _minio: Some(minio) }
}

pub async fn gdrive() -> Opened {
    let data = tempfile::tempdir().unwrap();
    let service = GdriveStub::start().await;
    let url = &service.url;
    let config = StoreConfig::Gdrive(GdriveConfig {
        client_id: secret_file(&data, "client-id", "client-1"),
        client_secret: secret_file(&data, "client-secret", "client-secret-1"),
        root: "root".into(),
        api_url: url.clone(),
        authorize_url: format!("{url}/authorize"),
        token_url: format!("{url}/token"),
        redirect_port: 0,
        shared: false,
        max_file_bytes: 1 << 30,
    });
    Opened { store: connected(&config, &data).await, data, service: Some(service), config, _minio: None }
}

pub async fn dropbox() -> Opened {
    let data = tempfile::tempdir().unwrap();
    let service = DropboxStub::start().await;
    let url = &service.url;
    let config = StoreConfig::Dropbox(DropboxConfig {
        app_key: secret_file(&data, "app-key", "client-1"),
        app_secret: Some(secret_file(&data, "app-secret", "client-secret-1")),
        root: "/AuraLink".into(),
        api_url: url.clone(),
        content_url: url.clone(),
        authorize_url: format!("{url}/authorize"),
        token_url: format!("{url}/token"),
        redirect_port: 0,
        shared: false,
        max_file_bytes: 1 << 30,
    });
    Opened { store: connected(&config, &data).await, data, service: Some(service), config, _minio: None }
}

async fn connected(config: &StoreConfig, data: &TempDir) -> Store {
    let store = open(config, data);
    agree(&store).await.unwrap();
    store
}

/// Does what a person does: opens the address, agrees, and is sent back to loopback.
pub async fn agree(store: &Store) -> Result<(), StorageError> {
    let (show, shown) = tokio::sync::oneshot::channel();
    let browser = tokio::spawn(async move {
        let url: String = shown.await.unwrap();
        // Redirects are followed, as a browser does.
        reqwest::get(url).await.unwrap().text().await.unwrap()
    });
    let done = store.access().unwrap().connect(|url| show.send(url.to_owned()).unwrap()).await;
    browser.await.unwrap();
    done
}

pub fn path(text: &str) -> StorePath {
    text.parse().unwrap()
}

pub async fn content(store: &TenantStore, at: &str) -> Result<Vec<u8>, StorageError> {
    stretch(store, at, 0, None).await
}

pub async fn stretch(store: &TenantStore, at: &str, from: u64, to: Option<u64>) -> Result<Vec<u8>, StorageError> {
    let reading = store.read(&path(at), from, to, None).await?;
    let bytes: Vec<Bytes> = reading.stream.try_collect().await?;
    Ok(bytes.concat())
}

/// Content in parts, as it comes from a network.
pub fn parts(bytes: Vec<u8>) -> Content {
    let limit = bytes.len() as u64;
    let parts: Vec<_> = bytes.chunks(100_000).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
    let stream: ByteStream = futures_util::stream::iter(parts).boxed();
    Content { stream, limit, sha256: None }
}

/// Bytes that are nowhere the same.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All names of a folder, page by page, and how many pages there were.
pub async fn names(store: &TenantStore, folder: &str, limit: u32) -> (Vec<String>, usize) {
    let (mut names, mut pages, mut mark) = (Vec::new(), 0, None::<String>);
    loop {
        let page = store.browse(&path(folder), mark.as_deref(), limit).await.unwrap();
        assert!(page.entries.len() <= limit as usize, "a page is bounded");
        pages += 1;
        names.extend(page.entries.into_iter().map(|entry| entry.name));
        mark = page.next;
        if mark.is_none() {
            return (names, pages);
        }
    }
}
