//! ONNX Runtime behind the seam, loaded from a shared library at run time.
//!
//! Rule: one environment per process (the library's own limit); one intra-op thread by default and no spinning per session, because
//! parallelism comes from running streams side by side; more threads per run made it slower. Results stay where the library put them.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use half::f16;
use half::slice::HalfFloatSliceExt as _;
use half::vec::HalfFloatVecExt as _;
use ort::environment::Environment;
use ort::ep::{self, ExecutionProviderDispatch};
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{
    DynValue, Outlet, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, TensorRef as OrtTensorRef, ValueType,
};

use super::value::{Place, Resident};
use super::{Element, Model, ModelFile, Provider, Runtime, RuntimeError, RuntimeOptions, TensorData, TensorInfo, Value};

/// The process's environment: the library allows one, and a path that failed may be followed by one that works.
static ENVIRONMENT: Mutex<Option<(Environment, PathBuf)>> = Mutex::new(None);

const NAME: &str = "ONNX Runtime";
/// The setting that says where the external data of a model in memory lies.
const EXTERNAL_DATA: &str = "session.model_external_initializers_file_folder_path";

/// ONNX Runtime, once its library is loaded.
pub struct OnnxRuntime {
    environment: Environment,
    name: String,
    options: RuntimeOptions,
}

impl OnnxRuntime {
    /// Loads the first usable library of `candidates`. When the process has loaded one already, that one is used.
    ///
    /// # Errors
    /// [`RuntimeError::Library`] with every place that was tried.
    pub fn open(candidates: &[PathBuf]) -> Result<Self, RuntimeError> {
        let mut slot = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((environment, path)) = &*slot {
            return Ok(Self { environment: environment.clone(), name: describe(path), options: RuntimeOptions::default() });
        }
        let mut tried = Vec::new();
        for path in candidates {
            match load(path) {
                Ok(environment) => {
                    *slot = Some((environment.clone(), path.clone()));
                    return Ok(Self { environment, name: describe(path), options: RuntimeOptions::default() });
                }
                Err(reason) => tried.push(format!("{}: {reason}", path.display())),
            }
        }
        if tried.is_empty() {
            tried.push("no place to look in (neither HOME nor a path is set)".to_owned());
        }
        Err(RuntimeError::Library { tried })
    }

    /// The same library, with models loaded as `options` say.
    #[must_use]
    pub fn with_options(self, options: RuntimeOptions) -> Self {
        Self { options, ..self }
    }
}

fn provider(provider: Provider) -> ExecutionProviderDispatch {
    let dispatch: ExecutionProviderDispatch = match provider {
        Provider::Cuda => ep::CUDA::default().into(),
        Provider::TensorRt => ep::TensorRT::default().into(),
        Provider::OpenVino => ep::OpenVINO::default().into(),
        Provider::CoreMl => ep::CoreML::default().into(),
        Provider::Xnnpack => ep::XNNPACK::default().into(),
    };
    dispatch.error_on_failure()
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

    fn load(&self, file: &ModelFile) -> Result<Box<dyn Model>, RuntimeError> {
        let session = self.session(file)?;
        let inputs = session.inputs().iter().map(info).collect();
        let outputs = session.outputs().iter().map(info).collect();
        Ok(Box::new(OnnxRuntimeModel { session, inputs, outputs, metadata: file.metadata() }))
    }
}

impl OnnxRuntime {
    fn session(&self, file: &ModelFile) -> Result<Session, RuntimeError> {
        let builder = Session::builder(&self.environment).map_err(unloadable)?;
        let builder = builder.with_intra_threads(self.options.threads.max(1)).map_err(unloadable)?;
        let builder = builder.with_inter_threads(1).map_err(unloadable)?;
        let builder = builder.with_intra_op_spinning(false).map_err(unloadable)?;
        let builder = builder.with_inter_op_spinning(false).map_err(unloadable)?;
        let providers: Vec<_> = self.options.providers.iter().map(|&wanted| provider(wanted)).collect();
        let builder = builder.with_execution_providers(providers).map_err(|error| RuntimeError::Provider { reason: error.to_string() })?;
        let builder = match file.folder().and_then(Path::to_str) {
            Some(folder) => builder.with_config_entry(EXTERNAL_DATA, folder).map_err(unloadable)?,
            None => builder,
        };
        let mut builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(unloadable)?;
        builder.commit_from_memory(file.bytes()).map_err(unloadable)
    }
}

fn unloadable(error: impl ToString) -> RuntimeError {
    RuntimeError::Load { runtime: NAME, reason: error.to_string() }
}

fn info(outlet: &Outlet) -> TensorInfo {
    let (element, shape) = match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => (element(*ty), shape.iter().map(|&extent| usize::try_from(extent).ok()).collect()),
        _ => (Element::Other, Vec::new()),
    };
    TensorInfo { name: outlet.name().to_owned(), element, shape }
}

