//! Which processes of this machine belong to a sandbox.
//!
//! Place: where no control group can be written this is the only way to find them; the disk limit uses it too. Rule: a sandbox is known by
//! its first process, the agent, which is number 1 of a process namespace and carries the sandbox's mark among its arguments. A
//! program in a sandbox can write any arguments it likes, but is never number 1.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

/// The note in a sandbox's home that its programs stand.
const STOPPED: &str = "stopped";

/// The agents whose mark `wanted` accepts.
pub(super) fn agents<T>(wanted: impl Fn(&str) -> Option<T>) -> Vec<(Pid, T)> {
    let mut found = Vec::new();
    for pid in all() {
        let Ok(arguments) = fs::read(proc(pid).join("cmdline")) else { continue };
        let mut arguments = arguments.split(|b| *b == 0);
        let mark = arguments.by_ref().position(|argument| argument == b"--mark").and_then(|_| arguments.next());
        if let Some(mark) = mark.and_then(|mark| wanted(std::str::from_utf8(mark).ok()?))
            && is_first(pid)
        {
            found.push((pid, mark));
        }
    }
    found
}

/// The agent among the processes of a sandbox's group.
pub(super) fn agent_among(processes: &[Pid]) -> Option<Pid> {
    processes.iter().copied().find(|pid| is_first(*pid))
}

fn all() -> impl Iterator<Item = Pid> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

fn proc(pid: Pid) -> PathBuf {
    Path::new("/proc").join(pid.as_raw_nonzero().to_string())
}

/// Whether it is number 1 of a namespace that is not ours.
fn is_first(pid: Pid) -> bool {
    let status = fs::read_to_string(proc(pid).join("status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().count() > 1 && numbers.split_whitespace().next_back() == Some("1"))
}

/// Everything in the agent's process namespace but the agent.
pub(super) fn others(agent: Pid) -> Vec<Pid> {
    let space = |pid: Pid| fs::read_link(proc(pid).join("ns/pid")).ok();
    let Some(own) = space(agent) else { return Vec::new() };
    all().filter(|pid| *pid != agent && space(*pid).as_ref() == Some(&own)).collect()
}

/// Kills one process, by a descriptor that was opened while `still` held.
pub(super) fn kill(pid: Pid, still: impl Fn() -> bool) {
    signal(pid, Signal::KILL, still);
}

/// The same with another signal.
fn signal(pid: Pid, signal: Signal, still: impl Fn() -> bool) {
    if let Ok(handle) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        && still()
    {
        let _ = rustix::process::pidfd_send_signal(handle, signal);
    }
}

/// Kills agents of this mark, and with each its whole namespace; waits until they are gone. Whether they are; blocks.
pub(super) fn kill_sandbox(mark: &str, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    loop {
        let found = agents(|other| (other == mark).then_some(()));
        if found.is_empty() {
            return true;
        }
        for (pid, ()) in found {
            kill(pid, || is_first(pid));
        }
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Programs of a sandbox that were stopped and go on when this is dropped: what there is in place of a freezer. They could notice.
pub(super) struct Stopped {
    programs: Vec<Pid>,
    /// There as long as they stand: a server that was killed meanwhile left them so ([`go_on`]).
    note: PathBuf,
}

impl Stopped {
    /// All that run under the agent of this mark; blocks until they stand, for a second at most.
    ///
    /// # Errors
    /// When the note cannot be written; nothing is stopped then.
    pub(super) fn all(mark: &str, home: &Path) -> io::Result<Self> {
        let mut stopped = Self { programs: Vec::new(), note: home.join(STOPPED) };
        fs::write(&stopped.note, "")?;
        let found = agents(|other| (other == mark).then_some(()));
        for _ in 0..50 {
            let running: Vec<Pid> = found.iter().flat_map(|(agent, ())| others(*agent)).filter(|pid| !stands(*pid)).collect();
            if running.is_empty() {
                break;
            }
            for pid in running {
                signal(pid, Signal::STOP, || found.iter().any(|(agent, ())| others(*agent).contains(&pid)));
                if !stopped.programs.contains(&pid) {
                    stopped.programs.push(pid);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.programs {
            signal(*pid, Signal::CONT, || stands(*pid));
        }
        let _ = fs::remove_file(&self.note);
    }
}

/// Has programs go on that a server stopped and did not live to continue; one that its own shell stopped goes on with them. Blocks.
pub(super) fn go_on(mark: &str, home: &Path) {
    let note = home.join(STOPPED);
    if !note.exists() {
        return;
    }
    for (agent, ()) in agents(|other| (other == mark).then_some(())) {
        for pid in others(agent) {
            signal(pid, Signal::CONT, || others(agent).contains(&pid));
        }
    }
    let _ = fs::remove_file(note);
}

/// Whether it is stopped, or no more.
fn stands(pid: Pid) -> bool {
    let stat = fs::read_to_string(proc(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't', 'Z', 'X']))
}

/// Threads of a process whose descriptors are looked at: each may have a table of its own.
const MAX_THREADS: usize = 64;

/// Bytes on disk that no folder shows any more: files that are deleted and still open, or mapped.
pub(super) fn deleted_bytes(agent: Pid, device: u64) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::BTreeSet::new();
    let mut bytes = 0;
    for pid in others(agent) {
        let threads =
            fs::read_dir(proc(pid).join("task")).into_iter().flatten().flatten().take(MAX_THREADS).map(|task| task.path().join("fd"));
        let held = threads.chain([proc(pid).join("map_files")]);
        for entry in held.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten()) {
            if let Ok(about) = fs::metadata(entry.path())
                && about.nlink() == 0
                && about.dev() == device
                && about.is_file()
                && seen.insert(about.ino())
            {
                bytes += about.blocks() * 512;
            }
        }
    }
    bytes
}
