//! The sandboxes' service: its records, limits and recovery, held against an engine and a state that fail, hang and crash at any step; and
//! against the real process engine.
#![allow(clippy::unwrap_used, missing_docs)]

mod archives;
mod crash;
mod exec;
mod faults;
mod life;
mod limits;
mod process;
mod scripted;
