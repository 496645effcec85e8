//! Micro-kernels: matrix products with more than Cranelift's 128 bits.
//!
//! `out[r, p, n] (+)= Σⱼ x[r, j] · w[p, j, n]`, `n` below 16: weights lie in panels of sixteen
//! columns, so that a broadcast of one `x` meets a vector of weights, no sum crosses lanes, and
//! the kernel is a grid of accumulators, rows by panels.
//!
//! Each sum is one chain of fused multiply-adds in ascending `j`, from zero or from `out`. How
//! rows and panels are tiled, and which instruction set did it, can therefore not be seen in the
//! result: to the bit it is what the evaluator of kernels says, and no row depends on another.
//!
//! - One row, as in decoding, waits for memory. Several panels at once make several chains, so
//!   that it does not wait for its own additions as well.
//! - Many rows, as in prefill, wait for multipliers. `k` is cut into blocks. Of each, the rows of
//!   a tile are copied to one place (`tiles::Block`), so that they lie in different sets of the first
//!   cache whatever the stride is, and at constant distances; the panels' weights stay in the
//!   second cache while tile after tile reads them. Between blocks, sums wait in `out`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::sync::OnceLock;

/// A micro-kernel. Strides are in elements; `w` holds the table entry's type; `accumulate` is 0
/// or 1. See `q35_kernel`'s `PanelDot` for which element lies where.
#[cfg(target_arch = "x86_64")]
pub type PanelDot = unsafe extern "sysv64" fn(
    x: *const f32,
    x_row: i64,
    x_k: i64,
    w: *const u8,
    w_panel: i64,
    out: *mut f32,
    out_row: i64,
    rows: i64,
    panels: i64,
    k: i64,
    accumulate: i64,
);
/// A micro-kernel; there are none for this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub type PanelDot = unsafe extern "C" fn();

/// Micro-kernels by the type of the weights, as kernels of the variant `native` look them up.
/// The layout is part of the calling convention in `code`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct MicroTable {
    pub f32: Option<PanelDot>,
    pub f16: Option<PanelDot>,
    pub bf16: Option<PanelDot>,
}

/// The best that this machine has; empty where the variant `native` is not chosen.
pub fn table() -> &'static MicroTable {
    static TABLE: OnceLock<MicroTable> = OnceLock::new();
    TABLE.get_or_init(|| available().last().map(|(_, table)| *table).unwrap_or_default())
}

/// Every table this machine can run, with the instruction set it uses, fastest last.
fn available() -> Vec<(&'static str, MicroTable)> {
    #[allow(unused_mut)]
    let mut tables = vec![];
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        if avx2 {
            tables.push(("avx2", avx2::TABLE));
        }
        if avx2 && is_x86_feature_detected!("avx512f") {
            tables.push(("avx512f", avx512::TABLE));
        }
    }
    tables
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
