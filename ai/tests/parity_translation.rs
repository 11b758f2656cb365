//! Marian, M2M100 and NLLB token for token as `transformers` has them. `ai/parity/translation.py` makes the packs and the answers.

#![allow(clippy::disallowed_methods, reason = "tests read fixtures")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use auralink_ai::generation::{EarlyStopping, GenerationConfig};
use auralink_ai::pack::{PackError, onnxruntime_candidates, open_translation_pack};
use auralink_ai::runtime::{OnnxRuntime, Rten, Runtime};
use auralink_ai::translation::{Pair, Seq2SeqTranslation, Seq2SeqTranslator, TranslationConfig, TranslationEngine, TranslationPack as _};
use serde_json::Value as Json;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/translation")
}

fn expected(family: &str) -> Json {
    let text = std::fs::read(folder().join("expected.json")).expect("the fixture is there");
    serde_json::from_slice::<Json>(&text).expect("it is JSON")[family].clone()
}

fn open(family: &str) -> Seq2SeqTranslation {
    open_translation_pack(&folder().join(family)).expect("the pack opens")
}

fn onnxruntime() -> OnnxRuntime {
    OnnxRuntime::open(&onnxruntime_candidates(None)).expect("`make setup` installs ONNX Runtime")
}

fn ids(json: &Json) -> Vec<i64> {
    json.as_array().expect("a list").iter().map(|id| id.as_i64().expect("an id")).collect()
}

/// The pair of a case; Marian's has none, and English to German is meant.
fn pair(case: &Json) -> Pair {
    let language = |key: &str, usual: &str| case[key].as_str().unwrap_or(usual).to_owned();
    Pair::new(&language("from", "en"), &language("to", "de"))
}

fn with_options(config: &GenerationConfig, options: &Json) -> GenerationConfig {
    let mut config = config.clone();
    for (name, value) in options.as_object().expect("options") {
        let number = || value.as_u64().expect("a number") as usize;
        match name.as_str() {
            "num_beams" => config.num_beams = number(),
            "max_length" => config.max_length = number(),
            "no_repeat_ngram_size" => config.no_repeat_ngram_size = number(),
            "length_penalty" => config.length_penalty = value.as_f64().expect("a number") as f32,
            "renormalize_logits" => config.renormalize_logits = value.as_bool().expect("a truth value"),
            "early_stopping" => {
                config.early_stopping = if value.as_bool() == Some(true) { EarlyStopping::Full } else { EarlyStopping::Never };
            }
            other => panic!("option {other}"),
        }
    }
    config
}

/// What the reference gives: behind the decoder's start, up to the end.
fn generated(row: &Json, config: &GenerationConfig) -> Vec<i64> {
    let tokens = &ids(row)[1..];
    let end = tokens.iter().position(|token| config.is_end(*token)).map_or(tokens.len(), |end| end + 1);
    tokens[..end].to_vec()
}

fn texts_are_the_same_tokens(family: &str) {
    let pack = open(family);
    for case in expected(family)["tokens"].as_array().expect("cases") {
        let text = case["text"].as_str().expect("a text");
        let found = pack.tokens(text, &pair(case)).expect("it is tokenised");
        assert_eq!(found, ids(&case["ids"]), "{family}: {text:?}");
    }
}

fn answers_are_the_same(family: &str, pack: &Seq2SeqTranslation, runtime: &dyn Runtime) -> usize {
    let mut translator = Seq2SeqTranslator::load(pack, runtime).expect("its networks load");
    let mut sequences = 0;
    for case in expected(family)["answers"].as_array().expect("cases") {
        let texts: Vec<&str> = case["texts"].as_array().expect("texts").iter().map(|text| text.as_str().expect("a text")).collect();
        let mut config = with_options(pack.generation(), &case["options"]);
        let mut rows = Vec::new();
        for text in &texts {
            rows.push(pack.tokens(text, &pair(case)).expect("it is tokenised"));
            config.forced_bos_token_id = pack.forced_bos(&pair(case)).or(config.forced_bos_token_id);
        }
        let found = translator.generate(&rows, &config).expect("it generates");
        for (n, sequence) in found.iter().enumerate() {
            let context = format!("{family}, {}: {:?}", case["options"], texts[n]);
            assert_eq!(sequence.tokens, generated(&case["ids"][n], &config), "{context}");
            assert_eq!(pack.text(&sequence.tokens).expect("a text"), case["decoded"][n].as_str().expect("a text"), "{context}");
            sequences += 1;
        }
    }
    sequences
}

#[test]
fn texts_become_the_same_tokens() {
    for family in ["marian", "m2m100", "nllb"] {
        texts_are_the_same_tokens(family);
    }
}

#[test]
fn greedy_and_beam_search_find_the_same_sequences() {
    let runtime = onnxruntime();
    let compared: Vec<usize> = ["marian", "m2m100", "nllb"].map(|family| answers_are_the_same(family, &open(family), &runtime)).into();
    assert_eq!(compared, [98, 54, 54]);
}

#[test]
fn a_split_decoder_and_the_built_in_engine_find_them_too() {
    let copy = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(folder().join("marian")).expect("the pack").map(|entry| entry.expect("a file")) {
        if entry.file_name() != "decoder_model_merged.onnx" {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("it is copied");
        }
    }
    let split = open_translation_pack(copy.path()).expect("the pack opens");
    answers_are_the_same("marian", &split, &onnxruntime());
    answers_are_the_same("marian", &split, &Rten::default());
}

