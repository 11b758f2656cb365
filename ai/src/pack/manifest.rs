//! The manifest of our own layout (`auralink-ctc`), and how it becomes a [`Pack`].
//!
//! Rule: every file that is named is hashed, every number is checked before it is used; keys that are only for people
//! (description, notes, shapes in words) are not read.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Deserialize;

use super::files::{MAX_FILE_BYTES, PackFiles};
use super::{Pack, PackError, hash};
use crate::audio::Samples;
use crate::decoder::language_model::LanguageModel;
use crate::decoder::lexicon::Lexicon;
use crate::decoder::{BeamSpec, DecoderSpec};
use crate::features::{FeatureSpec, FilterBank};
use crate::recogniser::{NetworkSpec, StateSpec};
use crate::runtime::ModelFile;

const FORMAT: &str = "auralink-ctc";
const FORMAT_VERSION: u32 = 1;
/// Word ids of the language model have 16 bits, two of them marks.
const MAX_WORDS: usize = 65_534;
const MAX_TOKENS: usize = 65_536;
/// Time after its last token when a word is settled, milliseconds. Measured on held-out voices: 320 costs 1.9 points of word errors
/// against never, 640 none; it only moves the slowest words, since most are agreed on before.
const SETTLE_MS: u32 = 640;

/// `manifest.json`.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    format: String,
    format_version: u32,
    name: String,
    version: String,
    language: String,
    features: FeatureSpec,
    model: ModelSection,
    tokens: TokensSection,
    lexicon: FileName,
    lm: FileName,
    decoder: DecoderSection,
    files: BTreeMap<String, FileSection>,
}

#[derive(Debug, Deserialize)]
struct ModelSection {
    file: String,
    input: String,
    output: String,
    chunk_frames: usize,
    #[serde(default)]
    emission_delay_ms: u64,
    subsampling: usize,
    states: Vec<StateSection>,
}

#[derive(Debug, Deserialize)]
struct StateSection {
    input: String,
    output: String,
    /// `"N"` at the axis of streams, extents elsewhere.
    shape: Vec<Extent>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Extent {
    Fixed(usize),
    Named(String),
}

#[derive(Debug, Deserialize)]
struct TokensSection {
    file: String,
    count: usize,
    blank: usize,
    word_end: usize,
}

#[derive(Debug, Deserialize)]
struct FileName {
    file: String,
}

#[derive(Debug, Deserialize)]
struct DecoderSection {
    beam: usize,
    lm_weight: f32,
    word_bonus: f32,
    unknown_penalty: f32,
    token_threshold: f32,
    beam_threshold: f32,
    tail_padding_ms: u64,
}

#[derive(Debug, Deserialize)]
struct FileSection {
    sha256: String,
}

/// Reads the pack's files and makes errors that name them.
struct Opener<'a> {
    files: &'a PackFiles,
    hashes: BTreeMap<String, FileSection>,
}

impl Opener<'_> {
    fn invalid(&self, file: &str, reason: impl Into<String>) -> PackError {
        PackError::Invalid { what: format!("{}/{file}", self.files.place()), reason: reason.into() }
    }

    fn check(&self, good: bool, reason: impl Into<String>) -> Result<(), PackError> {
        if good { Ok(()) } else { Err(self.invalid("manifest.json", reason)) }
    }

    fn read(&self, name: &str) -> Result<Cow<'static, [u8]>, PackError> {
        let expected = self.hashes.get(name).ok_or_else(|| self.invalid("manifest.json", format!("`files` has no SHA-256 of `{name}`")))?;
        let bytes = self.files.read(name, MAX_FILE_BYTES)?;
        let found = hash(&bytes);
        if found != expected.sha256.to_ascii_lowercase() {
            let path = format!("{}/{name}", self.files.place());
            return Err(PackError::Hash { path, expected: expected.sha256.clone(), found });
        }
        Ok(bytes)
    }

    fn text(&self, name: &str) -> Result<String, PackError> {
        String::from_utf8(self.read(name)?.into_owned()).map_err(|error| self.invalid(name, format!("it is not UTF-8: {error}")))
    }
}

impl Manifest {
    pub(super) fn open(self, files: &PackFiles) -> Result<Pack, PackError> {
        let Self { format, format_version, name, version, language, features, model, tokens, lexicon, lm, decoder, files: hashes } = self;
        let opener = Opener { files, hashes };
        opener.check(
            format == FORMAT && format_version == FORMAT_VERSION,
            format!("its format is `{format}` {format_version}; this version reads `{FORMAT}` {FORMAT_VERSION}"),
        )?;
        let filter_bank = FilterBank::new(features).map_err(|reason| opener.invalid("manifest.json", format!("features: {reason}")))?;
        let network = network(&opener, &model, &tokens, &decoder, filter_bank.spec())?;
        let symbols = read_tokens(&opener, &tokens)?;
        let frame_ms = (network.subsampling * filter_bank.spec().hop_length) as u32 * 1000 / crate::audio::SAMPLE_RATE;
        let beam = read_beam(&opener, &lexicon.file, &lm.file, &decoder, &symbols)?;
        let decoder = DecoderSpec {
            tokens: symbols,
            blank: tokens.blank,
            word_end: tokens.word_end,
            beam: Some(beam),
            settle_frames: SETTLE_MS.div_ceil(frame_ms.max(1)),
        };
        Ok(Pack {
            name: format!("{name} {version}"),
            languages: vec![language],
            model: ModelFile::new(opener.read(&model.file)?),
            filter_bank: Arc::new(filter_bank),
            network,
            decoder: Arc::new(decoder),
        })
    }
}

