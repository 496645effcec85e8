//! Type rules of what is left of logits.

use super::Inferred;
use super::args::{Args, attributes};
use crate::graph::Type;
use crate::op::Op;
use q35_types::{DType, Dim};

/// `logits: f32[R, vocab]` and `valid: i32[1]` give `i32[R, k]`.
pub(crate) fn likeliest(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::Likeliest { k });
    let a = Args { op, types };
    let rows = logits(&a)?;
    a.matches_ints(1, &[Dim::Fixed(1)])?;
    a.attribute("k", k, k > 0, "at least 1")?;
    Ok(Type::new(DType::I32, [rows, Dim::Fixed(k)]))
}

/// `logits: f32[R, vocab]` and `ids: i32[R, k]` give `f32[R, k]`.
pub(crate) fn logits_at(op: &Op, types: &[&Type]) -> Inferred {
    let a = Args { op, types };
    let rows = logits(&a)?;
    let [r, k] = a.ints(1, "i32[R, k]")?;
    a.expect(1, r == rows, || format!("i32[{rows}, k] to match `logits` {}", types[0]))?;
    a.fixed(1, k)?;
    Ok(Type::new(DType::F32, [rows, k]))
}

/// The rows of operand 0. Ranks are those of float32: a narrower type would have made equals of them.
fn logits(a: &Args<'_>) -> Result<Dim, super::TypeError> {
    let [rows, vocab] = a.floats(0, "f32[R, vocab]")?;
    a.expect(0, a.types[0].dtype == DType::F32, || "f32[R, vocab]".into())?;
    a.fixed(0, vocab)?;
    Ok(rows)
}
