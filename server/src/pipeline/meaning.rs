//! What segments mean: each one's sentence embedding is kept with its transcript, and a search compares them all with its words'.
//!
//! Exact and without an index: the vectors of a tenant are read once and kept in memory, within a limit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use auralink_infrastructure::tenant::Tenant;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use super::record::{AudioFile, Step};
use super::{PipelineError, Transcript};
use crate::embeddings::Embeddings;

/// Segments of one tenant that a search looks at: 100,000 take 150 MB.
const MAX_SEGMENTS: usize = 100_000;
/// Contents whose vectors stay in memory.
const MAX_HELD: usize = 2_000;
/// Segments embedded in one call.
const BATCH: usize = 64;
/// The sentence model takes so many bytes of a text.
const MAX_TEXT: usize = 32 * 1024;

/// The sentence model. Clones are the same one.
#[derive(Clone)]
pub struct Meaning {
    embeddings: Embeddings,
    model: String,
    held: Arc<Mutex<HashMap<String, Arc<Vectors>>>>,
}

/// Vectors of one transcript.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Vectors {
    /// One for each of `segments`, `f32` in little endian, base64.
    vectors: Vec<String>,
    segments: Vec<Said>,
    #[serde(skip)]
    numbers: Vec<Vec<f32>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Said {
    text: String,
    start_ms: u64,
    end_ms: u64,
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
    /// Over the server's sentence model.
    ///
    /// # Errors
    /// The sentence that says what is missing.
    pub async fn open(embeddings: Embeddings) -> Result<Self, String> {
        let model = embeddings.embedder().await.map_err(|error| error.to_string())?.name().to_owned();
        Ok(Self { embeddings, model, held: Arc::default() })
    }

    /// Which model: another one makes other vectors.
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    /// The vectors of a transcript.
    pub(super) async fn of(&self, transcript: &Transcript) -> Result<Vectors, String> {
        let segments: Vec<Said> = transcript
            .segments
            .iter()
            .map(|segment| Said { text: shortened(&segment.text), start_ms: segment.start_ms, end_ms: segment.end_ms })
            .collect();
        let mut vectors = Vec::with_capacity(segments.len());
        for batch in segments.chunks(BATCH) {
            let texts = batch.iter().map(|said| said.text.clone()).collect();
            let embedded = self.embeddings.embed(texts).await.map_err(|error| error.to_string())?;
            vectors.extend(embedded.iter().map(|vector| encoded(vector)));
        }
        Ok(Vectors { vectors, segments, numbers: Vec::new() })
    }

    /// Compares the words with every segment.
    pub(super) async fn search(
        &self,
        ledger: &Ledger,
        tenant: &Tenant,
        files: &[(AudioFile, Step)],
        words: &str,
        limit: usize,
    ) -> Result<Vec<Found>, PipelineError> {
        let asked = self.embeddings.embed(vec![shortened(words)]).await.map_err(|error| PipelineError::Unavailable(error.to_string()))?;
        let asked = asked.into_iter().next().unwrap_or_default();
        let (mut found, mut looked) = (Vec::new(), 0);
        for (file, step) in files {
            let Some(vectors) = self.vectors(ledger, tenant, file, step).await? else { continue };
            looked += vectors.segments.len();
            if looked > MAX_SEGMENTS {
                let words = format!("there are more than {MAX_SEGMENTS} segments, which is as many as a search looks at");
                return Err(PipelineError::Unavailable(words));
            }
            found.extend(vectors.segments.iter().zip(&vectors.numbers).map(|(said, vector)| Found {
                source: file.source.clone(),
                text: said.text.clone(),
                start_ms: said.start_ms,
                end_ms: said.end_ms,
                score: vector.iter().zip(&asked).map(|(a, b)| a * b).sum(),
            }));
        }
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found.truncate(limit);
        Ok(found)
    }

    async fn vectors(
        &self,
        ledger: &Ledger,
        tenant: &Tenant,
        file: &AudioFile,
        step: &Step,
    ) -> Result<Option<Arc<Vectors>>, PipelineError> {
        // The hash of the result names it whoever's it is.
        let Some(key) = step.result_sha256.clone() else { return Ok(None) };
        if let Some(held) = self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned() {
            return Ok(Some(held));
        }
        let Some(mut vectors) = ledger.result::<Vectors>(tenant, &file.sha256, step).await? else { return Ok(None) };
        vectors.numbers = std::mem::take(&mut vectors.vectors).iter().map(|text| decoded(text)).collect();
        let vectors = Arc::new(vectors);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= MAX_HELD {
            held.clear();
        }
        held.insert(key, vectors.clone());
        Ok(Some(vectors))
    }
}

impl Vectors {
    pub(super) fn count(&self) -> usize {
        self.segments.len()
    }
}

fn shortened(text: &str) -> String {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text[..end].to_owned()
}

fn encoded(vector: &[f32]) -> String {
    BASE64_STANDARD.encode(vector.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())
}

fn decoded(text: &str) -> Vec<f32> {
    let bytes = BASE64_STANDARD.decode(text).unwrap_or_default();
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_back_and_long_texts_are_cut_between_letters() {
        let vector = vec![0.5, -1.25, f32::MIN_POSITIVE];
        assert_eq!(decoded(&encoded(&vector)), vector);
        let long = "ä".repeat(MAX_TEXT);
        assert_eq!(shortened(&long).len(), MAX_TEXT);
        assert_eq!(shortened(&format!("a{long}")).len(), MAX_TEXT - 1);
    }
}
