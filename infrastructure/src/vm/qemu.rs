//! The engine `qemu`: each sandbox is a microVM with a kernel of its own.
//!
//! Place: [`machine`] starts QEMU so that it outlives the server, [`qmp`] speaks with it, [`initrd`] and [`disks`] make what it boots; the
//! agent inside is reached by a virtio serial port. Rule: all that is known of a sandbox lies in its home, so a server that was
//! restarted goes on with it; a process is signalled only after its command line was found to name that home.
//!
//! In a home: `machine.json` (how it was made), `root.img` (the image, read-only), `disk.img` (what it writes), `initrd`, `qemu.pid`,
//! `qmp.sock`, `agent-N.sock` with a lock each, since a serial port takes one connection at a time.

pub(super) mod disks;
pub(super) mod initrd;
mod machine;
mod qmp;
pub(super) mod tool_disks;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncRead;
use tokio::sync::OnceCell;

use super::agent::Agent;
use super::network::NetworkConfig;
use super::tap::{self, Taps};
use super::{Capabilities, Condition, Engine, Exec, ExecSpec, FileEntry, SandboxId, Source, Spec, Stream, Usage, VmError};
use machine::Machine;
pub(super) use machine::Process;

/// In errors.
const ENGINE: &str = "qemu";

/// How long a machine may take from its start to its agent's greeting; under emulation on a busy host it takes several seconds.
const BOOT: Duration = Duration::from_secs(60);

/// How long the trial of KVM may take: a machine that it can run greets in one second.
const TRIAL: Duration = Duration::from_secs(10);

/// Where the engine finds what it needs.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// QEMU's program.
    pub program: PathBuf,
    /// Folder with `vmlinuz` and `modules/`, as `scripts/setup.sh` makes it.
    pub kernel: PathBuf,
    /// False: never KVM, even where it works.
    pub kvm: bool,
    /// Networks beside none.
    pub network: NetworkConfig,
}

impl Default for QemuConfig {
    /// `qemu-system-x86_64` of the search path, the kernel of the cache folder, KVM where it works.
    fn default() -> Self {
        let cache = std::env::var_os("AURALINK_CACHE").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/auralink")));
        let kernel = cache.unwrap_or_default().join("kernel");
        Self { program: "qemu-system-x86_64".into(), kernel, kvm: true, network: NetworkConfig::default() }
    }
}

/// Whether the host's processor runs guests, or QEMU emulates one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Acceleration {
    kvm: bool,
    note: String,
}

/// The engine.
#[derive(Debug)]
pub struct QemuEngine {
    config: QemuConfig,
    taps: Taps,
    acceleration: OnceCell<Acceleration>,
    agents: Mutex<HashMap<SandboxId, Arc<tokio::sync::Mutex<Option<Agent>>>>>,
}

impl QemuEngine {
    /// It looks for nothing before [`Engine::probe`] or the first sandbox.
    pub fn new(config: QemuConfig) -> Self {
        Self { taps: Taps::new(config.network.clone()), config, acceleration: OnceCell::new(), agents: Mutex::default() }
    }

    async fn acceleration(&self) -> Result<Acceleration, VmError> {
        self.acceleration.get_or_try_init(|| self.try_kvm()).await.cloned()
    }

    /// Boots a machine with nothing but the agent by KVM: that the device can be opened does not say that guests run.
    async fn try_kvm(&self) -> Result<Acceleration, VmError> {
        let emulated =
            |why: &str| Acceleration { kvm: false, note: format!("guests are emulated (TCG), several times slower than by KVM: {why}") };
        if !self.config.kvm {
            return Ok(emulated("KVM is switched off in the configuration"));
        }
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
            return Ok(emulated(&format!("/dev/kvm: {error}")));
        }
        let folder = Scratch::new()?;
        let machine = Machine::trial(&self.config)?;
        let tried = async {
            initrd::write(&self.config.kernel, machine.devices(), &folder.path.join("initrd"))?;
            machine.save(&folder.path)?;
            machine::start(&self.config, true, &machine, &folder.path, None, None).await?;
            machine::greet(&machine, &folder.path, TRIAL).await.map(drop)
        }
        .await;
        if let Some(process) = Process::of(&folder.path) {
            process.kill().await;
        }
        Ok(match tried {
            Ok(()) => Acceleration { kvm: true, note: String::new() },
            Err(error) => emulated(&format!("a trial machine did not start by KVM: {error}")),
        })
    }

    /// The connection to a sandbox's agent, made when it is not there: after a restart of the server, or when it broke.
    async fn agent(&self, id: &SandboxId, home: &Path) -> Result<Agent, VmError> {
        let machine = Machine::load(home, id)?;
        if Process::of(home).is_none() {
            return Err(VmError::Condition { is: "stopped", what: "start it first".into() });
        }
        if machine::is_paused(home) {
            return Err(VmError::Condition { is: "paused", what: "resume it first".into() });
        }
        let place = self.agents.lock().unwrap_or_else(PoisonError::into_inner).entry(id.clone()).or_default().clone();
        let mut place = place.lock().await;
        if let Some(agent) = place.as_ref().filter(|agent| !agent.is_over()) {
            return Ok(agent.clone());
        }
        // The broken one's lock is free only when it is dropped.
        *place = None;
        let agent = machine::greet(&machine, home, BOOT).await?;
        *place = Some(agent.clone());
        Ok(agent)
    }

    fn forget(&self, id: &SandboxId) {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Ends all of it on this machine; its files stay.
    async fn end(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        if let Some(process) = Process::of(home) {
            process.kill().await;
        }
        self.forget(id);
        // What cannot be read may have had one.
        if Machine::load(home, id).map_or(true, |machine| machine.network) {
            self.taps.detach(id, home).await?;
        }
        Ok(())
    }

    fn running(home: &Path, id: &SandboxId) -> Result<Process, VmError> {
        Machine::load(home, id)?;
        Process::of(home).ok_or_else(|| VmError::Condition { is: "stopped", what: "start it first".into() })
    }
}

