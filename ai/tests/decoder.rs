//! The decoders on log-probabilities made by hand: what CTC merges, what the lexicon and the language model decide, what is
//! committed and when.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests read files and the clock")]

use std::sync::Arc;

use auralink_ai::decoder::language_model::LanguageModel;
use auralink_ai::decoder::lexicon::{Lexicon, WordId};
use auralink_ai::decoder::{BeamSpec, Decoder, DecoderSpec};
use auralink_ai::recogniser::Hotword;
use proptest::prelude::*;

const TOKENS: [&str; 6] = ["<blank>", "\u{2581}", "a", "b", "c", "ab"];
const WORDS: [(&str, &[usize]); 4] = [("ab", &[5]), ("ba", &[3, 2]), ("cab", &[4, 5]), ("a", &[2])];

/// A model file with one bigram: after `ba`, `cab` is likely; every word alone has the same probability.
fn language_model() -> Vec<u8> {
    let size = WORDS.len() + 2;
    let mut file = b"AURALM01".to_vec();
    let u32s = |values: &[u32], file: &mut Vec<u8>| values.iter().for_each(|value| file.extend(value.to_le_bytes()));
    u32s(&[size as u32, 1, 0], &mut file);
    (0..size).for_each(|_| file.extend((-2_000_i16).to_le_bytes()));
    (0..size).for_each(|_| file.extend((-100_i16).to_le_bytes()));
    u32s(&[0, 0, 1, 1, 1, 1, 1], &mut file);
    file.extend(2_u16.to_le_bytes());
    file.extend((-50_i16).to_le_bytes());
    file.extend(0_i16.to_le_bytes());
    u32s(&[0, 0], &mut file);
    file
}

fn spec() -> Arc<DecoderSpec> {
    let entries = WORDS.iter().map(|(word, spelling)| ((*word).to_owned(), spelling.to_vec())).collect();
    let lexicon = Lexicon::new(entries).expect("every word is spelled");
    let language_model = LanguageModel::read(&language_model(), lexicon.len()).expect("the file is whole");
    Arc::new(DecoderSpec {
        tokens: TOKENS.map(str::to_owned).to_vec(),
        blank: 0,
        word_end: 1,
        beam: Some(BeamSpec {
            lexicon,
            language_model,
            width: 16,
            beam_threshold: 14.0,
            token_threshold: -9.0,
            lm_weight: 0.5,
            word_bonus: 1.0,
            unknown_penalty: -8.0,
        }),
        settle_frames: 8,
    })
}

/// Frames in which the given tokens have 0.9 and all others share the rest.
fn frames(tokens: &[usize]) -> Vec<f32> {
    let others = (0.1_f32 / (TOKENS.len() - 1) as f32).ln();
    let frame = |&best: &usize| (0..TOKENS.len()).map(move |token| if token == best { 0.9_f32.ln() } else { others });
    tokens.iter().flat_map(frame).collect()
}

fn texts(hypothesis: &auralink_ai::decoder::Hypothesis) -> Vec<&str> {
    hypothesis.words.iter().map(|word| word.text.as_str()).collect()
}

#[test]
fn repetitions_merge_and_blanks_separate() {
    let mut decoder = Decoder::greedy(spec());
    decoder.push(&frames(&[0, 2, 2, 0, 2, 1, 1, 0, 3, 3, 1, 0]));
    let read = decoder.finish();
    assert_eq!(texts(&read), ["aa", "b"]);
    assert_eq!((read.words[0].start, read.words[0].end), (1, 5));
    assert!((read.words[0].confidence - 0.9).abs() < 0.01);
}

#[test]
fn an_unfinished_word_is_shown_and_not_committed() {
    let mut decoder = Decoder::greedy(spec());
    decoder.push(&frames(&[2, 1, 3]));
    let hypothesis = decoder.hypothesis();
    assert_eq!((texts(&hypothesis), hypothesis.committed), (vec!["a", "b"], 1));
}

#[test]
fn the_beam_reads_words_of_the_lexicon() {
    let mut decoder = Decoder::new(spec());
    decoder.push(&frames(&[0, 3, 0, 2, 1, 0, 5, 5, 1, 0]));
    assert_eq!(texts(&decoder.finish()), ["ba", "ab"]);
}

#[test]
fn the_language_model_decides_between_readings() {
    // `c` and blank before `ab` are equally likely: `cab` or `ab`. After `ba` the model expects `cab`.
    let unclear = |after: &[usize]| {
        let mut log_probs = frames(after);
        let mut frame = frames(&[0]);
        frame[0] = 0.45_f32.ln();
        frame[4] = 0.45_f32.ln();
        log_probs.extend(frame);
        log_probs.extend(frames(&[5, 1]));
        let mut decoder = Decoder::new(spec());
        decoder.push(&log_probs);
        texts(&decoder.finish()).join(" ")
    };
    assert_eq!(unclear(&[3, 2, 1]), "ba cab");
}

#[test]
fn a_clear_word_outside_the_lexicon_is_read_all_the_same() {
    let mut decoder = Decoder::new(spec());
    decoder.push(&frames(&[3, 4, 2, 4, 3, 1]));
    assert_eq!(texts(&decoder.finish()), ["bcacb"]);
}

#[test]
fn a_finished_word_is_committed_within_its_settling_time() {
    let mut decoder = Decoder::new(spec());
    decoder.push(&frames(&[3, 2, 1]));
    decoder.push(&frames(&[0; 8]));
    let hypothesis = decoder.hypothesis();
    assert_eq!((texts(&hypothesis), hypothesis.committed), (vec!["ba"], 1));
}

