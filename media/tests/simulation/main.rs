//! The whole SFU on a virtual clock and a virtual network, from one seed: rooms of independent clients (str0m alone) around one
//! shard, with joins, leaves, tracks, mutes, layer switches, loss, delay, reordering and duplicates.
//!
//! What must hold in every run: whoever subscribed gets what was published, byte for byte, as one gapless stream; nobody panics;
//! nothing is left behind. One seed gives one trace, in this process and in any other.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test drives the clock")]

mod client;
mod determinism;
mod dtls;
mod marks;
mod network;
mod world;

mod congestion;
mod data;
mod forwarding;
mod hostile;
mod relay;
mod seeds;
mod tap;
