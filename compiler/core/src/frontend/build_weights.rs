//! How each weight of a graph is made from the checkpoint's tensors.
//!
//! Matrices keep the checkpoint's element type, and so do the norms of whole rows: on a GPU every
//! task of a product reads one. Other vectors and the convolution's taps are float32: they are
//! small, and what they scale is computed in float32. A head's zero-centred norm has its 1 added
//! here and a decay rate is `-exp(A_log)`, so that no op after this needs to know.

use super::config::{Config, LayerKind};
use super::tensors::{self, EXPERT, Experts, LAYER, Role, Tensor};
use q35_graph::{Part, Weight};
use q35_types::pack::Transform;
use q35_types::{DType, Layout};

/// The weights of one block.
pub(super) struct Weights<'a> {
    config: &'a Config,
    /// The block's tensors; experts in one tensor.
    tensors: Vec<Tensor>,
    /// The same with experts one by one.
    apart: Vec<Tensor>,
}

impl<'a> Weights<'a> {
    /// Those around the layers.
    pub fn top(config: &'a Config) -> Self {
        Weights { config, tensors: tensors::top(config), apart: Vec::new() }
    }

    /// Those of a layer of that kind.
    pub fn layer(config: &'a Config, kind: LayerKind) -> Self {
        Weights {
            config,
            tensors: tensors::layer_pattern(config, kind, Experts::Fused),
            apart: tensors::layer_pattern(config, kind, Experts::Apart),
        }
    }

    /// A matrix `[out, in]`, stored as in the checkpoint.
    pub fn matrix(&self, role: Role) -> Weight {
        let tensor = find(&self.tensors, role);
        let (rows, cols) = matrix_of(tensor);
        self.weight(tensor, self.config.dtype, rows, cols, vec![vec![whole(tensor)]])
    }

    /// The taps of the convolution: `f32[channels, taps]`.
    pub fn taps(&self) -> Weight {
        Weight { dtype: DType::F32, ..self.matrix(Role::Conv1d) }
    }

    /// A vector, stored as in the checkpoint.
    pub fn row(&self, role: Role) -> Weight {
        Weight { dtype: self.config.dtype, ..self.vector(role, Transform::None) }
    }

    /// A float32 vector.
    pub fn vector(&self, role: Role, transform: Transform) -> Weight {
        let tensor = find(&self.tensors, role);
        let cols = tensor.elements() as u32;
        let mut part = whole(tensor);
        if let Part::Rows { rows, transform: slot, .. } = &mut part {
            (*rows, *slot) = (1, transform);
        }
        let weight = self.weight(tensor, DType::F32, 1, cols, vec![vec![part]]);
        Weight { vector: true, ..weight }
    }

    /// A table of matrices `[out, in]`, one an expert: the rows of `fused`, which the checkpoint may
    /// also hold as those of `apart`, one after another.
    pub fn experts(&self, fused: Role, apart: &[Role]) -> Weight {
        let tensor = find(&self.tensors, fused);
        let [experts, rows, cols] = tensor.shape[..] else {
            unreachable!("fused experts have three axes")
        };
        let (experts, rows, cols) = (experts as u32, rows as u32, cols as u32);
        let together = vec![Part::Rows {
            tensor: pattern(&tensor.name),
            shape: tensor.shape.clone(),
            first: 0,
            per_expert: rows.into(),
            rows,
            transform: Transform::None,
        }];
        let one_by_one = apart.iter().map(|&role| whole(find(&self.apart, role))).collect();
        let recipes = vec![together, one_by_one];
        let weight = self.weight(tensor, self.config.dtype, rows, cols, recipes);
        Weight { experts: Some(experts), ..weight }
    }

    fn weight(
        &self,
        tensor: &Tensor,
        dtype: DType,
        rows: u32,
        cols: u32,
        recipes: Vec<Vec<Part>>,
    ) -> Weight {
        let name = tensor.name.strip_prefix(self.config.prefix).unwrap_or(&tensor.name);
        Weight {
            name: pattern(name),
            dtype,
            experts: None,
            rows,
            cols,
            vector: false,
            layout: Layout::Rows,
            recipes,
        }
    }
}

/// Float32 numbers that no checkpoint holds.
pub(super) fn values(name: &str, values: &[f32]) -> Weight {
    Weight {
        name: name.into(),
        dtype: DType::F32,
        experts: None,
        rows: 1,
        cols: values.len() as u32,
        vector: true,
        layout: Layout::Rows,
        recipes: vec![vec![Part::Values { bits: values.iter().map(|v| v.to_bits()).collect() }]],
    }
}

fn find(tensors: &[Tensor], role: Role) -> &Tensor {
    tensors.iter().find(|t| t.role == role).expect("the block's table has the role")
}

/// All rows of a tensor.
fn whole(tensor: &Tensor) -> Part {
    Part::Rows {
        tensor: pattern(&tensor.name),
        shape: tensor.shape.clone(),
        first: 0,
        per_expert: 0,
        rows: matrix_of(tensor).0,
        transform: Transform::None,
    }
}

/// Rows and columns of a tensor read as a matrix: the first axis, and all others.
fn matrix_of(tensor: &Tensor) -> (u32, u32) {
    let rows = tensor.shape[0];
    (rows as u32, (tensor.elements() / rows) as u32)
}

/// A name of the table with the placeholders of the graph.
fn pattern(name: &str) -> String {
    name.replace(EXPERT, "{expert}").replace(LAYER, "{layer}")
}
