//! Runs of a benchmark: timed, and with what the plan says they move and compute.

use crate::failure::Failure;
use q35_artifact::{Artifact, Cost, Entry, Experts, Launch, Plan, TargetSection, Workload};
use q35_runtime::sampling::{Rng, Take};
use q35_runtime::{EngineError, Model, SeqId};
use std::fmt;
use std::time::Instant;

/// What a run does: `batch` sequences that have `depth` tokens read `prompt` more, then generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub batch: u32,
    pub depth: u32,
    pub prompt: u32,
    pub generated: u32,
}

impl Case {
    /// Tokens of each sequence in the end.
    pub fn length(&self) -> u32 {
        self.depth + self.prompt + self.generated
    }

    /// Tokens of each sequence when a phase begins.
    pub fn context_of(&self, phase: Phase) -> u32 {
        match phase {
            Phase::Prefill => self.depth,
            Phase::Decode => self.depth + self.prompt,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch {}, depth {}", self.batch, self.depth)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Prefill,
    Decode,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
        })
    }
}

/// One phase of a run.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timed {
    /// Of all sequences together.
    pub tokens: u64,
    pub seconds: f64,
    pub work: Work,
}

impl Timed {
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }
}

/// What steps move and compute, as the plan says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Work {
    /// Bytes of weights and of sequence state; activations stay in caches, or should.
    pub bytes: f64,
    pub flops: f64,
}

/// A model at work.
pub struct Worker<'a> {
    model: Model,
    costs: Costs<'a>,
    /// Tokens come from here, so that experts are chosen as in text: many different ones.
    random: Rng,
}

impl<'a> Worker<'a> {
    pub fn new(model: Model, artifact: &Artifact, target: &'a TargetSection) -> Self {
        let costs = Costs { plan: &target.plan, experts: artifact.model.experts };
        Self { model, costs, random: Rng::new(0) }
    }

    /// Run a case: its prefill and its decode, if it has them.
    pub fn run(&mut self, case: Case) -> Result<[Option<Timed>; 2], Failure> {
        let ids = (0..case.batch).map(|_| self.model.start()).collect::<Result<Vec<_>, _>>()?;
        if case.depth > 0 {
            self.prefill(&ids, case.depth)?;
        }
        let prefill = (case.prompt > 0).then(|| self.prefill(&ids, case.prompt)).transpose()?;
        let decode = (case.generated > 0).then(|| self.decode(&ids, case.generated)).transpose()?;
        for id in ids {
            self.model.finish(id)?;
        }
        Ok([prefill, decode])
    }

    fn prefill(&mut self, ids: &[SeqId], tokens: u32) -> Result<Timed, EngineError> {
        let prompts: Vec<Vec<u32>> =
            ids.iter().map(|_| (0..tokens).map(|_| self.token()).collect()).collect();
        let mut rest: Vec<(SeqId, &[u32])> =
            ids.iter().zip(&prompts).map(|(id, prompt)| (*id, prompt.as_slice())).collect();
        let mut timed = Timed { tokens: u64::from(tokens) * ids.len() as u64, ..Timed::default() };
        while !rest.is_empty() {
            let before = self.lengths(&rest)?;
            let start = Instant::now();
            let taken = self.model.feed_step_for(&rest, Take::Likeliest)?;
            timed.seconds += start.elapsed().as_secs_f64();
            let mut step = Step::default();
            for (((_, rest), &taken), before) in rest.iter_mut().zip(taken).zip(before) {
                *rest = &rest[taken as usize..];
                step.add(before, taken, rest.is_empty());
            }
            rest.retain(|(_, rest)| !rest.is_empty());
            timed.work = timed.work + self.costs.of("prefill", step);
        }
        Ok(timed)
    }

    fn decode(&mut self, ids: &[SeqId], tokens: u32) -> Result<Timed, EngineError> {
        let mut timed = Timed { tokens: u64::from(tokens) * ids.len() as u64, ..Timed::default() };
        for _ in 0..tokens {
            let inputs: Vec<_> = ids.iter().map(|id| (*id, self.token())).collect();
            let mut step = Step::default();
            for id in ids {
                step.add(self.model.length(*id)?, 1, true);
            }
            let start = Instant::now();
            self.model.decode_for(&inputs, Take::Likeliest)?;
            timed.seconds += start.elapsed().as_secs_f64();
            timed.work = timed.work + self.costs.of("decode", step);
        }
        Ok(timed)
    }

    fn lengths(&self, inputs: &[(SeqId, &[u32])]) -> Result<Vec<u32>, EngineError> {
        inputs.iter().map(|(id, _)| self.model.length(*id)).collect()
    }

    fn token(&mut self) -> u32 {
        (self.random.next_u64() % u64::from(self.model.facts().vocab)) as u32
    }
}

/// A step, as far as costs depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Step {
    tokens: f64,
    seqs: f64,
    rows: f64,
    context: f64,
}

