//! Packs of Moonshine in the layout of Optimum's exports: graphs, `config.json`, `generation_config.json`, `tokenizer.json`.

use std::path::Path;

use serde::Deserialize;
use tokenizers::Tokenizer;

use super::PackError;
use super::seq2seq::{DecoderConfig, Ids, Seq2SeqFiles, invalid, json, json_or_default, name, tokenizer};
use crate::generation::decoder::DecoderShape;

/// An opened pack.
pub struct MoonshinePack {
    name: String,
    files: Seq2SeqFiles,
    shape: DecoderShape,
    tokenizer: Tokenizer,
    start: u32,
    eos: Vec<u32>,
    max_length: usize,
}

#[derive(Deserialize)]
struct Config {
    model_type: String,
    max_position_embeddings: Option<usize>,
    decoder_start_token_id: Option<u32>,
    eos_token_id: Option<Ids>,
    #[serde(flatten)]
    decoder: DecoderConfig,
}

#[derive(Default, Deserialize)]
struct Generation {
    decoder_start_token_id: Option<u32>,
    eos_token_id: Option<Ids>,
    max_length: Option<usize>,
}

impl MoonshinePack {
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
    /// As [`MoonshinePack::open`].
    pub fn open_variant(folder: &Path, variant: Option<&str>) -> Result<Self, PackError> {
        let config: Config = json(folder, "config.json")?;
        if config.model_type != "moonshine" {
            return Err(invalid(folder, "config.json", format!("model_type is `{}`, not `moonshine`", config.model_type)));
        }
        let shape = config.decoder.shape(folder)?;
        let generation: Generation = json_or_default(folder, "generation_config.json")?;
        let start = generation.decoder_start_token_id.or(config.decoder_start_token_id).unwrap_or(1);
        let eos = generation.eos_token_id.or(config.eos_token_id).map_or_else(|| vec![2], Ids::into_vec);
        let tokenizer = tokenizer(folder)?;
        let count = tokenizer.get_vocab_size(true);
        if count > shape.vocabulary {
            let reason = format!("it has {count} tokens, the model {}: it is another model's tokenizer", shape.vocabulary);
            return Err(invalid(folder, "tokenizer.json", reason));
        }
        for (what, id, token) in [("start", start, "<s>"), ("end", eos.first().copied().unwrap_or(2), "</s>")] {
            if let Some(own) = tokenizer.token_to_id(token).filter(|&own| own != id) {
                let reason = format!("`{token}` is token {own}, the model's {what} is {id}: it is another model's tokenizer");
                return Err(invalid(folder, "tokenizer.json", reason));
            }
        }
        let positions = config.max_position_embeddings.unwrap_or(194).clamp(8, 65_536);
        let max_length = generation.max_length.unwrap_or(positions).clamp(8, positions);
        Ok(Self { name: name(folder), files: Seq2SeqFiles::open(folder, variant)?, shape, tokenizer, start, eos, max_length })
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

    /// The token that begins a text.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// The tokens that end one.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Tokens of a sequence, its beginning included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The text of tokens; special ones have none.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.tokenizer.decode(tokens, true).unwrap_or_default()
    }

    /// The tokens of a text, special ones not added.
    ///
    /// # Errors
    /// The tokenizer's words.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec()).map_err(|error| error.to_string())
    }
}
