//! Sentence embeddings with a real model: what sentence-transformers says, on both engines; limits; many callers at once.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "tests read files and the clock")]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use auralink_ai::embedding::{EmbedError, Embedder, EmbedderConfig, MAX_TEXT_BYTES, MAX_TEXTS};
use auralink_ai::pack::{EmbeddingPack, PackError, embedding_pack};
use auralink_ai::runtime::RuntimeChoice;

/// The pack that the set-up makes from a wheel.
fn pack() -> PathBuf {
    embedding_pack().expect("packs/all-minilm-l6-v2 is not in the cache folder: run `make setup`")
}

fn start(runtime: RuntimeChoice, threads: usize) -> Embedder {
    Embedder::start(&EmbedderConfig { runtime, threads, ..EmbedderConfig::new(pack()) }).unwrap()
}

/// One for all tests of this file: it takes a while to load.
fn embedder() -> &'static Embedder {
    static EMBEDDER: OnceLock<Embedder> = OnceLock::new();
    EMBEDDER.get_or_init(|| start(RuntimeChoice::OnnxRuntime(None), 2))
}

struct Reference {
    texts: Vec<String>,
    vectors: Vec<Vec<f32>>,
    max_tokens: u64,
}

fn reference() -> Reference {
    let json: serde_json::Value = serde_json::from_str(include_str!("data/embeddings.json")).unwrap();
    let entries = json["texts"].as_array().unwrap();
    let vector = |entry: &serde_json::Value| entry["vector"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
    Reference {
        texts: entries.iter().map(|entry| entry["text"].as_str().unwrap().to_owned()).collect(),
        vectors: entries.iter().map(vector).collect(),
        max_tokens: json["max_tokens"].as_u64().unwrap(),
    }
}

fn texts(of: &[&str]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The reference is rounded to six places, and engines add in another order.
fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len());
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "{what}: differs by {worst}");
}

fn equals_sentence_transformers(embedder: &Embedder) {
    let reference = reference();
    assert_eq!((embedder.dimensions(), embedder.max_tokens() as u64), (384, reference.max_tokens));
    let together = embedder.embed(&reference.texts).unwrap();
    for ((text, expected), found) in reference.texts.iter().zip(&reference.vectors).zip(&together) {
        let shown: String = text.chars().take(30).collect();
        assert_same(found, expected, &format!("{shown:?} among others"));
        let alone = embedder.embed(std::slice::from_ref(text)).unwrap();
        assert_same(&alone[0], expected, &format!("{shown:?} alone"));
        assert!((dot(found, found) - 1.0).abs() < 1e-5);
    }
    let [.., long, longer] = together.as_slice() else { panic!("two long texts") };
    assert_same(long, longer, "what comes after the model's maximum does not count");
}

#[test]
fn onnx_runtime_equals_sentence_transformers() {
    equals_sentence_transformers(embedder());
}

#[test]
fn the_pure_rust_engine_equals_sentence_transformers() {
    equals_sentence_transformers(&start(RuntimeChoice::Rten, 1));
}

#[test]
fn what_means_the_same_is_near() {
    let found = embedder().embed(&reference().texts[..3]).unwrap();
    let (same, other) = (dot(&found[0], &found[1]), dot(&found[0], &found[2]));
    assert!(same > 0.5 && other < 0.2, "{same} {other}");
}

#[test]
fn too_much_is_refused_by_number() {
    let many = vec![String::new(); MAX_TEXTS + 1];
    assert!(matches!(embedder().embed(&many), Err(EmbedError::TooMany { count }) if count == MAX_TEXTS + 1));
    let long = texts(&["fine", &"x".repeat(MAX_TEXT_BYTES + 1)]);
    let error = embedder().embed(&long).unwrap_err();
    assert!(matches!(error, EmbedError::TooLong { index: 1, .. }) && error.to_string().contains("split it"), "{error}");
    assert!(embedder().embed(&[]).unwrap().is_empty());
    assert_eq!(embedder().embed(&texts(&[&"x ".repeat(MAX_TEXT_BYTES / 2)])).unwrap().len(), 1);
}

