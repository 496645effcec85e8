//! Weights without a checkpoint, to measure speed with: random, and scaled so that activations
//! stay of the size that they have in a trained model.
//!
//! Numbers are those that a checkpoint would hold, before the manifest's transforms, and depend on
//! seed, weight, layer, expert and row alone.

use super::pack::Material;
use super::resolve::{Instance, experts};
use crate::sampling::Rng;
use q35_artifact::{Manifest, Part};
use q35_types::DType;
use q35_types::pack::{Source, Transform};
use std::collections::BTreeSet;
use std::ops::Range;

/// Rows of random numbers, or of those that the manifest itself gives.
pub enum RandomRows<'a> {
    Random { seed: u64, rows: u32, kind: Kind, transform: Transform },
    Zeros { rows: u32 },
    Values { bits: &'a [u32], cols: u32 },
}

/// What a tensor is, told by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Standard deviation `1 / sqrt(cols)`: a product keeps the size of its input.
    Matrix,
    /// A norm that changes nothing: by 1.
    Norm,
    /// The same by `1 + w`, wherever the 1 is added.
    CentredNorm,
    /// `A_log`: decay rates from 1 to 16.
    Decay,
    /// `dt_bias`: steps from 0.001 to 0.1.
    Step,
}

pub fn instances<'a>(
    manifest: &'a Manifest,
    used: &BTreeSet<u32>,
    seed: u64,
) -> Vec<Instance<'a, RandomRows<'a>>> {
    let mut all = Vec::new();
    for &index in used {
        let weight = &manifest.weights[index as usize];
        for layer in weight.instances() {
            let matrix = |expert: Option<u32>| {
                let parts = weight.recipes[0].iter().zip(0..);
                let part = |(part, n): (&'a Part, u64)| {
                    let place = [u64::from(index), code(layer), code(expert), n];
                    rows(part, weight.cols, place.into_iter().fold(seed, mix))
                };
                parts.map(part).collect()
            };
            let matrices = experts(weight).map(matrix).collect();
            all.push(Instance { index, weight, layer, matrices });
        }
    }
    all
}

fn rows(part: &Part, cols: u32, seed: u64) -> RandomRows<'_> {
    match part {
        Part::Zeros { rows } => RandomRows::Zeros { rows: *rows },
        Part::Values { bits } => RandomRows::Values { bits, cols },
        Part::Rows { tensor, rows, transform, .. } => {
            let (rows, transform) = (*rows, *transform);
            RandomRows::Random { seed, rows, kind: Kind::of(tensor), transform }
        }
    }
}

fn code(n: Option<u32>) -> u64 {
    n.map_or(0, |n| u64::from(n) + 1)
}

fn mix(seed: u64, n: u64) -> u64 {
    Rng::new(seed ^ n.wrapping_mul(0x9E37_79B9_7F4A_7C15)).next_u64()
}

impl Kind {
    fn of(tensor: &str) -> Self {
        if tensor.contains("linear_attn.norm") {
            Kind::Norm
        } else if tensor.contains("norm") {
            Kind::CentredNorm
        } else if tensor.ends_with("A_log") {
            Kind::Decay
        } else if tensor.ends_with("dt_bias") {
            Kind::Step
        } else {
            Kind::Matrix
        }
    }

    /// One number of a tensor, from one that is uniform in [0, 1).
    fn draw(self, uniform: f64, cols: usize) -> f32 {
        let value = match self {
            Kind::Matrix => (2.0 * uniform - 1.0) * (3.0 / cols as f64).sqrt(),
            Kind::Norm => 1.0,
            Kind::CentredNorm => 0.0,
            Kind::Decay => 16f64.ln() * uniform,
            // The inverse of softplus of steps whose logarithms are uniform.
            Kind::Step => (0.001 * 100f64.powf(uniform)).exp_m1().ln(),
        };
        value as f32
    }
}

impl Material for RandomRows<'_> {
    fn rows(&self) -> usize {
        match self {
            RandomRows::Random { rows, .. } | RandomRows::Zeros { rows } => *rows as usize,
            RandomRows::Values { bits, cols } => bits.len() / *cols as usize,
        }
    }

    fn source<'a>(
        &'a self,
        cols: usize,
        rows: Range<usize>,
        scratch: &'a mut Vec<u8>,
    ) -> Source<'a> {
        let transform = match *self {
            RandomRows::Zeros { .. } => return Source::Zeros { rows: rows.len() },
            RandomRows::Values { bits, .. } => {
                let bits = &bits[rows.start * cols..rows.end * cols];
                scratch.extend(bits.iter().flat_map(|b| b.to_le_bytes()));
                Transform::None
            }
            RandomRows::Random { seed, kind, transform, .. } => {
                for row in rows.clone() {
                    let mut rng = Rng::new(mix(seed, row as u64));
                    for _ in 0..cols {
                        let value = kind.draw(rng.next_f64(), cols);
                        scratch.extend(value.to_le_bytes());
                    }
                }
                transform
            }
        };
        Source::Tensor { bytes: scratch, dtype: DType::F32, transform, rows: rows.len() }
    }
}
