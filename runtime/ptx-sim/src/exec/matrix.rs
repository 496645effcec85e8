//! `ldmatrix` and `stmatrix`: 8x8 matrices of 16-bit elements, a row of 16 bytes from the address of each of 8 lanes.

use super::access::parts;
use super::shared::{at_lane, within_shared};
use super::{Around, Outcome, Warp, trouble};
use crate::banks::extra_passes;
use crate::error::FaultKind;
use crate::op::LdMatrix;
use crate::regs::LANES;
use crate::types::Space;

impl Warp {
    pub(super) fn matrix(
        &mut self,
        around: &mut Around<'_>,
        matrix: &LdMatrix,
        load: bool,
    ) -> Outcome<()> {
        let count = matrix.regs.len();
        let givers = if count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 };
        let addresses = self.addresses(matrix.at);
        let (addresses, strays) = match matrix.at.space {
            Space::Shared => (addresses, false),
            space => {
                let parts = parts(space, &addresses, givers);
                (parts[0].1, parts.iter().any(|part| part.0 != Space::Shared))
            }
        };
        if strays {
            return trouble(FaultKind::OutOfBounds, 0, "a matrix outside of shared memory");
        }
        within_shared(around, &addresses, givers, 16)?;
        around.tally.shared_requests += 1;
        for (m, &reg) in matrix.regs.iter().enumerate() {
            let rows = &addresses[8 * m..8 * m + 8];
            around.tally.shared_conflicts += extra_passes(16, rows.iter().copied());
            if load {
                let mut rows_of = [[0u32; 4]; 8];
                for (row, address) in rows.iter().enumerate() {
                    for (w, word) in rows_of[row].iter_mut().enumerate() {
                        // The lane that gets the word; with `.trans` it is one of those that do.
                        let lane = if matrix.transposed { 8 * m + row } else { row * 4 + w };
                        let who = self.who(lane, false);
                        let at = address + 4 * w as u64;
                        *word =
                            around.shared.load(at, 4, who).or_else(|fault| at_lane(lane, fault))?
                                as u32;
                    }
                }
                self.regs.w32[reg] = spread(&rows_of, matrix.transposed);
            } else {
                let words = self.regs.w32[reg];
                let from = std::array::from_fn(|row| std::array::from_fn(|w| words[row * 4 + w]));
                let rows_of = if matrix.transposed { gathered(&spread(&from, true)) } else { from };
                for (row, address) in rows.iter().enumerate() {
                    for (w, word) in rows_of[row].iter().enumerate() {
                        let lane = row * 4 + w;
                        let (at, who) = (address + 4 * w as u64, self.who(lane, false));
                        around
                            .shared
                            .store(at, 4, (*word).into(), who)
                            .or_else(|fault| at_lane(lane, fault))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What each lane gets: two elements of row lane/4, or of column lane/4.
fn spread(rows: &[[u32; 4]; 8], transposed: bool) -> [u32; LANES] {
    std::array::from_fn(|lane| {
        let (outer, inner) = (lane / 4, lane % 4);
        if !transposed {
            return rows[outer][inner];
        }
        let element = |row: usize| rows[row][outer / 2] >> (outer % 2 * 16) & 0xffff;
        element(2 * inner) | element(2 * inner + 1) << 16
    })
}

fn gathered(words: &[u32; LANES]) -> [[u32; 4]; 8] {
    std::array::from_fn(|row| std::array::from_fn(|w| words[row * 4 + w]))
}
