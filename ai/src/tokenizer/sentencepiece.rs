//! SentencePiece models (`*.spm`, `*.model`): unigram and byte-pair encoding.
//!
//! The file is a protobuf (`sentencepiece_model.proto`). Normalisation and the search for pieces are those of the `tokenizers` crate, with
//! this module's handling of spaces around them. Rule: equal to Google's library on what models are given; `tests/parity_translation.rs`
//! holds it to that.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::Precompiled;
use tokenizers::{Model as _, NormalizedString, Normalizer as _};

use crate::protobuf::{self, Content};

/// The mark that stands for a space.
pub const SPACE: char = '\u{2581}';
/// No text has this after normalisation.
const NEVER_IN_TEXT: &str = "\u{0}control\u{0}";
/// Most pieces of a model: the largest that are known have a quarter of a million.
const MAX_PIECES: usize = 1 << 20;
/// Field numbers of the protobuf stay below this, extensions included.
const MAX_FIELD: u64 = 1_000;

/// What a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    Byte(u8),
}

enum Search {
    Unigram(Box<Unigram>),
    Bpe(Box<BPE>),
}

/// An opened model.
pub struct SentencePiece {
    pieces: Vec<(String, Kind)>,
    ids: HashMap<String, usize>,
    search: Search,
    normaliser: Option<Precompiled>,
    adds_space: bool,
    trims_spaces: bool,
}

struct File {
    pieces: Vec<(String, f64, Kind)>,
    is_bpe: bool,
    charsmap: Vec<u8>,
    adds_space: bool,
    trims_spaces: bool,
}

impl SentencePiece {
    /// Opens a model of the bytes of its file.
    ///
    /// # Errors
    /// A sentence saying what the file is not.
    pub fn new(bytes: &[u8]) -> Result<Self, String> {
        let file = read(bytes)?;
        let unknown = file.pieces.iter().position(|(_, _, kind)| *kind == Kind::Unknown).ok_or("it has no piece for what is unknown")?;
        let ids = file.pieces.iter().enumerate().map(|(id, (piece, ..))| (piece.clone(), id)).collect();
        let falls_back = file.pieces.iter().any(|(_, _, kind)| matches!(kind, Kind::Byte(_)));
        let search = if file.is_bpe { bpe(&file, unknown, falls_back)? } else { unigram(&file, unknown, falls_back)? };
        let normaliser = match file.charsmap.as_slice() {
            [] => None,
            charsmap => Some(Precompiled::from(charsmap).map_err(|error| format!("its normalisation cannot be read: {error}"))?),
        };
        let pieces = file.pieces.into_iter().map(|(piece, _, kind)| (piece, kind)).collect();
        Ok(Self { pieces, ids, search, normaliser, adds_space: file.adds_space, trims_spaces: file.trims_spaces })
    }

    /// Number of pieces.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there is no piece.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The id of a piece in this model; families that have a `vocab.json` number them otherwise.
    pub fn id(&self, piece: &str) -> Option<usize> {
        self.ids.get(piece).copied()
    }

    /// The pieces of a text. What is unknown is a piece of its own letters (unigram) or the unknown piece (BPE).
    ///
    /// # Errors
    /// The library's words, for a model that it cannot work with.
    pub fn encode(&self, text: &str) -> Result<Vec<String>, String> {
        let spaced = self.normalise(text)?;
        if spaced.is_empty() {
            return Ok(Vec::new());
        }
        let tokens = match &self.search {
            Search::Unigram(model) => model.tokenize(&spaced),
            Search::Bpe(model) => model.tokenize(&spaced),
        };
        let tokens = tokens.map_err(|error| error.to_string())?;
        Ok(tokens.into_iter().map(|token| token.value).collect())
    }

    fn normalise(&self, text: &str) -> Result<String, String> {
        let mut normalised = NormalizedString::from(text);
        if let Some(normaliser) = &self.normaliser {
            normaliser.normalize(&mut normalised).map_err(|error| error.to_string())?;
        }
        let mut spaced = String::with_capacity(normalised.get().len() + 4);
        let trimmed = if self.trims_spaces { normalised.get().trim_matches(' ') } else { normalised.get() };
        if self.adds_space && !trimmed.is_empty() {
            spaced.push(SPACE);
        }
        let mut after_space = false;
        for character in trimmed.chars() {
            match character {
                ' ' if after_space && self.trims_spaces => {}
                ' ' => spaced.push(SPACE),
                other => spaced.push(other),
            }
            after_space = character == ' ';
        }
        Ok(spaced)
    }

