//! The tokens of translators: how a text is given to an encoder, and how languages are named.

use std::collections::{BTreeSet, HashMap};

use tokenizers::Tokenizer;

use crate::tokenizer::sentencepiece::{SPACE, SentencePiece};

/// SentencePiece models and the ids of their pieces.
pub struct Pieces {
    /// Cuts what is translated.
    pub source: SentencePiece,
    /// Joins what was translated; `None`: as `source`.
    pub target: Option<SentencePiece>,
    /// Ids of pieces.
    pub words: HashMap<String, u32>,
    /// Ids of what was translated, where they are others.
    pub target_words: Option<HashMap<String, u32>>,
}

/// What stands at a text's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// `language text </s>`.
    ByEos,
    /// `text </s> language`, as the first packs of NLLB had it.
    ByLanguage,
}

enum Family {
    /// The target language is a token `>>xx<<` in front, or there is but one.
    Marian {
        pieces: Pieces,
        joined: Vec<String>,
        languages: (Option<String>, Option<String>),
    },
    M2m100 {
        pieces: Pieces,
        joined: Vec<String>,
    },
    Nllb {
        tokenizer: Box<Tokenizer>,
        ended: Ended,
    },
}

/// A translator's tokens.
pub struct TranslationTokens {
    family: Family,
    /// Names and tokens of languages, by token.
    languages: Vec<(String, u32)>,
    eos: u32,
    pad: u32,
    unknown: u32,
    count: usize,
}

/// A language that is not the pack's.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TokenError {
    /// It is not in the list.
    #[error("the translator does not know the language `{asked}`; it knows {known}")]
    Language {
        /// What was asked for.
        asked: String,
        /// Some of what there is.
        known: String,
    },
    /// The tokenizer refused.
    #[error("the text cannot be cut into tokens: {0}")]
    Text(String),
}

impl TranslationTokens {
    /// Marian's.
    ///
    /// # Errors
    /// A sentence about a token that is missing.
    pub fn marian(pieces: Pieces, languages: (Option<String>, Option<String>)) -> Result<Self, String> {
        let code = |(word, id): (&String, &u32)| Some((word.strip_prefix(">>")?.strip_suffix("<<")?.to_owned(), *id));
        let mut codes: Vec<(String, u32)> = pieces.words.iter().filter_map(code).collect();
        codes.sort_by_key(|(_, id)| *id);
        let need = |token: &str| pieces.words.get(token).copied().ok_or_else(|| format!("it has no `{token}`"));
        let (eos, pad, unknown) = (need("</s>")?, need("<pad>")?, need("<unk>")?);
        let count = count(&pieces.words);
        let joined = inverse(pieces.target_words.as_ref().unwrap_or(&pieces.words));
        Ok(Self { family: Family::Marian { pieces, joined, languages }, languages: codes, eos, pad, unknown, count })
    }

    /// M2M100's: languages come after the vocabulary, in the order of `codes`.
    ///
    /// # Errors
    /// A sentence about a token that is missing.
    pub fn m2m100(pieces: Pieces, codes: &[&str], made_up: usize) -> Result<Self, String> {
        let need = |token: &str| pieces.words.get(token).copied().ok_or_else(|| format!("it has no `{token}`"));
        let (eos, pad, unknown) = (need("</s>")?, need("<pad>")?, need("<unk>")?);
        let words = count(&pieces.words);
        let languages = codes.iter().enumerate().map(|(index, code)| ((*code).to_owned(), (words + index) as u32)).collect();
        let joined = inverse(&pieces.words);
        Ok(Self { family: Family::M2m100 { pieces, joined }, languages, eos, pad, unknown, count: words + codes.len() + made_up })
    }

    /// NLLB's.
    ///
    /// # Errors
    /// A sentence about a token that is missing.
    pub fn nllb(tokenizer: Tokenizer, ended: Ended) -> Result<Self, String> {
        let need = |token: &str| tokenizer.token_to_id(token).ok_or_else(|| format!("it has no `{token}`"));
        let (eos, pad, unknown) = (need("</s>")?, need("<pad>")?, need("<unk>")?);
        // `eng_Latn`: three letters of a language, four of a script.
        let is_language = |token: &str| {
            let parts = token.split_once('_').filter(|(language, script)| language.len() == 3 && script.len() == 4);
            parts.is_some_and(|(language, script)| (language.to_owned() + script).chars().all(|c| c.is_ascii_alphabetic()))
        };
        let added = tokenizer.get_added_tokens_decoder();
        let mut languages: Vec<(String, u32)> =
            added.iter().filter(|(_, token)| is_language(&token.content)).map(|(id, token)| (token.content.clone(), *id)).collect();
        languages.sort_by_key(|(_, id)| *id);
        if languages.is_empty() {
            return Err("it has no languages such as `eng_Latn`: it is not NLLB's tokenizer".to_owned());
        }
        let count = tokenizer.get_vocab_size(true);
        Ok(Self { family: Family::Nllb { tokenizer: Box::new(tokenizer), ended }, languages, eos, pad, unknown, count })
    }

