//! Tools that sandboxes are given at creation, by a manifest: a name, a version, where the archive is, its SHA-256, the folders of its programs.
//!
//! Place: the service calls [`Tools::install`] before it creates a sandbox and puts what comes of it into the spec: folders to share and
//! environment. Rule: a tool is known by its archive's SHA-256, fetched and unpacked once for all sandboxes of this server, and shown to them
//! read-only. It appears in the cache whole or not at all: fetched into a temporary folder, checked, unpacked, renamed. Servers that share a
//! cache take turns by a lock on a file.
//!
//! Manifests come from tenants, so what the server fetches for them is closed by default: hosts and folders must be allowed.

mod fetch;
pub mod manifest;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::image::unpack::{self, Bounds};
use super::remove::remove_tree;
use super::{SharedFolder, VmError};
pub use manifest::{Manifest, Tool};

/// Where sandboxes see their tools.
const INSIDE: &str = "/opt/tools";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What may be fetched, and where it is kept.
#[derive(Debug, Clone)]
pub struct ToolsConfig {
    /// The cache; a folder for each archive.
    pub cache: PathBuf,
    /// Hosts (`example.org`, `127.0.0.1:8080`) that http and https may reach, redirections included; `*`: any. Empty: none.
    pub hosts: Vec<String>,
    /// Folders that file URLs may lie below. Empty: none.
    pub folders: Vec<PathBuf>,
    /// Most bytes of an archive.
    pub max_bytes: u64,
    /// What an archive may unpack to.
    pub bounds: Bounds,
    /// How long one archive may take to arrive.
    pub patience: Duration,
}

impl ToolsConfig {
    /// With nothing allowed yet.
    pub fn new(cache: PathBuf) -> Self {
        let bounds = Bounds { bytes: 8 << 30, ..Bounds::default() };
        Self { cache, hosts: Vec::new(), folders: Vec::new(), max_bytes: 2 << 30, bounds, patience: Duration::from_secs(600) }
    }
}

/// How far an installation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It was in the cache.
    Cached,
    /// Another server or sandbox installs the same one.
    Waiting,
    /// Bytes came of so many, when that is known.
    Fetched {
        /// Until now.
        bytes: u64,
        /// Of the whole.
        of: Option<u64>,
    },
    /// All is there and its hash is right.
    Unpacking,
    /// It can be used.
    Installed,
}

/// What a sandbox gets for its tools.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// For [`super::Spec::shared`].
    pub shared: Vec<SharedFolder>,
    /// For [`super::Spec::env`]; what the caller sets himself comes over it.
    pub env: BTreeMap<String, String>,
}

/// The tools of a server.
#[derive(Debug)]
pub struct Tools {
    config: ToolsConfig,
    client: reqwest::Client,
}

