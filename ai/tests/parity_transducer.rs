//! Transducers and CTC networks as sherpa-onnx's own runtime hears with them. `ai/parity/transducer.py` makes the networks and the answers.

#![allow(clippy::disallowed_methods, reason = "tests read fixtures")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use auralink_ai::features::kaldi::{KaldiBank, KaldiFeatures};
use auralink_ai::hotwords::HotwordGraph;
use auralink_ai::pack::onnxruntime_candidates;
use auralink_ai::runtime::{ModelFile, OnnxRuntime, Rten, Runtime, Tensor};
use auralink_ai::transducer::{CtcSearch, EncoderSpec, Found, Joint, Search, SearchOptions, StreamingEncoder, Symbols};
use serde_json::Value as Json;

const RATE: f64 = 16_000.0;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/transducer")
}

fn expected() -> Json {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).expect("the fixture is there")).expect("it is JSON")
}

fn sound(name: &str) -> Vec<f32> {
    let bytes = std::fs::read(folder().join(format!("{name}.f32"))).expect("the fixture is there");
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes"))).collect()
}

fn file(kind: &str, part: &str) -> ModelFile {
    let name =
        if kind == "streaming" { format!("{part}-epoch-1-avg-1-chunk-16-left-128.onnx") } else { format!("{part}-epoch-1-avg-1.onnx") };
    ModelFile::new(std::fs::read(folder().join(kind).join(name)).expect("the fixture is there"))
}

fn symbols() -> Symbols {
    Symbols::read(&std::fs::read_to_string(folder().join("streaming/tokens.txt")).expect("the fixture is there")).expect("it is a list")
}

fn onnxruntime() -> OnnxRuntime {
    OnnxRuntime::open(&onnxruntime_candidates(None)).expect("`make setup` installs ONNX Runtime")
}

fn features(samples: &[f32], step: usize) -> Vec<f32> {
    let mut features = KaldiFeatures::new(Arc::new(KaldiBank::new(80).expect("80 filters")));
    let mut frames = Vec::new();
    samples.chunks(step.max(1)).for_each(|piece| features.push(piece, &mut frames));
    features.finish(&mut frames);
    frames
}

fn options(case: &Json) -> SearchOptions {
    let options = &case["options"];
    let beam = options["decoding_method"] == "modified_beam_search";
    let paths = if beam { options["max_active_paths"].as_u64().expect("a number") as usize } else { 1 };
    SearchOptions { paths, blank_penalty: options["blank_penalty"].as_f64().unwrap_or(0.0) as f32, unknown: symbols().unknown() }
}

/// The hotwords of a case: letter by letter, as `ai/parity/transducer.py` has them.
fn hotwords(case: &Json) -> Option<Arc<HotwordGraph>> {
    let usual = case["options"]["hotwords_score"].as_f64()? as f32;
    let (ids, symbols) = (["是有大", "大我", "上我"], symbols());
    let spelled = |word: &str| word.chars().map(|letter| symbols.by_text()[letter.to_string().as_str()]).collect::<Vec<_>>();
    let phrases: Vec<(Vec<usize>, f32)> = ids.iter().zip([2.5, usual, 3.0]).map(|(word, boost)| (spelled(word), boost)).collect();
    Some(Arc::new(HotwordGraph::new(&phrases)))
}

/// Tokens as sherpa-onnx writes them.
fn written(found: &[Found], symbols: &Symbols) -> Vec<String> {
    found.iter().map(|found| symbols.get(found.token).replace('\u{2581}', " ")).collect()
}

fn agrees(found: &[Found], answer: &Json, symbols: &Symbols, context: &str) {
    let tokens: Vec<&str> = answer["tokens"].as_array().expect("tokens").iter().map(|token| token.as_str().expect("a token")).collect();
    assert_eq!(written(found, symbols), tokens, "{context}");
    for (found, at) in found.iter().zip(answer["timestamps"].as_array().expect("times")) {
        let seconds = found.frame as f64 * 0.04;
        assert!((seconds - at.as_f64().expect("seconds")).abs() < 1e-3, "{context}: {seconds} of {at}");
    }
    if let Some(probs) = answer["probs"].as_array().filter(|probs| !probs.is_empty()) {
        for (found, prob) in found.iter().zip(probs) {
            assert!((f64::from(found.log_prob) - prob.as_f64().expect("a number")).abs() < 1e-3, "{context}: {} of {prob}", found.log_prob);
        }
    }
}

