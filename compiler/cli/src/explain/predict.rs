//! How long a step takes on a GPU, by its data sheet: a model of launches and bytes, no measurement.
//!
//! ```text
//! a launch     max(bytes / (92 % of bandwidth), flops / (50 % of the peak)) / min(1, tasks / SMs)
//! a step       all of its launches, and a price for each of the longest chain that wait for one another
//! ```
//!
//! Bytes are those from device memory: of each argument of a launch at most what it holds, however
//! often tasks read it. What they read again comes from the L2 cache; it is counted apart and takes no
//! time. Bytes that an earlier launch of the step left in the cache are counted all the same.

mod show;

use super::gpus::Gpu;
use super::{Least, Moved, chain, moved};
use crate::usage;
use q35_artifact::{Arg, Artifact, Entry, Launch, Plan, Times, Unit, Variant, Workload};
use q35_types::Count;
use q35_types::step::PAGE;

pub use show::{assumptions, assumptions_json};

/// Share of the data sheet's bandwidth that is had at best.
pub const BANDWIDTH_SHARE: f64 = 0.92;
/// Share of the data sheet's operations that is had at best, with matrix units and without.
pub const FLOPS_SHARE: f64 = 0.5;

/// How launches wait for those before them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Manner {
    pub name: &'static str,
    /// Seconds for each launch of the longest chain.
    pub wait: f64,
    pub why: &'static str,
}

pub const MANNERS: [Manner; 3] = [
    Manner {
        name: "graph of dependent nodes, as it is",
        wait: 2.0e-6,
        why: "a node starts when the one before has ended and its blocks are gone",
    },
    Manner {
        name: "programmatic dependent launch",
        wait: 0.7e-6,
        why: "the next node's blocks are launched, and run up to what they wait for, while the one before ends",
    },
    Manner {
        name: "one persistent kernel",
        wait: 1.0e-6,
        why: "a barrier of all blocks takes the place of a node; bandwidth is shared out alike",
    },
];

/// One step on one GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// In the order of the plan.
    pub launches: Vec<Timed>,
    pub nodes: u64,
    /// Nodes that wait for one another.
    pub chain: u64,
    /// Seconds of all launches, without waiting.
    pub busy: f64,
    /// Seconds for the least bytes of the step at the data sheet's bandwidth.
    pub floor: f64,
    /// Seconds that the data sheet's bandwidth and matrix units take at least.
    pub roofline: f64,
    tokens: f64,
}

/// Launches of one kernel that do equally much.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    pub kernel: String,
    pub launches: u64,
    pub work: Work,
    /// Bytes that are read again, from the L2 cache.
    pub again: f64,
    /// Of each launch.
    pub seconds: f64,
    pub bound: Bound,
}

/// What one launch does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    pub tasks: f64,
    /// From and to device memory.
    pub bytes: f64,
    pub flops: f64,
    /// The kernel uses matrix units.
    pub matrix: bool,
}

/// What a launch takes its time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Bytes,
    Flops,
}

/// A step of a plan.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    pub artifact: &'a Artifact,
    pub plan: &'a Plan,
    pub variant: &'a Variant,
    pub entries: &'a [&'a Entry],
    pub workload: Workload,
    /// Tokens of each sequence before the step.
    pub depth: u32,
}

pub fn predict(scene: &Scene<'_>, total: &Moved, least: &Least, gpu: Gpu) -> Prediction {
    let mut launches: Vec<Timed> = vec![];
    for entry in scene.entries {
        for (launch, _) in usage::launches(entry) {
            let timed = scene.timed(entry, launch, gpu);
            let alike = |other: &&mut Timed| {
                (&other.kernel, other.work, other.again) == (&timed.kernel, timed.work, timed.again)
            };
            match launches.iter_mut().find(alike) {
                Some(other) => other.launches += 1,
                None => launches.push(timed),
            }
        }
    }
    let floor = least.bytes() / gpu.bandwidth;
    Prediction {
        nodes: launches.iter().map(|l| l.launches).sum(),
        // Entries are graphs of their own, one after another.
        chain: scene.entries.iter().map(|entry| chain::longest(scene.plan, entry)).sum(),
        busy: launches.iter().map(|l| l.launches as f64 * l.seconds).sum(),
        floor,
        roofline: floor.max(total.flops / gpu.matrix_flops),
        tokens: scene.workload.tokens,
        launches,
    }
}

