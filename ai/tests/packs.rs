//! What a pack that is not whole gets: an error that names the file, says what is wrong and what to do.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests read files and the clock")]

use std::path::{Path, PathBuf};

use auralink_ai::pack::{Pack, PackError, PackSource, open_silero};
use auralink_ai::recogniser::Network;
use auralink_ai::runtime::{self, ModelFile, OnnxRuntime, Rten, Runtime as _, RuntimeChoice, RuntimeError};
use auralink_ai::scheduler::{Engine, EngineConfig};
use serde_json::json;

/// A copy of the default pack that a test may spoil.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for name in ["manifest.json", "model.onnx", "tokens.txt", "words.txt", "lm.bin"] {
        let from = Path::new("packs/en-demo").join(name);
        std::fs::copy(from, folder.path().join(name)).expect("the default pack is committed");
    }
    folder
}

fn open(folder: &Path) -> Result<Pack, PackError> {
    Pack::open(&PackSource::Folder(folder.to_owned()))
}

fn refusal(folder: &Path) -> String {
    open(folder).err().expect("a spoiled pack is refused").to_string()
}

/// Changes one value of the manifest, named by its JSON pointer.
fn edit(folder: &Path, pointer: &str, value: serde_json::Value) {
    let path = folder.join("manifest.json");
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).expect("the manifest is there")).expect("it is JSON");
    *manifest.pointer_mut(pointer).expect("the manifest has this value") = value;
    std::fs::write(path, manifest.to_string()).expect("the copy can be written");
}

#[test]
fn a_whole_copy_opens() {
    open(copy().path()).expect("the copy is whole");
}

#[test]
fn a_missing_folder_is_named() {
    let message = refusal(Path::new("/nowhere/at/all"));
    assert!(message.contains("/nowhere/at/all/manifest.json") && message.contains("ai.pack"), "{message}");
}

#[test]
fn each_missing_file_is_named() {
    for name in ["manifest.json", "model.onnx", "tokens.txt", "words.txt", "lm.bin"] {
        let folder = copy();
        std::fs::remove_file(folder.path().join(name)).expect("the copy has it");
        let message = refusal(folder.path());
        assert!(message.contains(name) && message.contains("again"), "{message}");
    }
}

#[test]
fn a_changed_file_is_found_by_its_hash() {
    for name in ["model.onnx", "tokens.txt", "words.txt", "lm.bin"] {
        let folder = copy();
        let path = folder.path().join(name);
        let mut bytes = std::fs::read(&path).expect("the copy has it");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).expect("the copy can be written");
        assert!(matches!(open(folder.path()), Err(PackError::Hash { path, .. }) if path.contains(name)), "{name} changed");
        std::fs::write(&path, &bytes[..middle]).expect("the copy can be written");
        assert!(matches!(open(folder.path()), Err(PackError::Hash { path, .. }) if path.contains(name)), "{name} cut");
    }
}

#[test]
fn impossible_values_are_named() {
    for (pointer, value, told) in [
        ("/format", json!("whisper"), "whisper"),
        ("/format_version", json!(9), "9"),
        ("/model/chunk_frames", json!(15), "15"),
        ("/model/chunk_frames", json!(4_000_000), "4000000"),
        ("/model/subsampling", json!(0), "subsampling"),
        ("/model/states/0/shape", json!([1, 2, 3]), "streams"),
        ("/model/file", json!("../../etc/passwd"), "passwd"),
        ("/features/hop_length", json!(0), "hop_length"),
        ("/features/sample_rate", json!(44_100), "44100"),
        ("/features/window", json!("triangle"), "triangle"),
        ("/features/f_max", json!(9_000.0), "9000"),
        ("/tokens/blank", json!(1), "blank"),
        ("/tokens/count", json!(1_000), "1000"),
        ("/decoder/beam", json!(0), "beam"),
        ("/decoder/lm_weight", json!("much"), "much"),
    ] {
        let folder = copy();
        edit(folder.path(), pointer, value);
        let message = refusal(folder.path());
        assert!(message.contains(told), "{pointer}: {message}");
    }
}

#[test]
fn a_manifest_that_is_no_json_is_refused() {
    let folder = copy();
    std::fs::write(folder.path().join("manifest.json"), "{").expect("the copy can be written");
    assert!(refusal(folder.path()).contains("manifest.json"));
}

#[test]
fn a_network_of_another_shape_is_refused_when_it_is_loaded() {
    let folder = copy();
    edit(folder.path(), "/features/n_mels", json!(41));
    let pack = open(folder.path()).expect("the manifest alone is possible");
    assert!(Network::load(&Rten::default(), &pack).is_err());
}

#[test]
fn what_is_no_network_is_refused_by_both_engines() {
    let ort = OnnxRuntime::open(&auralink_ai::pack::onnxruntime_candidates(None)).expect("`make setup` installs ONNX Runtime");
    for bytes in [&b""[..], b"not a model", &[0xff; 1000]] {
        assert!(matches!(ort.load(&ModelFile::new(bytes)), Err(RuntimeError::Load { .. })));
        assert!(matches!(Rten::default().load(&ModelFile::new(bytes)), Err(RuntimeError::Load { .. })));
    }
}

#[test]
fn a_missing_onnx_runtime_falls_back_and_says_where_it_looked() {
    let nowhere = [PathBuf::from("/nowhere/libonnxruntime.so")];
    let (engine, note) = runtime::open(&RuntimeChoice::Auto, &nowhere).expect("the fallback is always there");
    // Another test of this process may have loaded the library: then it is used.
    if engine.name().contains("rten") {
        let note = note.expect("a fallback is reported");
        assert!(note.contains("/nowhere/libonnxruntime.so") && note.contains("make setup") && note.contains("rten"), "{note}");
    }
}

#[test]
fn a_voice_detector_that_was_named_must_be_there() {
    let message = open_silero(Some(Path::new("/nowhere/silero"))).expect_err("it is not there").to_string();
    assert!(message.contains("/nowhere/silero"), "{message}");
}

#[test]
fn an_engine_does_not_start_without_its_pack() {
    let config = EngineConfig { pack: PackSource::Folder("/nowhere".into()), ..EngineConfig::default() };
    let message = Engine::start(config).err().expect("there is no pack").to_string();
    assert!(message.contains("/nowhere/manifest.json"), "{message}");
}
