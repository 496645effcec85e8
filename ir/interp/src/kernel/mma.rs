//! Matrix instructions: what a subgroup does as one.

use super::exec::{Machine, Mask, Stop, at};
use super::fault::{Accessor, Cause};
use super::memory::Access;
use super::program::{Mma, Place, Program, Slot};
use std::cell::Cell;

/// The accumulators of all subgroups, one subgroup after another.
pub(super) struct Sums {
    words: Vec<f32>,
    /// Of each subgroup and accumulator, whether this task has set it.
    set: Vec<bool>,
}

impl Sums {
    pub(super) fn new(program: &Program) -> Sums {
        let subgroups = program.lanes / program.subgroup;
        Sums {
            words: vec![0.0; subgroups * program.accumulated],
            set: vec![false; subgroups * program.accumulators.len()],
        }
    }

    pub(super) fn begin_task(&mut self) {
        self.set.fill(false);
    }
}

impl Machine<'_, '_> {
    pub(super) fn mma_zero(&mut self, acc: usize, mask: &Mask) {
        for subgroup in self.subgroups(mask) {
            *self.is_set(subgroup, acc) = true;
            self.sums(subgroup, acc).fill(0.0);
        }
    }

    pub(super) fn mma(&mut self, mma: &Mma, mask: &Mask) -> Result<(), Stop> {
        let program = self.program;
        let (m, n, k) = (program.accumulators[mma.acc].m, program.accumulators[mma.acc].n, mma.k);
        for subgroup in self.subgroups(mask) {
            let lane = subgroup * program.subgroup;
            self.spend((m * n * k) as u64, mask)?;
            self.expect_set(subgroup, mma.acc)?;
            let stride = |slot: Slot| i64::from(self.int(slot, lane));
            let a_row = stride(mma.a_row);
            let [b_row, b_column] = [mma.b_row, mma.b_column].map(|s| s.map_or(1, stride));
            let a = self.matrix(&mma.a, subgroup, [m, k], [a_row, 1])?;
            let b = self.matrix(&mma.b, subgroup, [k, n], [b_row, b_column])?;
            let sums = self.sums(subgroup, mma.acc);
            for (sums, a) in sums.chunks_exact_mut(n).zip(a.chunks_exact(k)) {
                for (a, b) in a.iter().zip(b.chunks_exact(n)) {
                    sums.iter_mut().zip(b).for_each(|(sum, b)| *sum = a.mul_add(*b, *sum));
                }
            }
            self.counters.mma_flops += 2 * (m * n * k) as u64;
        }
        Ok(())
    }

    pub(super) fn mma_load(
        &mut self,
        acc: usize,
        from: &Place,
        row: Slot,
        mask: &Mask,
    ) -> Result<(), Stop> {
        let program = self.program;
        let (m, n) = (program.accumulators[acc].m, program.accumulators[acc].n);
        for subgroup in self.subgroups(mask) {
            self.spend((m * n) as u64, mask)?;
            let row = i64::from(self.int(row, subgroup * program.subgroup));
            let matrix = self.matrix(from, subgroup, [m, n], [row, 1])?;
            self.sums(subgroup, acc).copy_from_slice(&matrix);
            *self.is_set(subgroup, acc) = true;
        }
        Ok(())
    }

    pub(super) fn mma_store(
        &mut self,
        acc: usize,
        to: &Place,
        row: Slot,
        mask: &Mask,
    ) -> Result<(), Stop> {
        let program = self.program;
        let (m, n) = (program.accumulators[acc].m, program.accumulators[acc].n);
        for subgroup in self.subgroups(mask) {
            let lane = subgroup * program.subgroup;
            self.spend((m * n) as u64, mask)?;
            self.expect_set(subgroup, acc)?;
            let row = i64::from(self.int(row, lane));
            for i in 0..m {
                let access = self.by_subgroup(to, i as i64 * row, subgroup);
                let words = &self.sums(subgroup, acc)[i * n..][..n];
                let words: Vec<Cell<u32>> = words.iter().map(|v| Cell::new(v.to_bits())).collect();
                self.memories.write(&access, &words).map_err(|cause| at(lane, cause))?;
            }
            self.count(to, 0, (m * n * to.dtype.size()) as u64);
        }
        Ok(())
    }

    /// Row by row, whatever order they are in.
    fn matrix(
        &mut self,
        place: &Place,
        subgroup: usize,
        [rows, columns]: [usize; 2],
        [row, column]: [i64; 2],
    ) -> Result<Vec<f32>, Stop> {
        let lane = subgroup * self.program.subgroup;
        let element = [const { Cell::new(0) }];
        let mut matrix = Vec::with_capacity(rows * columns);
        for i in 0..rows as i64 {
            for j in 0..columns as i64 {
                let access = self.by_subgroup(place, i * row + j * column, subgroup);
                self.memories.read(&access, &element).map_err(|cause| at(lane, cause))?;
                matrix.push(f32::from_bits(element[0].get()));
            }
        }
        self.count(place, (rows * columns * place.dtype.size()) as u64, 0);
        Ok(matrix)
    }

    /// An access at `offset` from `place`, by all lanes of a subgroup.
    fn by_subgroup(&self, place: &Place, offset: i64, subgroup: usize) -> Access {
        let lane = subgroup * self.program.subgroup;
        let index = i64::from(self.int(place.index, lane)) + offset;
        let access = self.access(place, index, lane);
        match self.program.subgroup {
            1 => access,
            _ => Access { by: Accessor::Subgroup(subgroup as u32), ..access },
        }
    }

    /// The subgroups that take part.
    fn subgroups(&self, mask: &Mask) -> Vec<usize> {
        let lanes = mask.lanes.chunks(self.program.subgroup).enumerate();
        let active = lanes.filter(|(_, on)| {
            assert!(on.iter().all(|&lane| lane == on[0]), "verified: control is uniform");
            on[0]
        });
        active.map(|(number, _)| number).collect()
    }

    fn expect_set(&mut self, subgroup: usize, acc: usize) -> Result<(), Stop> {
        match *self.is_set(subgroup, acc) {
            true => Ok(()),
            false => {
                let accumulator = self.program.accumulators[acc].name.clone();
                Err(at(subgroup * self.program.subgroup, Cause::Unset { accumulator }))
            }
        }
    }

    fn is_set(&mut self, subgroup: usize, acc: usize) -> &mut bool {
        &mut self.sums.set[subgroup * self.program.accumulators.len() + acc]
    }

    fn sums(&mut self, subgroup: usize, acc: usize) -> &mut [f32] {
        let program = self.program;
        let of = &program.accumulators[acc];
        &mut self.sums.words[subgroup * program.accumulated + of.base..][..of.m * of.n]
    }
}
