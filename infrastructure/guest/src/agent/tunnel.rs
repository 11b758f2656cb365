//! A TCP connection to a port on the sandbox's loopback.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use auralink_guest::Kind;
use auralink_guest::message::{ErrorCode, Reply};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};

use super::connection::{Next, Port, Refusal, Role};

/// One connection.
pub struct Tunnel {
    socket: OwnedFd,
    /// What the socket has not taken yet; at most a window of credit.
    pending: VecDeque<u8>,
    /// The client's half has ended.
    input_ended: bool,
    /// The sandbox's half has ended.
    output_ended: bool,
}

impl Tunnel {
    /// To 127.0.0.1, or else to ::1. On a loopback a connection is made or refused at once, except when the listener's queue is full.
    pub fn begin(port: u16) -> Result<Self, Refusal> {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let socket = connect(AddressFamily::INET, v4)
            .or_else(|error| connect(AddressFamily::INET6, SocketAddr::from((Ipv6Addr::LOCALHOST, port))).map_err(|_| error))
            .map_err(|error| match error {
                Errno::CONNREFUSED => Refusal(ErrorCode::NotFound, format!("nothing listens on port {port} in the sandbox")),
                error => Refusal::of(format_args!("cannot connect to port {port}"), &error.into()),
            })?;
        Ok(Self { socket, pending: VecDeque::new(), input_ended: false, output_ended: false })
    }

    pub fn watch<'a>(&'a self, can_send: bool, mut each: impl FnMut(PollFd<'a>, Role)) {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, can_send && !self.output_ended);
        flags.set(PollFlags::OUT, !self.pending.is_empty());
        if !flags.is_empty() {
            each(PollFd::new(&self.socket, flags), Role::Output);
        }
    }

    pub fn serve(&mut self, flags: PollFlags, port: &mut Port<'_>) -> Next {
        if flags.intersects(PollFlags::OUT) && self.feed(port) == Next::Over {
            return Next::Over;
        }
        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && !self.output_ended && port.room() > 0 {
            let mut buffer = [0; auralink_guest::frame::CHUNK];
            match rustix::io::read(&self.socket, &mut buffer[..port.room()]) {
                Ok(0) => {
                    self.output_ended = true;
                    port.reply(&Reply::Eof);
                }
                Ok(length) => port.content(Kind::Data, &buffer[..length]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return closed(port),
            }
        }
        self.settle(port)
    }

    pub fn content(&mut self, bytes: &[u8], port: &mut Port<'_>) -> Next {
        self.pending.extend(bytes);
        self.feed(port)
    }

    pub fn input_ends(&mut self, port: &mut Port<'_>) -> Next {
        self.input_ended = true;
        self.feed(port)
    }

    fn feed(&mut self, port: &mut Port<'_>) -> Next {
        while !self.pending.is_empty() {
            match rustix::net::send(&self.socket, self.pending.as_slices().0, rustix::net::SendFlags::NOSIGNAL) {
                Ok(length) => {
                    self.pending.drain(..length);
                    port.passed_on(length);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Next::Stays,
                Err(_) => return closed(port),
            }
        }
        self.settle(port)
    }

    fn settle(&mut self, port: &mut Port<'_>) -> Next {
        if self.input_ended && self.pending.is_empty() {
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
            if self.output_ended {
                return closed(port);
            }
        }
        Next::Stays
    }
}

fn closed(port: &mut Port<'_>) -> Next {
    port.reply(&Reply::Closed);
    Next::Over
}

fn connect(family: AddressFamily, address: SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error),
    }
    rustix::net::sockopt::socket_error(&socket)??;
    Ok(socket)
}
