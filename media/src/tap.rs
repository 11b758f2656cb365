//! The two doors between media and whoever listens or speaks from inside the server.
//!
//! Out: [`TapPacket`]s of tapped audio publications leave a shard over one bounded ring; a full ring drops and counts, it
//! never waits. In (the publisher seam): [`SourcePacket`]s of a server-made track enter a shard over a bounded ring and are
//! forwarded like any participant's.

use std::sync::Arc;
use std::time::Instant;

use crate::ids::{RoomKey, TrackKey};
use crate::packet::Codec;

/// One audio packet that someone asked to have heard. RED is already unpacked: the payload is one Opus packet.
#[derive(Debug, Clone)]
pub struct TapPacket {
    /// The room.
    pub room: RoomKey,
    /// The publication.
    pub track: TrackKey,
    /// Grows when the publication's source changes (republish, SSRC change): decoders start anew.
    pub epoch: u32,
    /// Extended sequence number, so that loss and DTX can be told apart.
    pub seq: u64,
    /// RTP timestamp, 48 kHz.
    pub timestamp: u32,
    /// Read from the socket.
    pub arrival: Instant,
    /// RFC 6464 level, 0 loudest to 127.
    pub level: Option<u8>,
    /// RFC 6464 voice flag.
    pub voice: Option<bool>,
    /// Marker: first packet after silence.
    pub marker: bool,
    /// Opus.
    pub payload: Arc<[u8]>,
}

/// One packet of a server-made track.
#[derive(Debug, Clone)]
pub struct SourcePacket {
    /// Its codec.
    pub codec: Codec,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Marker.
    pub marker: bool,
    /// RFC 6464 level of audio.
    pub level: Option<u8>,
    /// Payload.
    pub payload: Arc<[u8]>,
}
