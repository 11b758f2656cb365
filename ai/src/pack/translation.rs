//! Packs of translation in Optimum's layout: `config.json`, `generation_config.json`, `encoder_model.onnx` and the decoder, merged or
//! split, in the folder or in `onnx/` below it; and the tokenizer's files of each family (Marian: `source.spm`, `target.spm`, `vocab.json`;
//! M2M100: `sentencepiece.bpe.model`, `vocab.json`; NLLB: `tokenizer.json`).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;
use tokenizers::Tokenizer;

use super::PackError;
use super::files::{MAX_FILE_BYTES, read};
use crate::generation::GenerationConfig;
use crate::runtime::ModelFile;
use crate::tokenizer::SentencePiece;
use crate::translation::words::{M2m100, Marian, Nllb, Words, marian_targets};
use crate::translation::{Seq2SeqPack, Seq2SeqTranslation};

/// The largest of the small files; vocabularies of many languages have some megabytes.
const MAX_TEXT_BYTES: u64 = 64 << 20;
/// Most tokens of a text, whatever a pack says: attention grows with their square.
const MAX_TOKENS: usize = 1_024;
/// What exporters add to the name of a network for its precision, the best first.
const PRECISIONS: [&str; 6] = ["", "_fp16", "_quantized", "_int8", "_uint8", "_q4"];

/// Opens a pack of translation.
///
/// # Errors
/// [`PackError`], with the file at fault.
pub(super) fn open(folder: &Path) -> Result<Seq2SeqTranslation, PackError> {
    let config = json(&folder.join("config.json"))?;
    let generation_path = folder.join("generation_config.json");
    let generation = if generation_path.is_file() { Some(json(&generation_path)?) } else { None };
    let invalid = |reason: String| invalid(&folder.join("config.json"), reason);
    let generation = GenerationConfig::read(&config, generation.as_ref()).map_err(invalid)?;
    let number = |key: &str| {
        let value = config.get(key).and_then(Json::as_u64).and_then(|value| usize::try_from(value).ok());
        value.filter(|value| (1..=1 << 20).contains(value)).ok_or_else(|| invalid(format!("`{key}` is missing, or no possible number")))
    };
    let (vocabulary, heads, width) = (number("vocab_size")?, number("decoder_attention_heads")?, number("d_model")?);
    let words = match config.get("model_type").and_then(Json::as_str) {
        Some("marian") => marian(folder, &generation)?,
        Some("m2m_100") if folder.join("tokenizer.json").is_file() => nllb(folder, &generation)?,
        Some("m2m_100") => m2m100(folder, &generation)?,
        Some("nllb") => nllb(folder, &generation)?,
        other => {
            let name = other.unwrap_or("none");
            return Err(invalid(format!("`model_type` is `{name}`: translation is read of marian (opus-mt) and m2m_100 (M2M100, NLLB)")));
        }
    };
    let (decoder, later) = match network(folder, "decoder_model_merged")? {
        Some(merged) => (merged, None),
        None => (needed(folder, "decoder_model")?, Some(needed(folder, "decoder_with_past_model")?)),
    };
    Ok(Seq2SeqTranslation(Arc::new(Seq2SeqPack {
        name: folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned()),
        words,
        encoder: needed(folder, "encoder_model")?,
        decoder,
        later,
        generation,
        vocabulary,
        heads: [heads, width / heads.max(1)],
        max_tokens: number("max_position_embeddings").unwrap_or(512).min(MAX_TOKENS),
    })))
}

fn invalid(path: &Path, reason: impl Into<String>) -> PackError {
    PackError::Invalid { what: path.display().to_string(), reason: reason.into() }
}

fn json(path: &Path) -> Result<Json, PackError> {
    serde_json::from_slice(&read(path, MAX_TEXT_BYTES)?).map_err(|error| invalid(path, error.to_string()))
}

/// The network of a name, in the best precision that is there.
fn network(folder: &Path, name: &str) -> Result<Option<ModelFile>, PackError> {
    for precision in PRECISIONS {
        for place in [folder.to_owned(), folder.join("onnx")] {
            let path = place.join(format!("{name}{precision}.onnx"));
            if path.is_file() {
                return Ok(Some(ModelFile::new(read(&path, MAX_FILE_BYTES)?).with_folder(place)));
            }
        }
    }
    Ok(None)
}

fn needed(folder: &Path, name: &str) -> Result<ModelFile, PackError> {
    let missing = || PackError::Missing {
        path: folder.join(format!("{name}.onnx")).display().to_string(),
        reason: "neither it nor a smaller precision of it is there, here or in `onnx`".to_owned(),
    };
    network(folder, name)?.ok_or_else(missing)
}

