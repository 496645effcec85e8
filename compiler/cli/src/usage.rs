//! What the launches of entry points touch, each thing named once.

use q35_artifact::{Arg, Entry, Launch, Manifest, Part, Weight};
use std::collections::{BTreeMap, BTreeSet};

/// Weights and states of some entry points.
pub struct Usage<'a> {
    manifest: &'a Manifest,
    /// Weight and layer.
    weights: BTreeMap<(u32, Option<u32>), Read>,
    /// Indices into the plan's states.
    pub states: BTreeSet<u32>,
}

/// How much of a weight a step reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Read {
    /// A row for each token.
    Lookup,
    Whole,
}

/// Every launch of a step of an entry point, and the layer that it runs for.
pub fn launches(entry: &Entry) -> impl Iterator<Item = (&Launch, Option<u32>)> {
    let block = |&(block, layer): &(u32, Option<u32>)| {
        let launches = &entry.blocks[block as usize].launches;
        launches.iter().map(move |l| (l, layer))
    };
    entry.sequence.iter().flat_map(block)
}

impl<'a> Usage<'a> {
    pub fn of(manifest: &'a Manifest, entries: &[&Entry]) -> Self {
        let mut usage = Usage { manifest, weights: BTreeMap::new(), states: BTreeSet::new() };
        for entry in entries {
            for (launch, layer) in launches(entry) {
                launch.args.iter().for_each(|&arg| usage.add(arg, layer, entry));
            }
        }
        usage
    }

    fn add(&mut self, arg: Arg, layer: Option<u32>, entry: &Entry) {
        match arg {
            Arg::Weight(i) => {
                let weight = &self.manifest.weights[i as usize];
                let layer = layer.filter(|_| !weight.layers.is_empty());
                // The head multiplies with the embedding of a tied model; everyone else looks up.
                let looks_up = ["prefill", "decode"].contains(&entry.name.as_str());
                let read = match is_embedding(weight) && looks_up {
                    true => Read::Lookup,
                    false => Read::Whole,
                };
                let known = self.weights.entry((i, layer)).or_insert(read);
                *known = read.max(*known);
            }
            Arg::State(i) => drop(self.states.insert(i)),
            Arg::Step | Arg::Arena { .. } | Arg::Buffer(_) => {}
        }
    }

    /// Bytes of memory that the packed weights take, padding and all experts included.
    pub fn packed_bytes(&self) -> u64 {
        let bytes = |&(i, _): &(u32, Option<u32>)| {
            let w = &self.manifest.weights[i as usize];
            w.packed().bytes() as u64 * u64::from(w.experts.unwrap_or(1))
        };
        self.weights.keys().map(bytes).sum()
    }

    /// Bytes of weights that a step of `tokens` tokens cannot do without: each weight once, of
    /// experts only as many as are chosen in a layer, of an embedding only the tokens' rows.
    pub fn least_bytes(&self, tokens: f64, experts: f64) -> f64 {
        let bytes = |(&(i, _), read): (&(u32, Option<u32>), &Read)| {
            let w = &self.manifest.weights[i as usize];
            let row = f64::from(w.cols) * w.dtype.size() as f64;
            let matrices = w.experts.map_or(1.0, |_| experts);
            match read {
                Read::Lookup => tokens.min(f64::from(w.rows)) * row,
                Read::Whole => matrices * rows(w) * row,
            }
        };
        self.weights.iter().map(bytes).sum()
    }
}

/// Rows that hold numbers.
fn rows(w: &Weight) -> f64 {
    let zeros = |p: &Part| match p {
        Part::Zeros { rows } => Some(f64::from(*rows)),
        Part::Rows { .. } | Part::Values { .. } => None,
    };
    let padding: f64 = w.recipes[0].iter().filter_map(zeros).sum();
    f64::from(w.rows) - padding
}

fn is_embedding(w: &Weight) -> bool {
    let parts = w.recipes.iter().flatten();
    let named = |p: &Part| matches!(p, Part::Rows { tensor, .. } if tensor.ends_with("embed_tokens.weight"));
    parts.into_iter().any(named)
}

/// An artifact whose every number can be added up by hand.
#[cfg(test)]
pub mod sample;