/// What sherpa-onnx does with a stream: a chunk as soon as more frames than its window are there; silence at the end.
fn stream(
    encoder: &mut StreamingEncoder,
    joint: &mut Joint,
    frames: &[f32],
    options: SearchOptions,
    hotwords: Option<Arc<HotwordGraph>>,
) -> Vec<Found> {
    let EncoderSpec { window, chunk, n_mels } = encoder.spec();
    let (mut state, mut search, mut at) = (encoder.new_state(), Search::new(options, joint.context()).with_hotwords(hotwords), 0);
    while at + window < frames.len() / n_mels {
        let out = encoder.run(&mut [(&frames[at * n_mels..(at + window) * n_mels], &mut state)]).expect("it runs").remove(0);
        let dimension = out.len() / (chunk / 4);
        Search::advance(joint, &mut [(&mut search, &out)], dimension).expect("it runs");
        at += chunk;
    }
    search.best().to_vec()
}

fn load(runtime: &dyn Runtime) -> (StreamingEncoder, Joint) {
    let file_ = file("streaming", "encoder");
    let spec = EncoderSpec::read(&file_).expect("its metadata can be read").expect("it streams");
    let encoder = StreamingEncoder::load(runtime, &file_, spec, "encoder_out").expect("it loads");
    let joint = Joint::load(runtime, &file("streaming", "decoder"), &file("streaming", "joiner"), symbols().len()).expect("it loads");
    (encoder, joint)
}

#[test]
fn the_filterbank_is_kaldis_whatever_the_pieces() {
    for (name, case) in expected()["features"].as_object().expect("sounds") {
        for step in [usize::MAX, 160, 37, 4_001] {
            let found = features(&sound(name), step.min(1 << 20));
            assert_eq!(found.len() / 80, case["frames"].as_u64().expect("a number") as usize, "{name} in steps of {step}");
            for (row, frame) in case["values"].as_array().expect("frames").iter().zip(found.chunks_exact(80).step_by(25)) {
                for (value, own) in row.as_array().expect("values").iter().zip(frame) {
                    let value = value.as_f64().expect("a number");
                    // The reference writes five digits; what is 16 in 1,000 of nothing is rounding.
                    assert!((value - f64::from(*own)).abs() < 1e-4 * value.abs().max(1.0), "{name} in steps of {step}: {own} of {value}");
                }
            }
        }
    }
}

#[test]
fn a_streaming_transducer_finds_the_same_tokens_at_the_same_times() {
    let (symbols, mut compared) = (symbols(), 0);
    for (index, runtime) in [Box::new(onnxruntime()) as Box<dyn Runtime>, Box::new(Rten::default())].into_iter().enumerate() {
        let (mut encoder, mut joint) = load(&*runtime);
        for case in expected()["streaming"].as_array().expect("cases") {
            let name = case["sound"].as_str().expect("a name");
            let mut samples = sound(name);
            samples.extend(vec![0.0; (case["tail"].as_f64().expect("seconds") * RATE) as usize]);
            let found = stream(&mut encoder, &mut joint, &features(&samples, 3_200), options(case), hotwords(case));
            agrees(&found, &case["segments"][0], &symbols, &format!("{name}, {}, engine {index}", case["options"]));
            compared += found.len();
        }
    }
    assert!(compared > 1_500, "{compared} tokens");
}

#[test]
fn an_offline_transducer_finds_the_same_tokens_at_the_same_times() {
    let (symbols, runtime) = (symbols(), onnxruntime());
    let mut encoder = runtime.load(&file("offline", "encoder")).expect("it loads");
    let mut joint = Joint::load(&runtime, &file("offline", "decoder"), &file("offline", "joiner"), symbols.len()).expect("it loads");
    for case in expected()["offline"].as_array().expect("cases") {
        let name = case["sound"].as_str().expect("a name");
        let frames = features(&sound(name), 1 << 20);
        let count = frames.len() / 80;
        let inputs = vec![("x", Tensor::f32([1, count, 80], frames).into()), ("x_lens", Tensor::i64([1], vec![count as i64]).into())];
        let out = encoder.run(inputs, &["encoder_out"]).expect("it runs").remove(0);
        let dimension = out.shape()[2];
        let mut search = Search::new(options(case), joint.context()).with_hotwords(hotwords(case));
        Search::advance(&mut joint, &mut [(&mut search, &out.f32().expect("floats"))], dimension).expect("it runs");
        search.finish();
        agrees(search.best(), case, &symbols, &format!("{name}, {}", case["options"]));
    }
}

