//! The plan on real memory: what its launches name becomes spans of buffers, and each entry a list
//! of launches that the device records once.

use crate::state::Pools;
use crate::weights::{Placed, Weights};
use q35_artifact::{Arg, CANDIDATES, Entry, LIKELIEST, LOGITS, Launch, Plan, Times, Unit};
use q35_device::{
    BoundArg, BoundLaunch, BoundTasks, Device, DeviceError, KernelId, Repeat, Span, Usage,
};
use std::collections::BTreeMap;

/// All memory of a model but its weights.
#[derive(Debug)]
pub struct Memory {
    pub step: Span,
    pub logits: Span,
    /// What the entries `greedy` and `candidates` leave, if the plan has them.
    pub likeliest: Option<Span>,
    pub candidates: Option<[Span; 2]>,
    arena: Span,
    buffers: Vec<Span>,
    /// By index into the plan's states, and layer.
    states: BTreeMap<(u32, u32), Span>,
}

impl Memory {
    /// Allocate it for so many slots and pages.
    pub fn alloc(plan: &Plan, pools: Pools, device: &mut dyn Device) -> Result<Self, DeviceError> {
        let mut alloc = |bytes, usage| -> Result<Span, DeviceError> {
            Ok(Span::whole(device.alloc(bytes, usage)?, bytes))
        };
        let mut states = BTreeMap::new();
        for (state, index) in plan.states.iter().zip(0..) {
            let bytes = state.unit_bytes * units(state.unit, pools);
            for &layer in &state.layers {
                states.insert((index, layer), alloc(bytes, Usage::Resident)?);
            }
        }
        // Where kernels choose among the logits, they should not have to come back for them.
        let chosen = [LIKELIEST, CANDIDATES[0], CANDIDATES[1]];
        let chosen: &[&str] = if samples(plan) { &chosen } else { &[LOGITS] };
        let mut buffers = Vec::new();
        for buffer in &plan.buffers {
            let read = chosen.contains(&buffer.name.as_str());
            let usage = if read { Usage::HostReads } else { Usage::Resident };
            buffers.push(alloc(buffer.bytes, usage)?);
        }
        let result = |name: &str| plan.buffer(name).map(|buffer| buffers[buffer]);
        let [likeliest, ids, values] = [LIKELIEST, CANDIDATES[0], CANDIDATES[1]].map(result);
        Ok(Self {
            step: alloc(u64::from(plan.step.words()) * 4, Usage::HostWrites)?,
            arena: alloc(plan.arena_bytes, Usage::Resident)?,
            logits: result(LOGITS).expect("a checked plan has logits"),
            likeliest,
            candidates: ids.zip(values).map(|(ids, values)| [ids, values]),
            buffers,
            states,
        })
    }

    /// The launches of an entry, in order. Indices and sizes were checked when the artifact was
    /// read.
    pub fn bind(&self, entry: &Entry, kernels: &[KernelId], weights: &Weights) -> Vec<BoundLaunch> {
        let blocks = entry.sequence.iter();
        let blocks = blocks.map(|&(block, layer)| (&entry.blocks[block as usize], layer));
        blocks
            .flat_map(|(block, layer)| block.launches.iter().map(move |l| (l, layer)))
            .map(|(launch, layer)| self.launch(launch, layer, kernels, weights))
            .collect()
    }

    fn launch(
        &self,
        launch: &Launch,
        layer: Option<u32>,
        kernels: &[KernelId],
        weights: &Weights,
    ) -> BoundLaunch {
        let args = launch.args.iter().map(|arg| self.arg(arg, layer, weights)).collect::<Vec<_>>();
        let word = |span: Span| Repeat::Word { buffer: span.buffer, offset: span.offset };
        let repeat = match launch.tasks.times {
            Times::Once => Repeat::Once,
            Times::Step(count) => word(self.step.part(u64::from(count.word()) * 4, 4)),
            Times::Word { arg } => match args[arg as usize] {
                BoundArg::Span(span) => word(span),
                BoundArg::Table(_) => unreachable!("a checked plan counts tasks in plain memory"),
            },
        };
        let tasks = BoundTasks { each: launch.tasks.each, repeat };
        BoundLaunch { kernel: kernels[launch.kernel as usize], tasks, args }
    }

    fn arg(&self, arg: &Arg, layer: Option<u32>, weights: &Weights) -> BoundArg {
        match *arg {
            Arg::Step => BoundArg::Span(self.step),
            Arg::Arena { offset, bytes } => BoundArg::Span(self.arena.part(offset, bytes)),
            Arg::Buffer(index) => BoundArg::Span(self.buffers[index as usize]),
            Arg::State(index) => {
                let layer = layer.expect("a checked plan uses state in layers");
                BoundArg::Span(self.states[&(index, layer)])
            }
            Arg::Weight(index) => {
                let place = weights.place(index, layer);
                match place.expect("a checked plan reads weights of its layers") {
                    Placed::One(span) => BoundArg::Span(*span),
                    Placed::Experts(spans) => BoundArg::Table(spans.clone()),
                }
            }
        }
    }
}

/// Whether the plan has entries that choose among the logits on the device.
fn samples(plan: &Plan) -> bool {
    ["greedy", "candidates"].iter().any(|name| plan.entry(name).is_some())
}

/// Units of state that the pools have.
pub fn units(unit: Unit, pools: Pools) -> u64 {
    match unit {
        Unit::Slot => pools.slots.into(),
        Unit::Page => pools.pages.into(),
    }
}
