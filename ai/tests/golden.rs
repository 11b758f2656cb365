//! The default pack's golden utterance: features, network, greedy and beam decoder equal the training code's, on both engines.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests read files and the clock")]

use std::path::PathBuf;
use std::sync::Arc;

use auralink_ai::audio::file::FileDecoder;
use auralink_ai::decoder::Decoder;
use auralink_ai::features::FeatureExtractor;
use auralink_ai::pack::{Pack, PackSource, onnxruntime_candidates};
use auralink_ai::recogniser::{Network, NetworkState, SpeechPack as _};
use auralink_ai::runtime::{OnnxRuntime, Rten, Runtime};
use serde::Deserialize;

const TOLERANCE: f32 = 1e-3;

#[derive(Deserialize)]
struct Golden {
    samples: usize,
    tail_padding_samples: usize,
    features_first_20_frames: Vec<Vec<f32>>,
    feature_frames: usize,
    chunks: Vec<Chunk>,
    log_probs_output_20: Vec<f32>,
    greedy: String,
    beam: String,
}

#[derive(Deserialize)]
struct Chunk {
    argmax: Vec<usize>,
    max: Vec<f32>,
    mean: f32,
}

fn folder() -> PathBuf {
    PathBuf::from("packs/en-demo")
}

fn pack() -> Arc<Pack> {
    Arc::new(Pack::open(&PackSource::Folder(folder())).expect("the default pack opens"))
}

fn golden() -> Golden {
    let text = std::fs::read(folder().join("golden.json")).expect("the golden values are committed");
    serde_json::from_slice(&text).expect("the golden values are JSON")
}

fn samples() -> Vec<f32> {
    let file = std::fs::File::open(folder().join("golden.wav")).expect("the golden utterance is committed");
    let mut decoder = FileDecoder::open(file, "golden.wav", 16_000).expect("it is a WAV file");
    let mut samples = Vec::new();
    while decoder.read(&mut samples).expect("it is whole") {}
    samples
}

fn runtimes() -> Vec<Box<dyn Runtime>> {
    let ort = OnnxRuntime::open(&onnxruntime_candidates(None)).expect("`make setup` installs ONNX Runtime");
    vec![Box::new(ort), Box::new(Rten::default())]
}

fn features(pack: &Pack, samples: &[f32], step: usize) -> Vec<f32> {
    let mut extractor = FeatureExtractor::new(pack.filter_bank().clone());
    let mut frames = Vec::new();
    for piece in samples.chunks(step) {
        extractor.push(piece, &mut frames);
    }
    frames
}

/// All outputs of the utterance with its tail, chunk by chunk.
fn log_probs(pack: &Pack, runtime: &dyn Runtime, samples: &[f32], tail: usize) -> Vec<f32> {
    let padded = [samples, &vec![0.0; tail]].concat();
    let frames = features(pack, &padded, 512);
    let mut recogniser = Network::load(runtime, pack).expect("the network loads");
    let mut state = NetworkState::new(pack.network());
    let mut log_probs = Vec::new();
    for chunk in frames.chunks_exact(pack.network().chunk_values()) {
        log_probs.extend(recogniser.run(&mut [(chunk, &mut state)]).expect("the network runs").remove(0));
    }
    log_probs
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn features_equal_the_reference_whatever_the_pieces() {
    let (pack, golden, samples) = (pack(), golden(), samples());
    assert_eq!(samples.len(), golden.samples);
    let expected: Vec<f32> = golden.features_first_20_frames.concat();
    let padded = [samples.as_slice(), &vec![0.0; golden.tail_padding_samples]].concat();
    let whole = features(&pack, &padded, padded.len());
    assert_eq!(whole.len(), golden.feature_frames * pack.network().n_mels);
    assert!(worst(&whole[..expected.len()], &expected) < TOLERANCE);
    for step in [1, 160, 399, 512, 4_801] {
        assert_eq!(features(&pack, &padded, step), whole, "pieces of {step} samples");
    }
}

#[test]
fn the_network_equals_the_reference_on_both_engines() {
    let (pack, golden, samples) = (pack(), golden(), samples());
    let spec = pack.network();
    for runtime in runtimes() {
        let log_probs = log_probs(&pack, &*runtime, &samples, golden.tail_padding_samples);
        let name = runtime.name();
        let outputs = spec.chunk_frames / spec.subsampling * spec.vocabulary;
        assert_eq!(log_probs.len(), golden.chunks.len() * outputs, "{name}");
        assert!(worst(&log_probs[20 * spec.vocabulary..21 * spec.vocabulary], &golden.log_probs_output_20) < TOLERANCE, "{name}");
        for (chunk, expected) in log_probs.chunks(outputs).zip(&golden.chunks) {
            for (frame, (&argmax, &max)) in chunk.chunks(spec.vocabulary).zip(expected.argmax.iter().zip(&expected.max)) {
                let highest = frame.iter().copied().fold(f32::MIN, f32::max);
                assert!((highest - max).abs() < TOLERANCE, "{name}: {highest} for {max}");
                assert!((frame[argmax] - highest).abs() < TOLERANCE, "{name}: another token is the best");
            }
            let mean = chunk.iter().sum::<f32>() / chunk.len() as f32;
            assert!((mean - expected.mean).abs() < TOLERANCE, "{name}: mean {mean} for {}", expected.mean);
        }
    }
}

#[test]
fn streams_in_one_run_do_not_touch_each_other() {
    let (pack, samples) = (pack(), samples());
    let spec = pack.network();
    let values = spec.chunk_values();
    let first = features(&pack, &samples, samples.len());
    let second = features(&pack, &samples[8_000..], samples.len());
    for runtime in runtimes() {
        let mut recogniser = Network::load(&*runtime, &pack).expect("the network loads");
        let mut alone = [NetworkState::new(spec), NetworkState::new(spec)];
        let mut together = alone.clone();
        for (a, b) in first.chunks_exact(values).zip(second.chunks_exact(values)) {
            let [left, right] = &mut together;
            let batch = recogniser.run(&mut [(a, left), (b, right)]).expect("the network runs");
            for ((chunk, state), batched) in [a, b].into_iter().zip(&mut alone).zip(&batch) {
                let single = recogniser.run(&mut [(chunk, state)]).expect("the network runs").remove(0);
                assert!(worst(&single, batched) < TOLERANCE, "{}", runtime.name());
            }
        }
    }
}

#[test]
fn decoders_read_what_the_reference_reads() {
    let (pack, golden, samples) = (pack(), golden(), samples());
    let runtime = Rten::default();
    let log_probs = log_probs(&pack, &runtime, &samples, golden.tail_padding_samples);
    let read = |mut decoder: Decoder| {
        for chunk in log_probs.chunks(4 * pack.network().vocabulary) {
            decoder.push(chunk);
        }
        decoder.finish().words.iter().map(|word| word.text.clone()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(read(Decoder::greedy(pack.decoder().clone())), golden.greedy);
    assert_eq!(read(Decoder::new(pack.decoder().clone())), golden.beam);
}

#[test]
fn the_pack_in_the_binary_is_the_committed_one() {
    let built_in = Pack::open(&PackSource::BuiltIn).expect("the built-in pack opens");
    assert!(built_in.model().bytes() == pack().model().bytes());
    assert!(built_in.speaks("en-GB") && built_in.speaks("") && built_in.speaks("EN") && !built_in.speaks("de"));
}
