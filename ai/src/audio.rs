//! Sound on its way to the recogniser: packets in order ([`jitter`]), decoded ([`opus`]), gated by their level
//! ([`gate`]), put together by [`receiver`], made fit to be heard where it is wished ([`enhance`]); PCM of any rate ([`resample`]) and sound files ([`file`]) as well.
//!
//! Rule: everything below works on 16 kHz mono `f32` in [-1, 1]; time is counted in samples ([`Samples`]); an `Instant`
//! only ever comes in from outside.

pub mod enhance;
pub mod file;
pub mod gate;
pub mod jitter;
pub mod opus;
pub mod packet;
pub mod receiver;
pub mod resample;

use std::ops::{Add, Sub};

pub use packet::TapPacket;

/// The sample rate of everything that is recognised, hertz.
pub const SAMPLE_RATE: u32 = 16_000;

/// A position or length in a stream of 16 kHz audio, in samples: the clock of a speech session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Samples(pub u64);

impl Samples {
    /// The number of samples in `ms` milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms * SAMPLE_RATE as u64 / 1000)
    }

    /// Whole milliseconds from the start of the stream.
    pub const fn as_ms(self) -> u64 {
        self.0 * 1000 / SAMPLE_RATE as u64
    }

    /// The difference, or zero where `other` is later.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Samples {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Samples {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

/// What the audio path can refuse.
#[derive(Debug, thiserror::Error)]
pub enum AudioError {
    /// A sample rate outside what can be resampled.
    #[error("sample rate {rate} Hz is not supported: use 8000 to 192000 Hz (16000 needs no resampling)")]
    SampleRate {
        /// The rate that was asked for.
        rate: u32,
    },
    /// The Opus library refused to make a decoder or encoder, or to encode.
    #[error("Opus: {0}")]
    Opus(String),
    /// A file that cannot be read as sound.
    #[error("{name} cannot be read as sound: {reason}. Use WAV, FLAC, MP3, Ogg (Opus, Vorbis), M4A (AAC) or WebM")]
    File {
        /// The file's name as given.
        name: String,
        /// What was wrong.
        reason: String,
    },
    /// The resampler failed.
    #[error("resampling: {0}")]
    Resample(String),
}