fn element(element: TensorElementType) -> Element {
    match element {
        TensorElementType::Float32 => Element::F32,
        TensorElementType::Float16 => Element::F16,
        TensorElementType::Int64 => Element::I64,
        TensorElementType::Int32 => Element::I32,
        TensorElementType::Bool => Element::Bool,
        _ => Element::Other,
    }
}

/// A tensor of ONNX Runtime's.
struct OrtResident {
    value: DynValue,
    shape: Vec<usize>,
    element: Element,
}

impl OrtResident {
    fn new(value: DynValue) -> Self {
        let (element, shape) = match value.dtype() {
            ValueType::Tensor { ty, shape, .. } => (element(*ty), shape.iter().map(|&extent| extent.max(0) as usize).collect()),
            _ => (Element::Other, Vec::new()),
        };
        Self { value, shape, element }
    }

    fn elements<T: PrimitiveTensorElementType>(&self) -> Option<&[T]> {
        self.value.try_extract_tensor::<T>().ok().map(|(_, elements)| elements)
    }
}

impl Resident for OrtResident {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn element(&self) -> Element {
        self.element
    }

    fn f32(&self) -> Option<Cow<'_, [f32]>> {
        match self.element {
            Element::F16 => self.elements::<f16>().map(|halves| halves.to_f32_vec().into()),
            _ => self.elements::<f32>().map(Cow::Borrowed),
        }
    }

    fn i64(&self) -> Option<Cow<'_, [i64]>> {
        match self.element {
            Element::I32 => self.elements::<i32>().map(|values| values.iter().map(|&value| i64::from(value)).collect()),
            _ => self.elements::<i64>().map(Cow::Borrowed),
        }
    }
}

struct OnnxRuntimeModel {
    session: Session,
    inputs: Vec<TensorInfo>,
    outputs: Vec<TensorInfo>,
    metadata: BTreeMap<String, String>,
}

fn refused(reason: impl ToString) -> RuntimeError {
    RuntimeError::Run { runtime: NAME, reason: reason.to_string() }
}

impl OnnxRuntimeModel {
    /// Floats for a network of 16-bit ones.
    fn halved(&self, name: &str, value: Value) -> Value {
        let wanted = self.inputs.iter().find(|input| input.name == name).map(|input| input.element);
        if wanted != Some(Element::F16) || value.element() != Element::F32 {
            return value;
        }
        let Some(floats) = value.f32() else { return value };
        let halves = Vec::<f16>::from_f32_slice(&floats);
        match OrtTensor::from_array((value.shape().to_vec(), halves)) {
            Ok(tensor) => Value::resident(OrtResident::new(tensor.into_dyn())),
            // The engine says what is wrong when it is run.
            Err(_) => value.clone(),
        }
    }
}

fn borrow(value: &Value) -> Result<SessionInputValue<'_>, RuntimeError> {
    fn host<'a, T: PrimitiveTensorElementType + Debug + Clone + 'static>(
        shape: &[usize],
        data: &'a [T],
    ) -> Result<SessionInputValue<'a>, RuntimeError> {
        OrtTensorRef::from_array_view((shape.to_vec(), data)).map(|tensor| tensor.into_dyn().into()).map_err(refused)
    }
    match &value.0 {
        Place::Host(tensor) => match &tensor.data {
            TensorData::F32(data) => host(&tensor.shape, data),
            TensorData::I64(data) => host(&tensor.shape, data),
            TensorData::I32(data) => host(&tensor.shape, data),
            TensorData::Bool(data) => host(&tensor.shape, data),
        },
        Place::Engine(resident) => {
            let resident: &dyn Any = &**resident;
            let own = resident.downcast_ref::<OrtResident>().ok_or_else(|| refused("a tensor of another engine was given"))?;
            Ok((&own.value).into())
        }
    }
}

impl Model for OnnxRuntimeModel {
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
        let missing = outputs.iter().find(|name| !self.outputs.iter().any(|output| output.name == **name));
        if let Some(name) = missing {
            return Err(refused(format!("the model has no output `{name}`")));
        }
        let inputs: Vec<(&str, Value)> = inputs.into_iter().map(|(name, value)| (name, self.halved(name, value))).collect();
        let mut values = Vec::with_capacity(inputs.len());
        for (name, value) in &inputs {
            if let Place::Host(tensor) = &value.0 {
                tensor.check(name)?;
            }
            values.push((*name, borrow(value)?));
        }
        let selected = outputs.iter().fold(OutputSelector::no_default(), |selector, name| selector.with(*name));
        let options = RunOptions::new().map_err(refused)?.with_outputs(selected);
        let mut results = self.session.run_with_options(values, &options).map_err(refused)?;
        let mut take = |&name: &&str| {
            let value = results.remove(name).ok_or_else(|| refused(format!("the model gave no output `{name}`")))?;
            Ok(Value::resident(OrtResident::new(value)))
        };
        outputs.iter().map(&mut take).collect()
    }
}
