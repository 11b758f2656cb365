//! One RTP packet of Opus as it leaves the media plane for speech.
//!
//! Place: made by whoever joins media and speech, read by [`super::jitter`]. Rule: plain values; DTX and loss can be
//! told apart (sequence numbers count packets, timestamps count time).

use std::sync::Arc;
use std::time::Instant;

/// One audio packet, RED unpacked, not end-to-end encrypted.
#[derive(Debug, Clone)]
pub struct TapPacket {
    /// Extended RTP sequence number (RFC 3550): never wraps within an epoch.
    pub seq: u64,
    /// RTP timestamp, 48 kHz (RFC 7587), wrapping.
    pub timestamp: u32,
    /// When it arrived.
    pub arrival: Instant,
    /// Audio level in -dBov, 0 (loudest) to 127 (silence) (RFC 6464).
    pub level: Option<u8>,
    /// The extension's voice flag.
    pub voice: Option<bool>,
    /// RTP marker: a talk spurt begins.
    pub marker: bool,
    /// Counts the sources of a track: another SSRC, or a restart of its numbers, is another epoch.
    pub epoch: u32,
    /// The Opus packet (RFC 6716).
    pub payload: Arc<[u8]>,
}
