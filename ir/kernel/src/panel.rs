//! The matrix product of a CPU: [`PanelDot`] as one instruction where the target has a
//! micro-kernel for it, as loops otherwise.

use crate::builder::KernelBuilder;
use crate::expr::{Expr, Operand};
use crate::inst::*;

/// Where a `panel_dot` reads and writes; see [`PanelDot`] for what each stride means.
pub struct PanelArgs<'k> {
    pub x: Place,
    pub x_row: Expr<'k>,
    pub x_k: Expr<'k>,
    pub w: Place,
    pub w_panel: Expr<'k>,
    pub out: Place,
    pub out_row: Expr<'k>,
    pub rows: Expr<'k>,
    pub panels: Expr<'k>,
    pub k: Expr<'k>,
    pub accumulate: bool,
}

impl KernelBuilder {
    /// `out[r, p, :] (+)= Σⱼ x[r, j] · w[p, j, :]`; see [`Inst::PanelDot`].
    pub fn panel_dot<'k>(&'k self, a: PanelArgs<'k>) {
        if self.machine().panel_dot {
            let inst = Inst::PanelDot(PanelDot {
                x: a.x,
                x_row: a.x_row.value,
                x_k: a.x_k.value,
                w: a.w,
                w_panel: a.w_panel.value,
                out: a.out,
                out_row: a.out_row.value,
                rows: a.rows.value,
                panels: a.panels.value,
                k: a.k.value,
                accumulate: a.accumulate,
            });
            self.push(Stmt { results: vec![], inst });
            return;
        }
        // Two rows by sixteen columns keep eight 128-bit sums, four weights and a broadcast in
        // sixteen registers; a weight is widened once for both.
        let pairs = a.rows - a.rows % 2;
        self.range(0, a.panels, 1, |p| {
            self.range(0, pairs, 2, |r| self.panel_rows::<2>(&a, p, r));
            self.range(pairs, a.rows, 1, |r| self.panel_rows::<1>(&a, p, r));
        });
    }

    fn panel_rows<'k, const N: usize>(&'k self, a: &PanelArgs<'k>, p: Expr<'k>, r: Expr<'k>) {
        let index = |place: Place| Expr { k: self, value: place.index };
        let x: [Expr; N] = std::array::from_fn(|i| index(a.x) + (r + i) * a.x_row);
        let out: [Expr; N] = std::array::from_fn(|i| index(a.out) + (r + i) * a.out_row + p * 16);
        let w = index(a.w) + p * a.w_panel;
        let init = out.map(|at| match a.accumulate {
            true => self.load_vec(a.out.mem, at, 16),
            false => 0.0f32.operand(self).splat(16),
        });
        let sums = self.fold(0, a.k, 1, init, |j, sums| {
            let weights = self.load_vec(a.w.mem, w + j * 16, 16);
            std::array::from_fn(|i| {
                let v = self.load(a.x.mem, x[i] + j * a.x_k);
                self.mul_add(v, weights, sums[i])
            })
        });
        for i in 0..N {
            self.store(a.out.mem, out[i], sums[i]);
        }
    }
}
