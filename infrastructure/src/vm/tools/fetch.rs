//! Fetching an archive, bounded and checked.

use std::io;
use std::path::Path;

use futures_util::StreamExt;
use reqwest::StatusCode;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;

use super::{Progress, Tool, ToolsConfig};
use crate::vm::VmError;

/// Redirections followed.
const MAX_REDIRECTIONS: usize = 5;
/// Bytes between two words of progress.
const STEP: u64 = 1 << 20;

/// A client that follows redirections to allowed hosts alone.
pub(super) fn client(config: &ToolsConfig) -> Result<reqwest::Client, VmError> {
    let hosts = config.hosts.clone();
    let policy = reqwest::redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > MAX_REDIRECTIONS {
            attempt.error("too many redirections")
        } else if allows(&hosts, attempt.url()) {
            attempt.follow()
        } else {
            let host = attempt.url().host_str().unwrap_or_default().to_owned();
            attempt.error(format!("a redirection to {host}, which is not among the hosts that tools may come from"))
        }
    });
    let client = reqwest::Client::builder()
        .redirect(policy)
        .timeout(config.patience)
        .connect_timeout(std::time::Duration::from_secs(20))
        .no_proxy()
        .build();
    client.map_err(|e| VmError::Io { what: "making the tools' HTTP client".into(), source: io::Error::other(e) })
}

/// Whether http may reach it.
fn allows(hosts: &[String], url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
    ["http", "https"].contains(&url.scheme())
        && hosts.iter().any(|allowed| allowed == "*" || allowed == host || Some(allowed) == with_port.as_ref())
}

/// Without what may be secret in it.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// Fetches the tool's archive into `target` and checks its hash.
pub(super) async fn fetch(
    client: &reqwest::Client,
    config: &ToolsConfig,
    tool: &Tool,
    target: &Path,
    tell: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), VmError> {
    let url = tool.address()?;
    let mut arrival = Arrival::new(config, tool, target, tell).await?;
    if url.scheme() == "file" {
        from_file(config, tool, &url, &mut arrival).await?;
    } else {
        from_http(client, config, tool, &url, &mut arrival).await?;
    }
    arrival.finish(&shown(&url)).await
}

async fn from_file(config: &ToolsConfig, tool: &Tool, url: &Url, arrival: &mut Arrival<'_>) -> Result<(), VmError> {
    let refused = || VmError::Invalid(format!("{tool}: {} is not in a folder that tools may come from", shown(url)));
    let path = url.to_file_path().map_err(|()| refused())?;
    let missing = |_| VmError::NotFound(format!("{tool}: there is no file {}", path.display()));
    // Looked at before it is said whether it is there: who may not read a folder learns nothing of it.
    let below = |path: &Path| config.folders.iter().any(|folder| folder.canonicalize().is_ok_and(|folder| path.starts_with(folder)));
    let parent = path.parent().and_then(|parent| parent.canonicalize().ok()).filter(|parent| below(parent)).ok_or_else(refused)?;
    let real = parent.join(path.file_name().ok_or_else(refused)?).canonicalize().map_err(missing)?;
    if !below(&real) {
        return Err(refused());
    }
    let mut file = tokio::fs::File::open(&real).await.map_err(missing)?;
    let about = file.metadata().await.map_err(missing)?;
    if !about.is_file() {
        return Err(VmError::Invalid(format!("{tool}: {} is no file", path.display())));
    }
    arrival.expect(Some(about.len()))?;
    let mut chunk = vec![0; 256 << 10];
    loop {
        let n = file.read(&mut chunk).await.map_err(|source| VmError::Io { what: path.display().to_string(), source })?;
        if n == 0 {
            return Ok(());
        }
        arrival.take(&chunk[..n]).await?;
    }
}

