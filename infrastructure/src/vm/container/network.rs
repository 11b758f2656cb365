//! A container's network: none of the engine's own, but a port of [`crate::vm::network`]'s bridge, put into the namespace that the container has.
//!
//! Place: `create` says which network the engine gives (`none`, unless an operator named one for NAT) and binds `/etc/resolv.conf`; `start`
//! attaches the port while nothing but the agent runs; `stop` and `delete` take it away. Rule: a process number that the engine tells is
//! believed only when it is the agent on this machine, since a socket may lead to another one.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::flavour::is_gvisor;
use super::{ContainerEngine, SandboxId, Spec, VmError};
use crate::vm::Network;
use crate::vm::network::Networks;

/// The file in a sandbox's home that shows in it as `/etc/resolv.conf`.
const NAMES: &str = "resolv.conf";

impl ContainerEngine {
    /// Whether ports of our bridge can be had here; what is missing otherwise.
    pub(super) fn networks(&self) -> Result<(), String> {
        self.networks_of(Path::new("/")).map_err(|e| e.to_string())?.probe()
    }

    fn networks_of(&self, homes: &Path) -> Result<Networks, VmError> {
        Networks::new(self.0.settings.network.clone(), homes)
    }

    /// Whether the sandbox gets a port of our bridge.
    fn is_ported(&self, network: &Network) -> bool {
        match network {
            Network::None => false,
            Network::Nat => self.0.settings.nat_network.is_none(),
            Network::Allow(_) => true,
        }
    }

    /// What the engine is told.
    pub(super) fn network_mode(&self, network: &Network) -> String {
        let named = self.0.settings.nat_network.clone().filter(|_| *network == Network::Nat);
        named.unwrap_or_else(|| "none".to_owned())
    }

    pub(super) fn check_network(&self, spec: &Spec) -> Result<(), VmError> {
        if !self.is_ported(&spec.network) {
            return Ok(());
        }
        // Its network is its own program's, which looks at the namespace once, before we are there.
        if is_gvisor(self.runtime(spec)) {
            return Err(
                self.unsupported("give a network under gVisor: use no network, another runtime, or a network of the engine's for NAT")
            );
        }
        self.networks().map_err(|reason| VmError::Unavailable { engine: self.engine_name(), reason })
    }

    /// Writes its name servers, as a file that a container without any right can read.
    pub(super) fn name_servers(&self, spec: &Spec, home: &Path) -> Result<(), VmError> {
        if !self.is_ported(&spec.network) {
            return Ok(());
        }
        let servers = self.networks_of(home.parent().unwrap_or(home))?.resolvers();
        let text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        let path = home.join(NAMES);
        std::fs::write(&path, text).map_err(|source| VmError::Io { what: format!("writing {}", path.display()), source })
    }

    pub(super) fn names_bind(&self, spec: &Spec, home: &Path) -> Option<String> {
        self.is_ported(&spec.network).then(|| format!("{}:/etc/resolv.conf:ro", home.join(NAMES).display()))
    }

    /// Gives a container that just began its port.
    pub(super) async fn attach_network(&self, id: &SandboxId, spec: &Spec, home: &Path) -> Result<(), VmError> {
        if !self.is_ported(&spec.network) {
            return Ok(());
        }
        let ended = || self.failed("the sandbox ended before it had its network");
        let inspected = self.inspect(id).await?;
        let told = inspected.state.and_then(|state| state.pid).and_then(|pid| u32::try_from(pid).ok());
        let (process, own) = told.filter(|pid| *pid > 0).zip(inspected.id).ok_or_else(ended)?;
        // Its number is its own for as long as it lives: that is asked again after the number was used.
        let handle = i32::try_from(process).ok().and_then(Pid::from_raw).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let handle = handle.ok_or_else(ended)?;
        let about = Path::new("/proc").join(process.to_string());
        // Another sandbox has the same agent, in other control groups.
        let groups = std::fs::read_to_string(about.join("cgroup")).unwrap_or_default();
        if !is_same_file(&about.join("exe"), &self.0.settings.guest) || own.is_empty() || !groups.contains(&own) {
            let why = format!("{} does not run on this machine, so sandboxes of it have no network: use none", self.engine_name());
            return Err(VmError::Unavailable { engine: self.engine_name(), reason: why });
        }
        let attached = {
            let (id, network) = (id.clone(), spec.network.clone());
            self.blocking(home, move |networks| networks.attach_process(&id, &network, process).map(drop)).await
        };
        if attached.is_ok() && has_ended(&handle) {
            self.detach_network(id, home).await?;
            return Err(ended());
        }
        attached
    }

    /// Takes away what there is of it; without its home, it is found as a stray.
    pub(super) async fn detach_network(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        if !home.join(NAMES).exists() {
            return Ok(());
        }
        let id = id.clone();
        self.blocking(home, move |networks| if networks.probe().is_ok() { networks.detach(&id) } else { Ok(()) }).await
    }

    async fn blocking(&self, home: &Path, work: impl FnOnce(Networks) -> Result<(), VmError> + Send + 'static) -> Result<(), VmError> {
        let networks = self.networks_of(home.parent().unwrap_or(home))?;
        let done = tokio::task::spawn_blocking(move || work(networks)).await;
        done.unwrap_or_else(|e| Err(self.failed(format!("a thread ended: {e}"))))
    }
}

fn has_ended(process: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let of = |path: &Path| std::fs::metadata(path).map(|about| (about.dev(), about.ino()));
    matches!((of(one), of(other)), (Ok(one), Ok(other)) if one == other)
}
