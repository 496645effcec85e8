//! The manifest against the checkpoint: which tensor gives which rows of which packed weight.
//!
//! What a checkpoint lacks, or has besides, would be a model that silently is another one. So
//! every tensor must be read, all of it, or be named by the manifest as one to leave alone; and
//! everything that is found wrong carries the tensor's name.

use super::WeightsError;
use crate::checkpoint::{Checkpoint, Tensor};
use q35_artifact::{Manifest, Part, Weight, tensor_name};
use q35_types::DType;
use q35_types::pack::Transform;
use safetensors::Dtype;
use std::collections::{BTreeMap, BTreeSet};

/// One weight of one layer: one matrix, or one for each expert.
pub struct Instance<'a, P> {
    /// Index into the manifest.
    pub index: u32,
    pub weight: &'a Weight,
    pub layer: Option<u32>,
    /// The parts of each matrix, from its first row to its last.
    pub matrices: Vec<Vec<P>>,
}

/// Some rows of a packed weight and where they come from.
pub enum Piece<'a> {
    Tensor {
        tensor: &'a Tensor,
        dtype: DType,
        /// Where its bytes begin in the tensor.
        first: usize,
        rows: u32,
        transform: Transform,
    },
    Zeros {
        rows: u32,
    },
    Values {
        rows: u32,
        /// `f32`
        bytes: Vec<u8>,
    },
}

/// Find the tensors of every weight in `used` (indices into the manifest), and see that the
/// checkpoint has no others.
///
/// # Errors
///
/// The first misfit: see [`WeightsError`].
pub fn resolve<'a>(
    manifest: &'a Manifest,
    used: &BTreeSet<u32>,
    checkpoint: &'a Checkpoint,
) -> Result<Vec<Instance<'a, Piece<'a>>>, WeightsError> {
    let mut reads = Reads::default();
    let mut instances = Vec::new();
    for &index in used {
        let weight = &manifest.weights[index as usize];
        for layer in weight.instances() {
            let recipe = choose(weight, layer, checkpoint)?;
            let mut matrices = Vec::new();
            for expert in experts(weight) {
                let piece = |part| piece(weight, layer, expert, part, checkpoint, &mut reads);
                matrices.push(recipe.iter().map(piece).collect::<Result<_, _>>()?);
            }
            instances.push(Instance { index, weight, layer, matrices });
        }
    }
    reads.check(checkpoint, &manifest.ignored)?;
    Ok(instances)
}

/// The number of each expert; none once if the weight has none.
pub fn experts(weight: &Weight) -> impl Iterator<Item = Option<u32>> + use<> {
    let one = weight.experts.is_none().then_some(None);
    one.into_iter().chain((0..weight.experts.unwrap_or(0)).map(Some))
}

/// The first recipe whose tensors are all there.
fn choose<'a>(
    weight: &'a Weight,
    layer: Option<u32>,
    checkpoint: &Checkpoint,
) -> Result<&'a [Part], WeightsError> {
    let mut closest: Option<Vec<String>> = None;
    for recipe in &weight.recipes {
        let missing = missing(weight, layer, recipe, checkpoint);
        if missing.is_empty() {
            return Ok(recipe);
        }
        if closest.as_ref().is_none_or(|c| missing.len() < c.len()) {
            closest = Some(missing);
        }
    }
    let missing = closest.expect("a checked weight has a recipe");
    Err(WeightsError::Missing {
        tensor: missing[0].clone(),
        weight: tensor_name(&weight.name, layer, None),
        more: missing.len() - 1,
    })
}

/// Tensors of a recipe that are not there, each once.
fn missing(
    weight: &Weight,
    layer: Option<u32>,
    recipe: &[Part],
    checkpoint: &Checkpoint,
) -> Vec<String> {
    let mut names = BTreeSet::new();
    let mut missing = Vec::new();
    for part in recipe {
        let Part::Rows { tensor, .. } = part else {
            continue;
        };
        for expert in experts(weight) {
            let name = tensor_name(tensor, layer, expert);
            if checkpoint.get(&name).is_none() && names.insert(name.clone()) {
                missing.push(name);
            }
        }
    }
    missing
}

