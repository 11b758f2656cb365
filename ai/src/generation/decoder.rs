//! A decoder exported by Optimum, with its cache: one network for all steps (merged), or one for the first and one for the others.
//!
//! Tensors: `input_ids [B, T]`, `encoder_hidden_states [B, S, d]`, `encoder_attention_mask [B, S]` where the family has it,
//! `past_key_values.{i}.{decoder|encoder}.{key|value} [B, H, P, D]`, `use_cache_branch [1]` (merged) -> `logits [B, T, V]`,
//! `present.{i}...`. Rules: bound by name; the encoder's keys and values are those of the first step; no cache is copied but to put its
//! rows into another order.

use std::borrow::Cow;

use crate::runtime::{Model, RuntimeError, Tensor, Value};

/// What an encoder made of its input.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// `[B, S, d]`.
    pub hidden: Value,
    /// `[B, S]`, 1 for what counts; for families that have it.
    pub mask: Option<Value>,
}

impl Encoded {
    /// Rows in another order, or several times.
    pub fn gather(&self, rows: &[usize]) -> Result<Self, RuntimeError> {
        Ok(Self { hidden: gather(&self.hidden, rows)?, mask: self.mask.as_ref().map(|mask| gather(mask, rows)).transpose()? })
    }
}

/// Keys and values of the steps so far.
#[derive(Debug, Clone)]
pub struct Cache {
    /// For each layer: key and value.
    decoder: Vec<[Value; 2]>,
    encoder: Vec<[Value; 2]>,
    rows: usize,
}

impl Cache {
    /// Sequences in it.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows in another order, or several times. `same_input`: each row goes to a sequence of the same encoder's input, so that only what
    /// was generated moves.
    ///
    /// # Errors
    /// [`RuntimeError::Run`] for a row that is not there.
    pub fn gather(&mut self, rows: &[usize], same_input: bool) -> Result<(), RuntimeError> {
        let in_place = rows.len() == self.rows && rows.iter().enumerate().all(|(index, row)| index == *row);
        if in_place {
            return Ok(());
        }
        for pair in &mut self.decoder {
            *pair = [gather(&pair[0], rows)?, gather(&pair[1], rows)?];
        }
        if !same_input || rows.len() != self.rows {
            for pair in &mut self.encoder {
                *pair = [gather(&pair[0], rows)?, gather(&pair[1], rows)?];
            }
        }
        self.rows = rows.len();
        Ok(())
    }
}

/// Rows of a tensor along its first axis.
fn gather(value: &Value, rows: &[usize]) -> Result<Value, RuntimeError> {
    let (&count, rest) = value.shape().split_first().ok_or_else(|| wrong("a cache without rows".to_owned()))?;
    if let Some(row) = rows.iter().find(|row| **row >= count) {
        return Err(wrong(format!("row {row} of {count}")));
    }
    let size: usize = rest.iter().product();
    let shape: Vec<usize> = std::iter::once(rows.len()).chain(rest.iter().copied()).collect();
    if let Some(elements) = value.i64() {
        let elements: Cow<'_, [i64]> = elements;
        return Ok(Tensor::i64(shape, rows.iter().flat_map(|row| &elements[row * size..(row + 1) * size]).copied().collect()).into());
    }
    let elements = value.f32().ok_or_else(|| wrong("a cache that is neither of floats nor of integers".to_owned()))?;
    let mut gathered = Vec::with_capacity(rows.len() * size);
    rows.iter().for_each(|row| gathered.extend_from_slice(&elements[row * size..(row + 1) * size]));
    Ok(Tensor::f32(shape, gathered).into())
}

fn wrong(reason: String) -> RuntimeError {
    RuntimeError::Run { runtime: "the decoder", reason }
}

/// The names of one layer's tensors.
struct Layer {
    /// Key and value, as inputs.
    past: [String; 2],
    /// Key and value, as outputs.
    present: [String; 2],
}

impl Layer {
    fn new(index: usize, side: &str) -> Self {
        let name = |prefix: &str, what: &str| format!("{prefix}.{index}.{side}.{what}");
        Self {
            past: ["key", "value"].map(|what| name("past_key_values", what)),
            present: ["key", "value"].map(|what| name("present", what)),
        }
    }
}

