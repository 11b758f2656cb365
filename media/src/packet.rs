//! What an RTP packet is after it was opened and before it is sealed again: codec, extended numbers, extensions, payload.

use std::sync::Arc;
use std::time::Instant;

/// Audio or video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MediaKind {
    /// Sound.
    Audio,
    /// Pictures.
    Video,
}

/// The codecs that are forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// RFC 7587.
    Opus,
    /// Redundant audio, RFC 2198, whose blocks are Opus.
    Red,
    /// RFC 7741.
    Vp8,
    /// RFC 6184, packetization mode 1.
    H264,
    /// RFC 9628.
    Vp9,
    /// AOM's RTP payload.
    Av1,
}

impl Codec {
    /// RTP clock rate in hertz.
    pub const fn clock_rate(self) -> u32 {
        match self {
            Codec::Opus | Codec::Red => 48_000,
            _ => 90_000,
        }
    }

    /// The kind of media that this codec carries.
    pub const fn kind(self) -> MediaKind {
        match self {
            Codec::Opus | Codec::Red => MediaKind::Audio,
            _ => MediaKind::Video,
        }
    }

    /// The codec of a LiveKit/SDP mime type such as `audio/opus`, any case.
    pub fn from_mime(mime: &str) -> Option<Codec> {
        Some(match mime.to_ascii_lowercase().as_str() {
            "audio/opus" => Codec::Opus,
            "audio/red" => Codec::Red,
            "video/vp8" => Codec::Vp8,
            "video/h264" => Codec::H264,
            "video/vp9" => Codec::Vp9,
            "video/av1" => Codec::Av1,
            _ => return None,
        })
    }

    /// The mime type as LiveKit writes it.
    pub const fn mime(self) -> &'static str {
        match self {
            Codec::Opus => "audio/opus",
            Codec::Red => "audio/red",
            Codec::Vp8 => "video/VP8",
            Codec::H264 => "video/H264",
            Codec::Vp9 => "video/VP9",
            Codec::Av1 => "video/AV1",
        }
    }
}

/// Header extensions that are forwarded or used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Extensions {
    /// RFC 6464 level: 0 is loudest, 127 is silence, in -dBov.
    pub audio_level: Option<u8>,
    /// RFC 6464 voice flag.
    pub voice: Option<bool>,
    /// 3GPP video orientation: the raw byte (camera, flip, rotation).
    pub orientation: Option<u8>,
    /// AV1/VP9 dependency descriptor, opaque, at most 255 bytes.
    pub dependency_descriptor: Option<Arc<[u8]>>,
    /// Playout delay, minimum and maximum, in units of 10 ms.
    pub playout_delay: Option<(u16, u16)>,
}

/// A decrypted RTP packet of a publication's layer.
#[derive(Debug, Clone)]
pub struct RtpPacket {
    /// When it was read from the socket.
    pub arrival: Instant,
    /// The payload's codec.
    pub codec: Codec,
    /// Extended sequence number.
    pub seq: u64,
    /// RTP timestamp as sent.
    pub timestamp: u32,
    /// Marker bit.
    pub marker: bool,
    /// Known header extensions.
    pub ext: Extensions,
    /// The payload, shared by history, subscribers and tap.
    pub payload: Arc<[u8]>,
}
