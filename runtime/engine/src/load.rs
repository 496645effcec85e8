//! From an artifact and a checkpoint to a model that runs.
//!
//! ```text
//! artifact ─ device ─▶ variant ─▶ kernels ─────┐
//! checkpoint ─ weights ─▶ spans ─┐             │
//! memory for state and steps ────┴─ bind ──────┴─▶ recorded entries
//! ```

use crate::bind::{Memory, units};
use crate::checkpoint::Checkpoint;
use crate::heads::HeadEntries;
use crate::model::Entries;
use crate::state::{Pools, Sequences, pages_of};
use crate::weights::{Progress, Weights};
use crate::{LoadError, Model};
use q35_artifact::{Artifact, Plan, TargetSection, Unit, Variant};
use q35_device::{Device, DeviceError, KernelCode};
use q35_types::step::PAGE;
use std::fmt;
use std::path::Path;

/// Kernels count elements of a buffer in `i32`, and none is smaller than two bytes.
const MOST_STATE_BYTES: u64 = 1 << 32;

/// How to load a model; [`LoadOptions::default`] leaves every choice to the machine.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// As in `--device`; without it, the best for which the artifact has code.
    pub device: Option<String>,
    /// Threads of the CPU device and of packing.
    pub threads: Option<usize>,
    /// Tokens of KV cache for all sequences together, rounded up to pages of 64. Without it, what
    /// as many and as long sequences need as the artifact was compiled for, within half of the
    /// memory that is free once weights are packed.
    pub kv_tokens: Option<u64>,
    /// Told how far packing has come.
    pub progress: Option<&'a mut dyn FnMut(Progress)>,
    /// For tests: hand out slots and pages in an order that depends on this seed.
    pub shuffle: Option<u64>,
}

/// Bytes of a model in memory, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// Weights in the device's memory.
    pub weights_packed: u64,
    /// Weights that are read in the checkpoint's mapped files; not in the device's memory.
    pub weights_mapped: u64,
    /// State that every sequence has, for as many as there can be.
    pub slots: u64,
    /// The KV cache of all sequences together. On a CPU, pages are taken from the system as they
    /// are first used.
    pub pages: u64,
    /// Activations of a step, and logits.
    pub step: u64,
}

/// Where the weights come from.
enum WeightSource<'a> {
    Checkpoint(&'a Path),
    Random(u64),
}

impl Model {
    /// Load an artifact with the weights at `weights`: a checkpoint's folder, or its one file.
    ///
    /// The code in the artifact runs with all the rights of this program: load only artifacts
    /// that you made or trust.
    ///
    /// # Errors
    ///
    /// A file cannot be read or is broken, artifact and checkpoint do not fit together, or there
    /// is no such device or not enough memory: see [`LoadError`].
    pub fn load(
        artifact: &Path,
        weights: &Path,
        options: LoadOptions<'_>,
    ) -> Result<Self, LoadError> {
        Self::load_artifact(&Artifact::read_file(artifact)?, weights, options)
    }

    /// As [`load`](Self::load), of an artifact that has been read.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_artifact(
        artifact: &Artifact,
        weights: &Path,
        options: LoadOptions<'_>,
    ) -> Result<Self, LoadError> {
        let device = open(artifact, &options)?;
        assemble(device, artifact, WeightSource::Checkpoint(weights), options)
    }

    /// Load an artifact that is in memory onto a device of the caller's; `options.device` and
    /// `options.threads` were its opener's.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_on(
        device: Box<dyn Device>,
        artifact: &Artifact,
        weights: &Path,
        options: LoadOptions<'_>,
    ) -> Result<Self, LoadError> {
        assemble(device, artifact, WeightSource::Checkpoint(weights), options)
    }

    /// Load an artifact with random weights, to measure speed.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_random(
        artifact: &Artifact,
        seed: u64,
        options: LoadOptions<'_>,
    ) -> Result<Self, LoadError> {
        let device = open(artifact, &options)?;
        assemble(device, artifact, WeightSource::Random(seed), options)
    }
}

/// The device that the options ask for, or the best for which the artifact has code.
fn open(artifact: &Artifact, options: &LoadOptions<'_>) -> Result<Box<dyn Device>, DeviceError> {
    let choice = options.device.as_deref();
    open_for(&artifact.targets, choice, |names| q35_device::open(choice, names, options.threads))
}

