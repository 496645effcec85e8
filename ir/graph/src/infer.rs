//! Type rules: what each op makes of its operands, or why it cannot.
//!
//! A rule is total: it looks at types and attributes that may come from a file, so it neither
//! panics nor overflows, whatever they are. What it cannot see, the sequence state and the
//! weight table, the [verifier](crate::verify) checks.

mod args;
mod experts;
mod fused;
mod sampling;

use crate::graph::Type;
use crate::op::Op;
use args::{Args, attributes};
pub(crate) use experts::*;
pub(crate) use fused::*;
use q35_types::{DType, Dim};
pub(crate) use sampling::*;

/// Why an op does not fit its operands.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TypeError {
    #[error("`{op}` has {found} operands, expected {expected}")]
    Arity { op: &'static str, found: usize, expected: usize },

    #[error("`{op}`: `{operand}` is {found}, expected {expected}")]
    Operand { op: &'static str, operand: &'static str, found: Type, expected: String },

    #[error("`{op}`: attribute `{attribute}` is {found}, expected {expected}")]
    Attribute { op: &'static str, attribute: &'static str, found: String, expected: String },

    /// Inputs and weights do not follow from operands.
    #[error("`{op}` has no type of its own, expected a declared one")]
    Undeclared { op: &'static str },
}

type Inferred = Result<Type, TypeError>;

impl Op {
    /// The type of the result of this op on operands of those types.
    pub fn result(&self, operands: &[&Type]) -> Result<Type, TypeError> {
        let (found, expected) = (operands.len(), self.operands().len());
        if found != expected {
            return Err(TypeError::Arity { op: self.name(), found, expected });
        }
        self.infer(operands)
    }
}

pub(crate) fn declared(op: &Op, _: &[&Type]) -> Inferred {
    Err(TypeError::Undeclared { op: op.name() })
}

/// `ids: [n]` and `table: [vocab, h]` give `[n, h]`.
pub(crate) fn embed(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::Embed { dtype });
    let a = Args { op, types };
    let [n] = a.ints(0, "i32[T]")?;
    let [_, h] = a.floats(1, "a float [vocab, hidden]")?;
    a.float_attribute("dtype", dtype)?;
    Ok(Type::new(dtype, [n, h]))
}

/// `x: [n, h]` and `rows: [r]` give `f32[r, h]`.
pub(crate) fn gather(op: &Op, types: &[&Type]) -> Inferred {
    let a = Args { op, types };
    let [_, h] = a.floats(0, "a float [T, hidden]")?;
    let [r] = a.ints(1, "i32[R]")?;
    Ok(Type::new(DType::F32, [r, h]))
}

/// `x: [.., n]` and `weight: [n]` give what `x` is.
pub(crate) fn rms_norm(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::RmsNorm { eps });
    let a = Args { op, types };
    a.norm(0, 1, eps)?;
    Ok(types[0].clone())
}

/// What the first operand is; what the others must be depends on the op.
pub(crate) fn like_first(op: &Op, types: &[&Type]) -> Inferred {
    let a = Args { op, types };
    a.last(0)?;
    match *op {
        Op::L2Norm { eps, scale } => {
            a.eps(eps)?;
            a.scale(scale)?;
        }
        Op::Conv { .. } => {
            let [_, channels] = a.floats(0, "a float [T, channels]")?;
            let [c, taps] = a.floats(1, "a float [channels, taps]")?;
            a.expect(1, c == channels && taps != Dim::Fixed(0), || {
                format!("[{channels}, taps] to match `x` {}", types[0])
            })?;
        }
        Op::Rope {} => {
            let [t, _, width] = a.floats(0, "a float [T, heads, width]")?;
            a.rope_table(1, t, a.fixed(0, width)?)?;
        }
        Op::Attention { scale, .. } => {
            let [t, heads, width] = a.floats(0, "a float [T, heads, width]")?;
            let [_, kv_heads, _] = a.floats(1, "a float [T, heads, width]")?;
            a.matches(1, &[t, kv_heads, width])?;
            a.matches(2, &[t, kv_heads, width])?;
            let (many, few) = (a.fixed(0, heads)?, a.fixed(1, kv_heads)?);
            a.expect(1, few > 0 && many.is_multiple_of(few), || {
                format!("a number of heads that divides the {many} of `q`")
            })?;
            a.scale(scale)?;
        }
        Op::GatedAttention { .. } => gated_attention(&a)?,
        _ => {}
    }
    Ok(types[0].clone())
}

