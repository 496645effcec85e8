//! Matrix products with a dense weight, what comes before them and what comes after.
//!
//! A task makes a few panels of sixteen outputs, for all rows. Rows come in tiles: the
//! panels are read from memory once and, for the later tiles, from the second-level cache, so a step reads
//! each weight once whatever its number of tokens.

use super::elementwise::{per_row, per_token};
use super::gpu::product::{Product, Scratch, TILE};
use super::panels::{Grid, Panels};
use super::step::Step;
use super::{Norm, PANEL, Template, letter, padded, row};
use q35_artifact::{Amount, Cost, Tasks, Times};
use q35_kernel::{Expr, KernelBuilder, Mem};
use q35_target::Caps;
use q35_types::{Count, DType, StepLayout};

/// `out = act(norm(x) · weightᵀ) + residual`, `weight` in panels.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// Columns of the result.
    pub n: u32,
    /// Columns of `x`.
    pub k: u32,
    pub x: DType,
    pub weight: DType,
    pub out: DType,
    /// RMSNorm of `x` first.
    pub norm: Option<Norm>,
    pub act: Act,
    pub residual: bool,
    /// What rows are counted by.
    pub rows: Count,
    /// Rows of a tile.
    pub tile: u32,
}

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Act {
    None,
    /// `silu(gate) · up`; the weight's rows are gate, and from `up` (a multiple of 16) on, up.
    SwiGlu {
        up: u32,
    },
}

impl Act {
    /// Panel of the second factor of a SwiGLU.
    pub(super) fn up_panel(self) -> Option<u32> {
        match self {
            Act::None => None,
            Act::SwiGlu { up } => Some(up / PANEL as u32),
        }
    }
}

impl Linear {
    fn grid(&self) -> Grid {
        Grid { n: self.n, k: self.k, weight: self.weight }
    }

    /// Whether a task of many lanes takes a tile of rows, not all of them.
    fn tiled(&self) -> bool {
        self.tile >= TILE
    }

    /// Panels of a task of many lanes that takes all rows: two weights at a time, so that of what it
    /// reads, the norm's own weight is little.
    fn task_panels(&self) -> u32 {
        if self.norm.is_some() && self.act == Act::None { 2 } else { 1 }
    }

    /// The first panel of such a task, and how many it has.
    pub(super) fn panels<'k>(&self, task: Expr<'k>) -> (Expr<'k>, u32) {
        (task * self.task_panels(), self.task_panels())
    }

    /// One task of many lanes.
    pub(super) fn on_lanes<'k>(
        &self,
        p: &Product<'k>,
        task: Expr<'k>,
        scratch: impl FnOnce() -> Scratch,
        residual: Option<Mem>,
        out: Mem,
    ) {
        let b = p.b;
        let source = |row: Expr<'k>| row * self.k;
        let put = |row: Expr<'k>, col: Expr<'k>, v: Expr<'k>, w: u8| {
            let to = row * self.n + col;
            let v = residual.map_or(v, |r| v + b.load_vec(r, to, w));
            b.store(out, to, v);
        };
        if self.tiled() {
            let columns = self.n.div_ceil(TILE);
            let (block, column) = (task / columns, task % columns);
            p.tile(block * TILE, column * (TILE / PANEL as u32), &source, &put);
        } else {
            p.split(scratch(), self.panels(task), &source, &|row, col, v| put(row, col, v, 1));
        }
    }

    pub(super) fn product<'k>(
        &self,
        b: &'k KernelBuilder,
        caps: &'k Caps,
        (x, norm, weight): (Mem, Option<Mem>, Mem),
        end: Expr<'k>,
    ) -> Product<'k> {
        Product {
            norm: norm.zip(self.norm),
            up: self.act.up_panel(),
            ..Product::new((b, caps), (x, weight), (self.n, self.k), (b.i(0), end))
        }
    }
}

