//! Whisper's log-mel features, as `WhisperFeatureExtractor` of `transformers` makes them, piece by piece or at once.
//!
//! Place: in front of Whisper's encoder (and of networks that took its features). 400 samples a window, 160 a hop, centred with
//! reflected edges, periodic Hann, power, Slaney's mel filters from 0 to 8 kHz, log10 with a floor of 1e-10; then nothing more than eight
//! decades under the loudest, and `(x + 4) / 4`. Rule: a frame is computed once; what depends on the whole (the loudest) is done
//! when a window is taken.

use std::sync::Arc;

use realfft::num_complex::Complex32;
use realfft::{RealFftPlanner, RealToComplex};

use super::mel::{MelScale, Triangles};
use super::{MelNorm, Window};
use crate::audio::SAMPLE_RATE;

/// Samples between two frames.
pub const HOP: usize = 160;
const LENGTH: usize = 400;
/// Samples of a frame on either side of its centre.
const SIDE: usize = LENGTH / 2;
/// Louder samples would overflow.
const LOUDEST: f32 = 1e6;
/// The logarithm of silence.
const FLOOR: f32 = -10.0;

/// What is constant: window, filters, transform.
pub struct LogMel {
    mels: usize,
    window: Vec<f32>,
    filters: Vec<(usize, Vec<f32>)>,
    fft: Arc<dyn RealToComplex<f32>>,
}

impl LogMel {
    /// With so many filters: 80, or 128 for large-v3.
    ///
    /// # Errors
    /// A sentence when it is not 1 to 256.
    pub fn new(mels: usize) -> Result<Self, String> {
        if !(1..=256).contains(&mels) {
            return Err(format!("{mels} mel bins were asked for, 1 to 256 are possible"));
        }
        let triangles = Triangles {
            scale: MelScale::Slaney,
            norm: MelNorm::Slaney,
            sample_rate: SAMPLE_RATE,
            fft_length: LENGTH,
            count: mels,
            f_min: 0.0,
            f_max: 8000.0,
        };
        let window = Window::HannPeriodic.coefficients(LENGTH);
        Ok(Self { mels, window, filters: triangles.weights(), fft: RealFftPlanner::new().plan_fft_forward(LENGTH) })
    }

    /// Values of a frame.
    pub fn mels(&self) -> usize {
        self.mels
    }

    /// The features `[mels, frames]` of at most `frames` hops of sound; silence comes after it.
    pub fn padded(self: &Arc<Self>, samples: &[f32], frames: usize) -> Vec<f32> {
        let mut stream = LogMelStream::new(self.clone());
        stream.push(&samples[..samples.len().min(frames * HOP)]);
        stream.window(frames)
    }

    /// The spectrum of a whole recording, whose end is reflected: one frame for each whole hop.
    pub fn whole(self: &Arc<Self>, samples: &[f32]) -> LogSpectrum {
        let mut stream = LogMelStream::new(self.clone());
        stream.push(samples);
        let mut ended = stream.sound();
        mirror_end(&mut ended);
        let frames = samples.len() / HOP;
        let (mels, mut values) = (self.mels, stream.frames);
        stream.transform.frames(self, &ended, frames.saturating_sub(values.len() / mels), &mut values);
        values.truncate(frames * mels);
        let loudest = values.iter().copied().fold(f32::MIN, f32::max);
        LogSpectrum { mels, values, loudest }
    }
}

/// Log-mel frames of a recording, before they are scaled.
pub struct LogSpectrum {
    mels: usize,
    values: Vec<f32>,
    loudest: f32,
}

impl LogSpectrum {
    /// How many frames there are.
    pub fn frames(&self) -> usize {
        self.values.len() / self.mels
    }

    /// The features `[mels, count]` from frame `start` on; what comes after the end is zero, as `transformers` cuts its windows.
    pub fn window(&self, start: usize, count: usize) -> Vec<f32> {
        let start = start.min(self.frames());
        let end = (start + count).min(self.frames());
        let mut features = vec![0.0; self.mels * count];
        scale(&self.values[start * self.mels..end * self.mels], self.mels, self.loudest, count, &mut features);
        features
    }
}

/// Writes frames that follow one another (`[frames, mels]`) as `[mels, count]`, scaled.
fn scale(values: &[f32], mels: usize, loudest: f32, count: usize, features: &mut [f32]) {
    let least = loudest - 8.0;
    for (frame, values) in values.chunks_exact(mels).take(count).enumerate() {
        for (mel, &value) in values.iter().enumerate() {
            features[mel * count + frame] = (value.max(least) + 4.0) / 4.0;
        }
    }
}

/// The features of sound that is still coming: frames are kept, and the window over them can be taken again and again.
pub struct LogMelStream {
    bank: Arc<LogMel>,
    transform: Transform,
    /// Sound from the left edge of the next frame on; before the first frame without its mirrored edge.
    pending: Vec<f32>,
    begun: bool,
    /// Frames that are complete, `[frames, mels]`, before they are scaled.
    frames: Vec<f32>,
}

impl LogMelStream {
    /// Before the first sample.
    pub fn new(bank: Arc<LogMel>) -> Self {
        let transform = Transform::new(&bank);
        Self { bank, transform, pending: Vec::new(), begun: false, frames: Vec::new() }
    }

    /// Takes 16 kHz samples in [-1, 1]. What is no number counts as silence, what is beyond all measure is cut.
    pub fn push(&mut self, samples: &[f32]) {
        let sane = |&sample: &f32| if sample.is_finite() { sample.clamp(-LOUDEST, LOUDEST) } else { 0.0 };
        self.pending.extend(samples.iter().map(sane));
        if !self.begun {
            if self.pending.len() <= SIDE {
                return;
            }
            self.pending = self.sound();
            self.begun = true;
        }
        let count = (self.pending.len() + HOP).saturating_sub(LENGTH) / HOP;
        self.transform.frames(&self.bank, &self.pending, count, &mut self.frames);
        self.pending.drain(..count * HOP);
    }

