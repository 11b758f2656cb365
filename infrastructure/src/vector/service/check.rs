//! Whether records are such that every engine takes them and gives them back as they were.

use std::collections::HashSet;

use super::Limits;
use crate::vector::{Metadata, Metric, Record, Spec, Value, VectorError};

/// Longest id, bytes.
const MAX_ID: usize = 256;
/// Longest key of metadata, bytes.
const MAX_KEY: usize = 128;
/// Keys of a record's metadata.
const MAX_KEYS: usize = 64;
/// Integers beyond this (2^53) are not told apart by the number type that all engines have.
const MAX_NUMBER_OF_INTEGERS: f64 = 9_007_199_254_740_992.0;
/// Numbers of a vector stay below this: their squares can then be added up.
const MAX_ABS: f32 = 1e15;

/// A batch as a whole, and each of its records.
pub fn batch(records: &[Record], spec: &Spec, limits: &Limits) -> Result<(), VectorError> {
    if records.len() > limits.batch {
        return Err(VectorError::Invalid(format!(
            "{} records in one batch: at most {} are taken, send several",
            records.len(),
            limits.batch
        )));
    }
    let (mut seen, mut bytes) = (HashSet::with_capacity(records.len()), 0);
    for (index, record) in records.iter().enumerate() {
        bytes += self::record(record, spec, limits)
            .map_err(|what| VectorError::Invalid(format!("record {index} (id {:?}) {what}", shown(&record.id))))?;
        if !seen.insert(record.id.as_str()) {
            return Err(VectorError::Invalid(format!("record {index}: the id {:?} stands twice in this batch", shown(&record.id))));
        }
    }
    if bytes > limits.batch_bytes {
        return Err(VectorError::Invalid(format!("a batch of {bytes} bytes: at most {} are taken, send several", limits.batch_bytes)));
    }
    Ok(())
}

/// One record; about how many bytes it has.
pub fn record(record: &Record, spec: &Spec, limits: &Limits) -> Result<usize, String> {
    id(&record.id)?;
    vector(&record.vector, spec).map_err(|what| format!("has a vector that {what}"))?;
    let metadata = metadata(&record.metadata, limits)?;
    let document = record.document.as_deref().unwrap_or_default();
    if document.len() > limits.document_bytes {
        return Err(format!("has a document of {} bytes: at most {} are taken", document.len(), limits.document_bytes));
    }
    if document.contains('\0') {
        return Err("has a document with a NUL in it".into());
    }
    Ok(record.id.len() + record.vector.len() * 4 + metadata + document.len())
}

/// A vector that the collection takes; says what is wrong as the end of a sentence.
pub fn vector(vector: &[f32], spec: &Spec) -> Result<(), String> {
    if vector.len() != spec.dimension as usize {
        return Err(format!("has {} numbers: the collection has dimension {}", vector.len(), spec.dimension));
    }
    if let Some((index, number)) = vector.iter().enumerate().find(|(_, number)| !number.is_finite() || number.abs() > MAX_ABS) {
        return Err(format!("holds {number} at index {index}: finite numbers up to {MAX_ABS:e} are taken"));
    }
    if spec.metric == Metric::Cosine && crate::vector::metric::length(vector) < 1e-15 {
        return Err("is zero, which has no direction: a cosine collection cannot place it".into());
    }
    Ok(())
}

/// Ids of one call.
pub fn ids(ids: &[String], limits: &Limits) -> Result<(), VectorError> {
    if ids.len() > limits.batch {
        return Err(VectorError::Invalid(format!("{} ids in one call: at most {} are taken, send several", ids.len(), limits.batch)));
    }
    ids.iter().enumerate().try_for_each(|(index, id)| self::id(id).map_err(|what| VectorError::Invalid(format!("id {index} {what}"))))
}

fn id(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > MAX_ID {
        return Err(format!("has an id of {} bytes: 1 to {MAX_ID} are taken", id.len()));
    }
    if id.chars().any(char::is_control) { Err("has an id with a control character in it".into()) } else { Ok(()) }
}

fn metadata(metadata: &Metadata, limits: &Limits) -> Result<usize, String> {
    if metadata.len() > MAX_KEYS {
        return Err(format!("has {} fields of metadata: at most {MAX_KEYS} are taken", metadata.len()));
    }
    let mut bytes = 0;
    for (key, value) in metadata {
        check_key(key).map_err(|what| format!("has a metadata field {:?} that is not taken: {what}", shown(key)))?;
        bytes += key.len() + 8;
        match value {
            Value::Number(number) if !number.is_finite() || (number.fract() == 0.0 && number.abs() > MAX_NUMBER_OF_INTEGERS) => {
                return Err(format!(
                    "has {number} in the metadata field {key:?}: finite numbers are taken, integers up to 2^53; give others as text"
                ));
            }
            Value::Text(text) if text.contains('\0') => return Err(format!("has a NUL in the metadata field {key:?}")),
            Value::Text(text) => bytes += text.len(),
            Value::Number(_) | Value::Bool(_) => {}
        }
    }
    if bytes > limits.metadata_bytes {
        Err(format!("has {bytes} bytes of metadata: at most {} are taken", limits.metadata_bytes))
    } else {
        Ok(bytes)
    }
}

/// Whether a field of metadata may be called so.
pub fn check_key(key: &str) -> Result<(), String> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(format!("a field's name has 1 to {MAX_KEY} bytes, not {}", key.len()));
    }
    if key.starts_with('$') || key.starts_with("al.") || key.starts_with("chroma:") {
        return Err("names of fields do not begin with `$`, `al.` or `chroma:`".into());
    }
    if key.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) {
        return Err("a field's name holds no control characters, quotes or backslashes".into());
    }
    Ok(())
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}
