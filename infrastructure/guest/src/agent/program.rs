//! One program: its pipes or its terminal, its time, its end.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use auralink_guest::Kind;
use auralink_guest::message::{ErrorCode, Exec, Exit, Reply};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitStatus, kill_process_group, pidfd_open};
use rustix::pty::{OpenptFlags, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::connection::{Next, Port, Refusal, Role};
use super::{code_of, sys, usage};

/// Where programs are looked for when no environment says so.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is still read of pipes after the program's own end: the largest pipe that Linux gives without privilege. What it wrote itself is
/// in there; what a child of its goes on writing is not waited for.
const REST: usize = 1 << 20;

/// How often a program is looked after on kernels that cannot tell of its end.
const NO_PIDFD: Duration = Duration::from_millis(5);

/// A running program.
pub struct Program {
    pid: Pid,
    process: Option<OwnedFd>,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    errors: Option<OwnedFd>,
    terminal: bool,
    /// What its input has not taken yet; at most a window of credit.
    pending: VecDeque<u8>,
    input_ends: bool,
    status: Option<WaitStatus>,
    rest: usize,
    deadline: Option<Instant>,
    timed_out: bool,
    memory_events: Option<String>,
    memory_kills: u64,
}

impl Program {
    /// Starts it.
    pub fn start(exec: &Exec, memory_events: Option<&str>) -> Result<Self, Refusal> {
        let name = exec.argv.first().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Refusal(ErrorCode::Invalid, "no program: argv is empty".into()))?;
        let mut command = command(name, exec)?;
        let memory_kills = usage::memory_kills(memory_events);
        let mut program = match exec.tty {
            Some((rows, columns)) => Self::with_terminal(&mut command, rows, columns),
            None => Self::with_pipes(&mut command),
        }
        .map_err(|error| why_not(name, &error))?;
        program.deadline = exec.timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms.min(365 * 86_400_000)));
        program.memory_events = memory_events.map(str::to_owned);
        program.memory_kills = memory_kills;
        Ok(program)
    }

    fn with_pipes(command: &mut Command) -> std::io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = sys::spawn_in_session(command, false)?;
        let pid = child.id();
        let mut ends =
            [child.stdin.take().map(OwnedFd::from), child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)];
        ends.iter().flatten().try_for_each(sys::set_nonblocking)?;
        let [input, output, errors] = &mut ends;
        Self::begun(pid, input.take(), output.take(), errors.take(), false)
    }

    fn with_terminal(command: &mut Command, rows: u16, columns: u16) -> std::io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        unlockpt(&master)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        tcsetwinsize(&slave, size(rows, columns))?;
        sys::set_nonblocking(&master)?;
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let child = sys::spawn_in_session(command, true)?;
        let input = master.try_clone()?;
        Self::begun(child.id(), Some(input), Some(master), None, true)
    }

    fn begun(pid: u32, input: Option<OwnedFd>, output: Option<OwnedFd>, errors: Option<OwnedFd>, terminal: bool) -> std::io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| std::io::Error::other("a child without a number"))?;
        Ok(Self {
            pid,
            process: pidfd_open(pid, PidfdFlags::empty()).ok(),
            input,
            output,
            errors,
            terminal,
            pending: VecDeque::new(),
            input_ends: false,
            status: None,
            rest: REST,
            deadline: None,
            timed_out: false,
            memory_events: None,
            memory_kills: 0,
        })
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub fn watch<'a>(&'a self, can_send: bool, mut each: impl FnMut(PollFd<'a>, Role)) {
        if let Some(process) = self.process.as_ref().filter(|_| self.status.is_none()) {
            each(PollFd::new(process, PollFlags::IN), Role::Process);
        }
        if let Some(input) = self.input.as_ref().filter(|_| !self.pending.is_empty()) {
            each(PollFd::new(input, PollFlags::OUT), Role::Input);
        }
        // After its end the pipes are read as they are, see `finish`: waiting for them could be waiting for a daemon.
        if can_send && self.status.is_none() {
            for (fd, role) in [(&self.output, Role::Output), (&self.errors, Role::Errors)] {
                if let Some(fd) = fd {
                    each(PollFd::new(fd, PollFlags::IN), role);
                }
            }
        }
    }

    /// How long it can be left alone.
    pub fn due(&self, now: Instant) -> Option<Duration> {
        let deadline = self.deadline.filter(|_| self.status.is_none()).map(|deadline| deadline.saturating_duration_since(now));
        let look = (self.process.is_none() && self.status.is_none()).then_some(NO_PIDFD);
        deadline.into_iter().chain(look).min()
    }

    pub fn serve(&mut self, role: Role, port: &mut Port<'_>) -> Next {
        match role {
            Role::Process => {}
            Role::Input => self.feed(port),
            Role::Output => drop(pass(&mut self.output, Kind::Stdout, port)),
            Role::Errors => drop(pass(&mut self.errors, Kind::Stderr, port)),
        }
        Next::Stays
    }

    /// Bytes for its input.
    pub fn input(&mut self, bytes: &[u8], port: &mut Port<'_>) -> Next {
        if self.input.is_none() || self.input_ends {
            port.passed_on(bytes.len());
        } else {
            self.pending.extend(bytes);
            self.feed(port);
        }
        Next::Stays
    }

    pub fn input_ends(&mut self) {
        if self.terminal && !self.input_ends && self.input.is_some() {
            self.pending.push_back(4); // Ctrl-D: a terminal cannot be closed for input alone
        }
        self.input_ends = true;
        if self.pending.is_empty() {
            self.input = None;
        }
    }

    fn feed(&mut self, port: &mut Port<'_>) {
        while let Some(input) = self.input.as_ref().filter(|_| !self.pending.is_empty()) {
            match rustix::io::write(input, self.pending.as_slices().0) {
                Ok(length) => {
                    self.pending.drain(..length);
                    port.passed_on(length);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => {
                    port.passed_on(self.pending.len());
                    self.pending.clear();
                    self.input = None;
                }
            }
        }
        if self.input_ends {
            self.input = None;
        }
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        if let Some(master) = self.output.as_ref().filter(|_| self.terminal) {
            let _ = tcsetwinsize(master, size(rows, columns));
        }
    }

    /// A signal to its group, by number. What is no signal is nothing.
    pub fn signal(&self, number: i32) {
        if let Some(signal) = Signal::from_named_raw(number).filter(|_| self.status.is_none()) {
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// A signal to its session, which has its group and those that a shell with job control made.
    pub fn signal_all(&mut self, signal: Signal) {
        if self.status.is_some() {
            return;
        }
        let _ = kill_process_group(self.pid, signal);
        // Once more as long as some are found: one may have been forking.
        for _ in 0..8 {
            let members = usage::session(self.pid.as_raw_nonzero().get());
            if members.is_empty() {
                return;
            }
            for member in members {
                let _ = rustix::process::kill_process(member, signal);
            }
            if signal != Signal::KILL {
                return;
            }
        }
    }

    /// Whether it is this one that ended.
    pub fn reaped(&mut self, pid: Pid, status: WaitStatus) -> bool {
        let mine = pid == self.pid && self.status.is_none();
        if mine {
            self.status = Some(status);
            self.process = None;
        }
        mine
    }

    pub fn tick(&mut self, now: Instant, port: &mut Port<'_>) -> Next {
        if self.status.is_none() && self.deadline.is_some_and(|deadline| now >= deadline) {
            self.deadline = None;
            self.timed_out = true;
            self.signal_all(Signal::KILL);
        }
        self.feed(port);
        match self.status {
            Some(status) => self.finish(status, port),
            None => Next::Stays,
        }
    }

    /// Sends what is left in its pipes, then its end.
    fn finish(&mut self, status: WaitStatus, port: &mut Port<'_>) -> Next {
        self.input = None;
        for (fd, kind) in [(&mut self.output, Kind::Stdout), (&mut self.errors, Kind::Stderr)] {
            while fd.is_some() {
                if port.room() == 0 {
                    return Next::Stays;
                }
                match pass(fd, kind, port) {
                    Some(length) if length > 0 && self.rest > 0 => self.rest = self.rest.saturating_sub(length),
                    _ => *fd = None,
                }
            }
        }
        let (code, signal) = code_of(status);
        let killed = signal == Some(9) || code == 137;
        let out_of_memory = killed && !self.timed_out && usage::memory_kills(self.memory_events.as_deref()) > self.memory_kills;
        port.reply(&Reply::Exited(Exit { code, signal, timed_out: self.timed_out, out_of_memory }));
        Next::Over
    }
}

impl Drop for Program {
    /// Whoever wanted its output is gone.
    fn drop(&mut self) {
        self.signal_all(Signal::KILL);
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Sends one read's worth; how much it was, none when there is nothing now. Closed at its end.
fn pass(fd: &mut Option<OwnedFd>, kind: Kind, port: &mut Port<'_>) -> Option<usize> {
    let mut buffer = [0; auralink_guest::frame::CHUNK];
    let room = port.room();
    if room == 0 {
        return None;
    }
    match rustix::io::read(fd.as_ref()?, &mut buffer[..room]) {
        Ok(length) if length > 0 => {
            port.content(kind, &buffer[..length]);
            Some(length)
        }
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => None,
        // Of a terminal, EIO says that nobody has it open any more.
        Ok(_) | Err(_) => {
            *fd = None;
            None
        }
    }
}

fn command(name: &str, exec: &Exec) -> Result<Command, Refusal> {
    if let Some(bad) = exec.argv.iter().chain(exec.env.keys()).chain(exec.env.values()).find(|text| text.contains('\0')) {
        return Err(Refusal(ErrorCode::Invalid, format!("{bad:?} has a zero byte")));
    }
    let mut command = Command::new(name);
    command.args(&exec.argv[1..]);
    if std::env::var_os("PATH").is_none() {
        command.env("PATH", PATH);
    }
    if !exec.user.is_empty() {
        let user = User::find(&exec.user)?;
        command.uid(user.uid).gid(user.gid).env("HOME", &user.home);
    }
    if exec.tty.is_some() {
        command.env("TERM", "xterm-256color");
    }
    command.envs(&exec.env);
    if !exec.cwd.is_empty() {
        if !Path::new(&exec.cwd).is_dir() {
            return Err(Refusal(ErrorCode::NotFound, format!("there is no folder {:?} to run in", exec.cwd)));
        }
        command.current_dir(&exec.cwd);
    }
    Ok(command)
}

fn why_not(name: &str, error: &std::io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => Refusal(ErrorCode::NoProgram, name.to_owned()),
        Some(libc::EAGAIN) => Refusal(ErrorCode::Exhausted, format!("{name} cannot be started: the sandbox's processes are used up")),
        Some(libc::ENOMEM) => Refusal(ErrorCode::Exhausted, format!("{name} cannot be started: the sandbox's memory is used up")),
        Some(libc::EACCES) => Refusal(ErrorCode::Denied, format!("{name} may not be run: {error}")),
        Some(libc::E2BIG) => Refusal(ErrorCode::Invalid, format!("{name} cannot be started: its arguments are too long")),
        _ => Refusal::of(format_args!("{name} cannot be started"), error),
    }
}

struct User {
    uid: u32,
    gid: u32,
    home: String,
}

impl User {
    /// By `name`, `number`, or either with `:group`, as the sandbox's own `/etc/passwd` and `/etc/group` have them.
    fn find(wanted: &str) -> Result<Self, Refusal> {
        let (name, group) = wanted.split_once(':').map_or((wanted, None), |(name, group)| (name, Some(group)));
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let line = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.first() == Some(&name) || fields.get(2) == Some(&name));
        let number = |text: Option<&&str>| text.and_then(|text| text.parse::<u32>().ok());
        let mut user = match (line, name.parse::<u32>()) {
            (Some(fields), _) => {
                let ids = number(fields.get(2)).zip(number(fields.get(3)));
                let (uid, gid) = ids.ok_or_else(|| Refusal(ErrorCode::Invalid, format!("/etc/passwd has no numbers for {name:?}")))?;
                Self { uid, gid, home: fields.get(5).map_or_else(|| "/".to_owned(), |home| (*home).to_owned()) }
            }
            (None, Ok(uid)) => Self { uid, gid: uid, home: "/".into() },
            (None, Err(_)) => return Err(Refusal(ErrorCode::NotFound, format!("there is no user {name:?} in the sandbox"))),
        };
        if let Some(group) = group {
            let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
            let found = groups.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&group));
            user.gid = found
                .and_then(|fields| number(fields.get(2)))
                .or_else(|| group.parse().ok())
                .ok_or_else(|| Refusal(ErrorCode::NotFound, format!("there is no group {group:?} in the sandbox")))?;
        }
        Ok(user)
    }
}