async fn from_http(
    client: &reqwest::Client,
    config: &ToolsConfig,
    tool: &Tool,
    url: &Url,
    arrival: &mut Arrival<'_>,
) -> Result<(), VmError> {
    if !allows(&config.hosts, url) {
        return Err(VmError::Invalid(format!(
            "{tool}: {} is not among the hosts that tools may come from",
            url.host_str().unwrap_or_default()
        )));
    }
    let shown = shown(url);
    let failed = |e: reqwest::Error| {
        if e.is_timeout() {
            return VmError::Late { what: format!("fetching {tool} from {shown}"), after: config.patience };
        }
        let words: String = e.without_url().to_string().chars().take(300).collect();
        VmError::Io { what: format!("fetching {tool} from {shown}"), source: io::Error::other(words) }
    };
    let response = client
        .get(url.clone())
        .send()
        .await
        .map_err(|e| if e.is_redirect() { VmError::Invalid(format!("{tool}: {}", source_of(&e))) } else { failed(e) })?;
    match response.status() {
        status if status.is_success() => {}
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            return Err(VmError::NotFound(format!("{tool}: there is nothing at {shown} ({})", response.status())));
        }
        status => {
            return Err(VmError::Io {
                what: format!("fetching {tool} from {shown}"),
                source: io::Error::other(format!("the server answered {status}")),
            });
        }
    }
    arrival.expect(response.content_length())?;
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let cut = |e: reqwest::Error| if e.is_timeout() { failed(e) } else { arrival_cut(tool, &shown, e) };
        arrival.take(&chunk.map_err(cut)?).await?;
    }
    Ok(())
}

fn arrival_cut(tool: &Tool, shown: &str, e: reqwest::Error) -> VmError {
    let words = source_of(&e);
    VmError::Io {
        what: format!("fetching {tool} from {shown}: it was cut short"),
        source: io::Error::new(io::ErrorKind::UnexpectedEof, words),
    }
}

/// The innermost reason.
fn source_of(e: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = e;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner.to_string().chars().take(300).collect()
}

/// What has come so far.
struct Arrival<'a> {
    file: tokio::fs::File,
    hash: Sha256,
    bytes: u64,
    told: u64,
    of: Option<u64>,
    tool: &'a Tool,
    most: u64,
    tell: &'a (dyn Fn(Progress) + Send + Sync),
}

impl<'a> Arrival<'a> {
    async fn new(config: &ToolsConfig, tool: &'a Tool, target: &Path, tell: &'a (dyn Fn(Progress) + Send + Sync)) -> Result<Self, VmError> {
        let file = tokio::fs::File::create(target).await.map_err(|source| VmError::Io { what: format!("fetching {tool}"), source })?;
        Ok(Self { file, hash: Sha256::new(), bytes: 0, told: 0, of: None, tool, most: config.max_bytes, tell })
    }

    fn expect(&mut self, of: Option<u64>) -> Result<(), VmError> {
        self.of = of;
        self.fits(of.unwrap_or(0))
    }

    fn fits(&self, bytes: u64) -> Result<(), VmError> {
        if bytes > self.most {
            return Err(VmError::Exhausted(format!("the archive of {} has more than {} bytes", self.tool, self.most)));
        }
        Ok(())
    }

    async fn take(&mut self, chunk: &[u8]) -> Result<(), VmError> {
        self.bytes += chunk.len() as u64;
        self.fits(self.bytes)?;
        self.hash.update(chunk);
        self.file.write_all(chunk).await.map_err(|source| VmError::Io { what: format!("writing the archive of {}", self.tool), source })?;
        if self.bytes - self.told >= STEP {
            self.told = self.bytes;
            (self.tell)(Progress::Fetched { bytes: self.bytes, of: self.of });
        }
        Ok(())
    }

    async fn finish(mut self, shown: &str) -> Result<(), VmError> {
        let tool = self.tool;
        self.file.flush().await.map_err(|source| VmError::Io { what: format!("writing the archive of {tool}"), source })?;
        (self.tell)(Progress::Fetched { bytes: self.bytes, of: self.of });
        let hash: String = self.hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if hash != tool.sha256.to_ascii_lowercase() {
            let bytes = self.bytes;
            return Err(VmError::Invalid(format!(
                "{tool}: the {bytes} bytes at {shown} have the SHA-256 {hash}, the manifest says {}: it is another version, or was tampered with",
                tool.sha256
            )));
        }
        Ok(())
    }
}
