//! Matrix products, by `mma.sync` of 16 x 8 sums and 16 products each.
//!
//! An accumulator is registers, four for each 16 x 8 tile. Lane `4 g + t` of a warp has, of rows `g` and `g + 8`, columns
//! `2 t` and `2 t + 1`. Operands are read from shared arrays by `ldmatrix`, for which each lane gives the address of one
//! row of eight elements, a multiple of 16 bytes: that is to be seen from index and stride.

use super::memory::{Address, vector, writing};
use super::{Elements, Lowering};
use crate::function::{Arg, Class, Function};
use q35_kernel::{Acc, Kernel, MMA_K, MMA_M, MMA_N, Mma, Place, Value};
use q35_types::DType;

/// The accumulators of a kernel, and what a lane's part in them follows from.
#[derive(Default)]
pub struct Matrices {
    /// Of each, its tiles row by row.
    tiles: Vec<Vec<Tile>>,
    lane: Option<Lane>,
}

#[derive(Clone, Copy)]
struct Tile {
    row: u32,
    column: u32,
    sums: [Arg; 4],
}

#[derive(Clone, Copy)]
struct Lane {
    /// `g` and `2 t`.
    group: Arg,
    pair: Arg,
    /// Row below 16 and column 0 or 8 of the eight elements that the lane points to.
    row: Arg,
    column: Arg,
    /// The same with row and column in another order: column of 8 first.
    row_across: Arg,
    column_across: Arg,
}

impl Matrices {
    pub fn new(f: &mut Function, kernel: &Kernel, lane: Arg) -> Result<Matrices, String> {
        if kernel.accumulators.is_empty() {
            return Ok(Matrices::default());
        }
        if kernel.subgroup != 32 {
            return Err(format!("`mma` by {} lanes, expected 32", kernel.subgroup));
        }
        let tiles = kernel.accumulators.iter().map(|acc| {
            let rows = (0..acc.m).step_by(MMA_M as usize);
            let all = rows.flat_map(|row| {
                (0..acc.n).step_by(MMA_N as usize).map(move |column| (row, column))
            });
            all.map(|(row, column)| {
                let sums = [(); 4].map(|()| f.fresh(Class::Word));
                Tile { row, column, sums }
            })
            .collect()
        });
        let tiles = tiles.collect();
        let [three, seven, eight] = [3, 7, 8].map(Arg::Int);
        let within = f.word("and.b32", &[lane, Arg::Int(31)]);
        let group = f.word("shr.u32", &[within, Arg::Int(2)]);
        let t = f.word("and.b32", &[within, three]);
        let pair = f.word("shl.b32", &[t, Arg::Int(1)]);
        let row = f.word("and.b32", &[within, Arg::Int(15)]);
        let half = f.word("shr.u32", &[within, Arg::Int(1)]);
        let column = f.word("and.b32", &[half, eight]);
        let low = f.word("and.b32", &[within, seven]);
        let row_across = f.word("or.b32", &[low, column]);
        let column_across = f.word("and.b32", &[within, eight]);
        let lane = Some(Lane { group, pair, row, column, row_across, column_across });
        Ok(Matrices { tiles, lane })
    }
}

