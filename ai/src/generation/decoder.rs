//! Decoders with a cache in Optimum's two forms: one merged graph with a branch for each case, or a pair of graphs.
//!
//! Rule: tensors are found by name at load time, and a graph that wants anything else is refused then. The first run makes keys and values of
//! the encoder's output; later runs are given the same ones again and make only those of the new tokens.

use std::borrow::Cow;

use super::cache::Memory;
use crate::runtime::{Element, Model, ModelFile, Runtime, RuntimeError, Tensor, TensorInfo, Value};

/// What a decoder looks at: the output of an encoder.
#[derive(Debug, Clone)]
pub struct Source {
    /// `[rows, frames, width]`.
    pub hidden: Value,
    /// `[rows, frames]` of 1 and 0, for decoders that take it.
    pub mask: Option<Value>,
}

/// A decoder's files.
#[derive(Debug, Clone)]
pub enum DecoderFiles {
    /// `decoder_model_merged.onnx`.
    Merged(ModelFile),
    /// `decoder_model.onnx` and `decoder_with_past_model.onnx`.
    Split(ModelFile, ModelFile),
}

/// The shapes of a decoder's attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecoderShape {
    /// Layers.
    pub layers: usize,
    /// Heads of a layer's attention.
    pub heads: usize,
    /// Width of a head.
    pub head: usize,
    /// Tokens.
    pub vocabulary: usize,
}

/// One run's answer.
pub struct Step {
    /// `[rows, tokens, vocabulary]`.
    pub logits: Value,
    /// Cross attention of each layer, `[rows, heads, tokens, frames]`, when it was asked for.
    pub attentions: Vec<Value>,
}

/// Logits in host memory.
pub(super) fn floats(logits: &Value) -> Result<Cow<'_, [f32]>, RuntimeError> {
    logits.f32().ok_or_else(|| refused("`logits` are no floats"))
}

pub(super) fn refused(reason: impl ToString) -> RuntimeError {
    RuntimeError::Run { runtime: "the decoder", reason: reason.to_string() }
}

/// A graph, and which of the inputs that it may have it has.
struct Graph {
    model: Box<dyn Model>,
    takes_hidden: bool,
    takes_mask: bool,
    takes_branch: bool,
}

/// A loaded decoder.
pub struct CachedDecoder {
    first: Graph,
    /// The second graph of a pair.
    next: Option<Graph>,
    shape: DecoderShape,
    names: Names,
    attentions: bool,
    /// Whether the graph takes one source for many rows: found at the first try.
    shares_source: bool,
}

/// Names of a layer's four tensors, all layers after one another: keys and values of the decoder, then of the encoder.
struct Names {
    past: Vec<[String; 2]>,
    past_encoder: Vec<[String; 2]>,
    present: Vec<[String; 2]>,
    present_encoder: Vec<[String; 2]>,
    attentions: Vec<String>,
}

impl Names {
    fn new(layers: usize) -> Self {
        let pairs = |prefix: &str, side: &str| {
            (0..layers).map(|layer| ["key", "value"].map(|part| format!("{prefix}.{layer}.{side}.{part}"))).collect::<Vec<_>>()
        };
        Self {
            past: pairs("past_key_values", "decoder"),
            past_encoder: pairs("past_key_values", "encoder"),
            present: pairs("present", "decoder"),
            present_encoder: pairs("present", "encoder"),
            attentions: (0..layers).map(|layer| format!("cross_attentions.{layer}")).collect(),
        }
    }
}

impl CachedDecoder {
    /// Loads a decoder and checks that it is one of `shape`. With `attentions`, those are made too, if the graph gives them.
    ///
    /// # Errors
    /// [`RuntimeError`] with the input or output that is missing, unknown, or of another shape.
    pub fn load(runtime: &dyn Runtime, files: &DecoderFiles, shape: DecoderShape, attentions: bool) -> Result<Self, RuntimeError> {
        let names = Names::new(shape.layers);
        let (first, next) = match files {
            DecoderFiles::Merged(file) => (Graph::load(runtime, file, "decoder_model_merged.onnx")?, None),
            DecoderFiles::Split(first, next) => {
                let first = Graph::load(runtime, first, "decoder_model.onnx")?;
                (first, Some(Graph::load(runtime, next, "decoder_with_past_model.onnx")?))
            }
        };
        let has = |graph: &Graph, name: &String| graph.model.outputs().iter().any(|output| output.name == *name);
        let all = |graph: &Graph| names.attentions.iter().all(|name| has(graph, name));
        let attentions = attentions && all(&first) && next.as_ref().is_none_or(all);
        let decoder = Self { first, next, shape, names, attentions, shares_source: true };
        decoder.check()?;
        Ok(decoder)
    }