    /// The sound that is not in a complete frame, with the edge before the first sample.
    fn sound(&self) -> Vec<f32> {
        let mut sound = self.pending.clone();
        if !self.begun {
            sound.resize(sound.len().max(SIDE + 1), 0.0);
            let edge: Vec<f32> = sound[1..=SIDE].iter().rev().copied().collect();
            sound.splice(..0, edge);
        }
        sound
    }

    /// How many frames are complete.
    pub fn complete(&self) -> usize {
        self.frames.len() / self.bank.mels
    }

    /// Forgets the first `frames` of the frames that are complete; the sound after them stays.
    pub fn discard(&mut self, frames: usize) {
        self.frames.drain(..frames.min(self.complete()) * self.bank.mels);
    }

    /// The features `[mels, count]` of what there is, with silence after it.
    pub fn window(&mut self, count: usize) -> Vec<f32> {
        let mels = self.bank.mels;
        let mut tail = Vec::new();
        let complete = self.complete();
        if complete < count && !self.pending.is_empty() {
            let mut ended = self.sound();
            // Silence up to the window's end, or so much of it that all later frames hear nothing else.
            let silence = ((count - complete) * HOP + SIDE).saturating_sub(ended.len());
            ended.resize(ended.len() + silence.min(LENGTH), 0.0);
            if silence <= SIDE {
                mirror_end(&mut ended);
            }
            let frames = ((ended.len() + HOP).saturating_sub(LENGTH) / HOP).min(count - complete);
            self.transform.frames(&self.bank, &ended, frames, &mut tail);
        }
        let loudest = self.frames.iter().chain(&tail).copied().fold(FLOOR, f32::max);
        let quiet = (FLOOR.max(loudest - 8.0) + 4.0) / 4.0;
        let mut features = vec![quiet; mels * count];
        scale(&self.frames, mels, loudest, count, &mut features);
        for (index, frame) in tail.chunks_exact(mels).enumerate() {
            let mut column = vec![0.0; mels];
            scale(frame, mels, loudest, 1, &mut column);
            column.iter().enumerate().for_each(|(mel, value)| features[mel * count + complete + index] = *value);
        }
        features
    }
}

/// Appends the mirror of the last samples, without the very last.
fn mirror_end(samples: &mut Vec<f32>) {
    let length = samples.len();
    let edge: Vec<f32> = samples[length.saturating_sub(SIDE + 1)..length - 1].iter().rev().copied().collect();
    samples.extend(edge);
}

/// Buffers of the Fourier transform.
struct Transform {
    frame: Vec<f32>,
    spectrum: Vec<Complex32>,
    scratch: Vec<Complex32>,
    power: Vec<f32>,
}

impl Transform {
    fn new(bank: &LogMel) -> Self {
        let fft = &bank.fft;
        let (frame, spectrum, scratch) = (fft.make_input_vec(), fft.make_output_vec(), fft.make_scratch_vec());
        Self { frame, spectrum, scratch, power: vec![0.0; LENGTH / 2 + 1] }
    }

    /// Appends `count` frames, the first of which begins at the first sample.
    fn frames(&mut self, bank: &LogMel, samples: &[f32], count: usize, frames: &mut Vec<f32>) {
        frames.reserve(count * bank.mels);
        for start in (0..count).map(|index| index * HOP) {
            let sound = &samples[start..start + LENGTH];
            if sound.iter().all(|&sample| sample == 0.0) {
                frames.extend(std::iter::repeat_n(FLOOR, bank.mels));
                continue;
            }
            for ((value, sample), weight) in self.frame.iter_mut().zip(sound).zip(&bank.window) {
                *value = sample * weight;
            }
            bank.fft
                .process_with_scratch(&mut self.frame, &mut self.spectrum, &mut self.scratch)
                .expect("the buffers were made by this transform");
            self.power.iter_mut().zip(&self.spectrum).for_each(|(power, bin)| *power = bin.norm_sqr());
            for (first, weights) in &bank.filters {
                let energy: f32 = weights.iter().zip(&self.power[*first..]).map(|(weight, power)| weight * power).sum();
                frames.push(energy.max(1e-10).log10());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound(count: usize) -> Vec<f32> {
        (0..count).map(|n| (n as f32 * 0.05).sin() * (n as f32 * 0.0003).cos()).collect()
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let bank = Arc::new(LogMel::new(80).unwrap());
        for count in [0, 1, 160, 200, 201, 399, 400, 5_000, 47_990, 48_000] {
            let sound = sound(count);
            let expected = bank.padded(&sound, 300);
            assert_eq!(expected.len(), 80 * 300);
            for piece in [1, 7, 160, 1_000] {
                let mut stream = LogMelStream::new(bank.clone());
                sound.chunks(piece).for_each(|part| stream.push(part));
                assert!(stream.window(300) == expected, "{count} samples in pieces of {piece}");
                assert!(stream.window(300) == expected, "taken again");
            }
        }
    }

    #[test]
    fn what_was_discarded_is_gone() {
        let bank = Arc::new(LogMel::new(80).unwrap());
        let mut stream = LogMelStream::new(bank);
        stream.push(&sound(16_000));
        let before = stream.window(100);
        stream.discard(40);
        let after = stream.window(60);
        let close = (0..60).all(|frame| (0..80).all(|mel| (before[mel * 100 + 40 + frame] - after[mel * 60 + frame]).abs() < 1e-5));
        assert!(close);
    }
}
