//! Samples that a service sends over gRPC, as mono floats: any of the encodings and channel counts of `TranscribeConfig`.

use auralink_proto::v1::transcribe_config::Encoding;

/// Turns interleaved bytes into mono samples; a sample that was cut by a message border is completed by the next message.
#[derive(Debug)]
pub struct PcmReader {
    encoding: Encoding,
    channels: usize,
    rest: Vec<u8>,
}

/// Why a stream's audio cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PcmError {
    /// Encoding not named.
    #[error("config.encoding is not set: ENCODING_S16LE or ENCODING_F32LE")]
    Encoding,
    /// Channels.
    #[error("config.channels is {0}: 1 to 8")]
    Channels(u32),
    /// Rate.
    #[error("config.sample_rate_hz is {0}: 8000 to 48000")]
    Rate(u32),
    /// One message.
    #[error("an audio message holds {0} bytes: at most {MAX_MESSAGE_BYTES}")]
    TooLong(usize),
}

/// Largest audio message.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

impl PcmReader {
    /// A reader for the configured form; a channel count of 0 means 1.
    pub fn new(encoding: Encoding, channels: u32, sample_rate_hz: u32) -> Result<Self, PcmError> {
        let channels = channels.max(1);
        if encoding == Encoding::Unspecified {
            return Err(PcmError::Encoding);
        }
        if channels > 8 {
            return Err(PcmError::Channels(channels));
        }
        if !(8_000..=48_000).contains(&sample_rate_hz) {
            return Err(PcmError::Rate(sample_rate_hz));
        }
        Ok(Self { encoding, channels: channels as usize, rest: Vec::new() })
    }

    /// Mono samples in [-1, 1]; what is not a number becomes silence.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Vec<f32>, PcmError> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(PcmError::TooLong(bytes.len()));
        }
        self.rest.extend_from_slice(bytes);
        let width = if self.encoding == Encoding::S16le { 2 } else { 4 };
        let frame = width * self.channels;
        let whole = self.rest.len() / frame * frame;
        let mono = self.rest[..whole].chunks_exact(frame).map(|frame| self.mono(frame, width)).collect();
        self.rest.drain(..whole);
        Ok(mono)
    }

    fn mono(&self, frame: &[u8], width: usize) -> f32 {
        let sum: f32 = frame.chunks_exact(width).map(|bytes| self.sample(bytes)).sum();
        (sum / self.channels as f32).clamp(-1.0, 1.0)
    }

    fn sample(&self, bytes: &[u8]) -> f32 {
        let value = match bytes {
            [a, b] => f32::from(i16::from_le_bytes([*a, *b])) / 32_768.0,
            [a, b, c, d] => f32::from_le_bytes([*a, *b, *c, *d]),
            _ => 0.0,
        };
        if value.is_finite() { value } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_cut_by_a_message_border_are_completed() {
        let bytes: Vec<u8> = [100_i16, -200, 300, -400].iter().flat_map(|s| s.to_le_bytes()).collect();
        let mut whole = PcmReader::new(Encoding::S16le, 2, 16_000).unwrap();
        let expected = whole.read(&bytes).unwrap();
        assert_eq!(expected.len(), 2);
        let mut cut = PcmReader::new(Encoding::S16le, 2, 16_000).unwrap();
        let mut got = Vec::new();
        for byte in &bytes {
            got.extend(cut.read(&[*byte]).unwrap());
        }
        assert_eq!(got, expected);
    }

    #[test]
    fn what_is_no_number_is_silence_and_what_is_out_of_range_is_refused() {
        let mut reader = PcmReader::new(Encoding::F32le, 0, 48_000).unwrap();
        let bytes: Vec<u8> = [f32::NAN, f32::INFINITY, 7.0].iter().flat_map(|s| s.to_le_bytes()).collect();
        assert_eq!(reader.read(&bytes).unwrap(), [0.0, 0.0, 1.0]);
        assert_eq!(reader.read(&vec![0; MAX_MESSAGE_BYTES + 1]), Err(PcmError::TooLong(MAX_MESSAGE_BYTES + 1)));
        assert_eq!(PcmReader::new(Encoding::Unspecified, 1, 16_000).unwrap_err(), PcmError::Encoding);
        assert_eq!(PcmReader::new(Encoding::S16le, 9, 16_000).unwrap_err(), PcmError::Channels(9));
        assert_eq!(PcmReader::new(Encoding::S16le, 1, 192_000).unwrap_err(), PcmError::Rate(192_000));
    }
}
