//! From graphs to launches on memory: a kernel for each node, a place for each tensor.
//!
//! ```text
//! Program ─ select ─▶ launches of templates ─ place ─▶ arena offsets
//!                            │
//!                    collect weights, states ─▶ Schedule: plan and manifest, kernels still as specs
//! ```

mod fuse;
mod place;
mod select;
mod table;

use crate::kernels::Spec;
use q35_artifact as plan;
use q35_graph::{Entry, Graph, Port, Program, Value};
use q35_target::Caps;
use q35_types::{Dim, Sizes, StepLayout};
use select::{Selected, Source};
use table::Tables;

/// Sizes a user chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of the longest sequence.
    pub max_context: u32,
    /// Sequences of a step.
    pub max_batch: u32,
    /// Tokens of a prefill step, a multiple of 64.
    pub max_chunk: u32,
}

impl Limits {
    pub fn step(&self) -> StepLayout {
        StepLayout {
            max_tokens: self.max_chunk.max(self.max_batch),
            max_seqs: self.max_batch,
            max_pages: self.max_context.div_ceil(q35_types::step::PAGE),
        }
    }

    fn sizes(&self, entry: Entry) -> Sizes {
        let tokens = match entry {
            Entry::Prefill => self.step().max_tokens,
            Entry::Decode => self.max_batch,
            Entry::Head | Entry::Greedy | Entry::Candidates => self.step().max_tokens,
        };
        Sizes { tokens, rows: self.max_batch }
    }
}

/// All but the code.
pub struct Schedule {
    /// One for each kernel of the plan, whose parameters are filled in when it is linked.
    pub specs: Vec<Spec>,
    pub plan: plan::Plan,
    pub manifest: plan::Manifest,
}

/// Schedule every entry point that a machine with these capabilities has.
pub fn schedule(
    programs: &[Program],
    limits: Limits,
    caps: &Caps,
    ignored: Vec<String>,
) -> Schedule {
    let mut specs: Vec<Spec> = vec![];
    let mut tables = Tables::default();
    let mut arena_bytes = 0;
    let mut entries = vec![];
    let (mut vocab, mut buffers) = (0, vec![]);
    for program in programs.iter().filter(|p| caps.lanes > 1 || !p.entry.samples()) {
        let sizes = limits.sizes(program.entry);
        let mut blocks = vec![];
        for (number, graph) in program.blocks.iter().enumerate() {
            let layers: Vec<u32> = program
                .sequence
                .iter()
                .filter(|(b, _)| *b == number)
                .filter_map(|(_, l)| *l)
                .collect();
            let (launches, bytes) = block(
                graph,
                program.entry,
                &layers,
                (limits, caps),
                sizes,
                &mut specs,
                &mut tables,
            );
            arena_bytes = arena_bytes.max(bytes);
            blocks.push(plan::Block { name: graph.name.clone(), launches });
            ports(graph, limits.sizes(Entry::Prefill), &mut buffers);
            if let Some(&(_, logits)) = graph.outputs.iter().find(|(p, _)| *p == Port::Logits) {
                vocab = graph.ty(logits).shape[1].fixed().expect("a vocabulary");
            }
        }
        entries.push(plan::Entry {
            name: program.entry.name().into(),
            max_tokens: sizes.tokens,
            blocks,
            sequence: program.sequence.iter().map(|&(b, l)| (b as u32, l)).collect(),
        });
    }
    let plan = plan::Plan {
        step: limits.step(),
        max_context: limits.max_context,
        vocab,
        kernels: vec![],
        arena_bytes,
        buffers: BUFFERS
            .iter()
            .filter_map(|port| buffers.iter().find(|(p, _)| p == port))
            .map(|&(port, bytes)| plan::Buffer { name: port.name().into(), bytes })
            .collect(),
        states: tables.states,
        entries,
    };
    Schedule { specs, plan, manifest: plan::Manifest { weights: tables.weights, ignored } }
}

/// Ports that are memory between blocks and steps, in the order of the plan's buffers. Those of
/// sampling stand last: a plan has all of them or none.
const BUFFERS: [Port; 6] = [
    Port::Hidden,
    Port::Rope,
    Port::Logits,
    Port::Likeliest,
    Port::Candidates,
    Port::CandidateLogits,
];

