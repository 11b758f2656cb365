//! From nothing to a running sandbox and back, step by step. What is here blocks, but for talking to the agent.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::bubblewrap::{self, Plan};
use super::cgroup::{Group, Hierarchies, parent_name};
use super::{NAME, blocking, disk, homes_of, layer, processes};
use crate::vm::agent::Agent;
use crate::vm::network::Networks;
use crate::vm::remove::remove_tree;
use crate::vm::{Condition, ExecSpec, Limits, Network, SandboxId, Source, Spec, VmError};

/// The first of a million user numbers that no account has; each sandbox of a server that is root is one of them.
pub(super) const FIRST_USER: u32 = 1_879_048_192;
/// How long the kernel may take to freeze or to end processes.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long bubblewrap and the agent may take to begin.
const BEGIN: Duration = Duration::from_secs(30);
/// Between two looks at a sandbox's disk, however long they take.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Less than this, and not even the agent runs well.
const LEAST_MEMORY: u64 = 8 << 20;

/// What was made, for whoever goes on with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its user outside; none: the server's own.
    pub(super) user: Option<u32>,
    pub(super) limits: Limits,
    /// Whether the host's programs show in it.
    pub(super) host: bool,
    /// Bytes that it began with, which do not count as written.
    pub(super) base_bytes: u64,
    /// Where it has a body that was another's ([`super::spare`]): whose name its group and its agent carry, and what the agent could not
    /// be told when it began: the folder that programs run in, and their environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<Body>,
}

/// A running sandbox that was made before it was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Body {
    pub(super) id: SandboxId,
    pub(super) workdir: String,
    pub(super) env: BTreeMap<String, String>,
}

impl Body {
    /// Adds what the agent was not told.
    pub(super) fn fill(&self, exec: &mut ExecSpec) {
        if exec.cwd.is_empty() {
            self.workdir.clone_into(&mut exec.cwd);
        }
        for (name, value) in &self.env {
            exec.env.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
}

impl Record {
    pub(super) fn read(home: &Path) -> Result<Self, VmError> {
        let path = home.join("process.json");
        let told = |source| VmError::Io { what: path.display().to_string(), source };
        let text = fs::read(&path).map_err(told)?;
        serde_json::from_slice(&text).map_err(|e| told(io::Error::new(io::ErrorKind::InvalidData, e)))
    }

    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        let part = folder.join("process.json.part");
        bubblewrap::write(&part, &serde_json::to_vec(self)?)?;
        fs::rename(part, folder.join("process.json"))
    }
}

fn user_of(id: &SandboxId) -> Option<u32> {
    let hash = Sha256::digest(id.as_str().as_bytes());
    // The first is the probe's.
    geteuid().is_root().then(|| FIRST_USER + 1 + u32::from_be_bytes([0, hash[0], hash[1], hash[2]]) % 0xf_ffff)
}

/// What the agent's arguments carry.
pub(super) fn mark(id: &SandboxId, home: &Path) -> String {
    format!("{}/{id}", parent_name(homes_of(home)))
}

/// Makes its files, or takes those of a spare.
pub(super) fn create(id: &SandboxId, spec: &Spec, home: &Path, spare: Option<(PathBuf, Record)>) -> Result<(), VmError> {
    if !spec.runtime.is_empty() {
        return Err(VmError::Invalid(format!("the process engine has no runtime {:?}: leave it empty", spec.runtime)));
    }
    if spec.limits.memory_bytes < LEAST_MEMORY {
        return Err(VmError::Invalid(format!(
            "a memory limit of {} bytes is too little: at least {LEAST_MEMORY}",
            spec.limits.memory_bytes
        )));
    }
    let root = home.join("root");
    if home.join("process.json").exists() {
        return Err(VmError::Exists(format!("the sandbox {id} was made already")));
    }
    let filled = match spare {
        Some((files, record)) => fs::rename(&files, &root)
            .map_err(|source| VmError::Io { what: format!("taking the files of {id}"), source })
            .and_then(|()| layer::folder_at(&root, Path::new(&spec.workdir), record.user))
            .map(|_| Record { limits: spec.limits, ..record }),
        None => fill(id, spec, &root),
    };
    let made =
        filled.and_then(|record| record.write(home).map_err(|source| VmError::Io { what: format!("writing the record of {id}"), source }));
    if made.is_err() && root.exists() {
        remove_tree(&root).map_err(|source| VmError::Io { what: format!("removing {}", root.display()), source })?;
    }
    made
}

fn fill(id: &SandboxId, spec: &Spec, root: &Path) -> Result<Record, VmError> {
    let user = user_of(id);
    let told = |source| VmError::Io { what: format!("making the files of {id}"), source };
    fs::create_dir(root).map_err(told)?;
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).map_err(told)?;
    let mut host = false;
    match &spec.source {
        Source::Host => {
            host = true;
            layer::fill_from_host(root, user).map_err(told)?;
        }
        // The service knows images and gives their folders.
        Source::Image(name) => {
            return Err(VmError::NotFound(format!("the process engine has no images of its own: import {name:?} first")));
        }
        Source::RootFs(folder) => {
            // A folder that is not there is told by the copy.
            let base = disk::bytes_of(folder).unwrap_or(0);
            layer::fill_from_folder(folder, root, user, base.saturating_add(spec.limits.disk_bytes))?;
        }
        Source::Snapshot(folder) => {
            let taken = Record::read(folder).map_err(|e| VmError::NotFound(format!("no snapshot of the process engine: {e}")))?;
            host = taken.host;
            let budget = taken.base_bytes.saturating_add(taken.limits.disk_bytes.max(spec.limits.disk_bytes));
            layer::fill_from_folder(&folder.join("root"), root, user, budget)?;
        }
    }
    if let Some(user) = user {
        std::os::unix::fs::chown(root, Some(user), Some(user)).map_err(told)?;
    }
    let base_bytes = disk::bytes_of(root).map_err(told)?;
    Ok(Record { user, limits: spec.limits, host, base_bytes, body: None })
}