#[async_trait]
impl Engine for QemuEngine {
    fn name(&self) -> &'static str {
        ENGINE
    }

    async fn probe(&self) -> Result<Capabilities, VmError> {
        machine::check(&self.config).await?;
        disks::check().await?;
        let acceleration = self.acceleration().await?;
        let mut notes = vec![acceleration.note, "CPU is limited in whole processors".into()];
        let network = self.taps.probe();
        if let Err(reason) = &network {
            notes.push(format!("network: none alone; {reason}"));
        }
        Ok(Capabilities {
            pause: true,
            snapshot: true,
            tty: true,
            nat: network.is_ok(),
            allow_list: network.is_ok(),
            notes: notes.into_iter().filter(|note| !note.is_empty()).collect(),
        })
    }

    async fn create(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<(), VmError> {
        if home.join(machine::FILE).exists() {
            return Err(VmError::Exists(format!("{id} exists already")));
        }
        let tools = tool_disks::of(&spec.shared).await?;
        let machine = match &spec.source {
            Source::RootFs(root) => {
                disks::from_root(root, &home.join("root.img")).await?;
                disks::empty(&home.join("disk.img"), spec.limits.disk_bytes).await?;
                Machine::of(spec, tools, &self.config)?
            }
            Source::Snapshot(folder) => {
                let machine = Machine::load(folder, id)?.begun_from_snapshot(spec, &tools)?;
                for name in ["root.img", "disk.img", "memory"] {
                    disks::copy(&folder.join(name), &home.join(name)).await?;
                }
                machine
            }
            Source::Host => {
                return Err(VmError::Unsupported { engine: ENGINE, what: "show a sandbox the host's files: give it an image".into() });
            }
            Source::Image(name) => return Err(VmError::NotFound(format!("there is no image {name:?}: import it first"))),
        };
        initrd::write(&self.config.kernel, machine.devices(), &home.join("initrd"))?;
        machine.save(home)
    }

    async fn start(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<(), VmError> {
        let machine = Machine::load(home, id)?;
        if Process::of(home).is_some() {
            return Err(VmError::Condition { is: "running", what: "it cannot be started again".into() });
        }
        let kvm = self.acceleration().await?.kvm;
        let memory = Some(home.join("memory")).filter(|memory| memory.exists());
        let started = async {
            let tap = if machine.network { Some(self.taps.attach(id, home, &spec.network, None).await?) } else { None };
            machine::start(&self.config, kvm, &machine, home, tap.as_ref(), memory.as_deref()).await?;
            let agent = self.agent(id, home).await?;
            match &tap {
                Some(tap) => tap::set_up(&agent, tap).await,
                None => Ok(()),
            }
        };
        match started.await {
            Ok(()) => {
                // Memory of a snapshot is begun from once; what was written since would not fit it.
                if let Some(memory) = memory {
                    std::fs::remove_file(&memory)
                        .map_err(|source| VmError::Io { what: format!("removing {}", memory.display()), source })?;
                }
                Ok(())
            }
            Err(error) => {
                let said = machine::console(home).await;
                if let Err(left) = self.end(id, home).await {
                    tracing::warn!(%id, %left, "what a start that failed left could not be removed");
                }
                Err(match error {
                    VmError::Late { .. } => VmError::Engine { engine: ENGINE, reason: format!("{error}; its console ends with {said:?}") },
                    error => error,
                })
            }
        }
    }

    async fn stop(&self, id: &SandboxId, home: &Path, grace: Duration) -> Result<(), VmError> {
        let Ok(process) = Self::running(home, id) else {
            Machine::load(home, id)?;
            return self.end(id, home).await;
        };
        if !machine::is_paused(home)
            && let Ok(Ok(agent)) = tokio::time::timeout(grace.max(Duration::from_secs(1)), self.agent(id, home)).await
            && agent.shutdown(grace).await.is_ok()
        {
            // A little more than the programs have, for writing to disk and turning off.
            process.wait(grace + Duration::from_secs(5)).await;
        }
        self.end(id, home).await
    }

    async fn pause(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        Self::running(home, id)?;
        if machine::is_paused(home) {
            return Err(VmError::Condition { is: "paused", what: "it cannot be paused again".into() });
        }
        qmp::Qmp::connect(home).await?.run("stop", serde_json::json!({})).await?;
        machine::set_paused(home, true)
    }

    async fn resume(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        Self::running(home, id)?;
        if !machine::is_paused(home) {
            return Err(VmError::Condition { is: "running", what: "only a paused one can be resumed".into() });
        }
        qmp::Qmp::connect(home).await?.run("cont", serde_json::json!({})).await?;
        machine::set_paused(home, false)
    }

    async fn snapshot(&self, id: &SandboxId, home: &Path, folder: &Path) -> Result<(), VmError> {
        Self::running(home, id)?;
        let mut qmp = qmp::Qmp::connect(home).await?;
        let was_paused = machine::is_paused(home);
        if !was_paused {
            // What programs wrote shall be on the disk that is copied; memory has the rest.
            qmp.run("stop", serde_json::json!({})).await?;
        }
        let written = async {
            qmp.save_memory(&home.join("memory.sock"), &folder.join("memory")).await?;
            for name in ["root.img", "disk.img"] {
                disks::copy(&home.join(name), &folder.join(name)).await?;
            }
            Machine::load(home, id)?.save(folder)
        }
        .await;
        if !was_paused {
            qmp.run("cont", serde_json::json!({})).await?;
        }
        written
    }

    async fn delete(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        self.end(id, home).await?;
        disks::remove(home)
    }

    async fn condition(&self, id: &SandboxId, home: &Path) -> Result<Condition, VmError> {
        if Machine::load(home, id).is_err() {
            return Ok(Condition::Gone);
        }
        if Process::of(home).is_none() {
            return Ok(Condition::Stopped);
        }
        Ok(if machine::is_paused(home) { Condition::Paused } else { Condition::Running })
    }

    async fn found(&self, homes: &Path) -> Result<Vec<SandboxId>, VmError> {
        let failed = |source| VmError::Io { what: format!("reading {}", homes.display()), source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(homes).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<SandboxId>().ok()) else { continue };
            if entry.path().join(machine::FILE).exists() || Process::of(&entry.path()).is_some() {
                found.push(id);
            }
        }
        found.extend(self.taps.found(homes).await?);
        found.sort();
        found.dedup();
        Ok(found)
    }

    async fn exec(&self, id: &SandboxId, home: &Path, mut exec: ExecSpec) -> Result<Exec, VmError> {
        let machine = Machine::load(home, id)?;
        let mut env = machine.env;
        env.append(&mut exec.env);
        exec.env = env;
        if exec.cwd.is_empty() {
            exec.cwd = machine.workdir;
        }
        self.agent(id, home).await?.exec(exec).await
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
        self.agent(id, home).await?.write_file(path, mode, size, content).await
    }

    async fn read_file(&self, id: &SandboxId, home: &Path, path: &str) -> Result<(u64, Box<dyn AsyncRead + Send + Unpin>), VmError> {
        self.agent(id, home).await?.read_file(path).await
    }

    async fn list_folder(&self, id: &SandboxId, home: &Path, path: &str, limit: usize) -> Result<Vec<FileEntry>, VmError> {
        self.agent(id, home).await?.list_folder(path, limit).await
    }

    async fn dial(&self, id: &SandboxId, home: &Path, port: u16) -> Result<Box<dyn Stream>, VmError> {
        self.agent(id, home).await?.dial(port).await
    }

    async fn usage(&self, id: &SandboxId, home: &Path) -> Result<Usage, VmError> {
        self.agent(id, home).await?.usage().await
    }
}

/// A folder for the trial.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new() -> Result<Self, VmError> {
        let path = std::env::temp_dir().join(format!("auralink-kvm-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).map_err(|source| VmError::Io { what: format!("making {}", path.display()), source })?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = disks::remove(&self.path);
        let _ = std::fs::remove_dir(&self.path);
    }
}
