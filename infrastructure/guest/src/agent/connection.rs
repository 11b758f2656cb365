//! One connection: frames in, frames out, and the channels between.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use auralink_guest::frame::{self, Frame, Kind, WINDOW};
use auralink_guest::message::{self, ErrorCode, Reply, Request, VERSION};
use auralink_guest::{Decoder, FrameError};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitStatus};

use super::files::{Download, Upload};
use super::program::Program;
use super::tunnel::Tunnel;
use super::{Setting, interface, sys, usage};

/// Channels at once. Each program has up to four descriptors, and a process may have 1,024.
const MAX_CHANNELS: usize = 200;

/// Bytes waiting to be sent beyond which nothing more is read, from programs or from the server.
const HIGH_WATER: usize = 1 << 20;

/// How often a serial port that has no host is looked at.
const NO_HOST: Duration = Duration::from_millis(20);

/// Which of a channel's descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Process,
    Input,
    Output,
    Errors,
}

/// What a channel is for.
enum Work {
    Program(Box<Program>),
    Upload(Upload),
    Download(Download),
    Tunnel(Tunnel),
}

/// What a channel's work may do with its connection.
pub struct Port<'a> {
    out: &'a mut Outbox,
    channel: u32,
    credit: &'a mut usize,
    owed: &'a mut usize,
    allowed: &'a mut usize,
}

impl Port<'_> {
    /// Bytes of content that may be sent now; 0: wait for credit, or for the connection.
    pub fn room(&self) -> usize {
        if self.out.len() >= HIGH_WATER { 0 } else { self.credit.saturating_sub(frame::OVERHEAD).min(frame::CHUNK) }
    }

    /// Sends content of at most [`Port::room`] bytes.
    pub fn content(&mut self, kind: Kind, bytes: &[u8]) {
        *self.credit = self.credit.saturating_sub(frame::cost(bytes.len()));
        self.out.frame(kind, self.channel, bytes);
    }

    /// Answers.
    pub fn reply(&mut self, reply: &Reply) {
        self.out.reply(self.channel, reply);
    }

    /// Gives credit back for content that was passed on.
    pub fn passed_on(&mut self, cost: usize) {
        *self.owed += cost;
        if *self.owed >= WINDOW / 8 {
            *self.allowed += *self.owed;
            self.out.frame(Kind::Credit, self.channel, &(*self.owed as u32).to_be_bytes());
            *self.owed = 0;
        }
    }
}

struct Channel {
    credit: usize,
    owed: usize,
    allowed: usize,
    work: Work,
}

/// Bytes to send.
#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    begin: usize,
}

impl Outbox {
    fn len(&self) -> usize {
        self.bytes.len() - self.begin
    }

    fn frame(&mut self, kind: Kind, channel: u32, payload: &[u8]) {
        if self.begin > self.bytes.len() / 2 {
            self.bytes.drain(..self.begin);
            self.begin = 0;
        }
        frame::encode(&mut self.bytes, kind, channel, payload);
    }

    fn reply(&mut self, channel: u32, reply: &Reply) {
        let json = serde_json::to_vec(reply).unwrap_or_default();
        self.frame(Kind::Control, channel, &json);
    }
}

/// What finds the beginning of a connection on a serial port.
struct Beginning {
    key: [u8; 16],
    /// The last bytes before, in which the key may have begun.
    tail: Vec<u8>,
    /// Nothing is understood until the key comes.
    deaf: bool,
    /// Nobody is at the other end; it is looked at again then.
    unplugged: Option<Instant>,
}

/// One connection.
pub struct Connection {
    fd: OwnedFd,
    decoder: Decoder,
    out: Outbox,
    channels: BTreeMap<u32, Channel>,
    last_channel: u32,
    greeted: bool,
    over: bool,
    beginning: Option<Beginning>,
}

impl Connection {
    /// On a socket.
    pub fn stream(fd: OwnedFd) -> Result<Self, String> {
        sys::set_nonblocking(&fd).map_err(|e| format!("cannot make the connection non-blocking: {e}"))?;
        Ok(Self {
            fd,
            decoder: Decoder::default(),
            out: Outbox::default(),
            channels: BTreeMap::new(),
            last_channel: 0,
            greeted: false,
            over: false,
            beginning: None,
        })
    }

    /// On a serial port: it is never over.
    pub fn serial(fd: OwnedFd, key: [u8; 16]) -> Self {
        Self {
            fd,
            decoder: Decoder::default(),
            out: Outbox::default(),
            channels: BTreeMap::new(),
            last_channel: 0,
            greeted: false,
            over: false,
            beginning: Some(Beginning { key, tail: Vec::new(), deaf: true, unplugged: None }),
        }
    }

    pub fn is_over(&self) -> bool {
        self.over
    }