/// A start.
pub(super) struct Start {
    pub(super) id: SandboxId,
    pub(super) spec: Spec,
    pub(super) home: PathBuf,
    pub(super) guest: PathBuf,
    pub(super) group: Group,
    /// Ends with its first connection: nobody asked for it yet.
    pub(super) owned: bool,
}

impl Start {
    /// Begins it; the agent may take a moment more. Who calls this ends it when it fails.
    pub(super) fn launch(&self, networks: &Networks, limit_each: bool) -> Result<(), VmError> {
        let (id, home) = (&self.id, &self.home);
        let told = |what: &str, source| VmError::Io { what: format!("{what} of {id}"), source };
        let record = Record { limits: self.spec.limits, body: None, ..Record::read(home)? };
        record.write(home).map_err(|e| told("writing the record", e))?;
        if self.group.exists() {
            // What a sandbox left that ended by itself.
            self.group.kill(&[], PATIENCE).and_then(|()| self.group.remove()).map_err(|e| told("removing the old control group", e))?;
        }
        let network = match &self.spec.network {
            Network::None => None,
            other => Some(networks.attach_namespace(id, other)?),
        };
        if let Some(network) = &network {
            let text: String = network.port.resolvers.iter().map(|server| format!("nameserver {server}\n")).collect();
            layer::file_at(&home.join("root"), Path::new("etc/resolv.conf"), text.as_bytes(), record.user)?;
        }
        self.group.make(&self.spec.limits).map_err(|e| told("making the control group", e))?;
        let launch = Plan {
            id,
            spec: &self.spec,
            home,
            guest: &self.guest,
            mark: &mark(id, home),
            owned: self.owned,
            user: record.user,
            host: record.host,
            groups: self.group.doors(),
            network: network.map(|network| network.path),
            limit_each,
        };
        let launch = serde_json::to_vec(&launch.prepare()?).expect("plain data");
        fs::write(home.join("launch.json"), launch).map_err(|e| told("writing the start", e))?;
        self.spawn().map_err(|e| told("starting bubblewrap", e))
    }

