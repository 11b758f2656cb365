//! The client of the guest agent against the real agent, over a unix socket; and against peers that lie.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test's helpers")]

mod connection;
mod files;
mod hostile;
mod programs;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use auralink_infrastructure::vm::agent::{Agent, guest_binary};
use auralink_infrastructure::vm::{Exec, ExecOutput, ExecSpec, ExitStatus};
use tokio::net::UnixStream;

/// A running agent with a folder of its own.
pub struct Guest {
    process: Child,
    pub folder: tempfile::TempDir,
}

impl Guest {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = guest_binary("test").unwrap();
        let mut command = Command::new(program);
        command.arg("--unix").arg(folder.path().join("agent.sock")).stdin(Stdio::null());
        Self { process: command.spawn().unwrap(), folder }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    pub async fn connect(&self) -> Agent {
        Agent::connect(connect(&self.socket()).await, "test").await.unwrap()
    }

    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.process.wait().unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Connects as soon as somebody listens.
pub async fn connect(socket: &std::path::Path) -> UnixStream {
    for _ in 0..3_000 {
        match UnixStream::connect(socket).await {
            Ok(stream) => return stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("nobody listens on {}", socket.display());
}

pub fn shell(script: &str) -> ExecSpec {
    ExecSpec { argv: vec!["/bin/sh".into(), "-c".into(), script.into()], ..ExecSpec::default() }
}

/// All of a program's output and its end.
#[derive(Debug, Default)]
pub struct Whole {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub status: ExitStatus,
}

impl Whole {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

pub async fn whole(mut exec: Exec) -> Whole {
    let mut all = Whole::default();
    while let Some(output) = exec.output.recv().await {
        match output.unwrap() {
            ExecOutput::Stdout(bytes) => all.stdout.extend_from_slice(&bytes),
            ExecOutput::Stderr(bytes) => all.stderr.extend_from_slice(&bytes),
            ExecOutput::Exited(status) => {
                all.status = status;
                assert!(exec.output.recv().await.is_none(), "the end comes last");
                return all;
            }
        }
    }
    panic!("the program's output ended without its exit status");
}

pub async fn run(agent: &Agent, script: &str) -> Whole {
    whole(agent.exec(shell(script)).await.unwrap()).await
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..3_000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to be that {what}");
}

/// Whether there is a process of this number that has not ended.
pub fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| !stat.contains(") Z "))
}