#[test]
fn a_language_model_that_is_damaged_is_refused() {
    let whole = language_model();
    assert!(LanguageModel::read(&whole, WORDS.len()).is_ok());
    assert!(LanguageModel::read(&whole, WORDS.len() + 1).expect_err("another lexicon").contains("words"));
    for cut in 0..whole.len() {
        assert!(LanguageModel::read(&whole[..cut], WORDS.len()).is_err(), "cut at {cut}");
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert!(LanguageModel::read(&longer, WORDS.len()).is_err());
    // The first entry of the bigram index: behind the header and two arrays of 16-bit values.
    let mut descending = whole;
    descending[8 + 12 + 4 * (WORDS.len() + 2)] = 9;
    assert!(LanguageModel::read(&descending, WORDS.len()).expect_err("the index is wrong").contains("ascending"));
}

#[test]
fn the_model_backs_off_as_its_format_says() {
    let model = LanguageModel::read(&language_model(), WORDS.len()).expect("the file is whole");
    let (ba, cab, a) = (Some(WordId(1)), WordId(2), WordId(3));
    assert_eq!(model.log_prob([None, ba], cab), -0.05);
    assert_eq!(model.log_prob([None, ba], a), -2.1);
    assert_eq!(model.log_prob([ba, None], cab), -2.0);
}

proptest! {
    #[test]
    fn whatever_is_heard_committed_words_stay(
        chunks in prop::collection::vec(prop::collection::vec(-12.0_f32..0.0, 4 * TOKENS.len()), 1..20),
        greedy in any::<bool>(),
    ) {
        let mut decoder = if greedy { Decoder::greedy(spec()) } else { Decoder::new(spec()) };
        let mut committed: Vec<String> = Vec::new();
        for chunk in &chunks {
            decoder.push(chunk);
            let hypothesis = decoder.hypothesis();
            prop_assert!(hypothesis.committed <= hypothesis.words.len());
            let now: Vec<String> = hypothesis.words[..hypothesis.committed].iter().map(|word| word.text.clone()).collect();
            prop_assert!(now.starts_with(&committed), "{committed:?} became {now:?}");
            committed = now;
        }
        let read = decoder.finish();
        let words: Vec<String> = read.words.iter().map(|word| word.text.clone()).collect();
        prop_assert!(words.starts_with(&committed), "{committed:?} became {words:?}");
        prop_assert!(read.words.iter().all(|word| word.start <= word.end && word.confidence <= 1.0));
    }
}

/// Frames of given probabilities; what is left is shared by the other tokens.
fn unsure(frames: &[&[(usize, f32)]]) -> Vec<f32> {
    let frame = |known: &&[(usize, f32)]| {
        let left = 1.0 - known.iter().map(|(_, probability)| probability).sum::<f32>();
        let others = left / (TOKENS.len() - known.len()) as f32;
        let of = |token: usize| known.iter().find(|(own, _)| *own == token).map_or(others, |(_, probability)| *probability);
        (0..TOKENS.len()).map(|token| of(token).ln()).collect::<Vec<_>>()
    };
    frames.iter().flat_map(frame).collect()
}

fn heard(log_probs: &[f32], hotwords: &[(&str, f32)]) -> String {
    let hotwords: Vec<Hotword> = hotwords.iter().map(|(text, boost)| Hotword { text: (*text).to_owned(), boost: *boost }).collect();
    let mut decoder = Decoder::with_hotwords(spec(), &hotwords);
    decoder.push(log_probs);
    decoder.finish().words.into_iter().map(|word| word.text).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_hotword_is_found_though_no_lexicon_has_it_and_is_no_part_of_another_word() {
    // `ba` or `bc`: the lexicon has the first alone.
    let either = unsure(&[&[(3, 0.9)], &[(2, 0.3), (4, 0.6)], &[(1, 0.9)]]);
    assert_eq!(heard(&either, &[]), "ba");
    assert_eq!(heard(&either, &[("BC", 1.5)]), "bc");
    assert_eq!(heard(&either, &[("bc", 0.0)]), "ba");
    // One that breaks off has no say: `bcc` was not said.
    assert_eq!(heard(&either, &[("bcc", 1.5)]), "ba");
    // In a phrase each word counts, and a phrase that goes on otherwise does not.
    let two = [either.clone(), unsure(&[&[(2, 0.9)], &[(1, 0.9)]])].concat();
    assert_eq!(heard(&two, &[("bc a", 1.5)]), "bc a");
    assert_eq!(heard(&two, &[("bc cab", 0.2)]), "ba a");
    assert_eq!(heard(&either, &[("bc ab", 1.5)]), "ba", "it ends before its second word");
    // What cannot be spelled in the pack's letters is left out.
    assert_eq!(heard(&either, &[("zebra", 5.0), ("", 5.0)]), "ba");
}

#[test]
fn hotwords_in_the_lexicon_are_likelier_too() {
    let either = unsure(&[&[(3, 0.5), (4, 0.4)], &[(2, 0.9)], &[(1, 0.9)]]);
    assert_eq!(heard(&either, &[]), "ba");
    assert_eq!(heard(&either, &[("ca", 3.0)]), "ca");
    assert_eq!(heard(&frames(&[5, 1, 3, 2, 1]), &[("ba", 2.0), ("ab", 2.0)]), "ab ba");
}
