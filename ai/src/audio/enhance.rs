//! Sound made fit to be heard: noise taken out (RNNoise, by `nnnoiseless`) and the level of speech brought to where models expect it.
//!
//! Place: an option of a stream, in front of its session's backlog. Rules: what comes out is as long as what went in, so that the
//! times of words stay true (a tail of some 20 ms waits inside until more comes or it is finished); what is no number is silence.

use nnnoiseless::{DenoiseState, FRAME_SIZE};

use super::resample::Resampler;
use super::{AudioError, SAMPLE_RATE};

/// RNNoise's rate, hertz.
const RNNOISE_RATE: u32 = 48_000;
/// RNNoise counts samples as 16-bit integers do.
const INT16: f32 = 32_768.0;

/// Samples of a block of gain control: 10 ms.
const BLOCK: usize = SAMPLE_RATE as usize / 100;
/// The level that speech is brought to, as an effective value: -23 dB of full scale, where recordings that models learn from lie.
const TARGET: f32 = 0.07;
/// What is softer than this (-60 dB) is no speech.
const SOFTEST: f32 = 0.001;
/// Speech stands so far above the noise.
const ABOVE_NOISE: f32 = 3.0;
/// The most that soft speech is raised (30 dB); more would raise the room.
const MOST: f32 = 31.6;
/// The most that loud speech is lowered (12 dB).
const LEAST: f32 = 0.25;
/// How fast the gain grows for each block: 6 dB a second. Faster pumps.
const RISE: f32 = 1.006_932;
/// How fast it falls: 40 dB a second. Slower lets the first loud word clip for longer.
const FALL: f32 = 0.955;
/// No sample becomes larger than this.
const CEILING: f32 = 0.95;
/// Blocks of speech over which the level is averaged: one second.
const MEMORY: f32 = 100.0;
/// How fast the estimate of the noise grows for each block, so that it follows a room that becomes louder within seconds.
const NOISE_RISE: f32 = 1.01;

/// Which of it a stream wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Enhancement {
    /// Take noise out.
    pub noise_suppression: bool,
    /// Bring speech to one level.
    pub automatic_gain: bool,
}

/// The enhancement of one stream, 16 kHz mono.
pub struct Enhancer {
    suppressor: Option<Suppressor>,
    gain: Option<GainControl>,
    sane: Vec<f32>,
    clean: Vec<f32>,
}

impl Enhancer {
    /// As `wanted`.
    ///
    /// # Errors
    /// [`AudioError`] when a resampler cannot be made, which its contract excludes.
    pub fn new(wanted: Enhancement) -> Result<Self, AudioError> {
        let suppressor = if wanted.noise_suppression { Some(Suppressor::new()?) } else { None };
        Ok(Self { suppressor, gain: wanted.automatic_gain.then(GainControl::default), sane: Vec::new(), clean: Vec::new() })
    }

    /// Takes samples in [-1, 1] and appends what is ready to `output`.
    ///
    /// # Errors
    /// [`AudioError::Resample`], which rubato's contract excludes.
    pub fn process(&mut self, samples: &[f32], output: &mut Vec<f32>) -> Result<(), AudioError> {
        self.sane.clear();
        self.sane.extend(samples.iter().map(|&sample| if sample.is_finite() { sample.clamp(-1.0, 1.0) } else { 0.0 }));
        match (&mut self.suppressor, &mut self.gain) {
            (Some(suppressor), Some(gain)) => {
                self.clean.clear();
                suppressor.process(&self.sane, &mut self.clean)?;
                gain.process(&self.clean, output);
            }
            (Some(suppressor), None) => suppressor.process(&self.sane, output)?,
            (None, Some(gain)) => gain.process(&self.sane, output),
            (None, None) => output.extend_from_slice(&self.sane),
        }
        Ok(())
    }

    /// The sound pauses: appends what is still inside. More may follow.
    ///
    /// # Errors
    /// As [`Enhancer::process`].
    pub fn finish(&mut self, output: &mut Vec<f32>) -> Result<(), AudioError> {
        self.clean.clear();
        if let Some(suppressor) = &mut self.suppressor {
            suppressor.finish(&mut self.clean)?;
        }
        match &mut self.gain {
            Some(gain) => {
                gain.process(&self.clean, output);
                gain.finish(output);
            }
            None => output.extend_from_slice(&self.clean),
        }
        Ok(())
    }
}

struct Suppressor {
    up: Resampler,
    denoiser: Box<DenoiseState<'static>>,
    down: Resampler,
    /// At 48 kHz, less than a frame.
    pending: Vec<f32>,
    clean: Vec<f32>,
    /// RNNoise's first frame comes out of nothing: it is cut, so that its delay is none.
    fresh: bool,
    taken: u64,
    given: u64,
}