/// A decoder on one thread.
pub struct Decoder {
    first: Box<dyn Model>,
    /// The network of later steps; without it `first` is merged and does them too.
    later: Option<Box<dyn Model>>,
    decoder: Vec<Layer>,
    encoder: Vec<Layer>,
    /// Heads and their size, for the empty cache of a merged network.
    heads: [usize; 2],
    has_mask: bool,
    later_has_hidden: bool,
    vocabulary: usize,
}

impl Decoder {
    /// A merged network, or with `later` the two of a split one. `vocabulary`: tokens; `heads`: of the decoder and their size, which the
    /// networks may leave open.
    ///
    /// # Errors
    /// [`RuntimeError::Load`] naming the tensor that is missing or has another shape.
    pub fn new(first: Box<dyn Model>, later: Option<Box<dyn Model>>, vocabulary: usize, heads: [usize; 2]) -> Result<Self, RuntimeError> {
        let outputs = |side: &str| {
            let name = |index: usize| format!("present.{index}.{side}.key");
            (0..).take_while(|&index| first.outputs().iter().any(|output| output.name == name(index))).count()
        };
        let layers = outputs("decoder");
        let lacks = |reason: String| RuntimeError::Load { runtime: "the decoder", reason };
        if layers == 0 {
            return Err(lacks("it has no output `present.0.decoder.key`: export it with the task `...-with-past`".to_owned()));
        }
        if outputs("encoder") != layers {
            return Err(lacks(format!("it gives the keys of {layers} layers of its own and of {} of the encoder's", outputs("encoder"))));
        }
        let sides = |side: &str| (0..layers).map(|index| Layer::new(index, side)).collect::<Vec<_>>();
        let has = |model: &dyn Model, name: &str| model.inputs().iter().any(|input| input.name == name);
        let repeating: &dyn Model = later.as_deref().unwrap_or(&*first);
        let (decoder, encoder) = (sides("decoder"), sides("encoder"));
        for name in decoder.iter().chain(&encoder).flat_map(|layer| &layer.past) {
            if !has(repeating, name) {
                return Err(lacks(format!("the network of later steps has no input `{name}`")));
            }
        }
        if later.is_none() && !has(&*first, "use_cache_branch") {
            return Err(lacks(
                "it has no input `use_cache_branch`, so it is not merged; the file `decoder_with_past_model.onnx` is missing".to_owned(),
            ));
        }
        let declared = |axis: usize| {
            let past = repeating.inputs().iter().find(|input| input.name == decoder[0].past[0]);
            past.and_then(|input| input.shape.get(axis).copied().flatten())
        };
        let heads = [declared(1).unwrap_or(heads[0]), declared(3).unwrap_or(heads[1])];
        let has_mask = has(&*first, "encoder_attention_mask");
        let later_has_hidden = later.as_deref().is_none_or(|later| has(later, "encoder_hidden_states"));
        Ok(Self { first, later, decoder, encoder, heads, has_mask, later_has_hidden, vocabulary })
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The first step: `tokens [rows, length]` after nothing. The logits of each row's last token, `[rows, vocabulary]`.
    ///
    /// # Errors
    /// [`RuntimeError`] when the network cannot be run or gives other shapes.
    pub fn begin(&mut self, tokens: &[i64], rows: usize, encoded: &Encoded) -> Result<(Vec<f32>, Cache), RuntimeError> {
        let mut inputs = inputs(tokens, rows, encoded, self.has_mask, true)?;
        if self.later.is_none() {
            let [heads, size] = self.heads;
            let empty = Value::from(Tensor::f32([rows, heads, 0, size], Vec::new()));
            for name in self.decoder.iter().chain(&self.encoder).flat_map(|layer| &layer.past) {
                inputs.push((name, empty.clone()));
            }
            inputs.push(("use_cache_branch", Tensor::bool([1], vec![false]).into()));
        }
        let names = output_names(self.decoder.iter().chain(&self.encoder));
        let mut given = self.first.run(inputs, &names)?.into_iter();
        let logits = last_logits(given.next(), rows, self.vocabulary)?;
        let mut pairs = pairs(given)?;
        let encoder = pairs.split_off(self.decoder.len());
        Ok((logits, Cache { decoder: pairs, encoder, rows }))
    }

    /// A later step: `tokens [rows, length]` after what is in the cache. The logits of each row's last token, `[rows, vocabulary]`.
    ///
    /// # Errors
    /// [`RuntimeError`] when the network cannot be run or gives other shapes; the cache is as it was.
    pub fn step(&mut self, tokens: &[i64], encoded: &Encoded, cache: &mut Cache) -> Result<Vec<f32>, RuntimeError> {
        let rows = cache.rows;
        let mut inputs = inputs(tokens, rows, encoded, self.has_mask, self.later_has_hidden)?;
        for (layers, pairs) in [(&self.decoder, &cache.decoder), (&self.encoder, &cache.encoder)] {
            for (layer, pair) in layers.iter().zip(pairs) {
                inputs.push((&layer.past[0], pair[0].clone()));
                inputs.push((&layer.past[1], pair[1].clone()));
            }
        }
        if self.later.is_none() {
            inputs.push(("use_cache_branch", Tensor::bool([1], vec![true]).into()));
        }
        let names = output_names(self.decoder.iter());
        let model = self.later.as_mut().unwrap_or(&mut self.first);
        let mut given = model.run(inputs, &names)?.into_iter();
        let logits = last_logits(given.next(), rows, self.vocabulary)?;
        cache.decoder = pairs(given)?;
        Ok(logits)
    }
}

fn inputs<'a>(
    tokens: &[i64],
    rows: usize,
    encoded: &Encoded,
    has_mask: bool,
    has_hidden: bool,
) -> Result<Vec<(&'a str, Value)>, RuntimeError> {
    if rows == 0 || tokens.is_empty() || !tokens.len().is_multiple_of(rows) {
        return Err(wrong(format!("{} tokens for {rows} rows", tokens.len())));
    }
    let mut inputs = vec![("input_ids", Tensor::i64([rows, tokens.len() / rows], tokens.to_vec()).into())];
    if has_hidden {
        inputs.push(("encoder_hidden_states", encoded.hidden.clone()));
    }
    if has_mask {
        let mask = encoded.mask.clone().ok_or_else(|| wrong("it needs an attention mask".to_owned()))?;
        inputs.push(("encoder_attention_mask", mask));
    }
    Ok(inputs)
}

