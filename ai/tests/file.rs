//! Sound files: every format gives the same second of speech; what is no sound is refused by name.
//!
//! The files of `tests/data` are espeak-ng saying "good morning" (voice en-us, 160 words a minute), encoded by FFmpeg and libsndfile.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests read files and the clock")]

use std::fs::File;
use std::path::Path;

use auralink_ai::audio::AudioError;
use auralink_ai::audio::file::FileDecoder;

fn data(name: &str) -> std::path::PathBuf {
    Path::new("tests/data").join(name)
}

fn decode(name: &str, rate: u32) -> Result<Vec<f32>, AudioError> {
    let mut decoder = FileDecoder::open(File::open(data(name)).expect("the test file is committed"), name, rate)?;
    let mut samples = Vec::new();
    while decoder.read(&mut samples)? {}
    Ok(samples)
}

/// Loudness in 50 ms steps, by which the same words are known whatever the codec did to the waveform.
fn envelope(samples: &[f32]) -> Vec<f32> {
    samples.chunks(800).map(|step| (step.iter().map(|s| s * s).sum::<f32>() / step.len() as f32).sqrt()).collect()
}

/// Pearson's correlation of two envelopes.
fn correlation(a: &[f32], b: &[f32]) -> f32 {
    let count = a.len().min(b.len()) as f32;
    let mean = |values: &[f32]| values.iter().take(count as usize).sum::<f32>() / count;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let covariance: f32 = a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum();
    let spread = |values: &[f32], mean: f32| values.iter().take(count as usize).map(|v| (v - mean).powi(2)).sum::<f32>().sqrt();
    covariance / (spread(a, mean_a) * spread(b, mean_b))
}

/// The correlation at the best shift of up to 150 ms: codecs delay by that much.
fn similarity(a: &[f32], b: &[f32]) -> f32 {
    (0..30)
        .map(|step| step * 80)
        .map(|shift| correlation(&envelope(&a[shift..]), &envelope(b)).max(correlation(&envelope(a), &envelope(&b[shift..]))))
        .fold(f32::MIN, f32::max)
}

#[test]
fn every_format_is_the_same_speech() {
    let reference = decode("speech.flac", 16_000).expect("FLAC is read");
    assert!(reference.len() > 8_000, "{} samples", reference.len());
    for name in ["speech.wav", "speech.mp3", "speech.opus", "speech.ogg", "speech.m4a", "speech.webm"] {
        let samples = decode(name, 16_000).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(samples.len().abs_diff(reference.len()) < 3_200, "{name}: {} against {}", samples.len(), reference.len());
        let similarity = similarity(&samples, &reference);
        assert!(similarity > 0.95, "{name}: similarity {similarity}");
    }
}

#[test]
fn the_rate_asked_for_is_the_rate_given() {
    let (low, high) = (decode("speech.wav", 16_000).expect("WAV is read"), decode("speech.wav", 48_000).expect("WAV is read"));
    assert_eq!(high.len(), low.len() * 3);
}

#[test]
fn what_is_no_sound_is_refused_by_name() {
    let error = decode("../file.rs", 16_000).expect_err("a source file is no sound");
    assert!(error.to_string().contains("file.rs"), "{error}");
    let empty = std::io::Cursor::new(Vec::new());
    let error = FileDecoder::open(empty, "nothing.wav", 16_000).err().expect("nothing is no sound");
    assert!(error.to_string().contains("nothing.wav"), "{error}");
}

#[test]
fn a_truncated_file_gives_what_is_there_or_an_error() {
    for name in ["speech.flac", "speech.mp3", "speech.opus", "speech.ogg", "speech.m4a", "speech.webm", "speech.wav"] {
        let whole = std::fs::read(data(name)).expect("the test file is committed");
        for part in [10, whole.len() / 4, whole.len() / 2, whole.len() - 7] {
            let source = std::io::Cursor::new(whole[..part].to_vec());
            let Ok(mut decoder) = FileDecoder::open(source, name, 16_000) else { continue };
            let mut samples = Vec::new();
            while let Ok(true) = decoder.read(&mut samples) {}
            assert!(samples.len() < 64_000, "{name} cut at {part}: {} samples", samples.len());
        }
    }
}
