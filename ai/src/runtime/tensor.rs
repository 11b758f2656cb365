//! Tensors in host memory: a shape and row-major elements.

use super::RuntimeError;

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 32-bit float.
    F32,
    /// 16-bit float: given and taken as [`Element::F32`], converted at the seam.
    F16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// Truth value.
    Bool,
    /// Anything else: no model that is opened here needs it.
    Other,
}

/// The elements of a [`Tensor`], row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 64-bit integers.
    I64(Vec<i64>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// Truth values.
    Bool(Vec<bool>),
}

impl TensorData {
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::Bool(values) => values.len(),
        }
    }
}

/// A dense tensor that owns its memory: row-major elements and a shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Extent of each axis; the product is the number of elements. Empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: TensorData,
}

impl Tensor {
    /// A float tensor. `data.len()` must be the product of `shape`; a backend refuses it otherwise.
    pub fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        Self { shape: shape.into(), data: TensorData::F32(data) }
    }

    /// A tensor of 64-bit integers. `data.len()` must be the product of `shape`; a backend refuses it otherwise.
    pub fn i64(shape: impl Into<Vec<usize>>, data: Vec<i64>) -> Self {
        Self { shape: shape.into(), data: TensorData::I64(data) }
    }

    /// A tensor of 32-bit integers. `data.len()` must be the product of `shape`; a backend refuses it otherwise.
    pub fn i32(shape: impl Into<Vec<usize>>, data: Vec<i32>) -> Self {
        Self { shape: shape.into(), data: TensorData::I32(data) }
    }

    /// A tensor of truth values. `data.len()` must be the product of `shape`; a backend refuses it otherwise.
    pub fn bool(shape: impl Into<Vec<usize>>, data: Vec<bool>) -> Self {
        Self { shape: shape.into(), data: TensorData::Bool(data) }
    }

    /// The float elements, or `None` for another type.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            TensorData::F32(values) => Some(values),
            _ => None,
        }
    }

    /// Whether shape and elements agree; `name` stands in the error.
    pub(super) fn check(&self, name: &str) -> Result<(), RuntimeError> {
        let elements = self.data.len();
        let needed = self.shape.iter().try_fold(1_usize, |product, &extent| product.checked_mul(extent));
        if needed == Some(elements) {
            return Ok(());
        }
        Err(RuntimeError::Shape { name: name.to_owned(), shape: self.shape.clone(), elements })
    }
}
