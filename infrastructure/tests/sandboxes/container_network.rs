//! Networks of containers, by this server's own bridge, in a world of the test's own (`network_world::World`).

use std::sync::Arc;

use auralink_infrastructure::vm::container::{ContainerEngine, Settings};
use auralink_infrastructure::vm::network::Networks;
use auralink_infrastructure::vm::{Network, SandboxId, Source, Spec, VmError};

use crate::conformance::{Bench, Expect};
use crate::daemons::{Daemon, docker, podman, rootfs};
use crate::network_world::{METADATA, PRIVATE, PUBLIC, World, to};

fn bench(daemon: &Daemon, world: &World) -> Bench {
    let settings = Settings { network: world.config(), ..daemon.settings() };
    let again = settings.clone();
    Bench {
        engine: Arc::new(ContainerEngine::new(settings)),
        again: Box::new(move || Arc::new(ContainerEngine::new(again.clone()))),
        source: Source::RootFs(rootfs().to_owned()),
        expect: Expect::ALL,
        homes: tempfile::tempdir().unwrap(),
    }
}

fn left(bench: &Bench, world: &World) -> Vec<SandboxId> {
    Networks::new(world.config(), bench.homes.path()).unwrap().found()
}

async fn nat_and_lists(daemon: &Daemon) {
    let world = World::new();
    let bench = bench(daemon, &world);
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
    // It cannot change its own address.
    assert_ne!(sandbox.sh("ip addr add 10.213.9.9/16 dev eth0").await.code(), 0);
    sandbox.delete().await;
    assert!(left(&bench, &world).is_empty(), "{:?}", left(&bench, &world));

    let sandbox = bench.sandbox_of(Spec { network: Network::Allow(vec![to(PUBLIC, Some(80))]), ..bench.spec() }).await;
    assert_eq!(sandbox.reach(PUBLIC, 80).await, "from 203.0.113.1");
    assert_eq!(sandbox.reach(PUBLIC, 81).await, "no");
    assert_eq!(sandbox.reach("203.0.113.10", 80).await, "no");
    // A restarted server goes on with it; stopped it has no port, and begun again it has one again.
    let again = sandbox.with((bench.again)());
    drop(sandbox);
    again.engine.stop(&again.id, &again.home, std::time::Duration::from_millis(200)).await.unwrap();
    assert!(left(&bench, &world).is_empty());
    again.engine.start(&again.id, &again.spec, &again.home).await.unwrap();
    assert_eq!(again.reach(PUBLIC, 80).await, "from 203.0.113.1");
    assert_eq!(again.reach(PUBLIC, 81).await, "no");
    again.delete().await;

    // What no tenant may name is refused at the start, and neither a port nor a running sandbox is left.
    let refused = bench.made(Spec { network: Network::Allow(vec![to(METADATA, None)]), ..bench.spec() }).await;
    assert!(matches!(refused.engine.start(&refused.id, &refused.spec, &refused.home).await, Err(VmError::Invalid(_))));
    assert_eq!(refused.engine.condition(&refused.id, &refused.home).await.unwrap(), auralink_infrastructure::vm::Condition::Stopped);
    assert!(left(&bench, &world).is_empty());
    refused.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_reaches_what_it_may() {
    nat_and_lists(docker()).await;
    // gVisor looks at its network before there is one.
    let world = World::new();
    let bench = bench(docker(), &world);
    let home = bench.homes.path().join("sb-x");
    std::fs::create_dir(&home).unwrap();
    let spec = Spec { network: Network::Nat, runtime: "gvisor".into(), ..bench.spec() };
    let refused = bench.engine.create(&SandboxId::random().unwrap(), &spec, &home).await;
    assert!(matches!(refused, Err(VmError::Unsupported { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_reaches_what_it_may() {
    nat_and_lists(podman()).await;
}

/// A daemon elsewhere, whose socket leads here, tells numbers of other processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_not_the_agent_is_given_nothing() {
    let world = World::new();
    let other = tempfile::tempdir().unwrap();
    let guest = other.path().join("guest");
    std::fs::copy(crate::daemons::guest(), &guest).unwrap();
    let bench = bench(docker(), &world);
    let made = bench.made(Spec { network: Network::Nat, ..bench.spec() }).await;
    // The container's agent is another file than this server's.
    let elsewhere = ContainerEngine::new(Settings { network: world.config(), guest, ..docker().settings() });
    let elsewhere = made.with(Arc::new(elsewhere));
    drop(made);
    let refused = elsewhere.engine.start(&elsewhere.id, &elsewhere.spec, &elsewhere.home).await;
    assert!(matches!(refused, Err(VmError::Unavailable { .. })), "{refused:?}");
    assert!(left(&bench, &world).is_empty());
    elsewhere.delete().await;
}
