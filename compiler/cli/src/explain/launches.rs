//! Launches of a decode step, block by block: beside bytes, what a step of one token waits for.

use super::choice::Choice;
use crate::units::{count, table};
use q35_artifact::{Artifact, TargetSection};
use serde_json::{Value, json};

/// Launches of a decode step, `head` included, on one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launches {
    pub target: String,
    /// In the order in which they first run.
    pub blocks: Vec<BlockRow>,
}

/// A kind of layer, or what comes before and after all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRow {
    pub name: String,
    /// Layers that it runs for; none if it belongs to no layer and runs once.
    pub layers: Option<u32>,
    /// Each time it runs.
    pub launches: u32,
}

/// Of the target that was asked for, or of all.
pub fn launches(artifact: &Artifact, asked: Option<Choice<'_>>) -> Vec<Launches> {
    match asked {
        Some(choice) => vec![of(choice.section)],
        None => artifact.targets.iter().map(of).collect(),
    }
}

fn of(target: &TargetSection) -> Launches {
    let mut blocks: Vec<BlockRow> = vec![];
    for name in ["decode", "head"] {
        let entry = target.plan.entry(name).expect("a checked plan has it");
        let mut ran = vec![None; entry.blocks.len()];
        for &(number, layer) in &entry.sequence {
            let block = &entry.blocks[number as usize];
            let at = *ran[number as usize].get_or_insert_with(|| {
                let launches = block.launches.len() as u32;
                blocks.push(BlockRow { name: block.name.clone(), layers: None, launches });
                blocks.len() - 1
            });
            if layer.is_some() {
                *blocks[at].layers.get_or_insert(0) += 1;
            }
        }
    }
    Launches { target: target.name.clone(), blocks }
}

impl Launches {
    /// Of the whole step.
    pub fn total(&self) -> u64 {
        let times = |b: &BlockRow| u64::from(b.layers.unwrap_or(1)) * u64::from(b.launches);
        self.blocks.iter().map(times).sum()
    }

    pub(super) fn text(&self) -> String {
        let title =
            format!("{} launches of decode and head for {}\n", count(self.total()), self.target);
        let mut rows = vec![["block", "layers", "launches a layer"].map(String::from).to_vec()];
        rows.extend(self.blocks.iter().map(|b| {
            let layers = b.layers.map_or("-".into(), |n| count(n.into()));
            vec![b.name.clone(), layers, count(b.launches.into())]
        }));
        title + &table("  ", &rows)
    }

    pub(super) fn json(&self) -> Value {
        let block = |b: &BlockRow| json!({ "block": b.name, "layers": b.layers, "launches_per_layer": b.launches });
        json!({
            "target": self.target,
            "launches": self.total(),
            "blocks": self.blocks.iter().map(block).collect::<Vec<_>>(),
        })
    }
}
