//! What a caller asks for, checked once: engines need not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::spec::{Destination, Limits, Network, Source};
use super::super::tools::Manifest;
use super::super::{Capabilities, ExecSpec, VmError};
use super::ServiceConfig;

/// What a sandbox's files begin as, in a caller's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// The host's own programs, read-only.
    Host,
    /// An image by name.
    Image(String),
    /// A folder or tar archive on the server, below a folder that the configuration allows.
    RootFs(PathBuf),
    /// A snapshot by id.
    Snapshot(String),
}

/// A sandbox to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which engine; none: the server's default.
    pub engine: Option<String>,
    /// Name among the tenant's; empty: none.
    pub name: String,
    /// What its files begin as.
    pub begin: Begin,
    /// What it may use.
    pub limits: Limits,
    /// What it can reach.
    pub network: Network,
    /// Environment of its programs.
    pub env: BTreeMap<String, String>,
    /// Folder that programs run in.
    pub workdir: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `runsc` and such.
    pub runtime: String,
    /// Tools that it shall have.
    pub tools: Manifest,
    /// Whether it is started at once.
    pub start: bool,
}

impl Request {
    /// A started sandbox of the default engine with default limits.
    pub fn new(begin: Begin) -> Self {
        Self {
            engine: None,
            name: String::new(),
            begin,
            limits: Limits::default(),
            network: Network::None,
            env: BTreeMap::new(),
            workdir: String::new(),
            labels: BTreeMap::new(),
            runtime: String::new(),
            tools: Manifest::default(),
            start: true,
        }
    }
}

/// Smallest limits: below them nothing starts.
const LEAST: Limits = Limits { cpu_millis: 10, memory_bytes: 4 << 20, disk_bytes: 1 << 20, processes: 4, lifetime_s: 0 };

/// Bytes of a whole environment.
const ENV_BYTES: usize = 64 << 10;

/// Bytes of a command line.
const ARGV_BYTES: usize = 128 << 10;

/// Longest path.
const PATH_BYTES: usize = 4_096;

fn invalid(text: String) -> VmError {
    VmError::Invalid(text)
}

pub(super) fn request(request: &Request, config: &ServiceConfig) -> Result<(), VmError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let name = request.name.as_bytes();
    let named = name.len() <= 63 && name.iter().all(|b| plain(*b)) && name.first() != Some(&b'-');
    // A name that looks like an id would hide the sandbox of that id.
    if !named || request.name.starts_with("sb-") {
        let shown: String = request.name.chars().take(64).collect();
        return Err(invalid(format!(
            "{shown:?} cannot name a sandbox: up to 63 of a-z, 0-9 and '-' are taken, not beginning with '-' or \"sb-\""
        )));
    }
    limits(&request.limits, &config.largest)?;
    environment(&request.env)?;
    labels(&request.labels)?;
    folder("workdir", &request.workdir)?;
    if request.runtime.len() > 32 || !request.runtime.bytes().all(|b| plain(b) || b == b'_' || b == b'.') {
        return Err(invalid("runtime: up to 32 of a-z, 0-9, '.', '_' and '-' are taken".into()));
    }
    // The operator's choice may be what keeps sandboxes off the host's kernel.
    if !request.runtime.is_empty() && !config.runtimes.contains(&request.runtime) {
        let known = config.runtimes.join(", ");
        return Err(invalid(format!("the runtime {:?} is not offered here (`sandboxes.runtimes`: {known})", request.runtime)));
    }
    match &request.network {
        Network::Allow(destinations) => self::destinations(destinations),
        Network::None | Network::Nat => Ok(()),
    }
}

fn limits(asked: &Limits, most: &Limits) -> Result<(), VmError> {
    let values = [
        ("cpu_millis", u64::from(asked.cpu_millis), u64::from(LEAST.cpu_millis), u64::from(most.cpu_millis)),
        ("memory_bytes", asked.memory_bytes, LEAST.memory_bytes, most.memory_bytes),
        ("disk_bytes", asked.disk_bytes, LEAST.disk_bytes, most.disk_bytes),
        ("processes", u64::from(asked.processes), u64::from(LEAST.processes), u64::from(most.processes)),
    ];
    for (name, value, least, most) in values {
        if !(least..=most).contains(&value) {
            return Err(invalid(format!("limits.{name} is {value}: {least} to {most} are taken")));
        }
    }
    // 0 is "until it is deleted": only where the operator set no limit.
    if most.lifetime_s > 0 && (asked.lifetime_s > most.lifetime_s || asked.lifetime_s == 0) {
        return Err(invalid(format!("limits.lifetime_s is {}: 1 to {} are taken", asked.lifetime_s, most.lifetime_s)));
    }
    Ok(())
}

fn environment(env: &BTreeMap<String, String>) -> Result<(), VmError> {
    let size: usize = env.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
    if env.len() > 512 || size > ENV_BYTES {
        return Err(invalid(format!("env has {} variables of {size} bytes: at most 512 of {ENV_BYTES} bytes are taken", env.len())));
    }
    for (key, value) in env {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if key.is_empty() || key.as_bytes()[0].is_ascii_digit() || !key.bytes().all(word) {
            let shown: String = key.chars().take(64).collect();
            return Err(invalid(format!("env: {shown:?} is no name of a variable: letters, digits and '_' are taken, no digit first")));
        }
        if value.contains('\0') {
            return Err(invalid(format!("env: the value of {key} holds a zero byte")));
        }
    }
    Ok(())
}

