//! ONNX Runtime behind the seam, loaded from a shared library at run time.
//!
//! Rule: one environment per process (the library's own limit), one intra-op thread and no spinning per session, because
//! parallelism comes from running streams side by side; more threads per run made it slower.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{Outlet, Tensor as OrtTensor, ValueType};

use super::{Model, Runtime, RuntimeError, Tensor, TensorData, TensorInfo};

/// The process's environment: the library allows one, and a path that failed may be followed by one that works.
static ENVIRONMENT: Mutex<Option<(Environment, PathBuf)>> = Mutex::new(None);

const NAME: &str = "ONNX Runtime";

/// ONNX Runtime, once its library is loaded.
pub struct OnnxRuntime {
    environment: Environment,
    name: String,
}

impl OnnxRuntime {
    /// Loads the first usable library of `candidates`. When the process has loaded one already, that one is used.
    ///
    /// # Errors
    /// [`RuntimeError::Library`] with every place that was tried.
    pub fn open(candidates: &[PathBuf]) -> Result<Self, RuntimeError> {
        let mut slot = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((environment, path)) = &*slot {
            return Ok(Self { environment: environment.clone(), name: describe(path) });
        }
        let mut tried = Vec::new();
        for path in candidates {
            match load(path) {
                Ok(environment) => {
                    *slot = Some((environment.clone(), path.clone()));
                    return Ok(Self { environment, name: describe(path) });
                }
                Err(reason) => tried.push(format!("{}: {reason}", path.display())),
            }
        }
        if tried.is_empty() {
            tried.push("no place to look in (neither HOME nor a path is set)".to_owned());
        }
        Err(RuntimeError::Library { tried })
    }
}

fn describe(path: &Path) -> String {
    format!("{NAME} ({})", path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy()))
}

fn load(path: &Path) -> Result<Environment, String> {
    if !path.is_file() {
        return Err("no such file".to_owned());
    }
    ort::init_from(path)
        .map_err(|error| error.to_string())?
        .with_name("auralink")
        .with_telemetry(false)
        .build()
        .map_err(|error| error.to_string())
}

impl Runtime for OnnxRuntime {
    fn name(&self) -> &str {
        &self.name
    }

    fn load(&self, onnx: &[u8]) -> Result<Box<dyn Model>, RuntimeError> {
        let session = self.session(onnx).map_err(|reason| RuntimeError::Load { runtime: NAME, reason })?;
        let inputs = session.inputs().iter().map(info).collect();
        let outputs = session.outputs().iter().map(info).collect();
        Ok(Box::new(OnnxRuntimeModel { session, inputs, outputs }))
    }
}

impl OnnxRuntime {
    fn session(&self, onnx: &[u8]) -> Result<Session, String> {
        let builder = Session::builder(&self.environment).map_err(|e| e.to_string())?;
        let builder = builder.with_intra_threads(1).map_err(|e| e.to_string())?;
        let builder = builder.with_inter_threads(1).map_err(|e| e.to_string())?;
        let builder = builder.with_intra_op_spinning(false).map_err(|e| e.to_string())?;
        let builder = builder.with_inter_op_spinning(false).map_err(|e| e.to_string())?;
        let mut builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(|e| e.to_string())?;
        builder.commit_from_memory(onnx).map_err(|e| e.to_string())
    }
}

fn info(outlet: &Outlet) -> TensorInfo {
    let shape = match outlet.dtype() {
        ValueType::Tensor { shape, .. } => shape.iter().map(|&extent| usize::try_from(extent).ok()).collect(),
        _ => Vec::new(),
    };
    TensorInfo { name: outlet.name().to_owned(), shape }
}

struct OnnxRuntimeModel {
    session: Session,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
}

fn refused(reason: impl ToString) -> RuntimeError {
    RuntimeError::Run { runtime: NAME, reason: reason.to_string() }
}

impl Model for OnnxRuntimeModel {
    fn inputs(&self) -> &[TensorInfo] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    fn run(&mut self, inputs: Vec<(&str, Tensor)>, outputs: &[&str]) -> Result<Vec<Tensor>, RuntimeError> {
        let mut values = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            tensor.check(name)?;
            let value = match tensor.data {
                TensorData::F32(data) => OrtTensor::from_array((tensor.shape, data)).map_err(refused)?.into_dyn(),
                TensorData::I64(data) => OrtTensor::from_array((tensor.shape, data)).map_err(refused)?.into_dyn(),
            };
            values.push((name, value));
        }
        let results = self.session.run(values).map_err(refused)?;
        let take = |&name: &&str| {
            let value = results.get(name).ok_or_else(|| refused(format!("the model has no output `{name}`")))?;
            let extents = |shape: &ort::value::Shape| shape.iter().map(|&n| n as usize).collect::<Vec<_>>();
            if let Ok((shape, data)) = value.try_extract_tensor::<f32>() {
                return Ok(Tensor::f32(extents(shape), data.to_vec()));
            }
            let (shape, data) = value.try_extract_tensor::<i64>().map_err(refused)?;
            Ok(Tensor::i64(extents(shape), data.to_vec()))
        };
        outputs.iter().map(take).collect()
    }
}
