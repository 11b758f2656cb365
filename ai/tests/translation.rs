//! The translation pool over packs of random weights: order, batches, limits, and which pairs there are.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use auralink_ai::pack::{TranslationPack, onnxruntime_candidates};
use auralink_ai::runtime::{RuntimeChoice, open};
use auralink_ai::translation::{MAX_TEXT_CHARS, Pair, TranslationConfig, TranslationEngine, TranslationError};

fn pack(family: &str) -> Arc<TranslationPack> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/translation").join(family);
    Arc::new(TranslationPack::open(&folder).expect("the pack opens"))
}

fn engine(families: &[&str], threads: usize) -> TranslationEngine {
    let (runtime, _) = open(&RuntimeChoice::OnnxRuntime(None), &onnxruntime_candidates(None)).expect("`make setup` installs ONNX Runtime");
    let packs = families.iter().map(|family| pack(family)).collect();
    TranslationEngine::start(packs, &runtime, TranslationConfig { threads, nice: 0 }).expect("it starts")
}

#[test]
fn texts_come_back_in_order_and_what_else_is_asked_changes_nothing() {
    let engine = engine(&["marian"], 2);
    let pair = Pair::new("en-GB", "de-AT");
    let texts: Vec<String> = (0..40).map(|n| if n % 5 == 0 { " ".to_owned() } else { format!("the captain opens door {n}") }).collect();
    let together = engine.translate(&texts, &pair).expect("it translates");
    for (text, translation) in texts.iter().zip(&together).step_by(3) {
        assert_eq!(&engine.translate(std::slice::from_ref(text), &pair).expect("it translates")[0], translation, "{text}");
        assert_eq!(text.trim().is_empty(), translation.is_empty());
    }
    assert!(engine.stats().runs < engine.stats().texts, "those that wait are one batch: {:?}", engine.stats());
    assert!(engine.translate(&[], &pair).expect("nothing").is_empty());
}

#[test]
fn pairs_are_known_by_their_languages() {
    let engine = engine(&["marian", "m2m100", "nllb"], 1);
    for (from, to, known) in [
        ("en", "fr-CA", true),
        ("eng", "deu", true),
        ("fr", "ja", true),
        ("zh-Hans", "sw", true),
        ("en", "en-US", false),
        ("en", "tlh", false),
    ] {
        assert_eq!(engine.translates(&Pair::new(from, to)), known, "{from} to {to}");
    }
    assert_eq!(pack("marian").targets("en"), ["de", "fr", "ja"]);
    assert!(pack("marian").targets("ja").is_empty());
    let targets = engine.targets("en");
    assert!(targets.len() > 95 && targets.windows(2).all(|two| two[0] < two[1]) && !targets.contains(&"en".to_owned()), "{targets:?}");
    assert!(engine.pairs().starts_with("en to de, fr, ja; any of 100 languages; any of "), "{}", engine.pairs());
}

#[test]
fn what_cannot_be_is_refused_at_once() {
    let engine = engine(&["marian"], 1);
    let refusal = |text: &str, from: &str, to: &str| {
        engine.translate(&[text.to_owned()], &Pair::new(from, to)).expect_err("it is refused").to_string()
    };
    let message = refusal("x", "de", "en");
    assert!(message.contains("`de` to `en`") && message.contains("en to de, fr, ja"), "{message}");
    assert!(refusal(&"x".repeat(MAX_TEXT_CHARS + 1), "en", "de").contains("2001 characters"));
    let message = refusal(&"a, ".repeat(MAX_TEXT_CHARS / 3), "en", "de");
    assert!(message.contains("tokens") && message.contains("sentence by sentence"), "{message}");
    assert_eq!(engine.stats().failures, 1);
    // The thread is held in the first sink, so the queue fills.
    let (hold, held) = sync_channel::<()>(0);
    let submit = |sink| engine.submit("x".into(), Pair::new("en", "de"), sink);
    submit(Box::new(move |_| held.recv().unwrap_or_default())).expect("there is room");
    let mut taken = 0;
    let error = loop {
        match submit(Box::new(|_| ())) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken <= 2_000, "the queue has a limit");
    };
    assert!(matches!(error, TranslationError::Busy) && engine.stats().refused == 1);
    drop(hold);
    assert!(
        !engine.translate(&["my sister".to_owned()], &Pair::new("en", "fr")).map_or(true, |texts| texts[0].is_empty())
            || engine.stats().refused > 1
    );
}