impl Suppressor {
    fn new() -> Result<Self, AudioError> {
        Ok(Self {
            up: Resampler::new(SAMPLE_RATE, RNNOISE_RATE)?,
            denoiser: DenoiseState::new(),
            down: Resampler::new(RNNOISE_RATE, SAMPLE_RATE)?,
            pending: Vec::new(),
            clean: Vec::new(),
            fresh: true,
            taken: 0,
            given: 0,
        })
    }

    fn process(&mut self, samples: &[f32], output: &mut Vec<f32>) -> Result<(), AudioError> {
        self.taken += samples.len() as u64;
        self.up.process(samples, &mut self.pending)?;
        self.denoise();
        let from = output.len();
        self.down.process(&self.clean, output)?;
        self.given += (output.len() - from) as u64;
        Ok(())
    }

    fn denoise(&mut self) {
        self.clean.clear();
        let whole = self.pending.len() / FRAME_SIZE * FRAME_SIZE;
        let (mut input, mut clean) = ([0.0; FRAME_SIZE], [0.0; FRAME_SIZE]);
        for frame in self.pending[..whole].chunks_exact(FRAME_SIZE) {
            input.iter_mut().zip(frame).for_each(|(value, sample)| *value = sample * INT16);
            self.denoiser.process_frame(&mut clean, &input);
            if !std::mem::take(&mut self.fresh) {
                self.clean.extend(clean.iter().map(|sample| (sample / INT16).clamp(-1.0, 1.0)));
            }
        }
        self.pending.drain(..whole);
    }

    fn finish(&mut self, output: &mut Vec<f32>) -> Result<(), AudioError> {
        self.up.finish(&mut self.pending)?;
        // The last frame comes out when another goes in.
        let whole = self.pending.len().div_ceil(FRAME_SIZE) * FRAME_SIZE + FRAME_SIZE;
        self.pending.resize(whole, 0.0);
        self.denoise();
        let from = output.len();
        self.down.process(&self.clean, output)?;
        self.down.finish(output)?;
        output.resize(from + (self.taken - self.given) as usize, 0.0);
        (self.taken, self.given) = (0, 0);
        // The next sound does not begin with this one's echo.
        self.pending.clear();
        self.denoiser = DenoiseState::new();
        self.fresh = true;
        Ok(())
    }
}

/// Brings speech to [`TARGET`]: the level is measured on what stands out of the noise, the gain follows it slowly up and fast down.
struct GainControl {
    gain: f32,
    noise: f32,
    /// Mean power of the speech so far, and of how many blocks.
    speech: f32,
    blocks: f32,
    /// Less than a block, so that what is done does not depend on the pieces that come.
    pending: Vec<f32>,
}

impl Default for GainControl {
    fn default() -> Self {
        Self { gain: 1.0, noise: 1.0, speech: 0.0, blocks: 0.0, pending: Vec::with_capacity(BLOCK) }
    }
}

impl GainControl {
    fn process(&mut self, mut samples: &[f32], output: &mut Vec<f32>) {
        while self.pending.len() + samples.len() >= BLOCK {
            let (now, later) = samples.split_at(BLOCK - self.pending.len());
            self.pending.extend_from_slice(now);
            samples = later;
            self.finish(output);
        }
        self.pending.extend_from_slice(samples);
    }

    /// The block that waits, whole or not.
    fn finish(&mut self, output: &mut Vec<f32>) {
        let mut block = std::mem::take(&mut self.pending);
        if !block.is_empty() {
            self.apply(&mut block);
            output.extend_from_slice(&block);
        }
        block.clear();
        self.pending = block;
    }

    fn apply(&mut self, block: &mut [f32]) {
        let power = block.iter().map(|sample| sample * sample).sum::<f32>() / block.len() as f32;
        let peak = block.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
        let level = power.sqrt();
        self.noise = level.min(self.noise * NOISE_RISE).max(SOFTEST / 100.0);
        if level > SOFTEST && level > self.noise * ABOVE_NOISE {
            self.blocks = (self.blocks + 1.0).min(MEMORY);
            self.speech += (power - self.speech) / self.blocks;
        }
        let before = self.gain;
        if self.blocks > 0.0 {
            let wanted = (TARGET / self.speech.sqrt().max(f32::MIN_POSITIVE)).clamp(LEAST, MOST);
            self.gain = wanted.clamp(self.gain * FALL, self.gain * RISE);
        }
        // A peak is below the ceiling at once; otherwise the gain goes from the old to the new along the block.
        let most = if peak > 0.0 { CEILING / peak } else { f32::MAX };
        self.gain = self.gain.min(most);
        let from = before.min(most);
        let step = (self.gain - from) / block.len() as f32;
        for (index, sample) in block.iter_mut().enumerate() {
            *sample *= from + step * (index + 1) as f32;
        }
    }
}
