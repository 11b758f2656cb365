//! A UDP socket that reads and writes many datagrams per system call: recvmmsg with GRO, sendmmsg with GSO.
//!
//! Rule: nothing here decides anything; sizes and counts are checked, and what the kernel refuses is reported.
#![expect(
    unsafe_code,
    reason = "recvmmsg, sendmmsg and their control messages are raw structures; every pointer points into buffers that outlive the call"
)]

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::poll::check;
use crate::transport::Datagram;

/// Messages per recvmmsg. With GRO each may hold up to 64 datagrams.
const BATCH: usize = 32;
/// Bytes per received message: the largest that GRO makes.
const MESSAGE_BYTES: usize = 65_536;
/// Room for control messages: packet info (28 with header) and segment size (24).
const CONTROL_BYTES: usize = 128;
/// Kernel buffers asked for. More: longer stalls are survived; a burst of 200 video subscribers is 2 MB.
const SOCKET_BUFFER: usize = 4 << 20;

const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;

/// Control data, aligned as `cmsghdr` must be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// One message to send: segments that lie in the slab.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// Which of the segments given beside.
    pub(super) first_segment: usize,
    pub(super) segments: usize,
    /// Size of each segment but the last; 0 for a single datagram.
    pub(super) segment_size: u16,
}

/// The socket with its buffers.
pub(super) struct UdpSocket {
    socket: Socket,
    local: SocketAddr,
    /// Advertised addresses that are not this machine's: those of a NAT before it.
    foreign: Vec<IpAddr>,
    buffers: Vec<u8>,
    vectors: Vectors,
    /// The kernel takes several datagrams as one message.
    pub(super) segments: bool,
}

/// Scratch of [`UdpSocket::send`], kept for its memory. Empty or stale between calls, and never read then.
struct Vectors(Vec<libc::iovec>);

// SAFETY: the pointers are only followed within `send`, which writes them anew.
unsafe impl Send for Vectors {}

// Kept for a whole batch on the stack of `receive`.
struct Received {
    names: [MaybeUninit<libc::sockaddr_storage>; BATCH],
    controls: [Control; BATCH],
}

