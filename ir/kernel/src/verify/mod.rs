//! What every kernel must be, so that evaluator and targets need not ask.
//!
//! Three things are checked, each only if those before it hold: the header and the types of values;
//! every statement, in order, against what is visible where it stands (`types`); and that what a group
//! or a subgroup does together stands where its control is uniform (`uniform`).
//!
//! What [`crate::Inst`] leaves open is settled here:
//!
//! - A kernel has 1 to [`MAX_LANES`] lanes, at most [`MAX_SHARED_BYTES`] of shared arrays, at most
//!   [`MAX_ACCUMULATED`] elements of accumulators, and blocks in at most [`MAX_DEPTH`] others. A target
//!   may have less.
//! - Values are numbered without gaps, each is defined once, and is visible after its definition in
//!   the block that holds it and the blocks within.
//! - A parameter that is written must not be read: what `write` says is that a launch needs nothing of
//!   what the buffer held. Read back what was written through `readwrite`. Tables are only read.
//! - A divisor is a constant or a vector of one, positive; a constant shift is by 0 to 31.
//! - `panel_dot` is for kernels of one lane.
//! - One `mma` is of at most [`MAX_MMA_K`] products a sum, and both its matrices are `bf16` or both `f16`.

mod types;
mod uniform;

use crate::inst::*;
use q35_types::DType;
use std::collections::HashSet;

/// Blocks around a block.
pub const MAX_DEPTH: usize = 64;
pub const MAX_LANES: u32 = 1024;
pub const MAX_SHARED_BYTES: u64 = 16 << 20;
/// Elements of all accumulators of one subgroup.
pub const MAX_ACCUMULATED: u64 = 1 << 14;
pub const MAX_MMA_K: u32 = 1 << 12;

