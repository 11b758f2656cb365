//! The pure-Rust engine behind the seam: the fallback when no ONNX Runtime library is found (about 1.5 times slower).
//!
//! Rule: each model has a pool of one thread, made by the thread that loads it, so that it inherits that thread's
//! priority. rten has no 64-bit integers: they are narrowed on the way in and widened on the way out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use rten::{DataType, Dimension, NodeId, RunOptions, ThreadPool, Value as RtenValue, ValueOrView, ValueType, ValueView};
use rten_tensor::TensorView;
use rten_tensor::prelude::*;

use super::value::Place;
use super::{Element, Model, ModelFile, Runtime, RuntimeError, Tensor, TensorData, TensorInfo, Value};

const NAME: &str = "rten";

/// The pure-Rust engine.
pub struct Rten {
    threads: usize,
}

impl Default for Rten {
    fn default() -> Self {
        Self::with_threads(1)
    }
}

impl Rten {
    /// With so many threads inside one run.
    pub fn with_threads(threads: usize) -> Self {
        Self { threads: threads.max(1) }
    }
}

impl Runtime for Rten {
    fn name(&self) -> &str {
        "rten 0.27 (pure Rust)"
    }

    fn load(&self, file: &ModelFile) -> Result<Box<dyn Model>, RuntimeError> {
        super::framing::check(file.bytes()).map_err(|reason| RuntimeError::Load { runtime: NAME, reason })?;
        let model =
            rten::Model::load(file.bytes().to_vec()).map_err(|error| RuntimeError::Load { runtime: NAME, reason: error.to_string() })?;
        let inputs = infos(&model, model.input_ids());
        let outputs = infos(&model, model.output_ids());
        let pool = Arc::new(ThreadPool::with_num_threads(self.threads));
        Ok(Box::new(RtenModel { model, pool, inputs, outputs, metadata: file.metadata() }))
    }
}

fn infos(model: &rten::Model, ids: &[NodeId]) -> Vec<TensorInfo> {
    let info = |&id: &NodeId| {
        let node = model.node_info(id)?;
        let extent = |dimension: Dimension| match dimension {
            Dimension::Fixed(extent) => Some(extent),
            _ => None,
        };
        let shape = node.shape().unwrap_or_default().into_iter().map(extent).collect();
        let element = match node.dtype() {
            Some(ValueType::Tensor(DataType::Float)) => Element::F32,
            Some(ValueType::Tensor(DataType::Int32)) => Element::I64,
            _ => Element::Other,
        };
        Some(TensorInfo { name: node.name()?.to_owned(), element, shape })
    };
    ids.iter().filter_map(info).collect()
}

struct RtenModel {
    model: rten::Model,
    pool: Arc<ThreadPool>,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    metadata: BTreeMap<String, String>,
}

fn refused(reason: impl ToString) -> RuntimeError {
    RuntimeError::Run { runtime: NAME, reason: reason.to_string() }
}

impl Model for RtenModel {
    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn run(&mut self, inputs: Vec<(&str, Value)>, outputs: &[&str]) -> Result<Vec<Value>, RuntimeError> {
        let mut hosted = Vec::with_capacity(inputs.len());
        for (name, value) in &inputs {
            let Place::Host(tensor) = &value.0 else { return Err(refused("a tensor of another engine was given")) };
            tensor.check(name)?;
            hosted.push((self.model.node_id(name).map_err(refused)?, &tensor.shape, narrowed(name, &tensor.data)?));
        }
        let mut values: Vec<(NodeId, ValueOrView)> = Vec::with_capacity(hosted.len());
        for (id, shape, data) in &hosted {
            let view: ValueView = match data {
                Narrowed::Floats(data) => TensorView::try_from_data(shape.as_slice(), *data).map_err(refused)?.into(),
                Narrowed::Integers(data) => TensorView::try_from_data(shape.as_slice(), &data[..]).map_err(refused)?.into(),
            };
            values.push((*id, view.into()));
        }
        let ids = outputs.iter().map(|name| self.model.node_id(name)).collect::<Result<Vec<_>, _>>().map_err(refused)?;
        let mut options = RunOptions::default();
        options.thread_pool = Some(self.pool.clone());
        let results = self.model.run(values, &ids, Some(options)).map_err(refused)?;
        results.into_iter().map(widen).collect()
    }
}

/// What rten knows of elements.
enum Narrowed<'a> {
    Floats(&'a [f32]),
    Integers(Cow<'a, [i32]>),
}

fn narrowed<'a>(name: &str, data: &'a TensorData) -> Result<Narrowed<'a>, RuntimeError> {
    match data {
        TensorData::F32(data) => Ok(Narrowed::Floats(data)),
        TensorData::I32(data) => Ok(Narrowed::Integers(Cow::Borrowed(data))),
        TensorData::Bool(data) => Ok(Narrowed::Integers(data.iter().map(|&value| i32::from(value)).collect())),
        TensorData::I64(data) => {
            let narrow = |&value: &i64| i32::try_from(value).map_err(|_| refused(format!("`{name}`: {value} exceeds 32 bits")));
            Ok(Narrowed::Integers(data.iter().map(narrow).collect::<Result<_, _>>()?))
        }
    }
}

fn widen(value: RtenValue) -> Result<Value, RuntimeError> {
    match value {
        RtenValue::FloatTensor(tensor) => Ok(Tensor::f32(tensor.shape().to_vec(), tensor.into_data()).into()),
        RtenValue::Int32Tensor(tensor) => {
            Ok(Tensor::i64(tensor.shape().to_vec(), tensor.into_data().into_iter().map(i64::from).collect()).into())
        }
        other => Err(refused(format!("unsupported output type {:?}", other.dtype()))),
    }
}
