//! What can go wrong: text that does not parse, kernels that are not known, launches that do not fit, faults.

use std::fmt;
use thiserror::Error;

/// Why a module was not read or a launch did not finish.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Error {
    /// The text is no PTX.
    #[error("line {line}: {message}")]
    Parse { line: u32, message: String },
    /// The text is PTX, but the simulator does not know it.
    #[error("kernel `{kernel}`, line {line}: {message}")]
    Unsupported { kernel: String, line: u32, message: String },
    /// The launch does not fit the kernel or the machine.
    #[error("{0}")]
    Launch(String),
    /// The kernel did what no kernel may do.
    #[error("{0}")]
    Fault(Box<Fault>),
}

/// What a kernel may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An access that does not lie in one allocation, or not in the block's shared memory.
    OutOfBounds,
    /// An address that is no multiple of the access's bytes.
    Misaligned,
    /// A read of shared or global memory that nobody has written.
    Uninitialised,
    /// Two threads at one place of shared memory, one of them writing, and no barrier between them.
    Race,
    /// A barrier that not all threads reach.
    Barrier,
    /// A warp-wide instruction that not all named lanes reach, or that reads from a lane which takes no part.
    DivergentShuffle,
    /// The instruction `trap`.
    Trap,
    /// Every block waits for another, or the launch ran longer than it was allowed to.
    Hang,
}

impl FaultKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::OutOfBounds => "out-of-bounds",
            Self::Misaligned => "misaligned",
            Self::Uninitialised => "uninitialised",
            Self::Race => "race",
            Self::Barrier => "barrier",
            Self::DivergentShuffle => "divergent-shuffle",
            Self::Trap => "trap",
            Self::Hang => "hang",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A fault and where it happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub kind: FaultKind,
    pub kernel: String,
    /// Line of the PTX text.
    pub line: u32,
    pub block: [u32; 3],
    pub thread: [u32; 3],
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, kernel, line, block: [bx, by, bz], thread: [tx, ty, tz], message } = self;
        write!(
            f,
            "{kind}: kernel `{kernel}`, line {line}, block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz}): {message}"
        )
    }
}
