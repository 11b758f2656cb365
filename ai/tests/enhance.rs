//! Noise suppression and automatic gain: what they do to speech, to noise, and to what is neither.

use auralink_ai::audio::enhance::{Enhancement, Enhancer};

const BOTH: Enhancement = Enhancement { noise_suppression: true, automatic_gain: true };
const SUPPRESSION: Enhancement = Enhancement { noise_suppression: true, automatic_gain: false };
const GAIN: Enhancement = Enhancement { noise_suppression: false, automatic_gain: true };

fn run(wanted: Enhancement, sound: &[f32], step: usize) -> Vec<f32> {
    let mut enhancer = Enhancer::new(wanted).expect("its rates are possible");
    let mut output = Vec::new();
    for piece in sound.chunks(step) {
        enhancer.process(piece, &mut output).expect("it takes anything");
    }
    enhancer.finish(&mut output).expect("it ends");
    output
}

fn noise(length: usize, amplitude: f32) -> Vec<f32> {
    let mut random = 7_u32;
    let mut next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((random >> 8) as f32 / 8_388_608.0 - 1.0) * amplitude
    };
    (0..length).map(|_| next()).collect()
}

/// Something like a voice: harmonics of 140 Hz in syllables of 200 ms with pauses.
fn voice(length: usize, amplitude: f32) -> Vec<f32> {
    let sample = |n: usize| {
        let time = n as f32 / 16_000.0;
        let syllable = (time * 2.5).fract();
        let envelope = if syllable < 0.5 { (syllable * 2.0 * std::f32::consts::PI).sin() } else { 0.0 };
        let tone: f32 = (1..20).map(|k| (time * 140.0 * k as f32 * std::f32::consts::TAU).sin() / k as f32).sum();
        tone * envelope * amplitude * 0.5
    };
    (0..length).map(sample).collect()
}

fn level(sound: &[f32]) -> f32 {
    (sound.iter().map(|sample| sample * sample).sum::<f32>() / sound.len() as f32).sqrt()
}

/// The delay at which `b` is most like `a`, samples, and how alike they are, -1 to 1.
fn likeness(a: &[f32], b: &[f32]) -> (i32, f32) {
    let alike = |delay: i32| {
        let pairs = (1_000..a.len() - 1_000).map(|n| (a[n], b[(n as i32 + delay) as usize]));
        let (product, x, y) = pairs.fold((0.0, 0.0, 0.0), |(p, x, y), (a, b)| (p + a * b, x + a * a, y + b * b));
        product / (x * y).sqrt().max(f32::MIN_POSITIVE)
    };
    (-400..400).map(|delay| (delay, alike(delay))).max_by(|a, b| a.1.total_cmp(&b.1)).expect("there are delays")
}

#[test]
fn what_comes_out_is_as_long_as_what_went_in_whatever_the_pieces() {
    for length in [0, 1, 159, 160, 7_777, 48_000] {
        let sound = voice(length, 0.3);
        let whole = run(BOTH, &sound, sound.len().max(1));
        assert_eq!(whole.len(), length);
        for step in [1, 17, 320, 5_000] {
            let parts = run(BOTH, &sound, step);
            assert_eq!(parts.len(), length, "in steps of {step}");
            assert!(parts.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-5), "in steps of {step}");
        }
    }
}

#[test]
fn noise_is_taken_out_and_a_voice_stays_in_its_place() {
    let hiss = noise(64_000, 0.05);
    let quiet = run(SUPPRESSION, &hiss, 320);
    let left = level(&quiet[16_000..]) / level(&hiss);
    assert!(left < 0.25, "{left} of the noise is left");
    let speech = voice(64_000, 0.4);
    let (delay, alike) = likeness(&speech, &run(SUPPRESSION, &speech, 320));
    assert!(delay.abs() <= 16 && alike > 0.8, "delayed by {delay} samples, alike to {alike}");
}

#[test]
fn soft_and_loud_speech_come_to_one_level() {
    let levels: Vec<f32> = [0.01, 0.1, 1.0].map(|amplitude| level(&run(GAIN, &voice(160_000, amplitude), 320)[96_000..])).into();
    let (softest, loudest) = (levels.iter().copied().fold(f32::MAX, f32::min), levels.iter().copied().fold(0.0, f32::max));
    assert!(loudest / softest < 1.5, "{levels:?}");
    let peak = run(GAIN, &[voice(80_000, 0.01), voice(80_000, 1.9)].concat(), 320).into_iter().fold(0.0_f32, |peak, s| peak.max(s.abs()));
    assert!(peak <= 1.0, "a sudden shout does not clip: {peak}");
}

#[test]
fn a_quiet_room_is_not_raised() {
    let room = noise(160_000, 0.002);
    let heard = run(GAIN, &room, 320);
    assert!(level(&heard[80_000..]) < 2.0 * level(&room));
}

#[test]
fn what_is_no_sound_does_no_harm() {
    for bad in [vec![f32::NAN; 4_000], vec![f32::INFINITY; 4_000], vec![-1e30; 4_000], vec![1e-40; 4_000], vec![0.0; 4_000]] {
        let output = run(BOTH, &bad, 320);
        assert!(output.len() == 4_000 && output.iter().all(|sample| sample.is_finite() && sample.abs() <= 1.0));
    }
}

#[test]
fn another_sound_may_follow_the_end_of_one() {
    let mut enhancer = Enhancer::new(BOTH).expect("its rates are possible");
    let speech = voice(20_000, 0.3);
    let mut twice = Vec::new();
    for _ in 0..2 {
        enhancer.process(&speech, &mut twice).expect("it takes anything");
        enhancer.finish(&mut twice).expect("it ends");
        assert!(twice.len().is_multiple_of(20_000));
    }
}
