//! Vectors: collections of records (id, vector, metadata, document) that are found again by nearness.
//!
//! Place: [`service::Vectors`] (tenants, limits, quotas) stands on [`Engine`]s, one file each; faces stand on the service. Rule: what an
//! upsert or a deletion acknowledged is durable in the engine and seen by the next query; a query's answer is complete, indexed yet or not.

pub mod address;
pub mod chroma;
pub mod embedded;
pub mod filter;
mod http;
pub mod metric;
pub mod pgvector;
pub mod qdrant;
pub mod service;
pub mod transfer;
pub mod weaviate;

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use address::Address;
pub use filter::Filter;
pub use metric::Metric;
pub use service::{Limits, Vectors};

/// A value of a record's metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A finite number.
    Number(f64),
    /// A text.
    Text(String),
}

/// What is known of a record beside its vector.
pub type Metadata = BTreeMap<String, Value>;

/// One entry of a collection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its name, unique in the collection.
    pub id: String,
    /// As many finite numbers as the collection has dimensions.
    pub vector: Vec<f32>,
    /// What filters see.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: Metadata,
    /// The text that the vector stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
}

/// What a collection is made as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Numbers of a vector.
    pub dimension: u32,
    /// What near means.
    pub metric: Metric,
}

/// A collection as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    /// Whose, and its name.
    pub address: Address,
    /// As it was made.
    pub spec: Spec,
    /// Records in it.
    pub count: u64,
}

/// What to look for.
#[derive(Debug, Clone)]
pub struct Query {
    /// Near to this.
    pub vector: Vec<f32>,
    /// At most so many.
    pub k: usize,
    /// Only among records that this fits.
    pub filter: Option<Filter>,
    /// Whether matches carry their vectors.
    pub with_vectors: bool,
}

/// A record that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Match {
    /// The record; its vector is empty unless asked for.
    pub record: Record,
    /// Larger is nearer: cosine similarity, inner product, or 1 / (1 + distance) for euclidean. See [`Metric::score`].
    pub score: f32,
    /// Smaller is nearer: 1 - cosine similarity, the negative inner product, or the euclidean distance (not squared).
    pub distance: f32,
}

/// Which records to delete.
#[derive(Debug, Clone)]
pub enum Selection {
    /// These; ids that are not there are passed over.
    Ids(Vec<String>),
    /// Those that it fits.
    Filter(Filter),
}

/// A part of a collection.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// In the engine's order, which does not change while records stay.
    pub records: Vec<Record>,
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
}

/// Something that keeps vectors. What it is given was checked by the service: dimensions fit, numbers are finite, ids of a batch differ.
#[async_trait]
pub trait Engine: Send + Sync {
    /// `embedded`, `chroma`, `pgvector`, `qdrant`, `weaviate`.
    fn name(&self) -> &'static str;

    /// Makes a collection; [`VectorError::Exists`] when there is one of this address.
    async fn create(&self, address: &Address, spec: &Spec) -> Result<(), VectorError>;

    /// Deletes a collection with all its records.
    async fn destroy(&self, address: &Address) -> Result<(), VectorError>;

    /// The collections of a tenant, in the order of their names.
    async fn list(&self, tenant: &crate::tenant::Tenant) -> Result<Vec<Collection>, VectorError>;

    /// One collection.
    async fn describe(&self, address: &Address) -> Result<Collection, VectorError>;

    /// Writes records, all or none; durable when it returns. A record whose id is there is replaced whole.
    async fn upsert(&self, address: &Address, records: Vec<Record>) -> Result<(), VectorError>;

    /// Deletes records, durable when it returns.
    async fn delete(&self, address: &Address, selection: &Selection) -> Result<(), VectorError>;

    /// The records of these ids, in the order asked for; ids that are not there are passed over.
    async fn get(&self, address: &Address, ids: &[String]) -> Result<Vec<Record>, VectorError>;

    /// The nearest records, nearest first.
    async fn query(&self, address: &Address, query: &Query) -> Result<Vec<Match>, VectorError>;

    /// A page of at most `limit` records, from the beginning or from [`Page::next`].
    async fn page(&self, address: &Address, from: Option<&str>, limit: usize) -> Result<Page, VectorError>;
}

/// Why something with vectors did not work.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// There is no such collection.
    #[error("there is no collection {0:?}: create it first")]
    NotFound(String),
    /// There is one already.
    #[error("there is a collection {0:?} already")]
    Exists(String),
    /// What was asked for is not right.
    #[error("{0}")]
    Invalid(String),
    /// A limit of the tenant or of the server is reached.
    #[error("{0}")]
    Exhausted(String),
    /// The engine cannot be reached, or refuses.
    #[error("the vector engine `{engine}` cannot be used: {reason}")]
    Unavailable {
        /// Which.
        engine: &'static str,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The engine took too long.
    #[error("the vector engine `{engine}` did not answer within {} s: what was asked may have happened or not; upserts can be repeated", .after.as_secs())]
    Late {
        /// Which.
        engine: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The engine failed.
    #[error("the vector engine `{engine}` failed: {reason}")]
    Engine {
        /// Which.
        engine: &'static str,
        /// Its words.
        reason: String,
    },
    /// The disk is full.
    #[error("the disk of {path} is full: nothing of this was written; make room, then repeat it")]
    DiskFull {
        /// Which folder.
        path: String,
    },
    /// Another process has the folder.
    #[error("the vector folder {path} is in use by another process: stop it, or give this one a folder of its own")]
    InUse {
        /// Which.
        path: String,
    },
}

/// Records in the order that their ids were asked for in.
fn in_order(ids: &[String], records: Vec<Record>) -> Vec<Record> {
    let mut found: std::collections::HashMap<String, Record> = records.into_iter().map(|record| (record.id.clone(), record)).collect();
    ids.iter().filter_map(|id| found.remove(id)).collect()
}

fn no_page() -> VectorError {
    VectorError::Invalid("that is no beginning of a page: give the `next` of the page before".into())
}
