//! Streaming log-mel filterbank: samples in, frames out, the same frames whatever the sizes of the pieces.
//!
//! Place: between a segment's audio and the recogniser. Rule: causal. Frame `t` covers the samples
//! `[t * hop, t * hop + window)`, nothing is padded, so that a stream equals the whole file.

pub mod kaldi;
mod mel;
pub mod whisper;

use std::sync::Arc;

use realfft::num_complex::Complex32;
use realfft::{RealFftPlanner, RealToComplex};
use serde::Deserialize;

pub use mel::MelScale;
use mel::Triangles;

/// The parameters of a filterbank, as a pack's manifest gives them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSpec {
    /// Hertz; 16,000.
    pub sample_rate: u32,
    /// Samples of a window.
    pub frame_length: usize,
    /// Samples between two frames.
    pub hop_length: usize,
    /// Samples of the transform; the window is padded with zeros on the right.
    pub fft_length: usize,
    /// The window.
    pub window: Window,
    /// What of the spectrum is filtered.
    pub spectrum: Spectrum,
    /// Scale of the filters.
    pub mel_scale: MelScale,
    /// Height of the filters.
    pub mel_norm: MelNorm,
    /// Filters: values of a frame.
    pub n_mels: usize,
    /// Lower edge, hertz.
    pub f_min: f32,
    /// Upper edge, hertz.
    pub f_max: f32,
    /// The logarithm.
    pub log: Logarithm,
    /// Added to the filtered power before the logarithm.
    pub log_offset: f32,
    /// The range of samples: -1 to 1.
    pub sample_range: [f32; 2],
    /// Padding at the beginning: none.
    pub padding: Nothing,
    /// Noise added: 0.
    pub dither: f32,
}

/// Shapes of window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// Hann, periodic (librosa, torch).
    HannPeriodic,
    /// Hann, symmetric (numpy).
    HannSymmetric,
    /// Kaldi's: symmetric Hann to the power of 0.85.
    Povey,
}

/// What of the spectrum is filtered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spectrum {
    /// The squared magnitude.
    Power,
}

/// Height of the mel filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MelNorm {
    /// Every filter's peak is 1.
    None,
    /// Every filter's area is the same (librosa's default).
    Slaney,
}

/// Logarithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Logarithm {
    /// To the base e.
    Natural,
}

/// A value that has to be written and can only be `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nothing {
    /// None.
    None,
}

/// What is constant for a pack: window, filters, transform.
pub struct FilterBank {
    spec: FeatureSpec,
    window: Vec<f32>,
    /// Per filter: the first bin, and the weights from there on.
    filters: Vec<(usize, Vec<f32>)>,
    fft: Arc<dyn RealToComplex<f32>>,
}

impl FilterBank {
    /// Prepares the filters.
    ///
    /// # Errors
    /// A sentence naming the value that cannot be.
    pub fn new(spec: FeatureSpec) -> Result<Self, String> {
        let check = |good: bool, sentence: String| if good { Ok(()) } else { Err(sentence) };
        let FeatureSpec { sample_rate, frame_length, hop_length, fft_length, n_mels, f_min, f_max, log_offset, .. } = spec;
        check(sample_rate == crate::audio::SAMPLE_RATE, format!("sample_rate is {sample_rate}, 16000 is needed"))?;
        let even = fft_length % 2 == 0 && (64..=8192).contains(&fft_length);
        check(even, format!("fft_length is {fft_length}, an even number from 64 to 8192 is needed"))?;
        check((2..=fft_length).contains(&frame_length), format!("frame_length is {frame_length}, 2 to {fft_length} is needed"))?;
        check((1..=frame_length).contains(&hop_length), format!("hop_length is {hop_length}, 1 to {frame_length} is needed"))?;
        check((1..=256).contains(&n_mels), format!("n_mels is {n_mels}, 1 to 256 is needed"))?;
        let nyquist = sample_rate as f32 / 2.0;
        let edges = f_min >= 0.0 && f_min < f_max && f_max <= nyquist;
        check(edges, format!("f_min {f_min} and f_max {f_max} do not fit into 0 to {nyquist} Hz"))?;
        check(log_offset > 0.0, format!("log_offset is {log_offset}, more than 0 is needed"))?;
        check(spec.sample_range == [-1.0, 1.0], format!("sample_range is {:?}, [-1, 1] is needed", spec.sample_range))?;
        check(spec.dither == 0.0, format!("dither is {}, 0 is needed: recognition is to be repeatable", spec.dither))?;
        Ok(Self {
            window: spec.window.coefficients(frame_length),
            filters: Triangles { scale: spec.mel_scale, norm: spec.mel_norm, sample_rate, fft_length, count: n_mels, f_min, f_max }
                .weights(),
            fft: RealFftPlanner::new().plan_fft_forward(fft_length),
            spec,
        })
    }

    /// The parameters.
    pub fn spec(&self) -> &FeatureSpec {
        &self.spec
    }
}

impl Window {
    fn coefficients(self, length: usize) -> Vec<f32> {
        let periods = match self {
            Self::HannPeriodic => length as f64,
            Self::HannSymmetric | Self::Povey => (length as f64 - 1.0).max(1.0),
        };
        let hann = |n: usize| 0.5 - 0.5 * (std::f64::consts::TAU * n as f64 / periods).cos();
        (0..length)
            .map(|n| match self {
                Self::Povey => hann(n).powf(0.85) as f32,
                Self::HannPeriodic | Self::HannSymmetric => hann(n) as f32,
            })
            .collect()
    }
}

/// The filterbank of one segment.
pub struct FeatureExtractor {
    bank: Arc<FilterBank>,
    pending: Vec<f32>,
    frame: Vec<f32>,
    spectrum: Vec<Complex32>,
    scratch: Vec<Complex32>,
}

impl FeatureExtractor {
    /// At the first sample of a segment.
    pub fn new(bank: Arc<FilterBank>) -> Self {
        let (frame, spectrum, scratch) = (bank.fft.make_input_vec(), bank.fft.make_output_vec(), bank.fft.make_scratch_vec());
        Self { bank, pending: Vec::new(), frame, spectrum, scratch }
    }

    /// Takes samples in [-1, 1] and appends every frame (`n_mels` values) that is complete.
    pub fn push(&mut self, samples: &[f32], frames: &mut Vec<f32>) {
        let bank = self.bank.clone();
        let spec = &bank.spec;
        self.pending.extend_from_slice(samples);
        let mut start = 0;
        while start + spec.frame_length <= self.pending.len() {
            for (value, (sample, weight)) in
                self.frame.iter_mut().zip(self.pending[start..start + spec.frame_length].iter().zip(&bank.window))
            {
                *value = sample * weight;
            }
            self.frame[spec.frame_length..].fill(0.0);
            bank.fft
                .process_with_scratch(&mut self.frame, &mut self.spectrum, &mut self.scratch)
                .expect("the buffers were made by this transform");
            for (first, weights) in &bank.filters {
                let energy: f32 = weights.iter().zip(&self.spectrum[*first..]).map(|(weight, bin)| weight * bin.norm_sqr()).sum();
                frames.push((energy + spec.log_offset).ln());
            }
            start += spec.hop_length;
        }
        self.pending.drain(..start);
    }
}