impl Step {
    /// A sequence of `before` tokens is fed `taken` more, and its logits are computed if it `ends`.
    fn add(&mut self, before: u32, taken: u32, ends: bool) {
        let (before, taken) = (f64::from(before), f64::from(taken));
        if taken > 0.0 {
            self.tokens += taken;
            self.seqs += 1.0;
            self.rows += f64::from(u8::from(ends));
            // Each token attends to those before the step, those before it in the step, and itself.
            self.context += taken * (before + (taken + 1.0) / 2.0);
        }
    }
}

/// What the plan says of steps.
struct Costs<'a> {
    plan: &'a Plan,
    experts: Option<Experts>,
}

impl Costs<'_> {
    /// Of a step of `entry`, and of `head` if any logits are computed.
    fn of(&self, entry: &str, step: Step) -> Work {
        let Step { tokens, seqs, rows, context } = step;
        let experts = self.experts.map_or(0.0, |e| e.distinct(tokens));
        let workload = Workload { tokens, seqs, rows, context, experts };
        let entries = [Some(entry), (rows > 0.0).then_some("head")];
        let entries = entries.into_iter().flatten();
        let entries = entries.map(|name| self.plan.entry(name).expect("a checked plan has it"));
        entries
            .flat_map(launches)
            .map(|l| work(&l.cost, workload))
            .fold(Work::default(), |a, b| a + b)
    }
}

/// Every launch of an entry, as often as it runs.
fn launches(entry: &Entry) -> impl Iterator<Item = &Launch> {
    entry.sequence.iter().flat_map(|&(block, _)| &entry.blocks[block as usize].launches)
}

fn work(cost: &Cost, workload: Workload) -> Work {
    Work {
        bytes: cost.weights.at(workload) + cost.state.at(workload),
        flops: cost.flops.at(workload),
    }
}

impl std::ops::Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work { bytes: self.bytes + other.bytes, flops: self.flops + other.flops }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_artifact::{Amount, Block, Tasks, Times};
    use q35_types::StepLayout;

    fn entry(name: &str, repeats: u32, cost: Cost) -> Entry {
        let tasks = Tasks { each: 1, times: Times::Once };
        let launches = vec![Launch { kernel: 0, tasks, args: vec![], cost }];
        let blocks = vec![Block { name: "layer".into(), launches }];
        let sequence = (0..repeats).map(|layer| (0, Some(layer))).collect();
        Entry { name: name.into(), max_tokens: 64, blocks, sequence }
    }

    fn plan() -> Plan {
        let amount = |once, per_context, per_expert| Amount {
            once,
            per_context,
            per_expert,
            ..Amount::default()
        };
        let layer = Cost {
            weights: amount(1000.0, 0.0, 10.0),
            state: amount(0.0, 1.0, 0.0),
            activations_read: amount(5e9, 0.0, 0.0),
            activations_written: amount(5e9, 0.0, 0.0),
            flops: Amount { per_token: 7.0, ..Amount::default() },
        };
        let head = Cost { flops: Amount { per_row: 1.0, ..Amount::default() }, ..Cost::default() };
        Plan {
            step: StepLayout { max_tokens: 64, max_seqs: 2, max_pages: 1 },
            max_context: 64,
            vocab: 8,
            kernels: vec![],
            arena_bytes: 0,
            buffers: vec![],
            states: vec![],
            entries: vec![
                entry("prefill", 2, layer),
                entry("decode", 2, layer),
                entry("head", 1, head),
            ],
        }
    }

    #[test]
    fn a_token_attends_to_those_before_it_and_to_itself() {
        let mut step = Step::default();
        step.add(10, 3, true);
        assert_eq!(step, Step { tokens: 3.0, seqs: 1.0, rows: 1.0, context: 11.0 + 12.0 + 13.0 });
        step.add(5, 0, false);
        step.add(0, 1, false);
        assert_eq!(step, Step { tokens: 4.0, seqs: 2.0, rows: 1.0, context: 37.0 });
    }

    #[test]
    fn launches_count_as_often_as_they_run_and_activations_do_not() {
        let plan = plan();
        let costs = Costs { plan: &plan, experts: Some(Experts { count: 8, chosen: 2 }) };
        let mut step = Step::default();
        step.add(4, 1, true);
        // One token chooses two distinct experts.
        let layer_bytes = 1000.0 + 2.0 * 10.0 + 5.0;
        let expected = Work { bytes: 2.0 * layer_bytes, flops: 2.0 * 7.0 + 1.0 };
        assert_eq!(costs.of("decode", step), expected);
    }

    #[test]
    fn a_step_that_ends_no_prompt_computes_no_logits() {
        let plan = plan();
        let costs = Costs { plan: &plan, experts: None };
        let flops = |ends| {
            let mut step = Step::default();
            step.add(0, 10, ends);
            costs.of("prefill", step).flops
        };
        assert_eq!((flops(false), flops(true)), (140.0, 141.0));
    }
}