    pub fn is_flushed(&self) -> bool {
        self.over || self.out.len() == 0 || self.beginning.as_ref().is_some_and(|b| b.unplugged.is_some())
    }

    /// Names every descriptor that matters now.
    pub fn watch<'a>(&'a self, mut each: impl FnMut(PollFd<'a>, Option<(u32, Role)>)) {
        let mut flags = if self.out.len() < HIGH_WATER { PollFlags::IN } else { PollFlags::empty() };
        flags.set(PollFlags::OUT, self.out.len() > 0);
        if self.beginning.as_ref().is_none_or(|b| b.unplugged.is_none()) {
            each(PollFd::new(&self.fd, flags), None);
        }
        for (number, channel) in &self.channels {
            let can_send = self.out.len() < HIGH_WATER && channel.credit > frame::OVERHEAD;
            let each = |fd: PollFd<'a>, role: Role| each(fd, Some((*number, role)));
            match &channel.work {
                Work::Program(program) => program.watch(can_send, each),
                Work::Tunnel(tunnel) => tunnel.watch(can_send, each),
                Work::Upload(_) | Work::Download(_) => {}
            }
        }
    }

    /// How long it can wait at most.
    pub fn due(&self, now: Instant) -> Option<Duration> {
        let unplugged = self.beginning.as_ref().is_some_and(|b| b.unplugged.is_some()).then_some(NO_HOST);
        let room = self.out.len() < HIGH_WATER;
        let channels = self.channels.values().filter_map(|channel| match &channel.work {
            Work::Program(program) => program.due(now),
            Work::Download(_) => (room && channel.credit > frame::OVERHEAD).then_some(Duration::ZERO),
            Work::Upload(_) | Work::Tunnel(_) => None,
        });
        channels.chain(unplugged).min()
    }

