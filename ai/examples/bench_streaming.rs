//! Times a streaming transducer on one thread, alone and in batches: `bench_streaming FOLDER`. `ai/parity/bench_streaming.py` makes the
//! folder and times sherpa-onnx over the same files. Features, search and words are in the time.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use auralink_ai::pack::{PackSource, onnxruntime_candidates, open_speech};
use auralink_ai::recogniser::{Due, Recogniser, SpeechPack, Utterance, UtteranceOptions};
use auralink_ai::runtime::{RuntimeChoice, open};

const SECONDS: usize = 20;
const RATE: usize = 16_000;
/// What comes at once: the encoder's step of 320 ms.
const PIECE: usize = RATE * 32 / 100;
const ROUNDS: usize = 3;

fn sound(seed: u32) -> Vec<f32> {
    let mut random = seed.wrapping_mul(747_796_405).wrapping_add(1);
    let mut next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((random >> 8) as f32 / 8_388_608.0 - 1.0) * 0.17
    };
    (0..SECONDS * RATE).map(|_| next()).collect()
}

/// Part of real time that each of `count` streams takes, and how many words were found.
fn hear(pack: &Arc<dyn SpeechPack>, recogniser: &mut dyn Recogniser, count: usize) -> (f64, usize) {
    let sounds: Vec<Vec<f32>> = (0..count as u32).map(sound).collect();
    let mut utterances: Vec<Box<dyn Utterance>> = sounds.iter().map(|_| pack.clone().begin(&UtteranceOptions::default())).collect();
    let begun = Instant::now();
    for start in (0..SECONDS * RATE).step_by(PIECE) {
        for (utterance, samples) in utterances.iter_mut().zip(&sounds) {
            utterance.push_audio(&samples[start..(start + PIECE).min(samples.len())]);
        }
        let mut due: Vec<&mut dyn Utterance> = utterances
            .iter_mut()
            .filter(|utterance| utterance.due() == Due::Now)
            .map(|utterance| &mut **utterance as &mut dyn Utterance)
            .collect();
        if !due.is_empty() {
            recogniser.run(&mut due).expect("it runs");
        }
    }
    let words = utterances.iter_mut().map(|utterance| utterance.transcript().words.len()).sum();
    (begun.elapsed().as_secs_f64() / (count * SECONDS) as f64, words)
}

fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).expect("a folder with a pack"));
    let runtime = open(&RuntimeChoice::OnnxRuntime(None), &onnxruntime_candidates(None)).expect("ONNX Runtime is installed").0;
    let pack = open_speech(&PackSource::Folder(folder)).expect("the pack opens");
    let mut recogniser = pack.load(&*runtime).expect("it loads");
    hear(&pack, &mut *recogniser, 1);
    for count in [1, 4, 16] {
        let mut timed: Vec<(f64, usize)> = (0..ROUNDS).map(|_| hear(&pack, &mut *recogniser, count)).collect();
        timed.sort_by(|a, b| a.0.total_cmp(&b.0));
        println!("ours, {count} streams: {:.5} of real time each (median {:.5}), {} words", timed[0].0, timed[ROUNDS / 2].0, timed[0].1);
    }
}
