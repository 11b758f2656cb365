//! Whisper held to `transformers` (fixtures: `ai/parity/whisper.py`): features, tokens, segments, words.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used, reason = "tests read files")]

#[path = "parity/sound.rs"]
mod sound;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use auralink_ai::features::whisper::LogMel;
use auralink_ai::pack::{WhisperPack, onnxruntime_candidates};
use auralink_ai::runtime::{self, Runtime, RuntimeChoice};
use auralink_ai::whisper::{DecodeOptions, Fallback, HeardWindow, LongOptions, Whisper, Window};
use serde_json::Value;
use sound::{fixtures, sound};

fn folder() -> PathBuf {
    fixtures().join("whisper")
}

fn runtime() -> Arc<dyn Runtime> {
    static RUNTIME: OnceLock<Arc<dyn Runtime>> = OnceLock::new();
    let open = || runtime::open(&RuntimeChoice::OnnxRuntime(None), &onnxruntime_candidates(None)).unwrap().0;
    RUNTIME.get_or_init(open).clone()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A copy of the pack with some files only; with a decoder that gives attentions in place of the merged one.
fn copy(keep: impl Fn(&str) -> bool, attentions: bool) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_file() && keep(&name) {
            std::fs::copy(entry.path(), target.path().join(name)).unwrap();
        }
    }
    if attentions {
        let name = "decoder_model_merged.onnx";
        std::fs::copy(folder().join("attentions").join(name), target.path().join(name)).unwrap();
    }
    target
}

fn load(folder: &Path, variant: Option<&str>) -> Whisper {
    Whisper::load(&*runtime(), Arc::new(WhisperPack::open_variant(folder, variant).unwrap())).unwrap()
}

fn whisper(pack: &str) -> Whisper {
    match pack {
        "attentions" => load(copy(|_| true, true).path(), Some("")),
        pack => load(&folder(), Some(pack)),
    }
}