#[test]
fn pairs_are_known_and_texts_are_translated_together() {
    let marian = open("marian");
    for (from, to, known) in [("en", "de", true), ("en-GB", "fr-CA", true), ("eng", "deu", true), ("de", "en", false), ("en", "ja", false)]
    {
        assert_eq!(marian.translates(&Pair::new(from, to)), known, "{from} to {to}");
    }
    let (m2m100, nllb) = (open("m2m100"), open("nllb"));
    for pack in [&m2m100, &nllb] {
        assert!(
            pack.translates(&Pair::new("zh-Hans", "sw"))
                && !pack.translates(&Pair::new("en", "en-US"))
                && !pack.translates(&Pair::new("en", "tlh"))
        );
    }
    assert_eq!(marian.targets("en"), ["de", "fr"]);
    assert_eq!((m2m100.targets("en").len(), marian.targets("ja").len(), m2m100.targets("tlh").len()), (99, 0, 0));
    assert!(nllb.targets("de").contains(&"en".to_owned()) && !nllb.targets("de").contains(&"de".to_owned()));
    assert_eq!((marian.pairs().as_str(), m2m100.pairs().as_str()), ("en to de, fr", "any of 100 languages"));
    let runtime: Arc<dyn Runtime> = Arc::new(onnxruntime());
    let engine =
        TranslationEngine::start(vec![Arc::new(marian), Arc::new(m2m100)], &runtime, TranslationConfig::default()).expect("it starts");
    let texts = ["The captain opens the red door.", "", "My sister"].map(str::to_owned);
    let together = engine.translate(&texts, &Pair::new("en", "de")).expect("it translates");
    assert!(together[1].is_empty() && !together[0].is_empty());
    let alone = engine.translate(&texts[..1], &Pair::new("en", "de")).expect("it translates");
    assert_eq!(alone[0], together[0], "what else is translated changes nothing");
    assert!(!engine.translate(&texts[..1], &Pair::new("fr", "ja")).expect("the second pack has it")[0].is_empty());
}

/// The pack with a change, and what opening or loading it says.
fn refusal(family: &str, change: impl FnOnce(&Path)) -> String {
    let copy = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(folder().join(family)).expect("the pack").map(|entry| entry.expect("a file")) {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("it is copied");
    }
    change(copy.path());
    let opened: Result<_, PackError> = open_translation_pack(copy.path());
    match opened {
        Err(error) => error.to_string(),
        Ok(pack) => {
            Seq2SeqTranslator::load(&pack, &onnxruntime()).err().map_or_else(|| "it was taken".to_owned(), |error| error.to_string())
        }
    }
}

#[test]
fn a_pack_that_does_not_fit_is_refused_in_words() {
    let remove = |name: &'static str| move |folder: &Path| std::fs::remove_file(folder.join(name)).expect("it is there");
    let cut = |name: &'static str, length: usize| {
        move |folder: &Path| {
            let bytes = std::fs::read(folder.join(name)).expect("it is there");
            std::fs::write(folder.join(name), &bytes[..length.min(bytes.len())]).expect("it is written");
        }
    };
    let edit = |name: &'static str, key: &'static str, value: Json| {
        move |folder: &Path| {
            let mut json: Json = serde_json::from_slice(&std::fs::read(folder.join(name)).expect("it is there")).expect("it is JSON");
            json[key] = value;
            std::fs::write(folder.join(name), json.to_string()).expect("it is written");
        }
    };
    let replace = |name: &'static str, with: &'static str| {
        move |folder: &Path| {
            std::fs::copy(folder.join(with), folder.join(name)).expect("it is there");
        }
    };
    type Change = Box<dyn FnOnce(&Path)>;
    let cases: [(&str, Change, &str); 12] = [
        ("marian", Box::new(remove("config.json")), "config.json"),
        ("marian", Box::new(remove("source.spm")), "source.spm"),
        ("marian", Box::new(remove("encoder_model.onnx")), "encoder_model.onnx"),
        ("m2m100", Box::new(remove("decoder_with_past_model.onnx")), "decoder_with_past_model.onnx"),
        ("marian", Box::new(cut("target.spm", 1_000)), "target.spm"),
        ("marian", Box::new(cut("decoder_model_merged.onnx", 9_000)), "cannot load the model"),
        ("nllb", Box::new(cut("tokenizer.json", 500)), "tokenizer.json"),
        ("marian", Box::new(edit("config.json", "model_type", "bert".into())), "`bert`"),
        ("marian", Box::new(edit("config.json", "vocab_size", 17.into())), "another model's"),
        ("marian", Box::new(edit("vocab.json", "zu hoch", 100_000.into())), "100000"),
        ("m2m100", Box::new(edit("generation_config.json", "num_beams", 10_000.into())), "`num_beams`"),
        ("marian", Box::new(replace("decoder_model_merged.onnx", "encoder_model.onnx")), "present.0.decoder.key"),
    ];
    for (family, change, word) in cases {
        let message = refusal(family, change);
        assert!(message.contains(word), "{word} in: {message}");
    }
}
