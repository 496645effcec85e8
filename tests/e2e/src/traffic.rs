//! What kernels move, counted: one step of an entry point, launch by launch, by the evaluator on
//! memory of zeros.
//!
//! There is no engine and no checkpoint. How many bytes a kernel asks for follows from its shapes
//! and from the step, not from the numbers in weights and state, so models are counted at their true size
//! in a second or two. Only experts are chosen by numbers: of those that score the same, the first, and
//! as many as of any others.

use crate::step::{Step, launches, words};
use q35_artifact::{Arg, Artifact, Cost, Launch, Plan, Times, Unit, Weight};
use q35_interp::kernel::{Arg as Bound, Program, Traffic};
use q35_kernel::{Access, Kernel};
use q35_types::StepLayout;
use q35_types::step::PAGE;
use std::collections::BTreeMap;

/// What one launch asked for.
#[derive(Debug, Clone)]
pub struct Counted {
    /// Of the block's name.
    pub block: String,
    pub layer: Option<u32>,
    pub kernel: String,
    /// What the launch says of itself.
    pub cost: Cost,
    pub weights: Traffic,
    /// KV pages and slots.
    pub state: Traffic,
    pub activations: Traffic,
    /// The step-parameter buffer.
    pub step: Traffic,
    /// Each parameter's, by name.
    pub params: Vec<(String, Traffic)>,
}

/// Run `entry` of an artifact for the evaluator once, on one sequence.
pub fn count(artifact: &Artifact, entry: &str, step: Step) -> Vec<Counted> {
    let target = artifact.target("interp").expect("code for the evaluator");
    let plan = &target.plan;
    let programs: Vec<(Kernel, Program)> = target.variants[0]
        .kernels
        .iter()
        .map(|(_, code)| {
            let text = std::str::from_utf8(code).expect("text");
            let kernel: Kernel = text.parse().expect("a kernel's own text");
            let program = Program::new(&kernel).expect("a verified kernel");
            (kernel, program)
        })
        .collect();
    let entry = plan.entry(entry).expect("an entry of every plan");
    let mut memory = Memory::new(plan, &artifact.manifest.weights, step);
    launches(entry)
        .map(|(block, layer, launch)| {
            let (kernel, program) = &programs[launch.kernel as usize];
            let params = memory.run((kernel, program), launch, layer);
            let mut counted = Counted {
                block: block.into(),
                layer,
                kernel: kernel.name.clone(),
                cost: launch.cost,
                weights: Traffic::default(),
                state: Traffic::default(),
                activations: Traffic::default(),
                step: Traffic::default(),
                params: vec![],
            };
            for ((arg, param), traffic) in launch.args.iter().zip(&kernel.params).zip(params) {
                let sum = match arg {
                    Arg::Step => &mut counted.step,
                    Arg::Weight(_) => &mut counted.weights,
                    Arg::State(_) => &mut counted.state,
                    Arg::Arena { .. } | Arg::Buffer(_) => &mut counted.activations,
                };
                add(sum, traffic);
                counted.params.push((param.name.clone(), traffic));
            }
            counted
        })
        .collect()
}

pub fn add(sum: &mut Traffic, more: Traffic) {
    sum.loaded += more.loaded;
    sum.stored += more.stored;
}

/// What launches of one step can reach.
struct Memory<'a> {
    weights: &'a [Weight],
    step: Vec<u8>,
    arena: Vec<u8>,
    buffers: Vec<Vec<u8>>,
    /// By index into the plan's states, and layer.
    states: BTreeMap<(u32, u32), Vec<u8>>,
    /// As many bytes as the largest weight has: every weight's.
    zeros: Vec<u8>,
}

impl<'a> Memory<'a> {
    fn new(plan: &Plan, weights: &'a [Weight], step: Step) -> Self {
        let zeros = |bytes: u64| vec![0; bytes as usize];
        let pages = (step.depth + step.tokens).div_ceil(PAGE);
        let mut states = BTreeMap::new();
        for (state, index) in plan.states.iter().zip(0..) {
            let units = match state.unit {
                Unit::Slot => 1,
                Unit::Page => pages,
            };
            for &layer in &state.layers {
                states.insert((index, layer), zeros(state.unit_bytes * u64::from(units)));
            }
        }
        let largest = weights.iter().map(|w| w.packed().bytes()).max();
        Memory {
            weights,
            step: words(plan.step, plan.vocab, step),
            arena: zeros(plan.arena_bytes),
            buffers: plan.buffers.iter().map(|b| zeros(b.bytes)).collect(),
            states,
            zeros: zeros(largest.expect("a model has weights") as u64),
        }
    }

