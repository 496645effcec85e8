//! Reading the step-parameter buffer.

use q35_kernel::{Expr, KernelBuilder, Mem};
use q35_types::{Count, DType, StepLayout};

/// The step buffer of a kernel; always its first parameter.
#[derive(Clone, Copy)]
pub struct Step<'k> {
    b: &'k KernelBuilder,
    mem: Mem,
    layout: StepLayout,
}

/// A tile and whose it is.
#[derive(Clone, Copy)]
pub struct Tile<'k> {
    pub seq: Expr<'k>,
    /// Its first token, as an index into the step.
    pub token: Expr<'k>,
    pub len: Expr<'k>,
    /// Position of its first token in the sequence.
    pub pos: Expr<'k>,
    /// State slot to write after it, or -1.
    pub slot: Expr<'k>,
}

impl<'k> Step<'k> {
    pub fn new(b: &'k KernelBuilder, layout: &StepLayout) -> Self {
        Step { b, mem: b.input("step", DType::I32), layout: *layout }
    }

    fn word(&self, array: u32, index: Expr<'k>) -> Expr<'k> {
        self.b.load(self.mem, index + array as i32)
    }

    pub fn count(&self, count: Count) -> Expr<'k> {
        self.b.load(self.mem, count.word())
    }

    pub fn id(&self, token: Expr<'k>) -> Expr<'k> {
        self.word(self.layout.ids(), token)
    }

    pub fn position(&self, axis: Expr<'k>, token: Expr<'k>) -> Expr<'k> {
        self.word(self.layout.positions(), axis * self.layout.max_tokens + token)
    }

    pub fn row(&self, row: Expr<'k>) -> Expr<'k> {
        self.word(self.layout.rows(), row)
    }

    pub fn tile(&self, tile: Expr<'k>) -> Tile<'k> {
        Tile {
            seq: self.word(self.layout.tile_seq(), tile),
            token: self.word(self.layout.tile_token(), tile),
            len: self.word(self.layout.tile_len(), tile),
            pos: self.word(self.layout.tile_pos(), tile),
            slot: self.word(self.layout.tile_slot(), tile),
        }
    }

    pub fn tile_of(&self, token: Expr<'k>) -> Tile<'k> {
        self.tile(self.word(self.layout.token_tile(), token))
    }

    /// First tile of the sequence and the one after its last.
    pub fn tiles_of(&self, seq: Expr<'k>) -> (Expr<'k>, Expr<'k>) {
        let at = self.layout.seq_tile();
        (self.word(at, seq), self.word(at, seq + 1))
    }

    /// The first tile of the sequence: in `decode`, all there is of it.
    pub fn tile_of_seq(&self, seq: Expr<'k>) -> Tile<'k> {
        self.tile(self.tiles_of(seq).0)
    }

    /// Slot the sequence's state is read from, or -1 for zero state.
    pub fn slot_of(&self, seq: Expr<'k>) -> Expr<'k> {
        self.word(self.layout.seq_slot(), seq)
    }

    /// Physical page of the sequence's page number `page`.
    pub fn page(&self, seq: Expr<'k>, page: Expr<'k>) -> Expr<'k> {
        self.word(self.layout.pages(), seq * self.layout.max_pages + page)
    }
}
