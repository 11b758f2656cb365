//! What happens to sandboxes, told to who follows and kept for who asks later.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::super::{ExitStatus, SandboxId, VmError, disk};
use super::{Entry, Inner, Sandboxes, locked};
use crate::tenant::Tenant;

/// Events that a slow follower may be behind by; then it is told how many it missed.
const BEHIND: usize = 1_024;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// It was made.
    Created,
    /// It was started.
    Started,
    /// A program began.
    ExecStarted,
    /// A program ended.
    ExecEnded,
    /// The memory limit ended a program.
    OutOfMemory,
    /// A program's time, or the sandbox's own, was over.
    TimedOut,
    /// It was frozen.
    Paused,
    /// It goes on.
    Resumed,
    /// It was stopped, or ended by itself.
    Stopped,
    /// A snapshot was taken.
    Snapshotted,
    /// It was deleted.
    Deleted,
    /// It was found again after a restart of the server.
    Recovered,
    /// It was removed without being asked: its lifetime, or a crash.
    Reaped,
    /// Something with it failed.
    Failed,
}

impl EventKind {
    /// As text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Started => "started",
            Self::ExecStarted => "exec_started",
            Self::ExecEnded => "exec_ended",
            Self::OutOfMemory => "out_of_memory",
            Self::TimedOut => "timed_out",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Stopped => "stopped",
            Self::Snapshotted => "snapshotted",
            Self::Deleted => "deleted",
            Self::Recovered => "recovered",
            Self::Reaped => "reaped",
            Self::Failed => "failed",
        }
    }
}

/// Something that happened to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Larger than that of every earlier event of this server's.
    pub number: u64,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// Which sandbox.
    pub sandbox: SandboxId,
    /// What happened.
    pub kind: EventKind,
    /// In words; may be empty.
    pub detail: String,
    /// Number of the program that it is about.
    pub exec: Option<u32>,
    /// How that program ended.
    pub exit: Option<ExitStatus>,
}

/// Tells and keeps.
pub(super) struct Journal {
    sender: broadcast::Sender<Arc<(Tenant, Event)>>,
    next: AtomicU64,
}

impl Journal {
    /// Numbers go on from the clock: a restart does not begin anew.
    pub(super) fn new() -> Self {
        Self { sender: broadcast::Sender::new(BEHIND), next: AtomicU64::new(disk::now_ms().saturating_mul(1_000)) }
    }
}

/// The last events of one sandbox: in memory, and in a file that a crash may cut by a line.
pub(super) struct Kept {
    path: PathBuf,
    file: Option<File>,
    lines: usize,
    most: usize,
    events: VecDeque<Event>,
}

impl Kept {
    /// Reads what an earlier run kept.
    pub(super) fn open(folder: &Path, most: usize) -> Self {
        let path = folder.join("events.jsonl");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut events: VecDeque<Event> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        events.drain(..events.len().saturating_sub(most));
        // The first new event writes the file anew: a line that was cut is gone then.
        Self { path, file: None, lines: usize::MAX, most, events }
    }

    /// A line of the page cache; a disk that is full loses the line, counted, and nothing else.
    fn push(&mut self, event: Event) {
        self.events.push_back(event);
        if self.events.len() > self.most {
            self.events.pop_front();
        }
        if self.write().is_err() {
            metrics::counter!("auralink_sandbox_events_unwritten_total").increment(1);
        }
    }

    fn write(&mut self) -> std::io::Result<()> {
        match (&mut self.file, self.events.back()) {
            (Some(file), Some(last)) if self.lines < 2 * self.most => {
                let mut line = serde_json::to_vec(last)?;
                line.push(b'\n');
                file.write_all(&line)?;
                self.lines += 1;
            }
            _ => {
                let mut text = Vec::new();
                for event in &self.events {
                    serde_json::to_writer(&mut text, event)?;
                    text.push(b'\n');
                }
                disk::write_whole(&self.path, &text)?;
                self.file = Some(OpenOptions::new().append(true).open(&self.path)?);
                self.lines = self.events.len();
            }
        }
        Ok(())
    }
}

impl Inner {
    pub(super) fn tell(&self, entry: &Entry, kind: EventKind, detail: impl Into<String>) {
        self.tell_of(entry, kind, detail, None, None);
    }

    pub(super) fn tell_of(&self, entry: &Entry, kind: EventKind, detail: impl Into<String>, exec: Option<u32>, exit: Option<ExitStatus>) {
        let detail: String = detail.into().chars().take(512).collect();
        let (tenant, engine) = {
            let record = locked(&entry.record);
            (record.spec.tenant.clone(), record.engine.clone())
        };
        metrics::counter!("auralink_sandbox_events_total", "engine" => engine, "event" => kind.as_str()).increment(1);
        tracing::debug!(sandbox = %entry.id, event = kind.as_str(), detail, "sandbox");
        let mut kept = locked(&entry.logs.kept);
        let event = Event {
            number: self.journal.next.fetch_add(1, Ordering::Relaxed),
            at_ms: disk::now_ms(),
            sandbox: entry.id.clone(),
            kind,
            detail,
            exec,
            exit,
        };
        if !matches!(kind, EventKind::Deleted | EventKind::Reaped) {
            kept.push(event.clone());
        }
        // Nobody following is no fault.
        let _ = self.journal.sender.send(Arc::new((tenant, event)));
    }
}

/// What a follower gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// An event.
    Event(Event),
    /// So many were missed: the follower was too slow.
    Missed(u64),
}

/// Follows events of one tenant.
pub struct Following {
    receiver: broadcast::Receiver<Arc<(Tenant, Event)>>,
    tenant: Tenant,
    only: Option<SandboxId>,
    earlier: VecDeque<Event>,
}

impl Following {
    /// The next; none when the service ended.
    pub async fn next(&mut self) -> Option<Followed> {
        if let Some(event) = self.earlier.pop_front() {
            return Some(Followed::Event(event));
        }
        loop {
            match self.receiver.recv().await {
                Ok(told) => {
                    let (tenant, event) = &*told;
                    let wanted = *tenant == self.tenant && self.only.as_ref().is_none_or(|only| event.sandbox == *only);
                    if wanted {
                        return Some(Followed::Event(event.clone()));
                    }
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => return Some(Followed::Missed(missed)),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Sandboxes {
    /// The events kept of a sandbox, oldest first.
    ///
    /// # Errors
    /// [`VmError::NotFound`].
    pub fn events(&self, tenant: &Tenant, id: &str) -> Result<Vec<Event>, VmError> {
        let entry = self.inner.entry(tenant, id)?;
        let kept = locked(&entry.logs.kept);
        Ok(kept.events.iter().cloned().collect())
    }

    /// Follows the events of a sandbox, those kept first, or of all the tenant's from now on.
    ///
    /// # Errors
    /// [`VmError::NotFound`].
    pub fn follow(&self, tenant: &Tenant, id: Option<&str>) -> Result<Following, VmError> {
        let Some(id) = id else {
            let receiver = self.inner.journal.sender.subscribe();
            return Ok(Following { receiver, tenant: tenant.clone(), only: None, earlier: VecDeque::new() });
        };
        let entry = self.inner.entry(tenant, id)?;
        // Under the lock that every event of the sandbox is told under: none falls between, and none comes twice.
        let kept = locked(&entry.logs.kept);
        let receiver = self.inner.journal.sender.subscribe();
        Ok(Following { receiver, tenant: tenant.clone(), only: Some(entry.id.clone()), earlier: kept.events.clone() })
    }
}