/// What the operand is, as f32.
pub(crate) fn float32(op: &Op, types: &[&Type]) -> Inferred {
    Args { op, types }.last(0)?;
    Ok(Type { dtype: DType::F32, shape: types[0].shape.clone() })
}

/// `x: [.., k]` and `weight: [n, k]` give `[.., n]`.
pub(crate) fn matmul(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::MatMul { dtype });
    let a = Args { op, types };
    a.float_attribute("dtype", dtype)?;
    Ok(Type { dtype, shape: a.product(0, 1)? })
}

/// `x: [.., n]` gives `[.., len]`.
pub(crate) fn slice(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::Slice { start, len });
    let a = Args { op, types };
    let (lead, n) = a.columns(0)?;
    a.attribute("len", len, len > 0, "at least 1")?;
    a.range("start", start, u64::from(len), n)?;
    Ok(Type::new(types[0].dtype, lead.iter().copied().chain([Dim::Fixed(len)])))
}

/// `x: [.., heads · width]` gives `[.., heads, width]`.
pub(crate) fn split(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::Split { heads });
    let a = Args { op, types };
    let (lead, n) = a.columns(0)?;
    let divides = heads > 0 && n.is_multiple_of(heads);
    a.attribute("heads", heads, divides, format!("a divisor of {n}, the last axis of `x`"))?;
    let tail = [Dim::Fixed(heads), Dim::Fixed(n / heads)];
    Ok(Type::new(types[0].dtype, lead.iter().copied().chain(tail)))
}

/// `x: [.., heads, width]` gives `[.., heads · width]`.
pub(crate) fn join(op: &Op, types: &[&Type]) -> Inferred {
    let a = Args { op, types };
    a.last(0)?;
    let joined = match *types[0].shape {
        [ref lead @ .., Dim::Fixed(heads), Dim::Fixed(width)] => {
            heads.checked_mul(width).map(|n| (lead, n))
        }
        _ => None,
    };
    let (lead, n) = joined.ok_or_else(|| a.mismatch(0, "fixed [.., heads, width] below 2^32"))?;
    Ok(Type::new(types[0].dtype, lead.iter().copied().chain([Dim::Fixed(n)])))
}

/// The longer shape, where an axis that is 1, or not there, takes the size of the other's.
pub(crate) fn broadcast(op: &Op, types: &[&Type]) -> Inferred {
    let a = Args { op, types };
    a.float(0)?;
    a.float(1)?;
    let (x, y) = (&types[0].shape, &types[1].shape);
    let rank = x.len().max(y.len());
    let axis = |shape: &[Dim], i: usize| {
        (i + shape.len()).checked_sub(rank).map_or(Dim::Fixed(1), |i| shape[i])
    };
    let shape = (0..rank).map(|i| match (axis(x, i), axis(y, i)) {
        (m, n) if m == n || n == Dim::Fixed(1) => Ok(m),
        (Dim::Fixed(1), n) => Ok(n),
        _ => Err(a.mismatch(1, format!("axes of 1 or those of `a` {}", types[0]))),
    });
    Ok(Type { dtype: types[0].dtype, shape: shape.collect::<Result<_, _>>()? })
}

/// `positions: [3, T]` and `freqs: [n]` give `f32[T, 2, n]`.
pub(crate) fn rope_table(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::RopeTable { scale });
    let a = Args { op, types };
    let [axes, t] = a.ints(0, "i32[3, T]")?;
    a.expect(0, axes == Dim::Fixed(3), || "i32[3, T]".into())?;
    let [n] = a.floats(1, "a float [n]")?;
    a.scale(scale)?;
    Ok(Type::new(DType::F32, [t, Dim::Fixed(2), n]))
}

/// `q, k: [T, nk, dk]`, `v: [T, nv, dv]` and `g, beta: [T, nv]` give what `v` is.
pub(crate) fn gated_delta(op: &Op, types: &[&Type]) -> Inferred {
    let a = Args { op, types };
    let [t, nk, _] = a.floats(0, "a float [T, nk, dk]")?;
    a.matches(1, &types[0].shape)?;
    let [t2, nv, _] = a.floats(2, "a float [T, nv, dv]")?;
    let (many, few) = (a.fixed(2, nv)?, a.fixed(0, nk)?);
    a.expect(2, t == t2 && few > 0 && many.is_multiple_of(few), || {
        format!("[{t}, nv, dv] with nv a multiple of {few}, the key heads")
    })?;
    a.matches(3, &[t, nv])?;
    a.matches(4, &[t, nv])?;
    Ok(types[2].clone())
}

#[cfg(test)]
mod tests;
