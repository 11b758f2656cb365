//! Packs of Whisper in the layout of Optimum's exports: graphs, `config.json`, `generation_config.json`, `tokenizer.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::PackError;
use super::seq2seq::{DecoderConfig, Ids, Seq2SeqFiles, invalid, json, json_or_default, name, tokenizer};
use crate::generation::decoder::DecoderShape;
use crate::whisper::tokens::WhisperTokens;

/// An opened pack.
pub struct WhisperPack {
    name: String,
    files: Seq2SeqFiles,
    shape: DecoderShape,
    mels: usize,
    frames: usize,
    width: usize,
    max_length: usize,
    positions: usize,
    median: usize,
    tokens: WhisperTokens,
    suppress: Vec<u32>,
    suppress_at_begin: Vec<u32>,
    max_initial_timestamp: Option<u32>,
    heads: Vec<(usize, usize)>,
}

#[derive(Deserialize)]
struct Config {
    model_type: String,
    num_mel_bins: usize,
    max_source_positions: usize,
    max_target_positions: usize,
    median_filter_width: Option<usize>,
    #[serde(flatten)]
    decoder: DecoderConfig,
}

#[derive(Default, Deserialize)]
struct Generation {
    eos_token_id: Option<Ids>,
    decoder_start_token_id: Option<u32>,
    no_timestamps_token_id: Option<u32>,
    #[serde(default)]
    lang_to_id: BTreeMap<String, u32>,
    #[serde(default)]
    suppress_tokens: Option<Vec<u32>>,
    #[serde(default)]
    begin_suppress_tokens: Option<Vec<u32>>,
    max_initial_timestamp_index: Option<u32>,
    alignment_heads: Option<Vec<(usize, usize)>>,
    max_length: Option<usize>,
    is_multilingual: Option<bool>,
}

#[derive(Default, Deserialize)]
struct Preprocessor {
    feature_size: Option<usize>,
}

impl WhisperPack {
    /// Opens and checks a pack.
    ///
    /// # Errors
    /// [`PackError`], with the file at fault.
    pub fn open(folder: &Path) -> Result<Self, PackError> {
        Self::open_variant(folder, None)
    }

    /// Opens a variant: the suffix of the graphs' names, such as `int8` or `fp16`.
    ///
    /// # Errors
    /// As [`WhisperPack::open`].
    pub fn open_variant(folder: &Path, variant: Option<&str>) -> Result<Self, PackError> {
        let config: Config = json(folder, "config.json")?;
        if config.model_type != "whisper" {
            return Err(invalid(folder, "config.json", format!("model_type is `{}`, not `whisper`", config.model_type)));
        }
        let shape = config.decoder.shape(folder)?;
        let Config { num_mel_bins: mels, max_source_positions: frames, max_target_positions: positions, .. } = config;
        let possible = (1..=256).contains(&mels) && (1..=15_000).contains(&frames) && (8..=65_536).contains(&positions);
        if !possible {
            let reason = format!("{mels} mel bins, {frames} frames and {positions} tokens are not possible");
            return Err(invalid(folder, "config.json", reason));
        }
        let preprocessor: Preprocessor = json_or_default(folder, "preprocessor_config.json")?;
        if let Some(size) = preprocessor.feature_size.filter(|&size| size != mels) {
            let reason = format!("feature_size is {size}, config.json says {mels} mel bins: the files are of different models");
            return Err(invalid(folder, "preprocessor_config.json", reason));
        }
        let generation: Generation = json_or_default(folder, "generation_config.json")?;
        let tokens = WhisperTokens::new(tokenizer(folder)?, generation.is_multilingual)
            .map_err(|reason| invalid(folder, "tokenizer.json", reason))?;
        check_tokens(folder, &tokens, &generation, shape.vocabulary)?;
        let heads = generation.alignment_heads.unwrap_or_default();
        if let Some((layer, head)) = heads.iter().find(|(layer, head)| *layer >= shape.layers || *head >= shape.heads) {
            let reason = format!("alignment_heads has [{layer}, {head}]; there are {} layers of {} heads", shape.layers, shape.heads);
            return Err(invalid(folder, "generation_config.json", reason));
        }
        Ok(Self {
            name: name(folder),
            files: Seq2SeqFiles::open(folder, variant)?,
            shape,
            mels,
            frames,
            width: shape.heads * shape.head,
            max_length: generation.max_length.unwrap_or(positions).clamp(8, positions),
            positions,
            median: config.median_filter_width.unwrap_or(7),
            tokens,
            suppress: generation.suppress_tokens.unwrap_or_default(),
            suppress_at_begin: generation.begin_suppress_tokens.unwrap_or_default(),
            max_initial_timestamp: generation.max_initial_timestamp_index,
            heads,
        })
    }

    /// Its name: the folder's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The graphs.
    pub fn files(&self) -> &Seq2SeqFiles {
        &self.files
    }

    /// The decoder's shapes.
    pub fn shape(&self) -> DecoderShape {
        self.shape
    }

    /// Values of a feature frame: 80, or 128.
    pub fn mels(&self) -> usize {
        self.mels
    }

    /// Frames that the encoder gives for a window: 1,500, of 20 ms.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Width of the encoder's output.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Tokens of a sequence, the prompt included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Positions that the decoder knows.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Frames of the median filter over cross attention.
    pub fn median(&self) -> usize {
        self.median
    }

    /// The tokenizer and the special tokens.
    pub fn tokens(&self) -> &WhisperTokens {
        &self.tokens
    }

    /// Tokens that are never said.
    pub fn suppress(&self) -> &[u32] {
        &self.suppress
    }

    /// Tokens that are not said first.
    pub fn suppress_at_begin(&self) -> &[u32] {
        &self.suppress_at_begin
    }

    /// The latest first timestamp, in units of 20 ms.
    pub fn max_initial_timestamp(&self) -> Option<u32> {
        self.max_initial_timestamp
    }

    /// Heads of the cross attention (layer, head) that follow the sound; empty: none are named.
    pub fn heads(&self) -> &[(usize, usize)] {
        &self.heads
    }
}

/// Whether the tokenizer is this model's.
fn check_tokens(folder: &Path, tokens: &WhisperTokens, generation: &Generation, vocabulary: usize) -> Result<(), PackError> {
    let other = |what: &str, own: u32, theirs: u32| {
        let reason = format!("it has {what} as token {own}, generation_config.json as {theirs}: it is another model's tokenizer");
        Err(invalid(folder, "tokenizer.json", reason))
    };
    if tokens.count() > vocabulary || tokens.times_end() as usize > vocabulary {
        let needed = tokens.count().max(tokens.times_end() as usize);
        let reason = format!("it has {needed} tokens, the model {vocabulary}: it is another model's tokenizer");
        return Err(invalid(folder, "tokenizer.json", reason));
    }
    if let Some(id) = generation.no_timestamps_token_id.filter(|&id| id != tokens.no_timestamps()) {
        return other("<|notimestamps|>", tokens.no_timestamps(), id);
    }
    if let Some(id) = generation.decoder_start_token_id.filter(|&id| id != tokens.start()) {
        return other("<|startoftranscript|>", tokens.start(), id);
    }
    if let Some(id) = generation.eos_token_id.clone().and_then(|ids| ids.into_vec().first().copied()).filter(|&id| id != tokens.eos()) {
        return other("<|endoftext|>", tokens.eos(), id);
    }
    for (language, &id) in &generation.lang_to_id {
        if let Some(own) = tokens.id(language).filter(|&own| own != id) {
            return other(language, own, id);
        }
    }
    Ok(())
}
