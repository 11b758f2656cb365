//! Programs in a container, by the engine's exec: streams, signals, time-outs, how it ended.
//!
//! Place: [`begin`] is [`super::ContainerEngine`]'s `exec`. Rule: a program that was started is either heard to its end or killed; both of its
//! channels are bounded.
//!
//! Every program carries a mark in its environment ([`auralink_guest::container::MARK`]) that all it starts inherit: by that the agent in the
//! container, or this server where it may, finds whom to signal.

mod agent;
mod host;
mod input;

use std::path::PathBuf;
use std::time::Duration;

use bollard::exec::CreateExecOptions;
use bollard::models::{ContainerInspectResponse, ExecInspectResponse};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use auralink_guest::container::{CONNECTED, MARK, NO_PROGRAM};
use bytes::Buf;

pub(super) use agent::{dial, listed};

use super::attach::{self, Output, Piece, Refused};
use super::flavour::{NotStarted, is_gvisor, not_started};
use super::{Condition, ContainerEngine, Exec, ExecSpec, GUEST, SandboxId, VmError, condition_of, container, usage, watch};
use crate::vm::{ExecOutput, ExitStatus, TtySize};

/// Pieces of at most 32 KiB on their way to who runs the program.
const OUTPUT: usize = 16;
/// Inputs on their way to the program.
const INPUT: usize = 16;
/// How long a killed program's output may take to end, and a finished program to be known as finished.
const AFTER: Duration = Duration::from_secs(10);
/// Between two looks whether the sandbox of a program still runs, where nothing else would tell.
const LOST: Duration = Duration::from_secs(3);
/// SIGKILL.
const KILL: i32 = 9;

/// A program that runs.
#[derive(Debug, Clone)]
struct Program {
    engine: ContainerEngine,
    id: SandboxId,
    /// The engine's name for it.
    exec: String,
    /// Its mark.
    tag: String,
    /// Whose it is: who signals must be the same.
    user: String,
    began: Instant,
    /// The container's control group, where this server sees its programs.
    group: Option<PathBuf>,
}

/// Runs a program; returns when it runs.
pub(super) async fn begin(engine: &ContainerEngine, id: &SandboxId, spec: ExecSpec) -> Result<Exec, VmError> {
    check(&spec)?;
    let tag = tag()?;
    let options = options(&spec, &tag);
    let api = engine.api().await?;
    let name = container(id);
    // A start takes some processes of the sandbox's own for a moment: many at once would use up its limit.
    engine.0.watches.settled(id).await;
    let turn = engine.0.starts.acquire().await;
    let (inspected, created) = tokio::join!(engine.inspect(id), api.create_exec(&name, options));
    let inspected = inspected?;
    runs(&inspected)?;
    let exec = created.map_err(|error| engine.fault_of(id, error, "running a program"))?.id;
    watch::begin(engine, id, watch::limit_of(&inspected));
    let killed_before = usage::out_of_memory_kills(&inspected);

    let runtime = inspected.host_config.as_ref().and_then(|h| h.runtime.as_deref()).unwrap_or_default();
    // gVisor's programs are no processes of the host.
    let group = Some(runtime).filter(|r| !is_gvisor(r)).and_then(|_| usage::memory_folder(&inspected));
    let program = Program { engine: engine.clone(), id: id.clone(), exec, tag, user: spec.user.clone(), began: Instant::now(), group };
    let (output, stdin, first) = program.start(&spec).await?;
    drop(turn);
    let (input, inputs) = mpsc::channel(INPUT);
    let (outputs, received) = mpsc::channel(OUTPUT);
    let (over, is_over) = oneshot::channel();
    tokio::spawn(input::carry(program.clone(), stdin, inputs, is_over));
    tokio::spawn(async move {
        let until = spec.timeout.map(|timeout| Instant::now() + timeout);
        program.hear(output, first, until, killed_before, outputs).await;
        let _ = over.send(());
    });
    Ok(Exec { input, output: received })
}

