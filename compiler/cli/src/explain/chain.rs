//! Launches that wait for one another.
//!
//! A device runs launches of a graph side by side unless one touches what another writes, as the
//! CUDA device of `q35-device` sees it. The longest chain of those that wait decides how often a
//! step pays for waiting.

use crate::usage;
use q35_artifact::{Arg, Entry, Launch, Plan};

/// Launches of the longest chain in a step of an entry point.
pub fn longest(plan: &Plan, entry: &Entry) -> u64 {
    let mut earlier: Vec<(Vec<Touched>, u64)> = vec![];
    for (launch, layer) in usage::launches(entry) {
        let touched = touched(plan, launch, layer);
        let waits = earlier.iter().filter(|(other, _)| conflict(other, &touched));
        let length = waits.map(|(_, length)| *length).max().unwrap_or(0) + 1;
        earlier.push((touched, length));
    }
    earlier.into_iter().map(|(_, length)| length).max().unwrap_or(0)
}

/// Bytes that a launch reads or writes.
struct Touched {
    place: Place,
    begin: u64,
    end: u64,
    write: bool,
}

#[derive(PartialEq, Eq)]
enum Place {
    Arena,
    Buffer(u32),
    /// Of a layer.
    State(u32, Option<u32>),
}

/// Weights and the step's parameters are never written.
fn touched(plan: &Plan, launch: &Launch, layer: Option<u32>) -> Vec<Touched> {
    let params = &plan.kernels[launch.kernel as usize].params;
    let touched = |(arg, param): (&Arg, &q35_artifact::Param)| {
        let (place, begin, end) = match *arg {
            Arg::Arena { offset, bytes } => (Place::Arena, offset, offset + bytes),
            Arg::Buffer(number) => (Place::Buffer(number), 0, u64::MAX),
            Arg::State(number) => (Place::State(number, layer), 0, u64::MAX),
            Arg::Step | Arg::Weight(_) => return None,
        };
        Some(Touched { place, begin, end, write: param.write })
    };
    launch.args.iter().zip(params).filter_map(touched).collect()
}

fn conflict(a: &[Touched], b: &[Touched]) -> bool {
    let one = |a: &Touched, b: &Touched| {
        let meet = a.place == b.place && a.begin < b.end && b.begin < a.end;
        meet && (a.write || b.write)
    };
    a.iter().any(|a| b.iter().any(|b| one(a, b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::sample;
    use q35_artifact::{Block, Cost, Param, Tasks, Times};
    use q35_types::DType;

    /// Launches of one kernel that reads its first argument and writes its second.
    fn chain(launches: &[[Arg; 2]]) -> u64 {
        let mut plan = sample::artifact().targets.remove(0).plan;
        let param = |write| Param { name: "p".into(), dtype: DType::F32, write, table: false };
        plan.kernels[0].params = vec![param(false), param(true)];
        let launch = |args: &[Arg; 2]| Launch {
            kernel: 0,
            tasks: Tasks { each: 1, times: Times::Once },
            args: args.to_vec(),
            cost: Cost::default(),
        };
        let launches = launches.iter().map(launch).collect();
        let entry = Entry {
            name: "decode".into(),
            max_tokens: 1,
            blocks: vec![Block { name: "b".into(), launches }],
            sequence: vec![(0, Some(0)), (0, Some(1))],
        };
        longest(&plan, &entry)
    }

    #[test]
    fn what_touches_nothing_of_another_runs_beside_it() {
        let at = |offset| Arg::Arena { offset, bytes: 64 };
        // Each of two layers: the second reads what the first wrote, and so does the third.
        assert_eq!(chain(&[[at(0), at(64)], [at(64), at(128)], [at(64), at(192)]]), 4);
        // State of one layer is not that of another.
        assert_eq!(chain(&[[Arg::Weight(0), Arg::State(0)]]), 1);
        assert_eq!(chain(&[[Arg::Weight(0), Arg::Buffer(0)]]), 2);
        // Read twice; overwritten; overlapping by a byte.
        assert_eq!(chain(&[[at(0), Arg::State(0)], [at(0), Arg::State(1)]]), 1);
        assert_eq!(chain(&[[at(0), at(64)], [Arg::Step, at(127)]]), 4);
    }
}