impl Lowering<'_> {
    pub fn mma_zero(&mut self, acc: Acc) {
        for tile in self.tiles(acc) {
            for sum in tile.sums {
                self.f.copy(sum, Arg::Float(0));
            }
        }
    }

    pub fn mma_load(&mut self, acc: Acc, at: Place, row: Value) {
        let op = self.reading(at.mem);
        for (address, sums) in self.pairs_of(acc, at, row) {
            match self.is_even(at, row) {
                true => {
                    let (kind, list) = vector(&sums);
                    self.f.line(format_args!("{op}{kind}.b32 {list}, {address}"));
                }
                false => {
                    let next = address.plus(4);
                    self.f.line(format_args!("{op}.b32 {}, {address}", sums[0]));
                    self.f.line(format_args!("{op}.b32 {}, {next}", sums[1]));
                }
            }
        }
    }

    pub fn mma_store(&mut self, acc: Acc, at: Place, row: Value) {
        let op = writing(at.mem);
        for (address, sums) in self.pairs_of(acc, at, row) {
            match self.is_even(at, row) {
                true => {
                    let (kind, list) = vector(&sums);
                    self.f.line(format_args!("{op}{kind}.b32 {address}, {list}"));
                }
                false => {
                    let next = address.plus(4);
                    self.f.line(format_args!("{op}.b32 {address}, {}", sums[0]));
                    self.f.line(format_args!("{op}.b32 {next}, {}", sums[1]));
                }
            }
        }
    }

    /// All of `k`, a step of 16 after another, each operand read once.
    pub fn mma(&mut self, mma: &Mma) -> Result<(), String> {
        let dtype = self.kernel.dtype_of(mma.a.mem);
        let lane = self.lane();
        let a = self.rows(mma.a, mma.a_row, (lane.row, lane.column))?;
        let b = match mma.b_columns {
            true => self.rows(mma.b, mma.b_row, (lane.row_across, lane.column_across))?,
            false => self.rows(mma.b, mma.b_row, (lane.row, lane.column))?,
        };
        let transposed = if mma.b_columns { "" } else { ".trans" };
        let name = if dtype == DType::Bf16 { "bf16" } else { "f16" };
        let tiles = self.tiles(mma.acc);
        let shape = self.kernel.accumulators[mma.acc.0 as usize].clone();
        for k in (0..mma.k).step_by(MMA_K as usize) {
            let rows = (0..shape.m).step_by(MMA_M as usize);
            let left: Vec<Elements> = rows.map(|i| self.fragment(&a, (i, k), (4, ""))).collect();
            let mut right: Vec<Elements> = vec![];
            // Two tiles of columns at once, as long as there are two.
            for j in (0..shape.n).step_by(2 * MMA_N as usize) {
                let count = if j + MMA_N < shape.n { 4 } else { 2 };
                let corner = if mma.b_columns { (j, k) } else { (k, j) };
                let both = self.fragment(&b, corner, (count, transposed));
                right.extend(both.chunks(2).map(<[Arg]>::to_vec));
            }
            for tile in &tiles {
                let sums = vector(&tile.sums).1;
                let a = vector(&left[(tile.row / MMA_M) as usize]).1;
                let b = vector(&right[(tile.column / MMA_N) as usize]).1;
                self.f.line(format_args!(
                    "mma.sync.aligned.m16n8k16.row.col.f32.{name}.{name}.f32 {sums}, {a}, {b}, {sums}"
                ));
            }
        }
        Ok(())
    }

    fn tiles(&self, acc: Acc) -> Vec<Tile> {
        self.matrices.tiles[acc.0 as usize].clone()
    }

    fn lane(&self) -> Lane {
        self.matrices.lane.expect("there are accumulators")
    }

    /// `count` matrices of 8 x 8 from the one at a row and a column on.
    fn fragment(
        &mut self,
        of: &Rows,
        at: (u32, u32),
        (count, transposed): (u32, &str),
    ) -> Elements {
        let address = self.down(of, at.0).plus(at.1 * of.size);
        let to: Elements = (0..count).map(|_| self.f.fresh(Class::Word)).collect();
        let list = vector(&to).1;
        self.f.line(format_args!(
            "ldmatrix.sync.aligned.m8n8.x{count}{transposed}.shared.b16 {list}, {address}"
        ));
        to
    }

    /// Of an operand: what this lane points to.
    fn rows(&mut self, at: Place, row: Value, lane: (Arg, Arg)) -> Result<Rows, String> {
        let known = self.divisors.of(at.index).min(self.divisors.of(row));
        if known < 3 {
            return Err(format!(
                "rows of a matrix are not known to begin at multiples of 16 bytes: `{at:?}` and `{row:?}`"
            ));
        }
        Ok(self.matrix(at, row, lane))
    }

    /// The element of a matrix that is at a row and column which are the lane's.
    fn matrix(&mut self, at: Place, row: Value, (down, across): (Arg, Arg)) -> Rows {
        let size = self.kernel.dtype_of(at.mem).size() as u32;
        let stride = self.scalar(row);
        let mut index = self.f.word("mad.lo.s32", &[down, stride, across]);
        let sum = self.uses.sum(at.index);
        if let Some(root) = sum.root {
            let root = self.scalar(root);
            index = self.f.word("add.s32", &[index, root]);
        }
        let start = self.start(at.mem);
        let base = self.moved(start.base, index, size);
        Rows { first: Address { base, ..start }.plus(sum.plus * size), stride, size }
    }

    /// `by` rows further down.
    fn down(&mut self, of: &Rows, by: u32) -> Address {
        match of.stride {
            _ if by == 0 => of.first,
            Arg::Int(stride) => of.first.plus(by * stride as u32 * of.size),
            stride => {
                let further = self.f.word("mul.lo.s32", &[stride, Arg::Int(by as i32)]);
                let base = self.moved(of.first.base, further, of.size);
                Address { base, ..of.first }
            }
        }
    }

    /// Each two neighbouring sums of this lane, and where they are in memory.
    fn pairs_of(&mut self, acc: Acc, at: Place, row: Value) -> Vec<(Address, [Arg; 2])> {
        let lane = self.lane();
        let matrix = self.matrix(at, row, (lane.group, lane.pair));
        let mut pairs = vec![];
        for Tile { row, column, sums: [a, b, c, d] } in self.tiles(acc) {
            for (down, sums) in [(row, [a, b]), (row + 8, [c, d])] {
                pairs.push((self.down(&matrix, down).plus(column * matrix.size), sums));
            }
        }
        pairs
    }

    /// Whether each two neighbours begin at a multiple of their size.
    fn is_even(&self, at: Place, row: Value) -> bool {
        self.divisors.of(at.index).min(self.divisors.of(row)) > 0
    }
}

/// A matrix in memory: an element of it, which is the lane's, and elements from row to row.
struct Rows {
    first: Address,
    stride: Arg,
    size: u32,
}