impl Prediction {
    /// Of the whole step.
    pub fn seconds(&self, manner: Manner) -> f64 {
        self.busy + self.chain as f64 * manner.wait
    }

    /// Of a step of so many seconds, all sequences together.
    pub fn tokens_per_second(&self, seconds: f64) -> f64 {
        self.tokens / seconds
    }
}

impl Work {
    /// Seconds, and what they are for.
    pub fn on(self, gpu: Gpu) -> (f64, Bound) {
        let share = (self.tasks.max(1.0) / f64::from(gpu.sms)).min(1.0);
        let peak = if self.matrix { gpu.matrix_flops } else { gpu.flops };
        let bytes = self.bytes / (BANDWIDTH_SHARE * gpu.bandwidth * share);
        let flops = self.flops / (FLOPS_SHARE * peak * share);
        if flops > bytes { (flops, Bound::Flops) } else { (bytes, Bound::Bytes) }
    }
}

impl Scene<'_> {
    fn timed(&self, entry: &Entry, launch: &Launch, gpu: Gpu) -> Timed {
        let moved = moved(self.plan, launch, self.workload);
        let bytes = self.memory_bytes(entry, launch, &moved);
        let (kernel, code) = &self.variant.kernels[launch.kernel as usize];
        let matrix = String::from_utf8_lossy(q35_target_ptx::text(code)).contains("mma.");
        let work = Work { tasks: self.tasks(launch), bytes, flops: moved.flops, matrix };
        let (seconds, bound) = work.on(gpu);
        let again = moved.bytes() - bytes;
        Timed { kernel: kernel.clone(), launches: 1, work, again, seconds, bound }
    }

    /// Of what a launch moves, each byte that its arguments hold at most once.
    fn memory_bytes(&self, entry: &Entry, launch: &Launch, moved: &Moved) -> f64 {
        let Workload { tokens, seqs, experts, .. } = self.workload;
        let (mut weights, mut state, mut activations) = (0.0, 0.0, 0.0);
        let params = &self.plan.kernels[launch.kernel as usize].params;
        for (arg, param) in launch.args.iter().zip(params) {
            match *arg {
                Arg::Weight(number) => {
                    let weight = &self.artifact.manifest.weights[number as usize];
                    let matrices = weight.experts.map_or(1.0, |_| experts);
                    weights += matrices * weight.packed().bytes() as f64;
                }
                Arg::State(number) => {
                    let of = &self.plan.states[number as usize];
                    let units = match of.unit {
                        Unit::Slot => seqs,
                        Unit::Page => (seqs * f64::from(self.depth) + tokens) / f64::from(PAGE),
                    };
                    state += units * of.unit_bytes as f64;
                }
                // Room is for as many tokens as a step may have.
                Arg::Arena { bytes, .. } if !param.write => {
                    activations += bytes as f64 * tokens / f64::from(entry.max_tokens);
                }
                Arg::Buffer(number) if !param.write => {
                    activations += self.plan.buffers[number as usize].bytes as f64;
                }
                Arg::Arena { .. } | Arg::Buffer(_) | Arg::Step => {}
            }
        }
        moved.weights.min(weights)
            + moved.state_read.min(state)
            + moved.activations_read.min(activations)
            + moved.written()
    }

    fn tasks(&self, launch: &Launch) -> f64 {
        let Workload { tokens, seqs, rows, experts, .. } = self.workload;
        let (each, page) = ((tokens / seqs) as u32, PAGE);
        let times = match launch.tasks.times {
            Times::Once => 1.0,
            Times::Step(Count::Tokens) => tokens,
            Times::Step(Count::Seqs) => seqs,
            Times::Step(Count::Rows) => rows,
            Times::Step(Count::ValidIds) => f64::from(self.plan.vocab),
            Times::Step(Count::Blocks) => (tokens / f64::from(page)).ceil(),
            // Tiles end where pages do.
            Times::Step(Count::Tiles) => {
                seqs * f64::from((self.depth + each).div_ceil(page) - self.depth / page)
            }
            // What an earlier launch counts are experts that were chosen.
            Times::Word { .. } => experts,
        };
        f64::from(launch.tasks.each) * times
    }
}
