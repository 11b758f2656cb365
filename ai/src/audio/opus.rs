//! Opus: decoding straight to 16 kHz mono (which saves a resampler), and encoding for participants that the server makes.
//!
//! Place: the decoder follows the jitter buffer, the encoder feeds the publisher seam. Rule: a packet that libopus
//! refuses is concealed and counted, never an error that stops a stream.

use opus::{Application, Bitrate, Channels};

use super::{AudioError, SAMPLE_RATE};

/// Samples of the longest Opus packet, 120 ms at 16 kHz.
const MAX_PACKET_SAMPLES: usize = 1920;
/// Samples of 2.5 ms at 16 kHz: concealment comes in multiples of it.
const SHORTEST_FRAME: usize = 40;

/// Decodes one track to 16 kHz mono.
pub struct OpusDecoder {
    decoder: opus::Decoder,
    buffer: Vec<f32>,
    refused: u64,
}

impl OpusDecoder {
    /// A decoder with fresh state.
    ///
    /// # Errors
    /// [`AudioError::Opus`] when libopus cannot allocate.
    pub fn new() -> Result<Self, AudioError> {
        let decoder = opus::Decoder::new(SAMPLE_RATE, Channels::Mono).map_err(|e| AudioError::Opus(e.to_string()))?;
        Ok(Self { decoder, buffer: vec![0.0; MAX_PACKET_SAMPLES], refused: 0 })
    }

    /// Forgets the past: another source follows.
    pub fn reset(&mut self) {
        // It can only fail on an invalid state, which the constructor excludes; stale state would be harmless anyway.
        let _ = self.decoder.reset_state();
    }

    /// Packets that libopus refused, since the start.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Decodes a packet; one that is malformed is concealed for `samples` (16 kHz).
    pub fn decode(&mut self, payload: &[u8], samples: usize) -> &[f32] {
        if payload.is_empty() {
            return self.conceal(samples);
        }
        match self.decoder.decode_float(payload, &mut self.buffer, false) {
            Ok(length) => &self.buffer[..length],
            Err(_) => {
                self.refused += 1;
                self.conceal(samples)
            }
        }
    }

    /// Recovers `samples` before the packet `next` from its in-band error correction (concealed where it has none).
    pub fn recover(&mut self, next: &[u8], samples: usize) -> &[f32] {
        let samples = whole_frames(samples);
        match self.decoder.decode_float(next, &mut self.buffer[..samples], true) {
            Ok(length) => &self.buffer[..length],
            Err(_) => self.conceal(samples),
        }
    }

    /// Packet-loss concealment for `samples` (16 kHz), at most 120 ms.
    pub fn conceal(&mut self, samples: usize) -> &[f32] {
        let samples = whole_frames(samples);
        if self.decoder.decode_float(&[], &mut self.buffer[..samples], false).is_err() {
            self.buffer[..samples].fill(0.0);
        }
        &self.buffer[..samples]
    }
}

fn whole_frames(samples: usize) -> usize {
    (samples.clamp(SHORTEST_FRAME, MAX_PACKET_SAMPLES) / SHORTEST_FRAME) * SHORTEST_FRAME
}

/// Encodes 48 kHz mono in frames of 20 ms, with in-band error correction.
pub struct OpusEncoder {
    encoder: opus::Encoder,
}

impl OpusEncoder {
    /// Samples of one frame: 20 ms at 48 kHz.
    pub const FRAME: usize = 960;
    /// The largest packet that a frame can become, bytes (RFC 6716 section 3.2.1).
    const MAX_PACKET: usize = 1275;

    /// An encoder for speech at `bitrate_bps` (6,000 to 510,000; 32,000 is transparent for speech).
    ///
    /// # Errors
    /// [`AudioError::Opus`] when libopus refuses the bit rate.
    pub fn new(bitrate_bps: i32) -> Result<Self, AudioError> {
        let fail = |e: opus::Error| AudioError::Opus(e.to_string());
        let mut encoder = opus::Encoder::new(48_000, Channels::Mono, Application::Voip).map_err(fail)?;
        encoder.set_bitrate(Bitrate::Bits(bitrate_bps)).map_err(fail)?;
        encoder.set_inband_fec(true).map_err(fail)?;
        encoder.set_packet_loss_perc(5).map_err(fail)?;
        Ok(Self { encoder })
    }

    /// Encodes one frame of [`OpusEncoder::FRAME`] samples.
    ///
    /// # Errors
    /// [`AudioError::Opus`] when the frame has another length.
    pub fn encode(&mut self, frame: &[f32]) -> Result<Vec<u8>, AudioError> {
        if frame.len() != Self::FRAME {
            return Err(AudioError::Opus(format!("a frame has {} samples, {} are needed", frame.len(), Self::FRAME)));
        }
        self.encoder.encode_vec_float(frame, Self::MAX_PACKET).map_err(|e| AudioError::Opus(e.to_string()))
    }
}
