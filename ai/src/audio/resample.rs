//! Streaming conversion between sample rates, mono.
//!
//! Place: gRPC and REST audio to 16 kHz, sound files to any rate. Rule: constant memory; the resampler's delay is cut
//! from the beginning, so that the times of words stay true. The FFT resampler of rubato does the work.

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler as _};

use super::AudioError;

/// Input is processed in blocks of so many milliseconds: shorter costs more, longer delays more.
const BLOCK_MS: u32 = 10;

/// Converts one stream from one rate to another.
pub struct Resampler {
    engine: Option<Engine>,
}

struct Engine {
    fft: Fft<f32>,
    pending: Vec<f32>,
    output: Vec<f32>,
    /// Output samples still to be cut.
    delay: usize,
    ratio: f64,
    consumed: u64,
    produced: u64,
}

impl Resampler {
    /// A converter from `from_hz` to `to_hz`, each 8,000 to 192,000. Equal rates pass through untouched.
    ///
    /// # Errors
    /// [`AudioError::SampleRate`] for a rate outside that range.
    pub fn new(from_hz: u32, to_hz: u32) -> Result<Self, AudioError> {
        for rate in [from_hz, to_hz] {
            if !(8_000..=192_000).contains(&rate) {
                return Err(AudioError::SampleRate { rate });
            }
        }
        if from_hz == to_hz {
            return Ok(Self { engine: None });
        }
        let block = (from_hz * BLOCK_MS / 1000) as usize;
        let fft = Fft::new(from_hz as usize, to_hz as usize, block, 1, FixedSync::Both)
            .map_err(|error| AudioError::Resample(error.to_string()))?;
        let (delay, longest) = (fft.output_delay(), fft.output_frames_max());
        let ratio = f64::from(to_hz) / f64::from(from_hz);
        let engine = Engine { fft, pending: Vec::new(), output: vec![0.0; longest], delay, ratio, consumed: 0, produced: 0 };
        Ok(Self { engine: Some(engine) })
    }

    /// Converts `input`, appending what is ready to `output`.
    ///
    /// # Errors
    /// [`AudioError::Resample`] when rubato fails, which its contract excludes.
    pub fn process(&mut self, input: &[f32], output: &mut Vec<f32>) -> Result<(), AudioError> {
        let Some(engine) = &mut self.engine else {
            output.extend_from_slice(input);
            return Ok(());
        };
        engine.consumed += input.len() as u64;
        engine.pending.extend_from_slice(input);
        engine.drain(output)
    }

    /// The tail that is still inside; the stream then has exactly its length times the ratio of the rates. Another stream
    /// may follow.
    ///
    /// # Errors
    /// [`AudioError::Resample`] as above.
    pub fn finish(&mut self, output: &mut Vec<f32>) -> Result<(), AudioError> {
        let Some(engine) = &mut self.engine else { return Ok(()) };
        let due = (engine.consumed as f64 * engine.ratio).round() as u64;
        while engine.produced < due {
            let missing = engine.fft.input_frames_next() - engine.pending.len();
            engine.pending.resize(engine.pending.len() + missing, 0.0);
            engine.drain(output)?;
        }
        let excess = (engine.produced - due) as usize;
        output.truncate(output.len().saturating_sub(excess));
        engine.fft.reset();
        engine.pending.clear();
        engine.delay = engine.fft.output_delay();
        (engine.consumed, engine.produced) = (0, 0);
        Ok(())
    }
}

impl Engine {
    fn drain(&mut self, output: &mut Vec<f32>) -> Result<(), AudioError> {
        let fail = |reason: String| AudioError::Resample(reason);
        let mut taken = 0;
        loop {
            let block = self.fft.input_frames_next();
            if self.pending.len() - taken < block {
                break;
            }
            let input = SequentialSlice::new(&self.pending[taken..taken + block], 1, block).map_err(|e| fail(e.to_string()))?;
            let room = self.output.len();
            let mut buffer = SequentialSlice::new_mut(&mut self.output, 1, room).map_err(|e| fail(e.to_string()))?;
            let (read, written) = self.fft.process_into_buffer(&input, &mut buffer, None).map_err(|e| fail(e.to_string()))?;
            taken += read;
            let cut = self.delay.min(written);
            self.delay -= cut;
            self.produced += (written - cut) as u64;
            output.extend_from_slice(&self.output[cut..written]);
        }
        self.pending.drain(..taken);
        Ok(())
    }
}
