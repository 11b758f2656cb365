//! The engine `process` without control groups, as a server without any right to them has it, and as another user than root.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::sync::Arc;

use auralink_infrastructure::vm::process::{ProcessConfig, ProcessEngine};
use auralink_infrastructure::vm::{Engine, Source};

use crate::conformance::{Bench, Expect};

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
    assert!(String::from_utf8_lossy(&done.stdout).contains(" passed; 0 failed"), "{}", String::from_utf8_lossy(&done.stdout));
}
