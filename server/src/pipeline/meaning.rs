//! What segments mean: each one is a record in a collection of the vectors' engine, and a search asks it for those near to its words.
//!
//! The collection is the tenant's own like any other (`speech-...`, one for each sentence model), so that it can be asked, exported and counted by
//! the same means.

use std::collections::BTreeMap;

use auralink_infrastructure::tenant::Tenant;
use auralink_infrastructure::vector::filter::Test;
use auralink_infrastructure::vector::{Filter, Metric, Selection, Spec, Value, VectorError};
use serde::{Deserialize, Serialize};

use super::ledger::{Ledger, short};
use super::record::AudioFile;
use super::{PipelineError, Transcript};
use crate::api::ApiError;
use crate::vectors::{Asked, Given, VectorStore};

/// Segments of one write.
const BATCH: usize = 64;
/// The sentence model takes so many bytes of a text.
const MAX_TEXT: usize = 32 * 1024;

/// The index of what was said. Clones are the same one.
#[derive(Clone)]
pub struct Meaning {
    vectors: VectorStore,
    model: String,
    dimension: u32,
}

/// A segment that means something like what was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Found {
    /// `STORE:PATH` of the recording.
    pub source: String,
    /// What is said.
    pub text: String,
    /// Where it begins, milliseconds.
    pub start_ms: u64,
    /// Where it ends, milliseconds.
    pub end_ms: u64,
    /// Cosine of the two meanings: 1 for the same.
    pub score: f32,
}

impl Meaning {
    /// Over the server's sentence model and its vectors.
    ///
    /// # Errors
    /// The sentence that says what is missing.
    pub async fn open(vectors: VectorStore) -> Result<Self, String> {
        let embedder = vectors.embeddings().embedder().await.map_err(|error| error.to_string())?;
        let dimension = u32::try_from(embedder.dimensions()).map_err(|error| error.to_string())?;
        Ok(Self { model: embedder.name().to_owned(), dimension, vectors })
    }

    /// Which model: another one makes other vectors.
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    /// Where they are: another engine has none of them yet.
    pub(super) fn engine(&self) -> &'static str {
        self.vectors.service().engine()
    }

    fn collection(&self) -> String {
        format!("speech-{}", &short(&self.model)[..12])
    }

    /// Keeps what a transcript's segments mean, in place of what was kept of the same content by the same recogniser; how many.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) async fn keep(&self, tenant: &Tenant, file: &AudioFile, recogniser: &str, transcript: &Transcript) -> Result<usize, String> {
        let (service, collection) = (self.vectors.service(), self.collection());
        let words = |error: VectorError| ApiError::from(error).message;
        let fits = Filter::All(vec![is("sha256", &file.sha256), is("recogniser", recogniser)]);
        match service.delete(tenant, &collection, Selection::Filter(fits)).await {
            Err(VectorError::NotFound(_)) => {
                let made = service.create(tenant, &collection, Spec { dimension: self.dimension, metric: Metric::Cosine }).await;
                // Two files at once make it once.
                made.map(drop).or_else(|error| if matches!(error, VectorError::Exists(_)) { Ok(()) } else { Err(words(error)) })?;
            }
            deleted => drop(deleted.map_err(words)?),
        }
        let of = &short(recogniser)[..8];
        let said: Vec<_> = transcript.segments.iter().enumerate().filter(|(_, segment)| !segment.text.trim().is_empty()).collect();
        for batch in said.chunks(BATCH) {
            let records = batch.iter().map(|(number, segment)| Given {
                id: format!("{}-{of}-{number}", file.sha256),
                vector: None,
                metadata: BTreeMap::from([
                    ("sha256".to_owned(), Value::Text(file.sha256.clone())),
                    ("recogniser".into(), Value::Text(recogniser.into())),
                    ("start_ms".into(), number_of(segment.start_ms)),
                    ("end_ms".into(), number_of(segment.end_ms)),
                ]),
                document: Some(shortened(&segment.text)),
            });
            self.vectors.upsert(tenant, &collection, records.collect()).await.map_err(|error| error.message)?;
        }
        Ok(said.len())
    }

    /// The segments nearest to the words, of what one recogniser heard.
    pub(super) async fn search(
        &self,
        ledger: &Ledger,
        tenant: &Tenant,
        recogniser: &str,
        words: &str,
        limit: usize,
    ) -> Result<Vec<Found>, PipelineError> {
        let collection = self.collection();
        match self.vectors.service().describe(tenant, &collection).await {
            Err(VectorError::NotFound(_)) => return Ok(Vec::new()),
            there => drop(there.map_err(|error| PipelineError::Unavailable(ApiError::from(error).message))?),
        }
        let asked = Asked::Text(shortened(words));
        let near = self.vectors.query(tenant, &collection, asked, limit, Some(is("recogniser", recogniser)), false).await;
        let mut found = Vec::new();
        for near in near.map_err(|error| PipelineError::Unavailable(error.message))? {
            let (text, metadata) = (near.record.document.unwrap_or_default(), near.record.metadata);
            let Some(Value::Text(sha256)) = metadata.get("sha256") else { continue };
            let Some(source) = ledger.seen(tenant, sha256).await? else { continue };
            let at = |key| match metadata.get(key) {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds of a recording, written above")]
                Some(Value::Number(ms)) => *ms as u64,
                _ => 0,
            };
            found.push(Found { source, text, start_ms: at("start_ms"), end_ms: at("end_ms"), score: near.score });
        }
        Ok(found)
    }
}

fn is(key: &str, text: &str) -> Filter {
    Filter::Field { key: key.to_owned(), test: Test::In(vec![Value::Text(text.to_owned())]) }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a recording are far below 2^53")]
fn number_of(ms: u64) -> Value {
    Value::Number(ms as f64)
}

fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_letters() {
        let long = "ä".repeat(MAX_TEXT);
        assert_eq!(shortened(&long).len(), MAX_TEXT);
        assert_eq!(shortened(&format!("a{long}")).len(), MAX_TEXT - 1);
        assert_eq!(shortened("short"), "short");
    }
}
