//! Sandboxes of this server: the engines that the configuration names, opened once, and what both faces say of them.
//!
//! Place: gRPC (`grpc::sandboxes`) and REST (`api::sandboxes`) stand on it; [`Service`] below does the work. Rule: faces check the scope, and
//! pass the caller's tenant; nothing here takes a tenant from a request.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use auralink_infrastructure::state::Documents;
use auralink_infrastructure::vm::agent::guest_binary;
use auralink_infrastructure::vm::container::{ContainerEngine, Flavour, Settings};
use auralink_infrastructure::vm::firecracker::{FirecrackerConfig, FirecrackerEngine, Jailer};
use auralink_infrastructure::vm::image::unpack::Bounds;
use auralink_infrastructure::vm::network::NetworkConfig as Networks;
use auralink_infrastructure::vm::process::{ProcessConfig, ProcessEngine};
use auralink_infrastructure::vm::qemu::{QemuConfig, QemuEngine};
use auralink_infrastructure::vm::service::{Quota, Sandboxes as Service, ServiceConfig};
use auralink_infrastructure::vm::spec::Destination;
use auralink_infrastructure::vm::tools::ToolsConfig;
use auralink_infrastructure::vm::{Engine, Limits, VmError};
use serde::Deserialize;

use crate::api::ApiError;

/// Engines that this program has.
const ENGINES: [&str; 5] = ["process", "docker", "podman", "qemu", "firecracker"];

/// How sandboxes are run.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxesConfig {
    /// Engines to offer: process, docker, podman, qemu, firecracker; empty: no sandboxes.
    pub engines: Vec<String>,
    /// The engine of who names none.
    pub default_engine: String,
    /// Usual sandboxes (the host's programs, no network) of the engine `process` that are made before they are asked for; 0 to 16.
    pub spares: usize,
    /// Networks of sandboxes that have one.
    pub network: NetworkConfig,
    /// Docker's unix socket; default: /var/run/docker.sock.
    pub docker_socket: Option<PathBuf>,
    /// Podman's unix socket; default: the one of its service.
    pub podman_socket: Option<PathBuf>,
    /// Firecracker's jailer; none: Firecracker runs as the server does.
    pub firecracker_jailer: Option<JailerConfig>,
    /// Folder of images; default: in the data folder.
    pub image_folder: Option<PathBuf>,
    /// Bytes that an image may unpack to.
    pub max_image_bytes: u64,
    /// Whether images keep set-user-id bits.
    pub allow_setuid: bool,
    /// Folders below which callers may name root filesystems.
    pub rootfs_folders: Vec<PathBuf>,
    /// Hosts that tools may be fetched from; `*`: any.
    pub tool_hosts: Vec<String>,
    /// Runtimes that callers may name, of engines that have some.
    pub runtimes: Vec<String>,
    /// What one tenant may have at once.
    pub per_tenant: Quota,
    /// What this server may have at once.
    pub per_server: Quota,
    /// What one sandbox may ask for at most.
    pub largest: Limits,
    /// Programs at once in one sandbox.
    pub execs_per_sandbox: usize,
    /// Connections forwarded at once into one sandbox.
    pub forwards_per_sandbox: usize,
    /// Bytes of output kept of each program.
    pub log_bytes: usize,
}

/// The bridge that sandboxes with a network are ports of.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Its name.
    pub bridge: String,
    /// Its addresses, such as `10.213.0.0/16`: 16 to 29 bits.
    pub subnet: String,
    /// Name servers for sandboxes; none: this machine's, as far as sandboxes can reach them.
    pub resolvers: Vec<Ipv4Addr>,
    /// Private networks that allow-lists may name, such as `10.20.0.0/16`.
    pub private: Vec<String>,
    /// Connections of one sandbox at once.
    pub connections: u32,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        let Networks { bridge, subnet, prefix, connections, .. } = Networks::default();
        Self { bridge, subnet: format!("{subnet}/{prefix}"), resolvers: Vec::new(), private: Vec::new(), connections }
    }
}

impl NetworkConfig {
    /// # Errors
    /// Key, value and rule of what is wrong.
    fn networks(&self) -> Result<Networks, (&'static str, String, &'static str)> {
        let rule = "an IPv4 network, such as 10.213.0.0/16";
        let (subnet, prefix) = network_of(&self.subnet).ok_or(("sandboxes.network.subnet", self.subnet.clone(), rule))?;
        let private = self.private.iter().map(|text| network_of(text).ok_or(("sandboxes.network.private", text.clone(), rule)));
        let networks = Networks {
            bridge: self.bridge.clone(),
            subnet,
            prefix,
            resolvers: self.resolvers.iter().copied().map(IpAddr::V4).collect(),
            private: private.collect::<Result<_, _>>()?,
            connections: self.connections,
            inside: None,
        };
        match networks.check() {
            Ok(()) => Ok(networks),
            Err(_) => {
                let rule = "a bridge of 1 to 15 letters and digits, not beginning with `ala`; a network of 16 to 29 bits and none set beyond them; 1 connection or more";
                Err(("sandboxes.network", format!("{} {} {}", self.bridge, self.subnet, self.connections), rule))
            }
        }
    }
}

