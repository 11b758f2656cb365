//! The same over real sockets: an `Sfu` on loopback and clients with sockets of their own. One file per behaviour.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, reason = "a test has sockets and a clock")]

mod addresses;
#[path = "../simulation/client.rs"]
#[allow(dead_code, reason = "shared with the simulation")]
mod client;
#[path = "../simulation/marks.rs"]
#[allow(dead_code, reason = "shared with the simulation")]
mod marks;
mod meeting;
mod shards;
mod talking;
