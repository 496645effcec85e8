//! The weight manifest: recipes give exactly the rows that a weight has, from rows that the tensors
//! have.

use super::*;
use crate::{Manifest, Part, Weight};
use q35_types::Layout;
use q35_types::pack::PANEL;

pub(super) fn check(manifest: &Manifest, model: &ModelFacts) -> Checked {
    let mut seen = HashSet::new();
    let mut total = 0u64;
    each("weights", &manifest.weights, |w| {
        weight(w, model)?;
        if !seen.insert(&w.name) {
            return Err(flaw("name", Fault::Duplicate));
        }
        let copies = w.layers.len().max(1) as u64 * u64::from(w.experts.unwrap_or(1));
        total = total.saturating_add(bytes(w).saturating_mul(copies));
        range("", total, 1, MAX_TOTAL)
    })?;
    each("ignored", &manifest.ignored, |prefix| {
        // An empty prefix would ignore every tensor.
        if prefix.is_empty() { Err(flaw("", Fault::Empty)) } else { Ok(()) }
    })
}

fn weight(w: &Weight, model: &ModelFacts) -> Checked {
    template("name", &w.name, w)?;
    range("rows", w.rows, 1, MAX_COUNT)?;
    range("cols", w.cols, 1, MAX_COUNT)?;
    range("", bytes(w), 1, MAX_BYTES)?;
    layers("layers", &w.layers, model)?;
    if let Some(experts) = w.experts {
        let all = model.experts.map_or(0, |e| e.count);
        range("experts", experts, 1, u64::from(all))?;
    }
    if w.recipes.is_empty() {
        return Err(flaw("recipes", Fault::Empty));
    }
    each("recipes", &w.recipes, |parts| {
        let mut rows = 0u64;
        each("", parts, |p| {
            rows += part(p, w)?;
            Ok(())
        })?;
        match u64::from(w.rows) {
            expected if expected == rows => Ok(()),
            expected => Err(flaw("", Fault::Sum { found: rows, expected })),
        }
    })
}

/// Bytes of one packed matrix, padding included, of any rows and columns: at most 2^66 would not
/// fit, so too many are `u64::MAX`.
fn bytes(w: &Weight) -> u64 {
    let rows = match w.layout {
        Layout::Rows | Layout::Columns => u64::from(w.rows),
        Layout::Panels => u64::from(w.rows).next_multiple_of(PANEL as u64),
    };
    rows.saturating_mul(u64::from(w.cols)).saturating_mul(w.dtype.size() as u64)
}

/// The rows that a part gives.
fn part(part: &Part, w: &Weight) -> Result<u64, Flaw> {
    let cols = u64::from(w.cols);
    match part {
        Part::Zeros { rows } => Ok(u64::from(*rows)),
        Part::Values { bits } => {
            let found = bits.len() as u64;
            same("values.bits", found, found.next_multiple_of(cols))?;
            Ok(found / cols)
        }
        Part::Rows { tensor, shape, first, per_expert, rows, transform: _ } => {
            template("rows.tensor", tensor, w)?;
            let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
            let elements = elements.unwrap_or(u64::MAX);
            range("rows.shape", elements, 1, MAX_BYTES)?;
            same("rows.shape", elements, elements.next_multiple_of(cols))?;
            let last = u64::from(w.experts.unwrap_or(1)) - 1;
            let end = first
                .saturating_add(last.saturating_mul(*per_expert))
                .saturating_add(u64::from(*rows));
            let there = elements / cols;
            if end > there {
                return Err(flaw("rows", Fault::Rows { end, rows: there }));
            }
            Ok(u64::from(*rows))
        }
    }
}

/// A name that asks only for numbers that the weight has.
fn template(place: &str, name: &str, w: &Weight) -> Checked {
    if name.is_empty() {
        return Err(flaw(place, Fault::Empty));
    }
    for (key, has) in [("{layer}", !w.layers.is_empty()), ("{expert}", w.experts.is_some())] {
        if name.contains(key) && !has {
            let found = format!("{:?}", name.chars().take(128).collect::<String>());
            let expected = format!("no `{key}`, which the weight does not have");
            return Err(flaw(place, Fault::Not { found, expected }));
        }
    }
    Ok(())
}