#[test]
fn ctc_networks_find_the_same_tokens_at_the_same_times() {
    let (symbols, runtime) = (symbols(), onnxruntime());
    let model = |kind: &str| ModelFile::new(std::fs::read(folder().join(kind).join("model.onnx")).expect("the fixture is there"));
    let streaming = model("streaming-ctc");
    let spec = EncoderSpec::read(&streaming).expect("its metadata can be read").expect("it streams");
    let mut encoder = StreamingEncoder::load(&runtime, &streaming, spec, "log_probs").expect("it loads");
    let EncoderSpec { window, chunk, n_mels } = spec;
    for case in expected()["streaming-ctc"].as_array().expect("cases") {
        let name = case["sound"].as_str().expect("a name");
        let mut samples = sound(name);
        samples.extend(vec![0.0; (case["tail"].as_f64().expect("seconds") * RATE) as usize]);
        let frames = features(&samples, 3_200);
        let (mut state, mut search, mut at) = (encoder.new_state(), CtcSearch::new(symbols.blank()), 0);
        while at + window < frames.len() / n_mels {
            let out = encoder.run(&mut [(&frames[at * n_mels..(at + window) * n_mels], &mut state)]).expect("it runs").remove(0);
            search.advance(&out, symbols.len());
            at += chunk;
        }
        agrees(search.found(), &case["segments"][0], &symbols, &format!("streaming {name}"));
    }
    let mut encoder = runtime.load(&model("offline-ctc")).expect("it loads");
    for case in expected()["offline-ctc"].as_array().expect("cases") {
        let name = case["sound"].as_str().expect("a name");
        let frames = features(&sound(name), 1 << 20);
        let count = frames.len() / 80;
        let inputs = vec![("x", Tensor::f32([1, count, 80], frames).into()), ("x_lens", Tensor::i64([1], vec![count as i64]).into())];
        let out = encoder.run(inputs, &["log_probs"]).expect("it runs").remove(0);
        let mut search = CtcSearch::new(symbols.blank());
        search.advance(&out.f32().expect("floats"), symbols.len());
        agrees(search.found(), case, &symbols, &format!("offline {name}"));
    }
}

#[test]
fn streams_in_one_batch_are_as_alone() {
    let (mut encoder, mut joint) = load(&onnxruntime());
    let EncoderSpec { window, chunk, n_mels } = encoder.spec();
    let options = SearchOptions { paths: 4, blank_penalty: 0.0, unknown: None };
    let sounds: Vec<Vec<f32>> = ["speech", "noise", "loud"].map(|name| features(&sound(name)[..20_000], 1 << 20)).into();
    let alone: Vec<Vec<Found>> = sounds.iter().map(|frames| stream(&mut encoder, &mut joint, frames, options, None)).collect();
    let mut states: Vec<_> = sounds.iter().map(|_| encoder.new_state()).collect();
    let mut searches: Vec<Search> = sounds.iter().map(|_| Search::new(options, joint.context())).collect();
    let mut at = 0;
    while at + window < sounds[0].len() / n_mels {
        let mut batch: Vec<_> =
            sounds.iter().zip(&mut states).map(|(frames, state)| (&frames[at * n_mels..(at + window) * n_mels], state)).collect();
        let out = encoder.run(&mut batch).expect("it runs");
        let dimension = out[0].len() / (chunk / 4);
        let mut together: Vec<_> = searches.iter_mut().zip(&out).map(|(search, frames)| (search, frames.as_slice())).collect();
        Search::advance(&mut joint, &mut together, dimension).expect("it runs");
        at += chunk;
    }
    for (search, alone) in searches.iter().zip(&alone) {
        let tokens = |found: &[Found]| found.iter().map(|found| (found.token, found.frame)).collect::<Vec<_>>();
        assert_eq!(tokens(search.best()), tokens(alone));
        assert!(search.agreed() <= search.best().len());
    }
}

