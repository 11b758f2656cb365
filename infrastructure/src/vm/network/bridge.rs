//! The bridge and its ports, by `ip`.

use std::os::unix::fs::MetadataExt;

use super::world::World;
use super::{Names, NetworkConfig, Port};

/// The bridge with its address, up, and forwarding; nothing is done when it is so already.
pub(super) fn ensure(world: &World, config: &NetworkConfig) -> Result<(), String> {
    let bridge = config.bridge.as_str();
    let address = format!("{}/{}", config.gateway(), config.prefix);
    if world.run("ip", &["-o", "-4", "addr", "show", "dev", bridge]).is_ok_and(|text| text.contains(&address)) {
        return Ok(());
    }
    let made = world.run("ip", &["link", "add", "name", bridge, "type", "bridge", "stp_state", "0", "mcast_snooping", "0"]);
    // Somebody else may have made it a moment ago.
    let unless_there = |done: Result<String, String>| done.map(drop).or_else(|e| if e.contains("exists") { Ok(()) } else { Err(e) });
    unless_there(made)?;
    unless_there(world.run("ip", &["addr", "add", &address, "dev", bridge]))?;
    world.run("ip", &["link", "set", "dev", bridge, "addrgenmode", "none", "up"])?;
    let forward = "/proc/sys/net/ipv4/ip_forward";
    std::fs::write(forward, "1").map_err(|e| format!("{forward}: {e}"))
}

/// A named network namespace with `eth0`, joined to the bridge by a pair of interfaces: a new one, or the one that a process is in.
pub(super) fn namespace(world: &World, config: &NetworkConfig, names: &Names, port: &Port, process: Option<u32>) -> Result<(), String> {
    let space = names.space.as_str();
    let ip = |arguments: &[&str]| world.run("ip", arguments).map(drop);
    match process {
        Some(process) => {
            ip(&["netns", "attach", space, &process.to_string()])?;
            let own = |path: &str| std::fs::metadata(path).map(|about| (about.dev(), about.ino())).map_err(|e| format!("{path}: {e}"));
            if own("/proc/thread-self/ns/net")? == own(&format!("/run/netns/{space}"))? {
                return Err(format!("process {process} has no network of its own"));
            }
        }
        None => ip(&["netns", "add", space])?,
    }
    ip(&["link", "add", "name", &names.link, "type", "veth", "peer", "name", &names.peer, "address", &port.mac])?;
    join(world, config, names)?;
    ip(&["link", "set", "dev", &names.peer, "netns", space, "name", "eth0"])?;
    let address = format!("{}/{}", port.address, port.prefix);
    let (gateway, inside) = (port.gateway.to_string(), ["-n", space]);
    for step in [
        &["link", "set", "dev", "lo", "up"][..],
        &["link", "set", "dev", "eth0", "addrgenmode", "none", "up"],
        &["addr", "add", &address, "dev", "eth0"],
        &["route", "add", "default", "via", &gateway],
    ] {
        ip(&[&inside[..], step].concat())?;
    }
    Ok(())
}

/// A TAP device.
pub(super) fn tap(world: &World, config: &NetworkConfig, names: &Names, user: Option<u32>) -> Result<(), String> {
    let user = user.map(|user| user.to_string());
    let mut arguments = vec!["tuntap", "add", "dev", &names.link, "mode", "tap"];
    if let Some(user) = &user {
        arguments.extend(["user", user]);
    }
    world.run("ip", &arguments)?;
    join(world, config, names)
}

/// Makes it a port that reaches the gateway and no other port.
fn join(world: &World, config: &NetworkConfig, names: &Names) -> Result<(), String> {
    let link = names.link.as_str();
    world.run("ip", &["link", "set", "dev", link, "alias", &names.chain])?;
    world.run("ip", &["link", "set", "dev", link, "addrgenmode", "none", "master", &config.bridge])?;
    world.run("ip", &["link", "set", "dev", link, "type", "bridge_slave", "isolated", "on", "learning", "on"])?;
    world.run("ip", &["link", "set", "dev", link, "up"]).map(drop)
}

/// Removes a sandbox's interface and namespace; what is gone already is no error.
pub(super) fn remove(world: &World, names: &Names) -> Result<(), String> {
    if std::path::Path::new("/sys/class/net").join(&names.link).exists() || world.run("ip", &["link", "show", "dev", &names.link]).is_ok() {
        world.run("ip", &["link", "del", "dev", &names.link])?;
    }
    if std::path::Path::new("/run/netns").join(&names.space).exists() {
        world.run("ip", &["netns", "del", &names.space])?;
    }
    Ok(())
}

/// The marks that interfaces carry.
pub(super) fn marks(world: &World) -> Vec<String> {
    let text = world.run("ip", &["-j", "link", "show"]).unwrap_or_default();
    let links: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
    links.iter().filter_map(|link| Some(link.get("ifalias")?.as_str()?.to_owned())).collect()
}