impl UdpSocket {
    /// Binds one socket that shares its port with nobody.
    pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
        UdpSocket::new(address, false)
    }

    /// Binds `count` sockets to one port, among which the kernel spreads the clients (SO_REUSEPORT).
    ///
    /// The first is bound without the option, so that a port which any other process holds is an error, and gets the option once it
    /// holds the port. There is no moment in between at which the port is free: of two of us that start at once, one finds it in use.
    /// What is left is a process of the same user that asks for SO_REUSEPORT itself, later, and does not look first: the kernel
    /// lets it in and gives it a part of our clients.
    pub(super) fn bind_shared(address: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
        let first = UdpSocket::bind(address)?;
        let address = first.local;
        first.socket.set_reuse_port(true)?;
        let mut sockets = vec![first];
        for _ in 1..count {
            sockets.push(UdpSocket::new(address, true)?);
        }
        Ok(sockets)
    }

    /// Binds, with big buffers, packet info, GRO.
    fn new(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        if address.is_ipv6() {
            // One socket for both families when it is bound to all addresses.
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        if shared {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&SockAddr::from(address))?;
        // What the system limits is taken as it is.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        let local = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("the bound address is not IP"))?;
        let fd = socket.as_raw_fd();
        if local.is_ipv4() {
            set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        } else {
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        }
        let gro = set_option(fd, libc::IPPROTO_UDP, UDP_GRO, 1).is_ok();
        // Zero is "no segmentation": the kernel knows the option when it takes it.
        let segments = set_option(fd, libc::IPPROTO_UDP, UDP_SEGMENT, 0).is_ok();
        tracing::debug!(%local, gro, segments, receive_buffer = socket.recv_buffer_size().unwrap_or(0), "UDP socket");
        Ok(UdpSocket {
            socket,
            local,
            foreign: Vec::new(),
            buffers: vec![0; BATCH * MESSAGE_BYTES],
            vectors: Vectors(Vec::new()),
            segments,
        })
    }

    /// Says under which addresses it is known. Nothing can be sent from those that are not of this machine.
    pub(super) fn advertise(&mut self, candidates: &[SocketAddr]) {
        let is_foreign = |ip: &IpAddr| {
            let tried = Socket::new(Domain::for_address(SocketAddr::new(*ip, 0)), Type::DGRAM.cloexec(), Some(Protocol::UDP))
                .and_then(|socket| socket.bind(&SockAddr::from(SocketAddr::new(*ip, 0))));
            tried.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
        };
        self.foreign = candidates.iter().map(SocketAddr::ip).filter(is_foreign).collect();
    }

    /// Where it is bound.
    pub(super) fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Reads one batch and calls `take(source, destination ip, bytes)` for each datagram. True: there may be more.
    pub(super) fn receive(&mut self, mut take: impl FnMut(SocketAddr, IpAddr, &[u8])) -> io::Result<bool> {
        let mut received = Received { names: [MaybeUninit::uninit(); BATCH], controls: [Control([0; CONTROL_BYTES]); BATCH] };
        let mut vectors: [libc::iovec; BATCH] = std::array::from_fn(|i| libc::iovec {
            iov_base: self.buffers[i * MESSAGE_BYTES..].as_mut_ptr().cast(),
            iov_len: MESSAGE_BYTES,
        });
        let mut messages: [libc::mmsghdr; BATCH] = std::array::from_fn(|i| {
            let mut message = empty_message();
            message.msg_hdr.msg_name = received.names[i].as_mut_ptr().cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            message.msg_hdr.msg_iov = &raw mut vectors[i];
            message.msg_hdr.msg_iovlen = 1;
            message.msg_hdr.msg_control = received.controls[i].0.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = CONTROL_BYTES as _;
            message
        });
        // SAFETY: every pointer in `messages` points into `received`, `vectors` or `self.buffers`, which outlive the call.
        let count = check(unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        });
        let count = match count {
            Ok(count) => count as usize,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            // An ICMP error of an earlier send, or a signal: the socket goes on.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::EINTR | libc::EHOSTUNREACH | libc::ENETUNREACH)) =>
            {
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        for (index, message) in messages[..count].iter().enumerate() {
            // SAFETY: the kernel filled the name of each message that it counted.
            let Some(source) = address(unsafe { received.names[index].assume_init_ref() }) else { continue };
            let (destination, segment) = read_control(&message.msg_hdr);
            let destination = destination.unwrap_or(self.local.ip());
            let bytes = &self.buffers[index * MESSAGE_BYTES..index * MESSAGE_BYTES + (message.msg_len as usize).min(MESSAGE_BYTES)];
            match segment {
                Some(size) if size > 0 => bytes.chunks(size).for_each(|datagram| take(source, destination, datagram)),
                _ => take(source, destination, bytes),
            }
        }
        Ok(count == BATCH)
    }

    /// Writes messages whose segments are `datagrams` that lie in `bytes`, in order. Returns how many messages the kernel took; fewer than given
    /// come with the error that the next one met.
    pub(super) fn send(&mut self, messages: &[Message], datagrams: &[Datagram], bytes: &[u8]) -> (usize, Option<io::Error>) {
        const SEND_BATCH: usize = 64;
        self.vectors.0.clear();
        self.vectors.0.extend(datagrams.iter().map(|d| {
            let segment = &bytes[d.start as usize..(d.start + d.len) as usize];
            libc::iovec { iov_base: segment.as_ptr().cast_mut().cast(), iov_len: segment.len() }
        }));
        let mut done = 0;
        while done < messages.len() {
            let batch = &messages[done..(done + SEND_BATCH).min(messages.len())];
            let mut names: [MaybeUninit<SockAddr>; SEND_BATCH] = [const { MaybeUninit::uninit() }; SEND_BATCH];
            let mut controls = [Control([0; CONTROL_BYTES]); SEND_BATCH];
            let mut headers: [libc::mmsghdr; SEND_BATCH] = std::array::from_fn(|_| empty_message());
            for (index, message) in batch.iter().enumerate() {
                let header = &mut headers[index].msg_hdr;
                let name = names[index].write(SockAddr::from(self.reachable(message.destination)));
                header.msg_name = name.as_ptr().cast_mut().cast();
                header.msg_namelen = name.len();
                header.msg_iov = self.vectors.0[message.first_segment..].as_mut_ptr();
                header.msg_iovlen = message.segments as _;
                write_control(header, &mut controls[index], self.source(message.source.ip()), message.segment_size);
            }
            // SAFETY: names, controls, vectors and the slab that they point to outlive the call; sendmmsg does not write to them.
            let sent = check(unsafe {
                libc::sendmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), batch.len() as libc::c_uint, libc::MSG_DONTWAIT as _)
            });
            match sent {
                Ok(sent) => done += sent as usize,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (done, Some(error)),
            }
        }
        (done, None)
    }

    /// The local address to send from: only worth saying when we are bound to all of them. Behind a NAT the system chooses, and the
    /// NAT writes the advertised one.
    fn source(&self, ip: IpAddr) -> Option<IpAddr> {
        (self.local.ip().is_unspecified() && !self.foreign.contains(&ip)).then_some(ip)
    }

    /// An IPv4 destination on an IPv6 socket is written in its mapped form.
    fn reachable(&self, destination: SocketAddr) -> SocketAddr {
        match (self.local, destination) {
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            _ => destination,
        }
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn empty_message() -> libc::mmsghdr {
    // SAFETY: all-zero is a valid `mmsghdr`: null pointers with zero lengths.
    unsafe { std::mem::zeroed() }
}

fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: `value` lives for the call and its size is given.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), size_of::<libc::c_int>() as libc::socklen_t) })?;
    Ok(())
}

