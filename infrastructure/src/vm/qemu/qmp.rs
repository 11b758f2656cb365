//! QEMU's machine protocol: one JSON object a line on a unix socket.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::ENGINE;
use crate::vm::VmError;

/// How long QEMU may take for anything but moving memory.
const ANSWER: Duration = Duration::from_secs(10);

/// How long memory may take to be written or read.
const MEMORY: Duration = Duration::from_secs(300);

/// Longest line that is read, bytes.
const LINE: u64 = 1 << 20;

/// A connection.
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

fn failed(reason: impl std::fmt::Display) -> VmError {
    VmError::Engine { engine: ENGINE, reason: reason.to_string() }
}

async fn in_time<T>(after: Duration, what: &str, work: impl Future<Output = Result<T, VmError>>) -> Result<T, VmError> {
    tokio::time::timeout(after, work).await.unwrap_or_else(|_| Err(VmError::Late { what: what.to_owned(), after }))
}

impl Qmp {
    /// Connects and leaves the greeting behind.
    pub async fn connect(home: &Path) -> Result<Self, VmError> {
        in_time(ANSWER, "greeting QEMU", async {
            let stream = UnixStream::connect(home.join("qmp.sock")).await.map_err(|e| failed(format_args!("its socket: {e}")))?;
            let mut qmp = Self { stream: BufReader::new(stream) };
            qmp.line().await?;
            qmp.ask("qmp_capabilities", json!({})).await?;
            Ok(qmp)
        })
        .await
    }

    /// Runs a command.
    pub async fn run(&mut self, command: &str, arguments: Value) -> Result<Value, VmError> {
        in_time(ANSWER, command, self.ask(command, arguments)).await
    }

    async fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, VmError> {
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        self.stream.get_mut().write_all(line.as_bytes()).await.map_err(failed)?;
        loop {
            let mut answer = self.line().await?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(failed(format_args!("{command}: {}", error["desc"].as_str().unwrap_or_default())));
            }
            // Anything else is an event.
        }
    }

    async fn line(&mut self) -> Result<Value, VmError> {
        let mut line = Vec::new();
        (&mut self.stream).take(LINE).read_until(b'\n', &mut line).await.map_err(failed)?;
        if line.is_empty() {
            return Err(VmError::Ended("QEMU closed its socket".into()));
        }
        serde_json::from_slice(&line).map_err(|e| failed(format_args!("not JSON: {e}")))
    }

    /// Has the memory of a stopped machine written to `file`, through `socket`: so QEMU needs no right to start programs.
    pub async fn save_memory(&mut self, socket: &Path, file: &Path) -> Result<(), VmError> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).map_err(failed)?;
        // The default, 32 MiB/s in old versions, is meant for machines that run meanwhile.
        self.run("migrate-set-parameters", json!({"max-bandwidth": 1_u64 << 40})).await?;
        self.run("migrate", json!({"uri": format!("unix:{}", socket.display())})).await?;
        let written = in_time(MEMORY, "writing a sandbox's memory", async {
            let (mut from, _) = listener.accept().await.map_err(failed)?;
            let mut to = tokio::fs::File::create(file).await.map_err(failed)?;
            tokio::io::copy(&mut from, &mut to).await.map_err(failed)?;
            to.sync_all().await.map_err(failed)
        })
        .await;
        let _ = std::fs::remove_file(socket);
        written?;
        self.moved("writing").await
    }

    /// Has a machine that was started for it take its memory from `file`.
    pub async fn load_memory(&mut self, socket: &Path, file: &Path) -> Result<(), VmError> {
        let _ = std::fs::remove_file(socket);
        self.run("migrate-incoming", json!({"uri": format!("unix:{}", socket.display())})).await?;
        let sent = in_time(MEMORY, "reading a sandbox's memory", async {
            let mut to = UnixStream::connect(socket).await.map_err(failed)?;
            let mut from = tokio::fs::File::open(file).await.map_err(failed)?;
            tokio::io::copy(&mut from, &mut to).await.map_err(failed)?;
            to.shutdown().await.map_err(failed)
        })
        .await;
        let _ = std::fs::remove_file(socket);
        sent?;
        self.moved("reading").await
    }

    async fn moved(&mut self, what: &str) -> Result<(), VmError> {
        in_time(MEMORY, "moving a sandbox's memory", async {
            loop {
                let state = self.run("query-migrate", json!({})).await?;
                match state["status"].as_str().unwrap_or_default() {
                    "completed" => return Ok(()),
                    "failed" | "cancelled" => return Err(failed(format_args!("{what} memory: {}", state["error-desc"]))),
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        })
        .await
    }
}
