//! Matrix products with a dense weight, what comes before them and what comes after.
//!
//! A task makes a few panels of sixteen outputs, for all rows. Rows come in tiles: the
//! panels are read from memory once and, for the later tiles, from the second-level cache, so a step reads
//! each weight once whatever its number of tokens.

use super::elementwise::{per_row, per_token};
use super::gpu::product::{Product, TILE};
use super::step::Step;
use super::{PANEL, Template, letter, row};
use q35_artifact::{Amount, Cost, Tasks, Times};
use q35_kernel::{Expr, KernelBuilder, Mem, PanelArgs};
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
    /// RMSNorm of `x` first, with this eps.
    pub norm: Option<f32>,
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

impl Linear {
    fn panels(&self) -> usize {
        (self.n as usize).div_ceil(PANEL)
    }

    /// Whether a task of many lanes takes a tile of rows, not all of them.
    fn tiled(&self) -> bool {
        self.tile >= TILE
    }

    fn up_panel(&self) -> Option<u32> {
        match self.act {
            Act::None => None,
            Act::SwiGlu { up } => Some(up / PANEL as u32),
        }
    }

    fn on_lanes<'k>(&self, p: &Product<'k>, residual: Option<Mem>, out: Mem) {
        let b = p.b;
        let source = |row: Expr<'k>| row * self.k;
        let put = |row: Expr<'k>, col: Expr<'k>, v: Expr<'k>, w: u8| {
            let to = row * self.n + col;
            let v = residual.map_or(v, |r| v + b.load_vec(r, to, w));
            b.store(out, to, v);
        };
        if self.tiled() {
            let columns = self.n.div_ceil(TILE);
            let (block, column) = (b.task() / columns, b.task() % columns);
            p.tile(block * TILE, column * (TILE / PANEL as u32), &source, &put);
        } else {
            p.split(b.task(), &source, &|row, col, v| put(row, col, v, 1));
        }
    }

    /// Panels of a task: enough independent sums to keep a core busy with one row, few enough that they
    /// stay in its cache, and enough tasks for many cores.
    fn group(&self) -> usize {
        group(self.n, self.k, self.weight)
    }
}

pub(super) fn group(n: u32, k: u32, weight: DType) -> usize {
    let cached = (256 << 10) / (PANEL * k as usize * weight.size()).max(1);
    let spread = (n as usize).div_ceil(PANEL) / 32;
    cached.min(spread).clamp(2, 4)
}

