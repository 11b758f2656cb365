//! The bridge and its ports, by `ip`.

use std::os::unix::fs::MetadataExt;

use super::world::World;
use super::{Names, NetworkConfig, Port};

/// What a bridge of ours is marked with: an interface of that name may be the machine's own, whose traffic would be dropped.
const MARK: &str = "auralink-bridge";

/// The bridge with its address, up, and forwarding; nothing is done when it is so already.
pub(super) fn ensure(world: &World, config: &NetworkConfig) -> Result<(), String> {
    let bridge = config.bridge.as_str();
    let address = format!("{}/{}", config.gateway(), config.prefix);
    let is_whole = |text: String| text.contains(&format!("\"{MARK}\"")) && text.contains(&format!("\"{}\"", config.gateway()));
    if world.run("ip", &["-d", "-j", "addr", "show", "dev", bridge, "up"]).is_ok_and(is_whole) {
        return Ok(());
    }
    // Somebody else may have made it a moment ago.
    let unless_there = |done: Result<String, String>| {
        done.map(drop).or_else(|e| if e.contains("exists") || e.contains("already assigned") { Ok(()) } else { Err(e) })
    };
    match world.run("ip", &["link", "add", "name", bridge, "type", "bridge", "stp_state", "0", "mcast_snooping", "0"]) {
        Ok(_) => world.run("ip", &["link", "set", "dev", bridge, "alias", MARK]).map(drop)?,
        Err(error) => {
            unless_there(Err(error))?;
            is_ours(world, bridge)?;
        }
    }
    unless_there(world.run("ip", &["addr", "add", &address, "dev", bridge]))?;
    world.run("ip", &["link", "set", "dev", bridge, "addrgenmode", "none", "up"])?;
    let forward = "/proc/sys/net/ipv4/ip_forward";
    std::fs::write(forward, "1").map_err(|e| format!("{forward}: {e}"))
}

/// Waits a moment for another server's mark.
fn is_ours(world: &World, bridge: &str) -> Result<(), String> {
    for _ in 0..20 {
        if marks(world, bridge).iter().any(|mark| mark == MARK) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Err(format!(
        "this machine has an interface {bridge} that is not ours: choose another name (`sandboxes.network.bridge`), or delete that one"
    ))
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

/// The marks that interfaces carry: of one, or all of them.
pub(super) fn marks(world: &World, of: &str) -> Vec<String> {
    let one = ["-j", "link", "show", "dev", of];
    let text = world.run("ip", if of.is_empty() { &one[..3] } else { &one }).unwrap_or_default();
    let links: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
    links.iter().filter_map(|link| Some(link.get("ifalias")?.as_str()?.to_owned())).collect()
}
