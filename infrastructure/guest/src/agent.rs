//! One thread, one `poll`: connections, programs, files and tunnels take turns.
//!
//! Place: behind [`options`]; `connection` speaks the protocol, `program`, `files` and `tunnel` do the work of a channel. Rule: no thread and
//! no child is needed to go on answering, so a sandbox whose programs have used up every process can still be asked, and ended. Nothing
//! that is read, from the server or from a program, panics it: as process 1 it would take the sandbox with it.

mod connection;
mod files;
mod init;
mod interface;
pub mod options;
mod program;
pub(crate) mod sys;
mod tunnel;
mod usage;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use connection::{Connection, Role};
use options::{Options, Transport};

/// Most connections at once: the server needs one, a health check another.
const MAX_CONNECTIONS: usize = 8;

/// How long an agent that ends with its first connection waits for it.
const UNOWNED: Duration = Duration::from_secs(30);

/// Whom a ready descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Listener(usize),
    Connection(u64),
    Channel(u64, u32, Role),
}

/// What outlives a connection and its requests.
pub(crate) struct Setting {
    options: Options,
    /// Process 1: it must reap what others leave.
    first: bool,
    /// A virtual machine's own process 1: it may set the clock and turn the machine off.
    machine: bool,
    /// When everything must be over.
    ending: Option<Instant>,
}

struct Agent {
    setting: Setting,
    listeners: Vec<OwnedFd>,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    begun: Instant,
    /// Told to end once already.
    asked: bool,
}

/// Works until it is told to end, or until the only connection it can have is over.
pub fn run(mut options: Options) -> Result<(), String> {
    sys::shut_in(&options.descriptors());
    let machine = options.init;
    if machine {
        init::boot(&mut options).inspect_err(|reason| init::last_words(reason))?;
    }
    sys::watch_for_termination();
    let first = rustix::process::getpid() == Pid::INIT;
    let mut agent = Agent {
        listeners: Vec::new(),
        connections: BTreeMap::new(),
        next: 0,
        begun: Instant::now(),
        asked: false,
        setting: Setting { options, first, machine, ending: None },
    };
    agent.open()?;
    while agent.turn()? {}
    agent.end();
    Ok(())
}

impl Agent {
    fn open(&mut self) -> Result<(), String> {
        for transport in self.setting.options.transports.clone() {
            match &transport {
                Transport::Unix(path) => self.listeners.push(sys::listen_unix(path).map_err(|e| format!("cannot listen on {path}: {e}"))?),
                Transport::ListenFd(fd) => self.listeners.push(sys::inherited(*fd)?),
                Transport::Vsock(port) => {
                    self.listeners.push(sys::listen_vsock(*port).map_err(|e| format!("cannot listen on vsock port {port}: {e}"))?);
                }
                Transport::Fd(fd) => {
                    let fd = sys::inherited(*fd)?;
                    self.add(Connection::stream(fd)?);
                }
                Transport::Serial(path) => {
                    let key = self.setting.options.key.ok_or("a serial port needs --key")?;
                    let fd = sys::open_serial(path).map_err(|e| format!("cannot open {path}: {e}"))?;
                    self.add(Connection::serial(fd, key));
                }
            }
        }
        if self.listeners.is_empty() && self.connections.is_empty() {
            return Err("no transport: give --unix, --listen-fd, --vsock, --fd or --serial".into());
        }
        Ok(())
    }

    fn add(&mut self, connection: Connection) {
        self.connections.insert(self.next, connection);
        self.next += 1;
    }

    /// Waits, serves all that is ready once. False when there is no more to do.
    fn turn(&mut self) -> Result<bool, String> {
        let ready = self.wait()?;
        for (who, flags) in ready {
            match who {
                Who::Listener(index) => self.accept(index),
                Who::Connection(id) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.serve(flags, &mut self.setting);
                    }
                }
                Who::Channel(id, channel, role) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.serve_channel(channel, role, flags);
                    }
                }
            }
        }
        self.reap();
        let now = Instant::now();
        for connection in self.connections.values_mut() {
            connection.tick(now);
            connection.flush();
        }
        self.connections.retain(|_, connection| !connection.is_over());
        if sys::is_terminated() && self.setting.ending.is_none() {
            self.setting.ending = Some(now + Duration::from_secs(5));
        }
        // Whoever began it may be gone before it connected.
        let unowned = self.setting.options.owned && (self.next > 0 || now.duration_since(self.begun) > UNOWNED);
        let unreachable = (self.listeners.is_empty() || unowned) && self.connections.is_empty();
        Ok(!unreachable && !self.is_ending(now))
    }

    fn wait(&self) -> Result<Vec<(Who, PollFlags)>, String> {
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        let mut whose = Vec::new();
        for (index, listener) in self.listeners.iter().enumerate() {
            fds.push(PollFd::new(listener, PollFlags::IN));
            whose.push(Who::Listener(index));
        }
        for (id, connection) in &self.connections {
            connection.watch(|fd, channel| {
                fds.push(fd);
                whose.push(match channel {
                    None => Who::Connection(*id),
                    Some((channel, role)) => Who::Channel(*id, channel, role),
                });
            });
        }
        let timeout = self.timeout();
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("poll: {error}")),
        }
        Ok(fds.iter().zip(whose).map(|(fd, who)| (who, fd.revents())).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn timeout(&self) -> Duration {
        // Process 1 looks for orphans once a second; nothing wakes it for them.
        let idle = if self.setting.ending.is_some() {
            Duration::from_millis(20)
        } else if self.setting.first {
            Duration::from_secs(1)
        } else {
            Duration::from_secs(60)
        };
        let now = Instant::now();
        self.connections.values().filter_map(|connection| connection.due(now)).fold(idle, Duration::min)
    }

    fn accept(&mut self, index: usize) {
        let Some(listener) = self.listeners.get(index) else { return };
        let Ok(fd) = rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK) else {
            return;
        };
        if self.connections.len() < MAX_CONNECTIONS
            && let Ok(connection) = Connection::stream(fd)
        {
            self.add(connection);
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            self.connections.values_mut().any(|connection| connection.reaped(pid, status));
        }
    }

    /// Whether the time to end has come; asks programs to end first.
    fn is_ending(&mut self, now: Instant) -> bool {
        let Some(deadline) = self.setting.ending else { return false };
        if !self.asked {
            self.asked = true;
            self.signal_all(rustix::process::Signal::TERM);
        }
        let alone = match wait(WaitOptions::NOHANG) {
            Err(rustix::io::Errno::CHILD) => true,
            // It ended since the last look: whoever waits for it is told in the next turn.
            Ok(Some((pid, status))) => {
                self.connections.values_mut().any(|connection| connection.reaped(pid, status));
                false
            }
            _ => false,
        };
        let sent = self.connections.values().all(Connection::is_flushed);
        (alone && sent) || now >= deadline
    }

    fn signal_all(&mut self, signal: rustix::process::Signal) {
        if self.setting.first {
            sys::signal_everyone(signal);
        } else {
            self.connections.values_mut().for_each(|connection| connection.signal_programs(signal));
        }
    }

    fn end(&mut self) {
        self.signal_all(rustix::process::Signal::KILL);
        self.connections.clear();
        if self.setting.machine {
            init::power_off();
        }
    }
}

/// How a program ended, in shells' numbers.
pub(crate) fn code_of(status: WaitStatus) -> (i32, Option<i32>) {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code, None),
        (None, Some(signal)) => (128 + signal, Some(signal)),
        (None, None) => (255, None),
    }
}
