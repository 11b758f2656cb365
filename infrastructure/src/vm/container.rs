//! Sandboxes as containers of Docker or Podman, by the API that both speak on a unix socket; gVisor is one of their runtimes.
//!
//! Place: one implementation of [`Engine`]; what differs between the two is in `flavour`, a file per concern beside it. Rule: the daemon
//! is the only memory. Names and labels say which containers are ours, so a restart of this server loses nothing.
//!
//! A container's first process is the guest agent (`auralink-guest container keep`), bound read-only from the server: images need no shell
//! and no `sleep`, orphans are reaped, and SIGTERM is passed on. Programs are run by the engine's own exec, not by the agent: the container
//! has no capability left, so the agent could not become another user; the engine's limits, seccomp profile and accounting apply as its
//! operators know them; and gVisor lets no host socket in. The agent does only what the API has no call for: signals to a program and to what
//! it started, a folder's list without its contents, a connection to a port that is not published.

mod attach;
mod create;
mod exec;
mod fault;
mod files;
mod flavour;
mod image;
mod network;
mod usage;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncRead;
use tokio::sync::{OnceCell, Semaphore};

pub use flavour::Flavour;

use super::network::NetworkConfig;
use super::{Capabilities, Condition, Engine, Exec, ExecSpec, FileEntry, SandboxId, Spec, Stream, Usage, VmError};

/// Where the agent is in every container.
const GUEST: &str = "/.auralink-guest";
/// The label that holds a sandbox's id.
const LABEL_SANDBOX: &str = "auralink.sandbox";
/// The label that holds whose server's it is: a hash of its folder of homes.
const LABEL_OWNER: &str = "auralink.owner";
/// The label that holds the disk limit in bytes, for the watch that is begun after a restart.
const LABEL_DISK: &str = "auralink.disk";
/// How long an ordinary call may take. Starting a container on a loaded machine with `vfs` storage has been seen to take 20 s.
const CALL: Duration = Duration::from_secs(120);

/// Programs that are started at once. More do not start sooner: each start is a dozen processes and a tenth of a second of CPU.
const STARTS: usize = 8;

/// How a Docker or Podman is reached and used.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which of the two.
    pub flavour: Flavour,
    /// Its API's unix socket.
    pub socket: PathBuf,
    /// The static guest agent on this machine, as the daemon sees it too.
    pub guest: PathBuf,
    /// Networks beside none, by this server's own bridge and firewall: the engine's default bridge reaches this machine and its private
    /// networks, which a sandbox must not.
    pub network: NetworkConfig,
    /// A network of the engine's to be used for [`super::Network::Nat`] instead, one whose firewall sees to that.
    pub nat_network: Option<String>,
    /// The runtime of sandboxes that name none; empty: the engine's own. gVisor is one: the name that the daemon knows `runsc` by.
    pub runtime: String,
    /// Largest root filesystem that is imported, bytes unpacked.
    pub rootfs_limit_bytes: u64,
}

impl Settings {
    /// With the flavour's usual socket and at most 16 GiB in a root filesystem.
    pub fn new(flavour: Flavour, guest: PathBuf) -> Self {
        let (socket, network) = (flavour.usual_socket(), NetworkConfig::default());
        Self { flavour, socket, guest, network, nat_network: None, runtime: String::new(), rootfs_limit_bytes: 16 << 30 }
    }
}

/// Docker or Podman.
#[derive(Clone)]
pub struct ContainerEngine(Arc<Inner>);

struct Inner {
    settings: Settings,
    client: OnceCell<Docker>,
    images: image::Images,
    watches: watch::Watches,
    /// Programs that are being started.
    starts: Semaphore,
}

impl std::fmt::Debug for ContainerEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContainerEngine").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

