//! Networks of microVMs by a TAP, in a world of the test's own (`network_world::World`). The guest has busybox alone: its agent sets the interface up.

use std::sync::Arc;

use auralink_infrastructure::vm::network::Networks;
use auralink_infrastructure::vm::qemu::{QemuConfig, QemuEngine};
use auralink_infrastructure::vm::{Condition, Network, Source, Spec, VmError};

use crate::conformance::{Bench, Expect};
use crate::network_world::{METADATA, PRIVATE, PUBLIC, World, to};

fn bench(world: &World) -> Bench {
    let config = QemuConfig { kvm: false, network: world.config(), ..QemuConfig::default() };
    let again = config.clone();
    Bench {
        engine: Arc::new(QemuEngine::new(config)),
        again: Box::new(move || Arc::new(QemuEngine::new(again.clone()))),
        source: Source::RootFs(crate::qemu::root().to_path_buf()),
        expect: Expect { limits: false, own_kernel: true, ..Expect::ALL },
        homes: tempfile::tempdir().unwrap(),
    }
}

fn left(bench: &Bench, world: &World) -> Vec<auralink_infrastructure::vm::SandboxId> {
    Networks::new(world.config(), bench.homes.path()).unwrap().found()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nat_reaches_the_world_and_nothing_near() {
    let world = World::new();
    let bench = bench(&world);
    let told = bench.engine.probe().await.unwrap();
    assert!(told.nat && told.allow_list, "{told:?}");
    let sandbox = bench.sandbox_of(Spec { network: Network::Nat, ..bench.spec() }).await;
    // The world sees the host's address, not the sandbox's.
    assert_eq!(sandbox.reach(PUBLIC, 80).await, "from 203.0.113.1");
    assert!(sandbox.out("ip -4 addr show dev eth0").await.contains("10.213."));
    for near in [PRIVATE, METADATA, "203.0.113.1", "10.213.0.1", "127.0.0.1"] {
        assert_eq!(sandbox.reach(near, 80).await, "no", "{near} is reached");
    }
    assert_eq!(sandbox.out("cat /etc/resolv.conf").await, "nameserver 203.0.113.9");
    // Its root may give itself another address; what comes under it is dropped.
    sandbox.out("ip addr flush dev eth0 && ip addr add 10.213.9.9/16 dev eth0 && ip route add default via 10.213.0.1").await;
    assert_eq!(sandbox.reach(PUBLIC, 80).await, "no");
    sandbox.delete().await;
    assert!(left(&bench, &world).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_allow_list_is_all_that_is_reached_and_stopping_takes_the_tap_away() {
    let world = World::new();
    let bench = bench(&world);
    let sandbox = bench.sandbox_of(Spec { network: Network::Allow(vec![to(PUBLIC, Some(80))]), ..bench.spec() }).await;
    assert_eq!(sandbox.reach(PUBLIC, 80).await, "from 203.0.113.1");
    assert_eq!(sandbox.reach(PUBLIC, 81).await, "no");
    assert_eq!(sandbox.reach("203.0.113.10", 80).await, "no");
    // A restarted server goes on with it.
    let again = sandbox.with((bench.again)());
    drop(sandbox);
    assert_eq!(again.reach(PUBLIC, 80).await, "from 203.0.113.1");
    again.engine.stop(&again.id, &again.home, std::time::Duration::from_millis(200)).await.unwrap();
    assert!(left(&bench, &world).is_empty());
    again.engine.start(&again.id, &again.spec, &again.home).await.unwrap();
    assert_eq!(again.reach(PUBLIC, 80).await, "from 203.0.113.1");
    again.delete().await;
    // What no tenant may name is refused at the start, and leaves nothing.
    let refused = bench.made(Spec { network: Network::Allow(vec![to(METADATA, None)]), ..bench.spec() }).await;
    assert!(matches!(refused.engine.start(&refused.id, &refused.spec, &refused.home).await, Err(VmError::Invalid(_))));
    refused.delete().await;
    assert!(left(&bench, &world).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_of_a_network_is_found_and_removed() {
    let world = World::new();
    let bench = bench(&world);
    let sandbox = bench.sandbox_of(Spec { network: Network::Nat, ..bench.spec() }).await;
    let pid = std::fs::read_to_string(sandbox.home.join("qemu.pid")).unwrap();
    assert!(std::process::Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
    let engine = (bench.again)();
    crate::conformance::eventually("it has stopped", || async {
        engine.condition(&sandbox.id, &sandbox.home).await.unwrap() == Condition::Stopped
    })
    .await;
    // As if the record and the home had gone too: the device alone is left.
    std::fs::remove_dir_all(&sandbox.home).unwrap();
    assert_eq!(engine.found(bench.homes.path()).await.unwrap(), std::slice::from_ref(&sandbox.id));
    engine.delete(&sandbox.id, &sandbox.home).await.unwrap();
    assert!(left(&bench, &world).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_begun_from_a_snapshot_has_an_address_of_its_own() {
    let world = World::new();
    let bench = bench(&world);
    let sandbox = bench.sandbox_of(Spec { network: Network::Nat, ..bench.spec() }).await;
    let folder = tempfile::tempdir().unwrap();
    sandbox.engine.snapshot(&sandbox.id, &sandbox.home, folder.path()).await.unwrap();
    let begun = Spec { source: Source::Snapshot(folder.path().to_path_buf()), network: Network::Nat, ..bench.spec() };
    let without = Spec { network: Network::None, ..begun.clone() };
    let home = tempfile::tempdir().unwrap();
    let refused = bench.engine.create(&auralink_infrastructure::vm::SandboxId::random().unwrap(), &without, home.path()).await;
    assert!(matches!(refused, Err(VmError::Unsupported { .. })), "{refused:?}");
    let clone = bench.sandbox_of(begun).await;
    let own = "ip addr show dev eth0 | grep -o 'ether [^ ]*\\|inet [^ ]*'";
    let (one, other) = (sandbox.out(own).await, clone.out(own).await);
    assert_eq!(one.lines().count(), 2, "{one}");
    assert!(one.lines().zip(other.lines()).all(|(one, other)| one != other), "{one}; {other}");
    for each in [&sandbox, &clone] {
        assert_eq!(each.reach(PUBLIC, 80).await, "from 203.0.113.1");
        each.delete().await;
    }
}