    /// Reads and writes as far as it goes without waiting.
    pub fn serve(&mut self, flags: PollFlags, setting: &mut Setting) {
        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.read(flags, setting);
        }
        self.flush();
    }

    fn read(&mut self, flags: PollFlags, setting: &mut Setting) {
        let mut buffer = [0; 64 << 10];
        match rustix::io::read(&self.fd, &mut buffer) {
            Ok(0) => self.lost(),
            Ok(length) => self.take(&buffer[..length], setting),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                if flags.contains(PollFlags::HUP) {
                    self.lost();
                }
            }
            Err(_) => self.lost(),
        }
    }

    /// The other end is gone.
    fn lost(&mut self) {
        match &mut self.beginning {
            Some(beginning) => {
                beginning.unplugged = Some(Instant::now() + NO_HOST);
                beginning.deaf = true;
                self.forget();
            }
            None => self.over = true,
        }
    }

    fn forget(&mut self) {
        self.channels.clear();
        self.decoder = Decoder::default();
        self.out = Outbox::default();
        self.last_channel = 0;
        self.greeted = false;
    }

    fn take(&mut self, bytes: &[u8], setting: &mut Setting) {
        let Some(beginning) = &mut self.beginning else { return self.understand(bytes, setting) };
        let held = beginning.tail.len();
        beginning.tail.extend_from_slice(bytes);
        let seen = std::mem::take(&mut beginning.tail);
        let found = seen.windows(32).rposition(|window| window[..16] == beginning.key);
        beginning.tail = seen[seen.len().saturating_sub(31)..].to_vec();
        match found {
            Some(at) => {
                beginning.deaf = false;
                beginning.tail.clear();
                self.forget();
                self.out.bytes.extend_from_slice(&seen[at..at + 32]);
                self.understand(&seen[at + 32..], setting);
            }
            None if !beginning.deaf => self.understand(&seen[held..], setting),
            None => {}
        }
    }

    fn understand(&mut self, bytes: &[u8], setting: &mut Setting) {
        self.decoder.push(bytes);
        let result = loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => {
                    if let Err(reason) = self.frame(&frame, setting) {
                        break Err(reason);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.to_string()),
            }
        };
        if let Err(message) = result {
            self.out.reply(0, &Reply::Error { code: ErrorCode::Invalid, message });
            self.flush();
            self.channels.clear();
            match &mut self.beginning {
                Some(beginning) => beginning.deaf = true,
                None => self.over = true,
            }
        }
    }

    /// Serves one frame. An error is the connection's end.
    fn frame(&mut self, frame: &Frame, setting: &mut Setting) -> Result<(), String> {
        match frame.kind {
            Kind::Control => {
                let request = serde_json::from_slice(&frame.payload).map_err(|e| format!("a request that is not understood: {e}"))?;
                self.request(frame.channel, request, setting)
            }
            Kind::Credit => {
                let amount = frame.credit().map_err(|e: FrameError| e.to_string())? as usize;
                if let Some(channel) = self.channels.get_mut(&frame.channel) {
                    channel.credit = channel.credit.saturating_add(amount).min(WINDOW);
                }
                Ok(())
            }
            Kind::Stdin | Kind::Data => self.content(frame),
            Kind::Stdout | Kind::Stderr => Err("output of a program, from the server".into()),
        }
    }

    fn content(&mut self, frame: &Frame) -> Result<(), String> {
        let Some(channel) = self.channels.get_mut(&frame.channel) else { return Ok(()) };
        let cost = frame::cost(frame.payload.len());
        channel.allowed =
            channel.allowed.checked_sub(cost).ok_or_else(|| format!("channel {} sent more than its credit", frame.channel))?;
        self.work(frame.channel, |work, port| {
            port.passed_on(frame::OVERHEAD);
            match work {
                Work::Program(program) => program.input(&frame.payload, port),
                Work::Upload(upload) => upload.content(&frame.payload, port),
                Work::Tunnel(tunnel) => tunnel.content(&frame.payload, port),
                Work::Download(_) => Next::Stays,
            }
        });
        Ok(())
    }

    /// Lets a channel's work do something, and forgets the channel when it is over.
    fn work(&mut self, number: u32, act: impl FnOnce(&mut Work, &mut Port<'_>) -> Next) {
        let Some(Channel { credit, owed, allowed, work }) = self.channels.get_mut(&number) else { return };
        let mut port = Port { out: &mut self.out, channel: number, credit, owed, allowed };
        if act(work, &mut port) == Next::Over {
            self.channels.remove(&number);
        }
    }

    pub fn serve_channel(&mut self, number: u32, role: Role, flags: PollFlags) {
        self.work(number, |work, port| match work {
            Work::Program(program) => program.serve(role, port),
            Work::Tunnel(tunnel) => tunnel.serve(flags, port),
            Work::Upload(_) | Work::Download(_) => Next::Stays,
        });
    }

    /// What time brings, and what needs no descriptor.
    pub fn tick(&mut self, now: Instant) {
        if let Some(beginning) = &mut self.beginning {
            beginning.unplugged = beginning.unplugged.filter(|until| now < *until);
        }
        let numbers: Vec<u32> = self.channels.keys().copied().collect();
        for number in numbers {
            self.work(number, |work, port| match work {
                Work::Program(program) => program.tick(now, port),
                Work::Download(download) => download.go_on(port),
                Work::Upload(_) | Work::Tunnel(_) => Next::Stays,
            });
        }
    }

    /// A child ended; true when it was one of this connection's.
    pub fn reaped(&mut self, pid: Pid, status: WaitStatus) -> bool {
        self.channels.values_mut().any(|channel| match &mut channel.work {
            Work::Program(program) => program.reaped(pid, status),
            _ => false,
        })
    }

    pub fn signal_programs(&mut self, signal: Signal) {
        for channel in self.channels.values_mut() {
            if let Work::Program(program) = &mut channel.work {
                program.signal_all(signal);
            }
        }
    }

    /// Sends what it can without waiting.
    pub fn flush(&mut self) {
        while self.out.len() > 0 && !self.over {
            match rustix::io::write(self.fd.as_fd(), &self.out.bytes[self.out.begin..]) {
                Ok(0) => return,
                Ok(length) => self.out.begin += length,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => return self.lost(),
            }
        }
        if self.out.len() == 0 {
            self.out.bytes.clear();
            self.out.bytes.shrink_to(HIGH_WATER / 8);
            self.out.begin = 0;
        }
    }

    fn request(&mut self, number: u32, request: Request, setting: &mut Setting) -> Result<(), String> {
        if let Request::Hello { version, entropy, clock } = request {
            if version != VERSION {
                return Err(format!(
                    "protocol version {version}; this agent speaks {VERSION}: let the server and the agent be of one release"
                ));
            }
            self.greeted = true;
            let reseeded = refresh(&entropy, clock, setting);
            self.out.reply(number, &Reply::Hello { version: VERSION, agent: env!("CARGO_PKG_VERSION").into(), reseeded });
            return Ok(());
        }
        if !self.greeted {
            return Err("a request before the hello".into());
        }
        match request {
            Request::Signal { .. } | Request::Resize { .. } | Request::Eof | Request::Close => {
                self.work(number, |work, port| tell(work, &request, port));
                return Ok(());
            }
            _ if number <= self.last_channel => return Err(format!("channel {number} is not new")),
            _ => self.last_channel = number,
        }
        let opened = if self.channels.len() >= MAX_CHANNELS {
            Err(Refusal(ErrorCode::Exhausted, format!("{MAX_CHANNELS} programs, files and connections are open: wait until some are over")))
        } else {
            open(request, setting)
        };
        match opened {
            Ok((reply, work)) => {
                self.out.reply(number, &reply);
                if let Some(work) = work {
                    self.channels.insert(number, Channel { credit: WINDOW, owed: 0, allowed: WINDOW, work });
                    self.work(number, |work, port| match work {
                        Work::Upload(upload) => upload.content(&[], port),
                        _ => Next::Stays,
                    });
                }
            }
            Err(Refusal(code, message)) => self.out.reply(number, &Reply::Error { code, message }),
        }
        Ok(())
    }
}

