//! The step-parameter buffer, written: tokens of several sequences cut into tiles.
//!
//! The words are described by [`StepLayout`]. Sequences are added one after another; a tile ends
//! at every multiple of [`PAGE`] of the sequence's own positions, so what a step computes for a
//! sequence does not depend on what else is in it. Only words that the step's own counts make
//! part of it are written: what lies beyond is of no consequence.

use q35_types::step::PAGE;
use q35_types::{Count, StepLayout};

/// How many of `remaining` tokens a step with room for `room` may take of a sequence that has
/// `position` tokens: all, or as many as end at a multiple of [`PAGE`]; perhaps none.
pub fn cut(position: u32, remaining: usize, room: u32) -> u32 {
    if remaining <= room as usize {
        return remaining as u32;
    }
    let end = (position + room) / PAGE * PAGE;
    end.saturating_sub(position)
}

/// Tokens of one sequence in a step.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Tokens that the sequence had before.
    pub position: u32,
    pub ids: &'a [u32],
    /// The state slot it starts from, unless it starts, and leaves its state in.
    pub slot: u32,
    /// The physical page of each of its pages, this step's included.
    pub pages: &'a [u32],
}

/// Writes one step.
pub struct StepWriter<'a> {
    layout: StepLayout,
    words: Words<'a>,
    tokens: u32,
    tiles: u32,
    seqs: u32,
}

impl<'a> StepWriter<'a> {
    /// A step without tokens, in the bytes of the whole buffer.
    pub fn new(layout: StepLayout, bytes: &'a mut [u8]) -> Self {
        Self { layout, words: Words(bytes), tokens: 0, tiles: 0, seqs: 0 }
    }

    /// Add tokens of one more sequence.
    ///
    /// Panics if the buffer has no room for them.
    pub fn add(&mut self, run: Run<'_>) {
        let layout = self.layout;
        let seq = self.seqs;
        assert!(seq < layout.max_seqs && self.tokens + run.ids.len() as u32 <= layout.max_tokens);
        let start = if run.position == 0 { -1 } else { run.slot as i32 };
        self.words.put(layout.seq_slot() + seq, start);
        self.words.put(layout.seq_tile() + seq, self.tiles as i32);
        for (page, &physical) in run.pages.iter().enumerate() {
            let at = layout.pages() + seq * layout.max_pages + page as u32;
            self.words.put(at, physical as i32);
        }
        let (mut position, mut rest) = (run.position, run.ids);
        while !rest.is_empty() {
            let length = rest.len().min((PAGE - position % PAGE) as usize);
            let (ids, after) = rest.split_at(length);
            let slot = if after.is_empty() { run.slot as i32 } else { -1 };
            self.tile(position, ids, slot);
            (position, rest) = (position + length as u32, after);
        }
        self.seqs += 1;
    }

    /// Write the counts.
    pub fn finish(mut self, valid_ids: u32) {
        self.words.put(self.layout.seq_tile() + self.seqs, self.tiles as i32);
        let counts = [
            (Count::Tokens, self.tokens),
            (Count::Seqs, self.seqs),
            (Count::Tiles, self.tiles),
            (Count::Rows, 0),
            (Count::ValidIds, valid_ids),
            (Count::Blocks, self.tokens.div_ceil(PAGE)),
        ];
        for (count, n) in counts {
            self.words.put(count.word(), n as i32);
        }
    }

    fn tile(&mut self, position: u32, ids: &[u32], slot: i32) {
        let layout = self.layout;
        let tile = self.tiles;
        self.words.put(layout.tile_seq() + tile, self.seqs as i32);
        self.words.put(layout.tile_token() + tile, self.tokens as i32);
        self.words.put(layout.tile_len() + tile, ids.len() as i32);
        self.words.put(layout.tile_pos() + tile, position as i32);
        self.words.put(layout.tile_slot() + tile, slot);
        for (&id, position) in ids.iter().zip(position..) {
            let token = self.tokens;
            self.words.put(layout.ids() + token, id as i32);
            // Text: the same on all three axes (spec 6.2).
            for axis in 0..3 {
                let at = layout.positions() + axis * layout.max_tokens + token;
                self.words.put(at, position as i32);
            }
            self.words.put(layout.token_tile() + token, tile as i32);
            self.tokens += 1;
        }
        self.tiles += 1;
    }
}

/// Little-endian words.
pub struct Words<'a>(pub &'a mut [u8]);

