//! Matrix products. Of small integers no sum is ever rounded, so that their order does not show.

use crate::harness::*;
use q35_kernel::{Expr, KernelBuilder, MmaArgs};
use q35_target::Target;
use q35_target_ptx::Ptx;
use q35_types::DType;

const LANES: u32 = 128;
/// How deep products are, in two steps.
const DEPTH: u32 = 64;
const STEP: u32 = 32;

fn small(len: usize) -> Vec<f32> {
    let mut random = Random(3);
    (0..len).map(|_| random.below(17) as f32 - 8.0).collect()
}

/// Each subgroup adds the product of `m` rows of its own by `n` columns to what `out` holds. Strides are of the
/// staged `a` and `b`.
#[derive(Clone, Copy)]
struct Product {
    dtype: DType,
    m: u32,
    n: u32,
    b_columns: bool,
    a_row: u32,
    b_row: u32,
    /// Whether the strides are to be seen in the code.
    known: bool,
    out_row: u32,
}

impl Product {
    fn write(self, k: &KernelBuilder) {
        let Product { dtype, m, n, b_columns, a_row, b_row, known, out_row } = self;
        let [x, w] = ["x", "w"].map(|name| k.input(name, dtype));
        let out = k.state("out", DType::F32);
        let subgroups = LANES / 32;
        let a = k.shared("a", dtype, subgroups * m * a_row);
        let b = k.shared("b", dtype, STEP.max(n) * b_row);
        let staged = k.shared("staged", DType::F32, subgroups * m * out_row);
        let acc = k.accumulator("acc", m, n);
        let subgroup = k.subgroup();
        let zero = if known { k.i(0) } else { k.task() / 1000 * 8 };
        let stride = |row: u32| zero + row as i32;
        let out_at = k.task() * (subgroups * m * out_row) + subgroup * (m * out_row);
        k.mma_load(acc, k.at(out, out_at), stride(out_row));
        k.range(0, DEPTH, STEP, |step| {
            let all = subgroups * m * STEP;
            k.range(k.lane(), all, LANES, |i| {
                let (row, column) = (i / STEP, i % STEP);
                k.store(a, row * a_row + column, k.load(x, row * DEPTH + step + column));
            });
            k.range(k.lane(), STEP * n, LANES, |i| {
                let (down, column) = (i / n, i % n);
                let at = if b_columns { column * b_row + down } else { down * b_row + column };
                k.store(b, at, k.load(w, (step + down) * n + column));
            });
            k.barrier();
            k.mma(MmaArgs {
                acc,
                a: k.at(a, subgroup * (m * a_row)),
                a_row: stride(a_row),
                b: k.at(b, 0),
                b_row: stride(b_row),
                b_columns,
                k: STEP,
            });
            k.barrier();
        });
        k.mma_store(acc, k.at(staged, subgroup * (m * out_row)), stride(out_row));
        k.barrier();
        let all = subgroups * m * out_row;
        k.range(k.lane(), all, LANES, |i: Expr<'_>| {
            k.when((i % out_row).lt(n as i32), || {
                let to = k.task() * all + i;
                k.store(out, to, k.load(staged, i) + 1.0);
            });
        });
        k.barrier();
        k.mma_zero(acc);
        // Rows of the accumulator, where another task's are not.
        k.when(k.task().lt(0), || k.mma_store(acc, k.at(out, 0), out_row as i32));
    }

    fn data(self) -> [Data; 3] {
        let rows = LANES / 32 * self.m;
        [
            Data::of(self.dtype, &small((rows * DEPTH) as usize)),
            Data::of(self.dtype, &small((DEPTH * self.n) as usize)),
            Data::f32(&small((2 * rows * self.out_row) as usize)),
        ]
    }
}

#[test]
fn products_of_both_types_and_layouts() {
    for dtype in [DType::F16, DType::Bf16] {
        for b_columns in [true, false] {
            for (m, n) in [(16, 8u32), (16, 16), (32, 24), (32, 32)] {
                for known in [true, false] {
                    let b_row = if b_columns { STEP + 8 } else { n.next_multiple_of(8) + 8 };
                    let (a_row, out_row) = (STEP + 8, if known { n + 4 } else { n + 1 });
                    let product = Product { dtype, m, n, b_columns, a_row, b_row, known, out_row };
                    agree("product", LANES, 2, &product.data(), EXACT, |k| product.write(k));
                }
            }
        }
    }
}

#[test]
fn rows_that_may_begin_anywhere_are_refused() {
    let product = Product {
        dtype: DType::Bf16,
        m: 16,
        n: 8,
        b_columns: true,
        a_row: 36,
        b_row: 40,
        known: true,
        out_row: 8,
    };
    let kernel = written(sm_80(), "product", LANES, |k| product.write(k));
    let why = Ptx::SM_80.lower(sm_80(), &kernel).expect_err("8 bytes").why;
    assert!(why.starts_with("rows of a matrix are not known to begin at"), "{why}");
}
