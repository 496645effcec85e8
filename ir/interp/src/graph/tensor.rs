//! Values of the evaluator.

use q35_types::DType;
use std::rc::Rc;

/// A tensor, row-major. Cloning shares its elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    data: Data,
}

#[derive(Debug, Clone, PartialEq)]
enum Data {
    Floats(Rc<[f32]>),
    Ints(Rc<[i32]>),
}

impl Tensor {
    /// Panics if `data` is not as many elements as `shape` has.
    pub fn floats(shape: impl Into<Vec<usize>>, data: impl Into<Rc<[f32]>>) -> Self {
        let (shape, data) = (shape.into(), data.into());
        assert_eq!(shape.iter().product::<usize>(), data.len(), "elements of {shape:?}");
        Tensor { shape, data: Data::Floats(data) }
    }

    /// Panics if `data` is not as many elements as `shape` has.
    pub fn ints(shape: impl Into<Vec<usize>>, data: impl Into<Rc<[i32]>>) -> Self {
        let (shape, data) = (shape.into(), data.into());
        assert_eq!(shape.iter().product::<usize>(), data.len(), "elements of {shape:?}");
        Tensor { shape, data: Data::Ints(data) }
    }

    /// The elements of a float tensor. Panics if it is none.
    pub fn f32s(&self) -> &[f32] {
        match &self.data {
            Data::Floats(data) => data,
            Data::Ints(_) => panic!("floats of an integer tensor"),
        }
    }

    /// The elements of an integer tensor. Panics if it is none.
    pub fn i32s(&self) -> &[i32] {
        match &self.data {
            Data::Ints(data) => data,
            Data::Floats(_) => panic!("integers of a float tensor"),
        }
    }

    /// The rows of a float tensor, its last axis each.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.f32s().chunks_exact(self.cols())
    }

    /// The last axis.
    pub fn cols(&self) -> usize {
        *self.shape.last().expect("a tensor of rows has axes")
    }

    /// `len` columns of each row, from `start` on.
    pub fn columns(&self, start: usize, len: usize) -> Vec<f32> {
        self.rows().flat_map(|row| &row[start..start + len]).copied().collect()
    }
}

/// The nearest value of a type, ties to even.
pub(super) fn round(dtype: DType, value: f32) -> f32 {
    match dtype {
        DType::F32 => value,
        DType::F16 => half::f16::from_f32(value).to_f32(),
        DType::Bf16 => half::bf16::from_f32(value).to_f32(),
        DType::I32 => panic!("a float rounded to i32"),
    }
}
