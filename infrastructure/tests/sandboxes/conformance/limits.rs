//! Bombs.

use std::time::{Duration, Instant};

use auralink_infrastructure::vm::{Limits, Spec, VmError};

use super::{Bench, ExecOutput, finish, sh};

const MEMORY_BOMB: &str = "a=0123456789abcdef; while :; do a=$a$a; done";

pub async fn a_memory_bomb_is_killed_and_told(bench: &Bench) {
    let limits = Limits { memory_bytes: 96 << 20, ..bench.spec().limits };
    let sandbox = bench.sandbox_of(Spec { limits, ..bench.spec() }).await;
    let other = bench.sandbox().await;
    let finished = sandbox.sh(MEMORY_BOMB).await;
    let status = finished.status.expect("the program is killed, not the sandbox");
    assert_ne!(status.code, 0);
    if bench.expect.limits {
        assert!(status.out_of_memory, "{status:?}");
    }
    assert_eq!(other.out("echo well").await, "well");
    // The sandbox itself lives on.
    assert_eq!(sandbox.out("echo well").await, "well");
    // What ends by itself with the same code is not taken for one.
    let status = sandbox.sh("exit 137").await.status.unwrap();
    assert!(!status.out_of_memory, "{status:?}");
    sandbox.delete().await;
    other.delete().await;
}

pub async fn a_fork_bomb_is_contained(bench: &Bench) {
    let limits = Limits { processes: 48, ..bench.spec().limits };
    let sandbox = bench.sandbox_of(Spec { limits, ..bench.spec() }).await;
    let other = bench.sandbox().await;
    let mut bomb =
        sandbox.exec(sh("i=0; while [ $i -lt 400 ]; do sleep 1000 & i=$((i+1)); done 2>/dev/null; echo all; wait")).await.unwrap();
    let mut seen = false;
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let usage = sandbox.engine.usage(&sandbox.id, &sandbox.home).await.unwrap();
        // The agent and what holds it count beside the programs; a kernel of its own has processes of its own.
        assert!(bench.expect.own_kernel || !bench.expect.limits || usage.processes <= 52, "{usage:?}");
        seen |= usage.processes > 20;
        assert_eq!(other.out("echo well").await, "well");
        if seen {
            break;
        }
    }
    assert!(seen, "the bomb did not go off");
    while let Ok(item) = tokio::time::timeout(Duration::from_secs(2), bomb.output.recv()).await {
        match item {
            Some(Ok(ExecOutput::Stdout(bytes))) => {
                assert!(bench.expect.own_kernel || !bytes.starts_with(b"all"), "400 programs were started")
            }
            Some(Ok(ExecOutput::Exited(_)) | Err(_)) | None => break,
            Some(Ok(ExecOutput::Stderr(_))) => {}
        }
    }
    drop(bomb);
    super::eventually("programs run again", async || match sandbox.exec(sh("echo well")).await {
        Ok(exec) => finish(exec).await.text() == "well",
        Err(_) => false,
    })
    .await;
    sandbox.delete().await;
    other.delete().await;
}

pub async fn a_disk_bomb_is_contained(bench: &Bench) {
    if !bench.expect.disk {
        return;
    }
    let limits = Limits { disk_bytes: 40 << 20, ..bench.spec().limits };
    let sandbox = bench.sandbox_of(Spec { limits, ..bench.spec() }).await;
    // One file beyond the limit is never made.
    let finished = sandbox.sh("dd if=/dev/zero of=/workspace/one bs=1048576 count=400").await;
    assert!(!finished.status.is_ok_and(|status| status.code == 0), "a file of 400 MiB was written");
    // Who is at the limit may be killed once more for what was written before.
    let small = "[ $(wc -c < /workspace/one) -le 42991616 ] && echo small";
    super::eventually("its size is told", async || sandbox.sh(small).await.text() == "small").await;
    super::eventually("it can be deleted", async || sandbox.sh("rm -f /workspace/one").await.status.is_ok_and(|status| status.code == 0))
        .await;
    // Nor many small ones.
    let finished = sandbox.sh("i=0; while [ $i -lt 100000 ]; do dd if=/dev/zero of=/workspace/f$i bs=1048576 count=4 2>/dev/null || exit 9; i=$((i+1)); sleep 0.02; done").await;
    match finished.status {
        Ok(status) => assert_ne!(status.code, 0),
        Err(VmError::Exhausted(told)) => assert!(told.contains("disk"), "{told}"),
        Err(other) => panic!("{other}"),
    }
    // It can be put in order again.
    super::eventually("files can be deleted", async || {
        sandbox.sh("rm -rf /workspace/f*").await.status.is_ok_and(|status| status.code == 0)
    })
    .await;
    let small = "echo small > /workspace/small; cat /workspace/small";
    super::eventually("it can be written again", async || sandbox.sh(small).await.text() == "small").await;
    sandbox.delete().await;
}

pub async fn cpu_is_limited(bench: &Bench) {
    if !bench.expect.limits {
        return;
    }
    let limits = Limits { cpu_millis: 250, ..bench.spec().limits };
    let sandbox = bench.sandbox_of(Spec { limits, ..bench.spec() }).await;
    let before = sandbox.engine.usage(&sandbox.id, &sandbox.home).await.unwrap().cpu;
    let began = Instant::now();
    let busy = sandbox.exec(sh("while :; do :; done & while :; do :; done")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let used = sandbox.engine.usage(&sandbox.id, &sandbox.home).await.unwrap().cpu - before;
    let elapsed = began.elapsed();
    // A share of the time that passed, however long that was.
    assert!(used <= elapsed.mul_f64(0.25) + Duration::from_millis(400), "{used:?} of {elapsed:?}");
    assert!(used > Duration::from_millis(50), "{used:?}: it did not run at all");
    drop(busy);
    sandbox.delete().await;
}
