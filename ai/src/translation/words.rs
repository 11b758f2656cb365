//! The tokenizers of the three families behind one interface: a text of a pair in, ids out, and back.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use tokenizers::Tokenizer;

use super::Pair;
use super::languages::{M2M100, three_letters, two_letters};
use crate::tokenizer::SentencePiece;

/// A family's tokenizer.
pub(crate) enum Words {
    /// opus-mt: two SentencePiece models, one vocabulary; the target's language is a token `>>xx<<` where there are several.
    Marian(Box<Marian>),
    /// M2M100: one model, languages behind the vocabulary.
    M2m100(Box<M2m100>),
    /// NLLB: `tokenizer.json`, languages as `eng_Latn`.
    Nllb(Box<Nllb>),
}

pub(crate) struct Marian {
    pub source: SentencePiece,
    pub target: SentencePiece,
    pub vocabulary: HashMap<String, i64>,
    pub pieces: Vec<String>,
    pub unknown: i64,
    pub end: i64,
    pub pad: i64,
    /// Of the pack, two letters each where they have them.
    pub from: Vec<String>,
    /// The language and its token; one without token where there is only one.
    pub to: Vec<(String, Option<i64>)>,
}

pub(crate) struct M2m100 {
    pub model: SentencePiece,
    pub vocabulary: HashMap<String, i64>,
    pub pieces: Vec<String>,
    pub unknown: i64,
    pub end: i64,
}

pub(crate) struct Nllb {
    pub tokenizer: Tokenizer,
    /// Language tokens by code (`eng_Latn`).
    pub languages: Vec<(String, i64)>,
    pub end: i64,
    /// The language behind the text, as the first versions of the tokenizer had it.
    pub legacy: bool,
}

/// A text in tokens, and what must come first in its translation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub ids: Vec<i64>,
    pub forced_bos: Option<i64>,
}

impl Words {
    /// Whether there are tokens for a pair.
    pub fn knows(&self, pair: &Pair) -> bool {
        match self {
            Self::Marian(words) => words.from.contains(&pair.from) && words.to.iter().any(|(language, _)| *language == pair.to),
            Self::M2m100(words) => pair.from != pair.to && words.language(&pair.from).is_some() && words.language(&pair.to).is_some(),
            Self::Nllb(words) => pair.from != pair.to && words.language(&pair.from).is_some() && words.language(&pair.to).is_some(),
        }
    }

    /// Every language that something is translated into.
    pub fn languages(&self) -> Vec<String> {
        match self {
            Self::Marian(words) => words.to.iter().map(|(language, _)| language.clone()).collect(),
            Self::M2m100(_) => M2M100.iter().map(ToString::to_string).collect(),
            Self::Nllb(words) => {
                let codes =
                    words.languages.iter().map(|(language, _)| two_letters(language.split('_').next().unwrap_or_default()).to_owned());
                codes.collect::<BTreeSet<_>>().into_iter().collect()
            }
        }
    }

    /// The tokens of a text.
    pub fn encode(&self, text: &str, pair: &Pair) -> Result<Source, String> {
        match self {
            Self::Marian(words) => words.encode(text, pair),
            Self::M2m100(words) => {
                let languages = words.language(&pair.from).zip(words.language(&pair.to));
                let (from, to) = languages.ok_or_else(|| format!("it has no tokens for {} and {}", pair.from, pair.to))?;
                let pieces = words.model.encode(text)?;
                let ids = pieces.iter().map(|piece| words.vocabulary.get(piece).copied().unwrap_or(words.unknown));
                Ok(Source { ids: [from].into_iter().chain(ids).chain([words.end]).collect(), forced_bos: Some(to) })
            }
            Self::Nllb(words) => {
                let languages = words.language(&pair.from).zip(words.language(&pair.to));
                let (from, to) = languages.ok_or_else(|| format!("it has no tokens for {} and {}", pair.from, pair.to))?;
                let encoding = words.tokenizer.encode_fast(text, false).map_err(|error| error.to_string())?;
                let ids = encoding.get_ids().iter().map(|id| i64::from(*id));
                let ids = if words.legacy {
                    ids.chain([words.end, from]).collect()
                } else {
                    [from].into_iter().chain(ids).chain([words.end]).collect()
                };
                Ok(Source { ids, forced_bos: Some(to) })
            }
        }
    }