fn check(spec: &ExecSpec) -> Result<(), VmError> {
    let Some(program) = spec.argv.first() else { return Err(VmError::Invalid("no program was named".to_owned())) };
    if program.is_empty() {
        return Err(VmError::Invalid("the program's name is empty".to_owned()));
    }
    let words = spec.argv.iter().chain(spec.env.keys()).chain(spec.env.values()).chain([&spec.cwd, &spec.user]);
    if words.into_iter().any(|word| word.contains('\0')) {
        return Err(VmError::Invalid("an argument, a variable, the folder or the user has a zero byte".to_owned()));
    }
    if let Some(name) = spec.env.keys().find(|name| name.is_empty() || name.contains('=') || *name == MARK) {
        return Err(VmError::Invalid(format!("{name:?} cannot be the name of a variable")));
    }
    if !spec.cwd.is_empty() && !spec.cwd.starts_with('/') {
        return Err(VmError::Invalid(format!("the folder {:?} does not begin with /", spec.cwd)));
    }
    Ok(())
}

fn tag() -> Result<String, VmError> {
    let mut bytes = [0_u8; 12];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| VmError::Io { what: "marking a program".into(), source: std::io::Error::other("no random bytes") })?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

fn options(spec: &ExecSpec, tag: &str) -> CreateExecOptions<String> {
    let mut env: Vec<String> = spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    env.push(format!("{MARK}={tag}"));
    CreateExecOptions {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(spec.tty.is_some()),
        env: Some(env),
        cmd: Some(command(spec)),
        user: Some(spec.user.clone()).filter(|u| !u.is_empty()),
        working_dir: Some(spec.cwd.clone()).filter(|c| !c.is_empty()),
        ..Default::default()
    }
}

/// A terminal has its size before the program begins, so the agent is what is started, and becomes the program.
fn command(spec: &ExecSpec) -> Vec<String> {
    let Some(size) = spec.tty else { return spec.argv.clone() };
    let words = [GUEST, "container", "terminal"].map(str::to_owned).into_iter();
    words.chain([size.rows.to_string(), size.columns.to_string()]).chain(spec.argv.iter().cloned()).collect()
}

fn runs(inspected: &ContainerInspectResponse) -> Result<(), VmError> {
    match condition_of(inspected) {
        Condition::Running => Ok(()),
        Condition::Paused => Err(VmError::Condition { is: "paused", what: "resume it before a program is run".into() }),
        Condition::Stopped | Condition::Gone => Err(VmError::Condition { is: "stopped", what: "start it before a program is run".into() }),
    }
}

impl Program {
    /// Starts it and sees that it started: the engine opens the stream first and says on it, in words, when it could not.
    async fn start(&self, spec: &ExecSpec) -> Result<(Output, OwnedWriteHalf, Option<Piece>), VmError> {
        let program = &spec.argv[0];
        let attached = attach::start(&self.engine.0.settings.socket, &self.exec, spec.tty.is_some()).await;
        let (mut output, stdin) = attached.map_err(|refused| match refused {
            Refused::Answered(status, text) => self.refused(status, &text, program),
            Refused::Io(error) => self.engine.broken(&error, "running a program"),
        })?;
        let mut first = self.first(&mut output, program).await?;
        if spec.tty.is_some() {
            first = self.in_terminal(&mut output, first, program).await?;
        }
        Ok((output, stdin, first))
    }

    /// Its first output, or nothing as soon as it is known to run.
    async fn first(&self, output: &mut Output, program: &str) -> Result<Option<Piece>, VmError> {
        let mut wait = Duration::from_millis(2);
        let until = Instant::now() + AFTER * 6;
        let mut piece = None;
        loop {
            let ended = tokio::select! {
                next = output.next(), if piece.is_none() => match next {
                    Ok(Some(first)) => { piece = Some(first); false }
                    Ok(None) => true,
                    Err(error) => return Err(self.engine.broken(&error, "running a program")),
                },
                () = sleep(wait) => false,
            };
            let known = self.inspect().await?;
            if pid(&known) != 0 {
                return Ok(piece);
            }
            if known.running == Some(false) && known.exit_code.is_some() {
                return self.failed_to_start(&known, piece, output, program).await;
            }
            if Instant::now() > until {
                return Err(VmError::Late { what: format!("starting {program:?}"), after: AFTER * 6 });
            }
            if ended {
                // Its end is known to the stream before it is to the engine's books.
                sleep(wait).await;
            }
            wait = (wait * 2).min(Duration::from_millis(50));
        }
    }

