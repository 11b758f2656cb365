//! The words that a server and the agent in its sandbox exchange: frames on one byte stream, and the JSON in their control frames.
//!
//! Place: `auralink-infrastructure` speaks them as client (`vm::agent`), this crate's binary as agent. Rule: both sides bound all that
//! they read; neither believes the other to keep a limit.
//!
//! # One connection
//! 1. On a serial port alone, which has no beginning and no end: the client writes the boot's key (16 bytes) and a nonce (16 bytes); the
//!    agent forgets whatever connection was before, kills its programs, and writes both back. Until then the client skips what it reads.
//! 2. The client says [`Request::Hello`] on channel 0 with fresh entropy; the agent answers [`Reply::Hello`].
//! 3. Each request opens a channel of its own, a number that this connection has not used yet. It is over with [`Reply::Exited`],
//!    [`Reply::Done`], [`Reply::Closed`] or [`Reply::Error`]; frames for a channel that is over are ignored.
//!
//! # Credit
//! A sender begins each channel with [`frame::WINDOW`] of credit. A frame of content (not control, not credit) costs [`frame::cost`] of
//! its length. The receiver gives credit back when it has passed the content on. So one channel never holds more than a window in memory
//! and never holds the others up. To send more than one's credit is an error that ends the connection.
//!
//! # When a connection ends
//! The agent kills the programs that were started on it, with their sessions, and forgets half-written files. What a program put into a
//! session of its own (a daemon) goes on.

pub mod container;
pub mod frame;
pub mod launch;
pub mod message;

pub use frame::{Decoder, Frame, FrameError, Kind};
pub use message::{ErrorCode, Reply, Request};
