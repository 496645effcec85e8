//! What the micro-kernels of all instruction sets have in common: the types of weights, the
//! copied block of `x`, and the loops around the tile.
//!
//! A function that uses an instruction set must say so by itself and cannot be generic over it,
//! hence a macro. A file that invokes it has `Row`, sixteen `f32` in registers, and functions
//! `zero`, `broadcast`, `load`, `store`, `weights` and `fma` on it.

/// Types of weights, as constants for generic functions.
pub const F32: usize = 0;
pub const F16: usize = 1;
pub const BF16: usize = 2;

/// Bytes of one weight.
pub const fn size(weights: usize) -> usize {
    if weights == F32 { 4 } else { 2 }
}

/// Columns of a panel.
pub const PANEL: usize = 16;

/// `k` of a block: a tile of 12 rows is 12 KiB, two panels of bf16 are 16 KiB.
pub const DEPTH: usize = 256;

/// Distance of rows in a [`Block`]: a cache line more than `DEPTH`, so that no two begin in one set.
pub const STRIDE: usize = DEPTH + 16;

/// `x` of up to `R` rows by [`DEPTH`].
#[repr(align(64))]
pub struct Block<const R: usize>(pub std::mem::MaybeUninit<[[f32; STRIDE]; R]>);

impl<const R: usize> Block<R> {
    pub fn new() -> Self {
        Block(std::mem::MaybeUninit::uninit())
    }

    /// Copy `depth` elements of each of `rows` rows; the address of the first.
    ///
    /// # Safety
    ///
    /// `x[r * x_row + j * x_k]` must be readable for all of them; `rows` at most `R`, `depth` at most `DEPTH`.
    pub unsafe fn fill(
        &mut self,
        x: *const f32,
        x_row: isize,
        x_k: isize,
        rows: usize,
        depth: usize,
    ) -> *const f32 {
        debug_assert!(rows <= R && depth <= DEPTH);
        let block: *mut f32 = self.0.as_mut_ptr().cast();
        for r in 0..rows {
            // SAFETY: within `R` rows of `STRIDE`, and the caller answers for `x`.
            unsafe {
                let (from, to) = (x.offset(r as isize * x_row), block.add(r * STRIDE));
                if x_k == 1 {
                    std::ptr::copy_nonoverlapping(from, to, depth);
                } else {
                    for j in 0..depth {
                        *to.add(j) = *from.offset(j as isize * x_k);
                    }
                }
            }
        }
        block
    }
}

