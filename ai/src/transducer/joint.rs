//! Decoder and joiner on one thread: what may follow the last tokens at a frame.
//!
//! Rule: what the decoder makes of a context is kept, since most frames are blank and ask for the same again.

use std::collections::HashMap;

use crate::runtime::{Model, ModelFile, Runtime, RuntimeError, Tensor};

/// Contexts that are kept; beyond it all are forgotten.
const MAX_KEPT: usize = 4_096;

/// The last tokens before a frame.
pub type Context = Vec<i64>;

/// Decoder and joiner.
pub struct Joint {
    decoder: Box<dyn Model>,
    joiner: Box<dyn Model>,
    context: usize,
    vocabulary: usize,
    kept: HashMap<Context, Vec<f32>>,
}

fn wrong(reason: String) -> RuntimeError {
    RuntimeError::Run { runtime: "the decoder and joiner", reason }
}

impl Joint {
    /// Loads both networks. `tokens`: how many the list has.
    ///
    /// # Errors
    /// [`RuntimeError::Load`] when a tensor or a number in the metadata is missing, or the list of tokens is another model's.
    pub fn load(runtime: &dyn Runtime, decoder: &ModelFile, joiner: &ModelFile, tokens: usize) -> Result<Self, RuntimeError> {
        let lacks = |reason: String| RuntimeError::Load { runtime: "the decoder and joiner", reason };
        let metadata = decoder.metadata();
        let number = |key: &str| {
            let value = metadata.get(key).and_then(|value| value.trim().parse::<usize>().ok());
            value.ok_or_else(|| lacks(format!("the decoder has no `{key}` in its metadata")))
        };
        let (context, vocabulary) = (number("context_size")?, number("vocab_size")?);
        if !(1..=16).contains(&context) {
            return Err(lacks(format!("the decoder's `context_size` is {context}")));
        }
        if vocabulary != tokens {
            return Err(lacks(format!("the decoder has {vocabulary} tokens and tokens.txt {tokens}: it is another model's")));
        }
        let (decoder, joiner) = (runtime.load(decoder)?, runtime.load(joiner)?);
        for (model, name, is_input) in [
            (&decoder, "y", true),
            (&decoder, "decoder_out", false),
            (&joiner, "encoder_out", true),
            (&joiner, "decoder_out", true),
            (&joiner, "logit", false),
        ] {
            let tensors = if is_input { model.inputs() } else { model.outputs() };
            if !tensors.iter().any(|tensor| tensor.name == name) {
                return Err(lacks(format!("it has no {} `{name}`", if is_input { "input" } else { "output" })));
            }
        }
        Ok(Self { decoder, joiner, context, vocabulary, kept: HashMap::new() })
    }

    /// Tokens of a context.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Logits `[rows, vocabulary]` of each pair of an encoder's frame and a context.
    ///
    /// # Errors
    /// [`RuntimeError`] when a network cannot be run or gives other shapes.
    pub fn logits(&mut self, rows: &[(&[f32], Context)]) -> Result<Vec<f32>, RuntimeError> {
        self.decode(rows.iter().map(|(_, context)| context))?;
        let dimension = rows.first().map_or(0, |(frame, _)| frame.len());
        let frames: Vec<f32> = rows.iter().flat_map(|(frame, _)| frame.iter().copied()).collect();
        let contexts: Vec<f32> = rows.iter().filter_map(|(_, context)| self.kept.get(context)).flatten().copied().collect();
        let width = contexts.len() / rows.len().max(1);
        let inputs = vec![
            ("encoder_out", Tensor::f32([rows.len(), dimension], frames).into()),
            ("decoder_out", Tensor::f32([rows.len(), width], contexts).into()),
        ];
        let logits = self.joiner.run(inputs, &["logit"])?.pop().ok_or_else(|| wrong("no logits".to_owned()))?;
        let values = logits.f32().filter(|values| values.len() == rows.len() * self.vocabulary);
        values
            .map(|values| values.into_owned())
            .ok_or_else(|| wrong(format!("`logit` has the shape {:?}: is the joiner another model's?", logits.shape())))
    }

    /// Runs the decoder on the contexts that are not known yet.
    fn decode<'a>(&mut self, contexts: impl Iterator<Item = &'a Context> + Clone) -> Result<(), RuntimeError> {
        let mut fresh: Vec<&Context> = contexts.clone().filter(|context| !self.kept.contains_key(*context)).collect();
        fresh.sort();
        fresh.dedup();
        if fresh.is_empty() {
            return Ok(());
        }
        if self.kept.len() + fresh.len() > MAX_KEPT {
            self.kept.clear();
            fresh = contexts.collect();
            fresh.sort();
            fresh.dedup();
        }
        let ids: Vec<i64> = fresh.iter().flat_map(|context| context.iter().copied()).collect();
        let given = self.decoder.run(vec![("y", Tensor::i64([fresh.len(), self.context], ids).into())], &["decoder_out"])?.pop();
        let given = given.ok_or_else(|| wrong("the decoder gave nothing".to_owned()))?;
        let values = given.f32().filter(|values| values.len().is_multiple_of(fresh.len()));
        let values = values.ok_or_else(|| wrong(format!("`decoder_out` has the shape {:?}", given.shape())))?;
        let width = values.len() / fresh.len();
        for (context, row) in fresh.into_iter().zip(values.chunks_exact(width.max(1))) {
            self.kept.insert(context.clone(), row.to_vec());
        }
        Ok(())
    }
}
