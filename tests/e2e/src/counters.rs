//! What PTX does, counted: one step of an entry point, launch by launch, on ptx-sim.
//!
//! There is no engine and no checkpoint: weights are small random numbers, and all experts of a layer have
//! the same ones, in the same memory. Every argument of a launch has an allocation of its own, so that its
//! traffic is told from that of others; activations go from one to the next through the host.

use crate::step::{Step, launches, words};
use q35_artifact::{Arg, Artifact, Launch, Plan, Times, Unit, Weight};
use q35_device::ptx_sim::PtxSim;
use q35_device::{
    BoundArg, BoundLaunch, BoundTasks, Device, KernelCode, KernelId, Repeat, Span, Usage,
};
use q35_ptx_sim::{Buffer, Counters, Traffic};
use q35_types::DType;
use q35_types::step::PAGE;
use std::collections::BTreeMap;

/// Bytes of a sector: what a GPU's memory moves at least.
pub const SECTOR: u64 = 32;

/// What one launch did.
#[derive(Debug, Clone)]
pub struct Counted {
    /// Of the block's name.
    pub block: String,
    pub layer: Option<u32>,
    pub kernel: String,
    pub counters: Counters,
    pub params: Vec<Param>,
}

/// What it did with one of its parameters.
#[derive(Debug, Clone)]
pub struct Param {
    pub name: String,
    pub kind: Kind,
    pub dtype: DType,
    /// Bytes of the argument; of a list, of all that it names.
    pub size: u64,
    pub loads: Traffic,
    pub stores: Traffic,
    pub atomics: Traffic,
}

/// What a parameter is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Step,
    Weights,
    /// KV pages and slots.
    State,
    Activations,
}

impl Param {
    /// Bytes that it made memory move: a sector counts whole, however little of it a request wanted, and
    /// once, however many lanes wanted it.
    pub fn moved(&self) -> u64 {
        SECTOR * (self.loads.sectors + self.stores.sectors + self.atomics.sectors)
    }
}

/// The share of what accesses moved that lanes asked for; more than 1 where lanes ask for the same.
pub fn efficiency(t: Traffic) -> f64 {
    if t.sectors == 0 { 1.0 } else { t.bytes as f64 / (SECTOR * t.sectors) as f64 }
}

/// Run `entry` of an artifact for `sm_80` once, on one sequence.
pub fn count(artifact: &Artifact, entry: &str, step: Step) -> Vec<Counted> {
    let target = artifact.target("ptx").expect("PTX");
    let plan = &target.plan;
    let variant = target.variants.iter().find(|v| v.name == "sm_80").expect("code for sm_80");
    let mut device = PtxSim::open(None).expect("it needs nothing");
    let codes: Vec<KernelCode<'_>> = plan
        .kernels
        .iter()
        .zip(&variant.kernels)
        .map(|(kernel, (_, code))| KernelCode { kernel, code })
        .collect();
    let kernels = device.load(variant.name.as_str(), &codes).expect("its own code");
    let entry = plan.entry(entry).expect("an entry of every plan");
    let mut bench = Bench::new(device, plan, &artifact.manifest.weights, step);
    launches(entry)
        .map(|(block, layer, launch)| {
            let (counters, params) = bench.run(kernels[launch.kernel as usize], launch, layer);
            let kernel = plan.kernels[launch.kernel as usize].name.clone();
            Counted { block: block.into(), layer, kernel, counters, params }
        })
        .collect()
}

/// A device and what launches of one step can reach.
struct Bench<'a> {
    device: PtxSim,
    plan: &'a Plan,
    weights: &'a [Weight],
    arena: Vec<u8>,
    step: Span,
    /// By index into the plan's states and buffers or the manifest's weights, and layer.
    spans: BTreeMap<(Place, u32, Option<u32>), Span>,
    /// Where a parameter finds a part of the arena: by number of the parameter, and size.
    slices: BTreeMap<(usize, u64), Span>,
    /// Pages of the sequence.
    pages: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Buffer,
    Weight,
    State,
}

impl<'a> Bench<'a> {
    fn new(mut device: PtxSim, plan: &'a Plan, weights: &'a [Weight], step: Step) -> Self {
        let words = words(plan.step, plan.vocab, step);
        let span = alloc(&mut device, words.len() as u64);
        put(&mut device, span, &words);
        Bench {
            device,
            plan,
            weights,
            arena: vec![0; plan.arena_bytes as usize],
            step: span,
            spans: BTreeMap::new(),
            slices: BTreeMap::new(),
            pages: (step.depth + step.tokens).div_ceil(PAGE),
        }
    }

