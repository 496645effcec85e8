//! The printer.

use crate::graph::{Graph, Node, Part, Program, State, StateId, Value, Weight, WeightId};
use q35_types::{Layout, pack::Transform};
use std::fmt::{self, Display, Formatter};

pub(super) const LAYOUTS: [(Layout, &str); 3] =
    [(Layout::Rows, "rows"), (Layout::Columns, "columns"), (Layout::Panels, "panels")];

pub(super) const TRANSFORMS: [(Transform, &str); 3] =
    [(Transform::None, "none"), (Transform::AddOne, "add_one"), (Transform::NegExp, "neg_exp")];

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "program {}", self.entry.name())?;
        for &(block, layer) in &self.sequence {
            write!(f, "run {}", self.blocks.get(block).map_or("?", |b| &b.name))?;
            match layer {
                Some(layer) => writeln!(f, " {{layer: {layer}}}")?,
                None => writeln!(f)?,
            }
        }
        self.blocks.iter().try_for_each(|block| write!(f, "\n{block}"))
    }
}

impl Display for Graph {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "block {}", self.name)?;
        for (weight, id) in self.weights.iter().zip((0..).map(WeightId)) {
            write!(f, "{id}: {weight}")?;
        }
        for (state, id) in self.states.iter().zip((0..).map(StateId)) {
            writeln!(f, "{id}: {state}")?;
        }
        for (node, v) in self.nodes.iter().zip((0..).map(Value)) {
            writeln!(f, "{v}: {node}")?;
        }
        for (i, (port, v)) in self.outputs.iter().enumerate() {
            write!(f, "{} {} {v}", if i > 0 { "," } else { "return" }, port.name())?;
        }
        if self.outputs.is_empty() { Ok(()) } else { writeln!(f) }
    }
}

/// `bf16[64] rows "norm"`, its recipes on the lines below.
impl Display for Weight {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let layout = name_of(&LAYOUTS, self.layout);
        writeln!(f, "{} {layout} {:?}", self.ty(), self.name)?;
        for recipe in &self.recipes {
            writeln!(f, "  recipe")?;
            recipe.iter().try_for_each(|part| writeln!(f, "    {part}"))?;
        }
        Ok(())
    }
}

impl Display for Part {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Part::Zeros { rows } => write!(f, "zeros {{rows: {rows}}}"),
            Part::Values { bits } => {
                let values: Vec<f32> = bits.iter().copied().map(f32::from_bits).collect();
                write!(f, "values {values:?}")
            }
            Part::Rows { tensor, shape, first, per_expert, rows, transform } => {
                let transform = name_of(&TRANSFORMS, *transform);
                write!(f, "rows {tensor:?} {shape:?} {{first: {first}, rows: {rows}, ")?;
                write!(f, "per_expert: {per_expert}, transform: {transform}}}")
            }
        }
    }
}

impl Display for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            State::Conv { taps, channels } => {
                write!(f, "conv {{taps: {taps}, channels: {channels}}}")
            }
            State::Delta { heads, dk, dv } => {
                write!(f, "delta {{heads: {heads}, dk: {dk}, dv: {dv}}}")
            }
            State::Kv { dtype, heads, head_dim } => {
                write!(f, "kv {{dtype: {dtype}, heads: {heads}, head_dim: {head_dim}}}")
            }
        }
    }
}

/// `bf16[T, 192] = swiglu %0, %1 {width: 64, up: 64}`
impl Display for Node {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.ty, self.op.name())?;
        for (i, v) in self.operands.iter().enumerate() {
            write!(f, "{} {v}", if i > 0 { "," } else { "" })?;
        }
        for (i, (name, text)) in self.op.attributes().iter().enumerate() {
            write!(f, "{}{name}: {text}", if i > 0 { ", " } else { " {" })?;
        }
        f.write_str(if self.op.attributes().is_empty() { "" } else { "}" })
    }
}

fn name_of<T: PartialEq>(names: &[(T, &'static str)], value: T) -> &'static str {
    names.iter().find(|(v, _)| *v == value).map(|(_, name)| *name).expect("every value is named")
}
