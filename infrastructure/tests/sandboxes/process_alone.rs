//! The engine `process` without control groups, as a server without any right to them has it, and as another user than root.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::sync::Arc;

use auralink_infrastructure::vm::process::{ProcessConfig, ProcessEngine};
use auralink_infrastructure::vm::{Engine, Source};

use crate::conformance::{Bench, Expect, eventually};

pub async fn bench() -> Bench {
    let new = || Arc::new(ProcessEngine::without_control_groups(ProcessConfig::default()));
    let engine = new();
    engine.probe().await.expect("the process engine works here: run `make setup`");
    Bench {
        engine,
        again: Box::new(move || new()),
        source: Source::Host,
        expect: Expect { users: false, pause: false, limits: false, ..Expect::ALL },
        homes: tempfile::tempdir().unwrap(),
    }
}

conformance!(bench);

/// As after a server that was killed while it took a snapshot: its programs stand, and a note says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_that_a_server_left_stopped_go_on() {
    let bench = bench().await;
    let sandbox = bench.sandbox().await;
    let count = "(setsid sh -c 'while :; do echo x >> /workspace/count; sleep 0.05; done' >/dev/null 2>&1 & echo $! > /workspace/pid)";
    sandbox.out(count).await;
    sandbox.out("kill -STOP $(cat /workspace/pid)").await;
    let lines = || std::fs::read_to_string(sandbox.home.join("root/workspace/count")).unwrap_or_default().len();
    std::fs::write(sandbox.home.join("stopped"), "").unwrap();
    let before = lines();
    let again = sandbox.with((bench.again)());
    again.out("true").await;
    eventually("it counts on", async || lines() > before).await;
    assert!(!sandbox.home.join("stopped").exists());
    // What its own shell stopped stays so.
    sandbox.out("kill -STOP $(cat /workspace/pid)").await;
    sandbox.with((bench.again)()).out("grep -q '^State:.T' /proc/$(cat /workspace/pid)/status").await;
    again.delete().await;
}

/// The tests above once more, by a user who is nobody.
#[test]
fn all_of_it_as_another_user() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return; // they were run as another user already
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // The folders that these lie in are root's own.
    let (tests, guest, temporary) = (folder.path().join("tests"), folder.path().join("guest"), folder.path().join("tmp"));
    std::fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    std::fs::copy(crate::daemons::guest(), &guest).unwrap();
    std::fs::create_dir(&temporary).unwrap();
    std::os::unix::fs::chown(&temporary, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = std::process::Command::new(&tests);
    command.args(["process_alone::", "--skip", "all_of_it_as_another_user"]).env("AURALINK_GUEST", &guest).env("TMPDIR", &temporary);
    let done = command.env("HOME", &temporary).current_dir("/").uid(NOBODY).gid(NOBODY).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(said.contains("test process_alone::a_snapshot_begins_again ... ok") && said.contains(" passed; 0 failed"), "{said}");
}