/// Whether a channel goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Stays,
    Over,
}

/// Why a request was not done.
#[derive(Debug)]
pub struct Refusal(pub ErrorCode, pub String);

impl Refusal {
    /// With the code that fits an error of the system.
    pub fn of(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let code = match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => ErrorCode::NotFound,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ErrorCode::Denied,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::OutOfMemory | ErrorKind::WouldBlock => ErrorCode::Exhausted,
            ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::InvalidInput | ErrorKind::InvalidFilename => ErrorCode::Invalid,
            _ if error.raw_os_error() == Some(libc::EMFILE) => ErrorCode::Exhausted,
            _ if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::EXDEV)) => ErrorCode::Invalid,
            _ => ErrorCode::Failed,
        };
        Self(code, format!("{what}: {error}"))
    }
}

fn refresh(entropy: &str, clock: Option<u64>, setting: &Setting) -> bool {
    let reseeded = message::unhex(entropy).is_some_and(|bytes| sys::add_entropy(&bytes[..bytes.len().min(512)]));
    if let Some(nanoseconds) = clock.filter(|_| setting.machine) {
        let now = rustix::time::Timespec {
            tv_sec: i64::try_from(nanoseconds / 1_000_000_000).unwrap_or_default(),
            tv_nsec: (nanoseconds % 1_000_000_000) as _,
        };
        let _ = rustix::time::clock_settime(rustix::time::ClockId::Realtime, now);
    }
    reseeded
}

fn open(request: Request, setting: &mut Setting) -> Result<(Reply, Option<Work>), Refusal> {
    Ok(match request {
        Request::Exec(exec) => {
            let program = Program::start(&exec, setting.options.memory_events.as_deref())?;
            (Reply::Started { pid: program.pid() }, Some(Work::Program(Box::new(program))))
        }
        Request::WriteFile { path, mode, size } => (Reply::Ready, Some(Work::Upload(Upload::begin(&path, mode, size)?))),
        Request::ReadFile { path } => {
            let download = Download::file(&path)?;
            (Reply::File { size: download.size(), mode: download.mode() }, Some(Work::Download(download)))
        }
        Request::ListFolder { path, limit } => {
            let download = Download::listing(&path, limit as usize)?;
            (Reply::File { size: download.size(), mode: 0 }, Some(Work::Download(download)))
        }
        Request::Dial { port } => (Reply::Ready, Some(Work::Tunnel(Tunnel::begin(port)?))),
        Request::Usage => (Reply::Usage(usage::now()), None),
        Request::Ping => (Reply::Done, None),
        Request::Keep { file_bytes } => {
            let most = Some(file_bytes);
            rustix::process::setrlimit(Resource::Fsize, Rlimit { current: most, maximum: most })
                .map_err(|e| Refusal::of("the largest file", &e.into()))?;
            setting.options.owned = false;
            (Reply::Done, None)
        }
        Request::Reseed { entropy, clock } => {
            let reseeded = refresh(&entropy, clock, setting);
            (Reply::Hello { version: VERSION, agent: env!("CARGO_PKG_VERSION").into(), reseeded }, None)
        }
        Request::Network(wanted) => {
            interface::configure(&wanted)?;
            (Reply::Done, None)
        }
        Request::Shutdown { grace_ms } => {
            setting.ending = Some(Instant::now() + Duration::from_millis(grace_ms.min(600_000)));
            (Reply::Done, None)
        }
        Request::Hello { .. } | Request::Signal { .. } | Request::Resize { .. } | Request::Eof | Request::Close => {
            return Err(Refusal(ErrorCode::Invalid, "no request to open a channel with".into()));
        }
    })
}

fn tell(work: &mut Work, request: &Request, port: &mut Port<'_>) -> Next {
    match (work, request) {
        (_, Request::Close) => return Next::Over,
        (Work::Program(program), Request::Signal { signal }) => program.signal(*signal),
        (Work::Program(program), Request::Resize { rows, columns }) => program.resize(*rows, *columns),
        (Work::Program(program), Request::Eof) => program.input_ends(),
        (Work::Tunnel(tunnel), Request::Eof) => return tunnel.input_ends(port),
        _ => {}
    }
    Next::Stays
}
