//! Translation: texts in one language in, the same in another out.
//!
//! Place: packs of translation models ([`TranslationPack`]) are opened by [`crate::pack`]; a fixed pool of low-priority threads
//! ([`TranslationEngine`]) serves all callers; [`clauses`] cuts speech that is still going on into pieces that can be translated. Rules:
//! what waits is bounded, and what is refused is told; of several texts that wait for the same model those of one pair are one batch.

pub mod clauses;
mod languages;
mod model;
mod pool;
pub(crate) mod words;

use std::sync::Arc;

use crate::recogniser::primary;
use crate::runtime::{Runtime, RuntimeError};
pub(crate) use model::Seq2SeqPack;
pub use model::{Seq2SeqTranslation, Seq2SeqTranslator};
pub use pool::{TranslationConfig, TranslationEngine, TranslationStats};

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
    Runtime(Arc<RuntimeError>),
    /// A thread could not be started, or ended.
    #[error("the translation threads do not run: {0}")]
    Thread(String),
}

impl From<RuntimeError> for TranslationError {
    fn from(error: RuntimeError) -> Self {
        Self::Runtime(Arc::new(error))
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
    languages::two_letters(&primary(code)).to_owned()
}

/// An opened pack of translation: constant, shared by all threads.
pub trait TranslationPack: Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// Whether it translates this pair.
    fn translates(&self, pair: &Pair) -> bool;

    /// The languages that it translates `from` into.
    fn targets(&self, from: &str) -> Vec<String>;

    /// What it translates, in words (`en to de`, `any of 100 languages`).
    fn pairs(&self) -> String;

    /// Loads the networks for one thread and tries them.
    ///
    /// # Errors
    /// [`RuntimeError`] when a network cannot be loaded or has other shapes than the pack says.
    fn load(&self, runtime: &dyn Runtime) -> Result<Box<dyn Translator>, RuntimeError>;
}

/// The networks of a translation pack on one thread.
pub trait Translator: Send {
    /// Translates texts of one pair, in order; an empty text stays empty.
    ///
    /// # Errors
    /// [`RuntimeError`] when a network cannot be run.
    fn translate(&mut self, texts: &[&str], pair: &Pair) -> Result<Vec<String>, RuntimeError>;
}