    /// What the agent says of a program that shall have a terminal.
    async fn in_terminal(&self, output: &mut Output, first: Option<Piece>, program: &str) -> Result<Option<Piece>, VmError> {
        let next = match first {
            Some(first) => Some(first),
            None => {
                let late = |_| VmError::Late { what: format!("starting {program:?}"), after: AFTER * 6 };
                let next = tokio::time::timeout(AFTER * 6, output.next()).await.map_err(late)?;
                next.map_err(|error| self.engine.broken(&error, "running a program"))?
            }
        };
        match next {
            Some(Piece::Out(mut bytes)) if bytes.first() == Some(&CONNECTED) => {
                bytes.advance(1);
                Ok(Some(Piece::Out(bytes)).filter(|piece| !matches!(piece, Piece::Out(rest) if rest.is_empty())))
            }
            Some(Piece::Out(bytes)) if bytes.first() == Some(&NO_PROGRAM) => Err(VmError::NoProgram(program.to_owned())),
            Some(Piece::Out(bytes) | Piece::Err(bytes)) => Err(self.refused(500, &String::from_utf8_lossy(&bytes), program)),
            None => Err(self.engine.failed(format!("the agent ended before it started {program:?}"))),
        }
    }

    /// The engine's words about why, which may come in several pieces. Podman tells no process number of one that ended at once: an exit
    /// code below 126, or output that is no runtime's error, is then the program's own.
    async fn failed_to_start(
        &self,
        known: &ExecInspectResponse,
        first: Option<Piece>,
        output: &mut Output,
        program: &str,
    ) -> Result<Option<Piece>, VmError> {
        let code = known.exit_code.unwrap_or_default();
        if self.engine.flavour() != super::Flavour::Docker && !matches!(code, 125..=128 | 255) {
            return Ok(first);
        }
        let (mut text, mut next) = (Vec::new(), first);
        while text.len() < 16 << 10 {
            let piece = match next.take() {
                Some(piece) => piece,
                None => match tokio::time::timeout(AFTER, output.next()).await {
                    Ok(Ok(Some(piece))) => piece,
                    _ => break,
                },
            };
            let (Piece::Out(bytes) | Piece::Err(bytes)) = piece;
            text.extend_from_slice(&bytes);
        }
        let words = String::from_utf8_lossy(&text).into_owned();
        let runtimes = ["OCI runtime", "exec failed", "unable to start container process", "OCI permission denied"];
        let is_runtimes = runtimes.iter().any(|w| words.contains(w)) || text.is_empty() && (126..=127).contains(&code);
        if is_runtimes || self.engine.flavour() == super::Flavour::Docker {
            return Err(self.refused(500, &words, program));
        }
        Ok(Some(Piece::Out(text.into())).filter(|p| !matches!(p, Piece::Out(b) if b.is_empty())))
    }

    fn refused(&self, status: u16, text: &str, program: &str) -> VmError {
        let words: String = text.trim().chars().take(500).collect();
        match not_started(text) {
            NotStarted::NoProgram => VmError::NoProgram(program.to_owned()),
            NotStarted::Invalid => VmError::Invalid(format!("{program:?} cannot be run so: {words}")),
            NotStarted::Exhausted => VmError::Exhausted(format!("the sandbox has no process or memory left to run {program:?}: {words}")),
            NotStarted::Other if words.is_empty() => VmError::NoProgram(program.to_owned()),
            NotStarted::Other => {
                let error = bollard::errors::Error::DockerResponseServerError { status_code: status, message: words };
                self.engine.fault(error, "running a program")
            }
        }
    }

