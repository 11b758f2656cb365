//! The engine `firecracker`: microVMs by Firecracker, which needs KVM.
//!
//! Place: [`api`] configures the machine, [`vsock`] reaches the agent inside; disks and the first file system are made as for QEMU. Rule: as
//! for QEMU, all that is known of a sandbox lies in its home, and a process is signalled only after its command line named that home.
//!
//! Tested against a stub that checks every request by Firecracker's published OpenAPI document and runs the real agent behind its
//! vsock; not against Firecracker itself.

mod api;
mod vsock;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use auralink_guest::message::hex;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;
use tokio::process::Command;

use super::agent::Agent;
use super::qemu::initrd::Devices;
use super::qemu::{Process, disks, initrd};
use super::{Capabilities, Condition, Engine, Exec, ExecSpec, FileEntry, Network, SandboxId, Source, Spec, Stream, Usage, VmError, disk};
pub use api::Api;

/// In errors.
const ENGINE: &str = "firecracker";

/// The vsock port that the agent listens on.
const PORT: u32 = 1024;

/// How long a machine may take to its agent's greeting.
const BOOT: Duration = Duration::from_secs(30);

/// Memory of the kernel and the agent beside what programs may use, MiB.
const KERNEL_MIB: u64 = 96;

/// Least memory of programs, bytes.
const LEAST_MEMORY: u64 = 16 << 20;

const FILE: &str = "machine.json";

/// Firecracker's jailer: it gives each machine a root folder, a user and a process namespace of its own.
#[derive(Debug, Clone)]
pub struct Jailer {
    /// Its program.
    pub program: PathBuf,
    /// Folder that the machines' roots are made in.
    pub base: PathBuf,
    /// User and group that Firecracker runs as.
    pub user: (u32, u32),
}

impl Jailer {
    /// Its arguments, for a machine of this id; Firecracker's own stand behind `--`.
    pub fn arguments(&self, firecracker: &Path, id: &SandboxId) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let own = [
            ("--id", id.to_string()),
            ("--exec-file", text(firecracker)),
            ("--uid", self.user.0.to_string()),
            ("--gid", self.user.1.to_string()),
            ("--chroot-base-dir", text(&self.base)),
            ("--cgroup-version", "2".to_owned()),
        ];
        let own = own.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        own.chain(["--daemonize", "--new-pid-ns", "--", "--api-sock", "/api.sock"].map(str::to_owned)).collect()
    }
}

/// Where the engine finds what it needs.
#[derive(Debug, Clone)]
pub struct FirecrackerConfig {
    /// Firecracker's program.
    pub program: PathBuf,
    /// Folder with `vmlinux` (uncompressed) and `modules/`.
    pub kernel: PathBuf,
}

