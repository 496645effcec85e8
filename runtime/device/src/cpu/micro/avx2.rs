//! AVX2, FMA and F16C: a row of a panel is two registers, of 16.

use super::MicroTable;
use super::tiles::{BF16, Block, DEPTH, F16, F32, PANEL, STRIDE, micro_kernels, size, unrolled};
use std::arch::x86_64::*;

type Row = [__m256; 2];

/// Panels at once for a single row.
const ONE: usize = 4;

// Twelve sums, two registers of weights, a broadcast.
micro_kernels!("avx2,fma,f16c", most: 6, tiles: [(6, 1), (4, 1), (2, 2), (1, 4)]);

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn zero() -> Row {
    [_mm256_setzero_ps(); 2]
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn broadcast(x: f32) -> Row {
    [_mm256_set1_ps(x); 2]
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn fma(a: Row, b: Row, c: Row) -> Row {
    [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
}

/// # Safety
///
/// `from` points at sixteen elements.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn load(from: *const f32) -> Row {
    // SAFETY: the caller's.
    unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
}

/// # Safety
///
/// `to` points at sixteen elements.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn store(to: *mut f32, row: Row) {
    // SAFETY: the caller's.
    unsafe {
        _mm256_storeu_ps(to, row[0]);
        _mm256_storeu_ps(to.add(8), row[1]);
    }
}

/// Sixteen weights, widened.
///
/// # Safety
///
/// `from` points at sixteen weights.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
unsafe fn weights<const W: usize>(from: *const u8) -> Row {
    // SAFETY: the caller's.
    unsafe {
        let eight = |i: usize| _mm_loadu_si128(from.cast::<__m128i>().add(i));
        match W {
            F32 => load(from.cast()),
            F16 => [_mm256_cvtph_ps(eight(0)), _mm256_cvtph_ps(eight(1))],
            BF16 => [0, 1].map(|i| {
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(eight(i))))
            }),
            _ => unreachable!("a type of weights"),
        }
    }
}
