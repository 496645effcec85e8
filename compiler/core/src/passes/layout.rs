//! Lay weights out as kernels read them.
//!
//! ```text
//! matrices of products           [rows / 16][cols][16]   sixteen outputs side by side
//! taps of the convolution        [taps][channels]        neighbouring channels side by side
//! embedding, vectors             as in the checkpoint
//! ```
//!
//! Up's rows of a SwiGLU begin at a multiple of sixteen, with zero rows before them where gate's
//! number is none: so the gate and the up of an output are in the same place of two panels. Zero
//! rows are never multiplied into a result, only skipped over.
//!
//! It stands last, when it is known which op reads what. Layouts do not depend on the entry point:
//! a weight is packed once for all of them. For the same reason a layout that the frontend has
//! given, to a matrix that is embedding and head, stays.

use q35_graph::{Entry, Graph, Op, Part, Rewrite, Rewriter, Value, Weight};
use q35_types::Layout;
use q35_types::pack::PANEL;

pub(super) fn run(graph: &mut Graph, _: Entry) {
    graph.rewrite(pad_gate);
    for v in graph.values() {
        let Some((weight, layout)) = packed_operand(&graph.node(v).op) else {
            continue;
        };
        let weight = graph.node(v).operands[weight];
        if let Op::Weight { id } = graph.node(weight).op {
            graph.weights[id.0 as usize].layout = layout;
        }
    }
}

/// The operand that is a packed weight, and its layout.
fn packed_operand(op: &Op) -> Option<(usize, Layout)> {
    match op {
        Op::MatMul { .. }
        | Op::MatMulAdd {}
        | Op::SwiGlu { .. }
        | Op::ExpertMatMul {}
        | Op::ExpertSwiGlu { .. }
        | Op::ExpertLinear {} => Some((1, Layout::Panels)),
        Op::NormMatMul { .. } | Op::NormSwiGlu { .. } => Some((2, Layout::Panels)),
        Op::Conv { .. } | Op::DeltaConv { .. } => Some((1, Layout::Columns)),
        Op::Input { .. }
        | Op::Weight { .. }
        | Op::Embed { .. }
        | Op::Gather {}
        | Op::RmsNorm { .. }
        | Op::L2Norm { .. }
        | Op::Slice { .. }
        | Op::Split { .. }
        | Op::Join {}
        | Op::Add {}
        | Op::Mul {}
        | Op::Silu {}
        | Op::Sigmoid {}
        | Op::Softplus {}
        | Op::RopeTable { .. }
        | Op::Rope {}
        | Op::Attention { .. }
        | Op::GatedDelta { .. }
        | Op::TopK { .. }
        | Op::RouteWeights {}
        | Op::ExpertSum {}
        | Op::Likeliest { .. }
        | Op::LogitsAt {}
        | Op::DeltaRule { .. }
        | Op::QkRope { .. }
        | Op::GatedAttention { .. }
        | Op::ExpertGroups { .. }
        | Op::ExpertCombine { .. } => None,
    }
}

/// Zero rows between gate and up, so that up begins a panel.
fn pad_gate(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
    let (mut op, operands) = g.at(root);
    let (weight, _) = packed_operand(&op)?;
    let (Op::SwiGlu { up, .. } | Op::NormSwiGlu { up, .. } | Op::ExpertSwiGlu { up, .. }) = &mut op
    else {
        return None;
    };
    let aligned = up.next_multiple_of(PANEL as u32);
    if aligned == *up {
        return None;
    }
    let mut new = g.draft();
    let padded = with_zeros(g.weight(operands[weight])?, *up, aligned - *up);
    let padded = new.add_weight(padded);
    *up = aligned;
    let operand = |(i, &v)| if i == weight { padded } else { v };
    new.push(op, operands.iter().enumerate().map(operand));
    Some(new)
}

/// `weight` with `zeros` zero rows before row `at`.
fn with_zeros(weight: &Weight, at: u32, zeros: u32) -> Weight {
    let recipe = |parts: &Vec<Part>| {
        let (before, after) = split(parts, at, weight.cols);
        [before, vec![Part::Zeros { rows: zeros }], after].concat()
    };
    let recipes = weight.recipes.iter().map(recipe).collect();
    Weight { rows: weight.rows + zeros, recipes, ..weight.clone() }
}

/// The parts that make the first `at` rows, and those that make the rest.
fn split(parts: &[Part], mut at: u32, cols: u32) -> (Vec<Part>, Vec<Part>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for part in parts {
        let rows = rows_of(part, cols);
        let here = rows.min(at);
        if here > 0 {
            before.push(part_rows(part, 0, here, cols));
        }
        if here < rows {
            after.push(part_rows(part, here, rows - here, cols));
        }
        at -= here;
    }
    (before, after)
}

fn rows_of(part: &Part, cols: u32) -> u32 {
    match part {
        Part::Rows { rows, .. } | Part::Zeros { rows } => *rows,
        Part::Values { bits } => bits.len() as u32 / cols,
    }
}