pub(super) fn labels(labels: &BTreeMap<String, String>) -> Result<(), VmError> {
    if labels.len() > 64 {
        return Err(invalid(format!("there are {} labels: at most 64 are taken", labels.len())));
    }
    let word = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    for (key, value) in labels {
        if key.is_empty() || key.len() > 64 || !key.bytes().all(word) || value.len() > 256 || value.contains(char::is_control) {
            let shown: String = key.chars().take(64).collect();
            return Err(invalid(format!(
                "label {shown:?}: names are 1 to 64 of letters, digits, '.', '_', '-', '/'; values are up to 256 bytes without control characters"
            )));
        }
    }
    Ok(())
}

fn folder(what: &str, path: &str) -> Result<(), VmError> {
    let fits = path.is_empty() || path.starts_with('/') && path.len() <= PATH_BYTES && !path.contains('\0');
    if fits { Ok(()) } else { Err(invalid(format!("{what}: an absolute path of up to {PATH_BYTES} bytes is taken"))) }
}

fn destinations(destinations: &[Destination]) -> Result<(), VmError> {
    if destinations.is_empty() || destinations.len() > 64 {
        return Err(invalid(format!("network: the allow-list has {} destinations: 1 to 64 are taken", destinations.len())));
    }
    for destination in destinations {
        let most = if destination.address.is_ipv4() { 32 } else { 128 };
        if destination.prefix > most || destination.port == Some(0) {
            return Err(invalid(format!(
                "network: {}/{} port {:?} is no destination: a prefix of 0 to {most}, a port of 1 to 65535 or none",
                destination.address, destination.prefix, destination.port
            )));
        }
    }
    Ok(())
}

/// What the engine cannot do is refused before anything is made.
pub(super) fn capable(request: &Request, engine: &'static str, can: &Capabilities) -> Result<(), VmError> {
    let cannot = |what: &str| Err(VmError::Unsupported { engine, what: what.to_owned() });
    match &request.network {
        Network::Nat if !can.nat => cannot("give a network of its own here: use network none, or another engine"),
        Network::Allow(_) if !can.allow_list => {
            cannot("hold a network to a list of destinations here: use network none, or another engine")
        }
        _ => Ok(()),
    }
}

/// A root filesystem on the server: the true path, below an allowed folder.
pub(super) fn rootfs(path: &Path, allowed: &[PathBuf]) -> Result<Source, VmError> {
    let refused = || {
        invalid(format!(
            "the root filesystem {} is not below a folder that the configuration allows (sandboxes.rootfs_folders), or is not there",
            path.display()
        ))
    };
    // One answer for both reasons: nobody learns which files the server has.
    let real = path.canonicalize().map_err(|_| refused())?;
    let below = allowed.iter().filter_map(|folder| folder.canonicalize().ok()).any(|folder| real.starts_with(folder));
    if below { Ok(Source::RootFs(real)) } else { Err(refused()) }
}

pub(super) fn exec(exec: &ExecSpec, can: &Capabilities, engine: &'static str) -> Result<(), VmError> {
    let size: usize = exec.argv.iter().map(|word| word.len() + 1).sum();
    if exec.argv.first().is_none_or(String::is_empty) {
        return Err(invalid("argv is empty: name a program".into()));
    }
    if exec.argv.len() > 4_096 || size > ARGV_BYTES || exec.argv.iter().any(|word| word.contains('\0')) {
        return Err(invalid(format!(
            "argv has {} words of {size} bytes: at most 4096 of {ARGV_BYTES} bytes without zero bytes are taken",
            exec.argv.len()
        )));
    }
    environment(&exec.env)?;
    folder("cwd", &exec.cwd)?;
    let word = |b: u8| b.is_ascii_alphanumeric() || b"._-:".contains(&b);
    if exec.user.len() > 64 || !exec.user.bytes().all(word) {
        return Err(invalid("user: a name or number of up to 64 bytes is taken".into()));
    }
    if let Some(size) = exec.tty {
        if !can.tty {
            return Err(VmError::Unsupported { engine, what: "give a program a terminal".into() });
        }
        tty(size)?;
    }
    if exec.timeout.is_some_and(|after| after.is_zero() || after.as_secs() > 30 * 86_400) {
        return Err(invalid("timeout: more than nothing and at most 30 days are taken".into()));
    }
    Ok(())
}

fn tty(size: super::super::TtySize) -> Result<(), VmError> {
    let fits = (1..=4_096).contains(&size.rows) && (1..=4_096).contains(&size.columns);
    if fits { Ok(()) } else { Err(invalid(format!("a terminal of {} x {} is not taken: 1 to 4096 each", size.rows, size.columns))) }
}

/// A path in a sandbox: absolute, without `..`. Engines resolve links inside the sandbox alone.
pub(super) fn path(path: &str) -> Result<(), VmError> {
    let shown = || path.chars().take(120).collect::<String>();
    if !path.starts_with('/') || path.len() > PATH_BYTES || path.contains('\0') {
        return Err(invalid(format!("{:?} is no path in a sandbox: an absolute one of up to {PATH_BYTES} bytes is taken", shown())));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(invalid(format!("{:?} holds `..`: write the path that is meant", shown())));
    }
    if path.split('/').any(|part| part.len() > 255) {
        return Err(invalid(format!("{:?} holds a name of more than 255 bytes", shown())));
    }
    Ok(())
}
