//! Triangular mel filters (librosa.filters.mel, torchaudio.functional.melscale_fbanks).

use serde::Deserialize;

use super::MelNorm;

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

/// Triangles over the bins of a spectrum.
pub(super) struct Triangles {
    pub scale: MelScale,
    pub norm: MelNorm,
    /// Hertz.
    pub sample_rate: u32,
    pub fft_length: usize,
    pub count: usize,
    /// Hertz.
    pub f_min: f32,
    /// Hertz.
    pub f_max: f32,
}

impl Triangles {
    /// Per filter: the first bin with weight, and the weights from there on.
    pub(super) fn weights(&self) -> Vec<(usize, Vec<f32>)> {
        let (low, high) = (self.scale.to_mel(f64::from(self.f_min)), self.scale.to_mel(f64::from(self.f_max)));
        let edge = |index: usize| self.scale.to_hertz(low + (high - low) * index as f64 / (self.count + 1) as f64);
        let bin_hertz = f64::from(self.sample_rate) / self.fft_length as f64;
        (0..self.count)
            .map(|index| {
                let (left, centre, right) = (edge(index), edge(index + 1), edge(index + 2));
                let height = match self.norm {
                    MelNorm::None => 1.0,
                    MelNorm::Slaney => 2.0 / (right - left),
                };
                let weight = |bin: usize| {
                    let hertz = bin as f64 * bin_hertz;
                    (((hertz - left) / (centre - left)).min((right - hertz) / (right - centre)).max(0.0) * height) as f32
                };
                let weights: Vec<f32> = (0..=self.fft_length / 2).map(weight).collect();
                let first = weights.iter().position(|&w| w > 0.0).unwrap_or(0);
                let last = weights.iter().rposition(|&w| w > 0.0).unwrap_or(0);
                (first, weights[first..=last].to_vec())
            })
            .collect()
    }
}
