//! Translation: texts in one language in, the same in another out.
//!
//! Place: [`crate::pack::TranslationPack`] opens a pack (Marian, M2M100, NLLB), [`Translator`] runs it on one thread; a fixed pool of
//! low-priority threads ([`TranslationEngine`]) serves all callers; [`clauses`] cuts speech that is still going on into pieces that can be translated. Rules:
//! what waits is bounded, and what is refused is told; of several texts that wait for the same model those of one pair are one batch.

pub mod clauses;
pub mod languages;
mod pool;
pub mod tokens;
mod translator;

use std::sync::Arc;

use crate::recogniser::primary;
pub use pool::{TranslationConfig, TranslationEngine, TranslationStats};
pub use translator::{Translation, Translator, TranslatorError};

/// Longest text of one call, characters: models look at a few hundred words.
pub const MAX_TEXT_CHARS: usize = 2_000;

/// Why there is no translation.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TranslationError {
    /// No pack has this pair.
    #[error("nothing translates from `{from}` to `{to}` here: there is {known}. Add a pack for it (ai.translation)")]
    Pair {
        /// BCP 47 tag of the text's language.
        from: String,
        /// BCP 47 tag of the language wanted.
        to: String,
        /// The pairs that there are.
        known: String,
    },
    /// A text that is too long.
    #[error("a text of {chars} characters: at most {MAX_TEXT_CHARS} are translated at once; send it sentence by sentence")]
    TooLong {
        /// Its length.
        chars: usize,
    },
    /// Too much waits already.
    #[error("too many texts wait to be translated: try again in a moment, or give the server more `ai.translation_threads`")]
    Busy,
    /// The model refused.
    #[error("the translation model cannot be run: {0}")]
    Translator(Arc<TranslatorError>),
    /// A thread could not be started, or ended.
    #[error("the translation threads do not run: {0}")]
    Thread(String),
}

impl From<TranslatorError> for TranslationError {
    fn from(error: TranslatorError) -> Self {
        Self::Translator(Arc::new(error))
    }
}

/// A language and the one that it is translated into; BCP 47 tags, whose region does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Of the text.
    pub from: String,
    /// Of its translation.
    pub to: String,
}

impl Pair {
    /// From one language to another.
    pub fn new(from: &str, to: &str) -> Self {
        Self { from: two_letters(from), to: two_letters(to) }
    }
}

/// The usual code of a language: two letters where it has them.
pub(crate) fn two_letters(code: &str) -> String {
    let names = languages::names(code);
    let short = names.iter().find(|name| name.len() == 2).cloned();
    short.unwrap_or_else(|| primary(code))
}
