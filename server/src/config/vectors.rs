//! The section `vectors`: which engine keeps them, and how many.

use std::path::PathBuf;

use auralink_infrastructure::secret::SecretSource;
use serde::Deserialize;

/// Where vectors are kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VectorsConfig {
    /// Which engine.
    pub engine: VectorEngine,
    /// Folder of the embedded engine; default: `vectors` in the data folder.
    pub folder: Option<PathBuf>,
    /// Where Chroma, Weaviate or Qdrant answers.
    pub url: Option<String>,
    /// Where the token (or API key) for it stands.
    pub token: Option<SecretSource>,
    /// Where pgvector's `postgres://` URL stands.
    pub database: Option<SecretSource>,
    /// Chroma's own tenant.
    pub chroma_tenant: String,
    /// Chroma's own database.
    pub chroma_database: String,
    /// How long an engine may take, 100 to 600,000 ms.
    pub timeout_ms: u64,
    /// Collections of a tenant.
    pub max_collections: usize,
    /// Records of a collection.
    pub max_records: u64,
}

impl Default for VectorsConfig {
    fn default() -> Self {
        Self {
            engine: VectorEngine::Embedded,
            folder: None,
            url: None,
            token: None,
            database: None,
            chroma_tenant: "default_tenant".into(),
            chroma_database: "default_database".into(),
            timeout_ms: 30_000,
            max_collections: 100,
            max_records: 10_000_000,
        }
    }
}

/// What keeps vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VectorEngine {
    /// In the data folder.
    Embedded,
    /// A Chroma server.
    Chroma,
    /// PostgreSQL with pgvector.
    Pgvector,
    /// A Qdrant server.
    Qdrant,
    /// A Weaviate server.
    Weaviate,
}
