//! A world for networks of sandboxes: a network namespace that stands for this machine, another that stands for the internet, a private
//! neighbour and the cloud's metadata service. The real machine's interfaces and firewall are never touched. Needs root.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use auralink_infrastructure::vm::SandboxId;
use auralink_infrastructure::vm::network::NetworkConfig;
use auralink_infrastructure::vm::spec::Destination;

/// A server in the internet, one in a private network, the metadata service; all listen on port 80.
pub const PUBLIC: &str = "203.0.113.9";
pub const PRIVATE: &str = "192.168.7.9";
pub const METADATA: &str = "169.254.169.254";

pub struct World {
    host: String,
    internet: String,
    servers: Vec<Child>,
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("`ip` is there: run `make setup`");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl World {
    pub fn new() -> Self {
        let id = SandboxId::random().unwrap();
        let (host, internet) = (format!("alt-h-{}", id.short()), format!("alt-i-{}", id.short()));
        for name in [&host, &internet] {
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
        }
        ip(&format!("-n {host} link add up0 type veth peer name up1 netns {internet}"));
        ip(&format!("-n {host} addr add 203.0.113.1/24 dev up0"));
        ip(&format!("-n {host} link set up0 up"));
        ip(&format!("-n {internet} link set up1 up"));
        for (n, address) in [PUBLIC, PRIVATE, METADATA, "203.0.113.10"].iter().enumerate() {
            ip(&format!("-n {internet} addr add {address}/{} dev up1", if n == 0 || n == 3 { 24 } else { 32 }));
        }
        ip(&format!("-n {host} route add 192.168.7.9/32 dev up0"));
        ip(&format!("-n {host} route add 169.254.169.254/32 dev up0"));
        let mut world = Self { host, internet, servers: Vec::new() };
        for name in [world.internet.clone(), world.host.clone()] {
            let script = "import socket\ns = socket.create_server(('0.0.0.0', 80))\nt = socket.create_server(('0.0.0.0', 81))\nprint('ready', flush=True)\n\
                          import select\nwhile True:\n  for l in select.select([s, t], [], [])[0]:\n    c, a = l.accept()\n    c.sendall(('from ' + a[0]).encode())\n    c.close()\n";
            let mut child =
                Command::new("ip").args(["netns", "exec", &name, "python3", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
            assert_eq!(line, "ready\n");
            world.servers.push(child);
        }
        world
    }

    /// What `ip` says in it.
    pub fn ip(&self, arguments: &str) -> String {
        self.run("ip", arguments)
    }

    /// Its firewall.
    pub fn rules(&self) -> String {
        self.run("nft", "list ruleset")
    }

    fn run(&self, program: &str, arguments: &str) -> String {
        let mut command = Command::new("ip");
        let output = command.args(["netns", "exec", &self.host, program]).args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn config(&self) -> NetworkConfig {
        NetworkConfig {
            inside: Some(PathBuf::from("/run/netns").join(&self.host)),
            resolvers: vec!["203.0.113.9".parse().unwrap()],
            ..NetworkConfig::default()
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        for name in [&self.host, &self.internet] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// One address, as an entry of an allow-list.
pub fn to(address: &str, port: Option<u16>) -> Destination {
    Destination { address: address.parse::<IpAddr>().unwrap(), prefix: 32, port }
}
