//! Programs in a sandbox: bounded in number, their output streamed, kept in part, and told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::super::{Exec, ExecInput, ExecOutput, ExecSpec, ExitStatus, VmError};
use super::events::EventKind;
use super::logs::Tail;
use super::{Entry, Inner, SLOW, Sandboxes, Status, blocking, check, within};
use crate::tenant::Tenant;

/// Messages between the program and its caller; a program's engine sends at most 64 KiB in one.
const AHEAD: usize = 16;

/// Between two writes of a running program's log.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// A program that was begun.
#[derive(Debug)]
pub struct Started {
    /// Its number among the sandbox's programs: its log has it.
    pub number: u32,
    /// Its input and output.
    pub exec: Exec,
}

/// A program that ended, and the beginning of its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Its number.
    pub number: u32,
    /// Standard output.
    pub stdout: Bytes,
    /// Standard error.
    pub stderr: Bytes,
    /// Whether more came than was kept.
    pub truncated: bool,
    /// How it ended.
    pub exit: ExitStatus,
}

impl Sandboxes {
    /// Runs a program.
    ///
    /// # Errors
    /// [`VmError::NotFound`], [`VmError::Condition`] (not running), [`VmError::NoProgram`], [`VmError::Exhausted`] (too many at once),
    /// [`VmError::Invalid`], and what the engine says.
    pub async fn exec(&self, tenant: &Tenant, id: &str, exec: ExecSpec) -> Result<Started, VmError> {
        let (inner, entry) = (Arc::clone(&self.inner), self.inner.entry(tenant, id)?);
        let engine = inner.engine_of(&entry)?;
        check::exec(&exec, &inner.capable(engine.name()).await?, engine.name())?;
        match entry.status() {
            Status::Running => {}
            Status::Paused => return Err(VmError::Condition { is: "paused", what: "resume it first".into() }),
            other => return Err(VmError::Condition { is: other.as_str(), what: "start it first".into() }),
        }
        let permit = Arc::clone(&entry.execs).try_acquire_owned().map_err(|_| {
            metrics::counter!("auralink_sandbox_refused_total", "limit" => "execs").increment(1);
            VmError::Exhausted(format!(
                "{} programs run in the sandbox already, the most there may be: wait for one",
                inner.config.execs_per_sandbox
            ))
        })?;
        // Begun to the end: a caller that goes away meanwhile leaves a program whose output nobody takes, and that is ended.
        Inner::to_its_end(async move {
            let argv = exec.argv.clone();
            let begun = within("starting the program", SLOW, engine.exec(&entry.id, &inner.home(&entry.id), exec)).await?;
            Ok(pass_on(inner, entry, permit, &argv, begun))
        })
        .await
    }

    /// Runs a program to its end, with `stdin` as its input, and keeps the first `most` bytes of each of its outputs.
    ///
    /// # Errors
    /// As [`Sandboxes::exec`]; [`VmError::Ended`] when the sandbox ended before the program.
    pub async fn exec_captured(&self, tenant: &Tenant, id: &str, exec: ExecSpec, stdin: Bytes, most: usize) -> Result<Captured, VmError> {
        let Started { number, exec: Exec { input, mut output } } = self.exec(tenant, id, exec).await?;
        let writing = tokio::spawn(async move {
            // A program that closed its input, or ended, wants no more of it.
            let _ = input.send(ExecInput::Stdin(stdin)).await;
        });
        let (mut stdout, mut stderr, mut truncated) = (BytesMut::new(), BytesMut::new(), false);
        let mut keep = |kept: &mut BytesMut, bytes: &Bytes| {
            let room = most.saturating_sub(kept.len()).min(bytes.len());
            kept.extend_from_slice(&bytes[..room]);
            truncated |= room < bytes.len();
        };
        let exit = loop {
            match output.recv().await {
                Some(Ok(ExecOutput::Stdout(bytes))) => keep(&mut stdout, &bytes),
                Some(Ok(ExecOutput::Stderr(bytes))) => keep(&mut stderr, &bytes),
                Some(Ok(ExecOutput::Exited(exit))) => break exit,
                Some(Err(error)) => return Err(error),
                None => return Err(VmError::Ended("the program's end was not seen".into())),
            }
        };
        writing.abort();
        Ok(Captured { number, stdout: stdout.freeze(), stderr: stderr.freeze(), truncated, exit })
    }
}

