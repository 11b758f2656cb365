//! Programs: streams, exit codes, signals, terminals, time, floods.

use std::time::Duration;

use auralink_infrastructure::vm::{ExecInput, ExecOutput, ExecSpec, TtySize, VmError};
use bytes::Bytes;

use crate::{Guest, eventually, is_alive, run, shell, whole};

#[tokio::test]
async fn exit_codes_and_both_streams_come_back() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let all = run(&agent, "echo out; echo err >&2; exit 7").await;
    assert_eq!((all.text().as_str(), all.stderr.as_slice(), all.status.code), ("out\n", b"err\n".as_slice(), 7));
    assert_eq!(all.status.signal, None);
}

#[tokio::test]
async fn environment_and_folder_are_the_specs() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let mut spec = shell("echo $WORD; pwd; env | grep -c ^WORD=");
    spec.env.insert("WORD".into(), "x y".into());
    spec.cwd = "/usr".into();
    assert_eq!(whole(agent.exec(spec).await.unwrap()).await.text(), "x y\n/usr\n1\n");
}

#[tokio::test]
async fn another_user_is_another_user() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let spec = ExecSpec { user: "nobody".into(), cwd: "/".into(), ..shell("id -un; id -G") };
    let all = whole(agent.exec(spec).await.unwrap()).await;
    assert_eq!(all.text(), "nobody\n65534\n");
    let spec = ExecSpec { user: "no-such-user".into(), ..shell("true") };
    assert!(matches!(agent.exec(spec).await, Err(VmError::NotFound(text)) if text.contains("no-such-user")));
}

#[tokio::test]
async fn what_cannot_be_run_is_told_apart() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let spec = ExecSpec { argv: vec!["no-such-program".into()], ..ExecSpec::default() };
    assert!(matches!(agent.exec(spec).await, Err(VmError::NoProgram(name)) if name == "no-such-program"));
    assert!(matches!(agent.exec(ExecSpec::default()).await, Err(VmError::Invalid(_))));
    let spec = ExecSpec { cwd: "/no/such/folder".into(), ..shell("true") };
    assert!(matches!(agent.exec(spec).await, Err(VmError::NotFound(text)) if text.contains("/no/such/folder")));
    let spec = ExecSpec { argv: vec!["/etc/passwd".into()], ..ExecSpec::default() };
    assert!(matches!(agent.exec(spec).await, Err(VmError::Invalid(text)) if text.contains("/etc/passwd")));
    let spec = ExecSpec { argv: vec!["true".into(), "x".repeat(300 << 10)], ..ExecSpec::default() };
    assert!(matches!(agent.exec(spec).await, Err(VmError::Invalid(text)) if text.contains("too long")));
    assert_eq!(run(&agent, "echo still here").await.text(), "still here\n");
}

#[tokio::test]
async fn input_goes_in_and_ends() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let exec = agent.exec(ExecSpec { argv: vec!["sha256sum".into()], ..ExecSpec::default() }).await.unwrap();
    let input = exec.input.clone();
    let feeding = tokio::spawn(async move {
        for _ in 0..32 {
            input.send(ExecInput::Stdin(Bytes::from(vec![b'a'; 1 << 20]))).await.unwrap();
        }
        input.send(ExecInput::CloseStdin).await.unwrap();
    });
    let all = whole(exec).await;
    feeding.await.unwrap();
    // printf a%.0s for 32 MiB, sha256sum
    let mut hash = <sha2::Sha256 as sha2::Digest>::new();
    sha2::Digest::update(&mut hash, vec![b'a'; 32 << 20]);
    let expected: String = sha2::Digest::finalize(hash).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(all.text(), format!("{expected}  -\n"));
}

#[tokio::test]
async fn dropping_the_input_ends_it_and_nothing_else() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let mut exec = agent.exec(shell("cat; echo after")).await.unwrap();
    exec.input.send(ExecInput::Stdin(Bytes::from_static(b"before\n"))).await.unwrap();
    exec.input = tokio::sync::mpsc::channel(1).0;
    assert_eq!(whole(exec).await.text(), "before\nafter\n");
}

#[tokio::test]
async fn signals_reach_the_whole_group() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let mut exec = agent.exec(shell("sleep 1000 & echo $!; wait")).await.unwrap();
    let Some(Ok(ExecOutput::Stdout(child))) = exec.output.recv().await else { panic!("the child's number comes first") };
    let child = String::from_utf8(child.to_vec()).unwrap();
    exec.input.send(ExecInput::Signal(15)).await.unwrap();
    let all = whole(exec).await;
    assert_eq!((all.status.code, all.status.signal), (143, Some(15)));
    eventually("the child has ended too", async || !is_alive(&child)).await;
}

#[tokio::test]
async fn time_is_up_for_the_whole_session() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let script = "trap '' TERM INT HUP; set -m; sleep 1000 & echo $!; wait";
    let spec = ExecSpec { timeout: Some(Duration::from_millis(300)), ..shell(script) };
    let all = whole(agent.exec(spec).await.unwrap()).await;
    assert!(all.status.timed_out && all.status.code == 137, "{:?}", all.status);
    eventually("a job of its own group has ended too", async || !is_alive(&all.text())).await;
}

