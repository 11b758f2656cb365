//! The default engine: processes of this machine, confined by bubblewrap (namespaces, no capabilities, a filter of system calls) and by control
//! groups (memory, processes, CPU, freezing).
//!
//! Place: an [`Engine`]; the guest agent is the first process of each sandbox, so a program costs a message on a socket and not a new
//! bubblewrap. Rule: a sandbox outlives the server. What another server value needs to go on with it lies in its home:
//!
//! - `root/`: its files, owned by its user; `process.json`: what was made ([`Record`]);
//! - `agent.sock`: the agent's socket. The server makes it and the agent inherits it listening, so that no program in the sandbox can reach, replace or
//!   redirect it;
//! - `launch.json`, `bwrap.args`, `filter-*.bpf`, `launch.log`: the last start.
//!
//! A server that is root gives each sandbox a user number of its own that no account has; one that is not root runs sandboxes as itself, in user
//! namespaces. Inside, the sandbox is number 0 of a namespace where that means nothing. The limit of disk: [`disk`].

mod bubblewrap;
mod cgroup;
mod disk;
mod layer;
mod life;
mod processes;
mod seccomp;
mod spare;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::geteuid;
use tokio::io::AsyncRead;
use tokio::sync::{Mutex, OnceCell, mpsc};

use super::agent::guest_binary;
use super::network::{NetworkConfig, Networks};
use super::{Capabilities, Condition, Engine, Exec, ExecOutput, ExecSpec, ExitStatus, FileEntry, SandboxId, Spec, Stream, Usage, VmError};
pub(crate) use bubblewrap::find_program;
use life::{Record, Running};
use spare::{Maker, Spares};

const NAME: &str = "process";
/// Output of a program between the agent's client and whoever reads it.
const OUTPUTS: usize = 16;

/// How the engine works.
#[derive(Debug, Clone, Default)]
pub struct ProcessConfig {
    /// The guest agent's static binary; none: AURALINK_GUEST, beside the server, or in the cache.
    pub guest: Option<PathBuf>,
    /// Networks beside none.
    pub network: NetworkConfig,
    /// Sandboxes made ahead of their time ([`spare`]), which cost some 3 MB each. None by default.
    pub spares: usize,
}

/// The engine `process`.
pub struct ProcessEngine {
    config: ProcessConfig,
    groups: cgroup::Hierarchies,
    probed: OnceCell<Capabilities>,
    running: Mutex<HashMap<SandboxId, Arc<Running>>>,
    spares: Arc<Spares>,
    /// Whose id the group and the agent of a sandbox carry, as its record says.
    bodies: std::sync::Mutex<HashMap<SandboxId, SandboxId>>,
}

impl ProcessEngine {
    /// Looks at what this machine has; nothing is started.
    pub fn new(config: ProcessConfig) -> Self {
        let spares = Spares::new(config.spares);
        let groups = cgroup::Hierarchies::detect();
        Self { config, groups, probed: OnceCell::new(), running: Mutex::default(), spares, bodies: Default::default() }
    }

    /// The same without control groups, as a server without any right to them has it.
    pub fn without_control_groups(config: ProcessConfig) -> Self {
        Self { groups: cgroup::Hierarchies::default(), ..Self::new(config) }
    }

    /// Sandboxes that wait to be asked for.
    pub fn spares_ready(&self) -> usize {
        self.spares.ready()
    }

    fn networks(&self, homes: &Path) -> Result<Networks, VmError> {
        Networks::new(self.config.network.clone(), homes)
    }

    fn guest(&self) -> Result<PathBuf, VmError> {
        self.config.guest.clone().map_or_else(|| guest_binary(NAME), Ok)
    }

