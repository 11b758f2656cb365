//! The SFU and the audio path, sans-IO and synchronous.
//!
//! Flow of a packet: [`net`] reads a datagram -> [`shard`] finds the peer -> [`transport`] opens it -> [`room`] looks its
//! subscribers up once and rewrites per subscriber ([`forward`]) -> [`egress`] seals into the send slab -> [`net`] writes.
//! Control reaches a shard as [`control::Command`] and leaves it as [`control::Event`]; time, sockets and randomness are
//! passed in. Only [`net`] knows a clock or a socket.
//!
//! Rule of every machine in this crate: change something, then drain its outputs until it names the next deadline.

#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "unit tests take their first instant from the clock"))]

pub mod allocate;
pub mod control;
pub mod data;
pub mod egress;
pub mod estimate;
mod fault;
pub mod forward;
pub mod history;
pub mod ids;
pub mod keyframe;
pub mod net;
pub mod packet;
pub mod publication;
pub mod quality;
pub mod red;
pub mod room;
pub mod shard;
pub mod speakers;
pub mod subscription;
pub mod tap;
pub mod transport;
pub mod vp8;
