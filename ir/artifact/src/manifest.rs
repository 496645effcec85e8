//! The weight manifest: which packed weights a plan reads and how to make each from a
//! checkpoint.
//!
//! The same weight comes fused or per expert, in one dtype or another. An entry names what
//! the kernel reads; its recipes name tensors that give it. Entries of the repeated layers are written
//! once, with `{layer}` and `{expert}` in the names, so a manifest does not grow with depth.

use q35_types::pack::{Packed, Transform};
use q35_types::{DType, Layout};
use serde::{Deserialize, Serialize};

/// Every packed weight, and the tensors a checkpoint may hold besides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub weights: Vec<Weight>,
    /// Tensors whose names begin so belong to parts that are not compiled; they are left alone.
    pub ignored: Vec<String>,
}

/// A family of packed weights: one matrix for each of `layers` (one in all if there are none), times
/// `experts` if it has any.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// Unique; `{layer}` stands for the number.
    pub name: String,
    pub rows: u32,
    pub cols: u32,
    pub dtype: DType,
    pub layout: Layout,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<u32>,
    /// Ways to make it, best first: the first whose tensors are all there is taken.
    pub recipes: Vec<Vec<Part>>,
}

/// Some rows of a packed weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// `rows` rows of a tensor of this `shape` read as a matrix with the weight's columns, from row
    /// `first + expert * per_expert` on.
    Rows {
        tensor: String,
        shape: Vec<u64>,
        first: u64,
        #[serde(default)]
        per_expert: u64,
        rows: u32,
        #[serde(default)]
        transform: Transform,
    },
    Zeros {
        rows: u32,
    },
    /// Numbers of the compiler's, as bits of `f32`.
    Values {
        bits: Vec<u32>,
    },
}

impl Weight {
    pub fn packed(&self) -> Packed {
        Packed {
            rows: self.rows as usize,
            cols: self.cols as usize,
            dtype: self.dtype,
            layout: self.layout,
        }
    }

    /// The layers it exists for; `None` once if it belongs to no layer.
    pub fn instances(&self) -> impl Iterator<Item = Option<u32>> + '_ {
        let whole = self.layers.is_empty().then_some(None);
        whole.into_iter().chain(self.layers.iter().map(|&l| Some(l)))
    }
}

/// `template` with `{layer}` and `{expert}` replaced.
pub fn tensor_name(template: &str, layer: Option<u32>, expert: Option<u32>) -> String {
    let put = |s: String, key: &str, n: Option<u32>| match n {
        Some(n) => s.replace(key, &n.to_string()),
        None => s,
    };
    put(put(template.to_owned(), "{layer}", layer), "{expert}", expert)
}