#[test]
fn the_engine_opens_such_packs_and_hears_with_them() {
    use auralink_ai::pack::PackSource;
    use auralink_ai::scheduler::{Engine, EngineConfig, Source};
    use auralink_ai::session::{SessionConfig, SpeechEvent};
    for kind in ["streaming", "offline", "streaming-ctc", "offline-ctc"] {
        let config = EngineConfig { pack: PackSource::Folder(folder().join(kind)), ..EngineConfig::default() };
        let engine = Engine::start(config).expect("it starts");
        let (events, heard) = std::sync::mpsc::channel();
        let sink = Box::new(move |event| drop(events.send(event)));
        let stream = engine.open(SessionConfig::default(), Source::Pcm { rate: 16_000 }, sink).expect("there is room");
        for piece in sound("speech").chunks(1_600) {
            while !stream.push_pcm(piece) {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        stream.finish();
        let events: Vec<SpeechEvent> = heard.iter().collect();
        let mut committed = String::new();
        for event in &events {
            match event {
                SpeechEvent::Interim { text, committed_chars, .. } => {
                    let now: String = text.chars().take(*committed_chars).collect();
                    assert!(now.starts_with(&committed), "{kind}: {committed:?} became {now:?}");
                    committed = now;
                }
                SpeechEvent::Final { text, words, start, end, .. } => {
                    assert!(text.starts_with(&committed) && words.len() > 5 && start < end, "{kind}: {text}");
                    committed.clear();
                }
                SpeechEvent::Degraded { .. } => panic!("{kind}: {event:?}"),
                _ => {}
            }
        }
        assert!(matches!(events.last(), Some(SpeechEvent::TurnEnded { .. })), "{kind}: {:?}", events.last());
    }
}

#[test]
fn the_engine_listens_for_hotwords() {
    use auralink_ai::pack::{PackSource, open_speech};
    use auralink_ai::recogniser::{Due, Hotword, UtteranceOptions};
    for kind in ["streaming", "offline"] {
        let pack = open_speech(&PackSource::Folder(folder().join(kind))).expect("it opens");
        assert!(pack.abilities().hotwords);
        let mut recogniser = pack.load(&onnxruntime()).expect("it loads");
        let mut hear = |hotwords: Vec<Hotword>| {
            let mut utterance = pack.clone().begin(&UtteranceOptions { hotwords, ..UtteranceOptions::default() });
            utterance.push_audio(&sound("speech"));
            utterance.close(auralink_ai::audio::Samples(sound("speech").len() as u64));
            while utterance.due() != Due::Later {
                recogniser.run(&mut [&mut *utterance]).expect("it runs");
            }
            utterance.finish().words.iter().map(|word| word.text.as_str()).collect::<String>()
        };
        let word = |boost| Hotword { text: "国".into(), boost };
        let (without, with) = (hear(vec![]), hear(vec![word(8.0)]));
        // The offline network never thinks of it at all.
        let more = with.matches('国').count() > without.matches('国').count();
        assert_eq!(more, kind == "streaming", "{kind}: {without} and {with}");
        assert_eq!(hear(vec![word(0.0)]), without, "{kind}: one that adds nothing changes nothing");
    }
}

#[test]
fn a_pack_that_does_not_fit_is_refused_in_words() {
    use auralink_ai::pack::{PackSource, open_speech};
    let refusal = |kind: &str, change: &dyn Fn(&Path)| {
        let copy = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(folder().join(kind)).expect("the pack").map(|entry| entry.expect("a file")) {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("it is copied");
        }
        change(copy.path());
        match open_speech(&PackSource::Folder(copy.path().to_owned())) {
            Err(error) => error.to_string(),
            Ok(pack) => pack.load(&onnxruntime()).err().map_or_else(|| "it was taken".to_owned(), |error| error.to_string()),
        }
    };
    let named = |folder: &Path, part: &str| {
        let mut entries = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("a file").path());
        entries.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(part))).expect("it is there")
    };
    type Change<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Change<'_>, &str); 12] = [
        ("streaming", &|folder| std::fs::remove_file(named(folder, "encoder")).expect("removed"), "encoder*.onnx"),
        ("offline", &|folder| std::fs::remove_file(named(folder, "decoder")).expect("removed"), "decoder*.onnx"),
        ("streaming", &|folder| std::fs::write(named(folder, "joiner"), b"no model").expect("written"), "cannot load the model"),
        ("streaming", &|folder| std::fs::write(folder.join("tokens.txt"), "<blk> 0\na 1\n").expect("written"), "another model's"),
        ("streaming", &|folder| std::fs::write(folder.join("tokens.txt"), "<blk> 0\na 7\n").expect("written"), "tokens.txt"),
        (
            "streaming",
            &|folder| drop(std::fs::copy(named(folder, "joiner"), named(folder, "decoder")).map(|_| String::new())),
            "context_size",
        ),
        (
            "offline",
            &|folder| drop(std::fs::copy(named(folder, "decoder"), named(folder, "joiner")).map(|_| String::new())),
            "`encoder_out`",
        ),
        (
            "offline",
            &|folder| drop(std::fs::copy(named(folder, "joiner"), named(folder, "encoder")).map(|_| String::new())),
            "`encoder_out`",
        ),
        ("offline-ctc", &|folder| std::fs::write(folder.join("tokens.txt"), "<blk> 0\na 1\n").expect("written"), "another model's"),
        ("streaming-ctc", &|folder| std::fs::write(folder.join("tokens.txt"), "<blk> 0\na 1\n").expect("written"), "another model's"),
        ("offline-ctc", &|folder| std::fs::remove_file(named(folder, "model")).expect("removed"), "model*.onnx"),
        (
            "offline-ctc",
            &|at| drop(std::fs::copy(named(&folder().join("offline"), "joiner"), named(at, "model")).map(|_| String::new())),
            "model_type",
        ),
    ];
    for (kind, change, word) in cases {
        let message = refusal(kind, change);
        assert!(message.contains(word), "{word} in: {message}");
    }
}
