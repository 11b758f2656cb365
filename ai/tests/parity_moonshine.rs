//! Moonshine held to `transformers` (fixtures: `ai/parity/moonshine.py`).

#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "tests read files")]

#[path = "parity/sound.rs"]
mod sound;

use std::path::Path;
use std::sync::Arc;

use auralink_ai::moonshine::{Moonshine, MoonshineOptions};
use auralink_ai::pack::{MoonshinePack, PackError, onnxruntime_candidates};
use auralink_ai::runtime::{self, RuntimeChoice};
use serde_json::Value;
use sound::{fixtures, sound};

fn load(folder: &Path) -> Moonshine {
    let runtime = runtime::open(&RuntimeChoice::OnnxRuntime(None), &onnxruntime_candidates(None)).unwrap().0;
    Moonshine::load(&*runtime, Arc::new(MoonshinePack::open(folder).unwrap())).unwrap()
}

fn copy(keep: impl Fn(&str) -> bool) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixtures().join("moonshine")).unwrap() {
        let entry = entry.unwrap();
        if keep(entry.file_name().to_str().unwrap()) {
            std::fs::copy(entry.path(), target.path().join(entry.file_name())).unwrap();
        }
    }
    target
}

fn compare(mut moonshine: Moonshine) {
    let text = std::fs::read_to_string(fixtures().join("moonshine/expected.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut tokens = 0;
    for case in &cases {
        let limited = case["options"]["max_new_tokens"].is_u64();
        let options = MoonshineOptions { tokens_per_second: limited.then_some(6.5), ..MoonshineOptions::default() };
        let heard = moonshine.transcribe(&sound(&case["sound"]), &options).unwrap();
        let wanted: Vec<u32> = case["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        assert_eq!(heard.tokens, wanted, "{} {}", case["sound"], case["options"]);
        assert_eq!(heard.text, case["text"].as_str().unwrap());
        assert_eq!(heard.logprobs.len(), wanted.len());
        tokens += wanted.len();
    }
    println!("{} sequences alike, {tokens} tokens", cases.len());
    assert!(cases.len() >= 20);
}

#[test]
fn the_merged_decoder_says_the_same() {
    compare(load(&fixtures().join("moonshine")));
}

#[test]
fn the_split_decoder_says_the_same() {
    compare(load(copy(|name| name != "decoder_model_merged.onnx").path()));
}

#[test]
fn what_was_said_is_continued() {
    let mut moonshine = load(&fixtures().join("moonshine"));
    let sound = sound(&serde_json::json!([["noise", 3.0]]));
    let whole = moonshine.transcribe(&sound, &MoonshineOptions::default()).unwrap();
    let (prefix, rest) = whole.tokens.split_at(5);
    let options = MoonshineOptions { prefix: prefix.to_vec(), ..MoonshineOptions::default() };
    let continued = moonshine.transcribe(&sound, &options).unwrap();
    assert_eq!((continued.tokens.as_slice(), &continued.text), (rest, &whole.text));
}

#[test]
fn odd_sound_is_heard_without_harm() {
    let mut moonshine = load(&fixtures().join("moonshine"));
    for samples in [vec![], vec![0.5], vec![f32::NAN; 3_000], vec![f32::INFINITY; 2_000]] {
        let heard = moonshine.transcribe(&samples, &MoonshineOptions::default()).unwrap();
        assert!(heard.logprobs.iter().all(|logprob| logprob.is_finite()));
    }
}

#[test]
fn a_pack_that_lacks_something_says_what() {
    let missing = |folder: &Path| MoonshinePack::open(folder).err().unwrap().to_string();
    for file in ["config.json", "tokenizer.json", "encoder_model.onnx"] {
        assert!(missing(copy(|name| name != file).path()).contains(file), "{file}");
    }
    let half = copy(|name| name != "decoder_model_merged.onnx" && name != "decoder_with_past_model.onnx");
    assert!(missing(half.path()).contains("decoder_with_past_model.onnx"));
    let other = copy(|name| name != "tokenizer.json");
    std::fs::copy(fixtures().join("whisper/tokenizer.json"), other.path().join("tokenizer.json")).unwrap();
    let error = MoonshinePack::open(other.path()).err().unwrap();
    assert!(matches!(&error, PackError::Invalid { reason, .. } if reason.contains("another model's tokenizer")), "{error}");
}
