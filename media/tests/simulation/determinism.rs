//! What else must follow from the seed: hash-map order and wall-clock time. The C library's functions that both come from are
//! replaced in this test binary, so that the code under test runs unchanged.
#![allow(unsafe_code, reason = "replaces two functions of the C library for this test binary alone")]

use std::cell::Cell;

/// Random bytes for hash maps: the same for every thread, so a fresh thread per run has the same orders.
///
/// # Safety
///
/// As getrandom(2): `buffer` is writable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, len: usize, _flags: u32) -> isize {
    for i in 0..len {
        // SAFETY: within the caller's buffer.
        unsafe { buffer.add(i).write((i as u8).wrapping_mul(37).wrapping_add(11)) };
    }
    len as isize
}

thread_local! {
    /// This thread is a run: all clocks stand still, time is what the world says.
    static STILL: Cell<bool> = const { Cell::new(false) };
}

/// Clocks stand still in runs; elsewhere they are the kernel's.
///
/// # Safety
///
/// As clock_gettime(2): `time` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    if STILL.try_with(Cell::get) == Ok(true) {
        // SAFETY: the caller's structure.
        unsafe { time.write(libc::timespec { tv_sec: 1_790_000_000, tv_nsec: 0 }) };
        return 0;
    }
    // SAFETY: arguments are passed on as they came.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int }
}

/// FNV-1a, 64 bits: what happened, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace(pub u64);

impl Default for Trace {
    fn default() -> Trace {
        Trace(0xcbf2_9ce4_8422_2325)
    }
}

impl Trace {
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// Runs on a thread of its own whose generators start from `seed`.
pub fn seeded<T: Send + 'static>(seed: u64, run: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().name(format!("seed-{seed}")).spawn(move || {
        fastrand::seed(seed);
        STILL.set(true);
        let result = run();
        STILL.set(false);
        result
    });
    match thread.unwrap().join() {
        Ok(result) => result,
        Err(panic) => {
            eprintln!("the run of seed {seed} failed");
            std::panic::resume_unwind(panic)
        }
    }
}
