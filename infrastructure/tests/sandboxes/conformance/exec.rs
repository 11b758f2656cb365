//! Running programs.

use std::collections::BTreeMap;
use std::time::Duration;

use auralink_infrastructure::vm::{ExecInput, ExecOutput, ExecSpec, TtySize, VmError};
use bytes::Bytes;

use super::{Bench, PATIENCE, eventually, finish, send, sh, until};

pub async fn exit_codes_and_streams_apart(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let finished = sandbox.sh("echo out; echo err >&2; exit 7").await;
    assert_eq!((finished.stdout.as_slice(), finished.stderr.as_slice(), finished.code()), (&b"out\n"[..], &b"err\n"[..], 7));
    assert_eq!(sandbox.sh("true").await.code(), 0);
    let killed = sandbox.sh("kill -9 $$").await.status.unwrap();
    assert_eq!((killed.code, killed.signal, killed.out_of_memory, killed.timed_out), (137, Some(9), false, false));
    sandbox.delete().await;
}

pub async fn standard_input_comes_back(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let mut exec = sandbox.exec(ExecSpec { argv: vec!["cat".into()], ..ExecSpec::default() }).await.unwrap();
    let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let input = exec.input.clone();
    let content = sent.clone();
    let feeding = tokio::spawn(async move {
        for chunk in content.chunks(10_000) {
            input.send(ExecInput::Stdin(Bytes::copy_from_slice(chunk))).await.unwrap();
        }
        input.send(ExecInput::CloseStdin).await.unwrap();
    });
    let mut came = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, exec.output.recv()).await.unwrap().unwrap().unwrap() {
            ExecOutput::Stdout(bytes) => came.extend_from_slice(&bytes),
            ExecOutput::Stderr(bytes) => panic!("{bytes:?}"),
            ExecOutput::Exited(status) => break assert_eq!(status.code, 0),
        }
    }
    feeding.await.unwrap();
    assert!(came == sent, "{} bytes came back of {}", came.len(), sent.len());
    // Dropping the input alone closes it too, and ends nothing else.
    let exec = sandbox.exec(sh("cat; echo after")).await.unwrap();
    assert_eq!(finish(exec).await.text(), "after");
    sandbox.delete().await;
}

pub async fn environment_folder_and_user(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    assert_eq!(sandbox.out("echo $FLAVOUR; pwd").await, "plain\n/workspace");
    let env = BTreeMap::from([("FLAVOUR".to_owned(), "other".to_owned()), ("MORE".into(), "a b'c\"$d".into())]);
    let exec = ExecSpec { env, cwd: "/tmp".into(), ..sh("echo \"$FLAVOUR|$MORE\"; pwd") };
    assert_eq!(sandbox.run(exec).await.text(), "other|a b'c\"$d\n/tmp");
    // Nothing of the server's own environment.
    assert_eq!(sandbox.out("echo \"[$CARGO_MANIFEST_DIR$AURALINK_CACHE]\"").await, "[]");
    // Arguments are arguments: no shell is between.
    let exec = ExecSpec { argv: ["printf", "%s", "a b;$(id) *"].map(str::to_owned).into(), ..ExecSpec::default() };
    assert_eq!(sandbox.run(exec).await.text(), "a b;$(id) *");
    let as_user = ExecSpec { user: "65534".into(), ..sh("id -u") };
    if bench.expect.users {
        assert_eq!(sandbox.run(as_user).await.text(), "65534");
    } else {
        assert!(matches!(sandbox.exec(as_user).await, Err(VmError::Unsupported { .. })));
    }
    let own = ExecSpec { user: "0".into(), ..sh("id -u") };
    assert_eq!(sandbox.run(own).await.text(), "0");
    sandbox.delete().await;
}

