//! Opus both ways: what is encoded at 48 kHz is heard at 16 kHz, through losses and damage.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests read files and the clock")]

use auralink_ai::audio::opus::{OpusDecoder, OpusEncoder};

fn tone(hertz: f32, rate: f32, length: usize) -> Vec<f32> {
    (0..length).map(|i| 0.5 * (std::f32::consts::TAU * hertz * i as f32 / rate).sin()).collect()
}

fn encoded(frames: usize) -> Vec<Vec<u8>> {
    let mut encoder = OpusEncoder::new(32_000).expect("libopus makes an encoder");
    let tone = tone(440.0, 48_000.0, frames * OpusEncoder::FRAME);
    tone.chunks(OpusEncoder::FRAME).map(|frame| encoder.encode(frame).expect("a whole frame is encoded")).collect()
}

fn power(samples: &[f32]) -> f32 {
    samples.iter().map(|sample| sample * sample).sum::<f32>() / samples.len() as f32
}

/// Share of the power at `hertz`, by correlation with the complex tone.
fn share_at(samples: &[f32], hertz: f32) -> f32 {
    let (mut re, mut im) = (0.0, 0.0);
    for (i, sample) in samples.iter().enumerate() {
        let phase = std::f32::consts::TAU * hertz * i as f32 / 16_000.0;
        re += sample * phase.cos();
        im += sample * phase.sin();
    }
    let length = samples.len() as f32;
    2.0 * (re * re + im * im) / (length * length) / power(samples)
}

#[test]
fn a_tone_survives_the_way_to_16_khz() {
    let mut decoder = OpusDecoder::new().expect("libopus makes a decoder");
    let heard: Vec<f32> = encoded(50).iter().flat_map(|packet| decoder.decode(packet, 320).to_vec()).collect();
    assert_eq!(heard.len(), 50 * 320);
    assert!(share_at(&heard[3_200..], 440.0) > 0.95);
}

#[test]
fn lost_packets_are_concealed_with_the_right_length() {
    let mut decoder = OpusDecoder::new().expect("libopus makes a decoder");
    let mut heard = Vec::new();
    for (index, packet) in encoded(50).iter().enumerate() {
        let samples = if index % 10 == 9 { decoder.conceal(320) } else { decoder.decode(packet, 320) };
        assert_eq!(samples.len(), 320);
        heard.extend_from_slice(samples);
    }
    assert!(share_at(&heard[3_200..], 440.0) > 0.8, "concealment continues the tone");
}

#[test]
fn a_lost_packet_is_recovered_from_its_successor() {
    let packets = encoded(10);
    let mut decoder = OpusDecoder::new().expect("libopus makes a decoder");
    for packet in &packets[..8] {
        decoder.decode(packet, 320);
    }
    assert_eq!(decoder.recover(&packets[9], 320).len(), 320);
    assert_eq!(decoder.decode(&packets[9], 320).len(), 320);
}

#[test]
fn damaged_packets_never_stop_a_stream() {
    let mut decoder = OpusDecoder::new().expect("libopus makes a decoder");
    let mut random = 1_u32;
    for length in 0..200 {
        let packet: Vec<u8> = (0..length)
            .map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (random >> 24) as u8
            })
            .collect();
        assert!(decoder.decode(&packet, 320).iter().all(|sample| sample.is_finite()));
    }
    assert!(decoder.refused() > 0);
}

#[test]
fn a_frame_of_another_length_is_refused() {
    let mut encoder = OpusEncoder::new(32_000).expect("libopus makes an encoder");
    let error = encoder.encode(&[0.0; 100]).expect_err("100 samples are no frame");
    assert!(error.to_string().contains("960"), "{error}");
    assert!(OpusEncoder::new(-5).is_err());
}
