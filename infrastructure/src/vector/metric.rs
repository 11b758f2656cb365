//! What near means: the three metrics, their distances and scores. Every engine's own numbers are turned into these.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::VectorError;

/// How the nearness of two vectors is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The angle; lengths do not count. Distance 1 - cos (0 to 2), score cos.
    Cosine,
    /// The straight line. Distance its length (not squared), score 1 / (1 + distance).
    Euclidean,
    /// The inner product; longer vectors are nearer. Distance its negative, score itself.
    Dot,
}

impl Metric {
    /// As configuration and faces write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Euclidean => "euclidean",
            Self::Dot => "dot",
        }
    }

    /// The score of a distance.
    pub fn score(self, distance: f32) -> f32 {
        match self {
            Self::Cosine => 1.0 - distance,
            Self::Euclidean => 1.0 / (1.0 + distance),
            Self::Dot => -distance,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Metric {
    type Err = VectorError;

    fn from_str(text: &str) -> Result<Self, VectorError> {
        match text {
            "cosine" => Ok(Self::Cosine),
            "euclidean" => Ok(Self::Euclidean),
            "dot" => Ok(Self::Dot),
            _ => {
                let shown: String = text.chars().take(40).collect();
                Err(VectorError::Invalid(format!("{shown:?} is no metric: cosine, euclidean or dot")))
            }
        }
    }
}

/// Lanes that are added up apart, so that the compiler can use the widest registers of the target.
const LANES: usize = 16;

/// The inner product.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (left, right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in left.zip(right) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The squared length of the straight line between two points.
pub fn squared(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (left, right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(x, y)| (x - y) * (x - y)).sum();
    for (x, y) in left.zip(right) {
        for lane in 0..LANES {
            let apart = x[lane] - y[lane];
            lanes[lane] += apart * apart;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The length of a vector, counted in `f64` so that neither tiny nor huge numbers are lost.
pub fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt()
}

/// The vector at length 1.
pub fn unit(vector: &[f32]) -> Vec<f32> {
    let length = length(vector);
    vector.iter().map(|x| (f64::from(*x) / length) as f32).collect()
}
