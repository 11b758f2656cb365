//! gVisor as a runtime of the engine `docker`: what of the conformance its own kernel changes nothing in, and what it does change.

use std::sync::Arc;

use auralink_infrastructure::vm::container::{ContainerEngine, Settings};
use auralink_infrastructure::vm::{Engine, Limits, Source, Spec, VmError};

use crate::conformance::{Bench, Expect};
use crate::daemons::{docker, rootfs};

fn engine() -> Arc<dyn Engine> {
    Arc::new(ContainerEngine::new(Settings { runtime: "gvisor".into(), ..docker().settings() }))
}

async fn bench() -> Bench {
    let engine = engine();
    let can = engine.probe().await.expect("Docker works here: run `make setup`");
    assert!(can.notes.iter().any(|note| note.contains("gVisor")), "{:?}", can.notes);
    Bench {
        engine,
        again: Box::new(engine_again),
        source: Source::RootFs(rootfs().to_owned()),
        expect: Expect { own_kernel: true, limits: false, ..Expect::ALL },
        homes: tempfile::tempdir().unwrap(),
    }
}

fn engine_again() -> Arc<dyn Engine> {
    engine()
}

conformance!(bench; exec:
    exit_codes_and_streams_apart, standard_input_comes_back, environment_folder_and_user, a_missing_program_is_told, timeouts_kill,
    signals_reach_it, a_terminal_has_a_size, dropping_the_output_kills);
conformance!(bench; files: files_go_in_and_out, folders_are_listed, links_in_uploads_stay_inside, ports_are_reached);
conformance!(bench; life: conditions_follow_its_life, stopping_keeps_files, deleting_leaves_nothing);
conformance!(bench; escape: host_files_are_not_seen, host_processes_are_not_seen, the_host_network_is_not_reached);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_kernel_is_not_the_hosts() {
    let bench = bench().await;
    let sandbox = bench.sandbox().await;
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(sandbox.out("uname -r").await, host.trim());
    sandbox.delete().await;
}

/// gVisor's programs share one process of the host, so the memory limit ends them all: told as the end of the sandbox, others unaffected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_bomb_ends_it_and_no_other() {
    let bench = bench().await;
    let limits = Limits { memory_bytes: 96 << 20, ..bench.spec().limits };
    let sandbox = bench.sandbox_of(Spec { limits, ..bench.spec() }).await;
    let other = bench.sandbox().await;
    match sandbox.sh("a=0123456789abcdef; while :; do a=$a$a; done").await.status {
        Ok(status) => assert_ne!(status.code, 0),
        Err(VmError::Ended(_)) => {}
        Err(error) => panic!("{error}"),
    }
    assert_eq!(other.out("echo well").await, "well");
    sandbox.delete().await;
    other.delete().await;
}
