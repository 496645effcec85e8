//! Element types in memory. Arithmetic is always in `f32` or `i32`: a load widens,
//! a store rounds to nearest, ties to even.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How one element lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    F32,
    F16,
    Bf16,
    I32,
}

impl DType {
    pub const ALL: [DType; 4] = [DType::F32, DType::F16, DType::Bf16, DType::I32];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
        }
    }

    pub const fn is_float(self) -> bool {
        !matches!(self, DType::I32)
    }

    /// The float element that starts at `bytes[0]`, widened.
    ///
    /// Panics if `bytes` is shorter than an element or the type is not a float.
    #[inline]
    pub fn read_f32(self, bytes: &[u8]) -> f32 {
        match self {
            DType::F32 => f32::from_le_bytes(bytes[..4].try_into().expect("four bytes")),
            DType::F16 => half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            DType::Bf16 => half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            DType::I32 => panic!("read_f32 of i32"),
        }
    }

    /// Round `value` to this type and write it at `bytes[0]`.
    #[inline]
    pub fn write_f32(self, value: f32, bytes: &mut [u8]) {
        match self {
            DType::F32 => bytes[..4].copy_from_slice(&value.to_le_bytes()),
            DType::F16 => bytes[..2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes()),
            DType::Bf16 => bytes[..2].copy_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
            DType::I32 => panic!("write_f32 of i32"),
        }
    }

    /// Whether every value of `self` is a value of `wider`.
    pub const fn widens_to(self, wider: DType) -> bool {
        matches!(
            (self, wider),
            (DType::F16 | DType::Bf16, DType::F32)
                | (DType::F32, DType::F32)
                | (DType::F16, DType::F16)
                | (DType::Bf16, DType::Bf16)
                | (DType::I32, DType::I32)
        )
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        DType::ALL.into_iter().find(|d| d.name() == s).ok_or(())
    }
}