impl Default for FirecrackerConfig {
    /// `firecracker` of the search path, the kernel of the cache folder.
    fn default() -> Self {
        Self { program: "firecracker".into(), kernel: super::qemu::QemuConfig::default().kernel }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Machine {
    memory_bytes: u64,
    cpus: u32,
    processes: u32,
    env: BTreeMap<String, String>,
    workdir: String,
}

impl Machine {
    fn of(spec: &Spec) -> Result<Self, VmError> {
        if spec.limits.memory_bytes < LEAST_MEMORY {
            return Err(VmError::Invalid(format!("{} bytes of memory are too few: {LEAST_MEMORY} at least", spec.limits.memory_bytes)));
        }
        Ok(Self {
            memory_bytes: spec.limits.memory_bytes,
            cpus: spec.limits.cpu_millis.div_ceil(1_000).clamp(1, 32),
            processes: spec.limits.processes,
            env: spec.env.clone(),
            workdir: spec.workdir.clone(),
        })
    }

    fn load(home: &Path, id: &SandboxId) -> Result<Self, VmError> {
        let json = std::fs::read(home.join(FILE))
            .map_err(|_| VmError::NotFound(format!("there is no sandbox or snapshot {id} in {}", home.display())))?;
        serde_json::from_slice(&json)
            .map_err(|e| VmError::Engine { engine: ENGINE, reason: format!("{FILE} in {} is damaged: {e}", home.display()) })
    }

    fn save(&self, home: &Path) -> Result<(), VmError> {
        let json = serde_json::to_vec_pretty(self).map_err(|e| VmError::Invalid(format!("a machine that JSON cannot carry: {e}")))?;
        disk::write_whole(&home.join(FILE), &json).map_err(|source| VmError::Io { what: format!("writing {FILE}"), source })
    }

    fn kernel_arguments(&self) -> String {
        format!(
            "console=ttyS0 quiet reboot=k panic=1 pci=off auralink.vsock={PORT} auralink.root=/dev/vda auralink.disk=/dev/vdb \
             auralink.processes={} auralink.memory={} auralink.workdir={}",
            self.processes,
            self.memory_bytes,
            hex(self.workdir.as_bytes())
        )
    }
}

/// PCI too: Firecracker has it behind a switch, and `vhost-device-vsock` comes so.
fn devices() -> Devices {
    Devices { vsock: true, pci: true, network: true, ..Devices::default() }
}

/// The engine.
#[derive(Debug)]
pub struct FirecrackerEngine {
    config: FirecrackerConfig,
    agents: Mutex<HashMap<SandboxId, Agent>>,
}

fn process(home: &Path) -> Option<Process> {
    Process::found(home, "firecracker.pid", "api.sock")
}

impl FirecrackerEngine {
    /// It looks for nothing before [`Engine::probe`] or the first sandbox.
    pub fn new(config: FirecrackerConfig) -> Self {
        Self { config, agents: Mutex::default() }
    }

    fn api(home: &Path) -> Api {
        Api::new(home.join("api.sock"))
    }

    fn running(home: &Path, id: &SandboxId) -> Result<Process, VmError> {
        Machine::load(home, id)?;
        process(home).ok_or_else(|| VmError::Condition { is: "stopped", what: "start it first".into() })
    }

    async fn agent(&self, id: &SandboxId, home: &Path) -> Result<Agent, VmError> {
        Self::running(home, id)?;
        let known = self.agents.lock().unwrap_or_else(PoisonError::into_inner).get(id).filter(|agent| !agent.is_over()).cloned();
        if Self::api(home).state().await? == "Paused" {
            return Err(VmError::Condition { is: "paused", what: "resume it first".into() });
        }
        if let Some(agent) = known {
            return Ok(agent);
        }
        let greet = async {
            loop {
                match vsock::connect(&home.join("vsock.sock"), PORT).await {
                    Ok(stream) => return Agent::connect(stream, ENGINE).await,
                    Err(_) if process(home).is_none() => return Err(VmError::Ended("Firecracker ended before its guest answered".into())),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let late = |_| VmError::Late { what: "the start of a virtual machine".into(), after: BOOT };
        let agent = tokio::time::timeout(BOOT, greet).await.map_err(late)??;
        self.agents.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), agent.clone());
        Ok(agent)
    }

    fn forget(&self, id: &SandboxId) {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    async fn launch(&self, id: &SandboxId, home: &Path, machine: &Machine) -> Result<(), VmError> {
        for socket in ["api.sock", "vsock.sock"] {
            let _ = std::fs::remove_file(home.join(socket));
        }
        let socket = home.join("api.sock");
        // A process group of its own: what ends the server's ends not the machine.
        let child = Command::new(&self.config.program)
            .args(["--api-sock".as_ref(), socket.as_os_str(), "--id".as_ref(), id.as_str().as_ref()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        let child = child
            .map_err(|error| VmError::Unavailable { engine: ENGINE, reason: format!("{}: {error}", self.config.program.display()) })?;
        let pid = child.id().unwrap_or_default().to_string();
        disk::write_whole(&home.join("firecracker.pid"), pid.as_bytes())
            .map_err(|source| VmError::Io { what: "writing firecracker.pid".into(), source })?;
        let api = Self::api(home);
        for _ in 0..500 {
            if socket.exists() && api.state().await.is_ok() {
                return self.configure(&api, home, machine).await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(VmError::Late { what: "the start of Firecracker".into(), after: Duration::from_secs(5) })
    }

    async fn configure(&self, api: &Api, home: &Path, machine: &Machine) -> Result<(), VmError> {
        api.machine(machine.cpus, machine.memory_bytes.div_ceil(1 << 20) + KERNEL_MIB).await?;
        api.boot_source(&self.config.kernel.join("vmlinux"), &home.join("initrd"), &machine.kernel_arguments()).await?;
        api.drive("root", &home.join("root.img"), true).await?;
        api.drive("disk", &home.join("disk.img"), false).await?;
        api.vsock(&home.join("vsock.sock")).await?;
        api.start().await
    }
}

#[async_trait]
impl Engine for FirecrackerEngine {
    fn name(&self) -> &'static str {
        ENGINE
    }

    async fn probe(&self) -> Result<Capabilities, VmError> {
        let unavailable = |reason: String| VmError::Unavailable { engine: ENGINE, reason };
        let version = Command::new(&self.config.program).arg("--version").stdin(Stdio::null()).output().await;
        version.map_err(|e| {
            unavailable(format!("{}: {e}; see https://github.com/firecracker-microvm/firecracker/releases", self.config.program.display()))
        })?;
        let kernel = self.config.kernel.join("vmlinux");
        if !kernel.is_file() {
            return Err(unavailable(format!("there is no kernel {} (uncompressed, as Firecracker wants it)", kernel.display())));
        }
        disks::check().await?;
        let notes = [
            "this engine was never tested with Firecracker itself",
            "CPU is limited in whole processors",
            "networks other than none are not offered",
        ];
        Ok(Capabilities { pause: true, snapshot: false, tty: true, nat: false, allow_list: false, notes: notes.map(str::to_owned).into() })
    }

    async fn create(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<(), VmError> {
        if spec.network != Network::None || !spec.shared.is_empty() {
            return Err(VmError::Unsupported { engine: ENGINE, what: "give a sandbox a network or installed tools yet".into() });
        }
        if home.join(FILE).exists() {
            return Err(VmError::Exists(format!("{id} exists already")));
        }
        let machine = match &spec.source {
            Source::RootFs(root) => {
                let machine = Machine::of(spec)?;
                disks::from_root(root, &home.join("root.img")).await?;
                disks::empty(&home.join("disk.img"), spec.limits.disk_bytes).await?;
                machine
            }
            Source::Snapshot(_) => {
                // Firecracker opens a snapshot's disks where they were: two of one snapshot would share them.
                return Err(VmError::Unsupported { engine: ENGINE, what: "begin from a snapshot without its jailer yet".into() });
            }
            Source::Host => {
                return Err(VmError::Unsupported { engine: ENGINE, what: "show a sandbox the host's files: give it an image".into() });
            }
            Source::Image(name) => return Err(VmError::NotFound(format!("there is no image {name:?}: import it first"))),
        };
        initrd::write(&self.config.kernel, devices(), &home.join("initrd"))?;
        machine.save(home)
    }

    async fn start(&self, id: &SandboxId, _spec: &Spec, home: &Path) -> Result<(), VmError> {
        let machine = Machine::load(home, id)?;
        if process(home).is_some() {
            return Err(VmError::Condition { is: "running", what: "it cannot be started again".into() });
        }
        let started = async {
            self.launch(id, home, &machine).await?;
            self.agent(id, home).await.map(drop)
        };
        let result = started.await;
        if result.is_err() {
            if let Some(process) = process(home) {
                process.kill().await;
            }
            self.forget(id);
        }
        result
    }

    async fn stop(&self, id: &SandboxId, home: &Path, grace: Duration) -> Result<(), VmError> {
        let Ok(process) = Self::running(home, id) else { return Machine::load(home, id).map(drop) };
        if let Ok(Ok(agent)) = tokio::time::timeout(grace.max(Duration::from_secs(1)), self.agent(id, home)).await
            && agent.shutdown(grace).await.is_ok()
        {
            process.wait(grace + Duration::from_secs(5)).await;
        }
        process.kill().await;
        self.forget(id);
        Ok(())
    }

    async fn pause(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        Self::running(home, id)?;
        if Self::api(home).state().await? == "Paused" {
            return Err(VmError::Condition { is: "paused", what: "it cannot be paused again".into() });
        }
        Self::api(home).set_paused(true).await
    }

    async fn resume(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        Self::running(home, id)?;
        if Self::api(home).state().await? != "Paused" {
            return Err(VmError::Condition { is: "running", what: "only a paused one can be resumed".into() });
        }
        Self::api(home).set_paused(false).await
    }

    async fn snapshot(&self, id: &SandboxId, home: &Path, _folder: &Path) -> Result<(), VmError> {
        Self::running(home, id)?;
        Err(VmError::Unsupported { engine: ENGINE, what: "take snapshots without its jailer yet".into() })
    }

    async fn delete(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        if let Some(process) = process(home) {
            process.kill().await;
        }
        self.forget(id);
        disks::remove(home)
    }

    async fn condition(&self, id: &SandboxId, home: &Path) -> Result<Condition, VmError> {
        if Machine::load(home, id).is_err() {
            return Ok(Condition::Gone);
        }
        if process(home).is_none() {
            return Ok(Condition::Stopped);
        }
        let paused = Self::api(home).state().await.is_ok_and(|state| state == "Paused");
        Ok(if paused { Condition::Paused } else { Condition::Running })
    }

    async fn found(&self, homes: &Path) -> Result<Vec<SandboxId>, VmError> {
        let entries = std::fs::read_dir(homes).map_err(|source| VmError::Io { what: format!("reading {}", homes.display()), source })?;
        let ids = entries.flatten().filter_map(|entry| Some((entry.file_name().to_str()?.parse::<SandboxId>().ok()?, entry.path())));
        Ok(ids.filter(|(_, home)| home.join("firecracker.pid").exists() || home.join(FILE).exists()).map(|(id, _)| id).collect())
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
