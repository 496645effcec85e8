//! A checkpoint that does not fit its artifact.

use q35_device::DeviceError;
use q35_types::DType;
use safetensors::Dtype;

/// The checkpoint has not exactly the weights that the artifact was compiled for.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A tensor that the model needs and the checkpoint lacks.
    #[error("`{tensor}` is not in the checkpoint, which `{weight}` is made of{}", others(.more))]
    Missing { tensor: String, weight: String, more: usize },

    /// A tensor that nothing reads.
    #[error("`{tensor}` in `{file}` belongs to no part of the model{}", others(.more))]
    Extra { tensor: String, file: String, more: usize },

    /// A tensor of another model's size.
    #[error("`{tensor}` in `{file}` has the shape {found:?}, expected {expected:?}")]
    Shape { tensor: String, file: String, found: Vec<usize>, expected: Vec<u64> },

    /// A tensor of no type that weights have.
    #[error("`{tensor}` in `{file}` is {found}, expected {}", accepted(*.expected))]
    Type { tensor: String, file: String, found: Dtype, expected: DType },

    /// A tensor that would have to be rounded.
    #[error("`{tensor}` in `{file}` is {found}, expected {}", accepted(*.expected))]
    Narrowing { tensor: String, file: String, found: DType, expected: DType },

    /// Part of a tensor that no weight reads.
    #[error("elements {begin}..{end} of `{tensor}` are read by no weight of the artifact")]
    Partly { tensor: String, begin: u64, end: u64 },

    /// Rows of a tensor that one weight reads twice.
    #[error("`{weight}` reads elements {begin}..{end} of `{tensor}` twice")]
    Twice { tensor: String, weight: String, begin: u64, end: u64 },

    /// Memory that the device does not give.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl WeightsError {
    /// What to do about it, where that is not plain from the message.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Narrowing { found, .. } => Some(format!(
                "compile the config with `\"dtype\": \"{}\"` to run these weights as they are",
                config_name(*found)
            )),
            Self::Missing { .. } | Self::Extra { .. } | Self::Shape { .. } => {
                Some("compile the `config.json` that lies beside these weights".into())
            }
            Self::Type { .. } => Some("quantised checkpoints are not supported".into()),
            Self::Partly { .. } | Self::Twice { .. } | Self::Device(_) => None,
        }
    }
}

fn others(more: &usize) -> String {
    match more {
        0 => String::new(),
        1 => " (and one more such tensor)".into(),
        n => format!(" (and {n} more such tensors)"),
    }
}

/// The types of tensors that give a weight of this type without rounding.
fn accepted(weight: DType) -> String {
    let names: Vec<_> =
        DType::ALL.into_iter().filter(|d| d.widens_to(weight)).map(DType::name).collect();
    names.join(" or ")
}

/// As in `config.json`.
fn config_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::Bf16 => "bfloat16",
        DType::I32 => "int32",
    }
}
