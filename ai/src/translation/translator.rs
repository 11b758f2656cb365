//! A pack's networks on one thread: texts in, the same in another language out; equal to `transformers`' generation to the token.
//!
//! Rules: texts are translated in batches, and a text's translation does not depend on what else is in its batch; what the encoder made of a
//! text serves all target languages, where the family tells the target to the decoder.

use std::sync::Arc;

use super::tokens::TokenError;
use crate::generation::processors::{ForcedBos, ForcedEos, NoBadWords, NoRepeatNGram, Processor, Renormalise, RepetitionPenalty};
use crate::generation::{self, CachedDecoder, GenerationOptions, Sequence, Source};
use crate::pack::{TranslationDefaults, TranslationPack};
use crate::runtime::{Model, Runtime, RuntimeError, Tensor};

/// Texts in one run: more save little and hold others up.
const BATCH: usize = 16;

/// Why there is no translation.
#[derive(Debug, thiserror::Error)]
pub enum TranslatorError {
    /// A language that the pack does not know, or a text that its tokenizer refuses.
    #[error("{0}")]
    Tokens(#[from] TokenError),
    /// The engine refused.
    #[error("{0}")]
    Runtime(#[from] RuntimeError),
    /// A text that is too long.
    #[error("text {index} has {tokens} tokens: the translator takes at most {most}. Translate it sentence by sentence")]
    TooLong {
        /// Its place among the texts, from 0.
        index: usize,
        /// Its tokens.
        tokens: usize,
        /// How many are possible.
        most: usize,
    },
}

/// A translated text.
#[derive(Debug, Clone, PartialEq)]
pub struct Translation {
    /// The text.
    pub text: String,
    /// Its tokens, the end included.
    pub tokens: Vec<u32>,
    /// The search's score: larger is surer, 0 is certain.
    pub score: f32,
}

/// A pack's networks on one thread.
pub struct Translator {
    pack: Arc<TranslationPack>,
    encoder: Box<dyn Model>,
    decoder: CachedDecoder,
}

fn refused(reason: impl ToString) -> RuntimeError {
    RuntimeError::Run { runtime: "the translator", reason: reason.to_string() }
}

impl Translator {
    /// Loads a pack's graphs and compares them with what its configuration says.
    ///
    /// # Errors
    /// [`RuntimeError`] with the graph that cannot be loaded, or the tensor that is missing or of another shape.
    pub fn load(runtime: &dyn Runtime, pack: Arc<TranslationPack>) -> Result<Self, RuntimeError> {
        let encoder = runtime.load(&pack.files().encoder).map_err(|error| match error {
            RuntimeError::Load { runtime, reason } => RuntimeError::Load { runtime, reason: format!("encoder_model.onnx: {reason}") },
            other => other,
        })?;
        let has = |wanted: &str| encoder.inputs().iter().any(|input| input.name == wanted);
        if !has("input_ids") || !has("attention_mask") || encoder.inputs().len() != 2 {
            let names: Vec<&str> = encoder.inputs().iter().map(|input| input.name.as_str()).collect();
            return Err(refused(format!("encoder_model.onnx has the inputs {names:?}; it should have input_ids and attention_mask")));
        }
        if !encoder.outputs().iter().any(|output| output.name == "last_hidden_state") {
            return Err(refused("encoder_model.onnx has no output `last_hidden_state`"));
        }
        let decoder = CachedDecoder::load(runtime, &pack.files().decoder, pack.shape(), false)?;
        Ok(Self { pack, encoder, decoder })
    }

    /// The pack.
    pub fn pack(&self) -> &Arc<TranslationPack> {
        &self.pack
    }

    /// Translates texts from one language into another, as the pack does it by default. Languages are BCP 47 tags or the pack's own names.
    ///
    /// # Errors
    /// [`TranslatorError`]; all texts or none.
    pub fn translate(&mut self, texts: &[&str], source: &str, target: &str) -> Result<Vec<String>, TranslatorError> {
        let settings = self.pack.defaults().clone();
        let mut into = self.translate_into(texts, source, &[target], &settings)?;
        Ok(into.pop().unwrap_or_default().into_iter().map(|translation| translation.text).collect())
    }

    /// Translates texts into several languages: for each target, a translation of each text.
    ///
    /// # Errors
    /// [`TranslatorError`]; all or none.
    pub fn translate_into(
        &mut self,
        texts: &[&str],
        source: &str,
        targets: &[&str],
        settings: &TranslationDefaults,
    ) -> Result<Vec<Vec<Translation>>, TranslatorError> {
        let mut into: Vec<Vec<Translation>> = targets.iter().map(|_| Vec::with_capacity(texts.len())).collect();
        for (batch, texts) in texts.chunks(BATCH).enumerate() {
            let mut encoded: Option<Source> = None;
            for (target, translations) in targets.iter().zip(&mut into) {
                let forced = if self.pack.tokens().target_first() { Some(self.pack.tokens().language(target)?) } else { None };
                // Where the target stands in the text, each has its own.
                let source = match encoded.take().filter(|_| forced.is_some()) {
                    Some(source) => source,
                    None => self.encode(texts, source, target, batch * BATCH)?,
                };
                translations.extend(self.decode(&source, texts.len(), forced, settings)?);
                encoded = Some(source);
            }
        }
        Ok(into)
    }

    fn encode(&mut self, texts: &[&str], source: &str, target: &str, before: usize) -> Result<Source, TranslatorError> {
        let most = self.pack.positions();
        let mut rows = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let row = self.pack.tokens().encode(text, source, target)?;
            if row.len() > most {
                return Err(TranslatorError::TooLong { index: before + index, tokens: row.len(), most });
            }
            rows.push(row);
        }
        let length = rows.iter().map(Vec::len).max().unwrap_or_default();
        let shape = [rows.len(), length];
        let pad = self.pack.defaults().pad;
        let ids = rows.iter().flat_map(|row| (0..length).map(|at| i64::from(row.get(at).copied().unwrap_or(pad)))).collect();
        let mask = rows.iter().flat_map(|row| (0..length).map(|at| i64::from(at < row.len()))).collect();
        let mask: crate::runtime::Value = Tensor::i64(shape, mask).into();
        let inputs = vec![("input_ids", Tensor::i64(shape, ids).into()), ("attention_mask", mask.clone())];
        let mut made = self.encoder.run(inputs, &["last_hidden_state"])?;
        let hidden = made.pop().filter(|hidden| hidden.shape().get(..2) == Some(&shape));
        let hidden = hidden.ok_or_else(|| refused(format!("the encoder's output is not [{}, {length}, ...]", texts.len())))?;
        Ok(Source { hidden, mask: Some(mask) })
    }

    fn decode(
        &mut self,
        source: &Source,
        count: usize,
        target: Option<u32>,
        settings: &TranslationDefaults,
    ) -> Result<Vec<Translation>, RuntimeError> {
        let prompts = vec![vec![settings.start]; count];
        let options = GenerationOptions {
            max_length: settings.max_length.min(self.pack.positions()),
            beams: settings.beams.max(1),
            length_penalty: settings.length_penalty,
            early_stopping: settings.early_stopping,
            eos: settings.eos.clone(),
            sampling: None,
            heads: Vec::new(),
        };
        let rules = rules(settings, target, options.max_length);
        let begun = generation::begin(&mut self.decoder, source, &prompts)?;
        let sequences = generation::generate(&mut self.decoder, begun, &prompts, &rules, &options, None)?;
        let translation = |sequence: Sequence| Translation {
            text: self.pack.tokens().decode(&sequence.tokens),
            score: sequence.score,
            tokens: sequence.tokens,
        };
        Ok(sequences.into_iter().map(translation).collect())
    }
}

/// In the order of `transformers`.
fn rules(settings: &TranslationDefaults, target: Option<u32>, max_length: usize) -> Vec<Box<dyn Processor>> {
    let mut rules: Vec<Box<dyn Processor>> = Vec::new();
    if (settings.repetition_penalty - 1.0).abs() > f32::EPSILON {
        rules.push(Box::new(RepetitionPenalty(settings.repetition_penalty)));
    }
    if settings.no_repeat_ngram > 0 {
        rules.push(Box::new(NoRepeatNGram(settings.no_repeat_ngram)));
    }
    if !settings.bad_words.is_empty() {
        rules.push(Box::new(NoBadWords(settings.bad_words.clone())));
    }
    if let Some(token) = target.or(settings.forced_bos) {
        rules.push(Box::new(ForcedBos(token)));
    }
    if let Some(token) = settings.forced_eos {
        rules.push(Box::new(ForcedEos { token, max_length }));
    }
    if settings.renormalise {
        rules.push(Box::new(Renormalise));
    }
    rules
}