fn buffer(port: Port) -> u32 {
    BUFFERS.iter().position(|&p| p == port).expect("a port that is memory") as u32
}

/// Bytes of the buffers that the block gives.
fn ports(graph: &Graph, sizes: Sizes, buffers: &mut Vec<(Port, u64)>) {
    for &(port, v) in &graph.outputs {
        let bytes = bytes(graph, v, sizes);
        match buffers.iter_mut().find(|(p, _)| *p == port) {
            Some((_, known)) => *known = bytes.max(*known),
            None => buffers.push((port, bytes)),
        }
    }
}

fn bytes(graph: &Graph, v: Value, sizes: Sizes) -> u64 {
    let ty = graph.ty(v);
    let elements: u64 = ty.shape.iter().map(|d: &Dim| u64::from(d.resolve(sizes))).product();
    elements * ty.dtype.size() as u64
}

/// The launches of one block, and the bytes of arena they need.
fn block(
    graph: &Graph,
    entry: Entry,
    layers: &[u32],
    (limits, caps): (Limits, &Caps),
    sizes: Sizes,
    specs: &mut Vec<Spec>,
    tables: &mut Tables,
) -> (Vec<plan::Launch>, u64) {
    let selected = select::select(graph, entry, limits, caps);
    check_in_place(graph, &selected);
    let bound = |v: Value| graph.outputs.iter().find(|(_, o)| *o == v).map(|(port, _)| *port);

    // What lives in the arena, from its first launch to its last.
    let mut wanted: Vec<place::Wanted> = vec![];
    let mut keys: Vec<Source> = vec![];
    for (at, launch) in selected.launches.iter().enumerate() {
        for &source in &launch.args {
            let bytes = match source {
                Source::Value(v) if bound(v).is_none() && graph.input_port(v).is_none() => {
                    bytes(graph, v, sizes)
                }
                Source::Temp(n) => selected.temps[n],
                _ => continue,
            };
            match keys.iter().position(|k| *k == source) {
                Some(n) => wanted[n].last = at,
                None => {
                    keys.push(source);
                    wanted.push(place::Wanted { bytes, first: at, last: at });
                }
            }
        }
    }
    let (offsets, arena) = place::place(&wanted);

    let arg = |source: Source, tables: &mut Tables| match source {
        Source::Step => plan::Arg::Step,
        Source::Weight(id) => plan::Arg::Weight(tables.weight(graph.weight(id), layers)),
        Source::State(id, part) => {
            plan::Arg::State(tables.state(&graph.name, graph.state(id), id, part, layers))
        }
        Source::Value(v) if let Some(port) = bound(v).or(graph.input_port(v)) => {
            plan::Arg::Buffer(buffer(port))
        }
        Source::Value(_) | Source::Temp(_) => {
            let n = keys.iter().position(|k| *k == source).expect("every arena value has a place");
            plan::Arg::Arena { offset: offsets[n], bytes: wanted[n].bytes }
        }
    };
    let launches = selected
        .launches
        .into_iter()
        .map(|launch| {
            let template = launch.spec.template();
            let (tasks, cost) = (template.tasks(caps), template.cost(caps));
            let kernel = match specs.iter().position(|s| *s == launch.spec) {
                Some(n) => n,
                None => {
                    specs.push(launch.spec);
                    specs.len() - 1
                }
            };
            let args = launch.args.iter().map(|&s| arg(s, tables)).collect();
            plan::Launch { kernel: kernel as u32, tasks, args, cost }
        })
        .collect();
    (launches, arena)
}

/// A block writes its result where its input was: nothing may want the input any more, but for the
/// launch itself as the residual it adds element by element.
fn check_in_place(graph: &Graph, selected: &Selected) {
    let input = graph.values().find(|&v| graph.input_port(v) == Some(Port::Hidden));
    let output = graph.outputs.iter().find(|(p, _)| *p == Port::Hidden).map(|(_, v)| *v);
    let (Some(input), Some(output)) = (input, output) else { return };
    let writes = |l: &select::Launch| l.args.last() == Some(&Source::Value(output));
    let at = selected.launches.iter().position(writes).expect("a launch makes the block's result");
    let later = &selected.launches[at + 1..];
    let reads = |l: &select::Launch| l.args.contains(&Source::Value(input));
    assert!(!later.iter().any(reads), "a block's input is read before its result is written");
}
