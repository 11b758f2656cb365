//! Thin adapters over engines that run beside the server: state, queue, sandboxes, vectors, storage, bus. Each is a trait with
//! a handful of methods, one file per engine, and one conformance test that every engine passes. The first adapter is still
//! to come; the crate stands here so that the arrows of the house do.
