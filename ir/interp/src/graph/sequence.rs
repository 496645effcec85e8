//! What one sequence carries from step to step.

use super::tensor::round;
use q35_graph::State;
use q35_types::DType;
use std::collections::HashMap;

/// The state of one sequence: empty, or zero, at its start.
#[derive(Debug, Clone, Default)]
pub struct Sequence {
    /// By layer and kind: a layer has one of each kind at most, whatever the program that uses it.
    layers: HashMap<(Option<u32>, Kind), Stored>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Rows,
    Matrices,
    Cache,
}

#[derive(Debug, Clone)]
enum Stored {
    Floats(Vec<f32>),
    Cache(Kv),
}

impl Sequence {
    /// The numbers of a `conv` or `delta` state.
    pub(super) fn floats(&mut self, layer: Option<u32>, state: &State) -> &mut Vec<f32> {
        let (kind, len) = match *state {
            State::Conv { taps, channels } => (Kind::Rows, (taps as usize - 1) * channels as usize),
            State::Delta { heads, dk, dv } => {
                (Kind::Matrices, heads as usize * dk as usize * dv as usize)
            }
            State::Kv { .. } => panic!("a cache used as numbers"),
        };
        let zero = || Stored::Floats(vec![0.0; len]);
        match self.layers.entry((layer, kind)).or_insert_with(zero) {
            Stored::Floats(data) => data,
            Stored::Cache(_) => unreachable!("the key says which"),
        }
    }

    /// The cache of a `kv` state.
    pub(super) fn cache(&mut self, layer: Option<u32>, state: &State) -> &mut Kv {
        let State::Kv { dtype, heads, head_dim } = *state else {
            panic!("numbers used as a cache")
        };
        let (heads, width) = (heads as usize, head_dim as usize);
        let empty = || Stored::Cache(Kv { dtype, heads, width, keys: vec![], values: vec![] });
        match self.layers.entry((layer, Kind::Cache)).or_insert_with(empty) {
            Stored::Cache(kv) => kv,
            Stored::Floats(_) => unreachable!("the key says which"),
        }
    }
}

/// Keys and values of the tokens so far, `[tokens, heads, width]` each, rounded as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Kv {
    pub dtype: DType,
    pub heads: usize,
    pub width: usize,
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

impl Kv {
    pub fn tokens(&self) -> usize {
        self.keys.len() / (self.heads * self.width)
    }

    /// Append tokens, `[tokens, heads, width]`.
    pub fn append(&mut self, keys: &[f32], values: &[f32]) {
        self.keys.extend(keys.iter().map(|&x| round(self.dtype, x)));
        self.values.extend(values.iter().map(|&x| round(self.dtype, x)));
    }

    pub(super) fn key(&self, token: usize, head: usize) -> &[f32] {
        &self.keys[(token * self.heads + head) * self.width..][..self.width]
    }

    pub(super) fn value(&self, token: usize, head: usize) -> &[f32] {
        &self.values[(token * self.heads + head) * self.width..][..self.width]
    }
}
