//! What programs wrote: the newest part of each program's output, in memory while it runs and in a file of its own.
//!
//! Rule: bounded for each program, and in the number of programs. While a program runs its file is written at most once a second, so a
//! crash loses a second of output and no more; gigabytes of output cost memory for the newest part alone.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::{ExitStatus, VmError, disk};
use super::events::Kept;
use super::{Sandboxes, blocking, locked};
use crate::tenant::Tenant;

/// A program and the newest part of its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Number of the program among its sandbox's.
    pub exec: u32,
    /// The command line, its first 64 words of at most 256 bytes.
    pub argv: Vec<String>,
    /// When it began, milliseconds since 1970.
    pub started_ms: u64,
    /// How it ended; none: it runs, or the server did not see its end.
    pub exit: Option<ExitStatus>,
    /// Bytes that were written before what is kept.
    pub dropped: u64,
    /// The output, oldest first.
    pub chunks: Vec<LogChunk>,
}

/// Output that came at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Standard error; otherwise standard output or a terminal.
    pub stderr: bool,
    /// What came.
    pub bytes: Bytes,
}

/// The first line of a log file.
#[derive(Serialize, Deserialize)]
struct Head {
    argv: Vec<String>,
    started_ms: u64,
    exit: Option<ExitStatus>,
    dropped: u64,
}

/// A program's output while it runs.
pub(super) struct Tail {
    head: Head,
    chunks: VecDeque<LogChunk>,
    bytes: usize,
    most: usize,
    dirty: bool,
}

impl Tail {
    pub(super) fn push(&mut self, stderr: bool, bytes: &Bytes) {
        self.dirty = true;
        let skipped = bytes.len().saturating_sub(self.most);
        // A copy: a slice would hold the whole buffer that it was cut from.
        let bytes = Bytes::copy_from_slice(&bytes[skipped..]);
        self.head.dropped += skipped as u64;
        self.bytes += bytes.len();
        match self.chunks.back_mut() {
            // Programs that write byte by byte must not make a chunk of each byte.
            Some(last) if last.stderr == stderr && last.bytes.len() + bytes.len() <= 4_096 => {
                let joined: Vec<u8> = last.bytes.iter().chain(&bytes).copied().collect();
                last.bytes = joined.into();
            }
            _ => self.chunks.push_back(LogChunk { stderr, bytes }),
        }
        // Whole chunks first; a single one is cut to the byte.
        while self.bytes > self.most {
            let Some(first) = self.chunks.front_mut() else { break };
            let over = (self.bytes - self.most).min(first.bytes.len());
            let _ = first.bytes.split_to(over);
            self.bytes -= over;
            self.head.dropped += over as u64;
            if first.bytes.is_empty() {
                self.chunks.pop_front();
            }
        }
    }

