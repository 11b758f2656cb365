//! A decoder's memory: keys and values of attention for a batch of rows, and what they look at.
//!
//! Rule: values stay with the engine. Rows are copied only when a batch changes; a source that all rows share is not.

use super::decoder::{Source, refused};
use crate::runtime::{RuntimeError, Tensor, Value};

/// The memory of a batch of rows.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Keys and values of the tokens so far, layer after layer, `[rows, heads, tokens, width]`.
    pub(super) keys: Vec<Value>,
    /// Keys and values of the encoder's output, `[rows or 1, heads, frames, width]`.
    pub(super) encoder: Vec<Value>,
    pub(super) source: Source,
    rows: usize,
    /// Whether one row of the source stands for all.
    shared: bool,
}

impl Memory {
    pub(super) fn new(keys: Vec<Value>, encoder: Vec<Value>, source: Source, rows: usize) -> Self {
        Self { keys, encoder, source, rows, shared: false }
    }

    /// Whether there are more rows than rows of the source.
    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Makes row `i` what row `rows[i]` was; rows may be left out and be there more than once.
    ///
    /// # Errors
    /// [`RuntimeError`] when a value is not on the processor.
    pub(super) fn select(&mut self, rows: &[usize]) -> Result<(), RuntimeError> {
        if rows.len() == self.rows && rows.iter().enumerate().all(|(to, &from)| to == from) {
            return Ok(());
        }
        let sources = if self.shared { 1 } else { self.rows };
        self.keys = self.keys.iter().map(|value| gathered(value, rows)).collect::<Result<_, _>>()?;
        self.rows = rows.len();
        if sources == 1 {
            self.shared = rows.len() > 1;
            return Ok(());
        }
        self.select_source(rows)
    }

    /// Gives each row its own copy of the source.
    pub(super) fn unshare(&mut self) -> Result<(), RuntimeError> {
        self.shared = false;
        self.select_source(&vec![0; self.rows])
    }

    fn select_source(&mut self, rows: &[usize]) -> Result<(), RuntimeError> {
        self.encoder = self.encoder.iter().map(|value| gathered(value, rows)).collect::<Result<_, _>>()?;
        self.source.hidden = gathered(&self.source.hidden, rows)?;
        self.source.mask = self.source.mask.as_ref().map(|mask| gathered(mask, rows)).transpose()?;
        Ok(())
    }
}

/// Rows of a value along its first axis.
fn gathered(value: &Value, rows: &[usize]) -> Result<Value, RuntimeError> {
    let mut shape = value.shape().to_vec();
    let size: usize = shape.iter().skip(1).product();
    if let Some(first) = shape.first_mut() {
        *first = rows.len();
    }
    if let Some(data) = value.f32() {
        let mut picked = Vec::with_capacity(rows.len() * size);
        rows.iter().for_each(|&row| picked.extend_from_slice(&data[row * size..(row + 1) * size]));
        return Ok(Tensor::f32(shape, picked).into());
    }
    let data = value.i64().ok_or_else(|| refused("a value of the cache is neither floats nor integers"))?;
    let picked = rows.iter().flat_map(|&row| data[row * size..(row + 1) * size].iter().copied()).collect();
    Ok(Tensor::i64(shape, picked).into())
}
