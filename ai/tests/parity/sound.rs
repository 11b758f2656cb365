//! Sounds by the formulas of `ai/parity/sound.py`: a fixture names its parts, each with its seconds.

use std::f64::consts::TAU;
use std::path::PathBuf;

use serde_json::Value;

const RATE: f64 = 16_000.0;

/// The folder of the fixtures.
pub fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity")
}

fn speech(count: usize) -> Vec<f64> {
    let wav = std::fs::read(fixtures().join("../data/speech.wav")).unwrap();
    let pair = |frame: &[u8]| f64::from(i16::from_le_bytes([frame[0], frame[1]])) + f64::from(i16::from_le_bytes([frame[2], frame[3]]));
    let data = wav.windows(4).position(|word| word == b"data").unwrap() + 8;
    let mono: Vec<f64> = wav[data..].chunks_exact(4).map(|frame| pair(frame) / 65_536.0).collect();
    let following = mono[1..].iter().copied().chain([0.0]);
    let doubled: Vec<f64> = mono.iter().zip(following).flat_map(|(&here, next)| [here, (here + next) / 2.0]).collect();
    doubled.iter().copied().cycle().take(count).collect()
}

fn noise(count: usize) -> Vec<f64> {
    let mut state = 12_345_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        0.1 * (f64::from(state) / f64::from(1_u32 << 31) - 1.0)
    };
    (0..count).map(|_| next()).collect()
}

fn tone(time: f64) -> f64 {
    0.5 * (TAU * 440.0 * time).sin()
}

fn sweep(time: f64) -> f64 {
    let part = time % 4.0;
    0.4 * (TAU * (100.0 * part + 487.5 * part * part)).sin() * (0.6 + 0.4 * (TAU * 3.0 * time).sin())
}

fn voice(time: f64) -> f64 {
    let phase = TAU * 120.0 * time + (30.0 / 0.7) * (1.0 - (TAU * 0.7 * time).cos());
    let harmonics: f64 = (1..=10).map(|k| (f64::from(k) * phase).sin() / f64::from(k)).sum();
    0.2 * harmonics * (TAU * 2.1 * time).sin().max(0.0).sqrt()
}

/// The samples of a fixture's parts.
pub fn sound(parts: &Value) -> Vec<f32> {
    let mut samples = Vec::new();
    for part in parts.as_array().unwrap() {
        let count = (part[1].as_f64().unwrap() * RATE).round() as usize;
        let by = |formula: fn(f64) -> f64| (0..count).map(|n| formula(n as f64 / RATE)).collect::<Vec<f64>>();
        let made = match part[0].as_str().unwrap() {
            "speech" => speech(count),
            "noise" => noise(count),
            "silence" => vec![0.0; count],
            "tone" => by(tone),
            "sweep" => by(sweep),
            "voice" => by(voice),
            other => panic!("`{other}` is no sound"),
        };
        samples.extend(made.into_iter().map(|sample| sample as f32));
    }
    samples
}
