//! Whether weights can be made from their recipes.

use super::Finding;
use crate::graph::{Graph, Part, Weight, WeightId};
use std::collections::BTreeSet;

pub(super) fn check(graph: &Graph, findings: &mut Vec<Finding>) {
    let mut names = BTreeSet::new();
    for (w, id) in graph.weights.iter().zip((0..).map(WeightId)) {
        let mut wrong = |what: String, found: String, expected: &str| {
            findings.push(Finding::Weight { weight: id, what, found, expected: expected.into() });
        };
        if w.name.is_empty() || !names.insert(&w.name) {
            wrong("its name".into(), format!("{:?}", w.name), "one that no other weight has");
        }
        if !w.dtype.is_float() {
            wrong("its type".into(), w.dtype.to_string(), "a float type");
        }
        if w.rows == 0 || w.cols == 0 || w.experts == Some(0) {
            wrong("its shape".into(), w.ty().to_string(), "no empty axis");
            continue;
        }
        if w.vector && (w.rows != 1 || w.experts.is_some()) {
            wrong("a vector".into(), format!("of {} rows", w.rows), "one row and no experts");
        }
        if elements(w).is_none_or(|n| n > 1 << 48) {
            wrong("its shape".into(), w.ty().to_string(), "at most 2^48 elements");
        }
        if w.recipes.is_empty() {
            wrong("its recipes".into(), "empty".into(), "at least one");
        }
        for recipe in &w.recipes {
            let rows: u64 =
                recipe.iter().map(|part| rows(part, w.cols)).fold(0, u64::saturating_add);
            if rows != u64::from(w.rows) {
                wrong("a recipe".into(), format!("of {rows} rows"), &w.rows.to_string());
            }
            for part in recipe {
                if let Err(expected) = check_part(w, part) {
                    wrong("a part".into(), part.to_string(), &expected);
                }
            }
        }
    }
}

/// Whether the block's weights or state belong to a layer.
pub(super) fn are_of_a_layer(graph: &Graph) -> bool {
    let tensors = graph.weights.iter().flat_map(|w| w.recipes.iter().flatten());
    let of_layer = |name: &str| name.contains("{layer}");
    !graph.states.is_empty()
        || graph.weights.iter().any(|w| of_layer(&w.name))
        || tensors.into_iter().any(|p| matches!(p, Part::Rows { tensor, .. } if of_layer(tensor)))
}

fn elements(w: &Weight) -> Option<u64> {
    let rows = u64::from(w.rows).checked_mul(u64::from(w.experts.unwrap_or(1)))?;
    rows.checked_mul(u64::from(w.cols))
}

fn rows(part: &Part, cols: u32) -> u64 {
    match part {
        Part::Rows { rows, .. } | Part::Zeros { rows } => u64::from(*rows),
        Part::Values { bits } => bits.len() as u64 / u64::from(cols),
    }
}

/// Whether each expert's rows are in the tensor.
fn check_part(w: &Weight, part: &Part) -> Result<(), String> {
    let Part::Rows { tensor, shape, first, per_expert, rows, .. } = part else {
        return Ok(());
    };
    let by_name = tensor.contains("{expert}");
    if w.experts.is_none() && (by_name || *per_expert != 0) {
        return Err("nothing per expert, as the weight has none".into());
    }
    if by_name && *per_expert != 0 {
        return Err("`{expert}` in the name or rows per expert, not both".into());
    }
    let cols = u64::from(w.cols);
    let elements = shape.iter().try_fold(1u64, |n, &axis| n.checked_mul(axis));
    let total = elements.filter(|n| n.is_multiple_of(cols)).map(|n| n / cols);
    let total = total.ok_or_else(|| format!("a tensor of rows of {cols}"))?;
    let last = u64::from(w.experts.unwrap_or(1) - 1).checked_mul(*per_expert);
    let end = last.and_then(|n| n.checked_add(*first)?.checked_add(u64::from(*rows)));
    match end.is_some_and(|end| end <= total) {
        true => Ok(()),
        false => Err(format!("rows within the {total} of the tensor")),
    }
}