    /// The file that holds the tokens, for errors.
    pub fn file(&self) -> &'static str {
        if matches!(self.family, Family::Nllb { .. }) { "tokenizer.json" } else { "vocab.json" }
    }

    /// How many tokens there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Ends a text.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// Fills up.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Names of the languages, as the pack has them; empty: it translates from one into one and does not say which.
    pub fn languages(&self) -> Vec<&str> {
        match &self.family {
            Family::Marian { languages: (source, target), .. } if self.languages.is_empty() => {
                source.iter().chain(target).map(String::as_str).collect()
            }
            _ => self.languages.iter().map(|(name, _)| name.as_str()).collect(),
        }
    }

    /// The token of a language, by the pack's own name or a BCP 47 tag.
    ///
    /// # Errors
    /// [`TokenError::Language`].
    pub fn language(&self, asked: &str) -> Result<u32, TokenError> {
        let own = asked.trim_start_matches(">>").trim_end_matches("<<");
        let exact = self.languages.iter().find(|(name, _)| name == own);
        let found = exact.or_else(|| {
            let wanted = super::languages::names(own);
            wanted.iter().find_map(|name| self.languages.iter().find(|(own, _)| own == name))
        });
        found.map(|(_, id)| *id).ok_or_else(|| {
            let names: Vec<&str> = self.languages.iter().map(|(name, _)| name.as_str()).take(12).collect();
            let more = if self.languages.len() > names.len() { ", ..." } else { "" };
            TokenError::Language { asked: asked.to_owned(), known: names.join(", ") + more }
        })
    }

    /// Whether there is a way from one language into another; both by two letters where they have them.
    pub fn translates(&self, from: &str, to: &str) -> bool {
        match &self.family {
            Family::Marian { languages: (source, target), .. } => {
                let is = |own: &Option<String>, asked: &str| own.as_deref().is_some_and(|own| super::two_letters(own) == asked);
                is(source, from) && (if self.languages.is_empty() { is(target, to) } else { self.language(to).is_ok() })
            }
            Family::M2m100 { .. } | Family::Nllb { .. } => from != to && self.language(from).is_ok() && self.language(to).is_ok(),
        }
    }

    /// The languages that `from` is translated into, by two letters where they have them, each once.
    pub fn targets(&self, from: &str) -> Vec<String> {
        let names: BTreeSet<String> = self.languages().into_iter().map(super::two_letters).collect();
        names.into_iter().filter(|to| self.translates(from, to)).collect()
    }

    /// What is translated, in words.
    pub fn pairs(&self) -> String {
        match &self.family {
            Family::Marian { languages: (source, _), .. } => {
                let from = source.as_deref().map(super::two_letters).unwrap_or_default();
                format!("{from} to {}", self.targets(&from).join(", "))
            }
            Family::M2m100 { .. } | Family::Nllb { .. } => format!("any of {} languages", self.languages.len()),
        }
    }

    /// Whether the target language is told to the decoder, as its first token; else it stands in front of the text or there is but one.
    pub fn target_first(&self) -> bool {
        !matches!(self.family, Family::Marian { .. })
    }

    /// A text as the encoder wants it. `target` matters to packs that put it in front; empty: as the text says.
    ///
    /// # Errors
    /// [`TokenError`] for a language that is not the pack's.
    pub fn encode(&self, text: &str, source: &str, target: &str) -> Result<Vec<u32>, TokenError> {
        match &self.family {
            Family::Marian { pieces, .. } => {
                let (code, rest) = match text.strip_prefix(">>").and_then(|rest| rest.split_once("<<")) {
                    Some((code, rest)) => (pieces.words.get(&format!(">>{code}<<")).copied().or(Some(self.unknown)), rest),
                    None if target.is_empty() || self.languages.is_empty() => (None, text),
                    None => (Some(self.language(target)?), text),
                };
                Ok(code.into_iter().chain(self.ids(pieces, rest)).chain([self.eos]).collect())
            }
            Family::M2m100 { pieces, .. } => {
                Ok([self.language(source)?].into_iter().chain(self.ids(pieces, text)).chain([self.eos]).collect())
            }
            Family::Nllb { tokenizer, ended } => {
                let language = self.language(source)?;
                let encoding = tokenizer.encode_fast(text, false).map_err(|error| TokenError::Text(error.to_string()))?;
                let (first, last) = match ended {
                    Ended::ByEos => (Some(language), vec![self.eos]),
                    Ended::ByLanguage => (None, vec![self.eos, language]),
                };
                Ok(first.into_iter().chain(encoding.get_ids().iter().copied()).chain(last).collect())
            }
        }
    }

    fn ids(&self, pieces: &Pieces, text: &str) -> Vec<u32> {
        pieces.source.encode(text).iter().map(|piece| pieces.words.get(piece).copied().unwrap_or(self.unknown)).collect()
    }

    /// The text of a translation's tokens; special ones have none.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let special = |id: u32| id == self.eos || id == self.pad;
        match &self.family {
            Family::Marian { pieces, joined, .. } => {
                let model = pieces.target.as_ref().unwrap_or(&pieces.source);
                let words = tokens.iter().filter(|&&id| !special(id) && id != self.unknown);
                let words = words.filter_map(|&id| joined.get(id as usize)).map(String::as_str);
                model.decode(words).replace(SPACE, " ").trim().to_owned()
            }
            Family::M2m100 { pieces, joined } => {
                let first = self.languages.first().map_or(u32::MAX, |(_, id)| *id);
                let words = tokens.iter().filter(|&&id| !special(id) && id != self.unknown && id < first);
                pieces.source.decode(words.filter_map(|&id| joined.get(id as usize)).map(String::as_str)).trim().to_owned()
            }
            Family::Nllb { tokenizer, .. } => tokenizer.decode(tokens, true).unwrap_or_default(),
        }
    }
}

fn count(words: &HashMap<String, u32>) -> usize {
    words.values().max().map_or(0, |&id| id as usize + 1)
}

/// Words by id; bounded by the ids that there are.
fn inverse(words: &HashMap<String, u32>) -> Vec<String> {
    // An id beyond this is no vocabulary's; the count is refused later.
    let size = count(words).min(1 << 20);
    let mut inverse = vec![String::new(); size];
    for (word, &id) in words {
        if let Some(place) = inverse.get_mut(id as usize) {
            place.clone_from(word);
        }
    }
    inverse
}