/// Puts the service between engine and caller: log, events, the place in the limit.
fn pass_on(inner: Arc<Inner>, entry: Arc<Entry>, permit: OwnedSemaphorePermit, argv: &[String], begun: Exec) -> Started {
    let (number, tail) = entry.logs.begin(argv);
    let engine = super::locked(&entry.record).engine.clone();
    metrics::counter!("auralink_sandbox_execs_total", "engine" => engine).increment(1);
    inner.tell_of(&entry, EventKind::ExecStarted, argv.first().cloned().unwrap_or_default(), Some(number), None);
    let (to_caller, output) = mpsc::channel(AHEAD);
    let input = begun.input;
    tokio::spawn(async move {
        let end = pump(&entry, number, &tail, begun.output, &to_caller).await;
        let logs = Arc::clone(&entry.logs);
        let exit = match &end {
            Some(Ok(exit)) => Some(*exit),
            _ => None,
        };
        // The log before the last word: who reads it after the exit sees all of it.
        let _ = blocking("writing the log", move || {
            logs.end(number, &tail, exit);
            Ok(())
        })
        .await;
        drop(permit);
        inner.ended(&entry, number, &end);
        let last = match end {
            Some(Ok(exit)) => Some(Ok(ExecOutput::Exited(exit))),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        };
        if let Some(last) = last {
            // Nobody there: nobody is told.
            let _ = to_caller.send(last).await;
        }
        drop(to_caller);
        if exit.is_none() {
            inner.look_again(&entry).await;
        }
    });
    Started { number, exec: Exec { input, output } }
}

/// Copies until the program ends or the caller goes away; the latter drops the engine's channel, which ends the program.
async fn pump(
    entry: &Entry,
    number: u32,
    tail: &Arc<Mutex<Tail>>,
    mut output: mpsc::Receiver<Result<ExecOutput, VmError>>,
    to_caller: &mpsc::Sender<Result<ExecOutput, VmError>>,
) -> Option<Result<ExitStatus, VmError>> {
    let mut writes = tokio::time::interval(LOG_EVERY);
    writes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let next = tokio::select! {
            next = output.recv() => next,
            () = to_caller.closed() => return None,
            _ = writes.tick() => {
                let (logs, tail) = (Arc::clone(&entry.logs), Arc::clone(tail));
                let _ = blocking("writing the log", move || { logs.write(number, &tail); Ok(()) }).await;
                continue;
            }
        };
        let message = match next {
            None => return Some(Err(VmError::Ended("its engine gave no reason".into()))),
            Some(Err(error)) => return Some(Err(error)),
            Some(Ok(ExecOutput::Exited(exit))) => return Some(Ok(exit)),
            Some(Ok(message)) => message,
        };
        match &message {
            ExecOutput::Stdout(bytes) => super::locked(tail).push(false, bytes),
            ExecOutput::Stderr(bytes) => super::locked(tail).push(true, bytes),
            ExecOutput::Exited(_) => {}
        }
        if to_caller.send(Ok(message)).await.is_err() {
            return None;
        }
    }
}

impl Inner {
    fn ended(&self, entry: &Entry, number: u32, end: &Option<Result<ExitStatus, VmError>>) {
        match end {
            Some(Ok(exit)) => {
                if exit.out_of_memory {
                    self.tell_of(entry, EventKind::OutOfMemory, "", Some(number), Some(*exit));
                }
                if exit.timed_out {
                    self.tell_of(entry, EventKind::TimedOut, "the program's time was over", Some(number), Some(*exit));
                }
                self.tell_of(entry, EventKind::ExecEnded, "", Some(number), Some(*exit));
            }
            Some(Err(error)) => self.tell_of(entry, EventKind::ExecEnded, error.to_string(), Some(number), None),
            None => self.tell_of(entry, EventKind::ExecEnded, "its caller went away: it was ended", Some(number), None),
        }
    }

    /// After a program ended without an exit: perhaps the sandbox did.
    async fn look_again(&self, entry: &Entry) {
        let Ok(_turn) = entry.turn.try_lock() else { return };
        if self.is_known(entry) && entry.status() == Status::Running {
            self.settle(entry, "it ended by itself").await;
        }
    }
}
