//! Type rules of what passes make of norms, products, DeltaNet and attention.

use super::args::{Args, attributes};
use super::{Inferred, TypeError};
use crate::graph::Type;
use crate::op::Op;
use q35_types::Dim;

pub(crate) fn norm_matmul(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::NormMatMul { eps, dtype });
    let a = Args { op, types };
    a.norm(0, 1, eps)?;
    a.float_attribute("dtype", dtype)?;
    Ok(Type { dtype, shape: a.product(0, 2)? })
}

/// What `residual` is.
pub(crate) fn matmul_add(op: &Op, types: &[&Type]) -> Inferred {
    let a = Args { op, types };
    let shape = a.product(0, 1)?;
    a.matches(2, &shape)?;
    Ok(types[2].clone())
}

/// `x: [.., k]` and `weight: [rows, k]` give `[.., width]`.
pub(crate) fn swiglu(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::SwiGlu { width, up });
    let a = Args { op, types };
    swiglu_shape(&a, 1, width, up)
}

pub(crate) fn norm_swiglu(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::NormSwiGlu { eps, width, up });
    let a = Args { op, types };
    a.norm(0, 1, eps)?;
    swiglu_shape(&a, 2, width, up)
}

fn swiglu_shape(a: &Args<'_>, weight: usize, width: u32, up: u32) -> Inferred {
    let mut shape = a.product(0, weight)?;
    let last = shape.pop().expect("a product has a last axis");
    let rows = a.fixed(weight, last)?;
    gate_over_up(a, width, up, rows)?;
    shape.push(Dim::Fixed(width));
    Ok(Type { dtype: a.types[0].dtype, shape })
}

/// That rows `0..width` and `up..up + width` are two parts of a weight of `rows` rows.
pub(super) fn gate_over_up(a: &Args<'_>, width: u32, up: u32, rows: u32) -> Result<(), TypeError> {
    a.attribute("width", width, width > 0, "at least 1")?;
    a.attribute("up", up, up >= width, format!("at least `width`, {width}"))?;
    a.range("up", up, u64::from(width), rows)
}

/// `x: [T, columns]` gives `[T, 2·nk·dk + nv·dv]`.
pub(crate) fn delta_conv(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::DeltaConv { nk, dk, nv, dv, eps, scale });
    let a = Args { op, types };
    let channels = delta_channels(&a, nk, dk, nv, dv)?;
    let [t, columns] = a.floats(0, "a float [T, columns]")?;
    let enough = a.fixed(0, columns)? >= channels;
    a.expect(0, enough, || format!("[{t}, {channels} or more] to hold q, k and v"))?;
    let [c, taps] = a.floats(1, "a float [channels, taps]")?;
    let fits = c == Dim::Fixed(channels) && taps.fixed().is_some_and(|n| n > 0);
    a.expect(1, fits, || format!("[{channels}, taps]"))?;
    a.eps(eps)?;
    a.scale(scale)?;
    Ok(Type::new(types[0].dtype, [t, Dim::Fixed(channels)]))
}

/// `qkv: [T, 2·nk·dk + nv·dv]` and `x: [T, columns]` give `[T, nv·dv]`.
pub(crate) fn delta_rule(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::DeltaRule { nk, dk, nv, dv, z, b, a, eps });
    let args = Args { op, types };
    let channels = delta_channels(&args, nk, dk, nv, dv)?;
    let [t, columns] = args.floats(1, "a float [T, columns]")?;
    args.matches(0, &[t, Dim::Fixed(channels)])?;
    let columns = args.fixed(1, columns)?;
    let values = nv * dv;
    args.range("z", z, u64::from(values), columns)?;
    args.range("b", b, u64::from(nv), columns)?;
    args.range("a", a, u64::from(nv), columns)?;
    args.matches(2, &[Dim::Fixed(nv)])?;
    args.matches(3, &[Dim::Fixed(nv)])?;
    args.matches(4, &[Dim::Fixed(dv)])?;
    args.eps(eps)?;
    Ok(Type::new(types[1].dtype, [t, Dim::Fixed(values)]))
}

/// `2·nk·dk + nv·dv`, which then cannot overflow, nor can a part of it.
fn delta_channels(a: &Args<'_>, nk: u32, dk: u32, nv: u32, dv: u32) -> Result<u32, TypeError> {
    a.ratio(("nv", nv), ("nk", nk))?;
    a.attribute("dk", dk, dk > 0, "at least 1")?;
    a.attribute("dv", dv, dv > 0, "at least 1")?;
    let product = |m: u32, n: u32| u64::from(m).saturating_mul(u64::from(n));
    let channels = product(nk, dk).saturating_mul(2).saturating_add(product(nv, dv));
    let fits = u32::try_from(channels);
    a.attribute("dv", dv, fits.is_ok(), "2·nk·dk + nv·dv below 2^32")?;
    Ok(fits.unwrap_or(u32::MAX))
}

/// `x: [T, columns]` gives `[T, heads · width]`.
pub(crate) fn qk_rope(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::QkRope { heads, kv_heads, width, q, k, v, eps });
    let a = Args { op, types };
    let [t, columns] = a.floats(0, "a float [T, columns]")?;
    let columns = a.fixed(0, columns)?;
    let (queries, keys) = attention_columns(&a, heads, kv_heads, width)?;
    a.range("q", q, 2 * u64::from(queries), columns)?;
    a.range("k", k, u64::from(keys), columns)?;
    a.range("v", v, u64::from(keys), columns)?;
    a.matches(1, &[Dim::Fixed(width)])?;
    a.matches(2, &[Dim::Fixed(width)])?;
    a.rope_table(3, t, width)?;
    a.eps(eps)?;
    Ok(Type::new(types[0].dtype, [t, Dim::Fixed(queries)]))
}

/// What must hold besides the result being what `q` is.
pub(super) fn gated_attention(a: &Args<'_>) -> Result<(), TypeError> {
    attributes!(a.op, Op::GatedAttention { heads, kv_heads, width, gate, scale });
    let [t, columns] = a.floats(1, "a float [T, columns]")?;
    let columns = a.fixed(1, columns)?;
    let (queries, _) = attention_columns(a, heads, kv_heads, width)?;
    a.matches(0, &[t, Dim::Fixed(queries)])?;
    let last_gate_ends = 2 * u64::from(queries) - u64::from(width);
    a.range("gate", gate, last_gate_ends, columns)?;
    a.scale(scale)
}

/// `heads · width` and `kv_heads · width`, at least `width` each.
fn attention_columns(
    a: &Args<'_>,
    heads: u32,
    kv_heads: u32,
    width: u32,
) -> Result<(u32, u32), TypeError> {
    a.ratio(("heads", heads), ("kv_heads", kv_heads))?;
    let queries = heads.checked_mul(width).filter(|&n| n > 0);
    a.attribute("width", width, queries.is_some(), "1 or more, heads · width below 2^32")?;
    Ok((queries.unwrap_or(u32::MAX), kv_heads * width))
}
