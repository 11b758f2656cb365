//! Vectors for the faces: collections of the caller's tenant on the configured engine, asked by vector or in words.
//!
//! Place in the flow: REST and gRPC stand on this; `auralink_infrastructure::vector` checks, limits and keeps. Rule: a text becomes a vector
//! here, by the server's one sentence model, and nowhere else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use auralink_infrastructure::secret::SecretSource;
use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vector::chroma::{Chroma, Remote};
use auralink_infrastructure::vector::embedded::Embedded;
use auralink_infrastructure::vector::pgvector::PgVector;
use auralink_infrastructure::vector::qdrant::Qdrant;
use auralink_infrastructure::vector::weaviate::Weaviate;
use auralink_infrastructure::vector::{Engine, Filter, Limits, Match, Metadata, Query, Record, VectorError, Vectors};

use crate::api::ApiError;
use crate::config::{VectorEngine, VectorsConfig};
use crate::embeddings::Embeddings;

/// Vectors and what turns texts into them. Clones share both.
#[derive(Clone)]
pub struct VectorStore {
    vectors: Arc<Vectors>,
    embeddings: Embeddings,
}

/// A record as a caller gives it: without a vector, its document is turned into one.
#[derive(Debug)]
pub struct Given {
    /// Its id.
    pub id: String,
    /// Its vector.
    pub vector: Option<Vec<f32>>,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its document.
    pub document: Option<String>,
}

/// What to look for: a vector, or a text that becomes one.
#[derive(Debug)]
pub enum Asked {
    /// Near to this.
    Vector(Vec<f32>),
    /// Near to what this means.
    Text(String),
}

/// Why the engine cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A secret cannot be read.
    #[error("vectors: {0}")]
    Secret(#[from] auralink_infrastructure::secret::SecretError),
    /// The engine refuses.
    #[error(transparent)]
    Engine(#[from] VectorError),
    /// Something is not set.
    #[error("vectors.{key} is not set: the engine `{engine}` needs it")]
    Missing {
        /// Which key.
        key: &'static str,
        /// Which engine.
        engine: &'static str,
    },
}

impl VectorStore {
    /// The configured engine. Remote ones are not asked yet: a server starts without them, and says so when they are needed.
    pub fn open(config: &VectorsConfig, data_dir: &Path, embeddings: Embeddings) -> Result<Self, SetupError> {
        let limits = Limits { collections: config.max_collections, records: config.max_records, ..Limits::default() };
        let engine = engine(config, data_dir)?;
        Ok(Self { vectors: Arc::new(Vectors::new(engine, limits)), embeddings })
    }

    /// The service, for what needs no text.
    pub fn service(&self) -> &Vectors {
        &self.vectors
    }

    /// What turns texts into vectors.
    pub fn embeddings(&self) -> &Embeddings {
        &self.embeddings
    }

    /// Writes records; those without a vector get one of their document.
    pub async fn upsert(&self, tenant: &Tenant, collection: &str, given: Vec<Given>) -> Result<(), ApiError> {
        let mut texts = Vec::new();
        for (index, record) in given.iter().enumerate().filter(|(_, record)| record.vector.is_none()) {
            match &record.document {
                Some(document) if !document.is_empty() => texts.push(document.clone()),
                _ => return Err(ApiError::invalid_argument(format!("record {index} has neither a vector nor a document: give one"))),
            }
        }
        let mut vectors = if texts.is_empty() { Vec::new() } else { self.embed(tenant, collection, texts).await? }.into_iter();
        let record = |given: Given| {
            let vector = given.vector.or_else(|| vectors.next()).unwrap_or_default();
            Record { id: given.id, vector, metadata: given.metadata, document: given.document }
        };
        Ok(self.vectors.upsert(tenant, collection, given.into_iter().map(record).collect()).await?)
    }

    /// The nearest records.
    pub async fn query(
        &self,
        tenant: &Tenant,
        collection: &str,
        asked: Asked,
        k: usize,
        filter: Option<Filter>,
        with_vectors: bool,
    ) -> Result<Vec<Match>, ApiError> {
        let vector = match asked {
            Asked::Vector(vector) => vector,
            Asked::Text(text) => self.embed(tenant, collection, vec![text]).await?.pop().unwrap_or_default(),
        };
        Ok(self.vectors.query(tenant, collection, Query { vector, k, filter, with_vectors }).await?)
    }

    /// Texts into vectors, after a look at whether the collection can take what the model makes.
    async fn embed(&self, tenant: &Tenant, collection: &str, texts: Vec<String>) -> Result<Vec<Vec<f32>>, ApiError> {
        let takes = self.vectors.describe(tenant, collection).await?.spec.dimension;
        let embedder = self.embeddings.embedder().await?;
        if embedder.dimensions() != takes as usize {
            return Err(ApiError::failed_precondition(format!(
                "the sentence model `{}` makes vectors of {} numbers, the collection `{collection}` takes {takes}: give vectors instead of texts, or \
                 create a collection of dimension {}",
                embedder.name(),
                embedder.dimensions(),
                embedder.dimensions()
            )));
        }
        Ok(self.embeddings.embed(texts).await?)
    }
}

fn engine(config: &VectorsConfig, data_dir: &Path) -> Result<Arc<dyn Engine>, SetupError> {
    let timeout = Duration::from_millis(config.timeout_ms);
    let read = |source: &Option<SecretSource>| source.as_ref().map(SecretSource::read).transpose();
    let remote = |engine| {
        let url = config.url.clone().ok_or(SetupError::Missing { key: "url", engine })?;
        Ok::<_, SetupError>(Remote { url, token: read(&config.token)?, timeout })
    };
    Ok(match config.engine {
        VectorEngine::Embedded => Arc::new(Embedded::open(&config.folder.clone().unwrap_or_else(|| data_dir.join("vectors")))?),
        VectorEngine::Chroma => Arc::new(Chroma::new(remote("chroma")?, &config.chroma_tenant, &config.chroma_database)?),
        VectorEngine::Qdrant => Arc::new(Qdrant::new(remote("qdrant")?)?),
        VectorEngine::Weaviate => Arc::new(Weaviate::new(remote("weaviate")?)?),
        VectorEngine::Pgvector => {
            let url = read(&config.database)?.ok_or(SetupError::Missing { key: "database", engine: "pgvector" })?;
            Arc::new(PgVector::new(&url, timeout)?)
        }
    })
}

impl From<VectorError> for ApiError {
    fn from(error: VectorError) -> Self {
        let message = error.to_string();
        match error {
            VectorError::NotFound(_) => Self::not_found(message),
            VectorError::Exists(_) => Self::already_exists(message),
            VectorError::Invalid(_) => Self::invalid_argument(message),
            VectorError::Exhausted(_) | VectorError::DiskFull { .. } => Self::resource_exhausted(message),
            VectorError::Late { .. } => Self::deadline_exceeded(message),
            // The engine's words may name hosts and paths: for the operator.
            VectorError::Unavailable { .. } | VectorError::InUse { .. } => {
                tracing::error!(error = message, "the vectors' engine cannot be used");
                Self::unavailable("the vectors' engine cannot be used now: the server's log says why").retry_after(Some(1))
            }
            VectorError::Engine { .. } => {
                tracing::error!(error = message, "the vectors' engine failed");
                Self::internal("the vectors' engine failed: the server's log says how")
            }
        }
    }
}
