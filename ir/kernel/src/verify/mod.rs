//! What every kernel must be, so that evaluator and targets need not ask.
//!
//! Three things are checked, each only if those before it hold: the header and the types of values;
//! every statement, in order, against what is visible where it stands (`types`); and that group
//! operations stand where control is uniform (`uniform`).
//!
//! What [`crate::Inst`] leaves open is settled here:
//!
//! - A kernel has 1 to [`MAX_LANES`] lanes, at most [`MAX_SHARED_BYTES`] of shared arrays, and blocks in
//!   at most [`MAX_DEPTH`] others. A target may have less.
//! - Values are numbered without gaps, each is defined once, and is visible after its definition in
//!   the block that holds it and the blocks within.
//! - A parameter that is written must not be read: what `write` says is that a launch needs nothing of
//!   what the buffer held. Read back what was written through `readwrite`. Tables are only read.
//! - A divisor is a constant or a vector of one, positive; a constant shift is by 0 to 31.
//! - `panel_dot` is for kernels of one lane.

mod types;
mod uniform;

use crate::inst::*;
use q35_types::DType;
use std::collections::HashSet;

/// Blocks around a block.
pub const MAX_DEPTH: usize = 64;
pub const MAX_LANES: u32 = 1024;
pub const MAX_SHARED_BYTES: u64 = 16 << 20;

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

    #[error("`{value}` is {found}, expected 1, 2, 4, 8 or 16 elements")]
    Width { value: Value, found: Type },

    #[error("a table is {}, expected read", .found.name())]
    TableAccess { found: Access },

    #[error("a shared array of {found}, expected f32 or i32")]
    SharedType { found: DType },

    #[error("a shared array of no elements")]
    SharedEmpty,

    #[error("{found} bytes of shared arrays, expected at most {MAX_SHARED_BYTES}")]
    SharedBytes { found: u64 },

    #[error("`{value}` is never defined")]
    NeverDefined { value: Value },

    #[error("`{value}` is defined again")]
    DefinedAgain { value: Value },

    #[error("`{value}` has no type")]
    NoType { value: Value },

    #[error("{what} is `{value}`, which is not visible here")]
    NotVisible { what: &'static str, value: Value },

    #[error("{what} is {found}, expected {expected}")]
    Type {
        what: &'static str,
        found: Type,
        expected: String,
    },

    #[error("{found} {what}, expected {expected}")]
    Count {
        what: &'static str,
        found: usize,
        expected: usize,
    },

    #[error("element {found} of a vector of {width}")]
    NoElement { found: u8, width: u8 },

    #[error("`{0:?}` does not exist")]
    NoMemory(Mem),

    #[error("`{name}` is a table, expected an entry of it")]
    NoEntry { name: String },

    #[error("`{name}` is no table, but an entry of it is named")]
    NotATable { name: String },

    #[error("`{name}` is {} only", .access.name())]
    Access { name: String, access: Access },

    #[error("{what} is in {found}, expected {expected}")]
    Element {
        what: &'static str,
        found: DType,
        expected: &'static str,
    },

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
        findings.push(Finding {
            at: at.to_string(),
            problem,
        });
    };
    if !is_name(&kernel.name) {
        report(
            &top,
            Problem::Name {
                name: kernel.name.clone(),
            },
        );
    }
    if !(1..=MAX_LANES).contains(&kernel.lanes) {
        report(
            &top,
            Problem::Lanes {
                found: kernel.lanes,
            },
        );
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
            report(
                param,
                Problem::TableAccess {
                    found: param.access,
                },
            );
        }
    }
    let mut bytes = 0u64;
    for array in &kernel.shared {
        if let Some(problem) = name_problem(&array.name) {
            report(array, problem);
        }
        match array.dtype {
            DType::F32 | DType::I32 => {}
            found @ (DType::F16 | DType::Bf16) => report(array, Problem::SharedType { found }),
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
    for (number, &found) in kernel.types.iter().enumerate() {
        if !matches!(found.width, 1 | 2 | 4 | 8 | 16) {
            report(
                &top,
                Problem::Width {
                    value: Value(number as u32),
                    found,
                },
            );
        }
    }
    findings
}

fn is_name(name: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(part) && name.starts_with(|c: char| !c.is_ascii_digit())
}
