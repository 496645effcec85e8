//! The weight of an RMSNorm.

use super::letter;
use q35_kernel::{Expr, KernelBuilder, Mem};
use q35_types::DType;

/// `x / sqrt(mean(x²) + eps) · factor`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    pub eps: f32,
    pub weight: DType,
    /// The factor is `1 + weight`.
    pub zero_centred: bool,
}

impl Norm {
    /// What tells one from another in a kernel's name.
    pub fn text(&self) -> String {
        let centre = if self.zero_centred { "z" } else { "" };
        format!("norm_{centre}{}", letter(self.weight))
    }

    /// Bytes of the weight of rows of `cols`.
    pub fn bytes(&self, cols: usize) -> usize {
        cols * self.weight.size()
    }

    /// `w` neighbours of the factor from `i` on. The 1 is added here because `1 + weight` in a narrow
    /// type has lost most of the weight.
    pub fn factor<'k>(&self, b: &'k KernelBuilder, weight: Mem, i: Expr<'k>, w: u8) -> Expr<'k> {
        let v = b.load_vec(weight, i, w);
        if self.zero_centred { v + 1.0 } else { v }
    }
}
