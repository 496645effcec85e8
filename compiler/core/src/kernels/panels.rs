//! A few panels of a weight against tiles of rows, on one lane.

use super::{Act, PANEL};
use q35_kernel::{Expr, KernelBuilder, Mem, PanelArgs, Place};
use q35_types::DType;

/// Sizes of a product, and how its columns are shared out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Columns of the result and of `x`.
    pub n: u32,
    pub k: u32,
    pub weight: DType,
}

impl Grid {
    pub fn panels(&self) -> usize {
        (self.n as usize).div_ceil(PANEL)
    }

    /// Panels of a task: enough independent sums to keep a core busy with one row, few enough that they
    /// stay in its cache, and enough tasks for many cores.
    pub fn group(&self) -> usize {
        let cached = (256 << 10) / (PANEL * self.k as usize * self.weight.size()).max(1);
        let spread = self.panels() / 32;
        cached.min(spread).clamp(2, 4)
    }

    pub fn groups(&self) -> usize {
        self.panels().div_ceil(self.group())
    }
}

/// One task's panels.
pub struct Panels<'k> {
    b: &'k KernelBuilder,
    grid: Grid,
    weight: Mem,
    /// Number of the first, and how many there are.
    first: Expr<'k>,
    panels: Expr<'k>,
    sums: Mem,
    /// Sums of the second factor of a SwiGLU, and the panel at which its weight begins.
    ups: Option<(Mem, usize)>,
}

impl<'k> Panels<'k> {
    /// The panels of group `group`, for tiles of up to `tile` rows.
    pub fn new(
        b: &'k KernelBuilder,
        grid: Grid,
        act: Act,
        tile: u32,
        weight: Mem,
        group: Expr<'k>,
    ) -> Self {
        let shared = |name| b.shared(name, DType::F32, tile * (grid.group() * PANEL) as u32);
        let sums = shared("sums");
        let ups = match act {
            Act::None => None,
            Act::SwiGlu { up } => Some((shared("ups"), up as usize / PANEL)),
        };
        let first = group * grid.group();
        let panels = (b.n(grid.panels()) - first).min(grid.group());
        Panels { b, grid, weight, first, panels, sums, ups }
    }

    /// `rows` rows of f32 that lie one after another from `x` on. `row(r)` says where the result of row r begins, and
    /// `store(index, value)` puts it there.
    pub fn multiply(
        &self,
        x: Place,
        rows: Expr<'k>,
        row: impl Fn(Expr<'k>) -> Expr<'k>,
        store: impl Fn(Expr<'k>, Expr<'k>),
    ) {
        let (b, n) = (self.b, self.grid.n);
        let row_len = self.grid.group() * PANEL;
        self.dot(x, rows, self.sums, self.first);
        if let Some((ups, up)) = self.ups {
            self.dot(x, rows, ups, self.first + up);
        }
        b.range(0, rows, 1, |r| {
            let row = row(r);
            b.range(0, self.panels, 1, |p| {
                let from = r * row_len + p * PANEL;
                let col = (self.first + p) * PANEL;
                let finish = |i: Expr<'k>, w: u8| {
                    let v = b.load_vec(self.sums, from + i, w);
                    let v = match self.ups {
                        None => v,
                        Some((ups, _)) => v.silu() * b.load_vec(ups, from + i, w),
                    };
                    store(row + col + i, v);
                };
                if (n as usize).is_multiple_of(PANEL) {
                    finish(b.i(0), PANEL as u8);
                } else {
                    b.when_else(
                        (col + PANEL).le(n as i32),
                        || finish(b.i(0), PANEL as u8),
                        || b.range(0, b.i(n as i32) - col, 1, |i| finish(i, 1)),
                    );
                }
            });
        });
    }

    fn dot(&self, x: Place, rows: Expr<'k>, into: Mem, panel: Expr<'k>) {
        let (b, k) = (self.b, self.grid.k as usize);
        b.panel_dot(PanelArgs {
            x,
            x_row: b.n(k),
            x_k: b.i(1),
            w: b.at(self.weight, panel * (k * PANEL)),
            w_panel: b.n(k * PANEL),
            out: b.at(into, 0),
            out_row: b.n(self.grid.group() * PANEL),
            rows,
            panels: self.panels,
            k: b.n(k),
            accumulate: false,
        });
    }
}
