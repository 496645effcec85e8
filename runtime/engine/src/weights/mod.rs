//! Weights: from a checkpoint to memory that kernels read.
//!
//! ```text
//! manifest + checkpoint ─ resolve ─▶ pieces of tensors ─ pack ─▶ spans of device memory
//!           or random numbers ──────────────────────────┘
//! ```
//!
//! A weight that kernels read just as it is stored is not copied: it stays in the mapped file.

mod error;
mod pack;
mod random;
mod resolve;

pub use error::WeightsError;
pub use pack::Progress;

use crate::checkpoint::Checkpoint;
use pack::Packer;
use q35_artifact::{Arg, Manifest, Plan};
use q35_device::{Device, Span};
use std::collections::{BTreeMap, BTreeSet};

/// Where a weight lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    One(Span),
    /// One for each expert.
    Experts(Vec<Span>),
}

/// Where every weight lies.
#[derive(Debug, Default)]
pub struct Weights {
    /// By index into the manifest, and layer.
    places: BTreeMap<(u32, Option<u32>), Placed>,
    /// Bytes of device memory, padding included.
    pub packed_bytes: u64,
    /// Bytes read where they lie in the checkpoint's files.
    pub mapped_bytes: u64,
}

impl Weights {
    /// The weights that `plan` reads, from a checkpoint, packed by so many threads.
    ///
    /// # Errors
    ///
    /// The checkpoint does not fit, or the device has no room: see [`WeightsError`].
    pub fn from_checkpoint(
        manifest: &Manifest,
        plan: &Plan,
        checkpoint: &Checkpoint,
        device: &mut dyn Device,
        threads: usize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, WeightsError> {
        let instances = resolve::resolve(manifest, &used(plan), checkpoint)?;
        Packer::new(device, threads, progress).pack(&instances)
    }

    /// Weights of sanely scaled random numbers, the same for the same seed.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Device`] if the device has no room.
    pub fn random(
        manifest: &Manifest,
        plan: &Plan,
        seed: u64,
        device: &mut dyn Device,
        threads: usize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, WeightsError> {
        let instances = random::instances(manifest, &used(plan), seed);
        Packer::new(device, threads, progress).pack(&instances)
    }

    /// Where the weight with this index into the manifest lies. One that belongs to no layer is the
    /// same in all.
    pub fn place(&self, weight: u32, layer: Option<u32>) -> Option<&Placed> {
        self.places.get(&(weight, layer)).or_else(|| self.places.get(&(weight, None)))
    }
}

/// The weights that any launch reads.
fn used(plan: &Plan) -> BTreeSet<u32> {
    let blocks = plan.entries.iter().flat_map(|e| &e.blocks);
    let args = blocks.flat_map(|b| &b.launches).flat_map(|l| &l.args);
    let weight = |arg: &Arg| match *arg {
        Arg::Weight(index) => Some(index),
        Arg::Step | Arg::Arena { .. } | Arg::Buffer(_) | Arg::State(_) => None,
    };
    args.filter_map(weight).collect()
}

#[cfg(test)]
mod tests;