fn sentencepiece(path: &Path) -> Result<SentencePiece, PackError> {
    SentencePiece::new(&read(path, MAX_TEXT_BYTES)?).map_err(|reason| invalid(path, reason))
}

/// `vocab.json` and its pieces by id; ids go from 0 without a gap.
fn vocabulary(path: &Path) -> Result<(HashMap<String, i64>, Vec<String>), PackError> {
    let ids: HashMap<String, i64> =
        serde_json::from_slice(&read(path, MAX_TEXT_BYTES)?).map_err(|error| invalid(path, error.to_string()))?;
    let mut pieces = vec![String::new(); ids.len()];
    for (piece, id) in &ids {
        let place = usize::try_from(*id).ok().and_then(|id| pieces.get_mut(id));
        *place.ok_or_else(|| invalid(path, format!("the id {id} of `{piece}` is not below {}", ids.len())))? = piece.clone();
    }
    Ok((ids, pieces))
}

fn token(ids: &HashMap<String, i64>, path: &Path, piece: &str) -> Result<i64, PackError> {
    ids.get(piece).copied().ok_or_else(|| invalid(path, format!("it has no token `{piece}`: is it another model's?")))
}

fn marian(folder: &Path, generation: &GenerationConfig) -> Result<Words, PackError> {
    let path = folder.join("vocab.json");
    let (ids, pieces) = vocabulary(&path)?;
    let (from, to) = marian_languages(folder)?;
    Ok(Words::Marian(Box::new(Marian {
        source: sentencepiece(&folder.join("source.spm"))?,
        target: sentencepiece(&folder.join("target.spm"))?,
        unknown: token(&ids, &path, "<unk>")?,
        end: generation.eos_token_ids[0],
        pad: generation.pad_token_id,
        from: vec![from],
        to: marian_targets(&ids, &to),
        vocabulary: ids,
        pieces,
    })))
}

/// Of `tokenizer_config.json`, else of the folder's name, `opus-mt-FROM-TO`.
fn marian_languages(folder: &Path) -> Result<(String, String), PackError> {
    let path = folder.join("tokenizer_config.json");
    if path.is_file() {
        let config = json(&path)?;
        let language = |key: &str| config.get(key).and_then(Json::as_str).map(crate::translation::two_letters);
        if let Some(pair) = language("source_lang").zip(language("target_lang")) {
            return Ok(pair);
        }
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut parts = name.rsplit('-');
    let (to, from) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let plain = |code: &str| (2..=3).contains(&code.len()) && code.chars().all(|c| c.is_ascii_lowercase());
    if plain(from) && plain(to) {
        return Ok((crate::translation::two_letters(from), crate::translation::two_letters(to)));
    }
    Err(invalid(
        &path,
        "it does not say `source_lang` and `target_lang`, and the folder is not named `opus-mt-FROM-TO`: name it so, as in `opus-mt-en-de`",
    ))
}

fn m2m100(folder: &Path, generation: &GenerationConfig) -> Result<Words, PackError> {
    let path = folder.join("vocab.json");
    let (ids, pieces) = vocabulary(&path)?;
    let unknown = token(&ids, &path, "<unk>")?;
    let model = sentencepiece(&folder.join("sentencepiece.bpe.model"))?;
    Ok(Words::M2m100(Box::new(M2m100 { model, unknown, end: generation.eos_token_ids[0], vocabulary: ids, pieces })))
}

fn nllb(folder: &Path, generation: &GenerationConfig) -> Result<Words, PackError> {
    let path = folder.join("tokenizer.json");
    let tokenizer = Tokenizer::from_bytes(read(&path, MAX_TEXT_BYTES)?).map_err(|error| invalid(&path, error.to_string()))?;
    let is_language = |word: &str| word.len() == 8 && word.as_bytes()[3] == b'_' && word[..3].chars().all(|c| c.is_ascii_lowercase());
    let vocabulary = tokenizer.get_vocab(true);
    let mut languages: Vec<(String, i64)> =
        vocabulary.into_iter().filter(|(word, _)| word.is_ascii() && is_language(word)).map(|(word, id)| (word, i64::from(id))).collect();
    languages.sort();
    if languages.is_empty() {
        return Err(invalid(&path, "it has no language tokens such as `eng_Latn`: is it another model's?"));
    }
    let config_path = folder.join("tokenizer_config.json");
    let legacy = config_path.is_file() && json(&config_path)?.get("legacy_behaviour").and_then(Json::as_bool).unwrap_or(false);
    Ok(Words::Nllb(Box::new(Nllb { tokenizer, languages, end: generation.eos_token_ids[0], legacy })))
}