impl Template for Linear {
    fn name(&self) -> String {
        let Linear { n, k, .. } = self;
        let types = [self.x, self.weight, self.out].map(letter);
        let mut name = format!("linear_{n}x{k}_{}", String::from_iter(types));
        if self.norm.is_some() {
            name += "_norm";
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
        let norm = self.norm.map(|eps| (eps, b.input("norm", DType::F32)));
        let weight = b.input("weight", self.weight);
        let residual = self.residual.then(|| b.input("residual", self.out));
        let out = b.output("out", self.out);

        if caps.lanes > 1 {
            let total = step.count(self.rows);
            let product = Product {
                b,
                caps,
                x,
                weight,
                n: self.n,
                k: self.k,
                norm: norm.map(|(eps, weight)| (weight, eps)),
                up: self.up_panel(),
                begin: b.i(0),
                end: total,
            };
            self.on_lanes(&product, residual, out);
            return;
        }
        let (k, group, tile) = (self.k as usize, self.group(), self.tile as usize);
        let row_len = group * PANEL;
        let staged = norm.is_some() || self.x != DType::F32;
        let staging = staged.then(|| b.shared("rows", DType::F32, (tile * k) as u32));
        let sums = b.shared("sums", DType::F32, (tile * row_len) as u32);
        let ups = match self.act {
            Act::None => None,
            Act::SwiGlu { up } => Some((b.shared("ups", DType::F32, (tile * row_len) as u32), up)),
        };

        let first = b.task() * group;
        let panels = (b.n(self.panels()) - first).min(group);
        let total = step.count(self.rows);
        b.range(0, total, self.tile, |t| {
            let rows = (total - t).min(self.tile);
            if let Some(staging) = staging {
                b.range(0, rows, 1, |r| {
                    let (from, to) = ((t + r) * k, r * k);
                    match norm {
                        None => row::copy(b, caps, k, (x, from), (staging, to)),
                        Some((eps, norm)) => {
                            let scale = row::inverse_rms(b, caps, k, eps, (x, from));
                            row::each(b, caps, k, |i, w| {
                                let v = b.load_vec(x, from + i, w) * scale * b.load_vec(norm, i, w);
                                b.store(staging, to + i, v);
                            });
                        }
                    }
                });
            }
            let dot = |into: Mem, panel: Expr<'_>| {
                b.panel_dot(PanelArgs {
                    x: staging.map_or_else(|| b.at(x, t * k), |s| b.at(s, 0)),
                    x_row: b.n(k),
                    x_k: b.i(1),
                    w: b.at(weight, panel * (k * PANEL)),
                    w_panel: b.n(k * PANEL),
                    out: b.at(into, 0),
                    out_row: b.n(row_len),
                    rows,
                    panels,
                    k: b.n(k),
                    accumulate: false,
                });
            };
            dot(sums, first);
            if let Some((ups, up)) = ups {
                dot(ups, first + up as usize / PANEL);
            }
            b.range(0, rows, 1, |r| {
                b.range(0, panels, 1, |p| {
                    let from = r * row_len + p * PANEL;
                    let col = (first + p) * PANEL;
                    let to = (t + r) * self.n + col;
                    let finish = |i: Expr<'_>, w: u8| {
                        let mut v = b.load_vec(sums, from + i, w);
                        if let Some((ups, _)) = ups {
                            v = v.silu() * b.load_vec(ups, from + i, w);
                        }
                        if let Some(residual) = residual {
                            v = v + b.load_vec(residual, to + i, w);
                        }
                        b.store(out, to + i, v);
                    };
                    store_panel(b, self.n, col, finish);
                });
            });
        });
    }

    fn tasks(&self, caps: &Caps) -> Tasks {
        match (caps.lanes, self.tiled()) {
            (1, _) => {
                Tasks { each: self.panels().div_ceil(self.group()) as u32, times: Times::Once }
            }
            (_, false) => Tasks { each: self.panels() as u32, times: Times::Once },
            (_, true) => Tasks { each: self.n.div_ceil(TILE), times: Times::Step(Count::Blocks) },
        }
    }

    fn cost(&self) -> Cost {
        let parts = if self.act == Act::None { 1 } else { 2 };
        let amount = |n: usize| match self.rows {
            Count::Rows => per_row(n),
            _ => per_token(n),
        };
        let (n, k) = (self.n as usize, self.k as usize);
        let read = k * self.x.size() + if self.residual { n * self.out.size() } else { 0 };
        let weights = parts * n * k * self.weight.size() + self.norm.map_or(0, |_| k * 4);
        Cost {
            weights: Amount { once: weights as f64, ..Amount::default() },
            activations_read: amount(read),
            activations_written: amount(n * self.out.size()),
            flops: amount(2 * parts * n * k),
            ..Cost::default()
        }
    }
}

/// `finish(index, width)` for the columns of a panel that begins at column `col` of `n`.
pub(super) fn store_panel<'k>(
    b: &'k KernelBuilder,
    n: u32,
    col: Expr<'k>,
    finish: impl Fn(Expr<'k>, u8),
) {
    if (n as usize).is_multiple_of(PANEL) {
        finish(b.i(0), PANEL as u8);
    } else {
        b.when_else(
            (col + PANEL).le(n as i32),
            || finish(b.i(0), PANEL as u8),
            || b.range(0, b.i(n as i32) - col, 1, |i| finish(i, 1)),
        );
    }
}