    fn run(
        &mut self,
        kernel: KernelId,
        launch: &Launch,
        layer: Option<u32>,
    ) -> (Counters, Vec<Param>) {
        let params = &self.plan.kernels[launch.kernel as usize].params;
        let args: Vec<Span> = (launch.args.iter().enumerate())
            .map(|(number, arg)| self.span(number, *arg, layer))
            .collect();
        let word = |span: Span, offset| Repeat::Word { buffer: span.buffer, offset };
        let repeat = match launch.tasks.times {
            Times::Once => Repeat::Once,
            Times::Step(count) => word(self.step, u64::from(count.word()) * 4),
            Times::Word { arg } => word(args[arg as usize], 0),
        };
        let experts = |arg: &Arg| match *arg {
            Arg::Weight(n) => self.weights[n as usize].experts,
            _ => None,
        };
        let bound = |(arg, span): (&Arg, &Span)| match experts(arg) {
            Some(n) => BoundArg::Table(vec![*span; n as usize]),
            None => BoundArg::Span(*span),
        };
        let tasks = BoundTasks { each: launch.tasks.each, repeat };
        let bound = launch.args.iter().zip(&args).map(bound).collect();
        let launches = vec![BoundLaunch { kernel, tasks, args: bound }];
        let entry = self.device.record(launches).expect("a launch of a checked plan");
        self.device.reset_counters();
        self.device.run(entry).unwrap_or_else(|fault| panic!("{fault}"));
        let all: Vec<&Counters> = self.device.counters().map(|c| c.counters).collect();
        let counters = all[kernel.0 as usize].clone();
        let counted = |((arg, span), param): ((&Arg, &Span), &q35_artifact::Param)| {
            let address = self.device.address(span.buffer).expect("its own");
            let found = counters.buffers.iter().find(|b| b.address == address).cloned();
            let Buffer { loads, stores, atomics, .. } = found.unwrap_or_default();
            let kind = match arg {
                Arg::Step => Kind::Step,
                Arg::Weight(_) => Kind::Weights,
                Arg::State(_) => Kind::State,
                Arg::Arena { .. } | Arg::Buffer(_) => Kind::Activations,
            };
            let size = span.bytes * u64::from(experts(arg).unwrap_or(1));
            let (name, dtype) = (param.name.clone(), param.dtype);
            Param { name, kind, dtype, size, loads, stores, atomics }
        };
        let counted = launch.args.iter().zip(&args).zip(params).map(counted).collect();
        for ((arg, span), param) in launch.args.iter().zip(&args).zip(params) {
            if let (Arg::Arena { offset, bytes }, true) = (*arg, param.write) {
                let to = &mut self.arena[offset as usize..][..bytes as usize];
                self.device.read(*span, &mut |from| to.copy_from_slice(from)).expect("its own");
            }
        }
        (counters, counted)
    }

    /// The memory of an argument, with what it holds now.
    fn span(&mut self, number: usize, arg: Arg, layer: Option<u32>) -> Span {
        let (place, index) = match arg {
            Arg::Step => return self.step,
            Arg::Arena { offset, bytes } => {
                let slice = &self.arena[offset as usize..][..bytes as usize];
                let device = &mut self.device;
                let span = self.slices.entry((number, bytes));
                let span = *span.or_insert_with(|| alloc(device, bytes));
                put(device, span, slice);
                return span;
            }
            Arg::Buffer(n) => (Place::Buffer, n),
            Arg::Weight(n) => (Place::Weight, n),
            Arg::State(n) => (Place::State, n),
        };
        if let Some(span) = self.spans.get(&(place, index, layer)) {
            return *span;
        }
        let span = match place {
            Place::Buffer => alloc(&mut self.device, self.plan.buffers[index as usize].bytes),
            Place::Weight => {
                let weight = &self.weights[index as usize];
                let numbers = numbers(weight.dtype, weight.packed().bytes());
                let span = alloc(&mut self.device, numbers.len() as u64);
                put(&mut self.device, span, &numbers);
                span
            }
            Place::State => {
                let state = &self.plan.states[index as usize];
                let units = match state.unit {
                    Unit::Slot => 1,
                    Unit::Page => self.pages.into(),
                };
                alloc(&mut self.device, state.unit_bytes * units)
            }
        };
        self.spans.insert((place, index, layer), span);
        span
    }
}

fn alloc(device: &mut PtxSim, bytes: u64) -> Span {
    Span::whole(device.alloc(bytes, Usage::Resident).expect("there is memory"), bytes)
}

fn put(device: &mut PtxSim, span: Span, bytes: &[u8]) {
    device.fill(span, &mut |to| to.copy_from_slice(bytes)).expect("it is there");
}

/// Numbers between -1/16 and 1/16, always the same.
fn numbers(dtype: DType, bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut out = vec![0; bytes];
    for to in out.chunks_exact_mut(dtype.size()) {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let unit = (state >> 40) as f32 / (1 << 24) as f32;
        dtype.write_f32((unit - 0.5) / 8.0, to);
    }
    out
}
