//! Kaldi's filterbank, as sherpa-onnx computes it: samples in, log-mel frames out, the same whatever the sizes of the pieces.
//!
//! 25 ms windows every 10 ms at 16 kHz, centred on their hop (`snip_edges` false): the sound is mirrored at both ends. Mean removed,
//! pre-emphasis 0.97, Povey window, power spectrum of 512 points, triangles on the mel scale 1127 ln(1 + f / 700) from 20 Hz to 400 Hz
//! below half the sample rate, natural logarithm with the floor of a float's epsilon. No dither. Source: feature-window.cc and mel-computations.cc of Kaldi.

use std::sync::Arc;

use realfft::num_complex::Complex32;
use realfft::{RealFftPlanner, RealToComplex};

use crate::audio::SAMPLE_RATE;

const WINDOW: usize = 400;
/// Samples between two frames.
pub const HOP: usize = 160;
const FFT: usize = 512;
const LOW_HERTZ: f32 = 20.0;
const HIGH_HERTZ: f32 = SAMPLE_RATE as f32 / 2.0 - 400.0;
const PRE_EMPHASIS: f32 = 0.97;

/// What is constant: window, filters, transform.
pub struct KaldiBank {
    n_mels: usize,
    window: Vec<f32>,
    /// Per filter: the first bin, and the weights from there on.
    filters: Vec<(usize, Vec<f32>)>,
    fft: Arc<dyn RealToComplex<f32>>,
}

impl KaldiBank {
    /// With so many filters (sherpa-onnx's models have 80).
    ///
    /// # Errors
    /// A sentence, for a number that cannot be.
    pub fn new(n_mels: usize) -> Result<Self, String> {
        if !(3..=256).contains(&n_mels) {
            return Err(format!("{n_mels} filters: 3 to 256 are possible"));
        }
        let hann = |n: usize| 0.5 - 0.5 * (std::f64::consts::TAU * n as f64 / (WINDOW - 1) as f64).cos();
        let window = (0..WINDOW).map(|n| hann(n).powf(0.85) as f32).collect();
        Ok(Self { n_mels, window, filters: filters(n_mels), fft: RealFftPlanner::new().plan_fft_forward(FFT) })
    }

    /// Values of a frame.
    pub fn n_mels(&self) -> usize {
        self.n_mels
    }
}

fn mel(hertz: f32) -> f32 {
    1127.0 * (1.0 + hertz / 700.0).ln()
}

fn filters(n_mels: usize) -> Vec<(usize, Vec<f32>)> {
    let (low, high) = (mel(LOW_HERTZ), mel(HIGH_HERTZ));
    let step = (high - low) / (n_mels + 1) as f32;
    let bin_hertz = SAMPLE_RATE as f32 / FFT as f32;
    let filter = |index: usize| {
        let (left, centre, right) = (low + index as f32 * step, low + (index + 1) as f32 * step, low + (index + 2) as f32 * step);
        let weight = |bin: usize| {
            let at = mel(bin as f32 * bin_hertz);
            match at {
                _ if at <= left || at >= right => 0.0,
                _ if at <= centre => (at - left) / (centre - left),
                _ => (right - at) / (right - centre),
            }
        };
        // Kaldi leaves the highest bin out.
        let weights: Vec<f32> = (0..FFT / 2).map(weight).collect();
        let first = weights.iter().position(|&weight| weight > 0.0).unwrap_or(0);
        let last = weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0);
        (first, weights[first..=last].to_vec())
    };
    (0..n_mels).map(filter).collect()
}

/// The filterbank of one sound.
pub struct KaldiFeatures {
    bank: Arc<KaldiBank>,
    /// Samples from `begin` on that frames still need.
    samples: Vec<f32>,
    begin: usize,
    next: usize,
    frame: Vec<f32>,
    spectrum: Vec<Complex32>,
    scratch: Vec<Complex32>,
}

impl KaldiFeatures {
    /// At the first sample.
    pub fn new(bank: Arc<KaldiBank>) -> Self {
        let (frame, spectrum, scratch) = (bank.fft.make_input_vec(), bank.fft.make_output_vec(), bank.fft.make_scratch_vec());
        Self { bank, samples: Vec::new(), begin: 0, next: 0, frame, spectrum, scratch }
    }

    /// Takes samples in [-1, 1] and appends every frame (`n_mels` values) that needs no later sample.
    pub fn push(&mut self, samples: &[f32], frames: &mut Vec<f32>) {
        self.samples.extend_from_slice(samples);
        let length = self.begin + self.samples.len();
        while start(self.next) + (WINDOW as isize) <= length as isize && self.next < frames_of(length) {
            self.compute(length, frames);
        }
        self.forget();
    }

    /// The sound ends here: appends the frames that look beyond its end.
    pub fn finish(&mut self, frames: &mut Vec<f32>) {
        let length = self.begin + self.samples.len();
        while self.next < frames_of(length) {
            self.compute(length, frames);
        }
    }

    fn compute(&mut self, length: usize, frames: &mut Vec<f32>) {
        let bank = self.bank.clone();
        let from = start(self.next);
        for (n, value) in self.frame[..WINDOW].iter_mut().enumerate() {
            let at = mirrored(from + n as isize, length);
            *value = self.samples.get(at.wrapping_sub(self.begin)).copied().unwrap_or(0.0);
        }
        let mean = self.frame[..WINDOW].iter().sum::<f32>() / WINDOW as f32;
        self.frame[..WINDOW].iter_mut().for_each(|value| *value -= mean);
        for n in (1..WINDOW).rev() {
            self.frame[n] -= PRE_EMPHASIS * self.frame[n - 1];
        }
        self.frame[0] -= PRE_EMPHASIS * self.frame[0];
        self.frame.iter_mut().zip(&bank.window).for_each(|(value, weight)| *value *= weight);
        self.frame[WINDOW..].fill(0.0);
        bank.fft
            .process_with_scratch(&mut self.frame, &mut self.spectrum, &mut self.scratch)
            .expect("the buffers were made by this transform");
        for (first, weights) in &bank.filters {
            let energy: f32 = weights.iter().zip(&self.spectrum[*first..]).map(|(weight, bin)| weight * bin.norm_sqr()).sum();
            frames.push(energy.max(f32::EPSILON).ln());
        }
        self.next += 1;
    }

    /// Drops what no later frame needs; the mirrored end needs at most a window.
    fn forget(&mut self) {
        let needed = start(self.next).max(0) as usize;
        let keep_from = needed.saturating_sub(WINDOW).max(self.begin).min(self.begin + self.samples.len());
        self.samples.drain(..keep_from - self.begin);
        self.begin = keep_from;
    }
}

/// The first sample of a frame; the first frames begin before the sound.
fn start(frame: usize) -> isize {
    (frame * HOP) as isize + (HOP / 2) as isize - (WINDOW / 2) as isize
}

fn frames_of(length: usize) -> usize {
    (length + HOP / 2) / HOP
}

/// A position beyond an end is mirrored at it, as often as needed.
fn mirrored(mut at: isize, length: usize) -> usize {
    let length = length as isize;
    while at < 0 || at >= length {
        at = if at < 0 { -at - 1 } else { 2 * length - 1 - at };
    }
    at as usize
}