fn piece<'a>(
    weight: &Weight,
    layer: Option<u32>,
    expert: Option<u32>,
    part: &'a Part,
    checkpoint: &'a Checkpoint,
    reads: &mut Reads<'a>,
) -> Result<Piece<'a>, WeightsError> {
    let cols = u64::from(weight.cols);
    match part {
        Part::Zeros { rows } => Ok(Piece::Zeros { rows: *rows }),
        Part::Values { bits } => Ok(Piece::Values {
            rows: (bits.len() / weight.cols as usize) as u32,
            bytes: bits.iter().flat_map(|b| b.to_le_bytes()).collect(),
        }),
        Part::Rows { tensor: template, shape, first, per_expert, rows, transform } => {
            let name = tensor_name(template, layer, expert);
            let (name, tensor) = checkpoint.get_entry(&name).expect("the recipe's tensors exist");
            let dtype = fitting(name, tensor, shape, weight.dtype)?;
            let first = first + per_expert * u64::from(expert.unwrap_or(0));
            let (begin, elements) = (first * cols, u64::from(*rows) * cols);
            reads.add(name, begin, begin + elements, &tensor_name(&weight.name, layer, None));
            let first = begin as usize * dtype.size();
            Ok(Piece::Tensor { tensor, dtype, first, rows: *rows, transform: *transform })
        }
    }
}

/// The tensor's type, if shape and type are what the weight can be made of.
fn fitting(
    name: &str,
    tensor: &Tensor,
    shape: &[u64],
    expected: DType,
) -> Result<DType, WeightsError> {
    let (name, file) = (name.to_owned(), tensor.file_name());
    if !tensor.shape.iter().map(|&n| n as u64).eq(shape.iter().copied()) {
        let (found, expected) = (tensor.shape.clone(), shape.to_vec());
        return Err(WeightsError::Shape { tensor: name, file, found, expected });
    }
    let found = match tensor.dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::Bf16,
        found => return Err(WeightsError::Type { tensor: name, file, found, expected }),
    };
    if found.widens_to(expected) {
        Ok(found)
    } else {
        Err(WeightsError::Narrowing { tensor: name, file, found, expected })
    }
}

/// Which elements of each tensor were read, and by which weight.
#[derive(Default)]
struct Reads<'a> {
    of: BTreeMap<&'a str, Vec<Read>>,
}

struct Read {
    begin: u64,
    end: u64,
    weight: String,
}

impl<'a> Reads<'a> {
    fn add(&mut self, tensor: &'a str, begin: u64, end: u64, weight: &str) {
        let reads = self.of.entry(tensor).or_default();
        // Experts of a fused tensor follow one another: no need for a read of each.
        match reads.last_mut() {
            Some(last) if last.end == begin && last.weight == weight => last.end = end,
            _ => reads.push(Read { begin, end, weight: weight.to_owned() }),
        }
    }

    /// Every tensor is read whole, and by no weight twice. Two weights may read the same tensor:
    /// a tied head is one matrix in two packings.
    fn check(mut self, checkpoint: &Checkpoint, ignored: &[String]) -> Result<(), WeightsError> {
        let extra = |name: &str| {
            !self.of.contains_key(name) && !ignored.iter().any(|p| name.starts_with(p.as_str()))
        };
        let mut extras = checkpoint.tensors().filter(|(name, _)| extra(name));
        if let Some((name, tensor)) = extras.next() {
            let (tensor, file) = (name.to_owned(), tensor.file_name());
            return Err(WeightsError::Extra { tensor, file, more: extras.count() });
        }
        for (&name, reads) in &mut self.of {
            let tensor = checkpoint.get(name).expect("it was read");
            let elements = tensor.shape.iter().map(|&n| n as u64).product();
            check_reads(name, elements, reads)?;
        }
        Ok(())
    }
}

fn check_reads(tensor: &str, elements: u64, reads: &mut [Read]) -> Result<(), WeightsError> {
    reads.sort_by(|a, b| (&a.weight, a.begin).cmp(&(&b.weight, b.begin)));
    for pair in reads.windows(2) {
        if pair[0].weight == pair[1].weight && pair[1].begin < pair[0].end {
            return Err(WeightsError::Twice {
                tensor: tensor.to_owned(),
                weight: pair[1].weight.clone(),
                begin: pair[1].begin,
                end: pair[0].end.min(pair[1].end),
            });
        }
    }
    reads.sort_by_key(|r| r.begin);
    let mut reached = 0;
    let ends = reads.iter().map(|r| (r.begin, r.end)).chain([(elements, elements)]);
    for (begin, end) in ends {
        if begin > reached {
            let tensor = tensor.to_owned();
            return Err(WeightsError::Partly { tensor, begin: reached, end: begin });
        }
        reached = reached.max(end);
    }
    Ok(())
}
