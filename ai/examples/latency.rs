//! How late words and segments are, in the session's own time: sound files with known word times are streamed in 20 ms steps.
//!
//!     cargo run --release -p auralink-ai --example latency LIST.json [PACK_FOLDER]
//!
//! LIST.json: `[{"file": "a.wav", "end_ms": 1900, "words": [{"text": "hello", "end_ms": 420}, ...]}, ...]`. Computing time is not
//! counted here (`streams` measures it); what the network, the chunks, the detector and the commit rule take is.

#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::sync::Arc;

use auralink_ai::audio::Samples;
use auralink_ai::audio::file::FileDecoder;
use auralink_ai::pack::{Pack, PackSource, onnxruntime_candidates, open_silero};
use auralink_ai::runtime::{RuntimeChoice, open};
use auralink_ai::session::models::SpeechModels;
use auralink_ai::session::{SessionConfig, SpeechEvent, StreamSession};
use serde::Deserialize;

#[derive(Deserialize)]
struct Utterance {
    file: String,
    end_ms: u64,
    words: Vec<Spoken>,
}

#[derive(Deserialize)]
struct Spoken {
    text: String,
    end_ms: u64,
}

/// Silence before and after each file.
const BEFORE_MS: u64 = 600;
const AFTER_MS: u64 = 2_000;

fn percentile(values: &mut [i64], percent: usize) -> i64 {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

/// Edits that turn `reference` into `heard` (Levenshtein), and for each reference word the heard word that it is.
fn align(reference: &[&str], heard: &[&str]) -> (usize, Vec<Option<usize>>) {
    let (rows, columns) = (reference.len() + 1, heard.len() + 1);
    let mut cost = vec![vec![0; columns]; rows];
    for row in 0..rows {
        for column in 0..columns {
            cost[row][column] = match (row, column) {
                (0, _) => column,
                (_, 0) => row,
                _ => {
                    let substitute = cost[row - 1][column - 1] + usize::from(reference[row - 1] != heard[column - 1]);
                    substitute.min(cost[row - 1][column] + 1).min(cost[row][column - 1] + 1)
                }
            };
        }
    }
    let (mut row, mut column, mut same) = (rows - 1, columns - 1, vec![None; reference.len()]);
    while row > 0 && column > 0 {
        let equal = reference[row - 1] == heard[column - 1];
        if cost[row][column] == cost[row - 1][column - 1] + usize::from(!equal) {
            (row, column) = (row - 1, column - 1);
            same[row] = equal.then_some(column);
        } else if cost[row][column] == cost[row - 1][column] + 1 {
            row -= 1;
        } else {
            column -= 1;
        }
    }
    (cost[rows - 1][columns - 1], same)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let list = arguments.next().expect("the first argument is a list of utterances");
    let list: Vec<Utterance> =
        serde_json::from_slice(&std::fs::read(list).expect("the list can be read")).expect("the list is JSON of the form above");
    let source = arguments.next().map_or(PackSource::BuiltIn, |folder| PackSource::Folder(folder.into()));
    let pack = Arc::new(Pack::open(&source).expect("the pack opens"));
    let (runtime, _) = open(&RuntimeChoice::Auto, &onnxruntime_candidates(None)).expect("there is always an engine");
    let silero = open_silero(None).expect("a Silero file that is there can be read").0;
    let mut models = SpeechModels::load(&*runtime, &*pack, silero.as_ref()).expect("the networks load");
    let config = SessionConfig::default();
    let (mut shown, mut committed, mut closed, mut edits, mut words) = (Vec::new(), Vec::new(), Vec::new(), 0, 0);
    let (mut onset, mut ends) = (Vec::new(), Vec::new());
    for utterance in &list {
        let file = std::fs::File::open(&utterance.file).expect("the sound file is there");
        let mut decoder = FileDecoder::open(file, &utterance.file, 16_000).expect("it is a sound file");
        let mut audio = vec![0.0; Samples::from_ms(BEFORE_MS).0 as usize];
        while decoder.read(&mut audio).expect("the sound file is whole") {}
        let end = Samples::from_ms(BEFORE_MS + utterance.end_ms);
        audio.resize((end + Samples::from_ms(AFTER_MS)).0 as usize, 0.0);
        let mut noise = 1_u32;
        for sample in &mut audio {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *sample += ((noise >> 8) as f32 / 8_388_608.0 - 1.0) * 0.0005;
        }
        let mut session = StreamSession::new(config.clone(), pack.clone(), models.detector());
        let (mut at_shown, mut at_committed, mut now) = (Vec::new(), Vec::new(), Samples(0));
        let mut heard = Vec::<(String, Samples)>::new();
        for step in audio.chunks(320) {
            now = now + Samples(step.len() as u64);
            session.push_audio(step);
            while models.advance(&mut [&mut session], 1) {}
            while let Some(event) = session.poll_event() {
                match event {
                    SpeechEvent::SpeechStarted { at } => onset.push(at.as_ms() as i64 - BEFORE_MS as i64),
                    SpeechEvent::Interim { text, committed_chars, words, .. } => {
                        let sure = text.chars().take(committed_chars).collect::<String>().split_whitespace().count();
                        let (before, count) = (heard.len(), words.len());
                        at_shown.resize((before + count).max(at_shown.len()), now);
                        at_committed.resize((before + sure).max(at_committed.len()), now);
                    }
                    SpeechEvent::Final { words, .. } => {
                        heard.extend(words.into_iter().map(|word| (word.text, word.end)));
                        at_shown.resize(heard.len(), now);
                        at_committed.resize(heard.len(), now);
                        closed.push(now.as_ms() as i64 - end.as_ms() as i64 - i64::from(config.endpoint_silence_ms));
                    }
                    _ => {}
                }
            }
        }
        let reference: Vec<&str> = utterance.words.iter().map(|word| word.text.as_str()).collect();
        let (cost, same) = align(&reference, &heard.iter().map(|(word, _)| word.as_str()).collect::<Vec<_>>());
        edits += cost;
        words += reference.len();
        for (spoken, index) in utterance.words.iter().zip(same) {
            let Some(index) = index else { continue };
            let spoken = (BEFORE_MS + spoken.end_ms) as i64;
            ends.push(heard[index].1.as_ms() as i64 - spoken);
            shown.push(at_shown[index].as_ms() as i64 - spoken);
            committed.push(at_committed[index].as_ms() as i64 - spoken);
        }
    }
    println!("{} utterances, {words} words, word error rate {:.1} %", list.len(), 100.0 * edits as f64 / words as f64);
    for (name, values) in [
        ("speech detected, after it began", &mut onset),
        ("end of a word as reported, after it was spoken", &mut ends),
        ("word shown, after it was spoken", &mut shown),
        ("word committed, after it was spoken", &mut committed),
        ("segment closed, after the configured silence", &mut closed),
    ] {
        let count = values.len();
        println!("{name:46} p50 {:5} ms  p95 {:5} ms  ({count})", percentile(values, 50), percentile(values, 95));
    }
}
