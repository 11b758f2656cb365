//! Files of the sandbox.

use std::io;

use auralink_guest::frame::{CHUNK, Kind};
use auralink_guest::message::{Entry, Reply, Request};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::StreamReader;

use super::wire::{Channel, Event, Wire};
use super::{STANDSTILL, VmError, late, within};
use crate::vm::{FileEntry, FileKind};

/// Most entries of a listing.
const MAX_ENTRIES: usize = 10_000;

/// What an entry takes at most as JSON: a name of 255 bytes, each escaped, and the rest.
const ENTRY: usize = 2048;

pub async fn write(wire: &Wire, path: &str, mode: u32, size: u64, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<(), VmError> {
    let request = Request::WriteFile { path: path.to_owned(), mode, size };
    let mut channel = late("opening a file in the sandbox", wire.open(&request)).await?;
    match late("opening a file in the sandbox", channel.reply()).await? {
        Reply::Ready => {}
        other => return Err(wire.unexpected(&other)),
    }
    let mut buffer = vec![0; CHUNK];
    let mut sent = 0;
    while sent < size {
        let most = usize::try_from(size - sent).unwrap_or(usize::MAX).min(CHUNK);
        let length = content
            .read(&mut buffer[..most])
            .await
            .map_err(|source| VmError::Io { what: format!("reading what shall become {path}"), source })?;
        if length == 0 {
            return Err(VmError::Invalid(format!("the content of {path} ended after {sent} bytes; {size} were announced")));
        }
        let sender = channel.sender();
        let step = async {
            tokio::select! {
                // The agent speaks before the end only to say what went wrong.
                reply = channel.reply() => reply.map(Some),
                passed = sender.content(Kind::Data, &buffer[..length]) => if passed { Ok(None) } else { Err(VmError::Ended("its agent is gone".into())) },
            }
        };
        if let Some(reply) = within(STANDSTILL, "writing a file in the sandbox", step).await? {
            return Err(wire.unexpected(&reply));
        }
        sent += length as u64;
    }
    match within(STANDSTILL, "writing a file in the sandbox", channel.reply()).await? {
        Reply::Done => {
            channel.finish();
            Ok(())
        }
        other => Err(wire.unexpected(&other)),
    }
}

pub async fn read(wire: &Wire, path: &str) -> Result<(u64, Box<dyn AsyncRead + Send + Unpin>), VmError> {
    let (channel, size) = open(wire, Request::ReadFile { path: path.to_owned() }).await?;
    let stream = futures_util::stream::try_unfold((channel, size, path.to_owned()), |(mut channel, left, path)| async move {
        if left == 0 {
            return Ok(None);
        }
        let bytes = match part(&mut channel).await.map_err(io::Error::other)? {
            Some(bytes) => bytes,
            None => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{path} became {left} bytes shorter while it was read")));
            }
        };
        let bytes = bytes.slice(..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        let left = left - bytes.len() as u64;
        Ok(Some((bytes, (channel, left, path))))
    });
    Ok((size, Box::new(StreamReader::new(Box::pin(stream)))))
}

pub async fn list(wire: &Wire, path: &str, limit: usize) -> Result<Vec<FileEntry>, VmError> {
    let limit = limit.min(MAX_ENTRIES);
    let request = Request::ListFolder { path: path.to_owned(), limit: u32::try_from(limit).unwrap_or(u32::MAX) };
    let (mut channel, _) = open(wire, request).await?;
    let mut json = Vec::new();
    while let Some(bytes) = part(&mut channel).await? {
        json.extend_from_slice(&bytes);
        if json.len() > (limit + 1) * ENTRY {
            return Err(wire.broken(format!("a listing of {limit} entries that is longer than {} bytes", json.len())));
        }
    }
    let entries: Vec<Entry> = serde_json::from_slice(&json).map_err(|e| wire.broken(format!("a listing that is none: {e}")))?;
    let known = |entry: &Entry| !entry.name.is_empty() && !entry.name.contains('/');
    Ok(entries.into_iter().filter(known).take(limit).map(entry).collect())
}

fn entry(entry: Entry) -> FileEntry {
    let kind = match entry.kind.as_str() {
        "file" => FileKind::File,
        "folder" => FileKind::Folder,
        "link" => FileKind::Link,
        _ => FileKind::Other,
    };
    FileEntry { name: entry.name, kind, size: entry.size, mode: entry.mode & 0o7777 }
}

async fn open(wire: &Wire, request: Request) -> Result<(Channel, u64), VmError> {
    late("opening a file in the sandbox", async {
        let mut channel = wire.open(&request).await?;
        match channel.reply().await? {
            Reply::File { size, .. } => Ok((channel, size)),
            other => Err(wire.unexpected(&other)),
        }
    })
    .await
}

/// The next piece; none at the end.
async fn part(channel: &mut Channel) -> Result<Option<Bytes>, VmError> {
    match within(STANDSTILL, "reading a file in the sandbox", channel.event()).await? {
        Event::Content(Kind::Data, bytes) => {
            channel.passed_on(bytes.len()).await;
            Ok(Some(bytes))
        }
        Event::Reply(Reply::Done) => {
            channel.finish();
            Ok(None)
        }
        Event::Reply(other) => Err(channel.wire().unexpected(&other)),
        Event::Content(..) => Err(channel.wire().broken("output of a program, from a file".into())),
    }
}
