//! Why a run stopped.

use q35_kernel::Finding;
use std::fmt;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The kernel does not verify.
    #[error("`{kernel}` is not a valid kernel: {}", .findings.first().map(ToString::to_string).unwrap_or_default())]
    Invalid { kernel: String, findings: Vec<Finding> },

    #[error("`{kernel}` has registers of {words} words, expected at most {most}")]
    TooLarge { kernel: String, words: u64, most: u64 },

    #[error("`{kernel}` is given {found} arguments, expected {expected}")]
    ArgumentCount { kernel: String, found: usize, expected: usize },

    #[error("`{kernel}` is given {found} for `{param}`, expected {expected}")]
    Argument { kernel: String, param: String, found: &'static str, expected: &'static str },

    #[error("`{kernel}`, task {task}, lane {lane}: {cause}")]
    At { kernel: String, task: u32, lane: u32, cause: Cause },
}

/// Who accesses a shared array: a lane, or by a matrix instruction all lanes of a subgroup, each
/// whatever the machine gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accessor {
    Lane(u32),
    Subgroup(u32),
}

impl fmt::Display for Accessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Accessor::Lane(lane) => write!(f, "lane {lane}"),
            Accessor::Subgroup(number) => write!(f, "subgroup {number}"),
        }
    }
}

/// What a lane did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// `width` elements from `index` on, of a memory of `len` elements.
    #[error("`{memory}[{index}]` and {width} elements from there on, expected at most {len}")]
    OutOfBounds { memory: String, index: i64, width: usize, len: usize },

    #[error("entry {number} of `{param}`, expected less than {len}")]
    NoEntry { param: String, number: i32, len: usize },

    #[error("`{memory}[{index}]` is read, expected a write by this task first")]
    Uninitialised { memory: String, index: usize },

    #[error("`{memory}[{index}]` is accessed by {other} too, expected a barrier between")]
    Race { memory: String, index: usize, other: Accessor },

    #[error("`{accumulator}` is used, expected this subgroup to set it in this task first")]
    Unset { accumulator: String },

    #[error("shift by {by}, expected 0 to 31")]
    Shift { by: i32 },

    /// More work than [`Program::run_within`](super::Program::run_within) was to do.
    #[error("more work than the budget allows")]
    Budget,
}