impl ContainerEngine {
    /// Reaches nothing yet: the daemon may come later.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Inner {
            settings,
            client: OnceCell::new(),
            images: image::Images::default(),
            watches: watch::Watches::default(),
            starts: Semaphore::new(STARTS),
        }))
    }

    fn flavour(&self) -> Flavour {
        self.0.settings.flavour
    }

    fn engine_name(&self) -> &'static str {
        self.flavour().name()
    }

    /// The API, at the version that both sides know; the daemon is asked for it once.
    async fn api(&self) -> Result<&Docker, VmError> {
        let connected = self.0.client.get_or_try_init(|| async {
            let socket = self.0.settings.socket.to_string_lossy();
            let docker = Docker::connect_with_unix(&socket, CALL.as_secs(), bollard::API_DEFAULT_VERSION)?;
            docker.negotiate_version().await
        });
        connected.await.map_err(|error| self.fault(error, "connecting"))
    }

    fn unsupported(&self, what: impl Into<String>) -> VmError {
        VmError::Unsupported { engine: self.engine_name(), what: what.into() }
    }

    fn failed(&self, reason: impl Into<String>) -> VmError {
        VmError::Engine { engine: self.engine_name(), reason: reason.into() }
    }

    async fn inspect(&self, id: &SandboxId) -> Result<ContainerInspectResponse, VmError> {
        let inspected = self.api().await?.inspect_container(&container(id), None::<InspectContainerOptions>).await;
        inspected.map_err(|error| self.fault_of(id, error, "looking at the sandbox"))
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), VmError> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        // The daemon answers 409 while another removal is under way, and Podman while a program is being started: it is over soon.
        for attempt in 0..50 {
            match self.api().await?.remove_container(&container(id), Some(options.clone())).await {
                Ok(()) => return Ok(()),
                Err(error) if fault::status(&error) == Some(404) => return Ok(()),
                Err(error) if fault::status(&error) == Some(409) && attempt < 49 => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(error) => return Err(self.fault_of(id, error, "removing the sandbox")),
            }
        }
        Err(self.failed("the sandbox is being removed and does not go: look at the daemon's log"))
    }
}

/// The name of a sandbox's container.
fn container(id: &SandboxId) -> String {
    format!("auralink-{id}")
}

/// Tells the containers of two servers on one daemon apart.
fn owner(homes: &Path) -> String {
    let homes = std::fs::canonicalize(homes).unwrap_or_else(|_| homes.to_owned());
    let digest = Sha256::digest(homes.as_os_str().as_encoded_bytes());
    digest.iter().take(12).map(|b| format!("{b:02x}")).collect()
}

fn condition_of(inspected: &ContainerInspectResponse) -> Condition {
    let state = inspected.state.as_ref();
    if state.and_then(|s| s.paused) == Some(true) {
        Condition::Paused
    } else if state.and_then(|s| s.running) == Some(true) {
        Condition::Running
    } else {
        Condition::Stopped
    }
}

