//! Patterns that several passes look for.

use q35_graph::{Op, Rewriter, Value};

/// Some columns of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Columns {
    pub of: Value,
    pub start: u32,
    pub len: u32,
}

/// `v` as columns of what it is sliced from, or all columns of itself.
pub(super) fn columns(g: &Rewriter<'_>, v: Value) -> Option<Columns> {
    Some(match g.at(v) {
        (Op::Slice { start, len }, &[of]) => Columns { of, start, len },
        _ => Columns { of: v, start: 0, len: g.ty(v).shape.last()?.fixed()? },
    })
}

/// `split(x, heads)` whose result nothing else reads: x's columns.
pub(super) fn heads_of(g: &Rewriter<'_>, v: Value, heads: u32) -> Option<Columns> {
    let [x] = g.matches(v, Op::Split { heads })?;
    g.used_once(v).then(|| columns(g, x))?
}

/// `silu(gate) · up`, two runs of as many columns of one product that nothing else reads.
pub(super) struct GateUp {
    pub product: Value,
    pub width: u32,
    /// Where up starts. Gate starts at 0.
    pub up: u32,
}

pub(super) fn gate_up(g: &Rewriter<'_>, root: Value) -> Option<GateUp> {
    let [activated, lifted] = g.matches(root, Op::Mul {})?;
    let [gated] = g.matches(activated, Op::Silu {})?;
    let (Op::Slice { start: 0, len: width }, &[product]) = g.at(gated) else {
        return None;
    };
    let (Op::Slice { start: up, len }, &[other]) = g.at(lifted) else {
        return None;
    };

    let apart = product == other && len == width && up >= width;
    let private =
        only_read_by(g, product, &[gated, lifted]) && all_used_once(g, &[activated, gated, lifted]);
    (apart && private).then_some(GateUp { product, width, up })
}

pub(super) fn all_used_once(g: &Rewriter<'_>, values: &[Value]) -> bool {
    values.iter().all(|&v| g.used_once(v))
}

/// Whether those, each once, are all that reads `v`.
pub(super) fn only_read_by(g: &Rewriter<'_>, v: Value, users: &[Value]) -> bool {
    let uses = g.graph().uses()[v.0 as usize] as usize;
    uses == users.len() && g.users(v).len() == uses && users.iter().all(|u| g.users(v).contains(u))
}