/// The address that the kernel wrote.
fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which structure it is, and the storage is large enough and aligned for it.
            let v4 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            Some(SocketAddr::new(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into(), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            Some(SocketAddr::new(Ipv6Addr::from(v6.sin6_addr.s6_addr).to_canonical(), u16::from_be(v6.sin6_port)))
        }
        _ => None,
    }
}

/// Destination address and segment size out of the control messages.
fn read_control(header: &libc::msghdr) -> (Option<IpAddr>, Option<usize>) {
    let (mut destination, mut segment) = (None, None);
    // SAFETY: the kernel wrote `msg_controllen` bytes of control messages; the CMSG macros stay within them.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(control) = message.as_ref() {
            let data = libc::CMSG_DATA(message);
            match (control.cmsg_level, control.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = std::ptr::read_unaligned(data.cast::<libc::in_pktinfo>());
                    destination = Some(IpAddr::from(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = std::ptr::read_unaligned(data.cast::<libc::in6_pktinfo>());
                    destination = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical());
                }
                (libc::IPPROTO_UDP, UDP_GRO) => {
                    segment = usize::try_from(std::ptr::read_unaligned(data.cast::<libc::c_int>())).ok();
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    (destination, segment)
}

/// Writes the source address and the segment size, where given, as control messages.
fn write_control(header: &mut libc::msghdr, control: &mut Control, source: Option<IpAddr>, segment_size: u16) {
    if source.is_none() && segment_size == 0 {
        return;
    }
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES as _;
    let mut used = 0;
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR point into `control`, which has room for both messages (40 and 24 bytes at most);
    // its zeroed rest makes CMSG_NXTHDR's look at the next length well-defined.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        let mut put = |level: libc::c_int, kind: libc::c_int, data: &[u8]| {
            (*message).cmsg_level = level;
            (*message).cmsg_type = kind;
            (*message).cmsg_len = libc::CMSG_LEN(data.len() as libc::c_uint) as _;
            std::ptr::copy_nonoverlapping(data.as_ptr(), libc::CMSG_DATA(message), data.len());
            used += libc::CMSG_SPACE(data.len() as libc::c_uint) as usize;
            message = libc::CMSG_NXTHDR(header, message);
        };
        match source {
            Some(IpAddr::V4(ip)) => {
                // struct in_pktinfo: interface index (any), address to send from, header address.
                let mut data = [0u8; size_of::<libc::in_pktinfo>()];
                data[4..8].copy_from_slice(&ip.octets());
                put(libc::IPPROTO_IP, libc::IP_PKTINFO, &data);
            }
            Some(IpAddr::V6(ip)) => {
                let mut data = [0u8; size_of::<libc::in6_pktinfo>()];
                data[..16].copy_from_slice(&ip.octets());
                put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &data);
            }
            None => {}
        }
        if segment_size > 0 {
            put(libc::IPPROTO_UDP, UDP_SEGMENT, &segment_size.to_ne_bytes());
        }
    }
    header.msg_controllen = used as _;
}