    fn encoded(&self) -> Vec<u8> {
        let mut out = serde_json::to_vec(&self.head).unwrap_or_default();
        out.push(b'\n');
        for chunk in &self.chunks {
            out.push(u8::from(chunk.stderr));
            out.extend_from_slice(&u32::try_from(chunk.bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(&chunk.bytes);
        }
        out
    }

    fn log(&self, exec: u32) -> Log {
        Log {
            exec,
            argv: self.head.argv.clone(),
            started_ms: self.head.started_ms,
            exit: self.head.exit,
            dropped: self.head.dropped,
            chunks: self.chunks.iter().cloned().collect(),
        }
    }
}

fn decoded(exec: u32, bytes: Vec<u8>) -> Option<Log> {
    let mut rest = Bytes::from(bytes);
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let head: Head = serde_json::from_slice(&rest.split_to(end)).ok()?;
    let _newline = rest.split_to(1);
    let mut chunks = Vec::new();
    while rest.len() >= 5 {
        let stderr = rest[0] == 1;
        let size = usize::try_from(u32::from_le_bytes([rest[1], rest[2], rest[3], rest[4]])).ok()?;
        let _head = rest.split_to(5);
        if rest.len() < size {
            break;
        }
        chunks.push(LogChunk { stderr, bytes: rest.split_to(size) });
    }
    Some(Log { exec, argv: head.argv, started_ms: head.started_ms, exit: head.exit, dropped: head.dropped, chunks })
}

/// Logs and events of one sandbox.
pub(super) struct Logs {
    folder: PathBuf,
    running: Mutex<BTreeMap<u32, Arc<Mutex<Tail>>>>,
    next: Mutex<u32>,
    /// Programs of which output is kept.
    programs: usize,
    /// Bytes kept of each.
    bytes: usize,
    /// The last events.
    pub(super) kept: Mutex<Kept>,
}

impl Logs {
    /// Opens the folder, which may hold what an earlier run wrote. It blocks for a moment.
    pub(super) fn open(folder: PathBuf, programs: usize, bytes: usize, events: usize) -> Self {
        let next = numbers(&folder).last().map_or(1, |last| last.saturating_add(1));
        let kept = Mutex::new(Kept::open(&folder, events));
        Self { folder, running: Mutex::default(), next: Mutex::new(next), programs, bytes, kept }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn begin(&self, argv: &[String]) -> (u32, Arc<Mutex<Tail>>) {
        let argv = argv.iter().take(64).map(|word| word.chars().take(256).collect()).collect();
        let head = Head { argv, started_ms: disk::now_ms(), exit: None, dropped: 0 };
        let tail = Arc::new(Mutex::new(Tail { head, chunks: VecDeque::new(), bytes: 0, most: self.bytes, dirty: true }));
        let number = {
            let mut next = locked(&self.next);
            *next = next.wrapping_add(1).max(2);
            *next - 1
        };
        locked(&self.running).insert(number, Arc::clone(&tail));
        (number, tail)
    }

    /// Writes the file when something came since. Blocks.
    pub(super) fn write(&self, number: u32, tail: &Mutex<Tail>) {
        let bytes = {
            let mut tail = locked(tail);
            if !std::mem::take(&mut tail.dirty) {
                return;
            }
            tail.encoded()
        };
        if std::fs::write(self.path(number), bytes).is_err() {
            metrics::counter!("auralink_sandbox_logs_unwritten_total").increment(1);
        }
    }

    /// Writes the end, and removes the oldest logs beyond the limit. Blocks.
    pub(super) fn end(&self, number: u32, tail: &Mutex<Tail>, exit: Option<ExitStatus>) {
        {
            let mut tail = locked(tail);
            tail.head.exit = exit;
            tail.dirty = true;
        }
        self.write(number, tail);
        locked(&self.running).remove(&number);
        let numbers = numbers(&self.folder);
        let running: Vec<u32> = locked(&self.running).keys().copied().collect();
        for old in numbers.iter().take(numbers.len().saturating_sub(self.programs)).filter(|number| !running.contains(number)) {
            // Missing is as good as removed.
            let _ = std::fs::remove_file(self.path(*old));
        }
    }

    /// Of one program, or of all. Blocks.
    fn read(&self, exec: Option<u32>) -> Vec<Log> {
        let mut logs: BTreeMap<u32, Log> = BTreeMap::new();
        for number in numbers(&self.folder).into_iter().filter(|number| exec.is_none_or(|exec| exec == *number)) {
            if let Some(log) = std::fs::read(self.path(number)).ok().and_then(|bytes| decoded(number, bytes)) {
                logs.insert(number, log);
            }
        }
        let running = locked(&self.running).clone();
        for (number, tail) in running.iter().filter(|(number, _)| exec.is_none_or(|exec| exec == **number)) {
            logs.insert(*number, locked(tail).log(*number));
        }
        logs.into_values().collect()
    }

    fn path(&self, number: u32) -> PathBuf {
        self.folder.join(format!("exec-{number}.log"))
    }
}

fn numbers(folder: &Path) -> Vec<u32> {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let number = |name: std::ffi::OsString| name.to_str()?.strip_prefix("exec-")?.strip_suffix(".log")?.parse().ok();
    let mut numbers: Vec<u32> = names.filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

impl Sandboxes {
    /// The newest output of one program, or of all whose output is kept, oldest program first.
    ///
    /// # Errors
    /// [`VmError::NotFound`].
    pub async fn logs(&self, tenant: &Tenant, id: &str, exec: Option<u32>) -> Result<Vec<Log>, VmError> {
        let entry = self.inner.entry(tenant, id)?;
        let logs = Arc::clone(&entry.logs);
        let logs = blocking("reading logs", move || Ok(logs.read(exec))).await?;
        match exec {
            Some(number) if logs.is_empty() => {
                Err(VmError::NotFound(format!("no output is kept of program {number} of the sandbox {}", entry.id)))
            }
            _ => Ok(logs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_output_is_kept_to_the_byte_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(folder.path().to_owned(), 2, 10, 8);
        let (number, tail) = logs.begin(&["cat".into()]);
        for piece in ["0123456", "789", "abc"] {
            locked(&tail).push(false, &Bytes::from_static(piece.as_bytes()));
        }
        locked(&tail).push(true, &Bytes::from_static(b"E"));
        let running = logs.read(None);
        assert_eq!(running[0].exit, None);
        logs.end(number, &tail, Some(ExitStatus { code: 3, ..ExitStatus::default() }));
        let again = Logs::open(folder.path().to_owned(), 2, 10, 8);
        let log = again.read(Some(number)).remove(0);
        assert_eq!(log.chunks, running[0].chunks);
        let text: Vec<u8> = log.chunks.iter().flat_map(|chunk| chunk.bytes.clone()).collect();
        assert_eq!((text.as_slice(), log.dropped, log.exit.unwrap().code), (b"456789abcE".as_slice(), 4, 3));
        assert!(log.chunks.last().unwrap().stderr);
        for _ in 0..5 {
            let (number, tail) = again.begin(&["true".into()]);
            again.end(number, &tail, None);
        }
        assert_eq!(numbers(folder.path()), [5, 6], "old programs' output goes");
        assert_eq!(again.read(None).len(), 2);
    }
}