    async fn inspect(&self) -> Result<ExecInspectResponse, VmError> {
        let known = self.engine.api().await?.inspect_exec(&self.exec).await;
        known.map_err(|error| self.engine.fault(error, "looking at a program"))
    }

    /// Hands its output on until it ends, its time is over, or nobody listens any more.
    async fn hear(
        self,
        mut output: Output,
        first: Option<Piece>,
        until: Option<Instant>,
        killed_before: Option<u64>,
        to: mpsc::Sender<Result<ExecOutput, VmError>>,
    ) {
        let mut timed_out = false;
        let ended = {
            let mut pump = std::pin::pin!(pump(&mut output, first, &to));
            let mut deadline = std::pin::pin!(sleep_until(until.unwrap_or_else(far)));
            let mut abandoned = std::pin::pin!(to.closed());
            loop {
                tokio::select! {
                    ended = &mut pump => break ended,
                    // gVisor's kernel may be killed as a whole by the memory limit; Docker then never ends its programs' streams.
                    () = sleep(LOST), if self.group.is_none() => {
                        if let Some(error) = self.ended().await {
                            let _ = to.send(Err(error)).await;
                            return;
                        }
                    }
                    () = &mut abandoned => { self.kill().await; return; }
                    () = &mut deadline => {
                        if timed_out {
                            // What it started and was not found holds its output open: what came is all that comes.
                            break Ok(());
                        }
                        timed_out = true;
                        self.kill().await;
                        deadline.as_mut().reset(Instant::now() + AFTER);
                    }
                }
            }
        };
        let last = match ended {
            Ok(()) => self.exited(timed_out, killed_before).await,
            Err(error) => Err(self.broken(&error).await),
        };
        let _ = to.send(last.map(ExecOutput::Exited)).await;
    }

