//! `cp.async`: copies from global to shared memory that arrive when they are waited for, and not before.

use super::access::misaligned;
use super::shared::{at_lane, within_shared};
use super::{Around, Outcome, Warp, trouble};
use crate::counters::Way;
use crate::error::FaultKind;
use crate::op::Copy;
use crate::regs::{LANES, Lanes, Spread, lanes_of};

/// The copies of a warp that are under way.
#[derive(Clone, Default)]
pub(super) struct Copies {
    /// Groups that each lane has committed.
    committed: Lanes<u32>,
    flying: Vec<Flight>,
}

/// One instruction's copies, of lanes that have committed equally many groups.
#[derive(Clone)]
struct Flight {
    mask: u32,
    group: u32,
    words: usize,
    to: Lanes<u32>,
    data: Vec<[u32; 4]>,
}

impl Copies {
    pub fn commit(&mut self, on: u32) {
        lanes_of(on).for_each(|lane| self.committed[lane] += 1);
    }
}

impl Warp {
    pub(super) fn copy(&mut self, around: &mut Around<'_>, copy: &Copy, on: u32) -> Outcome<()> {
        if on == 0 {
            return Ok(());
        }
        let (to, from) = (self.addresses(copy.to), self.addresses(copy.from));
        let ignored = copy.ignore.map_or(0, |guard| self.holds(guard));
        let given = |warp: &Self, lane: usize| {
            let bytes = copy.given.map_or(copy.bytes, |reg| warp.regs.lane(reg, lane));
            if ignored >> lane & 1 == 1 { 0 } else { bytes }
        };
        within_shared(around, &to, on, copy.bytes)?;
        let mut reads = 0;
        for lane in lanes_of(on) {
            let bytes = given(self, lane);
            if bytes > copy.bytes {
                let message = format!("copies {bytes} bytes to a place of {}", copy.bytes);
                return trouble(FaultKind::OutOfBounds, lane, message);
            }
            if from[lane] % copy.bytes != 0 {
                return misaligned(lane, from[lane], copy.bytes);
            }
            reads |= u32::from(bytes > 0) << lane;
        }
        let mut data = vec![[0; 4]; LANES];
        let mut found = [0; LANES];
        let memory = around.env.memory;
        for lane in lanes_of(reads) {
            let bytes = given(self, lane);
            let one: Lanes<u64> = from;
            let at = memory.find(one[lane], *around.hint).filter(|&at| {
                let allocation = &memory.allocations()[at];
                bytes <= allocation.bytes - (one[lane] - allocation.base)
            });
            let Some(at) = at else {
                // Says where it is.
                around.locate(&one, 1 << lane, copy.bytes)?;
                return trouble(
                    FaultKind::OutOfBounds,
                    lane,
                    format!("{bytes} bytes at {:#x}", one[lane]),
                );
            };
            *around.hint = at;
            found[lane] = at as u32;
            let allocation = &memory.allocations()[at];
            let offset = one[lane] - allocation.base;
            if !allocation.is_written(offset, bytes) {
                let message = format!(
                    "copies {bytes} bytes at {offset} of a buffer, which nobody has written"
                );
                return trouble(FaultKind::Uninitialised, lane, message);
            }
            if bytes == copy.bytes {
                for w in 0..bytes / 4 {
                    data[lane][w as usize] = allocation.load(offset + 4 * w, 4) as u32;
                }
            } else {
                for b in 0..bytes {
                    data[lane][(b / 4) as usize] |=
                        (allocation.load(offset + b, 1) as u32) << (b % 4 * 8);
                }
            }
        }
        if reads != 0 {
            let bytes: u64 = lanes_of(reads).map(|lane| given(self, lane)).sum();
            around.count(Way::Load, &from, &found, reads, copy.bytes);
            // Lanes may ask for less than the copy has.
            let asked = u64::from(reads.count_ones()) * copy.bytes;
            around.tally.global[Way::Load as usize].bytes -= asked - bytes;
            for lane in lanes_of(reads) {
                let buffer = &mut around.tally.buffers[found[lane] as usize][Way::Load as usize];
                buffer.bytes -= copy.bytes - given(self, lane);
            }
        }
        around.count_shared(&to, on, copy.bytes, Spread::of(&to, copy.bytes));
        for lane in lanes_of(on) {
            let who = self.who(lane, false);
            around
                .shared
                .begin_copy(to[lane], copy.bytes, who)
                .or_else(|fault| at_lane(lane, fault))?;
        }
        let mut left = on;
        while left != 0 {
            let group = self.copies.committed[left.trailing_zeros() as usize];
            let mask = lanes_of(left)
                .filter(|&i| self.copies.committed[i] == group)
                .fold(0, |m, i| m | 1 << i);
            left &= !mask;
            let words = (copy.bytes / 4) as usize;
            self.copies.flying.push(Flight {
                mask,
                group,
                words,
                to: to.map(|a| a as u32),
                data: data.clone(),
            });
        }
        Ok(())
    }

    /// All but the last `most` groups arrive; all there is for `u32::MAX`.
    pub(super) fn finish_copies(&mut self, around: &mut Around<'_>, on: u32, most: u32) {
        let mut flying = std::mem::take(&mut self.copies.flying);
        for flight in &mut flying {
            for lane in lanes_of(flight.mask & on) {
                let committed = self.copies.committed[lane];
                let arrives = most == u32::MAX || flight.group.saturating_add(most) < committed;
                if arrives {
                    let who = self.who(lane, false);
                    let data = &flight.data[lane][..flight.words];
                    around.shared.finish_copy(flight.to[lane].into(), data, who);
                    flight.mask &= !(1 << lane);
                }
            }
        }
        flying.retain(|flight| flight.mask != 0);
        self.copies.flying = flying;
    }
}