    async fn capabilities(&self) -> Result<Capabilities, VmError> {
        let guest = self.guest()?;
        let unavailable = |reason: String| VmError::Unavailable { engine: NAME, reason };
        let bwrap = find_program("bwrap").ok_or_else(|| unavailable("`bwrap` is missing: install bubblewrap".into()))?;
        // As the user that sandboxes have, since a system may let root alone make namespaces.
        let mut command = tokio::process::Command::new(bwrap);
        command.args(["--unshare-all", "--uid", "0", "--gid", "0", "--ro-bind", "/", "/", "--proc", "/proc", "--", "true"]);
        if geteuid().is_root() {
            let user = life::FIRST_USER;
            command.uid(user).gid(user);
        }
        let output = command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/").stdin(std::process::Stdio::null()).output().await;
        let output = output.map_err(|e| unavailable(format!("bwrap does not start: {e}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().chars().take(300).collect::<String>();
            return Err(unavailable(format!(
                "bwrap cannot make a sandbox ({said}): user namespaces may be switched off (kernel.unprivileged_userns_clone, user.max_user_namespaces, \
                 kernel.apparmor_restrict_unprivileged_userns), or a container forbids them"
            )));
        }
        let mut notes = vec![format!("the guest agent is {}", guest.display()), disk_note(), SNAPSHOT_NOTE.into()];
        for limit in self.groups.missing() {
            notes.push(match limit {
                "memory" => "memory: no control group can be written here (not root, no delegation); each process is limited (RLIMIT_DATA), the sandbox as a whole and its /dev/shm are not".into(),
                "pids" => "processes: no control group can be written here; limited by RLIMIT_NPROC in the sandbox's own user namespace".into(),
                other => format!("{other}: not limited, since no control group can be written here (run as root, or delegate a group: systemd's Delegate=yes)"),
            });
        }
        if !self.groups.freezes() {
            notes.push("pause: no freezer can be written here".into());
        }
        let network = Networks::new(self.config.network.clone(), Path::new("/")).map(|networks| networks.probe());
        let network = network.unwrap_or_else(|e| Err(e.to_string()));
        if let Err(reason) = &network {
            notes.push(format!("network: none alone; {reason}"));
        }
        let open = network.is_ok();
        Ok(Capabilities { pause: self.groups.freezes(), snapshot: true, tty: true, nat: open, allow_list: open, notes })
    }

    /// Its agent, connected; what watches it is there too.
    async fn running(&self, id: &SandboxId, home: &Path) -> Result<Arc<Running>, VmError> {
        match self.condition(id, home).await? {
            Condition::Running => {}
            Condition::Paused => return Err(VmError::Condition { is: "paused", what: "resume it first".into() }),
            Condition::Stopped => return Err(VmError::Condition { is: "stopped", what: "start it first".into() }),
            Condition::Gone => return Err(VmError::NotFound(format!("there is no sandbox {id}"))),
        }
        let mut all = self.running.lock().await;
        if let Some(known) = all.get(id)
            && !known.is_over()
        {
            return Ok(known.clone());
        }
        let record = Record::read(home)?;
        let running = Arc::new(Running::connect(id, home, record, self.group(id, home)).await?);
        let (mark, at) = (life::mark(&self.body(id, home), home), home.to_path_buf());
        blocking(move || {
            processes::go_on(&mark, &at);
            Ok(())
        })
        .await?;
        all.insert(id.clone(), running.clone());
        Ok(running)
    }

    fn group(&self, id: &SandboxId, home: &Path) -> cgroup::Group {
        self.groups.group(homes_of(home), &self.body(id, home))
    }

    fn bodies(&self) -> std::sync::MutexGuard<'_, HashMap<SandboxId, SandboxId>> {
        self.bodies.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whose id its group and its agent carry: its own, or that of the spare that it was made of.
    fn body(&self, id: &SandboxId, home: &Path) -> SandboxId {
        if let Some(known) = self.bodies().get(id) {
            return known.clone();
        }
        let Ok(record) = Record::read(home) else { return id.clone() };
        let body = record.body.map_or_else(|| id.clone(), |body| body.id);
        self.bodies().insert(id.clone(), body.clone());
        body
    }

    /// Begins it in the body that was made before, where there is one.
    async fn start_spare(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Option<Running> {
        let spare = self.spares.body_of(id)?;
        if !self.spares.fit(spec, &self.groups) {
            spare.end().await;
            return None;
        }
        // Before its record says so: who asks meanwhile must not remember another.
        self.bodies().insert(id.clone(), spare.id().clone());
        match spare.become_body(id, spec, home).await {
            Ok(running) => Some(running),
            Err(error) => {
                tracing::warn!(%id, %error, "a sandbox that was made before cannot be used: another is begun");
                None
            }
        }
    }

    /// Begins it from nothing.
    async fn start_anew(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<Running, VmError> {
        if self.body(id, home) != *id {
            // What the spare that it once was may have left.
            self.end(id, home).await?;
        }
        self.bodies().insert(id.clone(), id.clone());
        let group = self.group(id, home);
        let plan = life::Start {
            id: id.clone(),
            spec: spec.clone(),
            home: home.to_path_buf(),
            guest: self.guest()?,
            group: group.clone(),
            owned: false,
        };
        let (networks, limit_each) = (self.networks(homes_of(home))?, !self.groups.missing().is_empty());
        blocking(move || plan.launch(&networks, limit_each)).await?;
        Running::connect(id, home, Record::read(home)?, group).await
    }

    async fn forget(&self, id: &SandboxId) {
        self.running.lock().await.remove(id);
    }

    /// Ends all of it on the machine and leaves its files.
    async fn end(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        self.forget(id).await;
        let (group, mark, networks, id, home) =
            (self.group(id, home), life::mark(&self.body(id, home), home), self.networks(homes_of(home))?, id.clone(), home.to_path_buf());
        blocking(move || life::end(&id, &home, &group, &mark, &networks)).await
    }
}

const SNAPSHOT_NOTE: &str = "snapshots hold files, not memory: programs begin anew";

fn disk_note() -> String {
    format!(
        "disk: looked at every {} ms, and programs killed that write beyond it; the kernel holds single files to it",
        disk::INTERVAL.as_millis()
    )
}

fn homes_of(home: &Path) -> &Path {
    home.parent().unwrap_or(home)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, VmError> + Send + 'static) -> Result<T, VmError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(VmError::Engine { engine: NAME, reason: format!("a thread ended: {e}") }))
}

#[async_trait]
impl Engine for ProcessEngine {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn probe(&self) -> Result<Capabilities, VmError> {
        self.probed.get_or_try_init(|| self.capabilities()).await.cloned()
    }

    async fn create(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<(), VmError> {
        self.guest()?;
        let spare = if self.spares.fit(spec, &self.groups) { self.spares.take(id, homes_of(home)) } else { None };
        let make = |spare| {
            let (id, spec, home) = (id.clone(), spec.clone(), home.to_path_buf());
            blocking(move || life::create(&id, &spec, &home, spare))
        };
        let taken = spare.is_some();
        match make(spare).await {
            Err(error) if taken => {
                tracing::warn!(%id, %error, "a sandbox that was made before cannot be used: another is made");
                if let Some(spare) = self.spares.body_of(id) {
                    spare.end().await;
                }
                make(None).await
            }
            made => made,
        }
    }

    async fn start(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<(), VmError> {
        match self.condition(id, home).await? {
            Condition::Stopped => {}
            Condition::Gone => return Err(VmError::NotFound(format!("there is no sandbox {id}"))),
            _ => return Err(VmError::Condition { is: "running", what: "stop it first".into() }),
        }
        let started = match self.start_spare(id, spec, home).await {
            Some(running) => Ok(running),
            None => self.start_anew(id, spec, home).await,
        };
        if self.spares.fit(spec, &self.groups) {
            self.spares.refill(&Maker { homes: homes_of(home).to_path_buf(), guest: self.guest()?, groups: self.groups.clone() });
        }
        match started {
            Ok(running) => {
                self.running.lock().await.insert(id.clone(), Arc::new(running));
                Ok(())
            }
            Err(error) => {
                let error = life::explained(error, home);
                if let Err(more) = self.end(id, home).await {
                    tracing::warn!(%id, %more, "what a failed start left could not be removed yet");
                }
                Err(error)
            }
        }
    }

    async fn stop(&self, id: &SandboxId, home: &Path, grace: Duration) -> Result<(), VmError> {
        match self.condition(id, home).await? {
            Condition::Gone => return Err(VmError::NotFound(format!("there is no sandbox {id}"))),
            Condition::Paused => self.resume(id, home).await?,
            Condition::Running | Condition::Stopped => {}
        }
        if let Ok(running) = self.running(id, home).await {
            running.ask_to_end(grace).await;
        }
        self.end(id, home).await
    }

    async fn pause(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        if !self.groups.freezes() {
            return Err(VmError::Unsupported { engine: NAME, what: "pause here: no freezer of control groups can be written".into() });
        }
        self.running(id, home).await?;
        let group = self.group(id, home);
        blocking(move || group.freeze(true, life::PATIENCE).map_err(|source| VmError::Io { what: "freezing".into(), source })).await
    }

    async fn resume(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        match self.condition(id, home).await? {
            Condition::Paused => {}
            Condition::Running => return Err(VmError::Condition { is: "running", what: "it is not paused".into() }),
            Condition::Stopped => return Err(VmError::Condition { is: "stopped", what: "start it".into() }),
            Condition::Gone => return Err(VmError::NotFound(format!("there is no sandbox {id}"))),
        }
        let group = self.group(id, home);
        blocking(move || group.freeze(false, life::PATIENCE).map_err(|source| VmError::Io { what: "thawing".into(), source })).await
    }

    async fn snapshot(&self, id: &SandboxId, home: &Path, folder: &Path) -> Result<(), VmError> {
        let condition = self.condition(id, home).await?;
        if condition == Condition::Gone {
            return Err(VmError::NotFound(format!("there is no sandbox {id}")));
        }
        let thaw = condition == Condition::Running && self.groups.freezes();
        if thaw {
            self.pause(id, home).await?;
        }
        let (home_copy, folder) = (home.to_path_buf(), folder.to_path_buf());
        let mark = (condition == Condition::Running && !thaw).then(|| life::mark(&self.body(id, home), home));
        let done = blocking(move || {
            let stopped = mark.map(|mark| processes::Stopped::all(&mark, &home_copy)).transpose();
            let _stopped = stopped.map_err(|source| VmError::Io { what: "stopping its programs".into(), source })?;
            life::snapshot(&home_copy, &folder)
        })
        .await;
        if thaw {
            self.resume(id, home).await?;
        }
        done
    }

    async fn delete(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        if let Some(spare) = self.spares.body_of(id) {
            spare.end().await;
        }
        self.end(id, home).await?;
        self.bodies().remove(id);
        let home = home.to_path_buf();
        blocking(move || life::remove(&home)).await
    }

    async fn condition(&self, id: &SandboxId, home: &Path) -> Result<Condition, VmError> {
        let (group, home) = (self.group(id, home), home.to_path_buf());
        match group.exists() {
            true => Ok(life::condition(&home, &group)),
            // Asks a socket, which may block.
            false => blocking(move || Ok(life::condition(&home, &group))).await,
        }
    }

    async fn found(&self, homes: &Path) -> Result<Vec<SandboxId>, VmError> {
        let (groups, networks, homes_copy) = (self.groups.clone(), self.networks(homes)?, homes.to_path_buf());
        let mut all = blocking(move || Ok(life::found(&homes_copy, &groups, &networks))).await?;
        let spares = self.spares.ids();
        all.retain(|id| !spares.contains(id));
        for id in &all {
            let home = homes.join(id.as_str());
            // Connecting begins the watch of its disk.
            if self.condition(id, &home).await? == Condition::Running
                && let Err(error) = self.running(id, &home).await
            {
                tracing::warn!(%id, %error, "a running sandbox does not answer");
            }
        }
        Ok(all)
    }

    async fn exec(&self, id: &SandboxId, home: &Path, mut exec: ExecSpec) -> Result<Exec, VmError> {
        if !matches!(exec.user.as_str(), "" | "root" | "0") {
            return Err(VmError::Unsupported {
                engine: NAME,
                what: format!("run a program as {:?}: all run as the sandbox's one user", exec.user),
            });
        }
        exec.user.clear();
        let running = self.running(id, home).await?;
        if let Some(body) = &running.record.body {
            body.fill(&mut exec);
        }
        if running.watch.is_far_over(running.record.limits.disk_bytes) {
            return Err(VmError::Exhausted("the sandbox is far above its disk limit: delete it, or restore a snapshot".into()));
        }
        let (memory_before, disk_before) = (running.group.memory_kills(), running.watch.kills.load(Ordering::Relaxed));
        let Exec { input, output: mut raw } = running.agent.exec(exec).await?;
        let (tell, output) = mpsc::channel(OUTPUTS);
        tokio::spawn(async move {
            loop {
                // Who drops the output kills the program, also one that says nothing.
                let item = tokio::select! {
                    item = raw.recv() => item,
                    () = tell.closed() => break,
                };
                let Some(item) = item else { break };
                let item = match item {
                    Ok(ExecOutput::Exited(status)) => running.told_why(status, memory_before, disk_before),
                    other => other,
                };
                if tell.send(item).await.is_err() {
                    break;
                }
            }
        });
        Ok(Exec { input, output })
    }

    async fn write_file(
        &self,
        id: &SandboxId,
        home: &Path,
        path: &str,
        mode: u32,
        size: u64,
        content: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<(), VmError> {
        let running = self.running(id, home).await?;
        running.watch.has_room(size, running.record.limits.disk_bytes).map_err(VmError::Exhausted)?;
        // Until the next look it counts as written, so that many small files do not slip past.
        running.watch.used.fetch_add(size, Ordering::Relaxed);
        running.agent.write_file(path, mode, size, content).await
    }

    async fn read_file(&self, id: &SandboxId, home: &Path, path: &str) -> Result<(u64, Box<dyn AsyncRead + Send + Unpin>), VmError> {
        self.running(id, home).await?.agent.read_file(path).await
    }

    async fn list_folder(&self, id: &SandboxId, home: &Path, path: &str, limit: usize) -> Result<Vec<FileEntry>, VmError> {
        self.running(id, home).await?.agent.list_folder(path, limit).await
    }

    async fn dial(&self, id: &SandboxId, home: &Path, port: u16) -> Result<Box<dyn Stream>, VmError> {
        self.running(id, home).await?.agent.dial(port).await
    }

    async fn usage(&self, id: &SandboxId, home: &Path) -> Result<Usage, VmError> {
        match self.condition(id, home).await? {
            Condition::Gone => Err(VmError::NotFound(format!("there is no sandbox {id}"))),
            Condition::Paused => Ok(self.group(id, home).usage()),
            Condition::Stopped => Ok(Usage::default()),
            Condition::Running => {
                let running = self.running(id, home).await?;
                let disk_bytes = running.watch.used.load(Ordering::Relaxed);
                let usage = if self.groups.missing().is_empty() { running.group.usage() } else { running.agent.usage().await? };
                Ok(Usage { disk_bytes, ..usage })
            }
        }
    }
}

impl Running {
    /// The reason why a program was killed, when a limit was it.
    fn told_why(&self, status: ExitStatus, memory_before: u64, disk_before: u64) -> Result<ExecOutput, VmError> {
        // A shell answers 137 for a child of its own that was killed.
        let killed = !status.timed_out && (status.signal == Some(9) || status.code == 137);
        if killed && self.watch.kills.load(Ordering::Relaxed) > disk_before {
            let limit = self.record.limits.disk_bytes;
            return Err(VmError::Exhausted(format!(
                "killed: the sandbox wrote more than its disk limit of {limit} bytes; delete files, or give it more"
            )));
        }
        let out_of_memory = status.out_of_memory || killed && self.group.memory_kills() > memory_before;
        Ok(ExecOutput::Exited(ExitStatus { out_of_memory, ..status }))
    }
}
