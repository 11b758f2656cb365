//! Triangular mel filters (librosa.filters.mel, torchaudio.functional.melscale_fbanks).

use serde::Deserialize;

use super::{FeatureSpec, MelNorm};

/// Formulas from hertz to mel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MelScale {
    /// `2595 log10(1 + f / 700)`.
    Htk,
    /// Slaney's Auditory Toolbox: linear below 1 kHz.
    Slaney,
}

impl MelScale {
    fn to_mel(self, hertz: f64) -> f64 {
        match self {
            Self::Htk => 2595.0 * (1.0 + hertz / 700.0).log10(),
            Self::Slaney if hertz < 1000.0 => hertz * 3.0 / 200.0,
            Self::Slaney => 15.0 + (hertz / 1000.0).ln() * 27.0 / 6.4_f64.ln(),
        }
    }

    fn to_hertz(self, mel: f64) -> f64 {
        match self {
            Self::Htk => 700.0 * (10_f64.powf(mel / 2595.0) - 1.0),
            Self::Slaney if mel < 15.0 => mel * 200.0 / 3.0,
            Self::Slaney => 1000.0 * ((mel - 15.0) * 6.4_f64.ln() / 27.0).exp(),
        }
    }
}

/// Per filter: the first bin with weight, and the weights from there on.
pub(super) fn filters(spec: &FeatureSpec) -> Vec<(usize, Vec<f32>)> {
    let scale = spec.mel_scale;
    let (low, high) = (scale.to_mel(f64::from(spec.f_min)), scale.to_mel(f64::from(spec.f_max)));
    let edge = |index: usize| scale.to_hertz(low + (high - low) * index as f64 / (spec.n_mels + 1) as f64);
    let bin_hertz = f64::from(spec.sample_rate) / spec.fft_length as f64;
    (0..spec.n_mels)
        .map(|index| {
            let (left, centre, right) = (edge(index), edge(index + 1), edge(index + 2));
            let height = match spec.mel_norm {
                MelNorm::None => 1.0,
                MelNorm::Slaney => 2.0 / (right - left),
            };
            let weight = |bin: usize| {
                let hertz = bin as f64 * bin_hertz;
                (((hertz - left) / (centre - left)).min((right - hertz) / (right - centre)).max(0.0) * height) as f32
            };
            let weights: Vec<f32> = (0..=spec.fft_length / 2).map(weight).collect();
            let first = weights.iter().position(|&w| w > 0.0).unwrap_or(0);
            let last = weights.iter().rposition(|&w| w > 0.0).unwrap_or(0);
            (first, weights[first..=last].to_vec())
        })
        .collect()
}