fn options(whisper: &Whisper, case: &Value) -> LongOptions {
    let asked = &case["options"];
    let number = |name: &str| asked[name].as_f64().map(|value| value as f32);
    let prompt = asked["prompt"].as_str().map(|text| whisper.pack().tokens().encode(&format!(" {}", text.trim())).unwrap());
    let long = sound(&case["sound"]).len() > 480_000;
    LongOptions {
        window: DecodeOptions {
            language: asked["language"].as_str().map(str::to_owned),
            translate: asked["task"] == "translate",
            timestamps: long || asked["return_timestamps"] == true,
            words: asked["words"] == true,
            beams: asked["beams"].as_u64().unwrap_or(1) as usize,
            prompt: prompt.unwrap_or_default(),
            fallback: Fallback {
                logprob: number("logprob_threshold"),
                no_speech: number("no_speech_threshold"),
                compression_ratio: number("compression_ratio_threshold"),
                ..Fallback::default()
            },
            ..DecodeOptions::default()
        },
        condition: asked["condition_on_prev_tokens"] == true,
        prompt_all: asked["prompt_condition_type"] == "all-segments",
        whole_window: true,
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn near(found: f64, expected: &Value, within: f64) -> bool {
    (found - expected.as_f64().unwrap()).abs() <= within
}

fn cases(pack: impl Fn(&str) -> bool) -> Vec<Value> {
    let all = json(&folder().join("expected.json"));
    all.as_array().unwrap().iter().filter(|case| pack(case["pack"].as_str().unwrap())).cloned().collect()
}

fn hear(whisper: &mut Whisper, case: &Value) -> Vec<HeardWindow> {
    let options = options(whisper, case);
    whisper.transcribe(&sound(&case["sound"]), &options, |_| true).unwrap()
}

/// Compares one case; what differs is told.
fn compare(whisper: &mut Whisper, case: &Value) -> Result<usize, String> {
    let heard = hear(whisper, case);
    let segments: Vec<_> = heard.iter().filter(|window| !window.decoded.silent).flat_map(|window| &window.decoded.segments).collect();
    let tokens: Vec<u32> = segments.iter().flat_map(|segment| segment.tokens.clone()).collect();
    let expected = ids(&case["tokens"]);
    if tokens != expected {
        let at = tokens.iter().zip(&expected).take_while(|(a, b)| a == b).count();
        let around = |tokens: &[u32]| tokens[at.saturating_sub(3)..(at + 6).min(tokens.len())].to_vec();
        return Err(format!("token {at} of {}: {:?}, expected {:?}", expected.len(), around(&tokens), around(&expected)));
    }
    let Some(wanted) = case["segments"].as_array() else { return Ok(tokens.len()) };
    let timed = options(whisper, case).window.timestamps;
    for (segment, wanted) in segments.iter().zip(wanted) {
        let times = !timed || (near(segment.start, &wanted["start"], 1e-6) && near(segment.end, &wanted["end"], 1e-6));
        if segment.text != wanted["text"].as_str().unwrap() || !times {
            return Err(format!("{segment:?}, expected {wanted}"));
        }
    }
    if segments.len() != wanted.len() {
        return Err(format!("{} segments, expected {}", segments.len(), wanted.len()));
    }
    let windows = case["windows"].as_array().unwrap();
    if windows.len() != heard.len() {
        return Err(format!("{} windows, expected {}", heard.len(), windows.len()));
    }
    for (window, wanted) in heard.iter().zip(windows) {
        let heard = &window.decoded;
        let ratio = f64::from(heard.compression_ratio);
        let alike = near(f64::from(heard.avg_logprob), &wanted["avg_logprob"], 1e-3)
            && near(f64::from(heard.no_speech_prob), &wanted["no_speech_prob"], 1e-5)
            // Another implementation of zlib: it packs a few bytes worse or better, and these are few.
            && near(ratio, &wanted["compression_ratio"], 0.35 * ratio)
            && heard.silent == wanted["skip"].as_bool().unwrap();
        if !alike {
            let found = (heard.avg_logprob, heard.no_speech_prob, heard.compression_ratio, heard.silent);
            return Err(format!("window {found:?}, expected {wanted}"));
        }
    }
    Ok(tokens.len())
}

fn compare_all(mut whisper: Whisper, cases: &[Value]) {
    let mut wrong = Vec::new();
    let mut tokens = 0;
    for case in cases {
        match compare(&mut whisper, case) {
            Ok(count) => tokens += count,
            Err(difference) => wrong.push(format!("{}: {difference}", case["name"])),
        }
    }
    println!("{} of {} sequences alike, {tokens} tokens", cases.len() - wrong.len(), cases.len());
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(!cases.is_empty());
}

#[test]
fn features_are_those_of_the_reference() {
    let listed = json(&folder().join("features.json"));
    let bytes = std::fs::read(folder().join("features.f32")).unwrap();
    let mut values = bytes.chunks_exact(4).map(|value| f32::from_le_bytes(value.try_into().unwrap()));
    let mut worst = 0.0_f32;
    for entry in listed.as_array().unwrap() {
        let mels = entry["mels"].as_u64().unwrap() as usize;
        let bank = Arc::new(LogMel::new(mels).unwrap());
        let samples = sound(&entry["sound"]);
        let length = entry["length"].as_u64().unwrap() as usize;
        let whole = entry["whole"] == true;
        let features = if whole {
            let spectrum = bank.whole(&samples);
            assert_eq!(spectrum.frames(), length);
            spectrum.window(0, length)
        } else {
            bank.padded(&samples, length)
        };
        for frame in ids(&entry["frames"]) {
            for mel in 0..mels {
                let difference = (features[mel * length + frame as usize] - values.next().unwrap()).abs();
                assert!(
                    difference < 1e-4,
                    "{} {mels} mels, whole {whole}: frame {frame}, mel {mel} differs by {difference}",
                    entry["sound"]
                );
                worst = worst.max(difference);
            }
        }
    }
    assert!(values.next().is_none());
    println!("largest difference {worst}");
}

#[test]
fn the_merged_decoder_says_the_same() {
    compare_all(whisper(""), &cases(|pack| pack.is_empty()));
}

#[test]
fn the_split_decoder_says_the_same() {
    let split = copy(|name| name != "decoder_model_merged.onnx", false);
    compare_all(load(split.path(), Some("")), &cases(|pack| pack.is_empty()));
}

#[test]
fn the_pure_rust_engine_says_the_same() {
    let rten = runtime::open(&RuntimeChoice::Rten, &[]).unwrap().0;
    let pack = WhisperPack::open_variant(&folder(), Some("")).unwrap();
    let some = cases(|pack| pack.is_empty()).into_iter().filter(|case| case["name"].as_str().unwrap().starts_with("voice,"));
    compare_all(Whisper::load(&*rten, Arc::new(pack)).unwrap(), &some.collect::<Vec<_>>());
}

#[test]
fn integers_and_halves_say_what_their_graphs_say_elsewhere() {
    for pack in ["int8", "fp16"] {
        let mut whisper = whisper(pack);
        let cases = cases(|own| own == pack);
        for case in &cases {
            let encoded = whisper.encode(&sound(&case["sound"])).unwrap();
            let asked = options(&whisper, case).window;
            let tokens = whisper.decode(&encoded, &asked).unwrap().tokens;
            let wanted = ids(&case["tokens"]);
            // After that the last bits of the features decide.
            let compared = if case["options"]["beginning"] == true { wanted.len().min(tokens.len()) } else { tokens.len() };
            assert_eq!(tokens[..compared], wanted, "{}", case["name"]);
        }
        assert!(cases.len() >= 6);
    }
}

#[test]
fn attention_gives_words_their_times() {
    let mut whisper = whisper("attentions");
    assert!(whisper.follows_sound());
    compare_all(load(copy(|_| true, true).path(), Some("")), &cases(|pack| pack == "attentions"));
    for case in cases(|pack| pack == "attentions") {
        let heard = hear(&mut whisper, &case);
        let times: Vec<f64> = heard.iter().flat_map(|window| window.decoded.token_times.clone()).collect();
        let mut wanted: Vec<f64> = Vec::new();
        for segment in case["segments"].as_array().unwrap() {
            wanted.extend(segment["times"].as_array().unwrap().iter().map(|time| time.as_f64().unwrap()));
        }
        assert_eq!(times.len(), wanted.len(), "{}", case["name"]);
        let other = times.iter().zip(&wanted).filter(|(a, b)| (*a - **b).abs() > 0.011).count();
        assert!(other == 0, "{}: {other} of {} token times differ: {times:?} {wanted:?}", case["name"], wanted.len());
        if let Some(words) = case["words"].as_array() {
            let found: Vec<_> = heard.iter().flat_map(|window| &window.decoded.words).collect();
            for (word, wanted) in found.iter().zip(words) {
                assert_eq!(word.text, wanted["text"].as_str().unwrap().trim(), "{}", case["name"]);
                let alike = near(word.start, &wanted["start"], 0.011) && near(word.end, &wanted["end"], 0.011);
                assert!(alike, "{}: {word:?}, expected {wanted}", case["name"]);
                assert!((0.0..=1.0).contains(&word.confidence));
            }
            assert_eq!(found.len(), words.len(), "{}", case["name"]);
        }
    }
}

#[test]
fn decoding_stops_where_the_attention_goes_too_far() {
    let mut whisper = whisper("attentions");
    let encoded = whisper.encode(&sound(&serde_json::json!([["voice", 12.0], ["noise", 10.0]]))).unwrap();
    let asked = DecodeOptions { language: Some("en".into()), timestamps: false, words: true, ..DecodeOptions::default() };
    let whole = whisper.decode(&encoded, &asked).unwrap();
    assert_eq!(whole.attended.len(), whole.tokens.len());
    let mut lengths = Vec::new();
    for limit in [0, 100, 400, 800, 1_100] {
        let asked = DecodeOptions { attention_limit: Some(limit), ..asked.clone() };
        let stopped = whisper.decode(&encoded, &asked).unwrap();
        assert_eq!(stopped.tokens, whole.tokens[..stopped.tokens.len()], "limit {limit}");
        lengths.push(stopped.tokens.len());
    }
    assert!(lengths.is_sorted() && lengths[0] <= 1, "{lengths:?}");
    // The last frame that is sound is number 1,099.
    assert_eq!(lengths.last(), Some(&whole.tokens.len()));
    assert!(lengths[2] < whole.tokens.len());
}

#[test]
fn what_was_said_is_continued() {
    let mut whisper = whisper("");
    let encoded = whisper.encode(&sound(&serde_json::json!([["noise", 5.0]]))).unwrap();
    for timestamps in [false, true] {
        let asked = DecodeOptions { language: Some("en".into()), timestamps, ..DecodeOptions::default() };
        let whole = whisper.decode(&encoded, &asked).unwrap();
        for count in [1, 4, 9] {
            let asked = DecodeOptions { prefix: whole.tokens[..count].to_vec(), ..asked.clone() };
            assert_eq!(whisper.decode(&encoded, &asked).unwrap().tokens, whole.tokens[count..], "after {count}, times {timestamps}");
        }
    }
}

#[test]
fn windows_encoded_together_are_those_encoded_alone() {
    let mut whisper = whisper("");
    let sounds = [("voice", 3.0), ("noise", 5.0), ("sweep", 9.0)].map(|part| sound(&serde_json::json!([part])));
    let bank = whisper.log_mel().clone();
    let window = |samples: &Vec<f32>| Window { features: bank.padded(samples, 3_000), sound: samples.len() / 160 };
    let together = whisper.encode_windows(sounds.iter().map(window).collect()).unwrap();
    let asked = DecodeOptions { language: Some("en".into()), ..DecodeOptions::default() };
    for (samples, encoded) in sounds.iter().zip(&together) {
        let alone = whisper.encode(samples).unwrap();
        assert_eq!(whisper.decode(encoded, &asked).unwrap().tokens, whisper.decode(&alone, &asked).unwrap().tokens);
    }
}

#[test]
fn who_is_not_believed_is_asked_again() {
    let mut whisper = whisper("");
    let encoded = whisper.encode(&sound(&serde_json::json!([["speech", 3.0]]))).unwrap();
    let fallback = Fallback { temperatures: vec![0.0, 0.4, 0.8], logprob: Some(0.0), ..Fallback::default() };
    let asked = DecodeOptions { language: Some("en".into()), fallback, ..DecodeOptions::default() };
    let heard = whisper.decode(&encoded, &asked).unwrap();
    assert_eq!(heard.temperature, 0.8);
    assert_eq!(whisper.decode(&encoded, &asked).unwrap(), heard, "the same seed draws the same");
    let other = Fallback { seed: 7, ..asked.fallback.clone() };
    assert_ne!(whisper.decode(&encoded, &DecodeOptions { fallback: other, ..asked.clone() }).unwrap().tokens, heard.tokens);
    let easy = Fallback { logprob: Some(-100.0), ..asked.fallback.clone() };
    assert_eq!(whisper.decode(&encoded, &DecodeOptions { fallback: easy, ..asked }).unwrap().temperature, 0.0);
}
