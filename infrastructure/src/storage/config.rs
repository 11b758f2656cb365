//! How stores are configured: a name, a kind, where it is, and where its credentials stand.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::secret::SecretSource;

/// Bytes of a file unless configured: 4 GiB, a day of uncompressed telephone audio several times over.
const MAX_FILE_BYTES: u64 = 4 << 30;

/// `storage:` of the configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// The stores by their names (1 to 48 of `a-z`, `0-9`, `-`).
    pub stores: BTreeMap<String, StoreConfig>,
}

/// One store.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum StoreConfig {
    /// A folder of this machine.
    Local(LocalConfig),
    /// A bucket of S3 or of what speaks its protocol.
    S3(S3Config),
    /// A folder of Google Drive.
    Gdrive(GdriveConfig),
    /// A folder of Dropbox.
    Dropbox(DropboxConfig),
}

/// A folder of this machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalConfig {
    /// The folder; made when it is not there.
    pub root: PathBuf,
    /// Every tenant reads the whole store, and nobody writes.
    #[serde(default)]
    pub shared: bool,
    /// The largest file that is written or imported.
    #[serde(default = "max_file_bytes")]
    pub max_file_bytes: u64,
}

impl LocalConfig {
    /// A folder for tenants of their own, with the usual limit.
    pub fn at(root: PathBuf) -> Self {
        Self { root, shared: false, max_file_bytes: max_file_bytes() }
    }
}

/// A bucket.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// Its name.
    pub bucket: String,
    /// Where the service is; without it Amazon's own for the region.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The region that signs; `us-east-1` for most services that are not Amazon's.
    #[serde(default = "us_east_1")]
    pub region: String,
    /// Keys begin with this.
    #[serde(default)]
    pub root: String,
    /// The key's name.
    pub access_key_id: SecretSource,
    /// The key.
    pub secret_access_key: SecretSource,
    /// Every tenant reads the whole store, and nobody writes.
    #[serde(default)]
    pub shared: bool,
    /// The largest file that is written or imported.
    #[serde(default = "max_file_bytes")]
    pub max_file_bytes: u64,
}

/// A folder of Google Drive.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GdriveConfig {
    /// The OAuth client of type "Desktop app".
    pub client_id: SecretSource,
    /// Its secret.
    pub client_secret: SecretSource,
    /// The folder's id; `root` is My Drive.
    #[serde(default = "drive_root")]
    pub root: String,
    /// Base address of the API, for tests and gateways.
    #[serde(default = "google_api")]
    pub api_url: String,
    /// Where a person gives access.
    #[serde(default = "google_authorize")]
    pub authorize_url: String,
    /// Where codes and refresh tokens become access tokens.
    #[serde(default = "google_token")]
    pub token_url: String,
    /// Port on loopback that the person's browser comes back to; 0: any.
    #[serde(default)]
    pub redirect_port: u16,
    /// Every tenant reads the whole store, and nobody writes.
    #[serde(default)]
    pub shared: bool,
    /// The largest file that is written or imported.
    #[serde(default = "max_file_bytes")]
    pub max_file_bytes: u64,
}

/// A folder of Dropbox.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropboxConfig {
    /// The app's key.
    pub app_key: SecretSource,
    /// The app's secret; not needed with PKCE.
    #[serde(default)]
    pub app_secret: Option<SecretSource>,
    /// The folder, such as `/AuraLink`; empty: all that the app may see.
    #[serde(default)]
    pub root: String,
    /// Base address of the API, for tests and gateways.
    #[serde(default = "dropbox_api")]
    pub api_url: String,
    /// Base address of content.
    #[serde(default = "dropbox_content")]
    pub content_url: String,
    /// Where a person gives access.
    #[serde(default = "dropbox_authorize")]
    pub authorize_url: String,
    /// Where codes and refresh tokens become access tokens.
    #[serde(default = "dropbox_token")]
    pub token_url: String,
    /// Port on loopback that the person's browser comes back to. The app must have `http://127.0.0.1:PORT/` among its redirect URIs.
    #[serde(default = "dropbox_port")]
    pub redirect_port: u16,
    /// Every tenant reads the whole store, and nobody writes.
    #[serde(default)]
    pub shared: bool,
    /// The largest file that is written or imported.
    #[serde(default = "max_file_bytes")]
    pub max_file_bytes: u64,
}

impl StoreConfig {
    /// Whether all tenants read the whole store, and nobody writes.
    pub fn shared(&self) -> bool {
        match self {
            Self::Local(c) => c.shared,
            Self::S3(c) => c.shared,
            Self::Gdrive(c) => c.shared,
            Self::Dropbox(c) => c.shared,
        }
    }

    /// Bytes of the largest file.
    pub fn max_file_bytes(&self) -> u64 {
        match self {
            Self::Local(c) => c.max_file_bytes,
            Self::S3(c) => c.max_file_bytes,
            Self::Gdrive(c) => c.max_file_bytes,
            Self::Dropbox(c) => c.max_file_bytes,
        }
    }
}

fn max_file_bytes() -> u64 {
    MAX_FILE_BYTES
}

fn us_east_1() -> String {
    "us-east-1".into()
}

fn drive_root() -> String {
    "root".into()
}

fn google_api() -> String {
    "https://www.googleapis.com".into()
}

fn google_authorize() -> String {
    "https://accounts.google.com/o/oauth2/v2/auth".into()
}

fn google_token() -> String {
    "https://oauth2.googleapis.com/token".into()
}

fn dropbox_api() -> String {
    "https://api.dropboxapi.com".into()
}

fn dropbox_content() -> String {
    "https://content.dropboxapi.com".into()
}

fn dropbox_authorize() -> String {
    "https://www.dropbox.com/oauth2/authorize".into()
}

fn dropbox_token() -> String {
    "https://api.dropboxapi.com/oauth2/token".into()
}

fn dropbox_port() -> u16 {
    53_682
}
