//! A sentence model on one thread: BERT-like encoder, masked mean, unit length.

use crate::pack::EmbeddingPack;
use crate::runtime::{Model, Runtime, RuntimeError, Tensor, Value};

/// A tokenised text.
#[derive(Debug)]
pub(super) struct Tokens {
    /// Its place in the call.
    pub index: usize,
    /// Token ids, the special ones included; never empty.
    pub ids: Vec<u32>,
}

/// Names that exporters give the token vectors `[B, T, H]`.
const OUTPUTS: [&str; 2] = ["last_hidden_state", "token_embeddings"];

/// The network and what it needs to know.
pub(super) struct SentenceModel {
    model: Box<dyn Model>,
    output: &'static str,
    /// BERT has segments; DistilBERT and MPNet do not.
    has_types: bool,
    dimensions: usize,
    pad: u32,
}

fn wrong(reason: String) -> RuntimeError {
    RuntimeError::Run { runtime: "sentence model", reason }
}

impl SentenceModel {
    /// Loads the pack's network and tries it.
    pub(super) fn load(runtime: &dyn Runtime, pack: &EmbeddingPack) -> Result<Self, RuntimeError> {
        let model = runtime.load(pack.model())?;
        let names = |infos: &[crate::runtime::TensorInfo]| infos.iter().map(|info| info.name.clone()).collect::<Vec<_>>();
        let (inputs, outputs) = (names(model.inputs()), names(model.outputs()));
        let output = OUTPUTS.into_iter().find(|name| outputs.iter().any(|o| o == name));
        let output = output.ok_or_else(|| wrong(format!("it has the outputs {outputs:?}, and none of {OUTPUTS:?}")))?;
        let known = ["input_ids", "attention_mask", "token_type_ids"];
        if let Some(input) = inputs.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(wrong(format!("it has an input `{input}`; a sentence model has {known:?}")));
        }
        let has_types = inputs.iter().any(|name| name == "token_type_ids");
        let mut loaded = Self { model, output, has_types, dimensions: pack.dimensions(), pad: pack.pad() };
        // Two of different length: what the pool will ask for.
        let ids = pack.tokens("a text to try it").map_err(wrong)?;
        loaded.run(&[Tokens { index: 0, ids: ids[..2].to_vec() }, Tokens { index: 1, ids }])?;
        Ok(loaded)
    }

    /// A unit vector for each text of a batch.
    pub(super) fn run(&mut self, batch: &[Tokens]) -> Result<Vec<Vec<f32>>, RuntimeError> {
        let length = batch.iter().map(|text| text.ids.len()).max().unwrap_or_default();
        let shape = [batch.len(), length];
        let padded = |text: &Tokens| {
            let ids = text.ids.iter().copied().chain(std::iter::repeat(self.pad)).take(length);
            ids.map(i64::from).collect::<Vec<_>>()
        };
        let ids = batch.iter().flat_map(padded).collect();
        let mask = batch.iter().flat_map(|text| (0..length).map(|at| i64::from(at < text.ids.len()))).collect();
        let mut inputs = vec![("input_ids", Tensor::i64(shape, ids).into()), ("attention_mask", Tensor::i64(shape, mask).into())];
        if self.has_types {
            inputs.push(("token_type_ids", Tensor::i64(shape, vec![0; batch.len() * length]).into()));
        }
        let outputs = self.model.run(inputs, &[self.output])?;
        let width = self.dimensions;
        let output = outputs.first().filter(|tensor| tensor.shape() == [batch.len(), length, width]);
        let hidden = output.and_then(Value::f32);
        let hidden = hidden.ok_or_else(|| wrong(format!("`{}` is not [{}, {length}, {width}]", self.output, batch.len())))?;
        batch
            .iter()
            .zip(hidden.chunks_exact(length * width))
            .map(|(text, hidden)| pooled(&hidden[..text.ids.len() * width], width))
            .collect()
    }
}

/// The mean over the text's own tokens, at unit length.
fn pooled(hidden: &[f32], width: usize) -> Result<Vec<f32>, RuntimeError> {
    let mut sums = vec![0.0_f64; width];
    for token in hidden.chunks_exact(width) {
        sums.iter_mut().zip(token).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    // The number of tokens falls out of the length.
    let norm = sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt();
    if !norm.is_finite() || norm == 0.0 {
        return Err(wrong("a text's vector has no direction (zero, or not a number)".into()));
    }
    Ok(sums.into_iter().map(|sum| (sum / norm) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_has_unit_length_and_what_has_none_is_refused() {
        assert_eq!(pooled(&[3.0, 0.0, 3.0, 8.0], 2).unwrap(), [0.6, 0.8]);
        assert!(pooled(&[0.0, 0.0], 2).is_err());
        assert!(pooled(&[f32::NAN, 1.0], 2).is_err());
        assert!(pooled(&[1.0, 0.0, -1.0, 0.0], 2).is_err());
    }
}
