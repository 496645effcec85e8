//! Against one chain of fused multiply-adds for each sum, to the bit.

use super::*;
use half::{bf16, f16};

struct Case {
    rows: usize,
    panels: usize,
    k: usize,
    x_row: usize,
    x_k: usize,
    /// Elements beyond the last, so that strides are not the sizes.
    pad: usize,
    accumulate: bool,
}

/// Numbers of many magnitudes, so that any other order of a sum shows.
fn noise(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let mantissa = ((*seed >> 40) as f32) / (1 << 23) as f32 - 1.0;
    mantissa * f32::powi(2.0, (*seed >> 33) as i32 % 8 - 4)
}

type Encode = fn(f32) -> Vec<u8>;
type Rounded = fn(f32) -> f32;

/// How each type is stored, and what it reads as.
const TYPES: [(&str, Encode, Rounded); 3] = [
    ("f32", |v| v.to_le_bytes().into(), |v| v),
    ("f16", |v| f16::from_f32(v).to_le_bytes().into(), |v| f16::from_f32(v).to_f32()),
    ("bf16", |v| bf16::from_f32(v).to_le_bytes().into(), |v| bf16::from_f32(v).to_f32()),
];

fn check(case: &Case) {
    let &Case { rows, panels, k, x_row, x_k, pad, accumulate } = case;
    let (w_panel, out_row) = (16 * k + pad, 16 * panels + pad);
    let mut seed = (rows * 1_000_003 + panels * 1009 + k) as u64;
    let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| noise(&mut seed)).collect() };
    let x = numbers(rows * x_row + k * x_k + 1);
    let w = numbers(panels * w_panel);
    let before = numbers(rows * out_row + 16);
    for (isa, table) in available() {
        for (which, (name, encode, rounded)) in TYPES.iter().enumerate() {
            let kernel =
                [table.f32, table.f16, table.bf16][which].expect("a micro-kernel of each type");
            let bytes: Vec<u8> = w.iter().flat_map(|v| encode(*v)).collect();
            let mut out = before.clone();
            // SAFETY: the buffers above are as large as the strides and sizes say.
            unsafe {
                kernel(
                    x.as_ptr(),
                    x_row as i64,
                    x_k as i64,
                    bytes.as_ptr(),
                    w_panel as i64,
                    out.as_mut_ptr(),
                    out_row as i64,
                    rows as i64,
                    panels as i64,
                    k as i64,
                    i64::from(accumulate),
                );
            }
            let mut expected = before.clone();
            for r in 0..rows {
                for column in 0..16 * panels {
                    let (p, n) = (column / 16, column % 16);
                    let sum = &mut expected[r * out_row + column];
                    let start = if accumulate { *sum } else { 0.0 };
                    *sum = (0..k).fold(start, |sum, j| {
                        x[r * x_row + j * x_k].mul_add(rounded(w[p * w_panel + 16 * j + n]), sum)
                    });
                }
            }
            for (i, (found, expected)) in out.iter().zip(&expected).enumerate() {
                assert_eq!(
                    found.to_bits(),
                    expected.to_bits(),
                    "{isa} {name} rows {rows} panels {panels} k {k} x {x_row},{x_k} pad {pad} + {accumulate}: \
                     element {i} is {found}, expected {expected}"
                );
            }
        }
    }
}

#[test]
fn every_tiling_gives_the_chain_of_the_definition() {
    for rows in 0..=40 {
        for panels in [1, 2, 3, 5] {
            for k in [0, 1, 3, 31] {
                let accumulate = (rows + panels + k) % 2 == 0;
                check(&Case { rows, panels, k, x_row: k + 5, x_k: 1, pad: 8, accumulate });
            }
        }
    }
}

#[test]
fn blocks_of_k_do_not_show() {
    for rows in [1, 2, 3, 7, 13, 25] {
        for k in [255, 256, 257, 300, 512, 513] {
            for panels in [1, 4, 9] {
                check(&Case {
                    rows,
                    panels,
                    k,
                    x_row: k,
                    x_k: 1,
                    pad: 0,
                    accumulate: rows % 2 == 0,
                });
            }
        }
    }
}

#[test]
fn x_may_lie_by_columns() {
    for rows in [1, 2, 11, 40] {
        for k in [1, 100, 300] {
            for accumulate in [false, true] {
                check(&Case { rows, panels: 3, k, x_row: 1, x_k: 48, pad: 3, accumulate });
            }
        }
    }
}

#[test]
fn f16_weights_of_every_kind_are_widened_exactly() {
    // One panel, one row, k = 1: the weights themselves come out.
    for (isa, table) in available() {
        let kernel = table.f16.expect("a micro-kernel");
        for first in (0..=u16::MAX).step_by(16) {
            let bits: Vec<u16> = (first..=first + 15).collect();
            let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
            let mut out = [0.0f32; 16];
            // SAFETY: one row of one element, one panel of sixteen weights, sixteen sums.
            unsafe { kernel(&1.0, 1, 1, bytes.as_ptr(), 16, out.as_mut_ptr(), 16, 1, 1, 1, 0) };
            for (bits, found) in bits.into_iter().zip(out) {
                let expected = 1.0f32.mul_add(f16::from_bits(bits).to_f32(), 0.0);
                let same =
                    found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
                assert!(same, "{isa}: {bits:#06x} is {found}, expected {expected}");
            }
        }
    }
}
