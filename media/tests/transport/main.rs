//! One peer connection against an independent client: str0m alone, with its own send path. Time and network are virtual.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test drives the clock")]

mod world;

mod channels;
mod connect;
mod feedback;
mod hostile;
mod negotiate;
mod offers;
mod receive;
mod restart;
mod single;
