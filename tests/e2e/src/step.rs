//! One step of one sequence, for who runs a plan without an engine.

use q35_artifact::{Entry, Launch};
use q35_types::step::PAGE;
use q35_types::{Count, StepLayout};

/// Tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Tokens that it had before.
    pub depth: u32,
    pub tokens: u32,
}

/// Every launch of a step in order, with the block and the layer that it runs for.
pub fn launches(entry: &Entry) -> impl Iterator<Item = (&str, Option<u32>, &Launch)> {
    entry.sequence.iter().flat_map(|&(block, layer)| {
        let block = &entry.blocks[block as usize];
        block.launches.iter().map(move |launch| (block.name.as_str(), layer, launch))
    })
}

/// The step-parameter buffer of one sequence: slot 0, its pages in order, logits of its last token.
pub fn words(layout: StepLayout, vocab: u32, Step { depth, tokens }: Step) -> Vec<u8> {
    let mut bytes = vec![0; layout.words() as usize * 4];
    let mut put = |at: u32, value: u32| {
        bytes[at as usize * 4..][..4].copy_from_slice(&(value as i32).to_le_bytes());
    };
    let end = depth + tokens;
    let none = -1i32 as u32;
    let mut tiles = 0;
    let mut position = depth;
    while position < end {
        let next = end.min((position / PAGE + 1) * PAGE);
        put(layout.tile_seq() + tiles, 0);
        put(layout.tile_token() + tiles, position - depth);
        put(layout.tile_len() + tiles, next - position);
        put(layout.tile_pos() + tiles, position);
        put(layout.tile_slot() + tiles, if next == end { 0 } else { none });
        for at in position..next {
            put(layout.token_tile() + at - depth, tiles);
            for axis in 0..3 {
                put(layout.positions() + axis * layout.max_tokens + at - depth, at);
            }
        }
        (position, tiles) = (next, tiles + 1);
    }
    put(layout.seq_slot(), if depth == 0 { none } else { 0 });
    put(layout.seq_tile(), 0);
    put(layout.seq_tile() + 1, tiles);
    put(layout.rows(), tokens - 1);
    (0..end.div_ceil(PAGE)).for_each(|page| put(layout.pages() + page, page));
    for count in Count::ALL {
        let n = match count {
            Count::Tokens => tokens,
            Count::Seqs | Count::Rows => 1,
            Count::Tiles => tiles,
            Count::ValidIds => vocab,
            Count::Blocks => tokens.div_ceil(PAGE),
        };
        put(count.word(), n);
    }
    bytes
}
