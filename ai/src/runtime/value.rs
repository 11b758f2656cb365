//! What models take and give: a tensor in host memory, or one that stays with the engine.
//!
//! Rule: a value is shared, never copied, when it is cloned. What one run gives (the keys and values of attention, the states of a
//! stream) goes into the next without passing through a `Vec`.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::{Element, Tensor, TensorData};

/// A tensor that an engine holds.
pub(super) trait Resident: Any + Send + Sync {
    fn shape(&self) -> &[usize];
    fn element(&self) -> Element;
    /// The elements as floats, if they are floats of either size.
    fn f32(&self) -> Option<Cow<'_, [f32]>>;
    fn i64(&self) -> Option<Cow<'_, [i64]>>;
}

#[derive(Clone)]
pub(super) enum Place {
    Host(Arc<Tensor>),
    Engine(Arc<dyn Resident>),
}

/// An input or output of a [`super::Model`]. A clone shares the elements.
#[derive(Clone)]
pub struct Value(pub(super) Place);

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Self {
        Self(Place::Host(Arc::new(tensor)))
    }
}

impl Value {
    pub(super) fn resident(value: impl Resident) -> Self {
        Self(Place::Engine(Arc::new(value)))
    }

    /// Extent of each axis.
    pub fn shape(&self) -> &[usize] {
        match &self.0 {
            Place::Host(tensor) => &tensor.shape,
            Place::Engine(value) => value.shape(),
        }
    }

    /// The type of its elements.
    pub fn element(&self) -> Element {
        match &self.0 {
            Place::Host(tensor) => match tensor.data {
                TensorData::F32(_) => Element::F32,
                TensorData::I64(_) => Element::I64,
                TensorData::I32(_) => Element::I32,
                TensorData::Bool(_) => Element::Bool,
            },
            Place::Engine(value) => value.element(),
        }
    }

    /// The elements as floats, row-major; borrowed but for 16-bit floats. `None` for another type.
    pub fn f32(&self) -> Option<Cow<'_, [f32]>> {
        match &self.0 {
            Place::Host(tensor) => tensor.as_f32().map(Cow::Borrowed),
            Place::Engine(value) => value.f32(),
        }
    }

    /// The elements as 64-bit integers, row-major; borrowed where they are. `None` for another type.
    pub fn i64(&self) -> Option<Cow<'_, [i64]>> {
        match &self.0 {
            Place::Host(tensor) => match &tensor.data {
                TensorData::I64(values) => Some(Cow::Borrowed(values)),
                TensorData::I32(values) => Some(values.iter().map(|&value| i64::from(value)).collect()),
                TensorData::F32(_) | TensorData::Bool(_) => None,
            },
            Place::Engine(value) => value.i64(),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value").field("shape", &self.shape()).field("element", &self.element()).finish_non_exhaustive()
    }
}
