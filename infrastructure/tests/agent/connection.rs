//! The connection: its end, several at once, the agent's end.

use std::time::Duration;

use auralink_infrastructure::vm::{ExecOutput, ExecSpec, VmError};

use crate::{Guest, eventually, is_alive, run, shell};

#[tokio::test]
async fn its_programs_end_with_it_and_others_go_on() {
    let guest = Guest::start();
    let (one, other) = (guest.connect().await, guest.connect().await);
    let mut exec = one.exec(shell("echo $$; exec sleep 1000")).await.unwrap();
    let Some(Ok(ExecOutput::Stdout(pid))) = exec.output.recv().await else { panic!("its number comes first") };
    let pid = String::from_utf8(pid.to_vec()).unwrap();
    drop((exec, one));
    eventually("the program has ended", async || !is_alive(&pid)).await;
    assert_eq!(run(&other, "echo here").await.text(), "here\n");
}

#[tokio::test]
async fn a_killed_agent_is_told_to_all_that_wait() {
    let mut guest = Guest::start();
    let agent = guest.connect().await;
    let mut exec = agent.exec(shell("cat")).await.unwrap();
    guest.process.kill().unwrap();
    guest.wait();
    assert!(matches!(exec.output.recv().await, Some(Err(VmError::Ended(_)))));
    agent.over().await;
    assert!(agent.is_over());
    assert!(matches!(agent.exec(shell("true")).await, Err(VmError::Ended(_))));
    assert!(matches!(agent.ping().await, Err(VmError::Ended(_))));
}

#[tokio::test]
async fn shutting_down_asks_first_and_kills_then() {
    let mut guest = Guest::start();
    let agent = guest.connect().await;
    // Not dash: while it starts a program (by vfork) it loses signals.
    let script = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let asked = agent.exec(ExecSpec { argv: vec!["bash".into(), "-c".into(), script.into()], ..ExecSpec::default() }).await.unwrap();
    let deaf = agent.exec(shell("trap '' TERM; echo $$; while :; do sleep 0.01; done")).await.unwrap();
    let (mut asked, mut deaf) = (asked, deaf);
    assert!(matches!(asked.output.recv().await, Some(Ok(ExecOutput::Stdout(_)))));
    let Some(Ok(ExecOutput::Stdout(pid))) = deaf.output.recv().await else { panic!("its number comes first") };
    let pid = String::from_utf8(pid.to_vec()).unwrap();
    agent.shutdown(Duration::from_secs(2)).await.unwrap();
    assert_eq!(crate::whole(asked).await.status.code, 3);
    agent.over().await;
    assert!(guest.wait().success());
    eventually("the deaf one has been killed", async || !is_alive(&pid)).await;
}

#[tokio::test]
async fn it_answers_tells_what_is_used_and_takes_entropy() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    agent.ping().await.unwrap();
    let usage = agent.usage().await.unwrap();
    assert!(usage.memory_bytes > 0 && usage.processes > 0, "{usage:?}");
    agent.reseed().await.unwrap();
}

#[tokio::test]
async fn ten_thousand_requests_leave_nothing_behind() {
    let guest = Guest::start();
    let agent = guest.connect().await;
    for _ in 0..10_000 {
        agent.ping().await.unwrap();
    }
    for _ in 0..300 {
        assert_eq!(run(&agent, "exit 1").await.status.code, 1);
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", guest.process.id())).unwrap().count();
    assert!(open < 12, "{open} descriptors are open");
}
