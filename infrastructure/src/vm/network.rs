//! What sandboxes can reach: nothing, the world, or a list of destinations.
//!
//! Place: the process engine attaches a network namespace, those of containers the namespace that a container has, the engines of virtual
//! machines a TAP device; all are ports of one bridge.
//! Rule: a port reaches what its chain of nftables says and nothing else: not this machine (whatever its address), not its private,
//! link-local or metadata networks, not another sandbox, and not under another port's address. IPv4 alone: IPv6 is dropped.
//!
//! No state is kept here. Interfaces, namespaces and chains carry the server's mark and the sandbox's id in their names, so that a
//! server that was killed finds and removes its own; addresses in use are read from the firewall's map. Steps are commands of `ip` and `nft` with
//! fixed arguments; a step that fails undoes what was done for that sandbox. The bridge, the tables and `ip_forward` stay.
//!
//! # Names
//! There is no resolver on the bridge. A sandbox is given the name servers of [`NetworkConfig::resolvers`] or, without any, those of this
//! machine that it can reach, which leaves out private ones and 127.0.0.53. With an allow-list a name server must be on the list (port
//! 53, and [`Destination::port`] none for UDP), otherwise names are not resolved: give addresses.

mod addresses;
mod bridge;
mod nftables;
mod world;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Network, SandboxId, VmError};
use world::World;

/// How networks are made.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Name of the bridge, at most 15 characters; the firewall's tables are named `auralink` for the default one, and after it otherwise.
    pub bridge: String,
    /// The bridge's network; its first address is the gateway. At most 65,533 sandboxes.
    pub subnet: Ipv4Addr,
    /// Bits of the network, 16 to 29.
    pub prefix: u8,
    /// Name servers for sandboxes; empty: this machine's, as far as sandboxes can reach them.
    pub resolvers: Vec<IpAddr>,
    /// Networks that allow-lists may name although they are private: none by default, since the lists come from tenants.
    pub private: Vec<(Ipv4Addr, u8)>,
    /// Most connections of a sandbox that this machine remembers at once; more are not begun. The machine's table of them is everybody's.
    pub connections: u32,
    /// A network namespace to do all this in, instead of the server's own.
    pub inside: Option<PathBuf>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            bridge: "auralink0".into(),
            subnet: Ipv4Addr::new(10, 213, 0, 0),
            prefix: 16,
            resolvers: Vec::new(),
            private: Vec::new(),
            connections: 4_096,
            inside: None,
        }
    }
}

impl NetworkConfig {
    pub(super) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet) + 1)
    }

    /// Whether it can be.
    ///
    /// # Errors
    /// [`VmError::Invalid`]: what cannot.
    pub fn check(&self) -> Result<(), VmError> {
        let plain = |b: u8| b.is_ascii_alphanumeric();
        if self.bridge.is_empty() || self.bridge.len() > 15 || !self.bridge.bytes().all(plain) || self.bridge.starts_with("ala") {
            let bridge = &self.bridge;
            return Err(VmError::Invalid(format!("the bridge {bridge:?} must be of 1 to 15 letters and digits and not begin with `ala`")));
        }
        if !(16..=29).contains(&self.prefix) || u32::from(self.subnet).trailing_zeros() < 32 - u32::from(self.prefix) {
            let (subnet, prefix) = (self.subnet, self.prefix);
            return Err(VmError::Invalid(format!("the sandboxes' network {subnet}/{prefix} must have 16 to 29 bits and none beyond them")));
        }
        if self.connections == 0 {
            return Err(VmError::Invalid("a sandbox with a network needs a connection at least".into()));
        }
        Ok(())
    }

    fn table(&self) -> String {
        if self.bridge == "auralink0" { "auralink".to_owned() } else { format!("auralink_{}", self.bridge) }
    }
}

