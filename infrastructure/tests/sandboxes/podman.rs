//! The engine `podman`, against a service of the tests' own.

use std::sync::Arc;

use auralink_infrastructure::vm::{Condition, Engine, Source};

use crate::conformance::{Bench, Expect, eventually, sh, until};
use crate::daemons::{podman, rootfs};

async fn bench() -> Bench {
    let engine = Arc::new(podman().engine());
    engine.probe().await.expect("Podman works here: run `make setup`");
    Bench {
        engine,
        again: Box::new(|| Arc::new(podman().engine())),
        source: Source::RootFs(rootfs().to_owned()),
        expect: Expect::ALL,
        homes: tempfile::tempdir().unwrap(),
    }
}

conformance!(bench; exec:
    exit_codes_and_streams_apart, standard_input_comes_back, environment_folder_and_user, a_missing_program_is_told,
    a_flood_is_held_back, timeouts_kill, signals_reach_it, a_terminal_has_a_size, dropping_the_output_kills, many_at_once);
conformance!(bench; files:
    files_go_in_and_out, a_short_upload_leaves_nothing, folders_are_listed, what_is_missing_is_told, links_in_uploads_stay_inside,
    ports_are_reached);
conformance!(bench; life:
    conditions_follow_its_life, stopping_keeps_files, a_paused_one_waits, another_server_adopts_it, strays_are_found_and_removed,
    usage_is_told, a_snapshot_begins_again, what_cannot_be_is_refused);
conformance!(bench; limits: a_memory_bomb_is_killed_and_told, a_fork_bomb_is_contained, a_disk_bomb_is_contained, cpu_is_limited);
conformance!(bench; escape:
    host_files_are_not_seen, host_processes_are_not_seen, the_host_network_is_not_reached, nothing_is_gained_by_set_user_id,
    devices_cannot_be_made, the_kernel_is_not_written_to, mounts_and_traces_are_refused, abstract_sockets_are_its_own);

/// As `deleting_leaves_nothing`, but for Podman's monitors: those of programs that ended stay, with the sandbox's name in their arguments, for as
/// long as its setting `exit_command_delay` says (5 minutes), whatever becomes of the container.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_ends_all_programs_and_frees_the_name() {
    let bench = bench().await;
    let sandbox = bench.sandbox().await;
    let mark = format!("mark-of-{}", sandbox.id);
    let mut exec =
        sandbox.exec(sh(&format!("(setsid sh -c ': {mark}; sleep 1000; :' >/dev/null 2>&1 &) ; echo ready; sleep 1000"))).await.unwrap();
    until(&mut exec, "ready").await;
    eventually("its program runs", async || runs(&mark)).await;
    sandbox.delete().await;
    eventually("its programs are gone", async || !runs(&mark)).await;
    assert_eq!(sandbox.engine.condition(&sandbox.id, &sandbox.home).await.unwrap(), Condition::Gone);
    assert!(!sandbox.engine.found(bench.homes.path()).await.unwrap().contains(&sandbox.id));
    sandbox.delete().await;
}

/// Whether a process of this machine has the mark in a shell's arguments.
fn runs(mark: &str) -> bool {
    let begins = format!(": {mark};");
    let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.any(|entry| {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        words.split(|b| *b == 0).any(|word| word.starts_with(begins.as_bytes()))
    })
}