    fn spawn(&self) -> io::Result<()> {
        let socket = self.home.join("agent.sock");
        match fs::remove_file(&socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = bind(&self.home)?;
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
        let log = fs::File::create(self.home.join("launch.log"))?;
        let mut command = tokio::process::Command::new(&self.guest);
        command.arg("launch").arg(self.home.join("launch.json")).current_dir("/").env_clear().env("PATH", "/usr/bin:/bin:/usr/local/bin");
        command.stdin(Stdio::from(OwnedFd::from(listener))).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn()?;
        // Nobody needs its status; waiting keeps it from staying as a zombie.
        tokio::spawn(async move { child.wait().await });
        Ok(())
    }
}

/// A home's path may be longer than a socket's may be: through a descriptor of the folder it is short.
fn through<T>(home: &Path, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let folder = fs::File::open(home)?;
    work(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join("agent.sock"))
}

fn bind(home: &Path) -> io::Result<UnixListener> {
    through(home, |path| UnixListener::bind(path))
}

fn connect(home: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    through(home, |path| std::os::unix::net::UnixStream::connect(path))
}

/// Adds what the launcher, bubblewrap and the agent said.
pub(super) fn explained(error: VmError, home: &Path) -> VmError {
    let mut said = String::new();
    let read = fs::File::open(home.join("launch.log")).and_then(|file| file.take(2_000).read_to_string(&mut said));
    if read.is_err() || said.trim().is_empty() || matches!(error, VmError::Invalid(_) | VmError::Unsupported { .. } | VmError::NotFound(_))
    {
        return error;
    }
    VmError::Engine { engine: NAME, reason: format!("{error}; {}", said.trim()) }
}

/// Connects to the agent of the sandbox with this home.
pub(super) async fn reach(home: &Path) -> Result<Agent, VmError> {
    let begin = async {
        let at = home.to_path_buf();
        // A full queue of connections blocks.
        let stream = blocking(move || connect(&at).map_err(|e| VmError::Ended(format!("its agent does not listen: {e}")))).await?;
        let told = |source| VmError::Io { what: "the agent's socket".into(), source };
        stream.set_nonblocking(true).map_err(told)?;
        Agent::connect(tokio::net::UnixStream::from_std(stream).map_err(told)?, NAME).await
    };
    let late = |_| VmError::Late { what: "the agent's first answer".into(), after: BEGIN };
    tokio::time::timeout(BEGIN, begin).await.map_err(late)?
}

/// A sandbox that runs, as this server value holds it.
pub(super) struct Running {
    pub(super) agent: Agent,
    pub(super) record: Record,
    pub(super) group: Group,
    pub(super) watch: Arc<disk::Watch>,
    watcher: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Running {
    /// Connects to its agent and begins to watch its disk.
    pub(super) async fn connect(id: &SandboxId, home: &Path, record: Record, group: Group) -> Result<Self, VmError> {
        Ok(Self::watched(id, home, record, group, reach(home).await?))
    }

    /// One whose agent is reached already.
    pub(super) fn watched(id: &SandboxId, home: &Path, record: Record, group: Group, agent: Agent) -> Self {
        let watch = Arc::new(disk::Watch::default());
        let watcher = tokio::spawn(watch_disk(id.clone(), home.to_path_buf(), record.clone(), group.clone(), watch.clone()));
        Self { agent, record, group, watch, watcher }
    }

    pub(super) fn is_over(&self) -> bool {
        self.agent.is_over()
    }

    /// Asks it to end and waits for that a little longer than it was given.
    pub(super) async fn ask_to_end(&self, grace: Duration) {
        let ended = async {
            if self.agent.shutdown(grace).await.is_ok() {
                self.agent.over().await; // the answer comes at once, the end later
            }
        };
        let _ = tokio::time::timeout(grace + Duration::from_secs(2), ended).await;
    }
}

async fn watch_disk(id: SandboxId, home: PathBuf, record: Record, group: Group, watch: Arc<disk::Watch>) {
    let mut pause = disk::INTERVAL;
    loop {
        tokio::time::sleep(pause).await;
        let (group, watch, mark) = (group.clone(), watch.clone(), mark(record.body.as_ref().map_or(&id, |body| &body.id), &home));
        let home = home.clone();
        let (limit, base) = (record.limits.disk_bytes, record.base_bytes);
        let began = std::time::Instant::now();
        let over = blocking(move || Ok(look(&home, &group, &mark, &watch, limit, base))).await.unwrap_or(false);
        if over {
            metrics::counter!("auralink_sandbox_limit_kills_total", "engine" => NAME, "limit" => "disk").increment(1);
            tracing::warn!(%id, limit, "the sandbox wrote more than its disk limit; its programs were killed");
        }
        // A tree of very many files may not cost more than a tenth of a core, unless it would be looked at too seldom.
        pause = disk::INTERVAL.max(began.elapsed() * 9).min(LONGEST_PAUSE);
    }
}

/// One look at the disk; whether it killed.
fn look(home: &Path, group: &Group, mark: &str, watch: &disk::Watch, limit: u64, base: u64) -> bool {
    let root = home.join("root");
    let Ok(shown) = disk::bytes_of(&root) else { return false };
    let agent = agent_of(group, mark);
    let device = fs::metadata(&root).map_or(0, |about| about.dev());
    let hidden = agent.map_or(0, |agent| processes::deleted_bytes(agent, device));
    let over = watch.look(shown.saturating_add(hidden).saturating_sub(base), limit);
    if let (true, Some(agent)) = (over, agent) {
        for _ in 0..50 {
            let others = processes::others(agent);
            if others.is_empty() {
                break;
            }
            others.into_iter().for_each(|pid| processes::kill(pid, || processes::others(agent).contains(&pid)));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    over
}

fn agent_of(group: &Group, mark: &str) -> Option<rustix::process::Pid> {
    let marked = |other: &str| (other == mark).then_some(());
    if group.exists() {
        return processes::agent_among(&group.processes());
    }
    processes::agents(marked).into_iter().next().map(|(pid, ())| pid)
}

/// Whether it runs.
pub(super) fn condition(home: &Path, group: &Group) -> Condition {
    if !home.join("process.json").exists() {
        return Condition::Gone;
    }
    if group.exists() {
        return match (group.processes().is_empty(), group.frozen()) {
            (true, _) => Condition::Stopped,
            (false, true) => Condition::Paused,
            (false, false) => Condition::Running,
        };
    }
    // Without a group: somebody has its socket open, listening.
    if connect(home).is_ok() { Condition::Running } else { Condition::Stopped }
}

/// Ends all of it on this machine, whatever of it there is; its files stay.
pub(super) fn end(id: &SandboxId, home: &Path, group: &Group, mark: &str, networks: &Networks) -> Result<(), VmError> {
    let told = |what: &str, source| VmError::Io { what: format!("{what} of {id}"), source };
    if group.exists() {
        group.kill(&[], PATIENCE).map_err(|e| told("killing the processes", e))?;
        group.remove().map_err(|e| told("removing the control group", e))?;
    } else if !processes::kill_sandbox(mark, PATIENCE) {
        return Err(told("killing the processes", io::Error::from(io::ErrorKind::TimedOut)));
    }
    if networks.probe().is_ok() {
        networks.detach(id)?;
    }
    for file in ["agent.sock", "launch.json", "bwrap.args", "filter-0.bpf", "filter-1.bpf"] {
        let _ = fs::remove_file(home.join(file));
    }
    Ok(())
}

/// Removes its files; it has ended.
pub(super) fn remove(home: &Path) -> Result<(), VmError> {
    let root = home.join("root");
    // First the record: a removal that is cut short leaves a stray, never half a sandbox that looks whole.
    for file in ["process.json", "process.json.part", "launch.log"] {
        let _ = fs::remove_file(home.join(file));
    }
    if fs::symlink_metadata(&root).is_ok() {
        remove_tree(&root).map_err(|source| VmError::Io { what: format!("removing {}", root.display()), source })?;
    }
    Ok(())
}

/// Copies the files of a sandbox that does not run at the moment.
pub(super) fn snapshot(home: &Path, folder: &Path) -> Result<(), VmError> {
    let told = |source| VmError::Io { what: format!("writing the snapshot {}", folder.display()), source };
    let record = Record::read(home)?;
    let root = folder.join("root");
    fs::create_dir(&root).map_err(told)?;
    layer::fill_from_folder(&home.join("root"), &root, None, record.base_bytes.saturating_add(record.limits.disk_bytes))?;
    // Last: a folder without it is no snapshot. Its body, with the environment, is not part of it.
    Record { body: None, ..record }.write(folder).map_err(told)
}

/// Every sandbox of this server's that anything is left of.
pub(super) fn found(homes: &Path, groups: &Hierarchies, networks: &Networks) -> Vec<SandboxId> {
    let folders = fs::read_dir(homes).into_iter().flatten().flatten();
    let made = |home: &Path| home.join("process.json").exists() || home.join("root").exists();
    let mut all: Vec<SandboxId> =
        folders.filter(|entry| made(&entry.path())).filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let bodies: HashSet<SandboxId> = all.iter().filter_map(|id| Some(Record::read(&homes.join(id.as_str())).ok()?.body?.id)).collect();
    all.extend(groups.list(homes));
    let ours = format!("{}/", parent_name(homes));
    all.extend(processes::agents(|mark| mark.strip_prefix(&ours)?.parse().ok()).into_iter().map(|(_, id)| id));
    if networks.probe().is_ok() {
        all.extend(networks.found());
    }
    all.sort();
    all.dedup();
    // Another's body is no sandbox.
    all.retain(|id| !bodies.contains(id));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_no_accounts() {
        for _ in 0..100 {
            let user = user_of(&SandboxId::random().unwrap());
            assert!(user.is_none_or(|user| (FIRST_USER + 1..FIRST_USER + 0x10_0000).contains(&user)));
        }
    }
}