    /// How it ended, once the engine knows.
    async fn exited(&self, timed_out: bool, killed_before: Option<u64>) -> Result<ExitStatus, VmError> {
        let until = Instant::now() + AFTER;
        let mut wait = Duration::from_millis(1);
        let code = loop {
            let known = self.inspect().await;
            match known {
                Ok(known) if known.running != Some(true) => break known.exit_code.unwrap_or(-1),
                Ok(_) if Instant::now() > until && timed_out => break i64::from(128 + KILL),
                Ok(_) if Instant::now() > until => {
                    return Err(self.engine.failed("the program's output ended, but the engine says that it runs: look at its log"));
                }
                Ok(_) => {}
                Err(error) => return Err(self.ended().await.unwrap_or(error)),
            }
            sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(100));
        };
        if let Some(error) = self.all_ended().await {
            return Err(error);
        }
        let code = if timed_out { 128 + KILL } else { i32::try_from(code).unwrap_or(-1) };
        if (code == 128 + KILL || code < 0)
            && let Some(error) = self.ended().await
        {
            return Err(error);
        }
        // The engine tells only the code, as a shell does: 128 and more is taken for a signal, as long as there is such a signal.
        let signal = Some(code - 128).filter(|signal| (1..=64).contains(signal));
        let out_of_memory = !timed_out && code == 128 + KILL && self.out_of_memory(killed_before).await;
        Ok(ExitStatus { code, signal, timed_out, out_of_memory })
    }

    async fn out_of_memory(&self, before: Option<u64>) -> bool {
        let Ok(inspected) = self.engine.inspect(&self.id).await else { return false };
        match (before, usage::out_of_memory_kills(&inspected)) {
            (Some(before), Some(now)) => now > before,
            _ => inspected.state.and_then(|s| s.oom_killed) == Some(true),
        }
    }

    /// Why all programs of the sandbox were ended, if they were.
    async fn all_ended(&self) -> Option<VmError> {
        let reason = self.engine.0.watches.reason(&self.id, self.began)?;
        // Who hears it may run the next program at once.
        self.engine.0.watches.settled(&self.id).await;
        Some(VmError::Exhausted(reason))
    }

    /// Why the sandbox runs no more, if it does not.
    async fn ended(&self) -> Option<VmError> {
        if let Some(error) = self.all_ended().await {
            return Some(error);
        }
        match self.engine.inspect(&self.id).await {
            Ok(inspected) if condition_of(&inspected) == Condition::Stopped => {
                let out_of_memory = inspected.state.and_then(|s| s.oom_killed) == Some(true);
                Some(VmError::Ended(
                    if out_of_memory { "its memory limit ended it" } else { "it was stopped while the program ran" }.to_owned(),
                ))
            }
            Ok(_) => None,
            Err(VmError::NotFound(_)) => Some(VmError::Ended("it was deleted while the program ran".to_owned())),
            Err(_) => None,
        }
    }

    async fn broken(&self, error: &std::io::Error) -> VmError {
        match self.ended().await {
            Some(ended) => ended,
            None => self.engine.lost(&format!("while a program ran: {error}")),
        }
    }

    /// Kills it and what it started. When there is no room for that in the sandbox (its processes are at their limit, and this server may not
    /// reach in from outside), all of its programs are ended.
    async fn kill(&self) {
        match self.signal(KILL).await {
            // It ended by itself, and the sandbox perhaps with it.
            Ok(()) | Err(VmError::NotFound(_) | VmError::Condition { .. } | VmError::Unavailable { .. }) => {}
            Err(error) => {
                tracing::warn!(sandbox = %self.id, %error, "a program could not be killed by itself: all in its sandbox are ended");
                metrics::counter!("auralink_sandbox_killed_total", "reason" => "program").increment(1);
                let reason = "the sandbox's programs were ended: one was to be killed, and the sandbox had no process left for that";
                self.engine.0.watches.end(&self.engine, &self.id, reason).await;
            }
        }
    }

    async fn signal(&self, number: i32) -> Result<(), VmError> {
        if !(1..=64).contains(&number) {
            return Err(VmError::Invalid(format!("{number} is no signal: they go from 1 to 64")));
        }
        if let Some(group) = self.group.clone() {
            let pid = self.inspect().await.ok().filter(|known| known.running == Some(true)).map(|known| pid(&known));
            let pid = pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
            let tag = self.tag.clone();
            if let Ok(Some(_)) = tokio::task::spawn_blocking(move || host::signal(&group, &tag, pid, number)).await {
                return Ok(());
            }
        }
        let words = ["signal".to_owned(), self.tag.clone(), number.to_string()];
        agent::ask(&self.engine, &self.id, &words, &self.user).await.map(drop)
    }

    /// A program that ended meanwhile has no terminal: that is no error.
    async fn resize(&self, size: TtySize) {
        let size = bollard::exec::ResizeExecOptions { height: size.rows, width: size.columns };
        if let Ok(api) = self.engine.api().await
            && let Err(error) = api.resize_exec(&self.exec, size).await
        {
            tracing::debug!(sandbox = %self.id, %error, "a terminal was not resized");
        }
    }
}

/// Podman and Docker both tell it, but the client's type has it as optional.
fn pid(known: &ExecInspectResponse) -> i64 {
    known.pid.unwrap_or_default()
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(86_400 * 365 * 10)
}

/// Whether nobody listens is the caller's to see.
async fn pump(output: &mut Output, first: Option<Piece>, to: &mpsc::Sender<Result<ExecOutput, VmError>>) -> std::io::Result<()> {
    let mut next = first;
    loop {
        let piece = match next.take() {
            Some(piece) => piece,
            None => match output.next().await? {
                Some(piece) => piece,
                None => return Ok(()),
            },
        };
        let said = match piece {
            Piece::Out(bytes) => ExecOutput::Stdout(bytes),
            Piece::Err(bytes) => ExecOutput::Stderr(bytes),
        };
        if to.send(Ok(said)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
