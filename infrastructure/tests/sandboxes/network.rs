//! Networks of processes, in a world of their own ([`World`]).

use std::net::IpAddr;
use std::sync::Arc;

use auralink_infrastructure::vm::network::{NetworkConfig, Networks};
use auralink_infrastructure::vm::process::{ProcessConfig, ProcessEngine};
use auralink_infrastructure::vm::spec::Destination;
use auralink_infrastructure::vm::{Network, SandboxId, Source, Spec, VmError};

use crate::conformance::{Bench, Expect, Sandbox};
use crate::network_world::{METADATA, PRIVATE, PUBLIC, World};

fn bench(world: &World) -> Bench {
    let config = ProcessConfig { network: world.config(), ..ProcessConfig::default() };
    let again = config.clone();
    Bench {
        engine: Arc::new(ProcessEngine::new(config)),
        again: Box::new(move || Arc::new(ProcessEngine::new(again.clone()))),
        source: Source::Host,
        expect: Expect { users: false, ..Expect::ALL },
        homes: tempfile::tempdir().unwrap(),
    }
}

/// What a connection to it answers; `no` when there is none.
async fn reach(sandbox: &Sandbox<'_>, address: &str, port: u16) -> String {
    let script = format!(
        "python3 -c 'import socket\ntry:\n  s = socket.create_connection((\"{address}\", {port}), 2)\n  print(s.recv(99).decode())\nexcept OSError:\n  print(\"no\")'"
    );
    sandbox.out(&script).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nat_reaches_the_world_and_nothing_near() {
    let world = World::new();
    let bench = bench(&world);
    let spec = Spec { network: Network::Nat, ..bench.spec() };
    let (one, two) = (bench.sandbox_of(spec.clone()).await, bench.sandbox_of(spec).await);
    // The world sees the host's address, not the sandbox's.
    assert_eq!(reach(&one, PUBLIC, 80).await, "from 203.0.113.1");
    let own = one.out("python3 -c 'import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.connect((\"203.0.113.9\", 9))\nprint(s.getsockname()[0])'").await;
    assert!(own.starts_with("10.213."), "{own}");
    for near in [PRIVATE, METADATA, "203.0.113.1", "10.213.0.1", "127.0.0.1"] {
        assert_eq!(reach(&one, near, 80).await, "no", "{near} is reached");
    }
    // Nor another sandbox.
    let mut server = two
        .exec(crate::conformance::sh(
            "python3 -c 'import socket\ns = socket.create_server((\"0.0.0.0\", 8080))\nprint(\"ready\", flush=True)\ns.accept()'",
        ))
        .await
        .unwrap();
    crate::conformance::until(&mut server, "ready").await;
    let other = two.out("python3 -c 'import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.connect((\"203.0.113.9\", 9))\nprint(s.getsockname()[0])'").await;
    assert_ne!(own, other);
    assert_eq!(reach(&one, &other, 8080).await, "no");
    drop(server);
    assert_eq!(one.out("cat /etc/resolv.conf").await, "nameserver 203.0.113.9");
    // It cannot change its own address or firewall.
    assert_ne!(one.sh("ip addr add 10.213.9.9/16 dev eth0 || exit 7").await.code(), 0);
    one.delete().await;
    two.delete().await;
    let networks = Networks::new(world.config(), bench.homes.path()).unwrap();
    assert!(networks.found().is_empty(), "{:?}", networks.found());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allow_list_is_all_that_is_reached() {
    let world = World::new();
    let bench = bench(&world);
    let to = |address: &str, port| Destination { address: address.parse::<IpAddr>().unwrap(), prefix: 32, port };
    let sandbox = bench.sandbox_of(Spec { network: Network::Allow(vec![to(PUBLIC, Some(80))]), ..bench.spec() }).await;
    assert_eq!(reach(&sandbox, PUBLIC, 80).await, "from 203.0.113.1");
    assert_eq!(reach(&sandbox, PUBLIC, 81).await, "no");
    assert_eq!(reach(&sandbox, "203.0.113.10", 80).await, "no");
    sandbox.delete().await;
    for near in [PRIVATE, METADATA, "127.0.0.1"] {
        let made = bench.made(Spec { network: Network::Allow(vec![to(near, None)]), ..bench.spec() }).await;
        let refused = made.engine.start(&made.id, &made.spec, &made.home).await;
        assert!(matches!(refused, Err(VmError::Invalid(_))), "{near}: {refused:?}");
        made.delete().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_sandbox_fills_the_table_of_connections() {
    let world = World::new();
    let network = NetworkConfig { connections: 8, ..world.config() };
    let engine = Arc::new(ProcessEngine::new(ProcessConfig { network, ..ProcessConfig::default() }));
    let bench = Bench { engine, ..bench(&world) };
    let spec = Spec { network: Network::Nat, ..bench.spec() };
    let (one, two) = (bench.sandbox_of(spec.clone()).await, bench.sandbox_of(spec).await);
    let open = format!(
        "python3 -c 'import socket\nopen = []\ntry:\n  while len(open) < 20: open.append(socket.create_connection((\"{PUBLIC}\", 80), 1))\nexcept OSError: pass\nprint(len(open), flush=True)\nimport time\ntime.sleep(60)'"
    );
    let mut holds = one.exec(crate::conformance::sh(&open)).await.unwrap();
    crate::conformance::until(&mut holds, "8").await;
    assert_eq!(reach(&one, PUBLIC, 80).await, "no");
    assert_eq!(reach(&two, PUBLIC, 80).await, "from 203.0.113.1", "the other has its own");
    drop(holds);
    one.delete().await;
    two.delete().await;
}

#[tokio::test]
async fn an_interface_of_the_machines_own_is_not_taken_for_the_bridge() {
    let world = World::new();
    let (homes, id) = (tempfile::tempdir().unwrap(), SandboxId::random().unwrap());
    // `up0` is the way to the world; a bridge that somebody else made is no more ours.
    world.ip("link add name br0 type bridge");
    for bridge in ["up0", "br0"] {
        let networks = Networks::new(NetworkConfig { bridge: bridge.into(), ..world.config() }, homes.path()).unwrap();
        let refused = networks.attach_namespace(&id, &Network::Nat).unwrap_err().to_string();
        assert!(refused.contains(bridge) && refused.contains("sandboxes.network.bridge"), "{refused}");
        assert!(!world.ip(&format!("addr show dev {bridge}")).contains("10.213."), "it was given an address");
        assert!(networks.found().is_empty());
    }
    assert!(!world.rules().contains("up0"), "{}", world.rules());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_is_found_and_removed() {
    let world = World::new();
    let homes = tempfile::tempdir().unwrap();
    let networks = Networks::new(world.config(), homes.path()).unwrap();
    let (space, tap) = (SandboxId::random().unwrap(), SandboxId::random().unwrap());
    let made = networks.attach_namespace(&space, &Network::Nat).unwrap();
    assert!(made.path.exists());
    let device = networks.attach_tap(&tap, &Network::Nat, None).unwrap();
    assert!(device.name.len() <= 15 && device.port.address != made.port.address);
    let again = Networks::new(world.config(), homes.path()).unwrap();
    let mut both = vec![space.clone(), tap.clone()];
    both.sort();
    assert_eq!(again.found(), both);
    let other = tempfile::tempdir().unwrap();
    assert!(Networks::new(world.config(), other.path()).unwrap().found().is_empty(), "another server's are not ours");
    for id in &both {
        again.detach(id).unwrap();
        again.detach(id).unwrap();
    }
    assert!(again.found().is_empty());
    assert!(!made.path.exists());
    assert!(matches!(again.attach_namespace(&space, &Network::None), Err(VmError::Unsupported { .. })));
}
