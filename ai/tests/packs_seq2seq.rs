//! Packs of Whisper and of translators that are not whole, or of several models: each is refused with the file and what is wrong.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "tests read and write files")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use auralink_ai::pack::{TranslationPack, WhisperPack, onnxruntime_candidates};
use auralink_ai::runtime::{self, Runtime, RuntimeChoice};
use auralink_ai::translation::Translator;
use auralink_ai::whisper::{DecodeOptions, LongOptions, Whisper};
use serde_json::Value;
use tempfile::TempDir;

fn runtime() -> Arc<dyn Runtime> {
    static RUNTIME: OnceLock<Arc<dyn Runtime>> = OnceLock::new();
    let open = || runtime::open(&RuntimeChoice::OnnxRuntime(None), &onnxruntime_candidates(None)).unwrap().0;
    RUNTIME.get_or_init(open).clone()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity").join(name)
}

/// A copy of a pack with the merged decoder.
fn copy(name: &str) -> TempDir {
    let target = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        let file = entry.file_name().into_string().unwrap();
        let other = file.contains("_int8") || file.contains("_fp16") || file == "decoder_model.onnx" || file.contains("with_past");
        if entry.path().is_file() && !other {
            fs::copy(entry.path(), target.path().join(file)).unwrap();
        }
    }
    target
}

