//! Matrix products. No driver here has cooperative matrices, so modules are checked and not run.

use crate::harness::written;
use crate::validator::validate;
use q35_kernel::{Kernel, MmaArgs};
use q35_target::{Target, Variant};
use q35_target_spirv::Spirv;
use q35_types::DType;

const LANES: u32 = 128;

/// Each subgroup multiplies its 32 rows by 16 columns, `k` deep, in steps of 32.
fn product(variant: &Variant, dtype: DType, b_columns: bool, stride: u32) -> Kernel {
    written(variant, "product", LANES, |k| {
        let (x, out) = (k.input("x", DType::F32), k.state("out", DType::F32));
        let a = k.shared("a", dtype, 4 * 32 * 40);
        let b = k.shared("b", dtype, 32 * 40);
        let staged = k.shared("staged", DType::F32, 4 * 32 * 16);
        let acc = k.accumulator("acc", 32, 16);
        let subgroup = k.subgroup();
        k.mma_load(acc, k.at(out, k.task() * 2048 + subgroup * 512), 16);
        k.mma_zero(acc);
        k.range(0, 64, 32, |step| {
            k.store(a, k.lane() * 8, k.load_vec(x, step + k.lane() * 8, 8));
            k.store(b, k.lane() * 8, k.load_vec(x, k.lane() * 8, 8));
            k.barrier();
            k.mma(MmaArgs {
                acc,
                a: k.at(a, subgroup * 32 * 40),
                a_row: k.i(40),
                b: k.at(b, 0),
                b_row: k.i(stride as i32),
                b_columns,
                k: 32,
            });
            k.barrier();
        });
        k.mma_store(acc, k.at(staged, subgroup * 512), 16);
        k.barrier();
        k.store(out, k.task() * 2048 + k.lane(), k.load(staged, k.lane()));
        k.mma_store(acc, k.at(out, k.task() * 2048 + subgroup * 512), 16);
    })
}

#[test]
fn products_are_cooperative_matrices_where_there_are() {
    for dtype in [DType::F16, DType::Bf16] {
        for b_columns in [true, false] {
            for variant in Spirv::ALL.variants() {
                let kernel = product(variant, dtype, b_columns, 40);
                let code = Spirv::ALL.lower(variant, &kernel);
                if variant.caps.mma.is_none() {
                    let why = code.expect_err("there are no matrix units").why;
                    assert_eq!(why, "`mma`, but there are no matrix units");
                    continue;
                }
                let text = Spirv::ALL.listing(variant, &kernel).expect("a kernel");
                validate(&code.expect("a kernel"), || text.clone());
                // Two tiles of rows, two steps in depth.
                let count = |what| text.matches(what).count();
                assert_eq!(count("= OpCooperativeMatrixMulAddKHR"), 4);
                assert_eq!(count("OpCooperativeMatrixStoreKHR"), 4);
            }
        }
    }
}

#[test]
fn rows_that_may_begin_anywhere_are_refused() {
    for profile in [Spirv::DESKTOP, Spirv::DESKTOP_64] {
        let variant = profile.variants().last().expect("one with matrix units");
        let kernel = product(variant, DType::F16, true, 36);
        let why = profile.lower(variant, &kernel).expect_err("8 bytes").why;
        assert!(why.starts_with("rows of a matrix are not known to begin at"), "{why}");
    }
}