/// A sandbox's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Address of the sandbox.
    pub address: Ipv4Addr,
    /// Bits of the network.
    pub prefix: u8,
    /// Default route.
    pub gateway: Ipv4Addr,
    /// The only hardware address that it may use.
    pub mac: String,
    /// For `/etc/resolv.conf`.
    pub resolvers: Vec<IpAddr>,
}

/// A TAP device for a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapDevice {
    /// Interface on the host.
    pub name: String,
    /// What the guest sets up.
    pub port: Port,
}

/// A network namespace with an interface `eth0` that is up, for processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSpace {
    /// The file to join it by.
    pub path: PathBuf,
    /// What `eth0` has.
    pub port: Port,
}

/// The networks of one server.
#[derive(Debug, Clone)]
pub struct Networks {
    config: NetworkConfig,
    owner: String,
    world: World,
}

impl Networks {
    /// For the server that keeps its sandboxes in `homes`.
    ///
    /// # Errors
    /// [`VmError::Invalid`] for a configuration that cannot be.
    pub fn new(config: NetworkConfig, homes: &Path) -> Result<Self, VmError> {
        config.check()?;
        let homes = std::fs::canonicalize(homes).unwrap_or_else(|_| homes.to_path_buf());
        let owner = Sha256::digest(homes.as_os_str().as_encoded_bytes())[..5].iter().map(|b| format!("{b:02x}")).collect();
        Ok(Self { world: World::new(config.inside.clone()), owner, config })
    }

