//! Sizes of axes: exact, but for the few that a step decides at run time.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Dim {
    Fixed(u32),
    /// Tokens of the step, all sequences together: `T`.
    Tokens,
    /// Rows whose logits are wanted: `R`.
    Rows,
    /// `times · T + plus`.
    PerToken {
        times: u32,
        plus: u32,
    },
}

/// Axes, outermost first.
pub type Shape = Vec<Dim>;

/// What the run-time axes are in one step (or at most, when memory is planned).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    pub tokens: u32,
    pub rows: u32,
}

impl Dim {
    /// The size, if it does not depend on the step.
    pub const fn fixed(self) -> Option<u32> {
        match self {
            Dim::Fixed(n) => Some(n),
            Dim::Tokens | Dim::Rows | Dim::PerToken { .. } => None,
        }
    }

    pub const fn resolve(self, sizes: Sizes) -> u32 {
        match self {
            Dim::Fixed(n) => n,
            Dim::Tokens => sizes.tokens,
            Dim::Rows => sizes.rows,
            Dim::PerToken { times, plus } => times * sizes.tokens + plus,
        }
    }
}

impl From<u32> for Dim {
    fn from(n: u32) -> Self {
        Dim::Fixed(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Tokens => f.write_str("T"),
            Dim::Rows => f.write_str("R"),
            Dim::PerToken { times, plus } => write!(f, "{times}T+{plus}"),
        }
    }
}
