//! Packs of translators in the layout of Optimum's exports: Marian (opus-mt), M2M100 and NLLB.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::PackError;
use super::files::read;
use super::seq2seq::{DecoderConfig, EarlyStoppingValue, Ids, Seq2SeqFiles, invalid, json, json_or_default, name, tokenizer};
use crate::generation::EarlyStopping;
use crate::generation::decoder::DecoderShape;
use crate::tokenizer::sentencepiece::SentencePiece;
use crate::translation::Pair;
use crate::translation::languages::M2M100;
use crate::translation::tokens::{Ended, Pieces, TranslationTokens};

/// The largest SentencePiece model and vocabulary, bytes.
const MAX_VOCABULARY_BYTES: u64 = 64 << 20;
/// Most beams that a pack may ask for.
const MAX_BEAMS: usize = 16;

/// How a pack wants its texts to be generated.
#[derive(Debug, Clone, PartialEq)]
pub struct TranslationDefaults {
    /// Tokens of a translation.
    pub max_length: usize,
    /// Hypotheses that are followed.
    pub beams: usize,
    /// See [`crate::generation::GenerationOptions`].
    pub length_penalty: f32,
    /// See [`crate::generation::GenerationOptions`].
    pub early_stopping: EarlyStopping,
    /// So many tokens in a row are said once; 0: as often as they come.
    pub no_repeat_ngram: usize,
    /// What was said is so many times less likely; 1: it is not.
    pub repetition_penalty: f32,
    /// Words that are not said.
    pub bad_words: Vec<Vec<u32>>,
    /// The token that is said at the greatest length.
    pub forced_eos: Option<u32>,
    /// The first token, where it is not the target language's.
    pub forced_bos: Option<u32>,
    /// Whether probabilities are made to sum up to 1 after words were forbidden.
    pub renormalise: bool,
    /// The tokens that end.
    pub eos: Vec<u32>,
    /// The token that begins.
    pub start: u32,
    /// The token that fills up.
    pub pad: u32,
}

/// An opened pack.
pub struct TranslationPack {
    name: String,
    files: Seq2SeqFiles,
    shape: DecoderShape,
    tokens: TranslationTokens,
    defaults: TranslationDefaults,
    positions: usize,
}

#[derive(Deserialize)]
struct Config {
    model_type: String,
    max_position_embeddings: usize,
    #[serde(flatten)]
    decoder: DecoderConfig,
    #[serde(flatten)]
    generation: Generation,
}

/// What stands in `generation_config.json`, and in older packs in `config.json`.
#[derive(Default, Deserialize)]
struct Generation {
    max_length: Option<usize>,
    num_beams: Option<usize>,
    length_penalty: Option<f32>,
    early_stopping: Option<EarlyStoppingValue>,
    no_repeat_ngram_size: Option<usize>,
    repetition_penalty: Option<f32>,
    bad_words_ids: Option<Vec<Vec<u32>>>,
    forced_eos_token_id: Option<u32>,
    forced_bos_token_id: Option<u32>,
    renormalize_logits: Option<bool>,
    eos_token_id: Option<Ids>,
    decoder_start_token_id: Option<u32>,
    pad_token_id: Option<u32>,
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    tokenizer_class: Option<String>,
    source_lang: Option<String>,
    target_lang: Option<String>,
    #[serde(default)]
    legacy_behaviour: bool,
    num_madeup_words: Option<usize>,
}

impl TranslationPack {
    /// Whether it translates a pair.
    pub fn translates(&self, pair: &Pair) -> bool {
        self.tokens.translates(&pair.from, &pair.to)
    }

    /// The languages that it translates `from` into.
    pub fn targets(&self, from: &str) -> Vec<String> {
        self.tokens.targets(from)
    }

