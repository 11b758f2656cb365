//! Messages: LiveKit's, re-exported from the crate that LiveKit keeps, and our own gRPC services of `auralink.v1`.
//!
//! The `.proto` files stand in `auralink/v1/` and are compiled by `build.rs` without a system `protoc`.

pub use livekit_protocol as livekit;

/// gRPC services and messages of `auralink.v1`.
pub mod v1 {
    #![allow(missing_docs, clippy::all, reason = "generated; documented in the .proto files")]
    tonic::include_proto!("auralink.v1");
}

/// The compiled `.proto` files, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/auralink.bin"));

/// The descriptors of LiveKit's RoomService and its messages, for JSON as LiveKit's server writes it.
pub const LIVEKIT_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/livekit.bin"));
