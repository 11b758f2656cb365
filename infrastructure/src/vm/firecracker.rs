//! The engine `firecracker`: microVMs by Firecracker, which needs KVM.
//!
//! Place: [`api`] configures the machine, [`place`] starts Firecracker, with its jailer or without, [`vsock`] reaches the agent inside; disks and the first file system are made as for QEMU. Rule: as
//! for QEMU, all that is known of a sandbox lies in its home, and a process is signalled only after its command line named that home or that id.
//!
//! Tested against a stub that checks every request by Firecracker's published OpenAPI document and runs the real agent behind its
//! vsock; not against Firecracker itself.

mod api;
mod machine;
mod place;
mod vsock;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncRead;
use tokio::process::Command;

use super::agent::Agent;
use super::network::{NetworkConfig, TapDevice};
use super::qemu::initrd::Devices;
use super::qemu::{Process, disks, initrd, tool_disks};
use super::tap::{self, Taps};
use super::{Capabilities, Condition, Engine, Exec, ExecSpec, FileEntry, SandboxId, Source, Spec, Stream, Usage, VmError};
pub use api::Api;
use machine::Machine;
pub use place::Jailer;
use place::Place;
pub use vsock::connect as connect_vsock;

/// In errors.
const ENGINE: &str = "firecracker";

/// The vsock port that the agent listens on.
const PORT: u32 = 1024;

/// How long a machine may take to its agent's greeting.
const BOOT: Duration = Duration::from_secs(30);

/// The one network interface.
const INTERFACE: &str = "eth0";

/// Files in a home that Firecracker opens; the last two are there between a snapshot and the first start from it.
const OWN: [&str; 3] = ["initrd", "root.img", "disk.img"];
const BEGUN_FROM: [&str; 2] = ["state", "memory"];

/// Where the engine finds what it needs.
#[derive(Debug, Clone)]
pub struct FirecrackerConfig {
    /// Firecracker's program.
    pub program: PathBuf,
    /// Folder with `vmlinux` (uncompressed) and `modules/`.
    pub kernel: PathBuf,
    /// Networks beside none.
    pub network: NetworkConfig,
    /// Shuts each machine in; none: Firecracker runs as the server does.
    pub jailer: Option<Jailer>,
}

impl Default for FirecrackerConfig {
    /// `firecracker` of the search path, the kernel of the cache folder.
    fn default() -> Self {
        let kernel = super::qemu::QemuConfig::default().kernel;
        Self { program: "firecracker".into(), kernel, network: NetworkConfig::default(), jailer: None }
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
    taps: Taps,
    agents: Mutex<HashMap<SandboxId, Agent>>,
}

impl FirecrackerEngine {
    /// It looks for nothing before [`Engine::probe`] or the first sandbox.
    pub fn new(config: FirecrackerConfig) -> Self {
        Self { taps: Taps::new(config.network.clone()), config, agents: Mutex::default() }
    }

    fn place(&self, id: &SandboxId, home: &Path) -> Place {
        Place::of(&self.config, id, home)
    }

    fn api(&self, id: &SandboxId, home: &Path) -> Api {
        Api::new(self.place(id, home).folder().join("api.sock"))
    }

    fn running(&self, id: &SandboxId, home: &Path) -> Result<Process, VmError> {
        Machine::load(home, id)?;
        self.place(id, home).process().ok_or_else(|| VmError::Condition { is: "stopped", what: "start it first".into() })
    }