    /// Whether the cross attentions are made.
    pub fn gives_attentions(&self) -> bool {
        self.attentions
    }

    /// Its shapes.
    pub fn shape(&self) -> DecoderShape {
        self.shape
    }

    fn check(&self) -> Result<(), RuntimeError> {
        let flat = |pairs: &[[String; 2]]| pairs.iter().flatten().cloned().collect::<Vec<_>>();
        let (past, past_encoder) = (flat(&self.names.past), flat(&self.names.past_encoder));
        let (present, present_encoder) = (flat(&self.names.present), flat(&self.names.present_encoder));
        let both = [past.clone(), past_encoder].concat();
        let DecoderShape { heads, head, vocabulary, .. } = self.shape;
        let key = [None, Some(heads), None, Some(head)];
        let logits = [None, None, Some(vocabulary)];
        let cached = self.next.as_ref().unwrap_or(&self.first);
        cached.wants(&both, &key)?;
        cached.gives(&present, &key)?;
        self.first.gives(&present, &key)?;
        self.first.gives(&present_encoder, &key)?;
        for graph in [Some(&self.first), self.next.as_ref()].into_iter().flatten() {
            graph.gives(&["logits".to_owned()], &logits)?;
        }
        match &self.next {
            None if !self.first.takes_branch => Err(refused("the merged decoder has no input `use_cache_branch`")),
            _ if !self.first.takes_hidden => Err(refused("the decoder has no input `encoder_hidden_states`")),
            _ => Ok(()),
        }
    }

    /// Runs the prompts of `rows` rows (their tokens one row after another).
    ///
    /// # Errors
    /// [`RuntimeError`] when the graph refuses.
    pub fn begin(&mut self, source: &Source, tokens: &[u32], rows: usize) -> Result<(Memory, Step), RuntimeError> {
        let shape = [rows, tokens.len() / rows.max(1)];
        let mut inputs = vec![("input_ids", Tensor::i64(shape, tokens.iter().map(|&id| i64::from(id)).collect()).into())];
        if self.first.takes_mask {
            inputs.push((
                "encoder_attention_mask",
                source.mask.clone().ok_or_else(|| refused("the decoder takes a mask, and there is none"))?,
            ));
        }
        inputs.push(("encoder_hidden_states", source.hidden.clone()));
        if self.first.takes_branch {
            let nothing: Value = Tensor::f32([rows, self.shape.heads, 0, self.shape.head], Vec::new()).into();
            let pasts = self.names.past.iter().chain(&self.names.past_encoder).flatten();
            inputs.extend(pasts.map(|name| (name.as_str(), nothing.clone())));
            inputs.push(("use_cache_branch", Tensor::bool([1], vec![false]).into()));
        }
        let mut wanted = vec!["logits"];
        wanted.extend(self.names.present.iter().chain(&self.names.present_encoder).flatten().map(String::as_str));
        if self.attentions {
            wanted.extend(self.names.attentions.iter().map(String::as_str));
        }
        let mut made = self.first.model.run(inputs, &wanted)?.into_iter();
        let logits = made.next().ok_or_else(|| refused("there are no logits"))?;
        let keys: Vec<Value> = made.by_ref().take(2 * self.shape.layers).collect();
        let encoder: Vec<Value> = made.by_ref().take(2 * self.shape.layers).collect();
        let memory = Memory::new(keys, encoder, source.clone(), rows);
        Ok((memory, Step { logits, attentions: made.collect() }))
    }

    /// Runs one more token of each row of the memory, which grows by it.
    ///
    /// # Errors
    /// [`RuntimeError`] when the graph refuses; the memory is as before then.
    pub fn step(&mut self, memory: &mut Memory, tokens: &[u32]) -> Result<Step, RuntimeError> {
        if memory.is_shared() && !self.shares_source {
            memory.unshare()?;
        }
        match self.try_step(memory, tokens) {
            Err(_) if memory.is_shared() => {
                self.shares_source = false;
                memory.unshare()?;
                self.try_step(memory, tokens)
            }
            tried => tried,
        }
    }