fn network_of(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    Some((address.parse().ok()?, prefix.parse().ok().filter(|bits| *bits <= 32)?))
}

/// How Firecracker is shut in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JailerConfig {
    /// The jailer's program.
    pub program: PathBuf,
    /// Folder that the machines' roots are made in, on the data folder's file system.
    pub base: PathBuf,
    /// User that Firecracker runs as.
    pub uid: u32,
    /// Group that Firecracker runs as.
    pub gid: u32,
}

impl Default for SandboxesConfig {
    fn default() -> Self {
        let ServiceConfig {
            default_engine,
            runtimes,
            per_tenant,
            per_server,
            largest,
            execs_per_sandbox,
            forwards_per_sandbox,
            log_bytes,
            ..
        } = ServiceConfig::default();
        Self {
            engines: vec![default_engine.clone()],
            default_engine,
            spares: 1,
            network: NetworkConfig::default(),
            docker_socket: None,
            podman_socket: None,
            firecracker_jailer: None,
            image_folder: None,
            max_image_bytes: Bounds::default().bytes,
            allow_setuid: false,
            rootfs_folders: Vec::new(),
            tool_hosts: Vec::new(),
            runtimes,
            per_tenant,
            per_server,
            largest,
            execs_per_sandbox,
            forwards_per_sandbox,
            log_bytes,
        }
    }
}

impl SandboxesConfig {
    /// One of [`ENGINES`]; the configuration was checked against them.
    fn engine(&self, name: &str) -> Result<Arc<dyn Engine>, VmError> {
        let network = self.network.networks().map_err(|(key, value, rule)| VmError::Invalid(format!("{key} {value:?}: {rule}")))?;
        let container = |flavour: Flavour, socket: &Option<PathBuf>| {
            let mut settings = Settings::new(flavour, guest_binary(flavour.name())?);
            settings.network.clone_from(&network);
            settings.rootfs_limit_bytes = self.max_image_bytes;
            if let Some(socket) = socket {
                settings.socket.clone_from(socket);
            }
            Ok(Arc::new(ContainerEngine::new(settings)) as Arc<dyn Engine>)
        };
        match name {
            "docker" => container(Flavour::Docker, &self.docker_socket),
            "podman" => container(Flavour::Podman, &self.podman_socket),
            "qemu" => Ok(Arc::new(QemuEngine::new(QemuConfig { network, ..QemuConfig::default() }))),
            "firecracker" => {
                let jailer = self.firecracker_jailer.clone();
                let jailer = jailer.map(|told| Jailer { program: told.program, base: told.base, user: (told.uid, told.gid) });
                Ok(Arc::new(FirecrackerEngine::new(FirecrackerConfig { jailer, network, ..FirecrackerConfig::default() })))
            }
            _ => Ok(Arc::new(ProcessEngine::new(ProcessConfig { guest: None, network, spares: self.spares }))),
        }
    }

    /// What is wrong with it: key, value, rule.
    pub fn wrong(&self) -> Option<(&'static str, String, &'static str)> {
        if let Some(unknown) = self.engines.iter().find(|name| !ENGINES.contains(&name.as_str())) {
            return Some(("sandboxes.engines", unknown.clone(), "the engines are process, docker, podman, qemu and firecracker"));
        }
        if !self.engines.is_empty() && !self.engines.contains(&self.default_engine) {
            return Some(("sandboxes.default_engine", self.default_engine.clone(), "it is one of `sandboxes.engines`"));
        }
        if let Err(wrong) = self.network.networks() {
            return Some(wrong);
        }
        if self.spares > 16 {
            return Some(("sandboxes.spares", self.spares.to_string(), "0 to 16"));
        }
        if let Some(jailer) = self.firecracker_jailer.as_ref().filter(|jailer| jailer.uid == 0 || jailer.gid == 0) {
            return Some((
                "sandboxes.firecracker_jailer",
                format!("{}:{}", jailer.uid, jailer.gid),
                "a user and a group that are not root's",
            ));
        }
        let counts =
            [("sandboxes.execs_per_sandbox", self.execs_per_sandbox), ("sandboxes.forwards_per_sandbox", self.forwards_per_sandbox)];
        if let Some((key, value)) = counts.into_iter().find(|(_, value)| !(1..=10_000).contains(value)) {
            return Some((key, value.to_string(), "1 to 10000"));
        }
        if !(1_024..=64 << 20).contains(&self.log_bytes) {
            return Some(("sandboxes.log_bytes", self.log_bytes.to_string(), "1024 to 67108864"));
        }
        None
    }

