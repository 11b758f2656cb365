//! Thin adapters over engines that run beside the server: state, queue, sandboxes, vectors, files. Each is a trait with
//! a handful of methods, one file per engine, and one conformance test that every engine passes.
//!
//! Place: `server` stands above and brings configuration and callers; nothing here knows a face (gRPC, REST, CLI). Rule: what is
//! accepted is on disk before it is acknowledged, and every error says what was wrong, with which value, and what to do.

pub mod queue;
pub mod secret;
pub mod state;
pub mod storage;
pub mod tenant;
pub mod vector;
pub mod vm;