fn output_names<'a>(layers: impl Iterator<Item = &'a Layer>) -> Vec<&'a str> {
    std::iter::once("logits").chain(layers.flat_map(|layer| layer.present.iter().map(String::as_str))).collect()
}

fn pairs(mut values: impl Iterator<Item = Value>) -> Result<Vec<[Value; 2]>, RuntimeError> {
    let mut pairs = Vec::new();
    while let Some(key) = values.next() {
        pairs.push([key, values.next().ok_or_else(|| wrong("a key without a value".to_owned()))?]);
    }
    Ok(pairs)
}

fn last_logits(logits: Option<Value>, rows: usize, vocabulary: usize) -> Result<Vec<f32>, RuntimeError> {
    let logits = logits.ok_or_else(|| wrong("it gave no logits".to_owned()))?;
    let shape = logits.shape().to_vec();
    let [given_rows, length, width] = shape[..] else { return Err(wrong(format!("its logits have the shape {shape:?}"))) };
    if given_rows != rows || length == 0 || width != vocabulary {
        return Err(wrong(format!(
            "its logits have the shape {shape:?}: {rows} rows of {vocabulary} tokens are needed (is the tokenizer another model's?)"
        )));
    }
    let elements = logits.f32().ok_or_else(|| wrong("its logits are no floats".to_owned()))?;
    if length == 1 {
        return Ok(elements.into_owned());
    }
    let row = length * width;
    Ok((0..rows).flat_map(|index| &elements[(index + 1) * row - width..(index + 1) * row]).copied().collect())
}
