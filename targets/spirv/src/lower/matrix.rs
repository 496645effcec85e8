//! Matrix products, as cooperative matrices.
//!
//! An accumulator is a list of variables, one for each tile of the machine's shape: what a driver
//! keeps of one in which lane it does not say, so they are read and written whole. Operands are
//! read from shared arrays, whose words hold two elements each. Vulkan wants every row of a tile to
//! begin at a multiple of 16 bytes, and that is to be seen from index and stride.

use super::Lowering;
use crate::module::{Kind, Matrix, Module, Use};
use q35_kernel::{Acc, Kernel, Mma, Place, Value};
use q35_target::Mma as Tile;
use q35_types::DType;
use rspirv::spirv::{Capability, CooperativeMatrixLayout, Op, StorageClass, Word};

/// The accumulators of a kernel, each as the variables of its tiles, row by row.
#[derive(Default)]
pub struct Matrices {
    tiles: Vec<Vec<Word>>,
}

/// Where a tile lies: a word of it, words from row to row, and which of rows or columns those are.
struct Layout {
    at: Word,
    stride: Word,
    order: CooperativeMatrixLayout,
    align: Option<u32>,
    common: bool,
}

impl Matrices {
    /// Variables come before all else in a function.
    pub fn new(m: &mut Module, kernel: &Kernel, tile: Option<Tile>) -> Result<Matrices, String> {
        if kernel.accumulators.is_empty() {
            return Ok(Matrices::default());
        }
        let Tile { m: rows, n: columns, .. } =
            tile.ok_or("`mma`, but there are no matrix units")?;
        m.require(Capability::CooperativeMatrixKHR);
        m.extension("SPV_KHR_cooperative_matrix");
        let mut tiles = vec![];
        for acc in &kernel.accumulators {
            if !acc.m.is_multiple_of(rows) || !acc.n.is_multiple_of(columns) {
                return Err(format!(
                    "accumulator `{}` is {} x {}, expected multiples of {rows} x {columns}",
                    acc.name, acc.m, acc.n
                ));
            }
            let ty = m.matrix(sums(rows, columns));
            let count = (acc.m / rows) * (acc.n / columns);
            tiles.push((0..count).map(|_| m.local(ty, &acc.name)).collect());
        }
        Ok(Matrices { tiles })
    }
}

fn sums(rows: u32, columns: u32) -> Matrix {
    Matrix { element: DType::F32, rows, columns, used: Use::Sums }
}

