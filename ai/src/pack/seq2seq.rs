//! The files that Optimum's exports of sequence-to-sequence models have in common: `encoder_model.onnx`, a merged decoder or a pair of
//! them, `config.json`, `generation_config.json`, `tokenizer.json`.
//!
//! Rule: the graphs lie in the folder or in `onnx/` of it; a variant is a suffix of their names (`_int8`, `_fp16`, `_quantized`). Without a
//! wish the first of [`VARIANTS`] that is complete is taken, and a merged decoder before a pair.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokenizers::Tokenizer;

use super::PackError;
use super::files::{MAX_FILE_BYTES, read};
use crate::generation::decoder::DecoderShape;
use crate::generation::{DecoderFiles, EarlyStopping};
use crate::runtime::ModelFile;

/// Suffixes in the order in which they are looked for: full precision, what is quick on processors, then 16 bits.
const VARIANTS: [&str; 5] = ["", "quantized", "int8", "uint8", "fp16"];
const MAX_CONFIG_BYTES: u64 = 4 << 20;
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// An encoder and a decoder.
#[derive(Debug, Clone)]
pub struct Seq2SeqFiles {
    /// The encoder's graph.
    pub encoder: ModelFile,
    /// The decoder's.
    pub decoder: DecoderFiles,
}

impl Seq2SeqFiles {
    /// Reads the graphs of a folder, of a variant where one is asked for.
    ///
    /// # Errors
    /// [`PackError::Missing`] with the file that a complete pack would have.
    pub fn open(folder: &Path, variant: Option<&str>) -> Result<Self, PackError> {
        let places = [folder.to_owned(), folder.join("onnx")];
        let wanted: Vec<&str> = variant.map_or(VARIANTS.to_vec(), |variant| vec![variant]);
        let sets = || places.iter().flat_map(|place| wanted.iter().map(|variant| FileSet::new(place, variant)));
        let set = sets().find(FileSet::is_complete).or_else(|| sets().find(FileSet::is_begun));
        let set = set.unwrap_or_else(|| FileSet::new(folder, wanted[0]));
        let encoder = model(&set.encoder)?;
        let decoder = if set.merged.is_file() || !set.first.is_file() {
            DecoderFiles::Merged(model(&set.merged)?)
        } else {
            DecoderFiles::Split(model(&set.first)?, model(&set.next)?)
        };
        Ok(Self { encoder, decoder })
    }
}

/// The paths of one variant.
struct FileSet {
    encoder: PathBuf,
    merged: PathBuf,
    first: PathBuf,
    next: PathBuf,
}

impl FileSet {
    fn new(place: &Path, variant: &str) -> Self {
        let suffix = if variant.is_empty() { String::new() } else { format!("_{variant}") };
        let path = |stem: &str| place.join(format!("{stem}{suffix}.onnx"));
        let [encoder, merged, first, next] =
            ["encoder_model", "decoder_model_merged", "decoder_model", "decoder_with_past_model"].map(path);
        Self { encoder, merged, first, next }
    }

    fn is_complete(&self) -> bool {
        self.encoder.is_file() && (self.merged.is_file() || (self.first.is_file() && self.next.is_file()))
    }

    fn is_begun(&self) -> bool {
        [&self.encoder, &self.merged, &self.first].into_iter().any(|path| path.is_file())
    }
}

fn model(path: &Path) -> Result<ModelFile, PackError> {
    let file = ModelFile::new(read(path, MAX_FILE_BYTES)?);
    Ok(match path.parent() {
        Some(folder) => file.with_folder(folder),
        None => file,
    })
}

/// An error about a file of a folder.
pub(super) fn invalid(folder: &Path, file: &str, reason: impl Into<String>) -> PackError {
    PackError::Invalid { what: folder.join(file).display().to_string(), reason: reason.into() }
}

/// A JSON file that must be there.
pub(super) fn json<T: DeserializeOwned>(folder: &Path, file: &str) -> Result<T, PackError> {
    serde_json::from_slice(&read(&folder.join(file), MAX_CONFIG_BYTES)?).map_err(|error| invalid(folder, file, error.to_string()))
}

/// A JSON file, or its defaults.
pub(super) fn json_or_default<T: DeserializeOwned + Default>(folder: &Path, file: &str) -> Result<T, PackError> {
    if folder.join(file).exists() { json(folder, file) } else { Ok(T::default()) }
}

/// `tokenizer.json`, without padding or cutting.
pub(super) fn tokenizer(folder: &Path) -> Result<Tokenizer, PackError> {
    let file = "tokenizer.json";
    let wrong = |error: tokenizers::Error| invalid(folder, file, error.to_string());
    let mut tokenizer = Tokenizer::from_bytes(read(&folder.join(file), MAX_TOKENIZER_BYTES)?).map_err(wrong)?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(wrong)?;
    Ok(tokenizer)
}

/// The family that `config.json` names; empty: it names none.
pub(super) fn model_type(folder: &Path) -> Result<String, PackError> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        model_type: String,
    }
    json::<Config>(folder, "config.json").map(|config| config.model_type)
}

/// The folder's name.
pub(super) fn name(folder: &Path) -> String {
    folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// One id or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    pub(super) fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

/// `early_stopping`: true, false or "never".
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum EarlyStoppingValue {
    Flag(bool),
    Word(String),
}

impl EarlyStoppingValue {
    pub(super) fn value(&self) -> EarlyStopping {
        match self {
            Self::Flag(true) => EarlyStopping::WhenFull,
            Self::Word(word) if word == "never" => EarlyStopping::Never,
            Self::Flag(false) | Self::Word(_) => EarlyStopping::Likely,
        }
    }
}

/// The shapes of a decoder, as `config.json` has them under its families' names.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct DecoderConfig {
    #[serde(alias = "decoder_num_hidden_layers")]
    decoder_layers: usize,
    #[serde(alias = "decoder_num_attention_heads")]
    decoder_attention_heads: usize,
    #[serde(alias = "hidden_size")]
    d_model: usize,
    vocab_size: usize,
}

impl DecoderConfig {
    /// The shapes, if they can be.
    pub(super) fn shape(&self, folder: &Path) -> Result<DecoderShape, PackError> {
        let Self { decoder_layers: layers, decoder_attention_heads: heads, d_model: width, vocab_size: vocabulary } = *self;
        let possible = (1..=256).contains(&layers) && (1..=256).contains(&heads) && width % heads.max(1) == 0;
        if !possible || !(1..=65_536).contains(&width) || !(2..=1 << 20).contains(&vocabulary) {
            let reason = format!("a decoder of {layers} layers, {heads} heads, width {width} and {vocabulary} tokens is not possible");
            return Err(invalid(folder, "config.json", reason));
        }
        Ok(DecoderShape { layers, heads, head: width / heads, vocabulary })
    }
}
