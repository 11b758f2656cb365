//! Sentence embeddings: texts in, unit vectors out, whose dot product says how much two texts mean the same.
//!
//! Place: [`crate::pack::EmbeddingPack`] opens the model (the layout of Hugging Face's ONNX exports of sentence-transformers),
//! [`crate::runtime`] runs it; the server's vector collections ask. A fixed pool of low-priority threads, one model each, serves all callers;
//! short calls go before long ones, so that a search does not wait for an import. Rule: a text's vector does not depend on what else is
//! asked at the same time (but for rounding), and every queue has a limit.

mod model;
mod pool;

use std::path::PathBuf;
use std::sync::Arc;

use crate::pack::{self, EmbeddingPack, PackError};
use crate::runtime::{self, RuntimeChoice, RuntimeError};
use model::{SentenceModel, Tokens};
use pool::Pool;

/// Texts of one call; an import asks in turns.
pub const MAX_TEXTS: usize = 1_024;

/// Longest text, bytes. A model looks at a few hundred words; what is longer should be split, or most of it would not count.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Most threads.
const MAX_THREADS: usize = 64;

/// Texts in one run of the model. More save little and make others wait.
const BATCH_TEXTS: usize = 32;

/// Tokens of a run, padding included: bounds its memory (about 100 MB for a model with 12 heads).
const BATCH_TOKENS: usize = 4_096;

/// How embeddings are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedderConfig {
    /// Folder of the pack.
    pub pack: PathBuf,
    /// Which engine.
    pub runtime: RuntimeChoice,
    /// Threads, 1 to 64.
    pub threads: usize,
    /// Priority of the threads; larger is lower.
    pub nice: i32,
}

impl EmbedderConfig {
    /// One thread at the priority of speech, with whatever engine is found.
    pub fn new(pack: impl Into<PathBuf>) -> Self {
        Self { pack: pack.into(), runtime: RuntimeChoice::Auto, threads: 1, nice: 10 }
    }
}

/// Why there are no embeddings.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EmbedError {
    /// The pack cannot be used.
    #[error("{0}")]
    Pack(Arc<PackError>),
    /// The engine cannot be used, or refused.
    #[error("{0}")]
    Runtime(Arc<RuntimeError>),
    /// More texts than one call may have.
    #[error("{count} texts at once: at most {MAX_TEXTS} are taken; ask in several calls")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// A text that is too long.
    #[error("text {index} has {bytes} bytes: at most {MAX_TEXT_BYTES} are taken, and the model looks at its beginning alone; split it")]
    TooLong {
        /// Its place in the call, from 0.
        index: usize,
        /// Its length.
        bytes: usize,
    },
    /// The tokeniser refused.
    #[error("text {index} cannot be tokenised: {reason}")]
    Tokens {
        /// Its place in the call, from 0.
        index: usize,
        /// The tokeniser's words.
        reason: String,
    },
    /// Too much waits already.
    #[error("too many texts wait to be embedded: try again in a moment, or give the server more `embeddings.threads`")]
    Busy,
    /// A thread could not be started, or ended.
    #[error("the embedding threads do not run: {0}")]
    Thread(String),
}

impl From<PackError> for EmbedError {
    fn from(error: PackError) -> Self {
        Self::Pack(Arc::new(error))
    }
}

impl From<RuntimeError> for EmbedError {
    fn from(error: RuntimeError) -> Self {
        Self::Runtime(Arc::new(error))
    }
}

/// Embeds texts. Cheap to clone; the threads end with the last clone.
#[derive(Clone)]
pub struct Embedder {
    pack: Arc<EmbeddingPack>,
    pool: Arc<Pool>,
    notes: Arc<[String]>,
}

impl Embedder {
    /// Opens the pack, loads its model on every thread, and tries it.
    ///
    /// # Errors
    /// [`EmbedError`] with what is missing or wrong.
    pub fn start(config: &EmbedderConfig) -> Result<Self, EmbedError> {
        let pack = Arc::new(EmbeddingPack::open(&config.pack)?);
        let library = match &config.runtime {
            RuntimeChoice::OnnxRuntime(path) => path.as_deref(),
            _ => None,
        };
        let (runtime, fell_back) = runtime::open(&config.runtime, &pack::onnxruntime_candidates(library))?;
        let threads = config.threads.clamp(1, MAX_THREADS);
        let pool = Pool::start(threads, config.nice, || {
            let (runtime, pack) = (runtime.clone(), pack.clone());
            move || SentenceModel::load(&*runtime, &pack)
        })?;
        Ok(Self { pack, pool: Arc::new(pool), notes: fell_back.into_iter().collect() })
    }

    /// Sentences about what is missing and what is used instead, to be logged at the start.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The model's name: that of the pack's folder.
    pub fn name(&self) -> &str {
        self.pack.name()
    }

    /// Elements of a vector.
    pub fn dimensions(&self) -> usize {
        self.pack.dimensions()
    }

    /// Tokens that the model looks at; what comes after them in a text does not count.
    pub fn max_tokens(&self) -> usize {
        self.pack.max_tokens()
    }

    /// A unit vector for each text, in order. Blocks until the pool has run them.
    ///
    /// # Errors
    /// [`EmbedError`]; all texts or none.
    pub fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
        if texts.len() > MAX_TEXTS {
            return Err(EmbedError::TooMany { count: texts.len() });
        }
        if let Some((index, text)) = texts.iter().enumerate().find(|(_, text)| text.len() > MAX_TEXT_BYTES) {
            return Err(EmbedError::TooLong { index, bytes: text.len() });
        }
        let tokens = |(index, text): (usize, &String)| {
            self.pack.tokens(text).map(|ids| Tokens { index, ids }).map_err(|reason| EmbedError::Tokens { index, reason })
        };
        let tokens = texts.iter().enumerate().map(tokens).collect::<Result<Vec<_>, _>>()?;
        let mut vectors = vec![Vec::new(); texts.len()];
        for (index, vector) in self.pool.run(batches(tokens))? {
            vectors[index] = vector;
        }
        Ok(vectors)
    }
}

/// Texts of about the same length together, so that little is padded.
fn batches(mut tokens: Vec<Tokens>) -> Vec<Vec<Tokens>> {
    tokens.sort_by_key(|text| text.ids.len());
    let mut batches: Vec<Vec<Tokens>> = Vec::new();
    for text in tokens {
        // The newcomer is the longest so far: all are padded to it.
        let fits = |batch: &&mut Vec<Tokens>| batch.len() < BATCH_TEXTS && (batch.len() + 1) * text.ids.len() <= BATCH_TOKENS;
        match batches.last_mut().filter(fits) {
            Some(batch) => batch.push(text),
            None => batches.push(vec![text]),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_text_once_and_are_bounded() {
        let lengths = [256, 3, 17, 256, 4, 4, 90, 256];
        let tokens: Vec<Tokens> =
            lengths.iter().cycle().take(500).enumerate().map(|(index, n)| Tokens { index, ids: vec![0; *n] }).collect();
        let batches = batches(tokens);
        let mut seen: Vec<usize> = batches.iter().flatten().map(|text| text.index).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
        for batch in &batches {
            let longest = batch.iter().map(|text| text.ids.len()).max().unwrap();
            assert!(batch.len() <= BATCH_TEXTS && batch.len() * longest <= BATCH_TOKENS);
        }
        let padded: usize = batches.iter().map(|batch| batch.len() * batch.last().unwrap().ids.len()).sum();
        let real: usize = batches.iter().flatten().map(|text| text.ids.len()).sum();
        assert!(padded < real + real / 10, "{padded} of {real}");
    }
}