/// `for r in 0..R`, written out: sums stay in registers only if each has a constant index from the start,
/// and the optimiser unrolls too late for the larger tiles. `R` is at most 12.
macro_rules! unrolled {
    (for $r:ident in 0..$rows:ident $body:block) => {
        unrolled!($r $rows $body 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    ($r:ident $rows:ident $body:block $($n:literal)*) => {
        $(if $n < $rows {
            let $r: usize = $n;
            $body
        })*
    };
}
pub(super) use unrolled;

/// The micro-kernels of an instruction set, as `TABLE`.
///
/// `tiles` lists the grids of accumulators, largest first: as many rows, by as many panels. Rows that are
/// left over by one go to the next, so the last must have one row.
macro_rules! micro_kernels {
    ($features:literal, most: $most:literal, tiles: [$(($rows:literal, $panels:literal)),*]) => {
        pub const TABLE: MicroTable = MicroTable {
            f32: Some(panel_dot::<F32>),
            f16: Some(panel_dot::<F16>),
            bf16: Some(panel_dot::<BF16>),
        };

        /// See [`crate::cpu::micro::PanelDot`].
        #[target_feature(enable = $features)]
        unsafe extern "sysv64" fn panel_dot<const W: usize>(
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
        ) {
            let [x_row, x_k, out_row] = [x_row, x_k, out_row].map(|s| s as isize);
            let w_panel = w_panel as isize * size(W) as isize;
            let [rows, panels, k] = [rows, panels, k].map(|n| n.max(0) as usize);
            // SAFETY: the caller answers for all elements that the strides and sizes reach; the loops
            // stay within those.
            unsafe {
                if rows == 1 && x_k == 1 {
                    return strip::<W, 1, ONE>(x, w, w_panel, out, out_row, panels, k, accumulate != 0);
                }
                let mut block = Block::<$most>::new();
                let mut begin = 0;
                loop {
                    let depth = DEPTH.min(k - begin);
                    let accumulate = accumulate != 0 || begin > 0;
                    let w = w.add(begin * PANEL * size(W));
                    let mut r = 0;
                    while r < rows {
                        let at = x.offset(r as isize * x_row + begin as isize * x_k);
                        let out = out.offset(r as isize * out_row);
                        let left = rows - r;
                        $(if left >= $rows {
                            let x = block.fill(at, x_row, x_k, $rows, depth);
                            strip::<W, $rows, $panels>(x, w, w_panel, out, out_row, panels, depth, accumulate);
                            r += $rows;
                            continue;
                        })*
                    }
                    begin += depth;
                    if begin == k {
                        return;
                    }
                }
            }
        }

        /// `R` rows by all panels, `P` of them at once.
        #[target_feature(enable = $features)]
        #[allow(clippy::too_many_arguments, reason = "those of the micro-kernel")]
        unsafe fn strip<const W: usize, const R: usize, const P: usize>(
            x: *const f32,
            w: *const u8,
            w_panel: isize,
            out: *mut f32,
            out_row: isize,
            panels: usize,
            k: usize,
            accumulate: bool,
        ) {
            let mut p = 0;
            // SAFETY: as for the caller, within `panels`.
            unsafe {
                while p + P <= panels {
                    let (w, out) = (w.offset(p as isize * w_panel), out.add(p * PANEL));
                    tile::<W, R, P>(x, w, w_panel, out, out_row, k, accumulate);
                    p += P;
                }
                while p < panels {
                    let (w, out) = (w.offset(p as isize * w_panel), out.add(p * PANEL));
                    // What is left is less than `P`: the larger ones are dead code for small tiles.
                    match panels - p {
                        4.. if P > 4 => {
                            tile::<W, R, 4>(x, w, w_panel, out, out_row, k, accumulate);
                            p += 4;
                        }
                        2.. if P > 2 => {
                            tile::<W, R, 2>(x, w, w_panel, out, out_row, k, accumulate);
                            p += 2;
                        }
                        _ => {
                            tile::<W, R, 1>(x, w, w_panel, out, out_row, k, accumulate);
                            p += 1;
                        }
                    }
                }
            }
        }

        /// `R` rows, `STRIDE` apart, by `P` panels, in registers.
        #[target_feature(enable = $features)]
        #[inline]
        unsafe fn tile<const W: usize, const R: usize, const P: usize>(
            x: *const f32,
            w: *const u8,
            w_panel: isize,
            out: *mut f32,
            out_row: isize,
            k: usize,
            accumulate: bool,
        ) {
            // SAFETY: as for the caller, within `R` rows and `P` panels.
            unsafe {
                let mut sums = [[zero(); P]; R];
                if accumulate {
                    unrolled!(for r in 0..R {
                        for p in 0..P {
                            sums[r][p] = load(out.offset(r as isize * out_row).add(p * PANEL));
                        }
                    });
                }
                let w: [*const u8; P] = std::array::from_fn(|p| w.offset(p as isize * w_panel));
                for j in 0..k {
                    let at = j * PANEL * size(W);
                    let mut row = [zero(); P];
                    for p in 0..P {
                        row[p] = weights::<W>(w[p].add(at));
                    }
                    unrolled!(for r in 0..R {
                        let x = broadcast(*x.add(r * STRIDE + j));
                        for p in 0..P {
                            sums[r][p] = fma(x, row[p], sums[r][p]);
                        }
                    });
                }
                unrolled!(for r in 0..R {
                    for p in 0..P {
                        store(out.offset(r as isize * out_row).add(p * PANEL), sums[r][p]);
                    }
                });
            }
        }
    };
}
pub(super) use micro_kernels;
