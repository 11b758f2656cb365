//! What the standard library and rustix do not offer safely. The only module with `unsafe`; each block says why it holds.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

static GROUP: OnceLock<OwnedFd> = OnceLock::new();

static TERMINATED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_termination(_signal: libc::c_int) {
    TERMINATED.store(true, Ordering::Relaxed);
}

/// SIGTERM and SIGINT ask the agent to end.
pub fn watch_for_termination() {
    let handler = on_termination as extern "C" fn(libc::c_int);
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler stores to one atomic, which is safe in a signal handler; it lives as long as the program.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Whether SIGTERM or SIGINT came.
pub fn is_terminated() -> bool {
    TERMINATED.load(Ordering::Relaxed)
}

/// To every process but this one: for process 1.
pub fn signal_everyone(signal: rustix::process::Signal) {
    // SAFETY: `kill` takes numbers alone.
    unsafe { libc::kill(-1, signal.as_raw()) };
}

/// A descriptor that this program was started with.
pub fn inherited(fd: RawFd) -> Result<OwnedFd, String> {
    // SAFETY: `fcntl` on any number is harmless: it answers an error for one that is not open.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(format!("descriptor {fd} is not open"));
    }
    // SAFETY: it is open, and the command line gave it to us: nothing else in this program owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).map_err(|e| format!("cannot keep descriptor from programs: {e}"))?;
    set_nonblocking(&fd).map_err(|e| format!("cannot make descriptor non-blocking: {e}"))?;
    Ok(fd)
}

/// Reads and writes of `fd` answer at once.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}

/// Makes a unix socket for its owner alone; one that an earlier agent left is replaced.
pub fn listen_unix(path: &str) -> io::Result<OwnedFd> {
    if rustix::fs::lstat(path).is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Socket) {
        rustix::fs::unlink(path)?;
    }
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(path)?);
    rustix::process::umask(mask);
    bound?;
    rustix::net::listen(&socket, 8)?;
    Ok(socket)
}

/// Listens for the host on a port of AF_VSOCK.
pub fn listen_vsock(port: u32) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // SAFETY: all bytes zero is a valid sockaddr_vm; it is plain numbers.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_port = port;
    address.svm_cid = libc::VMADDR_CID_ANY;
    let length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: the pointer and the length are those of a live sockaddr_vm, which the kernel only reads.
    if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    rustix::net::listen(&socket, 8)?;
    Ok(socket)
}

/// Opens a serial port, by path or by the name that the machine was given it under.
pub fn open_serial(name: &str) -> io::Result<OwnedFd> {
    let path = if name.starts_with('/') { name.to_owned() } else { super::init::port_named(name)? };
    Ok(rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?)
}

/// From now on programs are started in the control group that this file (`cgroup.procs`) belongs to.
pub fn put_programs_into(path: &str) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let _ = GROUP.set(file);
    Ok(())
}

/// Starts `command` in a session of its own; with `terminal` its standard input becomes the session's terminal.
pub fn spawn_in_session(command: &mut Command, terminal: bool) -> io::Result<Child> {
    let prepare = move || {
        for signal in (1..=31).filter(|signal| !matches!(*signal, libc::SIGKILL | libc::SIGSTOP)) {
            // SAFETY: `signal` is safe to call in a signal handler, so here too; the default action needs no handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        rustix::process::setsid()?;
        if let Some(group) = GROUP.get() {
            rustix::io::write(group, b"0")?;
        }
        if terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls alone, which neither allocate nor lock.
    unsafe { command.pre_exec(prepare) };
    let child = command.spawn()?;
    // The memory limit shall end what was started, not the agent that tells of it. It may not be ours to say: then it stays as it is.
    let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.id()), "500");
    Ok(child)
}

/// Closes what was inherited beside the standard streams and `wanted`, and keeps other programs of the same user from tracing this one.
pub fn shut_in(wanted: &[RawFd]) {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let mut kept: Vec<libc::c_uint> = wanted.iter().filter_map(|fd| libc::c_uint::try_from(*fd).ok()).filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    let mut begin = 3;
    for fd in kept.into_iter().chain([libc::c_uint::MAX]) {
        if begin < fd {
            // SAFETY: called first of all, when this program has opened nothing: no owner loses what it owns.
            unsafe { libc::close_range(begin, fd - 1, 0) };
        }
        begin = fd.saturating_add(1);
    }
}

/// Mixes random bytes from outside into the kernel's generator. True when the kernel credited and used them at once, which it lets only
/// the machine's own root do; otherwise they are mixed in without credit.
pub fn add_entropy(bytes: &[u8]) -> bool {
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    #[repr(C)]
    struct Pool {
        entropy_count: libc::c_int,
        buf_size: libc::c_int,
        buf: [u8; 64],
    }
    let Ok(device) = rustix::fs::open("/dev/urandom", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) else { return false };
    let mut credited = !bytes.is_empty();
    for part in bytes.chunks(64) {
        let mut pool = Pool { entropy_count: part.len() as libc::c_int * 8, buf_size: part.len() as libc::c_int, buf: [0; 64] };
        pool.buf[..part.len()].copy_from_slice(part);
        // SAFETY: the kernel reads a `rand_pool_info` of `buf_size` bytes at most 64, which `pool` is.
        credited &= unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY as _, &raw const pool) } == 0;
    }
    if credited {
        // SAFETY: takes no argument.
        unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG as _) };
    } else {
        let _ = rustix::io::write(&device, bytes);
    }
    credited
}

/// An address family's `ioctl` on a network interface.
pub fn interface_ioctl<T>(socket: &OwnedFd, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: callers pass the structure that the request is defined for (`ifreq`, `rtentry`), alive and writable.
    if unsafe { libc::ioctl(socket.as_raw_fd(), request as _, std::ptr::from_mut(argument)) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// All bytes zero, for the kernel's plain structures.
pub fn zeroed_ifreq() -> libc::ifreq {
    // SAFETY: `ifreq` is a name and a union of numbers: all bytes zero is valid.
    unsafe { std::mem::zeroed() }
}

/// All bytes zero, for the kernel's plain structures.
pub fn zeroed_rtentry() -> libc::rtentry {
    // SAFETY: `rtentry` is numbers and a pointer that may be null.
    unsafe { std::mem::zeroed() }
}

/// An IPv4 address as the kernel's interface requests take it.
pub fn ipv4_sockaddr(address: std::net::Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from.cast_signed() as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}