impl Tools {
    /// Opens the cache.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn open(config: ToolsConfig) -> Result<Self, VmError> {
        let told = |source| VmError::Io { what: format!("the tools' cache {}", config.cache.display()), source };
        fs::create_dir_all(config.cache.join("tmp")).map_err(told)?;
        fs::create_dir_all(config.cache.join("lock")).map_err(told)?;
        let client = fetch::client(&config)?;
        Ok(Self { config, client })
    }

    /// Installs all tools of a manifest, or as many as needed; `tell` hears how far each is.
    ///
    /// # Errors
    /// [`VmError::Invalid`] for a wrong manifest, hash or archive, [`VmError::NotFound`] when the archive is not there, [`VmError::Exhausted`] when it is
    /// too big, [`VmError::Late`], [`VmError::Io`]. Nothing half-made stays.
    pub async fn install(&self, manifest: &Manifest, tell: &(dyn Fn(&Tool, Progress) + Send + Sync)) -> Result<Installed, VmError> {
        manifest.check()?;
        let mut installed = Installed::default();
        let mut path = Vec::new();
        for tool in &manifest.tools {
            let from = self.one(tool, tell).await?;
            let at = format!("{INSIDE}/{}-{}", tool.name, tool.version);
            path.extend(tool.bin.iter().map(|bin| format!("{at}/{bin}").trim_end_matches(['/', '.']).to_owned()));
            for (name, value) in &tool.env {
                installed.env.insert(name.clone(), value.replace("{root}", &at));
            }
            installed.shared.push(SharedFolder { from, at });
        }
        if !path.is_empty() {
            path.push(PATH.to_owned());
            installed.env.insert("PATH".into(), path.join(":"));
        }
        Ok(installed)
    }

    /// The folder of one tool in the cache.
    async fn one(&self, tool: &Tool, tell: &(dyn Fn(&Tool, Progress) + Send + Sync)) -> Result<PathBuf, VmError> {
        let target = self.config.cache.join(tool.key());
        if target.is_dir() {
            tell(tool, Progress::Cached);
            return checked(tool, target);
        }
        let _lock = self.lock(tool, tell).await?;
        if target.is_dir() {
            tell(tool, Progress::Cached);
            return checked(tool, target);
        }
        // Under the lock nobody else has this folder: what is in it was left by a server that was killed.
        let work = self.config.cache.join("tmp").join(tool.key());
        let told = |source| VmError::Io { what: format!("installing {tool}"), source };
        remove_tree(&work).map_err(told)?;
        fs::create_dir(&work).map_err(told)?;
        let done = self.fill(tool, &work, &target, tell).await;
        let removed = remove_tree(&work).map_err(told);
        done?;
        removed?;
        tell(tool, Progress::Installed);
        Ok(target)
    }

    async fn fill(&self, tool: &Tool, work: &Path, target: &Path, tell: &(dyn Fn(&Tool, Progress) + Send + Sync)) -> Result<(), VmError> {
        let archive = work.join("archive");
        fetch::fetch(&self.client, &self.config, tool, &archive, &|progress| tell(tool, progress)).await?;
        tell(tool, Progress::Unpacking);
        let (tool, work, target, bounds) = (tool.clone(), work.to_path_buf(), target.to_path_buf(), self.config.bounds);
        let unpacking = tokio::task::spawn_blocking(move || unpacked(&tool, &archive, &work, &target, &bounds));
        unpacking.await.unwrap_or_else(|e| Err(VmError::Io { what: "unpacking a tool".into(), source: io::Error::other(e) }))
    }

    /// The lock of one archive; it goes with the file.
    async fn lock(&self, tool: &Tool, tell: &(dyn Fn(&Tool, Progress) + Send + Sync)) -> Result<fs::File, VmError> {
        let path = self.config.cache.join("lock").join(tool.key());
        let told = |source| VmError::Io { what: format!("locking {}", path.display()), source };
        let file = fs::File::create(&path).map_err(told)?;
        let until = tokio::time::Instant::now() + self.config.patience * 2;
        let mut waited = false;
        loop {
            match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) if tokio::time::Instant::now() < until => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(VmError::Late { what: format!("another installation of {tool}"), after: self.config.patience * 2 });
                }
                Err(e) => return Err(told(e.into())),
            }
            if !std::mem::replace(&mut waited, true) {
                tell(tool, Progress::Waiting);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Unpacks, looks whether what the manifest promises is there, and puts it in its place.
fn unpacked(tool: &Tool, archive: &Path, work: &Path, target: &Path, bounds: &Bounds) -> Result<(), VmError> {
    let told = |source| VmError::Io { what: format!("unpacking {tool}"), source };
    let mut content = work.join("content");
    fs::create_dir(&content).map_err(told)?;
    if tool.is_archive() {
        let file = fs::File::open(archive).map_err(told)?;
        unpack::archive(file, &content, bounds).map_err(|e| VmError::Invalid(format!("the archive of {tool}: {e}")))?;
    } else {
        // A program that comes as it is.
        let name = tool.file_name();
        fs::rename(archive, content.join(&name)).map_err(told)?;
        fs::set_permissions(content.join(&name), fs::Permissions::from_mode(0o755)).map_err(told)?;
    }
    if tool.strip {
        content = only_folder(tool, &content)?;
    }
    checked(tool, content.clone())?;
    fs::set_permissions(&content, fs::Permissions::from_mode(0o755)).map_err(told)?;
    fs::rename(&content, target).map_err(told)
}

/// Most archives have everything in one folder.
fn only_folder(tool: &Tool, content: &Path) -> Result<PathBuf, VmError> {
    let told = |source| VmError::Io { what: format!("unpacking {tool}"), source };
    let mut entries = fs::read_dir(content).map_err(told)?;
    match (entries.next(), entries.next()) {
        (Some(Ok(entry)), None) if entry.file_type().is_ok_and(|kind| kind.is_dir()) => Ok(entry.path()),
        _ => Err(VmError::Invalid(format!("the archive of {tool} has not all its files in one folder: leave `strip` out"))),
    }
}

/// Whether the folders of programs are there. Two manifests may name one archive with different ones, so this is asked each time.
fn checked(tool: &Tool, content: PathBuf) -> Result<PathBuf, VmError> {
    for bin in &tool.bin {
        if !fs::symlink_metadata(content.join(bin)).is_ok_and(|about| about.is_dir()) {
            return Err(VmError::Invalid(format!("{tool} has no folder {bin:?}: `bin` names folders in its archive")));
        }
    }
    Ok(content)
}