    fn bytes(&self, arg: Arg, layer: Option<u32>) -> &[u8] {
        match arg {
            Arg::Step => &self.step,
            Arg::Arena { offset, bytes } => &self.arena[offset as usize..][..bytes as usize],
            Arg::Buffer(n) => &self.buffers[n as usize],
            Arg::State(n) => &self.states[&(n, layer.expect("state belongs to a layer"))],
            Arg::Weight(n) => &self.zeros[..self.weights[n as usize].packed().bytes()],
        }
    }

    fn put(&mut self, arg: Arg, layer: Option<u32>, bytes: Vec<u8>) {
        match arg {
            Arg::Arena { offset, .. } => {
                self.arena[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
            }
            Arg::Buffer(n) => self.buffers[n as usize] = bytes,
            Arg::State(n) => {
                let layer = layer.expect("state belongs to a layer");
                self.states.insert((n, layer), bytes);
            }
            Arg::Step | Arg::Weight(_) => unreachable!("a launch writes neither step nor weights"),
        }
    }

    /// What it asks of each parameter.
    fn run(
        &mut self,
        (kernel, program): (&Kernel, &Program),
        launch: &Launch,
        layer: Option<u32>,
    ) -> Vec<Traffic> {
        let word = |bytes: &[u8], at: usize| {
            let word = bytes[at * 4..][..4].try_into().expect("four bytes");
            u32::try_from(i32::from_le_bytes(word)).expect("a count")
        };
        let times = match launch.tasks.times {
            Times::Once => 1,
            Times::Step(count) => word(&self.step, count.word() as usize),
            Times::Word { arg } => word(self.bytes(launch.args[arg as usize], layer), 0),
        };
        let writes: Vec<bool> = kernel.params.iter().map(|p| p.access != Access::Read).collect();
        let experts = |arg: &Arg| match *arg {
            Arg::Weight(n) => self.weights[n as usize].experts,
            _ => None,
        };
        let tables: Vec<Option<Vec<&[u8]>>> = launch
            .args
            .iter()
            .map(|arg| experts(arg).map(|n| vec![self.bytes(*arg, layer); n as usize]))
            .collect();
        let results = launch.args.iter().zip(&writes).filter(|(_, writes)| **writes);
        let mut written: Vec<(Arg, Vec<u8>)> =
            results.map(|(arg, _)| (*arg, self.bytes(*arg, layer).to_vec())).collect();
        let mut copies = written.iter_mut();
        let mut args: Vec<Bound<'_>> = launch
            .args
            .iter()
            .zip(&writes)
            .zip(&tables)
            .map(|((arg, writes), table)| match table {
                Some(table) => Bound::Table(table),
                None if *writes => {
                    Bound::Write(&mut copies.next().expect("a copy of each result").1)
                }
                None => Bound::Read(self.bytes(*arg, layer)),
            })
            .collect();
        let counters = program.run(&mut args, 0..launch.tasks.each * times);
        let counters = counters.unwrap_or_else(|fault| panic!("{fault}"));
        drop(args);
        drop(tables);
        for (arg, bytes) in written {
            self.put(arg, layer, bytes);
        }
        counters.params
    }
}

/// What a kernel that is in no plan asks of each parameter, the first of which is the step.
pub fn count_alone(
    kernel: &Kernel,
    layout: StepLayout,
    step: Step,
    tasks: u32,
    sizes: &[usize],
) -> Vec<Traffic> {
    let program = Program::new(kernel).expect("a verified kernel");
    let mut memory: Vec<Vec<u8>> = vec![words(layout, 1, step)];
    memory.extend(sizes.iter().map(|&bytes| vec![0; bytes]));
    let mut args: Vec<Bound<'_>> = memory.iter_mut().map(|m| Bound::Write(m)).collect();
    let counters = program.run(&mut args, 0..tasks);
    counters.unwrap_or_else(|fault| panic!("{fault}")).params
}