/// `rows` rows of a part, from its row `start` on.
fn part_rows(part: &Part, start: u32, rows: u32, cols: u32) -> Part {
    let mut part = part.clone();
    match &mut part {
        Part::Rows { first, rows: n, .. } => (*first, *n) = (*first + u64::from(start), rows),
        Part::Zeros { rows: n } => *n = rows,
        Part::Values { bits } => {
            let of = |row: u32| row as usize * cols as usize;
            *bits = bits[of(start)..of(start + rows)].to_vec();
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use super::super::tests::{after, all, block_before, golden};
    use super::*;

    fn packed(config: &str, entry: Entry, block: &str) -> Graph {
        after("layout", block_before("layout", &golden(config), entry, block), entry)
    }

    fn weights(graph: &Graph) -> Vec<String> {
        let line = |w: &Weight| format!("{w}").lines().next().unwrap().to_string();
        graph.weights.iter().map(line).collect()
    }

    #[test]
    fn products_read_panels_and_the_convolution_columns() {
        let g = packed("dense-tied-odd", Entry::Decode, "delta_net");
        insta::assert_snapshot!(weights(&g).join("\n"), @r#"
        bf16[68] rows "layers.{layer}.input_layernorm.weight"
        f32[152, 4] columns "layers.{layer}.linear_attn.conv1d.weight"
        f32[2] rows "layers.{layer}.linear_attn.dt_bias"
        f32[2] rows "layers.{layer}.linear_attn.A_log"
        f32[36] rows "layers.{layer}.linear_attn.norm.weight"
        bf16[68, 72] panels "layers.{layer}.linear_attn.out_proj.weight"
        bf16[68] rows "layers.{layer}.post_attention_layernorm.weight"
        bf16[68, 90] panels "layers.{layer}.mlp.down_proj.weight"
        bf16[228, 68] panels "layers.{layer}.linear_attn.in_proj_qkv+in_proj_z+in_proj_b+in_proj_a.weight"
        bf16[186, 68] panels "layers.{layer}.mlp.gate_proj+up_proj.weight"
        "#);
    }

    #[test]
    fn up_begins_a_panel() {
        let g = packed("moe-ratio3-yarn", Entry::Prefill, "attention");
        let experts = g.weights.iter().find(|w| w.name.ends_with("experts.gate_up_proj")).unwrap();
        insta::assert_snapshot!(experts, @r#"
        bf16[10, 54, 84] panels "layers.{layer}.mlp.experts.gate_up_proj"
          recipe
            rows "model.language_model.layers.{layer}.mlp.experts.gate_up_proj" [10, 44, 84] {first: 0, rows: 22, per_expert: 44, transform: none}
            zeros {rows: 10}
            rows "model.language_model.layers.{layer}.mlp.experts.gate_up_proj" [10, 44, 84] {first: 22, rows: 22, per_expert: 44, transform: none}
          recipe
            rows "model.language_model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight" [22, 84] {first: 0, rows: 22, per_expert: 0, transform: none}
            zeros {rows: 10}
            rows "model.language_model.layers.{layer}.mlp.experts.{expert}.up_proj.weight" [22, 84] {first: 0, rows: 22, per_expert: 0, transform: none}
        "#);
        let swiglu = g.node(all(&g, "expert_swiglu")[0]).op;
        assert_eq!(swiglu, Op::ExpertSwiGlu { k: 3, width: 22, up: 32 });
    }

    #[test]
    fn a_gate_of_whole_panels_gets_no_zeros() {
        let g = packed("tiny-moe", Entry::Prefill, "attention");
        let parts = g.weights.iter().flat_map(|w| w.recipes.iter().flatten());
        assert_eq!(parts.filter(|p| matches!(p, Part::Zeros { .. })).count(), 0);
    }

    #[test]
    fn an_embedding_that_is_the_head_too_has_its_layout() {
        let layout = |config, entry, block| {
            let g = packed(config, entry, block);
            let embedding = |w: &&Weight| w.name == "embed_tokens.weight";
            g.weights.iter().find(embedding).map(|w| w.layout)
        };
        let tied = "dense-tied-odd";
        assert_eq!(layout(tied, Entry::Prefill, "embed"), Some(Layout::Panels));
        assert_eq!(layout(tied, Entry::Head, "head"), Some(Layout::Panels));
        assert_eq!(layout("tiny-moe", Entry::Decode, "embed"), Some(Layout::Rows));
    }

    #[test]
    fn values_and_zeros_split_by_rows() {
        let parts = [Part::Zeros { rows: 3 }, Part::Values { bits: vec![1, 2, 3, 4] }];
        let (before, after) = split(&parts, 4, 2);
        assert_eq!(before, [Part::Zeros { rows: 3 }, Part::Values { bits: vec![1, 2] }]);
        assert_eq!(after, [Part::Values { bits: vec![3, 4] }]);
    }
}
