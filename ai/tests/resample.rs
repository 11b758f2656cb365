//! Resampling: the length is exact, the tone stays, the delay is cut.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests read files and the clock")]

use auralink_ai::audio::resample::Resampler;

fn tone(hertz: f64, rate: f64, length: usize) -> Vec<f32> {
    (0..length).map(|i| (0.5 * (std::f64::consts::TAU * hertz * i as f64 / rate).sin()) as f32).collect()
}

fn convert(from: u32, to: u32, input: &[f32], step: usize) -> Vec<f32> {
    let mut resampler = Resampler::new(from, to).expect("the rates are supported");
    let mut output = Vec::new();
    for part in input.chunks(step) {
        resampler.process(part, &mut output).expect("rubato converts");
    }
    resampler.finish(&mut output).expect("rubato converts");
    output
}

#[test]
fn a_tone_is_the_same_tone_at_16_khz() {
    for rate in [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000] {
        let input = tone(440.0, f64::from(rate), rate as usize);
        let output = convert(rate, 16_000, &input, 333);
        assert_eq!(output.len(), 16_000, "one second stays one second at {rate} Hz");
        let expected = tone(440.0, 16_000.0, 16_000);
        let worst = output[2_000..14_000].iter().zip(&expected[2_000..14_000]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // A whole sample off would be 0.086: rates whose blocks are odd (11,025) cannot do better than half a sample.
        assert!(worst < 0.08, "{rate} Hz: off by {worst}");
    }
}

#[test]
fn the_size_of_the_pieces_does_not_matter() {
    let input = tone(1_000.0, 44_100.0, 44_100);
    assert_eq!(convert(44_100, 16_000, &input, 7), convert(44_100, 16_000, &input, 44_100));
}

#[test]
fn it_can_be_used_again_after_its_end() {
    let input = tone(300.0, 48_000.0, 9_600);
    let mut resampler = Resampler::new(48_000, 16_000).expect("the rates are supported");
    let mut both = Vec::new();
    for _ in 0..2 {
        resampler.process(&input, &mut both).expect("rubato converts");
        resampler.finish(&mut both).expect("rubato converts");
    }
    assert_eq!(both.len(), 6_400);
    assert_eq!(both[..3_200], both[3_200..]);
}

#[test]
fn impossible_rates_are_refused_with_the_value() {
    for rate in [0, 7_999, 192_001, u32::MAX] {
        let error = Resampler::new(rate, 16_000).err().expect("the rate is outside the range");
        assert!(error.to_string().contains(&rate.to_string()), "{error}");
    }
}
