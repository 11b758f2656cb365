//! Faults: panics, caught where what they may have left half-done can be given up as a whole: a connection, or a shard.
//!
//! Rule: nothing that was touched by what panicked is used again. Entering costs a call (no lock, no allocation, no system call).

use std::any::Any;
use std::panic::AssertUnwindSafe;

/// Runs `run`.
///
/// # Errors
///
/// What the panic said.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(AssertUnwindSafe(run)).map_err(|panic| said(&*panic))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}
