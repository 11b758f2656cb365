//! The networks of Marian, M2M100 and NLLB on one thread: an encoder, and a decoder that generates.

use std::sync::Arc;

use super::words::Words;
use super::{Pair, TranslationPack, Translator};
use crate::generation::{Decoder, Encoded, GenerationConfig, Sequence, generate};
use crate::runtime::{Model, ModelFile, Runtime, RuntimeError, Tensor};

/// The files of a pack, opened.
pub(crate) struct Seq2SeqPack {
    pub name: String,
    pub words: Words,
    pub encoder: ModelFile,
    /// Merged, or that of the first step.
    pub decoder: ModelFile,
    /// That of later steps, where it is split.
    pub later: Option<ModelFile>,
    pub generation: GenerationConfig,
    pub vocabulary: usize,
    /// Heads of the decoder and their size.
    pub heads: [usize; 2],
    /// Most tokens of a text.
    pub max_tokens: usize,
}

/// A pack of Marian, M2M100 or NLLB.
pub struct Seq2SeqTranslation(pub(crate) Arc<Seq2SeqPack>);

impl Seq2SeqTranslation {
    /// The tokens of a text; for Marian a target's language may stand in front of it as `>>xx<<`.
    ///
    /// # Errors
    /// The tokenizer's words, or that it does not know the pair.
    pub fn tokens(&self, text: &str, pair: &Pair) -> Result<Vec<i64>, String> {
        match &self.0.words {
            Words::Marian(words) => words.ids(text),
            words => words.encode(text, pair).map(|source| source.ids),
        }
    }

    /// The token that must come first in a translation into the pair's language.
    pub fn forced_bos(&self, pair: &Pair) -> Option<i64> {
        self.0.words.encode("", pair).ok().and_then(|source| source.forced_bos)
    }

    /// The text of tokens, without the special ones.
    ///
    /// # Errors
    /// The tokenizer's words.
    pub fn text(&self, tokens: &[i64]) -> Result<String, String> {
        self.0.words.decode(tokens)
    }

    /// How the pack generates.
    pub fn generation(&self) -> &GenerationConfig {
        &self.0.generation
    }
}

impl TranslationPack for Seq2SeqTranslation {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn translates(&self, pair: &Pair) -> bool {
        self.0.words.knows(pair)
    }

    fn targets(&self, from: &str) -> Vec<String> {
        let mut targets = self.0.words.languages();
        targets.retain(|to| self.translates(&Pair::new(from, to)));
        targets
    }

    fn pairs(&self) -> String {
        self.0.words.to_string()
    }

    fn load(&self, runtime: &dyn Runtime) -> Result<Box<dyn Translator>, RuntimeError> {
        Ok(Box::new(Seq2SeqTranslator::load(self, runtime)?))
    }
}

/// The networks of a pack on one thread.
pub struct Seq2SeqTranslator {
    pack: Arc<Seq2SeqPack>,
    encoder: Box<dyn Model>,
    decoder: Decoder,
}

fn wrong(reason: String) -> RuntimeError {
    RuntimeError::Run { runtime: "the translation model", reason }
}

impl Seq2SeqTranslator {
    /// Loads the networks and translates one token, so that a pack that does not fit is found here.
    ///
    /// # Errors
    /// [`RuntimeError`] when a network cannot be loaded or has other shapes than the pack says.
    pub fn load(pack: &Seq2SeqTranslation, runtime: &dyn Runtime) -> Result<Self, RuntimeError> {
        let pack = pack.0.clone();
        let later = pack.later.as_ref().map(|file| runtime.load(file)).transpose()?;
        let decoder = Decoder::new(runtime.load(&pack.decoder)?, later, pack.vocabulary, pack.heads)?;
        let mut translator = Self { encoder: runtime.load(&pack.encoder)?, decoder, pack };
        let short = GenerationConfig { max_length: 4, num_beams: 2, ..translator.pack.generation.clone() };
        let end = short.eos_token_ids[0];
        translator.generate(&[vec![end], vec![end, end]], &short)?;
        Ok(translator)
    }

    /// Generates for rows of tokens; shorter ones are padded.
    ///
    /// # Errors
    /// [`RuntimeError`] when a network cannot be run.
    pub fn generate(&mut self, rows: &[Vec<i64>], config: &GenerationConfig) -> Result<Vec<Sequence>, RuntimeError> {
        let longest = rows.iter().map(Vec::len).max().unwrap_or_default();
        if longest == 0 || longest > self.pack.max_tokens {
            return Err(wrong(format!(
                "a text of {longest} tokens: 1 to {} are translated at once; send it sentence by sentence",
                self.pack.max_tokens
            )));
        }
        let padded = |row: &Vec<i64>| row.iter().copied().chain(std::iter::repeat(config.pad_token_id)).take(longest).collect::<Vec<_>>();
        let ids = rows.iter().flat_map(padded).collect();
        let mask = rows.iter().flat_map(|row| (0..longest).map(|at| i64::from(at < row.len()))).collect();
        let shape = [rows.len(), longest];
        let mask = crate::runtime::Value::from(Tensor::i64(shape, mask));
        let inputs = vec![("input_ids", Tensor::i64(shape, ids).into()), ("attention_mask", mask.clone())];
        let hidden = self.encoder.run(inputs, &["last_hidden_state"])?.pop();
        let hidden = hidden.ok_or_else(|| wrong("its encoder gave nothing".to_owned()))?;
        let prompts = vec![vec![config.decoder_start_token_id]; rows.len()];
        generate(&mut self.decoder, &Encoded { hidden, mask: Some(mask) }, &prompts, config, config)
    }
}

impl Translator for Seq2SeqTranslator {
    fn translate(&mut self, texts: &[&str], pair: &Pair) -> Result<Vec<String>, RuntimeError> {
        let mut config = self.pack.generation.clone();
        let mut rows = Vec::new();
        let mut places = Vec::new();
        for (place, text) in texts.iter().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
            let source = self.pack.words.encode(text, pair).map_err(wrong)?;
            config.forced_bos_token_id = source.forced_bos.or(config.forced_bos_token_id);
            rows.push(source.ids);
            places.push(place);
        }
        let mut translations = vec![String::new(); texts.len()];
        if rows.is_empty() {
            return Ok(translations);
        }
        for (place, sequence) in places.into_iter().zip(self.generate(&rows, &config)?) {
            translations[place] = self.pack.words.decode(&sequence.tokens).map_err(wrong)?;
        }
        Ok(translations)
    }
}