    fn try_step(&mut self, memory: &mut Memory, tokens: &[u32]) -> Result<Step, RuntimeError> {
        let graph = self.next.as_mut().unwrap_or(&mut self.first);
        let ids = tokens.iter().map(|&id| i64::from(id)).collect();
        let mut inputs = vec![("input_ids", Tensor::i64([tokens.len(), 1], ids).into())];
        if graph.takes_mask {
            let mask = memory.source.mask.clone();
            inputs.push(("encoder_attention_mask", mask.ok_or_else(|| refused("the decoder takes a mask, and there is none"))?));
        }
        if graph.takes_hidden {
            inputs.push(("encoder_hidden_states", memory.source.hidden.clone()));
        }
        inputs.extend(self.names.past.iter().flatten().zip(&memory.keys).map(|(name, value)| (name.as_str(), value.clone())));
        inputs.extend(self.names.past_encoder.iter().flatten().zip(&memory.encoder).map(|(name, value)| (name.as_str(), value.clone())));
        if graph.takes_branch {
            inputs.push(("use_cache_branch", Tensor::bool([1], vec![true]).into()));
        }
        let mut wanted = vec!["logits"];
        wanted.extend(self.names.present.iter().flatten().map(String::as_str));
        if self.attentions {
            wanted.extend(self.names.attentions.iter().map(String::as_str));
        }
        let mut made = graph.model.run(inputs, &wanted)?.into_iter();
        let logits = made.next().ok_or_else(|| refused("there are no logits"))?;
        if logits.shape().first() != Some(&tokens.len()) {
            return Err(refused(format!("{} rows went in, `logits` has the shape {:?}", tokens.len(), logits.shape())));
        }
        memory.keys = made.by_ref().take(2 * self.shape.layers).collect();
        Ok(Step { logits, attentions: made.collect() })
    }
}

impl Graph {
    fn load(runtime: &dyn Runtime, file: &ModelFile, name: &str) -> Result<Self, RuntimeError> {
        let model = runtime.load(file).map_err(|error| match error {
            RuntimeError::Load { runtime, reason } => RuntimeError::Load { runtime, reason: format!("{name}: {reason}") },
            other => other,
        })?;
        let takes = |wanted: &str| model.inputs().iter().any(|input| input.name == wanted);
        let known = ["input_ids", "encoder_hidden_states", "encoder_attention_mask", "use_cache_branch"];
        let strange = |input: &&TensorInfo| !known.contains(&input.name.as_str()) && !input.name.starts_with("past_key_values.");
        if let Some(input) = model.inputs().iter().find(strange) {
            return Err(refused(format!("{name} has an input `{}`, which is not known", input.name)));
        }
        if !takes("input_ids") {
            return Err(refused(format!("{name} has no input `input_ids`")));
        }
        let (takes_hidden, takes_mask) = (takes("encoder_hidden_states"), takes("encoder_attention_mask"));
        let takes_branch = takes("use_cache_branch");
        Ok(Self { model, takes_hidden, takes_mask, takes_branch })
    }

    /// Whether the graph has exactly the inputs `past_key_values...` that are named, in that shape.
    fn wants(&self, names: &[String], shape: &[Option<usize>]) -> Result<(), RuntimeError> {
        let inputs = self.model.inputs();
        fits(inputs, "input", names, shape)?;
        let other = |input: &&TensorInfo| input.name.starts_with("past_key_values.") && !names.contains(&input.name);
        match inputs.iter().find(other) {
            Some(input) => Err(refused(format!("the graph has an input `{}`: config.json says fewer layers", input.name))),
            None => Ok(()),
        }
    }

    fn gives(&self, names: &[String], shape: &[Option<usize>]) -> Result<(), RuntimeError> {
        fits(self.model.outputs(), "output", names, shape)
    }
}

fn fits(infos: &[TensorInfo], side: &str, names: &[String], shape: &[Option<usize>]) -> Result<(), RuntimeError> {
    for name in names {
        let info = infos.iter().find(|info| info.name == *name);
        let info = info.ok_or_else(|| refused(format!("the graph has no {side} `{name}`, which config.json leads to expect")))?;
        let differs = |(own, wanted): (&Option<usize>, &Option<usize>)| own.is_some() && wanted.is_some() && own != wanted;
        // Engines that do not know a shape say none.
        let known = info.shape.len() == shape.len();
        if !matches!(info.element, Element::F32 | Element::F16) || (known && info.shape.iter().zip(shape).any(differs)) {
            return Err(refused(format!(
                "{side} `{name}` is {:?} {:?}; floats {shape:?} are expected by config.json",
                info.element, info.shape
            )));
        }
    }
    Ok(())
}
