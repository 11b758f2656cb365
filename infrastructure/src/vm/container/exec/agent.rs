//! What the agent in the container is asked to do, by the engine's exec.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use auralink_guest::container::{CONNECTED, DENIED, Entry, NO_FOLDER, NOT_FOUND};
use bollard::exec::CreateExecOptions;
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::OwnedWriteHalf;

use super::super::attach::{self, Output, Piece, Refused};
use super::super::{ContainerEngine, GUEST, SandboxId, Stream, VmError, container};
use crate::vm::{FileEntry, FileKind};

/// How long it may take: it starts, looks, and ends.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer: a folder's list of 10,000 entries takes about a megabyte.
const ANSWER: usize = 32 << 20;

struct Asked {
    output: Output,
    stdin: OwnedWriteHalf,
    exec: String,
}

async fn start(engine: &ContainerEngine, id: &SandboxId, words: &[String], user: &str, stdin: bool) -> Result<Asked, VmError> {
    let mut cmd = vec![GUEST.to_owned(), "container".to_owned()];
    cmd.extend_from_slice(words);
    let options = CreateExecOptions {
        attach_stdin: Some(stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(cmd),
        user: Some(user.to_owned()).filter(|u| !u.is_empty()),
        working_dir: Some("/".to_owned()),
        ..Default::default()
    };
    let created = engine.api().await?.create_exec(&container(id), options).await;
    let exec = created.map_err(|error| engine.fault_of(id, error, "asking the agent in the sandbox"))?.id;
    match attach::start(&engine.0.settings.socket, &exec, false).await {
        Ok((output, stdin)) => Ok(Asked { output, stdin, exec }),
        Err(Refused::Answered(_, text)) => Err(engine.failed(format!("the agent in the sandbox does not run: {text}"))),
        Err(Refused::Io(error)) => Err(engine.broken(&error, "asking the agent in the sandbox")),
    }
}

/// Runs it to its end and answers what it printed.
pub(super) async fn ask(engine: &ContainerEngine, id: &SandboxId, words: &[String], user: &str) -> Result<Vec<u8>, VmError> {
    let (code, out, err) = match tokio::time::timeout(PATIENCE, hear(engine, id, words, user)).await {
        Ok(heard) => heard?,
        Err(_) => return Err(VmError::Late { what: format!("the agent's `{}`", words[0]), after: PATIENCE }),
    };
    match u8::try_from(code).unwrap_or(u8::MAX) {
        0 => Ok(out),
        NOT_FOUND => Err(VmError::NotFound(format!("there is no {}", words.get(1).map_or("such thing", String::as_str)))),
        NO_FOLDER => Err(VmError::Invalid(format!("{} is no folder", words.get(1).map_or("it", String::as_str)))),
        DENIED => Err(VmError::Invalid(format!("the sandbox's user may not read {}", words.get(1).map_or("it", String::as_str)))),
        _ => {
            let said = [out, err].concat();
            Err(engine.failed(format!(
                "the agent's `{}` ended with {code}: {}",
                words[0],
                String::from_utf8_lossy(&said[..said.len().min(500)]).trim()
            )))
        }
    }
}

async fn hear(engine: &ContainerEngine, id: &SandboxId, words: &[String], user: &str) -> Result<(i64, Vec<u8>, Vec<u8>), VmError> {
    let mut asked = start(engine, id, words, user, false).await?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(piece) = asked.output.next().await.map_err(|error| engine.broken(&error, "hearing the agent in the sandbox"))? {
        match piece {
            Piece::Out(bytes) => out.extend_from_slice(&bytes),
            Piece::Err(bytes) => err.extend_from_slice(&bytes),
        }
        if out.len() + err.len() > ANSWER {
            return Err(VmError::Exhausted(format!("the agent's answer is longer than {ANSWER} bytes: ask for less")));
        }
    }
    let mut wait = Duration::from_millis(1);
    loop {
        let known =
            engine.api().await?.inspect_exec(&asked.exec).await.map_err(|error| engine.fault(error, "asking the agent in the sandbox"))?;
        if known.running != Some(true) {
            return Ok((known.exit_code.unwrap_or(-1), out, err));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_millis(50));
    }
}

/// A folder's entries.
pub(in super::super) async fn listed(
    engine: &ContainerEngine,
    id: &SandboxId,
    path: &str,
    limit: usize,
) -> Result<Vec<FileEntry>, VmError> {
    let text = ask(engine, id, &["list".to_owned(), path.to_owned(), limit.to_string()], "").await?;
    let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).map(entry))
        .collect::<Result<_, _>>()
        .map_err(|e| engine.failed(format!("the agent's list cannot be read: {e}")))
}

fn entry(listed: Entry) -> FileEntry {
    let kind = match listed.kind.as_str() {
        "file" => FileKind::File,
        "folder" => FileKind::Folder,
        "link" => FileKind::Link,
        _ => FileKind::Other,
    };
    FileEntry { name: listed.name, kind, size: listed.size, mode: listed.mode }
}

/// Connects to a port inside, through the agent's standard input and output: no port is published, and no network is needed.
pub(in super::super) async fn dial(engine: &ContainerEngine, id: &SandboxId, port: u16) -> Result<Box<dyn Stream>, VmError> {
    super::runs(&engine.inspect(id).await?)?;
    let mut asked = start(engine, id, &["dial".to_owned(), port.to_string()], "", true).await?;
    let mut words = Vec::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, asked.output.next()).await;
        let next = next.map_err(|_| VmError::Late { what: format!("connecting to port {port}"), after: PATIENCE })?;
        match next.map_err(|error| engine.broken(&error, "connecting into the sandbox"))? {
            Some(Piece::Out(mut bytes)) if bytes.first() == Some(&CONNECTED) => {
                bytes.advance(1);
                return Ok(Box::new(Dialled { asked, rest: bytes }));
            }
            Some(Piece::Out(bytes) | Piece::Err(bytes)) if words.len() < 1_000 => words.extend_from_slice(&bytes),
            Some(_) => {}
            None => break,
        }
    }
    let said = String::from_utf8_lossy(&words).trim().trim_start_matches("auralink-guest: ").to_owned();
    Err(VmError::NotFound(format!("nothing in the sandbox listens on port {port}: {said}")))
}

/// A connection through the agent. Dropping it closes the agent's standard input, and with it the connection.
struct Dialled {
    asked: Asked,
    rest: Bytes,
}

impl AsyncRead for Dialled {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.rest.is_empty() {
                let length = self.rest.len().min(buffer.remaining());
                buffer.put_slice(&self.rest.split_to(length));
                return Poll::Ready(Ok(()));
            }
            match std::task::ready!(self.asked.output.poll_next(context))? {
                Some(Piece::Out(bytes)) => self.rest = bytes,
                Some(Piece::Err(_)) => {}
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.asked.stdin).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.asked.stdin).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.asked.stdin).poll_shutdown(context)
    }
}