    /// The text of tokens, without the special ones.
    pub fn decode(&self, ids: &[i64]) -> Result<String, String> {
        match self {
            Self::Marian(words) => {
                let plain = ids.iter().filter(|id| ![words.end, words.pad, words.unknown].contains(id));
                let pieces = plain.filter_map(|id| words.pieces.get(usize::try_from(*id).ok()?)).map(String::as_str);
                Ok(words.target.decode(pieces).replace(crate::tokenizer::sentencepiece::SPACE, " ").trim().to_owned())
            }
            Self::M2m100(words) => {
                // Beginning, padding, end and unknown are the first four of its vocabulary; languages lie behind it.
                let plain = ids.iter().filter(|id| **id > words.unknown.max(words.end));
                let pieces = plain.filter_map(|id| words.pieces.get(usize::try_from(*id).ok()?)).map(String::as_str);
                Ok(words.model.decode(pieces).trim().to_owned())
            }
            Self::Nllb(words) => {
                let ids: Vec<u32> = ids.iter().filter_map(|id| u32::try_from(*id).ok()).collect();
                words.tokenizer.decode(&ids, true).map_err(|error| error.to_string())
            }
        }
    }
}

impl Marian {
    fn encode(&self, text: &str, pair: &Pair) -> Result<Source, String> {
        let target = self.to.iter().find(|(language, _)| *language == pair.to);
        let (_, token) = target.ok_or_else(|| format!("it has no token for {}", pair.to))?;
        Ok(Source { ids: token.iter().copied().chain(self.ids(text)?).collect(), forced_bos: None })
    }

    /// The ids of a text as it is, its end included; a language may stand in front of it as `>>xx<<`.
    pub fn ids(&self, text: &str) -> Result<Vec<i64>, String> {
        let (code, text) = match text.strip_prefix(">>").and_then(|rest| rest.split_once("<<")) {
            Some((code, rest)) => (Some(format!(">>{code}<<")), rest),
            None => (None, text),
        };
        let pieces = self.source.encode(text)?;
        let id = |piece: &String| self.vocabulary.get(piece).copied().unwrap_or(self.unknown);
        Ok(code.iter().chain(&pieces).map(id).chain([self.end]).collect())
    }
}

impl M2m100 {
    fn language(&self, code: &str) -> Option<i64> {
        M2M100.iter().position(|known| *known == code).map(|index| (self.vocabulary.len() + index) as i64)
    }
}

impl Nllb {
    fn language(&self, code: &str) -> Option<i64> {
        let three = three_letters(code);
        let of = |(language, _): &&(String, i64)| language.split('_').next() == Some(three);
        let latin = |(language, _): &&(String, i64)| language.ends_with("_Latn") || language.ends_with("_Hans");
        let all = || self.languages.iter().filter(of);
        all().find(latin).or_else(|| all().next()).map(|(_, id)| *id)
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Marian(words) => {
                let to: Vec<&str> = words.to.iter().map(|(language, _)| language.as_str()).collect();
                write!(f, "{} to {}", words.from.join(", "), to.join(", "))
            }
            Self::M2m100(_) => write!(f, "any of {} languages", M2M100.len()),
            Self::Nllb(words) => write!(f, "any of {} languages", words.languages.len()),
        }
    }
}

/// The languages of an opus-mt pack: of its files' words (`en`, `eng`, or groups), and its tokens `>>xx<<`.
pub(crate) fn marian_targets(vocabulary: &HashMap<String, i64>, named: &str) -> Vec<(String, Option<i64>)> {
    let code = |piece: &str| {
        piece.strip_prefix(">>").and_then(|rest| rest.strip_suffix("<<")).map(|code| code.split('_').next().unwrap_or_default().to_owned())
    };
    let mut targets: Vec<(String, Option<i64>)> = Vec::new();
    for (piece, id) in vocabulary {
        if let Some(code) = code(piece) {
            targets.push((two_letters(&code).to_owned(), Some(*id)));
        }
    }
    targets.sort();
    targets.dedup_by(|a, b| a.0 == b.0);
    if targets.is_empty() {
        targets.push((two_letters(named).to_owned(), None));
    }
    targets
}
