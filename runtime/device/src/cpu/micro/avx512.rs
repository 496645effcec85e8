//! AVX-512F: a row of a panel is one register, of 32.

use super::MicroTable;
use super::tiles::{BF16, Block, DEPTH, F16, F32, PANEL, STRIDE, micro_kernels, size, unrolled};
use std::arch::x86_64::*;

type Row = __m512;

/// Panels at once for a single row.
const ONE: usize = 8;

// 24 sums, two rows of weights, a broadcast; fewer rows leave room for more panels.
micro_kernels!("avx512f", most: 12, tiles: [(12, 2), (8, 2), (4, 4), (2, 8), (1, 8)]);

#[target_feature(enable = "avx512f")]
#[inline]
fn zero() -> Row {
    _mm512_setzero_ps()
}

#[target_feature(enable = "avx512f")]
#[inline]
fn broadcast(x: f32) -> Row {
    _mm512_set1_ps(x)
}

#[target_feature(enable = "avx512f")]
#[inline]
fn fma(a: Row, b: Row, c: Row) -> Row {
    _mm512_fmadd_ps(a, b, c)
}

/// # Safety
///
/// `from` points at sixteen elements.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load(from: *const f32) -> Row {
    // SAFETY: the caller's.
    unsafe { _mm512_loadu_ps(from) }
}

/// # Safety
///
/// `to` points at sixteen elements.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn store(to: *mut f32, row: Row) {
    // SAFETY: the caller's.
    unsafe { _mm512_storeu_ps(to, row) }
}

/// Sixteen weights, widened.
///
/// # Safety
///
/// `from` points at sixteen weights.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn weights<const W: usize>(from: *const u8) -> Row {
    // SAFETY: the caller's.
    unsafe {
        match W {
            F32 => _mm512_loadu_ps(from.cast()),
            F16 => _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
            BF16 => {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
            _ => unreachable!("a type of weights"),
        }
    }
}
