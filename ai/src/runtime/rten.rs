//! The pure-Rust engine behind the seam: the fallback when no ONNX Runtime library is found (about 1.5 times slower).
//!
//! Rule: each model has a pool of one thread, made by the thread that loads it, so that it inherits that thread's
//! priority. rten has no 64-bit integers: they are narrowed on the way in and widened on the way out.

use std::sync::Arc;

use rten::{Dimension, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::prelude::*;

use super::{Model, Runtime, RuntimeError, Tensor, TensorData, TensorInfo};

const NAME: &str = "rten";

/// The pure-Rust engine.
pub struct Rten;

impl Runtime for Rten {
    fn name(&self) -> &str {
        "rten 0.27 (pure Rust)"
    }

    fn load(&self, onnx: &[u8]) -> Result<Box<dyn Model>, RuntimeError> {
        super::framing::check(onnx).map_err(|reason| RuntimeError::Load { runtime: NAME, reason })?;
        let model = rten::Model::load(onnx.to_vec()).map_err(|error| RuntimeError::Load { runtime: NAME, reason: error.to_string() })?;
        let inputs = infos(&model, model.input_ids());
        let outputs = infos(&model, model.output_ids());
        let pool = Arc::new(ThreadPool::with_num_threads(1));
        Ok(Box::new(RtenModel { model, pool, inputs, outputs }))
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
        Some(TensorInfo { name: node.name()?.to_owned(), shape })
    };
    ids.iter().filter_map(info).collect()
}

struct RtenModel {
    model: rten::Model,
    pool: Arc<ThreadPool>,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
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

    fn run(&mut self, inputs: Vec<(&str, Tensor)>, outputs: &[&str]) -> Result<Vec<Tensor>, RuntimeError> {
        let mut values: Vec<(NodeId, ValueOrView)> = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            tensor.check(name)?;
            let id = self.model.node_id(name).map_err(refused)?;
            let value = match tensor.data {
                TensorData::F32(data) => Value::from_shape(&tensor.shape, data).map_err(refused)?,
                TensorData::I64(data) => {
                    let narrow = |value| i32::try_from(value).map_err(|_| refused(format!("`{name}`: {value} exceeds 32 bits")));
                    let data = data.into_iter().map(narrow).collect::<Result<Vec<_>, _>>()?;
                    Value::from_shape(&tensor.shape, data).map_err(refused)?
                }
            };
            values.push((id, value.into()));
        }
        let ids = outputs.iter().map(|name| self.model.node_id(name)).collect::<Result<Vec<_>, _>>().map_err(refused)?;
        let mut options = RunOptions::default();
        options.thread_pool = Some(self.pool.clone());
        let results = self.model.run(values, &ids, Some(options)).map_err(refused)?;
        results.into_iter().map(widen).collect()
    }
}

fn widen(value: Value) -> Result<Tensor, RuntimeError> {
    match value {
        Value::FloatTensor(tensor) => Ok(Tensor::f32(tensor.shape().to_vec(), tensor.to_vec())),
        Value::Int32Tensor(tensor) => Ok(Tensor::i64(tensor.shape().to_vec(), tensor.to_vec().into_iter().map(i64::from).collect())),
        other => Err(refused(format!("unsupported output type {:?}", other.dtype()))),
    }
}