    fn service(&self, folder: &Path) -> ServiceConfig {
        let tools =
            (!self.tool_hosts.is_empty()).then(|| ToolsConfig { hosts: self.tool_hosts.clone(), ..ToolsConfig::new(folder.join("tools")) });
        ServiceConfig {
            default_engine: self.default_engine.clone(),
            image_folder: self.image_folder.clone(),
            image_bounds: Bounds { bytes: self.max_image_bytes, allow_setuid: self.allow_setuid, ..Bounds::default() },
            tools,
            rootfs_folders: self.rootfs_folders.clone(),
            runtimes: self.runtimes.clone(),
            per_tenant: self.per_tenant,
            per_server: self.per_server,
            largest: self.largest,
            execs_per_sandbox: self.execs_per_sandbox,
            forwards_per_sandbox: self.forwards_per_sandbox,
            log_bytes: self.log_bytes,
            ..ServiceConfig::default()
        }
    }
}

/// The service, or why there is none. Clones are the same.
#[derive(Clone)]
pub struct Sandboxes(Result<Service, Arc<str>>);

impl Sandboxes {
    /// Opens the service below the data folder. A server without it goes on, and says why to who asks.
    pub async fn open(config: &SandboxesConfig, documents: Arc<dyn Documents>, data_dir: &Path) -> Self {
        if config.engines.is_empty() {
            return Self(Err("sandboxes are off on this server: its configuration names no `sandboxes.engines`".into()));
        }
        let folder = data_dir.join("sandboxes");
        let opened = async {
            let engines = config.engines.iter().map(|name| config.engine(name)).collect::<Result<_, VmError>>()?;
            Service::open(config.service(&folder), documents, engines, &folder).await
        };
        match opened.await {
            Ok(service) => {
                // Each engine says what it can do before anybody asks: a trial of KVM that fails takes 10 s.
                let asked = service.clone();
                tokio::spawn(async move {
                    for engine in asked.engines().await {
                        if let Err(reason) = engine.state {
                            tracing::warn!(engine = engine.name, reason, "an engine of sandboxes cannot be used yet");
                        }
                    }
                });
                Self(Ok(service))
            }
            Err(error) => {
                tracing::error!(%error, "there are no sandboxes; everything else works without them");
                Self(Err(format!("sandboxes are not to be had: {error}").into()))
            }
        }
    }

    /// The service.
    pub fn service(&self) -> Result<&Service, ApiError> {
        self.0.as_ref().map_err(|why| ApiError::unavailable(why.to_string()))
    }
}

impl From<VmError> for ApiError {
    fn from(error: VmError) -> Self {
        let text = error.to_string();
        match error {
            VmError::Unavailable { .. } => Self::unavailable(text),
            VmError::Unsupported { .. } => Self::unimplemented(text),
            VmError::Invalid(_) => Self::invalid_argument(text),
            VmError::NotFound(_) | VmError::NoProgram(_) => Self::not_found(text),
            VmError::Exists(_) => Self::already_exists(text),
            VmError::Exhausted(_) => Self::resource_exhausted(text),
            VmError::Condition { .. } | VmError::Ended(_) => Self::failed_precondition(text),
            VmError::Late { .. } => Self::deadline_exceeded(text),
            VmError::Engine { .. } => Self::unavailable(text),
            VmError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Self::resource_exhausted(text),
            // Paths of the server are for its operator.
            VmError::Io { .. } => {
                tracing::error!(error = text, "a sandbox failed");
                Self::internal("the server failed at this: its log says how")
            }
        }
    }
}

/// `203.0.113.7` or `2001:db8::/32`, and a port; 0: all of TCP and UDP.
pub fn destination(address: &str, port: u32) -> Result<Destination, String> {
    let shown: String = address.chars().take(64).collect();
    let wrong = || format!("{shown:?} port {port} is no destination: write 203.0.113.7 or 2001:db8::/32, and a port of 1 to 65535 or none");
    let (ip, prefix) = address.split_once('/').map_or((address, None), |(ip, prefix)| (ip, Some(prefix)));
    let address: std::net::IpAddr = ip.parse().map_err(|_| wrong())?;
    let prefix = match prefix {
        Some(prefix) => prefix.parse().map_err(|_| wrong())?,
        None if address.is_ipv4() => 32,
        None => 128,
    };
    let port = Some(u16::try_from(port).map_err(|_| wrong())?).filter(|port| *port > 0);
    Ok(Destination { address, prefix, port })
}