    /// What it translates, in words (`en to de`, `any of 100 languages`).
    pub fn pairs(&self) -> String {
        self.tokens.pairs()
    }

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
    /// As [`TranslationPack::open`].
    pub fn open_variant(folder: &Path, variant: Option<&str>) -> Result<Self, PackError> {
        let config: Config = json(folder, "config.json")?;
        let shape = config.decoder.shape(folder)?;
        let settings: TokenizerConfig = json_or_default(folder, "tokenizer_config.json")?;
        let tokens = match config.model_type.as_str() {
            "marian" => marian(folder, &settings)?,
            "m2m_100" if folder.join("tokenizer.json").is_file() => nllb(folder, &settings)?,
            "m2m_100" => m2m100(folder, &settings)?,
            other => {
                let reason = format!("model_type is `{other}`; translators are `marian` and `m2m_100` (NLLB is one too)");
                return Err(invalid(folder, "config.json", reason));
            }
        };
        if tokens.count() > shape.vocabulary {
            let reason = format!("it has {} tokens, the model {}: it is another model's tokenizer", tokens.count(), shape.vocabulary);
            return Err(invalid(folder, tokens.file(), reason));
        }
        let positions = config.max_position_embeddings;
        if !(4..=65_536).contains(&positions) {
            return Err(invalid(folder, "config.json", format!("max_position_embeddings is {positions}: 4 to 65536 are possible")));
        }
        let generation =
            if folder.join("generation_config.json").exists() { json(folder, "generation_config.json")? } else { config.generation };
        let defaults = generation.defaults(folder, &tokens, positions, shape.vocabulary)?;
        let files = Seq2SeqFiles::open(folder, variant)?;
        Ok(Self { name: name(folder), files, shape, tokens, defaults, positions })
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

    /// The tokenizer and its languages.
    pub fn tokens(&self) -> &TranslationTokens {
        &self.tokens
    }

    /// How its texts are generated unless something else is asked for.
    pub fn defaults(&self) -> &TranslationDefaults {
        &self.defaults
    }

    /// Tokens that the encoder and the decoder have positions for.
    pub fn positions(&self) -> usize {
        self.positions
    }
}

impl Generation {
    fn defaults(
        self,
        folder: &Path,
        tokens: &TranslationTokens,
        positions: usize,
        vocabulary: usize,
    ) -> Result<TranslationDefaults, PackError> {
        let file = "generation_config.json";
        let pad = self.pad_token_id.unwrap_or(tokens.pad());
        let start = self.decoder_start_token_id.unwrap_or(pad);
        let eos = self.eos_token_id.map_or_else(|| vec![tokens.eos()], Ids::into_vec);
        let bad_words = self.bad_words_ids.unwrap_or_default();
        let forced = self.forced_eos_token_id.into_iter().chain(self.forced_bos_token_id);
        let mut named = eos.iter().copied().chain([pad, start]).chain(forced).chain(bad_words.iter().flatten().copied());
        if let Some(token) = named.find(|&token| token as usize >= vocabulary) {
            return Err(invalid(folder, file, format!("it names token {token}; the model has {vocabulary}")));
        }
        if eos.first() != Some(&tokens.eos()) {
            let reason = format!("eos_token_id is {eos:?}, the tokenizer's `</s>` is {}: the files are of different models", tokens.eos());
            return Err(invalid(folder, file, reason));
        }
        let (length_penalty, repetition_penalty) = (self.length_penalty.unwrap_or(1.0), self.repetition_penalty.unwrap_or(1.0));
        if !length_penalty.is_finite() || !repetition_penalty.is_finite() || repetition_penalty <= 0.0 {
            let reason = format!("length_penalty {length_penalty} and repetition_penalty {repetition_penalty} are not both possible");
            return Err(invalid(folder, file, reason));
        }
        Ok(TranslationDefaults {
            max_length: self.max_length.unwrap_or(positions).clamp(3, positions),
            beams: self.num_beams.unwrap_or(1).clamp(1, MAX_BEAMS),
            length_penalty,
            early_stopping: self.early_stopping.map_or(EarlyStopping::Likely, |value| value.value()),
            no_repeat_ngram: self.no_repeat_ngram_size.unwrap_or(0),
            repetition_penalty,
            bad_words,
            forced_eos: self.forced_eos_token_id,
            forced_bos: self.forced_bos_token_id,
            renormalise: self.renormalize_logits.unwrap_or(false),
            eos,
            start,
            pad,
        })
    }
}

fn sentencepiece(folder: &Path, file: &str) -> Result<SentencePiece, PackError> {
    SentencePiece::from_bytes(&read(&folder.join(file), MAX_VOCABULARY_BYTES)?).map_err(|reason| invalid(folder, file, reason))
}

fn vocabulary(folder: &Path, file: &str) -> Result<HashMap<String, u32>, PackError> {
    serde_json::from_slice(&read(&folder.join(file), MAX_VOCABULARY_BYTES)?).map_err(|error| invalid(folder, file, error.to_string()))
}

fn marian(folder: &Path, settings: &TokenizerConfig) -> Result<TranslationTokens, PackError> {
    let (source, target) = (sentencepiece(folder, "source.spm")?, sentencepiece(folder, "target.spm")?);
    let words = vocabulary(folder, "vocab.json")?;
    let target_words = if folder.join("target_vocab.json").exists() { Some(vocabulary(folder, "target_vocab.json")?) } else { None };
    let pieces = Pieces { source, target: Some(target), words, target_words };
    let languages = (settings.source_lang.clone(), settings.target_lang.clone());
    TranslationTokens::marian(pieces, languages).map_err(|reason| invalid(folder, "vocab.json", reason))
}

fn m2m100(folder: &Path, settings: &TokenizerConfig) -> Result<TranslationTokens, PackError> {
    let source = sentencepiece(folder, "sentencepiece.bpe.model")?;
    let pieces = Pieces { source, target: None, words: vocabulary(folder, "vocab.json")?, target_words: None };
    let made_up = settings.num_madeup_words.unwrap_or(8);
    TranslationTokens::m2m100(pieces, &M2M100, made_up).map_err(|reason| invalid(folder, "vocab.json", reason))
}

fn nllb(folder: &Path, settings: &TokenizerConfig) -> Result<TranslationTokens, PackError> {
    if let Some(class) = settings.tokenizer_class.as_ref().filter(|class| !class.starts_with("Nllb")) {
        return Err(invalid(folder, "tokenizer_config.json", format!("its tokenizer is {class}; NLLB's is NllbTokenizer")));
    }
    let ended = if settings.legacy_behaviour { Ended::ByLanguage } else { Ended::ByEos };
    TranslationTokens::nllb(tokenizer(folder)?, ended).map_err(|reason| invalid(folder, "tokenizer.json", reason))
}