/// As above, by a function that opens the best device for code of some targets. If no variant of a
/// target's code runs there, the next best device may do, unless the user has named one.
fn open_for(
    targets: &[TargetSection],
    choice: Option<&str>,
    mut best: impl FnMut(&[&str]) -> Result<Box<dyn Device>, DeviceError>,
) -> Result<Box<dyn Device>, DeviceError> {
    let mut left: Vec<&TargetSection> = targets.iter().collect();
    loop {
        let device = best(&left.iter().map(|t| t.name.as_str()).collect::<Vec<_>>())?;
        let name = device.info().target;
        let at = left.iter().position(|t| t.name == name);
        let at = at.expect("the device was chosen for a target");
        match choose(left[at], &*device) {
            Err(_) if choice.is_none() && left.len() > 1 => drop(left.remove(at)),
            chosen => return chosen.map(|_| device),
        }
    }
}

fn assemble(
    mut device: Box<dyn Device>,
    artifact: &Artifact,
    source: WeightSource<'_>,
    mut options: LoadOptions<'_>,
) -> Result<Model, LoadError> {
    let target = artifact.target(device.info().target).expect("the device was chosen for a target");
    let variant = choose(target, &*device)?;

    let mut quiet = |_: Progress| ();
    let progress: &mut dyn FnMut(Progress) = match &mut options.progress {
        Some(progress) => *progress,
        None => &mut quiet,
    };
    let (manifest, plan) = (&artifact.manifest, &target.plan);
    let threads = options.threads.unwrap_or_else(threads);
    let weights = match source {
        WeightSource::Checkpoint(path) => {
            let checkpoint = Checkpoint::open(path)?;
            let device = &mut *device;
            Weights::from_checkpoint(manifest, plan, &checkpoint, device, threads, progress)?
        }
        WeightSource::Random(seed) => {
            Weights::random(manifest, plan, seed, &mut *device, threads, progress)?
        }
    };
    finish(device, plan, variant, &weights, &options)
}

/// Threads that pack: as many as the system says are worth having.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Everything but the weights: state, kernels, entries.
pub(crate) fn finish(
    mut device: Box<dyn Device>,
    plan: &Plan,
    variant: &Variant,
    weights: &Weights,
    options: &LoadOptions<'_>,
) -> Result<Model, LoadError> {
    let prefill = plan.entry("prefill").expect("a checked plan has the entries").max_tokens;
    if prefill < PAGE {
        return Err(LoadError::Chunk { found: prefill, least: PAGE });
    }
    let pools = Pools {
        slots: plan.step.max_seqs,
        pages: pages(plan, options.kv_tokens, device.free_memory())?,
        max_context: plan.max_context,
    };
    let memory = Memory::alloc(plan, pools, &mut *device)?;
    let codes = plan.kernels.iter().zip(&variant.kernels);
    let codes: Vec<_> = codes.map(|(kernel, (_, code))| KernelCode { kernel, code }).collect();
    let kernels = device.load(&variant.name, &codes)?;
    let mut record = |name| {
        let entry = plan.entry(name).map(|entry| memory.bind(entry, &kernels, weights));
        entry.map(|launches| device.record(launches)).transpose()
    };
    let there = "a checked plan has the entries";
    let entries = Entries {
        prefill: record("prefill")?.expect(there),
        decode: record("decode")?.expect(there),
        head: HeadEntries {
            logits: record("head")?.expect(there),
            likeliest: record("greedy")?,
            candidates: record("candidates")?,
        },
    };
    let memory_use = MemoryUse {
        weights_packed: weights.packed_bytes,
        weights_mapped: weights.mapped_bytes,
        slots: bytes_of_unit(plan, Unit::Slot) * units(Unit::Slot, pools),
        pages: bytes_of_unit(plan, Unit::Page) * units(Unit::Page, pools),
        step: plan.arena_bytes
            + plan.buffers.iter().map(|b| b.bytes).sum::<u64>()
            + u64::from(plan.step.words()) * 4,
    };
    let sequences = Sequences::new(pools, options.shuffle);
    Ok(Model::new(device, plan, entries, memory, memory_use, sequences))
}

/// The first of the variants that the device runs for which there is code.
fn choose<'a>(target: &'a TargetSection, device: &dyn Device) -> Result<&'a Variant, DeviceError> {
    let found = device.variants().iter().find_map(|name| target.variant(name));
    found.ok_or_else(|| {
        let info = device.info();
        // The first is the most portable.
        let lacking = target.variants.iter().find_map(|v| Some((v, device.lacks(&v.name)?)));
        match lacking {
            Some((variant, lacks)) => DeviceError::Lacks {
                device: info.id.clone(),
                name: info.name.clone(),
                lacks,
                variant: variant.name.clone(),
            },
            None => {
                let found: Vec<&str> = target.variants.iter().map(|v| v.name.as_str()).collect();
                DeviceError::no_variant(info.target, &found, device.variants())
            }
        }
    })
}

