//! The loop of one shard thread: sleep, read, drain, write.
//!
//! Rule: a turn does bounded work (so many commands, so many batches), then writes; what is left over is taken up at once in
//! the next turn.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use super::Lock;
use super::handover::Rings;
use super::poll::{Poll, Wake};
use super::socket::UdpSocket;
use super::write::Writer;
use crate::control::{Command, Event, ShardStats};
use crate::shard::{Shard, ShardInput, ShardOutput};

/// Commands taken per turn. More: a flood of joins delays media; 256 commands are about 2 ms.
const COMMANDS_PER_TURN: usize = 256;
/// Received batches per turn. More: the first datagram of a burst waits longer to be forwarded.
const BATCHES_PER_TURN: usize = 4;
/// Between two reports of counters.
const REPORT: Duration = Duration::from_secs(1);

pub(super) struct Worker {
    shard: Shard,
    socket: UdpSocket,
    candidates: Vec<SocketAddr>,
    commands: Receiver<Command>,
    wake: Arc<Wake>,
    stats: Arc<Lock<ShardStats>>,
    events: Arc<dyn Fn(Event) + Send + Sync>,
    poll: Poll,
    writer: Writer,
    rings: Rings,
}

impl Worker {
    #[allow(clippy::too_many_arguments, reason = "a constructor of a plain record")]
    pub(super) fn new(
        shard: Shard,
        socket: UdpSocket,
        candidates: Vec<SocketAddr>,
        commands: Receiver<Command>,
        wake: Arc<Wake>,
        stats: Arc<Lock<ShardStats>>,
        events: Arc<dyn Fn(Event) + Send + Sync>,
        rings: Rings,
    ) -> io::Result<Worker> {
        let poll = Poll::new(socket.as_raw_fd(), wake.as_raw_fd())?;
        Ok(Worker { shard, socket, candidates, commands, wake, stats, events, poll, writer: Writer::default(), rings })
    }

    pub(super) fn run(mut self) {
        let mut report_at = clock() + REPORT;
        let (mut failures, mut woken) = (0u32, false);
        loop {
            let now = clock();
            if std::mem::take(&mut woken) {
                self.wake.take();
                if self.shard.has_rings() {
                    self.shard.handle(now, ShardInput::SourceWake);
                }
            }
            let mut more = self.take_commands(now);
            let shard = &mut self.shard;
            self.rings.receive(|input| shard.handle(now, input));
            match self.read(now) {
                Ok(left_over) => {
                    more |= left_over;
                    failures = 0;
                }
                Err(error) => {
                    failures += 1;
                    tracing::error!(%error, "reading from the media socket failed");
                    // A socket that keeps failing must not spin.
                    pause(Duration::from_millis(u64::from(failures.min(100)) * 10));
                }
            }
            // Before anything is written: a claim has to be there when the client hears our answer and goes on.
            let (handovers, stats) = self.shard.handovers();
            self.rings.send(handovers, stats);
            self.shard.handle_timeout(now);
            let deadline = loop {
                match self.shard.poll_output(now) {
                    ShardOutput::Event(event) => (self.events)(event),
                    ShardOutput::Timeout(at) => break at,
                }
            };
            let written = self.writer.flush(&mut self.socket, self.shard.slab());
            let stats = self.shard.stats_mut();
            stats.datagrams_out += written.datagrams;
            stats.bytes_out += written.bytes;
            stats.send_failed += written.failed;
            if now >= report_at || self.shard.is_stopped() {
                report_at = now + REPORT;
                // A reader holds it at this instant: the next report says the same.
                if let Ok(mut report) = self.stats.try_lock() {
                    *report = self.shard.stats();
                }
            }
            if self.shard.is_stopped() {
                return;
            }
            let sleep = if more { Duration::ZERO } else { deadline.min(report_at).saturating_duration_since(clock()) };
            match self.poll.wait(sleep) {
                Ok(by_command) => woken = by_command,
                Err(error) => {
                    tracing::error!(%error, "epoll failed");
                    pause(Duration::from_millis(10));
                }
            }
        }
    }

    /// Takes commands; true when there may be more.
    fn take_commands(&mut self, now: Instant) -> bool {
        for _ in 0..COMMANDS_PER_TURN {
            match self.commands.try_recv() {
                Ok(command) => self.shard.handle(now, ShardInput::Command(command)),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    /// Reads datagrams; true when there may be more.
    fn read(&mut self, now: Instant) -> io::Result<bool> {
        let (shard, candidates, port) = (&mut self.shard, &self.candidates, self.socket.local_address().port());
        for _ in 0..BATCHES_PER_TURN {
            let more = self.socket.receive(|source, ip, bytes| {
                let destination = candidate(candidates, SocketAddr::new(ip, port));
                shard.handle(now, ShardInput::Datagram { source, destination, bytes });
            })?;
            if !more {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The candidate that a datagram was sent to: the address itself, or behind a NAT the advertised one of its family.
fn candidate(candidates: &[SocketAddr], destination: SocketAddr) -> SocketAddr {
    if candidates.contains(&destination) {
        return destination;
    }
    let same_family = |c: &&SocketAddr| c.is_ipv4() == destination.is_ipv4() && !is_loopback(c.ip());
    candidates.iter().find(same_family).copied().unwrap_or(destination)
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.is_loopback()
}

#[expect(clippy::disallowed_methods, reason = "the one clock of the media plane; everything else is handed the time")]
fn clock() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "only after the system refused a read or a wait, so that a broken socket does not spin")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
