//! The families of weights and state that all blocks of all entry points share.

use crate::kernels::DeltaShape;
use q35_artifact as plan;
use q35_graph as graph;
use q35_types::pack::PANEL;
use q35_types::step::PAGE;

#[derive(Default)]
pub struct Tables {
    pub weights: Vec<plan::Weight>,
    pub states: Vec<plan::State>,
}

impl Tables {
    /// The number of that weight, which exists for these layers (none: once).
    pub fn weight(&mut self, w: &graph::Weight, layers: &[u32]) -> u32 {
        let entry = plan::Weight {
            name: w.name.clone(),
            rows: w.rows,
            cols: w.cols,
            dtype: w.dtype,
            layout: w.layout,
            layers: if w.name.contains("{layer}") { layers.to_vec() } else { vec![] },
            experts: w.experts,
            recipes: w.recipes.iter().map(|r| r.iter().map(part).collect()).collect(),
        };
        let number = match self.weights.iter().position(|k| k.name == entry.name && same(k, &entry))
        {
            Some(n) => {
                for layer in entry.layers {
                    if !self.weights[n].layers.contains(&layer) {
                        self.weights[n].layers.push(layer);
                    }
                }
                self.weights[n].layers.sort_unstable();
                n
            }
            None => {
                let clash = self.weights.iter().any(|k| k.name == entry.name);
                assert!(!clash, "a weight is packed in one way: `{}`", entry.name);
                self.weights.push(entry);
                self.weights.len() - 1
            }
        };
        number as u32
    }

    /// The number of a part of that state: the keys and the values of a KV cache are apart.
    pub fn state(
        &mut self,
        block: &str,
        state: &graph::State,
        id: graph::StateId,
        part: usize,
        layers: &[u32],
    ) -> u32 {
        let (what, unit, elements, size) = match *state {
            graph::State::Conv { taps, channels } => {
                ("conv", plan::Unit::Slot, u64::from(taps * channels), 4)
            }
            graph::State::Delta { heads, dk, dv } => {
                let head = DeltaShape { nk: 1, dk, nv: 1, dv }.head_state() as u64;
                ("delta", plan::Unit::Slot, u64::from(heads) * head, 4)
            }
            graph::State::Kv { dtype, heads, head_dim } => {
                let width = match part {
                    0 => u64::from(head_dim),
                    _ => u64::from(head_dim).next_multiple_of(PANEL as u64),
                };
                let elements = u64::from(heads * PAGE) * width;
                (["keys", "values"][part], plan::Unit::Page, elements, dtype.size() as u64)
            }
        };
        let entry = plan::State {
            name: format!("{block}.{}.{what}", id.0),
            unit,
            unit_bytes: elements * size,
            ring: matches!(state, graph::State::Conv { .. }),
            layers: layers.to_vec(),
        };
        let number = self.states.iter().position(|s| s.name == entry.name).unwrap_or_else(|| {
            self.states.push(entry.clone());
            self.states.len() - 1
        });
        assert_eq!(self.states[number], entry, "entry points agree about state");
        number as u32
    }
}

fn same(a: &plan::Weight, b: &plan::Weight) -> bool {
    let strip = |w: &plan::Weight| plan::Weight { layers: vec![], ..w.clone() };
    strip(a) == strip(b)
}

fn part(p: &graph::Part) -> plan::Part {
    match p.clone() {
        graph::Part::Rows { tensor, shape, first, per_expert, rows, transform } => {
            plan::Part::Rows { tensor, shape, first, per_expert, rows, transform }
        }
        graph::Part::Zeros { rows } => plan::Part::Zeros { rows },
        graph::Part::Values { bits } => plan::Part::Values { bits },
    }
}