/// Pages of the pool.
fn pages(plan: &Plan, kv_tokens: Option<u64>, free: Option<u64>) -> Result<u32, LoadError> {
    let useful = u64::from(plan.step.max_seqs) * u64::from(pages_of(plan.max_context));
    let paged = plan.states.iter().filter(|s| s.unit == Unit::Page);
    let largest = paged.map(|s| s.unit_bytes).max().unwrap_or(1);
    let most = (MOST_STATE_BYTES / largest).min(u32::MAX.into());
    let page = u64::from(PAGE);
    let pages = match kv_tokens {
        // More than can be used would be wasted.
        Some(tokens) if tokens > 0 => tokens.div_ceil(page).min(useful),
        Some(tokens) => return Err(LoadError::KvTokens { found: tokens, most: most * page }),
        None => {
            let bytes = bytes_of_unit(plan, Unit::Page).max(1);
            let room = free.map_or(u64::MAX, |free| free / 2 / bytes);
            useful.min(room).min(most).max(1)
        }
    };
    match pages <= most {
        true => Ok(pages as u32),
        false => Err(LoadError::KvTokens { found: pages * page, most: most * page }),
    }
}

/// Bytes of one unit in all layers.
fn bytes_of_unit(plan: &Plan, unit: Unit) -> u64 {
    let states = plan.states.iter().filter(|s| s.unit == unit);
    states.map(|s| s.unit_bytes * s.layers.len() as u64).sum()
}

impl MemoryUse {
    /// Bytes in all, mapped ones included.
    pub fn total(&self) -> u64 {
        self.weights_packed + self.weights_mapped + self.slots + self.pages + self.step
    }
}

impl fmt::Display for MemoryUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "weights {:.1} MiB packed and {:.1} MiB mapped, state {:.1} MiB, KV cache up to {:.1} MiB, steps {:.1} MiB",
            mib(self.weights_packed),
            mib(self.weights_mapped),
            mib(self.slots),
            mib(self.pages),
            mib(self.step),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{device, plan};
    use q35_types::DType;

    #[test]
    fn a_device_that_lacks_something_gives_way_to_the_next_unless_it_was_named() {
        let section = |name: &str, variant: &str| TargetSection {
            name: name.into(),
            activations: DType::F32,
            plan: plan(),
            variants: vec![Variant {
                name: variant.into(),
                extension: "rs".into(),
                kernels: vec![],
            }],
        };
        let best =
            |names: &[&str]| Ok(device(if names.contains(&"spirv") { "spirv" } else { "cpu" }));
        let targets = [section("cpu", "rust"), section("spirv", "wide")];
        let opened = open_for(&targets, None, best).map(|d| d.info().target);
        assert_eq!(opened.unwrap(), "cpu");
        for (targets, choice) in [(&targets[..], Some("spirv")), (&targets[1..], None)] {
            let refused = open_for(targets, choice, best).map(|_| ()).unwrap_err();
            assert_eq!(
                refused.to_string(),
                "`spirv` (hash) lacks width, expected by the artifact's variant `wide`"
            );
            assert!(LoadError::from(refused).advice().unwrap().contains("compile for `spirv`"));
        }
        let unknown = [section("spirv", "tomorrow")];
        assert_eq!(
            open_for(&unknown, None, best).map(|_| ()).unwrap_err().to_string(),
            "the artifact has the variants `tomorrow` of `spirv`, expected one of `rust`"
        );
    }

    #[test]
    fn the_pool_holds_what_can_be_used_within_half_of_free_memory() {
        // Three sequences of up to 300 tokens are five pages each; a page has 256 bytes.
        let plan = plan();
        assert_eq!(pages(&plan, None, None).unwrap(), 15);
        assert_eq!(pages(&plan, None, Some(1 << 30)).unwrap(), 15);
        assert_eq!(pages(&plan, None, Some(10 * 256)).unwrap(), 5);
        assert_eq!(pages(&plan, None, Some(0)).unwrap(), 1);
    }

    #[test]
    fn a_wish_for_tokens_is_rounded_up_to_pages() {
        let plan = plan();
        assert_eq!(pages(&plan, Some(1), Some(0)).unwrap(), 1);
        assert_eq!(pages(&plan, Some(65), Some(0)).unwrap(), 2);
        assert_eq!(pages(&plan, Some(u64::MAX), None).unwrap(), 15);
        assert!(matches!(pages(&plan, Some(0), None), Err(LoadError::KvTokens { found: 0, .. })));
    }

    #[test]
    fn pages_beyond_the_reach_of_kernels_are_refused_and_never_the_default() {
        let mut plan = plan();
        plan.states.iter_mut().for_each(|s| s.unit_bytes = 1 << 30);
        assert_eq!(pages(&plan, None, None).unwrap(), 4);
        assert!(matches!(
            pages(&plan, Some(320), None),
            Err(LoadError::KvTokens { found: 320, most: 256 })
        ));
    }
}
