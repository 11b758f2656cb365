//! Marian, M2M100 and NLLB held to `transformers` (fixtures: `ai/parity/translation.py`): tokens of texts, translations to the token.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "tests read files")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use auralink_ai::generation::EarlyStopping;
use auralink_ai::pack::{TranslationDefaults, TranslationPack, onnxruntime_candidates};
use auralink_ai::runtime::{self, Runtime, RuntimeChoice};
use auralink_ai::translation::Translator;
use serde_json::Value;

const FAMILIES: [&str; 3] = ["marian", "m2m100", "nllb"];

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/translation").join(family)
}

fn runtime() -> Arc<dyn Runtime> {
    static RUNTIME: OnceLock<Arc<dyn Runtime>> = OnceLock::new();
    let open = || runtime::open(&RuntimeChoice::OnnxRuntime(None), &onnxruntime_candidates(None)).unwrap().0;
    RUNTIME.get_or_init(open).clone()
}

fn load(folder: &Path) -> Translator {
    Translator::load(&*runtime(), Arc::new(TranslationPack::open(folder).unwrap())).unwrap()
}

fn expected(family: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder(family).join("expected.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// The pack's settings with what a case changes.
fn settings(defaults: &TranslationDefaults, options: &Value) -> TranslationDefaults {
    let mut settings = defaults.clone();
    let number = |name: &str| options[name].as_f64().map(|value| value as f32);
    let count = |name: &str| options[name].as_u64().map(|value| value as usize);
    settings.beams = count("num_beams").unwrap_or(settings.beams);
    settings.max_length = count("max_length").unwrap_or(settings.max_length);
    settings.no_repeat_ngram = count("no_repeat_ngram_size").unwrap_or(settings.no_repeat_ngram);
    settings.length_penalty = number("length_penalty").unwrap_or(settings.length_penalty);
    settings.repetition_penalty = number("repetition_penalty").unwrap_or(settings.repetition_penalty);
    settings.early_stopping = match &options["early_stopping"] {
        Value::Bool(true) => EarlyStopping::WhenFull,
        Value::String(_) => EarlyStopping::Never,
        _ => settings.early_stopping,
    };
    settings
}

fn compare(translator: &mut Translator, family: &str) {
    let expected = expected(family);
    let mut wrong = Vec::new();
    let (mut count, mut tokens) = (0, 0);
    for case in expected["cases"].as_array().unwrap() {
        let (source, target) = (case["source"].as_str().unwrap(), case["target"].as_str().unwrap());
        let settings = settings(translator.pack().defaults(), &case["options"]);
        let asked = texts(&case["texts"]);
        let found = translator.translate_into(&asked, source, &[target], &settings).unwrap().remove(0);
        for (index, (found, text)) in found.iter().zip(&asked).enumerate() {
            count += 1;
            tokens += found.tokens.len();
            let (wanted, said) = (ids(&case["tokens"][index]), case["translations"][index].as_str().unwrap());
            if found.tokens != wanted || found.text != said.trim_start_matches(&format!("__{target}__")) {
                wrong.push(format!("{} {text:?}: {found:?}, expected {wanted:?} {said:?}", case["options"]));
            }
        }
    }
    println!("{family}: {} of {count} sequences alike, {tokens} tokens", count - wrong.len());
    assert!(wrong.is_empty(), "{family}: {} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 50);
}

#[test]
fn texts_are_cut_and_joined_alike() {
    for family in FAMILIES {
        let pack = TranslationPack::open(&folder(family)).unwrap();
        let expected = expected(family);
        let source = expected["source"].as_str().unwrap();
        for entry in expected["tokenizer"].as_array().unwrap() {
            let text = entry["text"].as_str().unwrap();
            let found = pack.tokens().encode(text, source, "").unwrap();
            assert_eq!(found, ids(&entry["ids"]), "{family}: {text:?}");
            let back = entry["back"].as_str().unwrap().trim_start_matches(&format!("__{source}__"));
            assert_eq!(pack.tokens().decode(&found).trim(), back.trim(), "{family}: {text:?}");
        }
    }
}

#[test]
fn marian_translates_alike() {
    compare(&mut load(&folder("marian")), "marian");
}

#[test]
fn marian_in_two_graphs_translates_alike() {
    let split = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder("marian")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "decoder_model_merged.onnx" {
            std::fs::copy(entry.path(), split.path().join(entry.file_name())).unwrap();
        }
    }
    compare(&mut load(split.path()), "marian");
}

#[test]
fn m2m100_translates_alike() {
    compare(&mut load(&folder("m2m100")), "m2m100");
}

#[test]
fn nllb_translates_alike() {
    compare(&mut load(&folder("nllb")), "nllb");
}

#[test]
fn one_encoding_serves_all_targets() {
    for (family, source, targets) in [("m2m100", "en", ["de", "ja"]), ("nllb", "en-GB", ["de", "fra_Latn"]), ("marian", "en", ["de", "fr"])]
    {
        let mut translator = load(&folder(family));
        let settings = translator.pack().defaults().clone();
        let texts = ["The captain opens the red door.", "a", "unsere Nachbarin beschreibt zwei Tassen Tee"];
        let together = translator.translate_into(&texts, source, &targets, &settings).unwrap();
        for (target, translations) in targets.iter().zip(&together) {
            for (text, translation) in texts.iter().zip(translations) {
                let alone = translator.translate_into(&[text], source, &[target], &settings).unwrap();
                assert_eq!(alone[0][0].tokens, translation.tokens, "{family} {target} {text}");
            }
        }
        assert_ne!(together[0], together[1], "{family}");
    }
}
