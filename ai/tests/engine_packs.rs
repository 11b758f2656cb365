//! Packs of other families behind the engine: what they commit is never taken back, every segment is closed, and their abilities are told.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests read files and wait")]

use std::path::Path;
use std::time::Duration;

use auralink_ai::audio::file::FileDecoder;
use auralink_ai::pack::PackSource;
use auralink_ai::recogniser::Hotword;
use auralink_ai::scheduler::{Engine, EngineConfig, EngineError, Source};
use auralink_ai::session::{SessionConfig, SpeechEvent};

fn speech() -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packs/en-demo/golden.wav");
    let file = std::fs::File::open(path).expect("the golden utterance is committed");
    let mut decoder = FileDecoder::open(file, "golden.wav", 16_000).expect("it is a WAV file");
    let mut samples = Vec::new();
    while decoder.read(&mut samples).expect("it is whole") {}
    samples
}

fn engine(folder: &Path) -> Engine {
    Engine::start(EngineConfig { pack: PackSource::Folder(folder.to_owned()), ..EngineConfig::default() }).expect("it starts")
}

fn whisper() -> Engine {
    engine(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/whisper"))
}

/// The pack with a decoder that gives attention: words are committed by it.
fn attentive_whisper() -> Engine {
    let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/whisper"), tempfile::tempdir().expect("a folder"));
    for name in ["config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json", "encoder_model.onnx"] {
        std::fs::copy(from.join(name), to.path().join(name)).expect("the fixture is there");
    }
    let decoder = "decoder_model_merged.onnx";
    std::fs::copy(from.join("attentions").join(decoder), to.path().join(decoder)).expect("the fixture is there");
    engine(to.path())
}

fn hear(engine: &Engine, config: SessionConfig) -> Vec<SpeechEvent> {
    let (events, heard) = std::sync::mpsc::channel();
    let sink = Box::new(move |event| drop(events.send(event)));
    let stream = engine.open(config, Source::Pcm { rate: 16_000 }, sink).expect("there is room");
    for piece in speech().chunks(1_600) {
        while !stream.push_pcm(piece) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    stream.finish();
    heard.iter().collect()
}

#[test]
fn whisper_hears_and_takes_nothing_back() {
    takes_nothing_back(&whisper());
}

#[test]
fn whisper_that_gives_attention_hears_and_takes_nothing_back() {
    takes_nothing_back(&attentive_whisper());
}

fn takes_nothing_back(engine: &Engine) {
    assert!(engine.abilities().detects_language && engine.abilities().translate && engine.languages().len() > 90);
    let hotwords = vec![Hotword { text: "harbour".into(), boost: 1.5 }];
    for config in [
        SessionConfig::default(),
        SessionConfig { language: "de-AT".into(), ..SessionConfig::default() },
        SessionConfig { translate: true, hotwords, context: "our neighbour".into(), ..SessionConfig::default() },
    ] {
        let events = hear(engine, config.clone());
        let mut committed = String::new();
        let mut finals = 0;
        for event in &events {
            match event {
                SpeechEvent::Interim { text, committed_chars, .. } => {
                    let now: String = text.chars().take(*committed_chars).collect();
                    assert!(now.starts_with(&committed), "{committed:?} became {now:?}");
                    committed = now;
                }
                SpeechEvent::Final { text, words, start, end, language, .. } => {
                    assert!(text.starts_with(&committed) && !words.is_empty() && start <= end, "{text}");
                    assert!(words.windows(2).all(|pair| pair[0].start <= pair[1].start), "{words:?}");
                    assert!(!language.is_empty() && (config.language.is_empty() || language == "de"), "{language}");
                    committed.clear();
                    finals += 1;
                }
                SpeechEvent::Degraded { .. } => panic!("{event:?}"),
                _ => {}
            }
        }
        assert!(finals > 0 && matches!(events.last(), Some(SpeechEvent::TurnEnded { .. })), "{events:?}");
    }
}

#[test]
fn moonshine_hears_and_takes_nothing_back() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/moonshine");
    let engine = Engine::start(EngineConfig { pack: PackSource::Folder(folder), ..EngineConfig::default() }).expect("it starts");
    assert_eq!(engine.languages(), ["en"]);
    let events = hear(&engine, SessionConfig::default());
    let mut committed = String::new();
    for event in &events {
        match event {
            SpeechEvent::Interim { text, committed_chars, .. } => {
                let now: String = text.chars().take(*committed_chars).collect();
                assert!(now.starts_with(&committed), "{committed:?} became {now:?}");
                committed = now;
            }
            SpeechEvent::Final { text, words, .. } => {
                assert!(text.starts_with(&committed) && words.windows(2).all(|pair| pair[0].start <= pair[1].start), "{text}");
                committed.clear();
            }
            SpeechEvent::Degraded { .. } => panic!("{event:?}"),
            _ => {}
        }
    }
    let said = |event: &SpeechEvent| matches!(event, SpeechEvent::Final { text, .. } if !text.is_empty());
    assert!(events.iter().any(said) && matches!(events.last(), Some(SpeechEvent::TurnEnded { .. })), "{events:?}");
}

#[test]
fn a_language_that_does_not_exist_is_refused() {
    let engine = whisper();
    let config = SessionConfig { language: "tlh".into(), ..SessionConfig::default() };
    let error = engine.open(config, Source::Pcm { rate: 16_000 }, Box::new(|_| ())).err().expect("it is none of Whisper's");
    assert!(matches!(error, EngineError::Language { .. }) && error.to_string().contains("`tlh`"), "{error}");
}

#[test]
fn a_folder_of_no_known_layout_names_those_that_are() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("model.gguf"), b"GGUF").expect("it can be written");
    let refusal = |config: &str| {
        if !config.is_empty() {
            std::fs::write(folder.path().join("config.json"), config).expect("it can be written");
        }
        let config = EngineConfig { pack: PackSource::Folder(folder.path().to_owned()), ..EngineConfig::default() };
        Engine::start(config).err().expect("there is no pack").to_string()
    };
    let message = refusal("");
    assert!(["manifest.json", "tokens.txt", "config.json", "sherpa-onnx"].iter().all(|word| message.contains(word)), "{message}");
    let message = refusal(r#"{"model_type": "llama"}"#);
    assert!(message.contains("config.json") && message.contains("`llama`") && message.contains("whisper and moonshine"), "{message}");
}