pub async fn a_missing_program_is_told(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    for name in ["no-such-program", "/no/such/program"] {
        let exec = ExecSpec { argv: vec![name.into()], ..ExecSpec::default() };
        match sandbox.exec(exec).await {
            Err(VmError::NoProgram(told)) => assert_eq!(told, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(sandbox.exec(ExecSpec::default()).await.is_err(), "no program at all");
    let exec = ExecSpec { cwd: "/no/such/folder".into(), ..sh("true") };
    let error = match sandbox.exec(exec).await {
        Err(error) => error,
        Ok(exec) => finish(exec).await.status.map(|status| assert_ne!(status.code, 0)).err().unwrap_or(VmError::NotFound(String::new())),
    };
    assert!(!matches!(error, VmError::NoProgram(_)), "{error:?}");
    assert_eq!(sandbox.out("echo well").await, "well");
    sandbox.delete().await;
}

/// Hundreds of megabytes: all arrives when it is read; when it is not, the program waits and nobody's memory grows.
pub async fn a_flood_is_held_back(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let mut exec = sandbox.exec(sh("head -c 200000000 /dev/zero; : > /tmp/done")).await.unwrap();
    let Some(Ok(ExecOutput::Stdout(first))) = exec.output.recv().await else { panic!("no output") };
    let before = resident_bytes();
    // It is held back for as long as nobody reads.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(sandbox.out("test -e /tmp/done && echo done || echo held").await, "held");
    let mut total = first.len();
    loop {
        match tokio::time::timeout(PATIENCE, exec.output.recv()).await.unwrap().unwrap().unwrap() {
            ExecOutput::Stdout(bytes) => total += bytes.len(),
            ExecOutput::Stderr(bytes) => panic!("{bytes:?}"),
            ExecOutput::Exited(status) => break assert_eq!(status.code, 0),
        }
    }
    assert_eq!(total, 200_000_000);
    // Other tests run in this process too: far less than the flood is what can be said.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "grew by {grown} bytes");
    sandbox.delete().await;
}

fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

pub async fn timeouts_kill(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    // What it started goes with it.
    let exec = ExecSpec { timeout: Some(Duration::from_millis(500)), ..sh("sleep 1000 & echo $! > /tmp/child; sleep 1000") };
    let status = sandbox.run(exec).await.status.unwrap();
    assert!(status.timed_out, "{status:?}");
    assert!(status.signal.is_some() && status.code >= 128, "{status:?}");
    eventually("the child of a program that timed out is gone", async || sandbox.sh("kill -0 $(cat /tmp/child)").await.code() != 0).await;
    let exec = ExecSpec { timeout: Some(PATIENCE), ..sh("exit 3") };
    let status = sandbox.run(exec).await.status.unwrap();
    assert_eq!((status.code, status.timed_out), (3, false));
    sandbox.delete().await;
}

pub async fn signals_reach_it(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let mut exec = sandbox.exec(sh("trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.1; done")).await.unwrap();
    until(&mut exec, "ready").await;
    send(&exec, ExecInput::Signal(15)).await;
    let finished = finish(exec).await;
    assert_eq!((finished.text().as_str(), finished.code()), ("caught", 5));
    // Not ignored because the server's starter ignores it: `sleep` dies of each of these.
    for signal in [1, 2, 3, 13, 15] {
        let mut exec = sandbox.exec(sh("echo ready; exec sleep 1000")).await.unwrap();
        until(&mut exec, "ready").await;
        send(&exec, ExecInput::Signal(signal)).await;
        let status = finish(exec).await.status.unwrap();
        assert_eq!((status.signal, status.code), (Some(signal), 128 + signal));
    }
    sandbox.delete().await;
}

pub async fn a_terminal_has_a_size(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    if !bench.expect.tty {
        let exec = ExecSpec { tty: Some(TtySize { rows: 24, columns: 80 }), ..sh("true") };
        assert!(matches!(sandbox.exec(exec).await, Err(VmError::Unsupported { .. })));
        return sandbox.delete().await;
    }
    let script = "test -t 0 && test -t 1 && test -t 2 && echo terminal; stty size; read line; echo got $line; stty size; exit 4";
    let mut exec = sandbox.exec(ExecSpec { tty: Some(TtySize { rows: 33, columns: 101 }), ..sh(script) }).await.unwrap();
    let seen = until(&mut exec, "33 101").await;
    assert!(seen.contains("terminal"), "{seen:?}");
    send(&exec, ExecInput::Resize(TtySize { rows: 40, columns: 120 })).await;
    send(&exec, ExecInput::Stdin(Bytes::from_static(b"word\n"))).await;
    until(&mut exec, "40 120").await;
    assert_eq!(finish(exec).await.code(), 4);
    // The terminal's own keys: ^C ends what is in front. Typed until it is heard: dash loses one that comes while it starts a program (its
    // `onsig` does nothing between `vfork` and `exec`).
    let mut exec = sandbox.exec(ExecSpec { tty: Some(TtySize { rows: 24, columns: 80 }), ..sh("echo ready; sleep 1000") }).await.unwrap();
    until(&mut exec, "ready").await;
    let interrupted = async {
        let mut again = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                _ = again.tick() => {
                    // Who has ended hears nothing more.
                    let _ = exec.input.send(ExecInput::Stdin(Bytes::from_static(b"\x03"))).await;
                }
                output = exec.output.recv() => if let ExecOutput::Exited(status) = output.unwrap().unwrap() {
                    return status.code;
                },
            }
        }
    };
    assert_ne!(tokio::time::timeout(PATIENCE, interrupted).await.unwrap(), 0);
    sandbox.delete().await;
}

pub async fn dropping_the_output_kills(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let mut exec = sandbox.exec(sh("echo $$ > /tmp/pid; echo ready; sleep 1000; sleep 1000")).await.unwrap();
    until(&mut exec, "ready").await;
    drop(exec);
    eventually("a program nobody listens to is gone", async || sandbox.sh("kill -0 $(cat /tmp/pid)").await.code() != 0).await;
    sandbox.delete().await;
}

pub async fn many_at_once(bench: &Bench) {
    let sandbox = bench.sandbox().await;
    let scripts: Vec<String> = (0..20).map(|n| format!("cat > /dev/null; sleep 0.2; echo {n}; exit {n}")).collect();
    let all = futures_util::future::join_all(scripts.iter().map(|script| sandbox.sh(script))).await;
    for (n, finished) in all.iter().enumerate() {
        assert_eq!((finished.text(), finished.code()), (n.to_string(), n as i32));
    }
    sandbox.delete().await;
}
