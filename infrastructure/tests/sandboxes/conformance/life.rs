//! From create to delete.

use std::time::Duration;

use auralink_infrastructure::vm::{Condition, Engine, Limits, SandboxId, Source, Spec, VmError};

use super::{Bench, Sandbox, eventually, sh, until};

/// What a program that counts wrote last; the file is empty for a moment each time.
const COUNT: &str = "n=; while [ -z \"$n\" ]; do sleep 0.1; n=$(cat /tmp/count 2>/dev/null); done; echo $n";

async fn condition(sandbox: &Sandbox<'_>) -> Condition {
    sandbox.engine.condition(&sandbox.id, &sandbox.home).await.unwrap()
}

pub async fn conditions_follow_its_life(bench: &Bench) {
    let sandbox = bench.made(bench.spec()).await;
    assert_eq!(condition(&sandbox).await, Condition::Stopped);
    assert!(matches!(sandbox.exec(sh("true")).await, Err(VmError::Condition { .. })), "it was not started");
    sandbox.engine.start(&sandbox.id, &sandbox.spec, &sandbox.home).await.unwrap();
    assert_eq!(condition(&sandbox).await, Condition::Running);
    let again = sandbox.engine.start(&sandbox.id, &sandbox.spec, &sandbox.home).await;
    assert!(matches!(again, Err(VmError::Condition { .. })), "{again:?}");
    assert_eq!(sandbox.out("echo still here").await, "still here");
    sandbox.engine.stop(&sandbox.id, &sandbox.home, Duration::from_secs(1)).await.unwrap();
    assert_eq!(condition(&sandbox).await, Condition::Stopped);
    sandbox.delete().await;
    assert_eq!(condition(&sandbox).await, Condition::Gone);
    let never = SandboxId::random().unwrap();
    assert_eq!(sandbox.engine.condition(&never, &bench.homes.path().join(never.as_str())).await.unwrap(), Condition::Gone);
}

pub async fn stopping_keeps_files(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    sandbox.out("echo kept > /workspace/file; ln -sfn /etc /workspace/link").await;
    // Programs are asked first.
    let mut exec =
        sandbox.exec(sh("trap 'echo asked > /workspace/asked; exit 0' TERM; echo ready; while :; do sleep 0.1; done")).await.unwrap();
    until(&mut exec, "ready").await;
    sandbox.engine.stop(&sandbox.id, &sandbox.home, Duration::from_secs(10)).await.unwrap();
    sandbox.engine.start(&sandbox.id, &sandbox.spec, &sandbox.home).await.unwrap();
    assert_eq!(sandbox.out("cat /workspace/file /workspace/asked; test -L /workspace/link && echo link").await, "kept\nasked\nlink");
    // One that does not listen is killed when its grace is over.
    let mut exec = sandbox.exec(sh("trap '' TERM INT HUP; echo ready; while :; do sleep 1; done")).await.unwrap();
    until(&mut exec, "ready").await;
    sandbox.engine.stop(&sandbox.id, &sandbox.home, Duration::from_millis(200)).await.unwrap();
    assert_eq!(condition(&sandbox).await, Condition::Stopped);
    sandbox.delete().await;
}

pub async fn a_paused_one_waits(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    if !bench.expect.pause {
        assert!(matches!(sandbox.engine.pause(&sandbox.id, &sandbox.home).await, Err(VmError::Unsupported { .. })));
        return sandbox.delete().await;
    }
    let mut exec = sandbox.exec(sh("echo ready; i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.02; done")).await.unwrap();
    until(&mut exec, "ready").await;
    let before: u64 = sandbox.out(COUNT).await.parse().unwrap();
    sandbox.engine.pause(&sandbox.id, &sandbox.home).await.unwrap();
    assert_eq!(condition(&sandbox).await, Condition::Paused);
    assert!(matches!(sandbox.exec(sh("true")).await, Err(VmError::Condition { .. })));
    sandbox.engine.resume(&sandbox.id, &sandbox.home).await.unwrap();
    assert_eq!(condition(&sandbox).await, Condition::Running);
    eventually("it counts on", async || sandbox.out("cat /tmp/count").await.parse().unwrap_or(0) > before).await;
    assert!(sandbox.engine.resume(&sandbox.id, &sandbox.home).await.is_err(), "it is not paused");
    // A paused one can be ended.
    sandbox.engine.pause(&sandbox.id, &sandbox.home).await.unwrap();
    sandbox.delete().await;
    assert_eq!(condition(&sandbox).await, Condition::Gone);
}