impl Words<'_> {
    pub fn put(&mut self, at: u32, value: i32) {
        self.0[at as usize * 4..][..4].copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: StepLayout = StepLayout { max_tokens: 256, max_seqs: 3, max_pages: 4 };

    struct Read(Vec<u8>);

    impl Read {
        fn at(&self, at: u32, n: u32) -> Vec<i32> {
            let word = |i: u32| self.0[i as usize * 4..][..4].try_into().unwrap();
            (at..at + n).map(|i| i32::from_le_bytes(word(i))).collect()
        }
    }

    fn written(runs: &[Run<'_>]) -> Read {
        let mut bytes = vec![0x55; LAYOUT.words() as usize * 4];
        let mut writer = StepWriter::new(LAYOUT, &mut bytes);
        runs.iter().for_each(|&run| writer.add(run));
        writer.finish(90);
        Read(bytes)
    }

    #[test]
    fn tiles_end_at_multiples_of_64_of_each_sequence() {
        let ids: Vec<u32> = (0..140).collect();
        let a = Run { position: 0, ids: &ids[..130], slot: 2, pages: &[7, 5, 9] };
        let b = Run { position: 60, ids: &ids[..10], slot: 0, pages: &[1, 3] };
        let step = written(&[a, b]);
        assert_eq!(step.at(0, 5), [140, 2, 5, 0, 90]);
        assert_eq!(step.at(LAYOUT.tile_token(), 5), [0, 64, 128, 130, 134]);
        assert_eq!(step.at(LAYOUT.tile_len(), 5), [64, 64, 2, 4, 6]);
        assert_eq!(step.at(LAYOUT.tile_pos(), 5), [0, 64, 128, 60, 64]);
        assert_eq!(step.at(LAYOUT.tile_seq(), 5), [0, 0, 0, 1, 1]);
        assert_eq!(step.at(LAYOUT.seq_tile(), 3), [0, 3, 5]);
    }

    #[test]
    fn state_is_read_by_all_but_fresh_sequences_and_written_after_their_last_tile() {
        let ids = [1; 70];
        let fresh = Run { position: 0, ids: &ids, slot: 2, pages: &[0, 1] };
        let later = Run { position: 70, ids: &ids[..1], slot: 1, pages: &[2, 3] };
        let step = written(&[fresh, later]);
        assert_eq!(step.at(LAYOUT.seq_slot(), 2), [-1, 1]);
        assert_eq!(step.at(LAYOUT.tile_slot(), 3), [-1, 2, 1]);
    }

    #[test]
    fn tokens_have_their_place_on_every_axis() {
        let a = Run { position: 62, ids: &[10, 11, 12], slot: 0, pages: &[4, 2] };
        let b = Run { position: 0, ids: &[20], slot: 1, pages: &[6] };
        let step = written(&[a, b]);
        assert_eq!(step.at(LAYOUT.ids(), 4), [10, 11, 12, 20]);
        for axis in 0..3 {
            let at = LAYOUT.positions() + axis * LAYOUT.max_tokens;
            assert_eq!(step.at(at, 4), [62, 63, 64, 0], "axis {axis}");
        }
        assert_eq!(step.at(LAYOUT.token_tile(), 4), [0, 0, 1, 2]);
        assert_eq!(step.at(LAYOUT.pages(), 2), [4, 2]);
        assert_eq!(step.at(LAYOUT.pages() + LAYOUT.max_pages, 1), [6]);
    }

    #[test]
    fn a_token_of_each_of_several_sequences_is_a_tile_of_its_own() {
        let run = |position| Run { position, ids: &[5], slot: 1, pages: &[0, 1, 2] };
        let step = written(&[run(63), run(64), run(100)]);
        assert_eq!(step.at(0, 3), [3, 3, 3]);
        assert_eq!(step.at(LAYOUT.tile_len(), 3), [1, 1, 1]);
        assert_eq!(step.at(LAYOUT.tile_pos(), 3), [63, 64, 100]);
    }

    #[test]
    fn prompts_are_cut_at_multiples_of_64_only() {
        assert_eq!(cut(0, 500, 512), 500, "it fits");
        assert_eq!(cut(0, 600, 512), 512);
        assert_eq!(cut(70, 600, 512), 576 - 70);
        assert_eq!(cut(70, 600, 64), 128 - 70);
        assert_eq!(cut(64, 600, 63), 0, "no multiple of 64 in reach");
        assert_eq!(cut(100, 30, 28), 28, "128 is in reach");
        assert_eq!(cut(100, 30, 27), 0);
        assert_eq!(cut(100, 27, 27), 27);
    }
}
