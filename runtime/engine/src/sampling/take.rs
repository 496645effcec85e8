//! How much of a row of logits it takes to choose the next token.
//!
//! A row is a quarter of a million numbers, and a device with memory of its own is far away. Most
//! samplers look at the likeliest token or at a few of the likeliest: then the device
//! looks for them, and only they come home. What is chosen is the same.

/// What is wanted of a row of logits, the least first; more does as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Take {
    /// The likeliest token.
    Likeliest,
    /// The few likeliest tokens, with their logits.
    Candidates,
    /// All logits.
    Logits,
}

/// What there is of a row of logits. Tokens are those of valid ids, the likelier first, of equals the lower
/// id; negative infinity and what is no number are not among them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Taken<'a> {
    /// The likeliest token, if any is in play.
    Likeliest(Option<u32>),
    /// The likeliest tokens; all that are in play if they are fewer than
    /// [`Facts::candidates`](crate::Facts::candidates).
    Candidates(&'a [Ranked]),
    Logits(&'a [f32]),
}

/// A token and its logit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Ranked {
    pub id: u32,
    pub logit: f32,
}