    /// Whether networks beside none can be had here.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn probe(&self) -> Result<(), String> {
        for (program, package) in [("ip", "iproute2"), ("nft", "nftables")] {
            if super::process::find_program(program).is_none() {
                return Err(format!("networks need the program `{program}`: install {package}"));
            }
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let held = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok()).unwrap_or(0);
        for (bit, name) in [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")] {
            if held & (1 << bit) == 0 {
                return Err(format!("networks need the capability {name}: run the server as root"));
            }
        }
        Ok(())
    }

    /// A namespace for processes. Blocks.
    ///
    /// # Errors
    /// [`VmError::Unsupported`] for [`Network::None`] and for IPv6; what `ip` and `nft` said otherwise. Nothing is left then.
    pub fn attach_namespace(&self, id: &SandboxId, network: &Network) -> Result<NetworkSpace, VmError> {
        let names = self.names(id);
        let port = self.attach(id, network, |world, port| bridge::namespace(world, &self.config, &names, port, None))?;
        Ok(NetworkSpace { path: Path::new("/run/netns").join(&names.space), port })
    }

    /// The same in the namespace that a process is in already: a container's, which has no interface of its own. Blocks.
    ///
    /// # Errors
    /// As [`Networks::attach_namespace`].
    pub fn attach_process(&self, id: &SandboxId, network: &Network, process: u32) -> Result<Port, VmError> {
        let names = self.names(id);
        self.attach(id, network, |world, port| bridge::namespace(world, &self.config, &names, port, Some(process)))
    }

    /// Name servers of a sandbox, for its `/etc/resolv.conf`.
    pub fn resolvers(&self) -> Vec<IpAddr> {
        if self.config.resolvers.is_empty() { addresses::reachable_resolvers() } else { self.config.resolvers.clone() }
    }

    /// A TAP device for a virtual machine, which `user` may open (none: root alone). Blocks.
    ///
    /// # Errors
    /// As [`Networks::attach_namespace`].
    pub fn attach_tap(&self, id: &SandboxId, network: &Network, user: Option<u32>) -> Result<TapDevice, VmError> {
        let names = self.names(id);
        let port = self.attach(id, network, |world, _| bridge::tap(world, &self.config, &names, user))?;
        Ok(TapDevice { name: names.link, port })
    }

    fn attach(
        &self,
        id: &SandboxId,
        network: &Network,
        make: impl Fn(&World, &Port) -> Result<(), String> + Send + Sync,
    ) -> Result<Port, VmError> {
        let rules = self.rules(network)?;
        self.detach(id)?; // what an earlier start left
        let names = self.names(id);
        let done = self.world.enter(|world| {
            bridge::ensure(world, &self.config)?;
            let table = self.config.table();
            nftables::ensure(world, &self.config, &table)?;
            // Two servers, or two starts, may pick one address at the same time: the firewall takes it once.
            let mut last = String::new();
            for attempt in 0..8 {
                let used = nftables::addresses(world, &table)?;
                let address =
                    addresses::pick(&self.config, id, &used, attempt).ok_or("all addresses of the sandboxes' network are in use")?;
                match nftables::admit(world, &table, &names.chain, &names.link, address, &rules) {
                    Ok(()) => {
                        let port = self.port(address);
                        return make(world, &port).map(|()| port);
                    }
                    Err(reason) => last = reason,
                }
            }
            Err(last)
        });
        done.map_err(|reason| {
            let undone = self.detach(id);
            let more = undone.err().map(|e| format!("; undoing it: {e}")).unwrap_or_default();
            VmError::Engine { engine: "network", reason: format!("{reason}{more}") }
        })
    }

    fn port(&self, address: Ipv4Addr) -> Port {
        let (prefix, gateway, mac) = (self.config.prefix, self.config.gateway(), addresses::mac(address));
        Port { address, prefix, gateway, mac, resolvers: self.resolvers() }
    }

    /// Rules of the sandbox's chain, of fixed shapes.
    fn rules(&self, network: &Network) -> Result<Vec<String>, VmError> {
        let mut rules = vec![format!("ct count over {} drop", self.config.connections)];
        match network {
            Network::Nat => rules.extend(["ip daddr @private drop".into(), "accept".into()]),
            Network::Allow(list) => {
                for to in list {
                    rules.push(nftables::allowed(&self.config, to)?);
                }
            }
            Network::None => {
                return Err(VmError::Unsupported { engine: "network", what: "attach a sandbox that shall have no network".into() });
            }
        }
        Ok(rules)
    }

    /// Removes everything of a sandbox, whatever of it is there. Blocks.
    ///
    /// # Errors
    /// What `ip` and `nft` said.
    pub fn detach(&self, id: &SandboxId) -> Result<(), VmError> {
        let names = self.names(id);
        let table = self.config.table();
        let done = self.world.enter(|world| {
            bridge::remove(world, &names)?;
            nftables::dismiss(world, &table, &names.chain, &names.link)
        });
        done.map_err(|reason| VmError::Engine { engine: "network", reason })
    }

    /// Every sandbox of this server's that something is left of. Blocks.
    pub fn found(&self) -> Vec<SandboxId> {
        let table = self.config.table();
        let mark = self.mark();
        let names =
            self.world.enter(|world| Ok(nftables::chains(world, &table).into_iter().chain(bridge::marks(world, "")).collect::<Vec<_>>()));
        let spaces =
            std::fs::read_dir("/run/netns").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut all: Vec<SandboxId> = names
            .unwrap_or_default()
            .into_iter()
            .chain(spaces)
            .filter_map(|name| format!("sb-{}", name.strip_prefix(&mark)?).parse().ok())
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// The same without those that have a namespace: what is left of virtual machines.
    pub fn found_taps(&self) -> Vec<SandboxId> {
        let mut all = self.found();
        all.retain(|id| !Path::new("/run/netns").join(self.names(id).space).exists());
        all
    }

    fn mark(&self) -> String {
        format!("auralink_{}_", self.owner)
    }

    fn names(&self, id: &SandboxId) -> Names {
        let marked = format!("{}{}", self.mark(), id.as_str().trim_start_matches("sb-"));
        Names { link: format!("ala{}", id.short()), peer: format!("alp{}", id.short()), space: marked.clone(), chain: marked }
    }
}

/// What the parts of one sandbox are called.
#[derive(Debug, Clone)]
struct Names {
    /// The bridge's port.
    link: String,
    /// The other end until it is `eth0` in the namespace.
    peer: String,
    space: String,
    chain: String,
}