#[async_trait]
impl Engine for ContainerEngine {
    fn name(&self) -> &'static str {
        self.engine_name()
    }

    async fn probe(&self) -> Result<Capabilities, VmError> {
        self.capabilities().await
    }

    async fn create(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<(), VmError> {
        self.create_container(id, spec, home).await
    }

    async fn start(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<(), VmError> {
        let inspected = self.inspect(id).await?;
        match condition_of(&inspected) {
            Condition::Paused => return Err(VmError::Condition { is: "paused", what: "resume it".into() }),
            Condition::Running => return Err(VmError::Condition { is: "running", what: "it was started already".into() }),
            Condition::Stopped | Condition::Gone => {}
        }
        self.0.watches.forget(id);
        let started = self.api().await?.start_container(&container(id), None).await;
        started.map_err(|error| self.fault_of(id, error, "starting the sandbox"))?;
        // Until its network is there nothing but the agent runs in it.
        if let Err(error) = self.attach_network(id, spec, home).await {
            if let Err(more) = self.stop(id, home, Duration::ZERO).await {
                tracing::warn!(%id, %more, "a sandbox without its network could not be stopped");
            }
            return Err(error);
        }
        watch::begin(self, id, spec.limits.disk_bytes);
        Ok(())
    }

    async fn stop(&self, id: &SandboxId, home: &Path, grace: Duration) -> Result<(), VmError> {
        if condition_of(&self.inspect(id).await?) == Condition::Paused {
            // Frozen programs hear nothing.
            self.api()
                .await?
                .unpause_container(&container(id))
                .await
                .map_err(|error| self.fault_of(id, error, "waking the sandbox to stop it"))?;
        }
        let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        let patient = self.api().await?.clone().with_timeout(grace.saturating_add(CALL));
        let stopped = patient.stop_container(&container(id), Some(options)).await;
        stopped.map_err(|error| self.fault_of(id, error, "stopping the sandbox"))?;
        self.detach_network(id, home).await
    }

    async fn pause(&self, id: &SandboxId, _home: &Path) -> Result<(), VmError> {
        match condition_of(&self.inspect(id).await?) {
            Condition::Paused => Err(VmError::Condition { is: "paused", what: "it was paused already".into() }),
            Condition::Running => {
                let paused = self.api().await?.pause_container(&container(id)).await;
                paused.map_err(|error| self.fault_of(id, error, "pausing the sandbox"))
            }
            Condition::Stopped | Condition::Gone => Err(VmError::Condition { is: "stopped", what: "start it before it is paused".into() }),
        }
    }

    async fn resume(&self, id: &SandboxId, _home: &Path) -> Result<(), VmError> {
        match condition_of(&self.inspect(id).await?) {
            Condition::Running => Err(VmError::Condition { is: "running", what: "it is not paused".into() }),
            Condition::Paused => {
                let resumed = self.api().await?.unpause_container(&container(id)).await;
                resumed.map_err(|error| self.fault_of(id, error, "resuming the sandbox"))
            }
            Condition::Stopped | Condition::Gone => Err(VmError::Condition { is: "stopped", what: "start it".into() }),
        }
    }

    async fn snapshot(&self, id: &SandboxId, _home: &Path, folder: &Path) -> Result<(), VmError> {
        self.export(id, folder).await
    }

    async fn delete(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        let image = match self.inspect(id).await {
            Ok(inspected) => inspected.config.and_then(|c| c.image),
            Err(VmError::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        self.remove(id).await?;
        self.0.watches.forget(id);
        self.detach_network(id, home).await?;
        match image {
            Some(image) => self.release_image(&image).await,
            None => Ok(()),
        }
    }

    async fn condition(&self, id: &SandboxId, _home: &Path) -> Result<Condition, VmError> {
        match self.inspect(id).await {
            Ok(inspected) => {
                let condition = condition_of(&inspected);
                if condition == Condition::Running {
                    watch::begin(self, id, watch::limit_of(&inspected));
                }
                Ok(condition)
            }
            Err(VmError::NotFound(_)) => Ok(Condition::Gone),
            Err(error) => Err(error),
        }
    }

    async fn found(&self, homes: &Path) -> Result<Vec<SandboxId>, VmError> {
        let filters = [("label".to_owned(), vec![format!("{LABEL_OWNER}={}", owner(homes))])].into();
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let all = self.api().await?.list_containers(Some(options)).await.map_err(|error| self.fault(error, "listing sandboxes"))?;
        Ok(all.into_iter().filter_map(|one| one.labels?.get(LABEL_SANDBOX)?.parse().ok()).collect())
    }

    async fn exec(&self, id: &SandboxId, _home: &Path, exec: ExecSpec) -> Result<Exec, VmError> {
        exec::begin(self, id, exec).await
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
        self.put(id, home, path, mode, size, content).await
    }

    async fn read_file(&self, id: &SandboxId, _home: &Path, path: &str) -> Result<(u64, Box<dyn AsyncRead + Send + Unpin>), VmError> {
        self.get(id, path).await
    }

    async fn list_folder(&self, id: &SandboxId, _home: &Path, path: &str, limit: usize) -> Result<Vec<FileEntry>, VmError> {
        self.list(id, path, limit).await
    }

    async fn dial(&self, id: &SandboxId, _home: &Path, port: u16) -> Result<Box<dyn Stream>, VmError> {
        exec::dial(self, id, port).await
    }

    async fn usage(&self, id: &SandboxId, _home: &Path) -> Result<Usage, VmError> {
        self.used(id).await
    }
}
