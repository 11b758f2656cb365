//! Texts into vectors, for whoever asks: the server's one sentence model, started when it is first needed.
//!
//! Place in the flow: collections that are asked in words, and `/api/v1/embeddings`, stand on this; [`auralink_ai::embedding`] does the work
//! on threads of its own. Rule: a server without a sentence model runs; what needs one says what is missing.

use std::sync::Arc;

use auralink_ai::embedding::{EmbedError, Embedder, EmbedderConfig};
use auralink_ai::pack;
use tokio::sync::{OnceCell, Semaphore};

use crate::api::ApiError;
use crate::config::{AiConfig, EmbeddingsConfig};
use crate::speech;

/// Calls at once: each waits on a thread of tokio's for the pool's answer.
const CALLS_MAX: usize = 32;

/// Why there are no vectors.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EmbeddingsError {
    /// No model.
    #[error(
        "texts cannot be turned into vectors: no sentence model was found. Name its folder in `embeddings.pack` (Hugging Face's ONNX \
         export: model.onnx, tokenizer.json, config.json), or give vectors instead of texts"
    )]
    Absent,
    /// The model cannot be used.
    #[error("texts cannot be turned into vectors: {0}")]
    Unusable(EmbedError),
    /// It refused.
    #[error(transparent)]
    Refused(#[from] EmbedError),
}

impl From<EmbeddingsError> for ApiError {
    fn from(error: EmbeddingsError) -> Self {
        let message = error.to_string();
        match error {
            EmbeddingsError::Absent | EmbeddingsError::Unusable(_) => Self::failed_precondition(message),
            EmbeddingsError::Refused(error) => match error {
                EmbedError::TooMany { .. } | EmbedError::TooLong { .. } | EmbedError::Tokens { .. } => Self::invalid_argument(message),
                EmbedError::Busy => Self::resource_exhausted(message).retry_after(Some(1)),
                EmbedError::Pack(_) | EmbedError::Runtime(_) | EmbedError::Thread(_) => Self::internal(message),
            },
        }
    }
}

/// The server's sentence model. Clones share it.
#[derive(Clone)]
pub struct Embeddings {
    shared: Arc<Shared>,
}

struct Shared {
    config: Option<EmbedderConfig>,
    embedder: OnceCell<Result<Embedder, EmbedError>>,
    calls: Semaphore,
}

impl Embeddings {
    /// Of a configuration. A model that it names is loaded now, in the background; one of the cache folder when it is first needed.
    pub fn new(config: &EmbeddingsConfig, ai: &AiConfig) -> Self {
        let folder = config.pack.clone().or_else(pack::embedding_pack);
        let config_of = |pack| EmbedderConfig {
            threads: config.threads,
            runtime: speech::runtime(ai.runtime, ai.onnxruntime.clone()),
            ..EmbedderConfig::new(pack)
        };
        let shared = Shared { config: folder.map(config_of), embedder: OnceCell::new(), calls: Semaphore::new(CALLS_MAX) };
        let embeddings = Self { shared: Arc::new(shared) };
        if config.pack.is_some() {
            let early = embeddings.clone();
            // What goes wrong is logged, and told to whoever asks.
            tokio::spawn(async move { early.embedder().await.map(drop) });
        }
        embeddings
    }

    /// The model; it is loaded by the first call.
    pub async fn embedder(&self) -> Result<Embedder, EmbeddingsError> {
        let config = self.shared.config.as_ref().ok_or(EmbeddingsError::Absent)?;
        let started = self.shared.embedder.get_or_init(|| start(config.clone())).await;
        started.clone().map_err(EmbeddingsError::Unusable)
    }

    /// A unit vector for each text, in order.
    pub async fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, EmbeddingsError> {
        let embedder = self.embedder().await?;
        let _call = self.shared.calls.try_acquire().map_err(|_| {
            metrics::counter!("auralink_limit_hits_total", "limit" => "embedding_calls").increment(1);
            EmbedError::Busy
        })?;
        metrics::counter!("auralink_embedded_texts_total").increment(texts.len() as u64);
        let done = tokio::task::spawn_blocking(move || embedder.embed(&texts)).await;
        Ok(done.map_err(|error| EmbedError::Thread(error.to_string()))??)
    }
}

async fn start(config: EmbedderConfig) -> Result<Embedder, EmbedError> {
    let pack = config.pack.display().to_string();
    let started = tokio::task::spawn_blocking(move || Embedder::start(&config)).await;
    let started = started.unwrap_or_else(|error| Err(EmbedError::Thread(error.to_string())));
    match &started {
        Ok(embedder) => {
            embedder.notes().iter().for_each(|note| tracing::warn!("{note}"));
            tracing::info!(pack, dimensions = embedder.dimensions(), max_tokens = embedder.max_tokens(), "the sentence model is loaded");
        }
        Err(error) => tracing::error!(pack, %error, "the sentence model cannot be used; the server runs without it"),
    }
    started
}