/// Something wrong with a kernel, and the line of its text that has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{at}`: {problem}")]
pub struct Finding {
    pub at: String,
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("`{name}` is no name, expected letters, digits and `_`, not starting with a digit")]
    Name { name: String },

    #[error("`{name}` is the name of two memories")]
    SameName { name: String },

    #[error("{found} lanes, expected 1 to {MAX_LANES}")]
    Lanes { found: u32 },

    #[error("a subgroup of {found} lanes, expected a power of two that divides {lanes}")]
    Subgroup { found: u32, lanes: u32 },

    #[error("a cluster of {found} lanes, expected a power of two that divides {lanes}")]
    Cluster { found: u32, lanes: u32 },

    #[error("`{value}` is {found}, expected 1, 2, 4, 8 or 16 elements")]
    Width { value: Value, found: Type },

    #[error("a table is {}, expected read", .found.name())]
    TableAccess { found: Access },

    #[error("a shared array of no elements")]
    SharedEmpty,

    #[error("{found} bytes of shared arrays, expected at most {MAX_SHARED_BYTES}")]
    SharedBytes { found: u64 },

    #[error("an accumulator of {m} x {n}, expected multiples of {MMA_M} x {MMA_N}")]
    AccumulatorShape { m: u32, n: u32 },

    #[error("{found} elements of accumulators, expected at most {MAX_ACCUMULATED}")]
    Accumulated { found: u64 },

    #[error("`{value}` is never defined")]
    NeverDefined { value: Value },

    #[error("`{value}` is defined again")]
    DefinedAgain { value: Value },

    #[error("`{value}` has no type")]
    NoType { value: Value },

    #[error("{what} is `{value}`, which is not visible here")]
    NotVisible { what: &'static str, value: Value },

    #[error("{what} is {found}, expected {expected}")]
    Type { what: &'static str, found: Type, expected: String },

    #[error("{found} {what}, expected {expected}")]
    Count { what: &'static str, found: usize, expected: usize },

    #[error("{found} elements, expected 2, 4, 8 or 16")]
    Elements { found: usize },

    #[error("element {found} of a vector of {width}")]
    NoElement { found: u8, width: u8 },

    #[error("`{0:?}` does not exist")]
    NoMemory(Mem),

    #[error("`{0:?}` does not exist")]
    NoAccumulator(Acc),

    #[error("`{name}` is a table, expected an entry of it")]
    NoEntry { name: String },

    #[error("`{name}` is no table, but an entry of it is named")]
    NotATable { name: String },

    #[error("`{name}` is {} only", .access.name())]
    Access { name: String, access: Access },

    #[error("{what} is in {found}, expected {expected}")]
    Element { what: &'static str, found: DType, expected: &'static str },

    #[error("{what} is in a buffer, expected a shared array")]
    NotShared { what: &'static str },

    #[error("{found} products a sum, expected a multiple of {MMA_K} up to {MAX_MMA_K}")]
    MmaK { found: u32 },

    #[error("the divisor is not known to be a positive constant")]
    Divisor,

    #[error("a shift by {found}, expected 0 to 31")]
    Shift { found: i32 },

    #[error("a step of 0")]
    Step,

    #[error("a block in more than {MAX_DEPTH} others")]
    Depth,

    #[error("`panel_dot` in a kernel of {lanes} lanes, expected 1")]
    PanelLanes { lanes: u32 },

    #[error("control is not uniform here: it depends on what may differ between lanes")]
    NotUniform,

    #[error(
        "control is not uniform over the subgroup here: it depends on what may differ between its lanes"
    )]
    SubgroupNotUniform,

    #[error("{what} is `{value}`, which may differ between lanes of a subgroup")]
    Differs { what: &'static str, value: Value },
}

/// All that is wrong with a kernel, in the order of its text.
pub fn verify(kernel: &Kernel) -> Result<(), Vec<Finding>> {
    for check in [header, types::check, uniform::check] {
        let findings = check(kernel);
        if !findings.is_empty() {
            return Err(findings);
        }
    }
    Ok(())
}

fn header(kernel: &Kernel) -> Vec<Finding> {
    let mut findings = vec![];
    let top = format!("kernel {}", kernel.name);
    let mut report = |at: &dyn ToString, problem| {
        findings.push(Finding { at: at.to_string(), problem });
    };
    if !is_name(&kernel.name) {
        report(&top, Problem::Name { name: kernel.name.clone() });
    }
    if !(1..=MAX_LANES).contains(&kernel.lanes) {
        report(&top, Problem::Lanes { found: kernel.lanes });
    } else if !divides(kernel.subgroup, kernel.lanes) {
        report(&top, Problem::Subgroup { found: kernel.subgroup, lanes: kernel.lanes });
    }
    let mut names = HashSet::new();
    let mut name_problem = |name: &String| match (is_name(name), names.insert(name.clone())) {
        (false, _) => Some(Problem::Name { name: name.clone() }),
        (true, false) => Some(Problem::SameName { name: name.clone() }),
        (true, true) => None,
    };
    for param in &kernel.params {
        if let Some(problem) = name_problem(&param.name) {
            report(param, problem);
        }
        if param.table && param.access != Access::Read {
            report(param, Problem::TableAccess { found: param.access });
        }
    }
    let mut bytes = 0u64;
    for array in &kernel.shared {
        if let Some(problem) = name_problem(&array.name) {
            report(array, problem);
        }
        if array.len == 0 {
            report(array, Problem::SharedEmpty);
        }
        let size = u64::from(array.len) * array.dtype.size() as u64;
        bytes = bytes.saturating_add(size.next_multiple_of(64));
    }
    if bytes > MAX_SHARED_BYTES {
        report(&top, Problem::SharedBytes { found: bytes });
    }
    let mut accumulated = 0u64;
    for accumulator in &kernel.accumulators {
        if let Some(problem) = name_problem(&accumulator.name) {
            report(accumulator, problem);
        }
        let &Accumulator { m, n, .. } = accumulator;
        if m == 0 || n == 0 || m % MMA_M != 0 || n % MMA_N != 0 {
            report(accumulator, Problem::AccumulatorShape { m, n });
        }
        accumulated = accumulated.saturating_add(u64::from(m) * u64::from(n));
    }
    if accumulated > MAX_ACCUMULATED {
        report(&top, Problem::Accumulated { found: accumulated });
    }
    for (number, &found) in kernel.types.iter().enumerate() {
        if !matches!(found.width, 1 | 2 | 4 | 8 | 16) {
            report(&top, Problem::Width { value: Value(number as u32), found });
        }
    }
    findings
}

/// Whether `size` is a power of two that divides `lanes`.
fn divides(size: u32, lanes: u32) -> bool {
    size.is_power_of_two() && lanes.is_multiple_of(size)
}

fn is_name(name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(part) && name.starts_with(|c: char| !c.is_ascii_digit())
}