impl Template for Linear {
    fn name(&self) -> String {
        let Linear { n, k, .. } = self;
        let types = [self.x, self.weight, self.out].map(letter);
        let mut name = format!("linear_{n}x{k}_{}", String::from_iter(types));
        if let Some(norm) = self.norm {
            name += &format!("_{}", norm.text());
        }
        if let Act::SwiGlu { .. } = self.act {
            name += "_swiglu";
        }
        if self.residual {
            name += "_add";
        }
        if self.rows == Count::Rows {
            name += "_rows";
        }
        format!("{name}_t{}", self.tile)
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let step = Step::new(b, layout);
        let x = b.input("x", self.x);
        let norm = self.norm.map(|n| b.input("norm", n.weight));
        let weight = b.input("weight", self.weight);
        let residual = self.residual.then(|| b.input("residual", self.out));
        let out = b.output("out", self.out);

        if caps.lanes > 1 {
            let product = self.product(b, caps, (x, norm, weight), step.count(self.rows));
            self.on_lanes(&product, b.task(), || Scratch::new(b, self.k), residual, out);
            return;
        }
        let norm = self.norm.zip(norm);
        let k = self.k as usize;
        let staged = norm.is_some() || self.x != DType::F32;
        let staging = staged.then(|| b.shared("rows", DType::F32, self.tile * self.k));
        let panels = Panels::new(b, self.grid(), self.act, self.tile, weight, b.task());
        let total = step.count(self.rows);
        b.range(0, total, self.tile, |t| {
            let rows = (total - t).min(self.tile);
            if let Some(staging) = staging {
                b.range(0, rows, 1, |r| {
                    let (from, to) = ((t + r) * k, r * k);
                    match norm {
                        None => row::copy(b, caps, k, (x, from), (staging, to)),
                        Some((norm, weight)) => {
                            let scale = row::inverse_rms(b, caps, k, norm.eps, (x, from));
                            row::each(b, caps, k, |i, w| {
                                let factor = norm.factor(b, weight, i, w);
                                let v = b.load_vec(x, from + i, w) * scale * factor;
                                b.store(staging, to + i, v);
                            });
                        }
                    }
                });
            }
            let x = staging.map_or_else(|| b.at(x, t * k), |s| b.at(s, 0));
            let store = |to, v: Expr<'_>| {
                let residual = residual.map(|r| b.load_vec(r, to, v.ty().width));
                b.store(out, to, residual.map_or(v, |r| v + r));
            };
            panels.multiply(x, rows, |r| (t + r) * self.n, store);
        });
    }

    fn tasks(&self, caps: &Caps) -> Tasks {
        match (caps.lanes, self.tiled()) {
            (1, _) => Tasks { each: self.grid().groups() as u32, times: Times::Once },
            (_, false) => Tasks {
                each: (self.grid().panels() as u32).div_ceil(self.task_panels()),
                times: Times::Once,
            },
            (_, true) => Tasks { each: self.n.div_ceil(TILE), times: Times::Step(Count::Blocks) },
        }
    }

    fn cost(&self, caps: &Caps) -> Cost {
        let parts = if self.act == Act::None { 1 } else { 2 };
        let amount = |n: usize| match self.rows {
            Count::Rows => per_row(n),
            _ => per_token(n),
        };
        let (n, k) = (self.n as usize, self.k as usize);
        let residual = if self.residual { n * self.out.size() } else { 0 };
        let once = |n: usize| Amount { once: n as f64, ..Amount::default() };
        let size = self.weight.size();
        let norm = self.norm.map_or(0, |n| n.bytes(k));
        let (weights, x_reads) = match (caps.lanes, self.tiled()) {
            (1, _) => (once(parts * n * k * size + norm), 1),
            // Every task reads the rows, and the norm's weight.
            (_, false) => {
                let tasks = self.tasks(caps).each as usize;
                let columns = tasks * self.task_panels() as usize * PANEL;
                (once(parts * columns * k * size + tasks * norm), tasks)
            }
            // The weight for every tile of rows, the rows for every tile of columns.
            (_, true) => {
                let matrix = parts * padded(self.n) * k * size;
                (per_token(matrix / TILE as usize), self.n.div_ceil(TILE) as usize)
            }
        };
        Cost {
            weights,
            activations_read: amount(x_reads * k * self.x.size() + residual),
            activations_written: amount(n * self.out.size()),
            flops: amount(2 * parts * n * k),
            ..Cost::default()
        }
    }
}
