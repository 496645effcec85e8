//! The step-parameter buffer: all that changes from one step to the next.
//!
//! A step runs T tokens of B sequences, packed one sequence after another. Its
//! tokens are cut into *tiles*: a tile holds consecutive tokens of one sequence,
//! at most [`PAGE`], and never crosses a position that is a multiple of [`PAGE`].
//! So attention blocks and delta-rule chunks count from position 0, whatever the
//! engine puts into one step. In `decode` each token is a tile of its own.
//!
//! The buffer is words of `i32`: a header of [`HEADER`] words, then the arrays below at
//! offsets that depend only on the sizes the artifact was compiled for.

use serde::{Deserialize, Serialize};

/// Tokens in a page of the KV cache, and the longest tile.
pub const PAGE: u32 = 64;

/// Words before the first array.
pub const HEADER: u32 = 16;

/// Header words: what a launch can scale its number of tasks by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Count {
    /// T
    Tokens,
    /// B
    Seqs,
    Tiles,
    /// Rows that `head` turns into logits.
    Rows,
    /// Ids that have a token; logits beyond are masked when sampling.
    ValidIds,
    /// Blocks of [`PAGE`] tokens of the step, whosever they are: rows of tiled products.
    Blocks,
}

impl Count {
    pub const ALL: [Count; 6] =
        [Count::Tokens, Count::Seqs, Count::Tiles, Count::Rows, Count::ValidIds, Count::Blocks];

    /// Word of the header that holds it.
    pub const fn word(self) -> u32 {
        self as u32
    }
}

/// The sizes that fix where each array lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepLayout {
    pub max_tokens: u32,
    pub max_seqs: u32,
    /// Pages of the longest sequence.
    pub max_pages: u32,
}

macro_rules! arrays {
    ($self:ident; $($(#[$doc:meta])* $name:ident: $len:expr;)*) => {
        impl StepLayout {
            arrays!(@walk $self [HEADER] $($(#[$doc])* $name: $len;)*);
        }
    };
    (@walk $self:ident [$at:expr] $(#[$doc:meta])* $name:ident: $len:expr; $($rest:tt)*) => {
        $(#[$doc])*
        pub const fn $name(&$self) -> u32 { $at }
        arrays!(@walk $self [$self.$name() + $len] $($rest)*);
    };
    (@walk $self:ident [$at:expr]) => {
        /// Words of the whole buffer.
        pub const fn words(&$self) -> u32 { $at }
    };
}

arrays! { self;
    /// `ids[T]`: token ids.
    ids: self.max_tokens;
    /// `positions[3, max_tokens]`: RoPE positions on the axes T, H, W (spec 6.2).
    positions: 3 * self.max_tokens;
    /// `token_tile[T]`: the tile of each token.
    token_tile: self.max_tokens;
    /// `tile_seq[tiles]`: the sequence of each tile.
    tile_seq: self.max_tiles();
    /// `tile_token[tiles]`: the first token of each tile, as an index into the step.
    tile_token: self.max_tiles();
    /// `tile_len[tiles]`: tokens in each tile, 1 to [`PAGE`].
    tile_len: self.max_tiles();
    /// `tile_pos[tiles]`: how many tokens of the sequence come before the tile's first.
    tile_pos: self.max_tiles();
    /// `tile_slot[tiles]`: the state slot written after the tile, or -1. The slot that a sequence starts
    /// from may be written after its last tile only.
    tile_slot: self.max_tiles();
    /// `seq_tile[B + 1]`: the first tile of each sequence.
    seq_tile: self.max_seqs + 1;
    /// `seq_slot[B]`: the state slot a sequence starts from, or -1 for zero state.
    seq_slot: self.max_seqs;
    /// `rows[R]`: tokens whose logits `head` computes.
    rows: self.max_seqs;
    /// `pages[B, max_pages]`: physical page of each page of the sequence.
    pages: self.max_seqs * self.max_pages;
}

impl StepLayout {
    /// Each sequence's run of `n` tokens touches at most `n / PAGE + 2` pages.
    pub const fn max_tiles(&self) -> u32 {
        let by_len = self.max_tokens / PAGE + 2 * self.max_seqs;
        if by_len < self.max_tokens { by_len } else { self.max_tokens }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_follow_one_another() {
        let s = StepLayout { max_tokens: 512, max_seqs: 8, max_pages: 4 };
        assert_eq!(s.ids(), HEADER);
        assert_eq!(s.positions(), HEADER + 512);
        assert_eq!(s.words() - s.pages(), 32);
        assert_eq!(s.max_tiles(), 24);
    }
}