#[test]
fn many_callers_get_their_own_vectors_and_nothing_is_mixed_up() {
    let reference = reference();
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let reference = &reference;
            scope.spawn(move || {
                for round in 0..3 {
                    let at = (caller + round * 5) % 12;
                    let found = embedder().embed(&reference.texts[at..at + 3]).unwrap();
                    for (found, expected) in found.iter().zip(&reference.vectors[at..]) {
                        assert_same(found, expected, "one of many");
                    }
                }
            });
        }
    });
}

#[test]
fn more_than_may_wait_is_refused_and_the_rest_is_served() {
    // Each call is 32 batches; 128 may wait, and nobody else's do.
    let embedder = start(RuntimeChoice::OnnxRuntime(None), 2);
    let call = vec!["a".to_owned(); MAX_TEXTS];
    let outcomes: Vec<Result<usize, EmbedError>> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| embedder.embed(&call).map(|vectors| vectors.len()))).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let served = outcomes.iter().filter(|outcome| matches!(outcome, Ok(MAX_TEXTS))).count();
    assert!(served >= 4, "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(MAX_TEXTS) | Err(EmbedError::Busy))), "{outcomes:?}");
}

/// A folder with the pack's files, but for one.
fn damaged(file: &str, content: Option<&str>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "sentence_bert_config.json", "1_Pooling/config.json", "model.onnx"] {
        let target = dir.path().join(name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        if name == file {
            content.into_iter().for_each(|content| std::fs::write(&target, content).unwrap());
        } else {
            std::os::unix::fs::symlink(pack().join(name), target).unwrap();
        }
    }
    dir
}

fn refused(folder: &Path) -> String {
    match EmbeddingPack::open(folder) {
        Ok(_) => panic!("{} was opened", folder.display()),
        Err(error @ (PackError::Missing { .. } | PackError::Invalid { .. } | PackError::Hash { .. })) => error.to_string(),
    }
}

#[test]
fn a_pack_that_is_not_whole_names_the_file_at_fault() {
    for file in ["config.json", "tokenizer.json", "model.onnx"] {
        assert!(refused(damaged(file, None).path()).contains(file), "{file}");
    }
    for (file, content, word) in [
        ("config.json", "{}", "hidden_size"),
        ("config.json", r#"{"hidden_size": 0}"#, "hidden_size"),
        ("config.json", "[", "config.json"),
        ("tokenizer.json", "{}", "tokenizer.json"),
        ("sentence_bert_config.json", r#"{"max_seq_length": 1}"#, "tokens"),
        ("1_Pooling/config.json", r#"{"pooling_mode_cls_token": true}"#, "mean"),
    ] {
        let error = refused(damaged(file, Some(content)).path());
        assert!(error.contains(word), "{file} {content}: {error}");
    }
}

#[test]
fn a_model_that_is_none_or_another_is_refused_at_the_start() {
    for (file, content) in [("model.onnx", "not a model"), ("config.json", r#"{"hidden_size": 385}"#)] {
        let dir = damaged(file, Some(content));
        for runtime in [RuntimeChoice::OnnxRuntime(None), RuntimeChoice::Rten] {
            let config = EmbedderConfig { runtime, ..EmbedderConfig::new(dir.path()) };
            assert!(matches!(Embedder::start(&config), Err(EmbedError::Runtime(_))), "{file}");
        }
    }
}

#[test]
fn a_pack_without_the_files_that_need_not_be_there_is_opened() {
    let dir = damaged("1_Pooling/config.json", None);
    std::fs::remove_file(dir.path().join("sentence_bert_config.json")).unwrap();
    let pack = EmbeddingPack::open(dir.path()).unwrap();
    assert_eq!((pack.max_tokens(), pack.dimensions()), (512, 384), "config.json's own maximum");
}
