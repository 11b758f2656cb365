//! Times Whisper on one thread: `bench_whisper FOLDER [SECONDS]`. `ai/parity/bench_whisper.py` times `transformers` over the same files.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a benchmark reads the clock")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use auralink_ai::pack::{WhisperPack, onnxruntime_candidates};
use auralink_ai::runtime::{self, RuntimeChoice};
use auralink_ai::whisper::{DecodeOptions, Whisper};

const ROUNDS: u32 = 3;

fn main() {
    let folder = std::env::args().nth(1).expect("a folder with a pack");
    let tokens: usize = std::env::args().nth(2).map_or(60, |count| count.parse().unwrap());
    let runtime = runtime::open(&RuntimeChoice::OnnxRuntime(None), &onnxruntime_candidates(None)).unwrap().0;
    let mut whisper = Whisper::load(&*runtime, Arc::new(WhisperPack::open(Path::new(&folder)).unwrap())).unwrap();
    let samples: Vec<f32> = (0..480_000).map(|n| 0.3 * (n as f32 * 0.05).sin() * (n as f32 * 0.0001).sin()).collect();
    let encoded = whisper.encode(&samples).unwrap();
    let begun = Instant::now();
    (0..ROUNDS).for_each(|_| drop(whisper.encode(&samples).unwrap()));
    println!("encode: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3 / f64::from(ROUNDS));
    for beams in [1, 5] {
        let language = Some("en".to_owned());
        let asked = DecodeOptions { language, beams, timestamps: false, max_tokens: Some(tokens), ..DecodeOptions::default() };
        let begun = Instant::now();
        let mut said = 0;
        (0..ROUNDS).for_each(|_| said = whisper.decode(&encoded, &asked).unwrap().tokens.len());
        let elapsed = begun.elapsed().as_secs_f64() * 1e3 / f64::from(ROUNDS);
        println!("decode with {beams} beams: {elapsed:.1} ms for {said} tokens");
    }
}