    /// The text of pieces. Control pieces vanish, the unknown piece is written ` ⁇ `.
    pub fn decode<'a>(&self, pieces: impl IntoIterator<Item = &'a str>) -> String {
        let mut bytes: Vec<u8> = Vec::new();
        let mut begun = false;
        for piece in pieces {
            let kind = self.id(piece).map_or(Kind::Normal, |id| self.pieces[id].1);
            match kind {
                Kind::Control => continue,
                Kind::Unknown => bytes.extend(" \u{2047} ".bytes()),
                Kind::Byte(byte) => bytes.push(byte),
                Kind::Normal => {
                    let piece = if begun || !self.adds_space { piece } else { piece.strip_prefix(SPACE).unwrap_or(piece) };
                    bytes.extend(piece.replace(SPACE, " ").bytes());
                }
            }
            begun = true;
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn unigram(file: &File, unknown: usize, falls_back: bool) -> Result<Search, String> {
    // Control pieces are never found in a text, even one that spells them.
    let entry = |(id, (piece, score, kind)): (usize, &(String, f64, Kind))| match kind {
        Kind::Normal | Kind::Byte(_) => (piece.clone(), *score),
        Kind::Control | Kind::Unknown => (format!("{NEVER_IN_TEXT}{id}"), 0.0),
    };
    let vocabulary = file.pieces.iter().enumerate().map(entry).collect();
    let model = Unigram::from(vocabulary, Some(unknown), falls_back).map_err(|error| error.to_string())?;
    Ok(Search::Unigram(Box::new(model)))
}

/// A piece is merged of any two pieces that make it; better pieces are merged first.
fn bpe(file: &File, unknown: usize, falls_back: bool) -> Result<Search, String> {
    let ids: HashMap<&str, usize> = file.pieces.iter().enumerate().map(|(id, (piece, ..))| (piece.as_str(), id)).collect();
    let mut merges: Vec<(f64, usize, usize, usize)> = Vec::new();
    for (id, (piece, score, kind)) in file.pieces.iter().enumerate() {
        if *kind != Kind::Normal {
            continue;
        }
        for (at, _) in piece.char_indices().skip(1) {
            if let (Some(&left), Some(&right)) = (ids.get(&piece[..at]), ids.get(&piece[at..])) {
                merges.push((*score, id, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then((a.2, a.3).cmp(&(b.2, b.3))));
    let text = |id: usize| file.pieces[id].0.clone();
    let merges: Vec<(String, String)> = merges.into_iter().map(|(_, _, left, right)| (text(left), text(right))).collect();
    let vocabulary: HashMap<String, u32> = file.pieces.iter().enumerate().map(|(id, (piece, ..))| (piece.clone(), id as u32)).collect();
    let builder = BPE::builder().vocab_and_merges(vocabulary.into_iter().collect::<Vocab>(), merges);
    let model = builder.unk_token(text(unknown)).fuse_unk(true).byte_fallback(falls_back).build();
    Ok(Search::Bpe(Box::new(model.map_err(|error| error.to_string())?)))
}

fn read(bytes: &[u8]) -> Result<File, String> {
    let mut file = File { pieces: Vec::new(), is_bpe: false, charsmap: Vec::new(), adds_space: true, trims_spaces: true };
    let (mut wrong, mut whole) = (None, false);
    let broken = |at: usize| format!("it is no SentencePiece model, or cut short: it breaks at byte {at} of {}", bytes.len());
    protobuf::walk(bytes, MAX_FIELD, |field, content| {
        let Content::Bytes(content) = content else { return };
        let read = match field {
            1 if file.pieces.len() >= MAX_PIECES => Err(format!("it has more than {MAX_PIECES} pieces")),
            1 => piece(content).map(|piece| file.pieces.push(piece)),
            2 => {
                whole = true;
                trainer(content, &mut file)
            }
            3 => normaliser(content, &mut file),
            _ => Ok(()),
        };
        if let Err(reason) = read {
            wrong.get_or_insert(reason);
        }
    })
    .map_err(broken)?;
    match wrong {
        Some(reason) => Err(reason),
        // How it was trained stands behind the pieces in every file.
        None if !whole && !file.pieces.is_empty() => Err("it is cut short: it ends with its pieces".to_owned()),
        None if file.pieces.is_empty() => Err("it is no SentencePiece model: it has no pieces".to_owned()),
        None => Ok(file),
    }
}

fn piece(bytes: &[u8]) -> Result<(String, f64, Kind), String> {
    let (mut text, mut score, mut kind) = (None, 0.0, 1);
    protobuf::walk(bytes, MAX_FIELD, |field, content| match (field, content) {
        (1, Content::Bytes(bytes)) => text = String::from_utf8(bytes.to_vec()).ok(),
        (2, Content::Fixed32(bytes)) => score = f64::from(f32::from_le_bytes(bytes)),
        (3, Content::Varint(value)) => kind = value,
        _ => {}
    })
    .map_err(|_| "a piece of it is damaged".to_owned())?;
    let text = text.filter(|text| !text.is_empty()).ok_or("a piece of it has no text")?;
    if !score.is_finite() {
        return Err(format!("its piece `{text}` has the score {score}"));
    }
    let kind = match kind {
        2 => Kind::Unknown,
        3 | 5 => Kind::Control,
        6 => {
            let byte = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).and_then(|hex| u8::from_str_radix(hex, 16).ok());
            Kind::Byte(byte.ok_or_else(|| format!("its byte piece `{text}` names no byte"))?)
        }
        _ => Kind::Normal,
    };
    Ok((text, score, kind))
}

fn trainer(bytes: &[u8], file: &mut File) -> Result<(), String> {
    let mut kind = 1;
    protobuf::walk(bytes, MAX_FIELD, |field, content| {
        if let (3, Content::Varint(value)) = (field, content) {
            kind = value;
        }
    })
    .map_err(|_| "its training data are damaged".to_owned())?;
    match kind {
        1 | 2 => file.is_bpe = kind == 2,
        _ => return Err("it is a model of words or letters; unigram and BPE are read".to_owned()),
    }
    Ok(())
}

fn normaliser(bytes: &[u8], file: &mut File) -> Result<(), String> {
    protobuf::walk(bytes, MAX_FIELD, |field, content| match (field, content) {
        (2, Content::Bytes(charsmap)) => file.charsmap = charsmap.to_vec(),
        (3, Content::Varint(value)) => file.adds_space = value != 0,
        (4, Content::Varint(value)) => file.trims_spaces = value != 0,
        _ => {}
    })
    .map_err(|_| "its normalisation is damaged".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_model_is_told() {
        for (bytes, word) in [(&b""[..], "no pieces"), (b"not a model", "breaks at byte"), (&[0x0a, 0x02, 0x0a, 0x00], "no text")] {
            let reason = SentencePiece::new(bytes).err().expect("it is none");
            assert!(reason.contains(word), "{reason}");
        }
    }
}