    async fn agent(&self, id: &SandboxId, home: &Path) -> Result<Agent, VmError> {
        self.running(id, home)?;
        let known = self.agents.lock().unwrap_or_else(PoisonError::into_inner).get(id).filter(|agent| !agent.is_over()).cloned();
        if self.api(id, home).state().await? == "Paused" {
            return Err(VmError::Condition { is: "paused", what: "resume it first".into() });
        }
        if let Some(agent) = known {
            return Ok(agent);
        }
        let place = self.place(id, home);
        let socket = place.folder().join("vsock.sock");
        let greet = async {
            loop {
                match vsock::connect(&socket, PORT).await {
                    // The greeting brings fresh entropy, also to a machine whose memory came from a snapshot.
                    Ok(stream) => return Agent::connect(stream, ENGINE).await,
                    Err(_) if place.process().is_none() => {
                        return Err(VmError::Ended("Firecracker ended before its guest answered".into()));
                    }
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

    async fn launch(&self, id: &SandboxId, home: &Path, machine: &Machine, tap: Option<&TapDevice>) -> Result<(), VmError> {
        let place = self.place(id, home);
        let is_begun_from = home.join("memory").exists();
        let own: Vec<&str> = OWN.into_iter().chain(BEGUN_FROM.into_iter().filter(|_| is_begun_from)).collect();
        let tools = machine.tools.iter().enumerate().map(|(n, tool)| (format!("tool-{n}.img"), tool.image.clone()));
        let shared: Vec<(String, PathBuf)> = tools.chain([("vmlinux".to_owned(), self.config.kernel.join("vmlinux"))]).collect();
        place.furnish(&own, &shared)?;
        place.launch().await?;
        let (api, socket) = (self.api(id, home), place.folder().join("api.sock"));
        for _ in 0..500 {
            if socket.exists() && api.state().await.is_ok() {
                return if is_begun_from { begin_again(&api, tap).await } else { boot(&api, machine, tap).await };
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(VmError::Late { what: "the start of Firecracker".into(), after: Duration::from_secs(5) })
    }

    /// Ends all of it on this machine; its files stay.
    async fn end(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        let place = self.place(id, home);
        if let Some(process) = place.process() {
            process.kill().await;
        }
        self.forget(id);
        // What cannot be read may have had one.
        if Machine::load(home, id).map_or(true, |machine| machine.network) {
            self.taps.detach(id, home).await?;
        }
        place.clear()
    }
}

/// Configures a machine and boots it.
async fn boot(api: &Api, machine: &Machine, tap: Option<&TapDevice>) -> Result<(), VmError> {
    api.machine(machine.cpus, machine.memory_mib()).await?;
    api.boot_source(Path::new("vmlinux"), Path::new("initrd"), &machine.kernel_arguments()).await?;
    api.drive("root", Path::new("root.img"), true).await?;
    api.drive("disk", Path::new("disk.img"), false).await?;
    for n in 0..machine.tools.len() {
        api.drive(&format!("tool{n}"), Path::new(&format!("tool-{n}.img")), true).await?;
    }
    if let Some(tap) = tap {
        api.network(INTERFACE, &tap.name, &tap.port.mac).await?;
    }
    api.vsock(Path::new("vsock.sock")).await?;
    api.start().await
}

/// Loads the snapshot that lies in the machine's place, and lets it go on.
async fn begin_again(api: &Api, tap: Option<&TapDevice>) -> Result<(), VmError> {
    let taps: Vec<(&str, &str)> = tap.iter().map(|tap| (INTERFACE, tap.name.as_str())).collect();
    api.load(Path::new("state"), Path::new("memory"), Path::new("vsock.sock"), &taps).await?;
    api.set_paused(false).await
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
        let mut notes =
            vec!["this engine was never tested with Firecracker itself".to_owned(), "CPU is limited in whole processors".into()];
        match &self.config.jailer {
            Some(jailer) => {
                let version = Command::new(&jailer.program).arg("--version").stdin(Stdio::null()).output().await;
                version.map_err(|e| unavailable(format!("{}: {e}", jailer.program.display())))?;
            }
            None => notes.push("no jailer: Firecracker runs as the server does".into()),
        }
        let network = self.taps.probe();
        if let Err(reason) = &network {
            notes.push(format!("network: none alone; {reason}"));
        }
        Ok(Capabilities { pause: true, snapshot: true, tty: true, nat: network.is_ok(), allow_list: network.is_ok(), notes })
    }

    async fn create(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<(), VmError> {
        if home.join(machine::FILE).exists() {
            return Err(VmError::Exists(format!("{id} exists already")));
        }
        let tools = tool_disks::of(&spec.shared).await?;
        let machine = match &spec.source {
            Source::RootFs(root) => {
                let machine = Machine::of(spec, tools)?;
                disks::from_root(root, &home.join("root.img")).await?;
                disks::empty(&home.join("disk.img"), spec.limits.disk_bytes).await?;
                machine
            }
            Source::Snapshot(folder) => {
                let machine = Machine::load(folder, id)?.begun_from_snapshot(spec, &tools)?;
                for name in ["root.img", "disk.img", "state", "memory"] {
                    disks::copy(&folder.join(name), &home.join(name)).await?;
                }
                machine
            }
            Source::Host => {
                return Err(VmError::Unsupported { engine: ENGINE, what: "show a sandbox the host's files: give it an image".into() });
            }
            Source::Image(name) => return Err(VmError::NotFound(format!("there is no image {name:?}: import it first"))),
        };
        initrd::write(&self.config.kernel, devices(), &home.join("initrd"))?;
        machine.save(home)
    }

    async fn start(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<(), VmError> {
        let machine = Machine::load(home, id)?;
        let place = self.place(id, home);
        if place.process().is_some() {
            return Err(VmError::Condition { is: "running", what: "it cannot be started again".into() });
        }
        let started = async {
            let tap = if machine.network { Some(self.taps.attach(id, home, &spec.network, place.user()).await?) } else { None };
            self.launch(id, home, &machine, tap.as_ref()).await?;
            let agent = self.agent(id, home).await?;
            match &tap {
                Some(tap) => tap::set_up(&agent, tap).await,
                None => Ok(()),
            }
        };
        let result = started.await;
        if result.is_err() {
            if let Err(left) = self.end(id, home).await {
                tracing::warn!(%id, %left, "what a start that failed left could not be removed");
            }
            return result;
        }
        // A snapshot is begun from once; what was written since would not fit it. Firecracker has the memory's file mapped: the next
        // snapshot must not be written into it.
        for name in BEGUN_FROM {
            let _ = std::fs::remove_file(home.join(name));
            let _ = std::fs::remove_file(place.folder().join(name));
        }
        Ok(())
    }

    async fn stop(&self, id: &SandboxId, home: &Path, grace: Duration) -> Result<(), VmError> {
        let Ok(process) = self.running(id, home) else {
            Machine::load(home, id)?;
            return self.end(id, home).await;
        };
        if let Ok(Ok(agent)) = tokio::time::timeout(grace.max(Duration::from_secs(1)), self.agent(id, home)).await
            && agent.shutdown(grace).await.is_ok()
        {
            process.wait(grace + Duration::from_secs(5)).await;
        }
        self.end(id, home).await
    }

    async fn pause(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        self.running(id, home)?;
        if self.api(id, home).state().await? == "Paused" {
            return Err(VmError::Condition { is: "paused", what: "it cannot be paused again".into() });
        }
        self.api(id, home).set_paused(true).await
    }

    async fn resume(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        self.running(id, home)?;
        if self.api(id, home).state().await? != "Paused" {
            return Err(VmError::Condition { is: "running", what: "only a paused one can be resumed".into() });
        }
        self.api(id, home).set_paused(false).await
    }

    async fn snapshot(&self, id: &SandboxId, home: &Path, folder: &Path) -> Result<(), VmError> {
        self.running(id, home)?;
        let (api, place) = (self.api(id, home), self.place(id, home).folder());
        let was_paused = api.state().await? == "Paused";
        if !was_paused {
            api.set_paused(true).await?;
        }
        let written = async {
            api.save(Path::new("state"), Path::new("memory")).await?;
            for name in ["root.img", "disk.img"] {
                disks::copy(&home.join(name), &folder.join(name)).await?;
            }
            for name in BEGUN_FROM {
                disks::copy(&place.join(name), &folder.join(name)).await?;
            }
            Machine::load(home, id)?.save(folder)
        }
        .await;
        for name in BEGUN_FROM {
            let _ = std::fs::remove_file(place.join(name));
        }
        if !was_paused {
            api.set_paused(false).await?;
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
        if self.place(id, home).process().is_none() {
            return Ok(Condition::Stopped);
        }
        let paused = self.api(id, home).state().await.is_ok_and(|state| state == "Paused");
        Ok(if paused { Condition::Paused } else { Condition::Running })
    }

    async fn found(&self, homes: &Path) -> Result<Vec<SandboxId>, VmError> {
        let entries = std::fs::read_dir(homes).map_err(|source| VmError::Io { what: format!("reading {}", homes.display()), source })?;
        let ids = entries.flatten().filter_map(|entry| Some((entry.file_name().to_str()?.parse::<SandboxId>().ok()?, entry.path())));
        let made = |home: &Path| home.join("firecracker.pid").exists() || home.join(machine::FILE).exists();
        let mut found: Vec<SandboxId> = ids.filter(|(_, home)| made(home)).map(|(id, _)| id).collect();
        found.extend(Place::found(&self.config, homes));
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
