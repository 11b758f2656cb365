//! Packs of sentence embeddings, in the layout of Hugging Face's ONNX exports of sentence-transformers: `model.onnx` (or
//! `onnx/model.onnx`), `tokenizer.json`, `config.json`, and, when they are there, `sentence_bert_config.json` (the longest text) and
//! `1_Pooling/config.json` (which must say: mean).

use std::path::Path;

use serde::Deserialize;
use tokenizers::{Tokenizer, TruncationParams};

use super::PackError;
use super::files::{MAX_FILE_BYTES, read};
use crate::runtime::ModelFile;

/// The largest `tokenizer.json`, bytes: those of multilingual models have some 20 MB.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// The largest of the small files.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Most tokens that a text may have, whatever a pack says: attention grows with their square.
const MAX_TOKENS: usize = 8_192;

/// An opened pack.
pub struct EmbeddingPack {
    name: String,
    model: ModelFile,
    tokenizer: Tokenizer,
    dimensions: usize,
    max_tokens: usize,
    pad: u32,
}

#[derive(Deserialize)]
struct Config {
    hidden_size: usize,
    max_position_embeddings: Option<usize>,
    pad_token_id: Option<u32>,
}

#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
}

#[derive(Deserialize)]
struct Pooling {
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
}

impl EmbeddingPack {
    /// Opens and checks a pack.
    ///
    /// # Errors
    /// [`PackError`], with the file at fault.
    pub fn open(folder: &Path) -> Result<Self, PackError> {
        let config_path = folder.join("config.json");
        let config: Config = json(&config_path)?;
        let invalid = |path: &Path, reason: String| PackError::Invalid { what: path.display().to_string(), reason };
        if config.hidden_size == 0 || config.hidden_size > 65_536 {
            return Err(invalid(&config_path, format!("hidden_size is {}: 1 to 65536 are possible", config.hidden_size)));
        }
        let pooling_path = folder.join("1_Pooling/config.json");
        if let Some(Pooling { pooling_mode_mean_tokens: false }) = optional::<Pooling>(&pooling_path)? {
            return Err(invalid(&pooling_path, "the model does not pool by the mean of its tokens, which is all that is done here".into()));
        }
        let sentence: Option<SentenceConfig> = optional(&folder.join("sentence_bert_config.json"))?;
        let asked = sentence.and_then(|sentence| sentence.max_seq_length);
        let max_tokens = asked.unwrap_or(usize::MAX).min(config.max_position_embeddings.unwrap_or(512)).min(MAX_TOKENS);
        if max_tokens < 3 {
            return Err(invalid(&config_path, format!("the longest text would have {max_tokens} tokens: at least 3 are needed")));
        }
        let tokenizer_path = folder.join("tokenizer.json");
        let tokenizer = tokenizer(&read(&tokenizer_path, MAX_TOKENIZER_BYTES)?, max_tokens).map_err(|e| invalid(&tokenizer_path, e))?;
        let exported = folder.join("onnx/model.onnx");
        let model_path = if exported.is_file() { exported } else { folder.join("model.onnx") };
        let model = ModelFile::new(read(&model_path, MAX_FILE_BYTES)?);
        let model = match model_path.parent() {
            Some(folder) => model.with_folder(folder),
            None => model,
        };
        Ok(Self { name: name(folder), model, tokenizer, dimensions: config.hidden_size, max_tokens, pad: config.pad_token_id.unwrap_or(0) })
    }

    /// Its name: the folder's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The network's ONNX file.
    pub fn model(&self) -> &ModelFile {
        &self.model
    }

    /// Elements of a vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Tokens that a text is cut to, the special ones included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The token that fills shorter texts up.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// A text's tokens, the special ones included; at most [`EmbeddingPack::max_tokens`].
    ///
    /// # Errors
    /// The tokeniser's words.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, String> {
        let ids = self.tokenizer.encode_fast(text, true).map_err(|error| error.to_string())?.get_ids().to_vec();
        if ids.len() < 2 { Err("it gives no tokens: tokenizer.json has no special tokens around a text".into()) } else { Ok(ids) }
    }
}

/// Truncates to the model's maximum; never pads, whatever the file says: batches are padded to their own longest text.
fn tokenizer(bytes: &[u8], max_tokens: usize) -> Result<Tokenizer, String> {
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| error.to_string())?;
    tokenizer.with_padding(None);
    let truncation = TruncationParams { max_length: max_tokens, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(|error| error.to_string())?;
    Ok(tokenizer)
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, PackError> {
    serde_json::from_slice(&read(path, MAX_CONFIG_BYTES)?)
        .map_err(|error| PackError::Invalid { what: path.display().to_string(), reason: error.to_string() })
}

/// A file that need not be there.
fn optional<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, PackError> {
    if path.exists() { json(path).map(Some) } else { Ok(None) }
}

fn name(folder: &Path) -> String {
    folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned())
}
