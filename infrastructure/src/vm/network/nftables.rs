//! The firewall of sandboxes, by `nft`.
//!
//! Two tables. `bridge`: a port sends under its own hardware and IPv4 address alone, and nothing but IPv4 and ARP. `inet`: nothing from the bridge
//! reaches this machine itself; what is forwarded goes through the sandbox's own chain; answers alone come back. Each change is one
//! transaction of the kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::NetworkConfig;
use super::addresses::{PRIVATE, mac, overlap, within};
use super::world::World;
use crate::vm::VmError;
use crate::vm::spec::Destination;

/// The ports of all bridges are kept in one table: not every kernel can ask which bridge a port belongs to.
const PORTS_TABLE: &str = "auralink";

const PORTS: &str = r#"
table bridge auralink {
  set ports { type ifname . ether_addr . ipv4_addr; }
  chain from_ports {
    type filter hook prerouting priority -300; policy accept;
    iifname != "ala*" accept
    ether type ip iifname . ether saddr . ip saddr @ports accept
    ether type arp iifname . ether saddr . arp saddr ip @ports accept
    drop
  }
}
"#;

/// The tables, unless they are there.
pub(super) fn ensure(world: &World, config: &NetworkConfig, table: &str) -> Result<(), String> {
    if world.run("nft", &["list", "set", "bridge", PORTS_TABLE, "ports"]).is_err() {
        world.feed("nft", &["-f", "-"], PORTS)?;
    }
    if world.run("nft", &["list", "map", "inet", table, "sandboxes"]).is_ok() {
        return Ok(());
    }
    let private: Vec<String> = PRIVATE.iter().map(|(net, bits)| format!("{net}/{bits}")).collect();
    let (private, bridge) = (private.join(", "), &config.bridge);
    let subnet = format!("{}/{}", config.subnet, config.prefix);
    let script = format!(
        r#"
table inet {table} {{
  set private {{ type ipv4_addr; flags interval; elements = {{ {private} }} }}
  map sandboxes {{ type ipv4_addr : verdict; }}
  chain input {{
    type filter hook input priority -200; policy accept;
    iifname "{bridge}" drop
  }}
  chain forward {{
    type filter hook forward priority -200; policy accept;
    iifname "{bridge}" jump out_of_sandboxes
    oifname "{bridge}" jump into_sandboxes
  }}
  chain out_of_sandboxes {{
    meta nfproto ipv6 drop
    oifname "{bridge}" drop
    ct state established,related accept
    ip saddr vmap @sandboxes
    drop
  }}
  chain into_sandboxes {{
    ct state established,related accept
    drop
  }}
  chain leaving {{
    type nat hook postrouting priority 100;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}
}}
"#
    );
    world.feed("nft", &["-f", "-"], &script).map(drop)
}

/// The rule for one destination of an allow-list.
pub(super) fn allowed(config: &NetworkConfig, to: &Destination) -> Result<String, VmError> {
    let IpAddr::V4(address) = to.address else {
        return Err(VmError::Unsupported { engine: "network", what: format!("allow {}: sandboxes' networks are IPv4 alone", to.address) });
    };
    if to.prefix > 32 {
        return Err(VmError::Invalid(format!("{address}/{}: an IPv4 network has at most 32 bits", to.prefix)));
    }
    let net = (address, to.prefix);
    if PRIVATE.iter().any(|private| overlap(net, *private)) && !config.private.iter().any(|open| within(net, *open)) {
        return Err(VmError::Invalid(format!(
            "{address}/{} reaches a private, link-local or reserved network: an operator must allow it in the configuration first",
            to.prefix
        )));
    }
    let net = format!("ip daddr {address}/{}", to.prefix);
    Ok(match to.port {
        Some(port) => format!("{net} tcp dport {port} accept"),
        None => format!("{net} meta l4proto {{ tcp, udp }} accept"),
    })
}

/// Lets a port in under an address, with its rules. One transaction; fails when the address is taken.
pub(super) fn admit(world: &World, table: &str, chain: &str, link: &str, address: Ipv4Addr, rules: &[String]) -> Result<(), String> {
    let mut script = format!("add chain inet {table} {chain}\nflush chain inet {table} {chain}\n");
    for rule in rules {
        script += &format!("add rule inet {table} {chain} {rule}\n");
    }
    script += &format!("add rule inet {table} {chain} drop\n");
    script += &format!("create element inet {table} sandboxes {{ {address} : jump {chain} }}\n");
    script += &format!("add element bridge {PORTS_TABLE} ports {{ \"{link}\" . {} . {address} }}\n", mac(address));
    world.feed("nft", &["-f", "-"], &script).map(drop)
}

/// Addresses in use.
pub(super) fn addresses(world: &World, table: &str) -> Result<BTreeSet<Ipv4Addr>, String> {
    Ok(entries(world, table)?.into_iter().map(|(address, _)| address).collect())
}

/// Chains of sandboxes, this server's and others'.
pub(super) fn chains(world: &World, table: &str) -> Vec<String> {
    let text = world.run("nft", &["-j", "list", "chains", "inet"]).unwrap_or_default();
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let items = answer["nftables"].as_array().cloned().unwrap_or_default();
    let ours = items.iter().filter_map(|item| item.get("chain")).filter(|chain| chain["table"] == table);
    ours.filter_map(|chain| Some(chain["name"].as_str()?.to_owned())).collect()
}

/// Removes what [`admit`] did.
pub(super) fn dismiss(world: &World, table: &str, chain: &str, link: &str) -> Result<(), String> {
    if !chains(world, table).iter().any(|name| name == chain) {
        return Ok(());
    }
    let mut script = String::new();
    for (address, _) in entries(world, table)?.into_iter().filter(|(_, to)| to == chain) {
        script += &format!("delete element inet {table} sandboxes {{ {address} : jump {chain} }}\n");
        script += &format!("add element bridge {PORTS_TABLE} ports {{ \"{link}\" . {mac} . {address} }}\n", mac = mac(address)); // so that deleting it cannot fail
        script += &format!("delete element bridge {PORTS_TABLE} ports {{ \"{link}\" . {mac} . {address} }}\n", mac = mac(address));
    }
    script += &format!("flush chain inet {table} {chain}\ndelete chain inet {table} {chain}\n");
    world.feed("nft", &["-f", "-"], &script).map(drop)
}

/// The firewall's map: addresses and their chains.
fn entries(world: &World, table: &str) -> Result<Vec<(Ipv4Addr, String)>, String> {
    let text = world.run("nft", &["-j", "list", "map", "inet", table, "sandboxes"])?;
    let answer: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("nft's answer: {e}"))?;
    let items = answer["nftables"].as_array().cloned().unwrap_or_default();
    let map = items.iter().find_map(|item| item.get("map")).and_then(|map| map["elem"].as_array().cloned()).unwrap_or_default();
    Ok(map.iter().filter_map(|pair| Some((pair[0].as_str()?.parse().ok()?, pair[1]["jump"]["target"].as_str()?.to_owned()))).collect())
}