#[tokio::test]
async fn a_terminal_has_a_size_and_signals() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let spec = ExecSpec { tty: Some(TtySize { rows: 33, columns: 101 }), ..shell("tty; stty size; read x; stty size; echo got $x") };
    let mut exec = agent.exec(spec).await.unwrap();
    let mut seen = String::new();
    while !seen.contains("33 101") {
        let Some(Ok(ExecOutput::Stdout(bytes))) = exec.output.recv().await else { panic!("a terminal has one stream; so far {seen:?}") };
        seen.push_str(&String::from_utf8_lossy(&bytes));
    }
    assert!(seen.starts_with("/dev/pts/"), "{seen:?}");
    exec.input.send(ExecInput::Resize(TtySize { rows: 10, columns: 20 })).await.unwrap();
    exec.input.send(ExecInput::Stdin(Bytes::from_static(b"word\n"))).await.unwrap();
    let all = whole(exec).await;
    assert!(all.text().contains("10 20") && all.text().contains("got word"), "{}", all.text());

    let spec = ExecSpec { tty: Some(TtySize { rows: 10, columns: 20 }), ..shell("echo ready; sleep 1000") };
    let mut exec = agent.exec(spec).await.unwrap();
    assert!(matches!(exec.output.recv().await, Some(Ok(ExecOutput::Stdout(_)))));
    // Again and again: while dash starts a program (by vfork) it loses signals.
    let typing = exec.input.clone();
    tokio::spawn(async move {
        while typing.send(ExecInput::Stdin(Bytes::from_static(&[3]))).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    assert_eq!(whole(exec).await.status.signal, Some(2), "Ctrl-C is the terminal's interrupt");
}

#[tokio::test]
async fn a_flood_of_output_comes_whole_and_holds_nobody_up() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    // One that nobody reads must not keep others from theirs.
    let stuck = agent.exec(shell("cat /dev/zero")).await.unwrap();
    let mut flood = agent.exec(shell("head -c 1073741824 /dev/zero")).await.unwrap();
    let mut length = 0_u64;
    let mut others = 0;
    loop {
        match flood.output.recv().await.unwrap().unwrap() {
            ExecOutput::Stdout(bytes) => length += bytes.len() as u64,
            ExecOutput::Stderr(bytes) => panic!("{bytes:?}"),
            ExecOutput::Exited(status) => break assert_eq!(status.code, 0),
        }
        if length > (others + 1) * (256 << 20) {
            others += 1;
            assert_eq!(run(&agent, "echo meanwhile").await.text(), "meanwhile\n");
        }
    }
    assert_eq!((length, others), (1 << 30, 3));
    drop(stuck);
}

#[tokio::test]
async fn a_hundred_programs_at_once() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let runs = (0..100).map(|n| {
        let agent = agent.clone();
        tokio::spawn(async move {
            let all = run(&agent, &format!("echo {n}; seq 1 2000; exit {}", n % 100)).await;
            assert!(all.text().starts_with(&format!("{n}\n1\n")) && all.text().ends_with("\n2000\n"));
            assert_eq!(all.status.code, n % 100);
        })
    });
    for run in runs.collect::<Vec<_>>() {
        run.await.unwrap();
    }
}

#[tokio::test]
async fn too_many_are_refused_and_the_rest_goes_on() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let mut kept = Vec::new();
    let refused = loop {
        match agent.exec(shell("cat")).await {
            Ok(exec) => kept.push(exec),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, VmError::Exhausted(_)), "{refused}");
    assert!(kept.len() >= 150, "{} at once", kept.len());
    let last = kept.pop().unwrap();
    last.input.send(ExecInput::CloseStdin).await.unwrap();
    assert_eq!(whole(last).await.status.code, 0);
    kept.clear();
    eventually("there is room again", async || agent.exec(shell("true")).await.is_ok()).await;
}

#[tokio::test]
async fn dropping_the_output_kills_the_program() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let mut exec = agent.exec(shell("echo $$; exec sleep 1000")).await.unwrap();
    let Some(Ok(ExecOutput::Stdout(pid))) = exec.output.recv().await else { panic!("its number comes first") };
    let pid = String::from_utf8(pid.to_vec()).unwrap();
    assert!(is_alive(&pid));
    drop(exec);
    eventually("the program has ended", async || !is_alive(&pid)).await;
    agent.ping().await.unwrap();
}

#[tokio::test]
async fn a_daemon_is_not_waited_for() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    let all = run(&agent, "setsid sleep 1000 & echo $!; echo done").await;
    assert!(all.text().ends_with("done\n"), "{}", all.text());
    let daemon = all.text().lines().next().unwrap().to_owned();
    assert!(is_alive(&daemon));
    assert_eq!(run(&agent, &format!("kill -9 {daemon}")).await.status.code, 0);
}