/// Changes a JSON file.
fn edit(folder: &Path, file: &str, change: impl Fn(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap();
    change(&mut value);
    fs::write(folder.join(file), serde_json::to_vec(&value).unwrap()).unwrap();
}

/// Gives a tensor of a graph another name of the same length.
fn rename(folder: &Path, file: &str, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(folder.join(file)).unwrap();
    let mut found = 0;
    for at in 0..bytes.len() - from.len() {
        if &bytes[at..at + from.len()] == from.as_bytes() {
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0, "{file} has no {from}");
    fs::write(folder.join(file), bytes).unwrap();
}

fn cut(folder: &Path, file: &str) {
    let bytes = fs::read(folder.join(file)).unwrap();
    fs::write(folder.join(file), &bytes[..bytes.len() / 2]).unwrap();
}

fn whisper_error(folder: &Path) -> String {
    let pack = match WhisperPack::open(folder) {
        Ok(pack) => pack,
        Err(error) => return error.to_string(),
    };
    Whisper::load(&*runtime(), Arc::new(pack)).err().expect("the pack is refused").to_string()
}

fn translation_error(folder: &Path) -> String {
    let pack = match TranslationPack::open(folder) {
        Ok(pack) => pack,
        Err(error) => return error.to_string(),
    };
    Translator::load(&*runtime(), Arc::new(pack)).err().expect("the pack is refused").to_string()
}

/// Every word stands in the error.
fn says(error: &str, words: &[&str]) {
    assert!(words.iter().all(|word| error.contains(word)), "{error:?} does not say {words:?}");
}

#[test]
fn a_missing_file_is_named() {
    for file in ["config.json", "tokenizer.json", "encoder_model.onnx", "decoder_model_merged.onnx"] {
        let folder = copy("whisper");
        fs::remove_file(folder.path().join(file)).unwrap();
        says(&whisper_error(folder.path()), &[file]);
    }
    for file in ["config.json", "source.spm", "target.spm", "vocab.json", "encoder_model.onnx", "decoder_model_merged.onnx"] {
        let folder = copy("translation/marian");
        fs::remove_file(folder.path().join(file)).unwrap();
        says(&translation_error(folder.path()), &[file]);
    }
}

#[test]
fn a_graph_that_is_cut_short_is_named() {
    for file in ["encoder_model.onnx", "decoder_model_merged.onnx"] {
        let folder = copy("whisper");
        cut(folder.path(), file);
        says(&whisper_error(folder.path()), &[file, "cannot load the model"]);
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let folder = copy("whisper");
    rename(folder.path(), "encoder_model.onnx", "last_hidden_state", "last_hidden_stage");
    says(&whisper_error(folder.path()), &["encoder_model.onnx", "last_hidden_state"]);
    for (from, to) in [
        ("present.1.decoder.value", "present.1.decoder.valve"),
        ("past_key_values.0.encoder.key", "past_key_values.0.encoder.kex"),
        ("encoder_hidden_states", "encoder_hidden_stages"),
        ("use_cache_branch", "use_cache_branck"),
        ("logits", "logitz"),
    ] {
        let folder = copy("whisper");
        rename(folder.path(), "decoder_model_merged.onnx", from, to);
        let error = whisper_error(folder.path());
        assert!(error.contains(from) || error.contains(to), "{error}");
    }
}

#[test]
fn another_models_tokenizer_is_refused() {
    let folder = copy("whisper");
    fs::copy(fixture("moonshine/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    says(&whisper_error(folder.path()), &["tokenizer.json", "not Whisper's tokenizer"]);
    // One token more, as in the tokenizers of Whisper's versions.
    let folder = copy("whisper");
    edit(folder.path(), "generation_config.json", |json| json["no_timestamps_token_id"] = 709.into());
    says(&whisper_error(folder.path()), &["tokenizer.json", "<|notimestamps|>", "709", "another model's tokenizer"]);
    let folder = copy("whisper");
    edit(folder.path(), "generation_config.json", |json| json["lang_to_id"]["<|de|>"] = 3.into());
    says(&whisper_error(folder.path()), &["tokenizer.json", "<|de|>", "another model's tokenizer"]);
    let folder = copy("whisper");
    edit(folder.path(), "config.json", |json| json["vocab_size"] = 2_000.into());
    says(&whisper_error(folder.path()), &["tokenizer.json", "2000", "another model's tokenizer"]);
    let folder = copy("translation/m2m100");
    fs::copy(fixture("translation/marian/vocab.json"), folder.path().join("vocab.json")).unwrap();
    let error = translation_error(folder.path());
    assert!(error.contains("different models") || error.contains("another model"), "{error}");
    let folder = copy("translation/nllb");
    fs::copy(fixture("whisper/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    says(&translation_error(folder.path()), &["tokenizer.json", "</s>"]);
}

#[test]
fn other_shapes_are_refused() {
    let folder = copy("whisper");
    edit(folder.path(), "config.json", |json| json["num_mel_bins"] = 128.into());
    says(&whisper_error(folder.path()), &["preprocessor_config.json", "80", "128 mel bins"]);
    edit(folder.path(), "preprocessor_config.json", |json| json["feature_size"] = 128.into());
    says(&whisper_error(folder.path()), &["encoder_model.onnx", "80", "128"]);
    for (key, value) in [("decoder_attention_heads", 2), ("decoder_layers", 3), ("decoder_layers", 1), ("vocab_size", 2_300)] {
        let folder = copy("whisper");
        edit(folder.path(), "config.json", |json| json[key] = value.into());
        says(&whisper_error(folder.path()), &["config.json"]);
    }
    let folder = copy("whisper");
    edit(folder.path(), "generation_config.json", |json| json["alignment_heads"] = serde_json::json!([[7, 0]]));
    says(&whisper_error(folder.path()), &["generation_config.json", "alignment_heads", "[7, 0]"]);
    let folder = copy("whisper");
    edit(folder.path(), "config.json", |json| json["model_type"] = "bert".into());
    says(&whisper_error(folder.path()), &["config.json", "bert", "whisper"]);
}

#[test]
fn sentencepiece_files_that_are_none_are_refused() {
    let folder = copy("translation/marian");
    cut(folder.path(), "source.spm");
    says(&translation_error(folder.path()), &["source.spm"]);
    for bytes in [&b""[..], b"not a model", &[0xff; 300]] {
        fs::write(folder.path().join("source.spm"), bytes).unwrap();
        says(&translation_error(folder.path()), &["source.spm"]);
    }
}

#[test]
fn what_a_model_cannot_do_is_said() {
    let mut whisper = Whisper::load(&*runtime(), Arc::new(WhisperPack::open(&fixture("whisper")).unwrap())).unwrap();
    let encoded = whisper.encode(&[0.1; 16_000]).unwrap();
    let klingon = DecodeOptions { language: Some("tlh".into()), ..DecodeOptions::default() };
    says(&whisper.decode(&encoded, &klingon).unwrap_err().to_string(), &["does not know the language `tlh`"]);
    let full = DecodeOptions { language: Some("en".into()), prefix: vec![70; 448], ..DecodeOptions::default() };
    says(&whisper.decode(&encoded, &full).unwrap_err().to_string(), &["448"]);
    let mut translator = Translator::load(&*runtime(), Arc::new(TranslationPack::open(&fixture("translation/nllb")).unwrap())).unwrap();
    says(&translator.translate(&["a"], "en", "tlh").unwrap_err().to_string(), &["tlh", "ace_Arab"]);
    let long = "captain ".repeat(500);
    says(&translator.translate(&["a", &long], "en", "de").unwrap_err().to_string(), &["text 1", "128"]);
    assert!(translator.translate(&[], "en", "de").unwrap().is_empty());
    assert_eq!(translator.translate(&[""], "en", "de").unwrap().len(), 1);
}

#[test]
fn odd_sound_is_heard_without_harm() {
    let mut whisper = Whisper::load(&*runtime(), Arc::new(WhisperPack::open(&fixture("whisper")).unwrap())).unwrap();
    let options = LongOptions { window: DecodeOptions { words: true, ..DecodeOptions::default() }, ..LongOptions::default() };
    assert!(!whisper.follows_sound());
    assert!(whisper.transcribe(&[], &options, |_| true).unwrap().is_empty());
    for samples in [vec![0.5; 100], vec![f32::NAN; 20_000], vec![f32::INFINITY; 20_000], vec![1e30; 20_000], vec![0.3; 520_000]] {
        let mut done = 0.0;
        let heard = whisper
            .transcribe(&samples, &options, |seconds| {
                assert!(seconds > done);
                done = seconds;
                true
            })
            .unwrap();
        let end = samples.len() as f64 / 16_000.0;
        for word in heard.iter().flat_map(|window| &window.decoded.words) {
            assert!(word.start <= word.end && word.confidence.is_finite(), "{word:?} of {end} s");
        }
    }
    // Whoever asks may stop.
    assert_eq!(whisper.transcribe(&vec![0.3; 1_600_000], &options, |_| false).unwrap().len(), 1);
}
