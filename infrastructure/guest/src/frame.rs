//! Frames: `u32 length of the payload | u8 kind | u32 channel | payload`, big-endian.

use std::fmt;

/// Bytes before the payload.
pub const HEADER: usize = 9;

/// Largest payload, bytes. A higher value lets longer argument lists through, and makes each side hold more for a peer that sends rubbish.
pub const MAX_PAYLOAD: usize = 256 << 10;

/// What one read of content carries at most, bytes: small enough that a hundred busy channels take turns.
pub const CHUNK: usize = 32 << 10;

/// Credit that each direction of a channel begins with.
pub const WINDOW: usize = 256 << 10;

/// What a frame costs beside its content, so that a flood of one-byte frames is bounded too.
pub const OVERHEAD: usize = 64;

/// What a frame of content with this payload costs its sender.
pub const fn cost(length: usize) -> usize {
    length + OVERHEAD
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// JSON: a [`crate::Request`] or a [`crate::Reply`].
    Control = 0,
    /// For a program's standard input.
    Stdin = 1,
    /// Of a program's standard output, or its terminal.
    Stdout = 2,
    /// Of a program's standard error.
    Stderr = 3,
    /// Of a file, a listing or a connection.
    Data = 4,
    /// A big-endian u32: so much credit more.
    Credit = 5,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Control,
            1 => Self::Stdin,
            2 => Self::Stdout,
            3 => Self::Stderr,
            4 => Self::Data,
            5 => Self::Credit,
            _ => return None,
        })
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// Whose it is.
    pub channel: u32,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The amount that a credit frame grants.
    ///
    /// # Errors
    /// When the payload has not four bytes.
    pub fn credit(&self) -> Result<u32, FrameError> {
        self.payload.as_slice().try_into().map(u32::from_be_bytes).map_err(|_| FrameError::Credit(self.payload.len()))
    }
}

/// Why what came is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// Longer than [`MAX_PAYLOAD`].
    TooLong(u32),
    /// No [`Kind`] has this number.
    UnknownKind(u8),
    /// Credit of this many bytes instead of four.
    Credit(usize),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(length) => write!(f, "a frame of {length} bytes, more than {MAX_PAYLOAD}"),
            Self::UnknownKind(kind) => write!(f, "a frame of the unknown kind {kind}"),
            Self::Credit(length) => write!(f, "credit in {length} bytes instead of 4"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Appends a frame. Payloads longer than [`MAX_PAYLOAD`] are the caller's mistake: they are cut, and the other side will say so.
pub fn encode(out: &mut Vec<u8>, kind: Kind, channel: u32, payload: &[u8]) {
    let payload = &payload[..payload.len().min(MAX_PAYLOAD)];
    out.reserve(HEADER + payload.len());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.push(kind as u8);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Finds frames in bytes as they come. It holds at most one frame beside what was pushed last.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    begin: usize,
}

impl Decoder {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.begin > 0 {
            self.bytes.drain(..self.begin);
            self.begin = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there. After an error the stream is of no use any more.
    ///
    /// # Errors
    /// [`FrameError`] when the bytes are no frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.bytes[self.begin..];
        let Some(&[a, b, c, d, kind, e, f, g, h]) = rest.first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]);
        if length as usize > MAX_PAYLOAD {
            return Err(FrameError::TooLong(length));
        }
        let kind = Kind::of(kind).ok_or(FrameError::UnknownKind(kind))?;
        let Some(payload) = rest[HEADER..].get(..length as usize) else { return Ok(None) };
        let frame = Frame { kind, channel: u32::from_be_bytes([e, f, g, h]), payload: payload.to_vec() };
        self.begin += HEADER + length as usize;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_too_long_or_unknown_is_refused_at_once() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0]);
        assert_eq!(decoder.next_frame(), Err(FrameError::TooLong(u32::MAX)));
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 1, 77, 0, 0, 0, 0]);
        assert_eq!(decoder.next_frame(), Err(FrameError::UnknownKind(77)));
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in proptest::collection::vec((0_u8..6, any::<u32>(), proptest::collection::vec(any::<u8>(), 0..600)), 0..20),
            cut in 1_usize..700,
        ) {
            let mut wire = Vec::new();
            for (kind, channel, payload) in &frames {
                encode(&mut wire, Kind::of(*kind).unwrap(), *channel, payload);
            }
            let mut decoder = Decoder::default();
            let mut out = Vec::new();
            for part in wire.chunks(cut) {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    out.push((frame.kind as u8, frame.channel, frame.payload));
                }
            }
            prop_assert_eq!(out, frames);
        }

        #[test]
        fn rubbish_neither_panics_nor_is_kept(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut decoder = Decoder::default();
            for part in bytes.chunks(100) {
                decoder.push(part);
                while let Ok(Some(_)) = decoder.next_frame() {}
                prop_assert!(decoder.bytes.len() <= bytes.len());
            }
        }
    }
}
