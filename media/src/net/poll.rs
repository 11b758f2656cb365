//! Sleeping until something comes: epoll with nanosecond time-outs, and an eventfd by which other threads wake a shard.
#![expect(unsafe_code, reason = "epoll and eventfd are system calls; each call's arguments are owned by the caller for its duration")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Wakes one shard from other threads.
pub(super) struct Wake {
    fd: OwnedFd,
    /// A wake-up is under way: further ones need no system call.
    pending: AtomicBool,
}

impl Wake {
    pub(super) fn new() -> io::Result<Wake> {
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        // SAFETY: a fresh descriptor that nobody else owns.
        Ok(Wake { fd: unsafe { OwnedFd::from_raw_fd(fd) }, pending: AtomicBool::new(false) })
    }

    /// Any thread: the shard's sleep ends, or its next one does not begin.
    pub(super) fn wake(&self) {
        if !self.pending.swap(true, Ordering::SeqCst) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: eight readable bytes. A failure means that the counter is full: the shard is woken anyway.
            unsafe { libc::write(self.fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
        }
    }

    /// The shard, when epoll says that it was woken: takes the wake-up, before it looks at what was queued. The order matters: a
    /// waker between the two steps makes no system call, and what it queued is seen.
    pub(super) fn take(&self) {
        let mut counter = [0u8; 8];
        // SAFETY: eight writable bytes.
        unsafe { libc::read(self.fd.as_raw_fd(), counter.as_mut_ptr().cast(), counter.len()) };
        // Read as well as written: what the waker queued before it set the flag is seen after this, on every kind of processor.
        self.pending.swap(false, Ordering::SeqCst);
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// An epoll instance, level-triggered.
pub(super) struct Poll {
    fd: OwnedFd,
    wake: RawFd,
    /// epoll_pwait2 is missing (before Linux 5.11): time-outs are rounded up to milliseconds.
    milliseconds_only: bool,
}

impl Poll {
    /// Watches a socket and a wake-up.
    pub(super) fn new(socket: RawFd, wake: RawFd) -> io::Result<Poll> {
        // SAFETY: no pointers.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        for source in [socket, wake] {
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: source as u64 };
            // SAFETY: `event` lives for the call.
            check(unsafe { libc::epoll_ctl(fd.as_raw_fd(), libc::EPOLL_CTL_ADD, source, &raw mut event) })?;
        }
        Ok(Poll { fd, wake, milliseconds_only: false })
    }

    /// Sleeps until something is readable or `timeout` has passed. True: the shard was woken. Whether there are datagrams, the
    /// reader finds out.
    pub(super) fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        const EVENTS: usize = 4;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        if !self.milliseconds_only {
            let spec = libc::timespec {
                tv_sec: timeout.as_secs().min(i32::MAX as u64) as libc::time_t,
                tv_nsec: timeout.subsec_nanos() as libc::c_long,
            };
            let no_mask = std::ptr::null::<libc::sigset_t>();
            // SAFETY: `events` and `spec` live for the call; a null mask leaves signals as they are.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    self.fd.as_raw_fd(),
                    events.as_mut_ptr(),
                    EVENTS as libc::c_int,
                    &raw const spec,
                    no_mask,
                    size_of::<libc::c_ulong>(),
                )
            };
            match io::Error::last_os_error().raw_os_error() {
                _ if result >= 0 => return Ok(self.woken(&events[..result as usize])),
                Some(libc::EINTR) => return Ok(false),
                // Old kernels, and sandboxes that do not know the call.
                Some(libc::ENOSYS | libc::EPERM) => self.milliseconds_only = true,
                _ => return Err(io::Error::last_os_error()),
            }
        }
        let ms = timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as libc::c_int;
        // SAFETY: `events` lives for the call.
        match check(unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events.as_mut_ptr(), EVENTS as libc::c_int, ms) }) {
            Ok(count) => Ok(self.woken(&events[..count as usize])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn woken(&self, events: &[libc::epoll_event]) -> bool {
        // Copied out of the packed structure.
        events.iter().any(|event| { event.u64 } == self.wake as u64)
    }
}

/// A system call's result: -1 is an error.
pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
