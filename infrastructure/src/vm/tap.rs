//! A microVM's network: a TAP device of [`super::network`] on this machine, an address that the agent sets up in the guest.
//!
//! Place: the engines `qemu` and `firecracker` attach one before they start a machine and detach it after its end. Rule: a TAP lives from
//! start to stop; one that a crash left is found by the server's mark, and the next start or the removal takes it away.

use std::path::Path;

use auralink_guest::message::Interface;

use super::agent::Agent;
use super::network::{NetworkConfig, Networks, TapDevice};
use super::{Network, SandboxId, VmError};

/// The TAP devices of one engine.
#[derive(Debug)]
pub(super) struct Taps {
    config: NetworkConfig,
}

impl Taps {
    pub(super) fn new(config: NetworkConfig) -> Self {
        Self { config }
    }

    /// Whether networks beside none can be had here; what is missing otherwise.
    pub(super) fn probe(&self) -> Result<(), String> {
        Networks::new(self.config.clone(), Path::new("/")).map_err(|e| e.to_string())?.probe()
    }

    /// The device of the sandbox with this home, which `user` may open (none: root alone).
    pub(super) async fn attach(&self, id: &SandboxId, home: &Path, network: &Network, user: Option<u32>) -> Result<TapDevice, VmError> {
        let (id, network) = (id.clone(), network.clone());
        self.work(homes_of(home), move |networks| {
            let missing = |reason| VmError::Unavailable { engine: "network", reason };
            networks.probe().map_err(missing)?;
            networks.attach_tap(&id, &network, user)
        })
        .await
    }

    /// Removes what there is of it.
    pub(super) async fn detach(&self, id: &SandboxId, home: &Path) -> Result<(), VmError> {
        let id = id.clone();
        self.work(homes_of(home), move |networks| if networks.probe().is_ok() { networks.detach(&id) } else { Ok(()) }).await
    }

    /// Every sandbox that a device or a rule is left of.
    pub(super) async fn found(&self, homes: &Path) -> Result<Vec<SandboxId>, VmError> {
        self.work(homes, |networks| Ok(if networks.probe().is_ok() { networks.found_taps() } else { Vec::new() })).await
    }

    async fn work<T: Send + 'static>(
        &self,
        homes: &Path,
        work: impl FnOnce(Networks) -> Result<T, VmError> + Send + 'static,
    ) -> Result<T, VmError> {
        let networks = Networks::new(self.config.clone(), homes)?;
        let ended = |e| VmError::Engine { engine: "network", reason: format!("a thread ended: {e}") };
        tokio::task::spawn_blocking(move || work(networks)).await.unwrap_or_else(|e| Err(ended(e)))
    }
}

fn homes_of(home: &Path) -> &Path {
    home.parent().unwrap_or(home)
}

/// Has the guest take its port's addresses; the hardware address too, since a machine begun from a snapshot still has the other's.
pub(super) async fn set_up(agent: &Agent, device: &TapDevice) -> Result<(), VmError> {
    let port = &device.port;
    let interface = Interface {
        name: "eth0".into(),
        address: port.address,
        prefix: port.prefix,
        gateway: Some(port.gateway),
        name_servers: port.resolvers.clone(),
        mac: Some(port.mac.clone()),
    };
    agent.configure_network(interface).await
}