pub async fn deleting_leaves_nothing(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    // Programs in sessions of their own, deep folders, odd names, files nobody may write.
    sandbox.out("cd /workspace; d=x; for i in 1 2 3 4 5; do d=$d/$d; done; mkdir -p $d; : > $d/file; mkdir locked; : > locked/f; chmod 000 locked; : > 'a b\n'").await;
    let mut exec = sandbox.exec(sh("(setsid sleep 1000 >/dev/null 2>&1 &) ; echo ready; sleep 1000")).await.unwrap();
    until(&mut exec, "ready").await;
    sandbox.delete().await;
    assert_eq!(condition(&sandbox).await, Condition::Gone);
    assert!(!traces(&sandbox.id).await, "something of it is left");
    assert!(!sandbox.engine.found(bench.homes.path()).await.unwrap().contains(&sandbox.id));
    // Once more is well.
    sandbox.delete().await;
    assert!(matches!(sandbox.exec(sh("true")).await, Err(VmError::NotFound(_) | VmError::Condition { .. })));
}

/// Whether a process, a mount, an interface or a control group of this machine still has the sandbox's name.
async fn traces(id: &SandboxId) -> bool {
    let named = |path: &std::path::Path| std::fs::read(path).is_ok_and(|text| String::from_utf8_lossy(&text).contains(id.as_str()));
    let processes = std::fs::read_dir("/proc").unwrap().flatten().any(|entry| named(&entry.path().join("cmdline")));
    let mounts = named(std::path::Path::new("/proc/self/mountinfo"));
    let links =
        std::fs::read_dir("/sys/class/net").unwrap().flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(id.short()));
    let groups = ["/sys/fs/cgroup"].iter().any(|top| {
        let mut folders = vec![std::path::PathBuf::from(top)];
        while let Some(folder) = folders.pop() {
            let below =
                std::fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            for entry in below {
                if entry.file_name().to_string_lossy().contains(id.as_str()) {
                    return true;
                }
                folders.push(entry.path());
            }
        }
        false
    });
    processes || mounts || links || groups
}

pub async fn another_server_adopts_it(bench: &Bench) {
    if !bench.expect.adopts {
        return;
    }
    let sandbox = bench.sandbox().await;
    let mut exec = sandbox
        .exec(sh("(setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.05; done' >/dev/null 2>&1 &); echo ready"))
        .await
        .unwrap();
    until(&mut exec, "ready").await;
    let before: u64 = sandbox.out(COUNT).await.parse().unwrap();
    let again = (bench.again)();
    assert!(again.found(bench.homes.path()).await.unwrap().contains(&sandbox.id));
    assert_eq!(again.condition(&sandbox.id, &sandbox.home).await.unwrap(), Condition::Running);
    let adopted = sandbox.with(again.clone());
    eventually("what ran goes on", async || adopted.out("cat /tmp/count").await.parse().unwrap_or(0) > before).await;
    assert!(again.usage(&adopted.id, &adopted.home).await.unwrap().processes > 0);
    again.stop(&adopted.id, &adopted.home, Duration::from_millis(200)).await.unwrap();
    again.start(&adopted.id, &adopted.spec, &adopted.home).await.unwrap();
    assert_eq!(adopted.out("echo again").await, "again");
    adopted.delete().await;
    assert_eq!(condition(&sandbox).await, Condition::Gone);
}

