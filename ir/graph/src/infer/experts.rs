//! Type rules of the mixture of experts.

use super::args::{Args, attributes};
use super::fused::gate_over_up;
use super::{Inferred, TypeError};
use crate::graph::Type;
use crate::op::Op;
use q35_types::{DType, Dim};

/// `logits: [T, n]` gives `i32[T, k]`.
pub(crate) fn top_k(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::TopK { experts, k });
    let a = Args { op, types };
    let [t, columns] = a.floats(0, "a float [T, experts]")?;
    let columns = a.fixed(0, columns)?;
    let fits = (1..=columns).contains(&experts);
    a.attribute("experts", experts, fits, format!("1 to {columns}, the columns of `logits`"))?;
    let fits = (1..=experts).contains(&k);
    a.attribute("k", k, fits, format!("1 to {experts}, the experts"))?;
    Ok(Type::new(DType::I32, [t, Dim::Fixed(k)]))
}

/// `ids: [T, k]` gives `f32[T, k]`.
pub(crate) fn route_weights(op: &Op, types: &[&Type]) -> Inferred {
    let a = Args { op, types };
    let [t, _] = a.floats(0, "a float [T, experts]")?;
    let [t2, k] = a.ints(1, "i32[T, k]")?;
    a.expect(1, t == t2, || format!("i32[{t}, k] to match `logits` {}", types[0]))?;
    Ok(Type::new(DType::F32, [t, k]))
}

/// `x: [T, c]` or `[T, k, c]`, `weight: [experts, n, c]` and `ids: [T, k]` give `[T, k, n]`.
pub(crate) fn expert_matmul(op: &Op, types: &[&Type]) -> Inferred {
    let a = Args { op, types };
    let [t, k] = a.ints(2, "i32[T, k]")?;
    let c = a.last(0)?;
    let fits = *types[0].shape == [t, c] || *types[0].shape == [t, k, c];
    a.expect(0, fits, || format!("[{t}, c] or [{t}, {k}, c]"))?;
    let [_, n] = expert_weight(&a, c)?;
    Ok(Type::new(types[0].dtype, [t, k, n]))
}

/// `x: [T, k, n]` and `weights: [T, k]` give `[T, n]`.
pub(crate) fn expert_sum(op: &Op, types: &[&Type]) -> Inferred {
    let a = Args { op, types };
    let [t, k, n] = a.floats(0, "a float [T, k, n]")?;
    a.matches(1, &[t, k])?;
    Ok(Type::new(types[0].dtype, [t, n]))
}

/// `ids: [T, k]` gives `i32[k·T + 2 + 2·experts]`.
pub(crate) fn expert_groups(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::ExpertGroups { experts });
    let a = Args { op, types };
    let [t, k] = a.ints(0, "i32[T, k]")?;
    a.expect(0, t == Dim::Tokens, || "i32[T, k]".into())?;
    let k = a.fixed(0, k)?;
    let groups = groups(k, experts);
    let fits = experts > 0 && k <= experts && groups.is_some();
    a.attribute("experts", experts, fits, format!("{} to {}", k.max(1), i32::MAX / 2))?;
    Ok(Type::new(DType::I32, groups))
}

/// `x: [T, c]` and `weight: [experts, rows, c]` give `[T, k, width]`.
pub(crate) fn expert_swiglu(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::ExpertSwiGlu { k, width, up });
    let a = Args { op, types };
    let [t, c] = a.floats(0, "a float [T, c]")?;
    let [experts, rows] = expert_weight(&a, c)?;
    gate_over_up(&a, width, up, a.fixed(1, rows)?)?;
    expect_groups(&a, Dim::Fixed(k), experts)?;
    Ok(Type::new(types[0].dtype, [t, Dim::Fixed(k), Dim::Fixed(width)]))
}

/// `x: [T, k, c]` and `weight: [experts, n, c]` give `[T, k, n]`.
pub(crate) fn expert_linear(op: &Op, types: &[&Type]) -> Inferred {
    let a = Args { op, types };
    let [t, k, c] = a.floats(0, "a float [T, k, c]")?;
    let [experts, n] = expert_weight(&a, c)?;
    expect_groups(&a, k, experts)?;
    Ok(Type::new(types[0].dtype, [t, k, n]))
}

/// `x: [T, k, n]`, `logits: [T, columns]`, `ids: [T, k]` and `shared: [T, n]` give what `residual: [T, n]` is.
pub(crate) fn expert_combine(op: &Op, types: &[&Type]) -> Inferred {
    attributes!(op, Op::ExpertCombine { gate });
    let a = Args { op, types };
    let [t, k, n] = a.floats(0, "a float [T, k, n]")?;
    let [t2, columns] = a.floats(1, "a float [T, columns]")?;
    a.expect(1, t == t2, || format!("[{t}, columns] to match `x` {}", types[0]))?;
    a.range("gate", gate, 1, a.fixed(1, columns)?)?;
    a.matches_ints(2, &[t, k])?;
    a.matches(3, &[t, n])?;
    a.matches(4, &[t, n])?;
    Ok(types[4].clone())
}

/// Experts and rows of operand 1, whose columns must be `c`.
fn expert_weight(a: &Args<'_>, c: Dim) -> Result<[Dim; 2], TypeError> {
    let [experts, n, c2] = a.floats(1, "a float [experts, n, c]")?;
    a.expect(1, c == c2, || format!("[experts, n, {c}] to match `x` {}", a.types[0]))?;
    Ok([experts, n])
}

/// That operand 2 groups `k` of so many experts for each token.
fn expect_groups(a: &Args<'_>, k: Dim, experts: Dim) -> Result<(), TypeError> {
    let words = k.fixed().zip(experts.fixed()).and_then(|(k, experts)| groups(k, experts));
    let words = words.ok_or_else(|| a.mismatch(1, "fixed experts"))?;
    a.matches_ints(2, &[words])
}

/// Words of the groups of `k` experts a token.
fn groups(k: u32, experts: u32) -> Option<Dim> {
    let plus = experts.checked_mul(2)?.checked_add(2)?;
    Some(Dim::PerToken { times: k, plus })
}
