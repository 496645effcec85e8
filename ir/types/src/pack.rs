//! Packing: checkpoint tensors in, the bytes a kernel reads out.
//!
//! A packed weight is a matrix `[rows, cols]`. Its rows come from one or several
//! tensors, one after another; its elements are stored in the order of a [`Layout`].
//! Work is handed out in blocks of rows so that callers can pack in parallel.

use crate::DType;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Rows of a panel.
pub const PANEL: usize = 16;

/// The order of a packed matrix's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// `[rows][cols]`, as in the checkpoint.
    Rows,
    /// `[cols][rows]`.
    Columns,
    /// `[rows / 16][cols][16]`: sixteen rows side by side, so that one broadcast of `x[k]`
    /// serves a vector of outputs and no sum crosses lanes. Rows beyond the last are zero.
    Panels,
}

/// What happens to each element on the way, in `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    #[default]
    None,
    /// `1 + w`: the zero-centred RMSNorm weight (spec 5.1).
    AddOne,
    /// `-exp(w)`: from `A_log` to the decay rate (spec 8.2).
    NegExp,
}

/// A packed matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    pub rows: usize,
    pub cols: usize,
    pub dtype: DType,
    pub layout: Layout,
}

/// Some of its rows: `rows * cols` elements, or zeros.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    Tensor { bytes: &'a [u8], dtype: DType, transform: Transform, rows: usize },
    Zeros { rows: usize },
}

impl Source<'_> {
    pub fn rows(&self) -> usize {
        match *self {
            Source::Tensor { rows, .. } | Source::Zeros { rows } => rows,
        }
    }
}

impl Packed {
    /// Bytes of the packed matrix, padding included.
    pub fn bytes(&self) -> usize {
        let rows = match self.layout {
            Layout::Rows | Layout::Columns => self.rows,
            Layout::Panels => self.rows.next_multiple_of(PANEL),
        };
        rows * self.cols * self.dtype.size()
    }

    /// Rows that one block holds: blocks lie one after another in the packed bytes.
    pub fn block_rows(&self) -> usize {
        match self.layout {
            Layout::Rows => 1,
            Layout::Columns => self.rows.max(1),
            Layout::Panels => PANEL,
        }
    }

    /// Whether a single untransformed tensor of the same type is already packed.
    pub fn is_identity(&self, sources: &[Source<'_>]) -> bool {
        self.layout == Layout::Rows
            && matches!(sources, [Source::Tensor { dtype, transform: Transform::None, .. }]
                if *dtype == self.dtype)
    }

    /// Pack the blocks that hold `rows`, whose bounds are multiples of
    /// [`block_rows`](Self::block_rows) or the end. `out` is those blocks' bytes.
    ///
    /// Panics if the sources do not add up to the matrix or `out` has the wrong length.
    pub fn pack(&self, sources: &[Source<'_>], rows: Range<usize>, out: &mut [u8]) {
        let total: usize = sources.iter().map(Source::rows).sum();
        assert_eq!(total, self.rows, "sources make up the matrix");
        let size = self.dtype.size();
        let (height, first) = match self.layout {
            Layout::Columns => (self.rows, 0),
            Layout::Rows | Layout::Panels => (rows.len(), rows.start),
        };
        let padded = match self.layout {
            Layout::Panels => height.next_multiple_of(PANEL),
            Layout::Rows | Layout::Columns => height,
        };
        assert_eq!(out.len(), padded * self.cols * size, "out holds the blocks");
        if self.layout == Layout::Panels && rows.end == self.rows {
            out.fill(0);
        }
        let mut start = 0;
        for source in sources {
            let span = start.max(rows.start)..(start + source.rows()).min(rows.end);
            for row in span {
                let at = row - first;
                let (offset, stride) = match self.layout {
                    Layout::Rows => (at * self.cols, 1),
                    Layout::Columns => (at, self.rows),
                    Layout::Panels => (at / PANEL * PANEL * self.cols + at % PANEL, PANEL),
                };
                self.pack_row(*source, row - start, out, offset, stride);
            }
            start += source.rows();
        }
    }

    fn pack_row(&self, source: Source<'_>, row: usize, out: &mut [u8], at: usize, stride: usize) {
        let size = self.dtype.size();
        let step = stride * size;
        let out = &mut out[at * size..];
        let Source::Tensor { bytes, dtype, transform, .. } = source else {
            (0..self.cols).for_each(|c| out[c * step..c * step + size].fill(0));
            return;
        };
        let from = &bytes[row * self.cols * dtype.size()..][..self.cols * dtype.size()];
        if dtype == self.dtype && transform == Transform::None {
            match size {
                _ if stride == 1 => out[..from.len()].copy_from_slice(from),
                2 => scatter::<2>(from, out, step),
                4 => scatter::<4>(from, out, step),
                _ => unreachable!("elements are of 2 or 4 bytes"),
            }
            return;
        }
        for (c, element) in from.chunks_exact(dtype.size()).enumerate() {
            let v = dtype.read_f32(element);
            let v = match transform {
                Transform::None => v,
                Transform::AddOne => 1.0 + v,
                Transform::NegExp => -v.exp(),
            };
            self.dtype.write_f32(v, &mut out[c * step..]);
        }
    }
}

fn scatter<const N: usize>(from: &[u8], out: &mut [u8], step: usize) {
    for (element, slot) in from.chunks_exact(N).zip(out.chunks_mut(step)) {
        slot[..N].copy_from_slice(element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32s(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| DType::F32.read_f32(b)).collect()
    }

    fn tensor(rows: usize, cols: usize, from: f32) -> Vec<u8> {
        (0..rows * cols).flat_map(|i| (from + i as f32).to_le_bytes()).collect()
    }

    #[test]
    fn panels_interleave_sixteen_rows_and_end_in_zeros() {
        let (a, b) = (tensor(3, 2, 0.0), tensor(15, 2, 100.0));
        let sources = [(&a, 3), (&b, 15)].map(|(bytes, rows)| Source::Tensor {
            bytes,
            dtype: DType::F32,
            transform: Transform::None,
            rows,
        });
        let p = Packed { rows: 18, cols: 2, dtype: DType::F32, layout: Layout::Panels };
        let mut whole = vec![1; p.bytes()];
        p.pack(&sources, 0..18, &mut whole);
        let v = f32s(&whole);
        assert_eq!(v[..4], [0.0, 2.0, 4.0, 100.0]);
        assert_eq!(v[16..20], [1.0, 3.0, 5.0, 101.0]);
        assert_eq!(v[32..35], [126.0, 128.0, 0.0]);
        let mut halves = vec![1; p.bytes()];
        let (first, second) = halves.split_at_mut(16 * 2 * 4);
        p.pack(&sources, 0..16, first);
        p.pack(&sources, 16..18, second);
        assert_eq!(whole, halves);
    }

    #[test]
    fn columns_transpose_and_transforms_apply() {
        let a = tensor(2, 3, 0.0);
        let p = Packed { rows: 2, cols: 3, dtype: DType::F32, layout: Layout::Columns };
        let mut out = vec![0; p.bytes()];
        let source =
            Source::Tensor { bytes: &a, dtype: DType::F32, transform: Transform::AddOne, rows: 2 };
        p.pack(&[source], 0..2, &mut out);
        assert_eq!(f32s(&out), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