pub async fn strays_are_found_and_removed(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let other_server = tempfile::tempdir().unwrap();
    let again = (bench.again)();
    assert!(!again.found(other_server.path()).await.unwrap().contains(&sandbox.id), "another server's sandbox is not ours");
    assert!(again.found(bench.homes.path()).await.unwrap().contains(&sandbox.id));
    again.delete(&sandbox.id, &sandbox.home).await.unwrap();
    assert!(!again.found(bench.homes.path()).await.unwrap().contains(&sandbox.id));
    eventually("nothing is left of it", async || !traces(&sandbox.id).await).await;
}

pub async fn usage_is_told(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let mut exec = sandbox.exec(sh("dd if=/dev/zero of=/workspace/file bs=1000000 count=20 2>/dev/null; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo ready; sleep 1000")).await.unwrap();
    until(&mut exec, "ready").await;
    eventually("usage is told", async || {
        let usage = sandbox.engine.usage(&sandbox.id, &sandbox.home).await.unwrap();
        usage.cpu > Duration::from_millis(20) && usage.memory_bytes > 100_000 && usage.processes >= 2
    })
    .await;
    if bench.expect.disk {
        eventually("its disk is told", async || {
            let told = sandbox.engine.usage(&sandbox.id, &sandbox.home).await.unwrap().disk_bytes;
            told == 0 || (20_000_000..100_000_000).contains(&told)
        })
        .await;
    }
    drop(exec);
    sandbox.delete().await;
}

pub async fn a_snapshot_begins_again(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    sandbox.out("echo before > /workspace/file").await;
    let folder = tempfile::tempdir().unwrap();
    let taken = sandbox.engine.snapshot(&sandbox.id, &sandbox.home, folder.path()).await;
    if !bench.expect.snapshot {
        assert!(matches!(taken, Err(VmError::Unsupported { .. })), "{taken:?}");
        return sandbox.delete().await;
    }
    taken.unwrap();
    assert_eq!(condition(&sandbox).await, Condition::Running, "it is as it was");
    sandbox.out("echo after > /workspace/file").await;
    let spec = Spec { source: Source::Snapshot(folder.path().to_path_buf()), ..bench.spec() };
    let copies = [bench.sandbox_of(spec.clone()).await, bench.sandbox_of(spec).await];
    for copy in &copies {
        assert_eq!(copy.out("cat /workspace/file").await, "before");
    }
    copies[0].out("echo own > /workspace/file").await;
    assert_eq!(copies[1].out("cat /workspace/file").await, "before");
    assert_ne!(
        copies[0].out("head -c 16 /dev/urandom | od -An -tx1").await,
        copies[1].out("head -c 16 /dev/urandom | od -An -tx1").await,
        "two of one snapshot draw the same random bytes"
    );
    for copy in &copies {
        copy.delete().await;
    }
    sandbox.delete().await;
}

pub async fn what_cannot_be_is_refused(bench: &Bench) {
    let engine: &dyn Engine = bench.engine.as_ref();
    let id = SandboxId::random().unwrap();
    let home = bench.homes.path().join(id.as_str());
    std::fs::create_dir(&home).unwrap();
    let missing = Spec { source: Source::RootFs("/no/such/root".into()), ..bench.spec() };
    let refused = engine.create(&id, &missing, &home).await;
    assert!(matches!(refused, Err(VmError::NotFound(_) | VmError::Unsupported { .. })), "{refused:?}");
    let small = Spec { limits: Limits { memory_bytes: 1_000, ..bench.spec().limits }, ..bench.spec() };
    let refused = match engine.create(&id, &small, &home).await {
        Ok(()) => engine.start(&id, &small, &home).await,
        refused => refused,
    };
    assert!(refused.is_err(), "1,000 bytes of memory are not enough for anything");
    engine.delete(&id, &home).await.unwrap();
    assert_eq!(engine.condition(&id, &home).await.unwrap(), Condition::Gone);
    assert!(!engine.found(bench.homes.path()).await.unwrap().contains(&id));
}