impl Lowering<'_> {
    pub fn mma_zero(&mut self, acc: Acc) {
        let tile = self.tile();
        let zero = self.m.f32(0.0);
        let zeros = self.m.filled(sums(tile.m, tile.n), zero);
        for variable in self.matrices.tiles[acc.0 as usize].clone() {
            self.m.store(variable, zeros, None, false);
        }
    }

    pub fn mma_load(&mut self, acc: Acc, at: Place, row: Value) -> Result<(), String> {
        let tile = self.tile();
        let ty = self.m.matrix(sums(tile.m, tile.n));
        for (i, j, variable) in self.tiles_of(acc) {
            let layout = self.layout(at, row, (i, j), false)?;
            let loaded = self.m.load_matrix(ty, layout.place(), layout.align, layout.common);
            self.m.store(variable, loaded, None, false);
        }
        Ok(())
    }

    pub fn mma_store(&mut self, acc: Acc, at: Place, row: Value) -> Result<(), String> {
        let tile = self.tile();
        let ty = self.m.matrix(sums(tile.m, tile.n));
        for (i, j, variable) in self.tiles_of(acc) {
            let layout = self.layout(at, row, (i, j), false)?;
            let value = self.m.load(ty, variable, None, false);
            self.m.store_matrix(value, layout.place(), layout.align, layout.common);
        }
        Ok(())
    }

    /// All of `k` into one row of tiles after another, a tile of `b` read once for each.
    pub fn mma(&mut self, mma: &Mma) -> Result<(), String> {
        let tile = self.tile();
        if !mma.k.is_multiple_of(tile.k) {
            return Err(format!("{} products a sum, expected a multiple of {}", mma.k, tile.k));
        }
        let element = self.kernel.dtype_of(mma.a.mem);
        let left = Matrix { element, rows: tile.m, columns: tile.k, used: Use::Left };
        let right = Matrix { element, rows: tile.k, columns: tile.n, used: Use::Right };
        let [left, right] = [left, right].map(|matrix| self.m.matrix(matrix));
        let sums = self.m.matrix(sums(tile.m, tile.n));
        let tiles = self.tiles_of(mma.acc);
        let shape = self.kernel.accumulators[mma.acc.0 as usize].clone();
        for step in 0..mma.k / tile.k {
            let k = step * tile.k;
            let mut operands = [vec![], vec![]];
            for i in (0..shape.m).step_by(tile.m as usize) {
                let layout = self.layout(mma.a, mma.a_row, (i, k), false)?;
                operands[0].push(self.m.load_matrix(
                    left,
                    layout.place(),
                    layout.align,
                    layout.common,
                ));
            }
            for j in (0..shape.n).step_by(tile.n as usize) {
                let layout = self.layout(mma.b, mma.b_row, (k, j), mma.b_columns)?;
                operands[1].push(self.m.load_matrix(
                    right,
                    layout.place(),
                    layout.align,
                    layout.common,
                ));
            }
            for &(i, j, variable) in &tiles {
                let (a, b) =
                    (operands[0][(i / tile.m) as usize], operands[1][(j / tile.n) as usize]);
                let before = self.m.load(sums, variable, None, false);
                let after = self.m.typed(Op::CooperativeMatrixMulAddKHR, sums, &[a, b, before]);
                self.m.store(variable, after, None, false);
            }
        }
        Ok(())
    }

    fn tile(&self) -> Tile {
        self.profile.caps.mma.expect("checked with the accumulators")
    }

    /// First row, first column and variable of each tile.
    fn tiles_of(&self, acc: Acc) -> Vec<(u32, u32, Word)> {
        let tile = self.tile();
        let columns = self.kernel.accumulators[acc.0 as usize].n / tile.n;
        let all = (0..).zip(&self.matrices.tiles[acc.0 as usize]);
        all.map(|(i, v)| (i / columns * tile.m, i % columns * tile.n, *v)).collect()
    }

    /// The tile whose first element is at row `i` and column `j`.
    fn layout(
        &mut self,
        place: Place,
        row: Value,
        (i, j): (u32, u32),
        columns: bool,
    ) -> Result<Layout, String> {
        let size = self.kernel.dtype_of(place.mem).size() as u32;
        let aligned = (16 / size).trailing_zeros() as u8;
        let known = [place.index, row].map(|v| self.divisors.of(v)).into_iter().min();
        if known < Some(aligned) {
            return Err(format!(
                "rows of a matrix are not known to begin at multiples of 16 bytes: `{place:?}` and `{row:?}`"
            ));
        }
        let (major, minor) = if columns { (j, i) } else { (i, j) };
        let [major, minor] = [major, minor].map(|v| self.m.u32(v));
        let (index, row) = (self.scalar(place.index), self.scalar(row));
        let down = self.m.op(Op::IMul, (Kind::U32, 1), &[row, major]);
        let index = self.m.op(Op::IAdd, (Kind::U32, 1), &[index, down]);
        let index = self.m.op(Op::IAdd, (Kind::U32, 1), &[index, minor]);
        let halves = |l: &mut Self, v| if size == 2 { l.half_of(v) } else { v };
        let (index, stride) = (halves(self, index), halves(self, row));
        let site = self.site(place.mem);
        Ok(Layout {
            at: self.word(site, index, 1),
            stride,
            order: match columns {
                true => CooperativeMatrixLayout::ColumnMajorKHR,
                false => CooperativeMatrixLayout::RowMajorKHR,
            },
            align: (site.class != StorageClass::Workgroup).then_some(16),
            common: site.common,
        })
    }
}

impl Layout {
    fn place(&self) -> (Word, CooperativeMatrixLayout, Word) {
        (self.at, self.order, self.stride)
    }
}
