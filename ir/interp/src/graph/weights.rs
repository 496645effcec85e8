//! Where weights come from: their recipes, followed on the bytes of a checkpoint.

use q35_graph::{Part, Weight};
use q35_types::DType;
use q35_types::pack::{Layout, Packed, Source, Transform};
use safetensors::{Dtype, SafeTensors};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Makes weights.
pub trait Weights {
    /// The elements of `weight` in row-major order, of all experts if it has any, widened from its type.
    fn matrix(&self, weight: &Weight, layer: Option<u32>) -> Result<Rc<[f32]>, WeightError>;
}

impl<W: Weights + ?Sized> Weights for &W {
    fn matrix(&self, weight: &Weight, layer: Option<u32>) -> Result<Rc<[f32]>, WeightError> {
        (**self).matrix(weight, layer)
    }
}

/// Why a checkpoint does not give a weight.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WeightError {
    #[error("not safetensors: {0}")]
    Container(String),

    /// No recipe has all its tensors.
    #[error("the checkpoint has no `{tensor}`, expected for `{weight}`")]
    Missing { weight: String, tensor: String },

    #[error("`{tensor}` is {found:?}, expected {expected:?}")]
    Shape { tensor: String, found: Vec<usize>, expected: Vec<u64> },

    #[error("`{tensor}` has no rows {first}..{end} of {cols}")]
    Rows { tensor: String, first: u64, end: u64, cols: u32 },
}

/// The tensors of one or several safetensors files.
pub struct Checkpoint<'a> {
    tensors: HashMap<String, Stored<'a>>,
    made: RefCell<HashMap<OfLayer, Rc<[f32]>>>,
}

type OfLayer = (Weight, Option<u32>);

struct Stored<'a> {
    dtype: DType,
    shape: Vec<usize>,
    bytes: &'a [u8],
}

impl<'a> Checkpoint<'a> {
    /// From the bytes of its files. Tensors that are not floats are left out: no weight reads them.
    pub fn new(files: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, WeightError> {
        let mut tensors = HashMap::new();
        for bytes in files {
            let file = SafeTensors::deserialize(bytes);
            let file = file.map_err(|e| WeightError::Container(e.to_string()))?;
            for (name, view) in file.tensors() {
                let dtype = match view.dtype() {
                    Dtype::F32 => DType::F32,
                    Dtype::F16 => DType::F16,
                    Dtype::BF16 => DType::Bf16,
                    _ => continue,
                };
                let (shape, bytes) = (view.shape().to_vec(), view.data());
                tensors.insert(name, Stored { dtype, shape, bytes });
            }
        }
        Ok(Checkpoint { tensors, made: RefCell::default() })
    }

    /// One expert's matrix, appended.
    fn follow(
        &self,
        weight: &Weight,
        recipe: &[Part],
        layer: Option<u32>,
        expert: u32,
        out: &mut Vec<f32>,
    ) -> Result<(), WeightError> {
        let known: Vec<Vec<u8>> = recipe.iter().map(known_bytes).collect();
        let mut sources = vec![];
        for (part, known) in recipe.iter().zip(&known) {
            sources.push(match part {
                Part::Zeros { rows } => Source::Zeros { rows: *rows as usize },
                Part::Values { bits } => Source::Tensor {
                    bytes: known,
                    dtype: DType::F32,
                    transform: Transform::None,
                    rows: bits.len() / weight.cols as usize,
                },
                Part::Rows { tensor, shape, first, per_expert, rows, transform } => {
                    let tensor = actual_name(tensor, layer, expert);
                    let first = first + per_expert * u64::from(expert);
                    let range = first..first + u64::from(*rows);
                    let (dtype, bytes) = self.rows(weight, &tensor, shape, range)?;
                    Source::Tensor { bytes, dtype, transform: *transform, rows: *rows as usize }
                }
            });
        }
        let (rows, cols, dtype) = (weight.rows as usize, weight.cols as usize, weight.dtype);
        let packed = Packed { rows, cols, dtype, layout: Layout::Rows };
        let mut bytes = vec![0; packed.bytes()];
        packed.pack(&sources, 0..rows, &mut bytes);
        out.extend(bytes.chunks_exact(dtype.size()).map(|element| dtype.read_f32(element)));
        Ok(())
    }

    /// The bytes of some rows of a tensor read as a matrix with the weight's columns.
    fn rows(
        &self,
        weight: &Weight,
        tensor: &str,
        shape: &[u64],
        range: std::ops::Range<u64>,
    ) -> Result<(DType, &'a [u8]), WeightError> {
        let stored = self.tensors.get(tensor).ok_or_else(|| WeightError::Missing {
            weight: weight.name.clone(),
            tensor: tensor.into(),
        })?;
        if !stored.shape.iter().map(|&n| n as u64).eq(shape.iter().copied()) {
            let (found, expected) = (stored.shape.clone(), shape.to_vec());
            return Err(WeightError::Shape { tensor: tensor.into(), found, expected });
        }
        let row = weight.cols as usize * stored.dtype.size();
        let bytes = stored.bytes.get(range.start as usize * row..range.end as usize * row);
        let bytes = bytes.ok_or_else(|| WeightError::Rows {
            tensor: tensor.into(),
            first: range.start,
            end: range.end,
            cols: weight.cols,
        })?;
        Ok((stored.dtype, bytes))
    }
}

impl Weights for Checkpoint<'_> {
    fn matrix(&self, weight: &Weight, layer: Option<u32>) -> Result<Rc<[f32]>, WeightError> {
        let key = (weight.clone(), layer);
        if let Some(made) = self.made.borrow().get(&key) {
            return Ok(made.clone());
        }
        let has = |part: &Part| match part {
            Part::Rows { tensor, .. } => self.tensors.contains_key(&actual_name(tensor, layer, 0)),
            Part::Zeros { .. } | Part::Values { .. } => true,
        };
        let whole = weight.recipes.iter().find(|recipe| recipe.iter().all(has));
        let recipe = whole.or(weight.recipes.first()).expect("a weight has a recipe");
        let mut elements = vec![];
        for expert in 0..weight.experts.unwrap_or(1) {
            self.follow(weight, recipe, layer, expert, &mut elements)?;
        }
        let made: Rc<[f32]> = elements.into();
        self.made.borrow_mut().insert(key, made.clone());
        Ok(made)
    }
}

fn actual_name(tensor: &str, layer: Option<u32>, expert: u32) -> String {
    let name = tensor.replace("{expert}", &expert.to_string());
    layer.map_or(name.clone(), |layer| name.replace("{layer}", &layer.to_string()))
}

/// The bytes of numbers that the recipe itself holds.
fn known_bytes(part: &Part) -> Vec<u8> {
    match part {
        Part::Values { bits } => bits.iter().flat_map(|b| b.to_le_bytes()).collect(),
        Part::Rows { .. } | Part::Zeros { .. } => vec![],
    }
}