fn network(
    opener: &Opener,
    model: &ModelSection,
    tokens: &TokensSection,
    decoder: &DecoderSection,
    features: &FeatureSpec,
) -> Result<NetworkSpec, PackError> {
    let (chunk, factor) = (model.chunk_frames, model.subsampling);
    opener.check((1..=64).contains(&factor), format!("model.subsampling is {factor}, 1 to 64 is needed"))?;
    let whole = chunk % factor == 0 && (factor..=1_000).contains(&chunk);
    opener.check(whole, format!("model.chunk_frames is {chunk}, a multiple of {factor} up to 1000 is needed"))?;
    opener.check((2..=MAX_TOKENS).contains(&tokens.count), format!("tokens.count is {}, 2 to {MAX_TOKENS} is needed", tokens.count))?;
    let marks = tokens.blank < tokens.count && tokens.word_end < tokens.count && tokens.blank != tokens.word_end;
    opener.check(
        marks,
        format!("tokens.blank {} and tokens.word_end {} are not two of {} tokens", tokens.blank, tokens.word_end, tokens.count),
    )?;
    let tail = decoder.tail_padding_ms;
    opener.check(tail <= 5_000, format!("decoder.tail_padding_ms is {tail}, at most 5000 is possible"))?;
    let delay = model.emission_delay_ms;
    opener.check(delay <= 5_000, format!("model.emission_delay_ms is {delay}, at most 5000 is possible"))?;
    let states = model.states.iter().map(|state| state_spec(opener, state)).collect::<Result<_, _>>()?;
    Ok(NetworkSpec {
        input: model.input.clone(),
        output: model.output.clone(),
        n_mels: features.n_mels,
        chunk_frames: chunk,
        subsampling: factor,
        vocabulary: tokens.count,
        tail: Samples::from_ms(tail),
        emission_delay: Samples::from_ms(delay),
        states,
    })
}

fn state_spec(opener: &Opener, state: &StateSection) -> Result<StateSpec, PackError> {
    let streams: Vec<usize> =
        (0..state.shape.len()).filter(|&axis| matches!(&state.shape[axis], Extent::Named(name) if name == "N")).collect();
    let shape: Vec<usize> = state.shape.iter().map(|extent| if let Extent::Fixed(extent) = extent { *extent } else { 1 }).collect();
    let named = state.shape.iter().filter(|extent| matches!(extent, Extent::Named(_))).count();
    let values = shape.iter().try_fold(1_usize, |product, &extent| product.checked_mul(extent));
    let possible = streams.len() == 1 && named == 1 && values.is_some_and(|values| (1..=1 << 24).contains(&values));
    opener.check(possible, format!("state `{}`: its shape needs exactly one \"N\" (the streams) and extents that fit", state.input))?;
    Ok(StateSpec { input: state.input.clone(), output: state.output.clone(), shape, batch_axis: streams[0] })
}

fn read_tokens(opener: &Opener, section: &TokensSection) -> Result<Vec<String>, PackError> {
    let file = &section.file;
    let mut symbols = Vec::with_capacity(section.count);
    for (index, line) in opener.text(file)?.lines().enumerate() {
        match line.rsplit_once(' ') {
            Some((symbol, id)) if id.parse() == Ok(index) => symbols.push(symbol.to_owned()),
            _ => return Err(opener.invalid(file, format!("line {} is not `symbol {index}`", index + 1))),
        }
    }
    if symbols.len() != section.count {
        return Err(opener.invalid(file, format!("it has {} tokens, the manifest says {}", symbols.len(), section.count)));
    }
    Ok(symbols)
}

fn read_beam(opener: &Opener, words: &str, lm: &str, decoder: &DecoderSection, symbols: &[String]) -> Result<BeamSpec, PackError> {
    opener.check((1..=1_024).contains(&decoder.beam), format!("decoder.beam is {}, 1 to 1024 is needed", decoder.beam))?;
    let DecoderSection { lm_weight, word_bonus, unknown_penalty, token_threshold, beam_threshold, .. } = *decoder;
    for (name, value) in [
        ("lm_weight", lm_weight),
        ("word_bonus", word_bonus),
        ("unknown_penalty", unknown_penalty),
        ("token_threshold", token_threshold),
        ("beam_threshold", beam_threshold),
    ] {
        opener.check(value.is_finite(), format!("decoder.{name} is {value}, a number is needed"))?;
    }
    let lexicon = read_lexicon(opener, words, symbols)?;
    let language_model = LanguageModel::read(&opener.read(lm)?, lexicon.len()).map_err(|reason| opener.invalid(lm, reason))?;
    let width = decoder.beam;
    Ok(BeamSpec { lexicon, language_model, width, beam_threshold, token_threshold, lm_weight, word_bonus, unknown_penalty })
}

fn read_lexicon(opener: &Opener, file: &str, symbols: &[String]) -> Result<Lexicon, PackError> {
    let ids: HashMap<&str, usize> = symbols.iter().enumerate().map(|(id, symbol)| (symbol.as_str(), id)).collect();
    let mut entries = Vec::new();
    for (index, line) in opener.text(file)?.lines().enumerate() {
        let at_line = |reason: &str| opener.invalid(file, format!("line {}: {reason}", index + 1));
        let (word, spelling) = line.split_once('\t').ok_or_else(|| at_line("no tab between the word and its tokens"))?;
        let spelling = spelling
            .split(' ')
            .map(|symbol| ids.get(symbol).copied().ok_or_else(|| at_line(&format!("`{symbol}` is no token"))))
            .collect::<Result<Vec<_>, _>>()?;
        entries.push((word.to_owned(), spelling));
        if entries.len() > MAX_WORDS {
            return Err(opener.invalid(file, format!("it has more than {MAX_WORDS} words")));
        }
    }
    Lexicon::new(entries).map_err(|reason| opener.invalid(file, reason))
}
