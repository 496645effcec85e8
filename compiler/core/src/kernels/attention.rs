//! Attention over pages, with a running maximum and sum, so that no matrix of scores is ever whole.
//!
//! ```text
//! for each page:  scores = scale · q · Kᵀ      64 columns, masked beyond the row's position
//!                 m' = max(m, scores)          acc, l ← exp(m − m') · (acc, l)
//!                 p = exp(scores − m')         acc, l ← acc + p · V, l + Σp
//! out = acc / l · sigmoid(gate)
//! ```
//!
//! In `prefill` the rows are the tokens of a tile, one query head a task. In `decode` they are the query
//! heads that share a KV head, so that its cache is read once; a long sequence is split into runs of pages,
//! a task each, whose results [`AttendCombine`](super::AttendCombine) joins. Pages and splits count from position 0.

use super::elementwise::per_token;
use super::gpu::LANES;
use super::gpu::attention::{self, ROWS, Sight, attend};
use super::gpu::attention_mma;
use super::page::Pages;
use super::step::Step;
use super::{PANEL, Template, letter, padded, row};
use q35_artifact::{Amount, Cost, Tasks, Times};
use q35_kernel::{Expr, KernelBuilder, Mem, PanelArgs};
use q35_target::Caps;
use q35_types::step::PAGE;
use q35_types::{Count, DType, StepLayout};

/// What the kernels of attention have in common; see [`q35_graph::Op::GatedAttention`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    pub heads: u32,
    pub pages: Pages,
    pub x_cols: u32,
    /// Column of the first head's gate.
    pub gate: u32,
    pub scale: f32,
    pub dtype: DType,
    pub kv: DType,
}

/// How long sequences are shared out in `decode`: runs of pages that count from position 0, short ones
/// first, so that a sequence of some thousand tokens has many, then long ones, so that the longest has not
/// too many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Split {
    /// Pages of a short split, and how many of those there are.
    pub(super) short: u32,
    shorts: u32,
    /// Pages of a long split.
    long: u32,
    /// Splits of the longest sequence.
    pub splits: u32,
}

impl Split {
    /// Splits of a long sequence that are long.
    const LONGS: u32 = 64;

    /// A page a short split keeps a GPU's many units busy; a machine with few has less to join.
    pub fn of(max_pages: u32, lanes: u32) -> Split {
        let (short, shorts) = if lanes > 1 { (1, 128) } else { (4, 64) };
        let rest = max_pages.saturating_sub(short * shorts);
        let long = rest.div_ceil(Self::LONGS).max(1);
        let splits = max_pages.div_ceil(short).min(shorts) + rest.div_ceil(long);
        Split { short, shorts, long, splits }
    }

    /// The first page of split `number`.
    pub fn first<'k>(&self, number: Expr<'k>) -> Expr<'k> {
        let beyond = (number - self.shorts as i32).max(0);
        number.min(self.shorts as i32) * self.short + beyond * self.long
    }

    /// Splits of a sequence of so many pages.
    pub fn used<'k>(&self, pages: Expr<'k>) -> Expr<'k> {
        let most = (self.short * self.shorts) as i32;
        let short = (pages.min(most) + (self.short as i32 - 1)) / self.short;
        short + ((pages - most).max(0) + (self.long as i32 - 1)) / self.long
    }

    /// Bytes of every split of a sequence, the last included, which is not full.
    pub(super) fn each(&self, bytes: f64) -> Amount {
        let tokens = f64::from(self.short * PAGE);
        Amount { per_seq: bytes, per_context: bytes / tokens, ..Amount::default() }
    }

    pub(super) fn text(&self) -> String {
        format!("{}x{}x{}", self.splits, self.short, self.long)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct AttendPrefill(pub Heads);

#[derive(Debug, Clone, PartialEq)]
pub struct AttendSplit(pub Heads, pub Split);

impl Heads {
    pub(super) fn group(&self) -> u32 {
        self.heads / self.pages.kv_heads
    }

    pub(super) fn wide(&self) -> usize {
        padded(self.pages.width)
    }

    pub(super) fn q_cols(&self) -> u32 {
        self.heads * self.pages.width
    }

    pub(super) fn text(&self) -> String {
        let Heads { heads, pages: Pages { kv_heads, width }, x_cols, .. } = self;
        let types = [self.dtype, self.kv].map(letter);
        format!("{heads}_{kv_heads}_{width}_{x_cols}_{}", String::from_iter(types))
    }

    /// Floats of one head's part of one split: the accumulator, the maximum, the sum.
    fn partial(&self) -> usize {
        self.wide() + PANEL
    }

    /// Bytes of the buffer between [`AttendSplit`] and [`AttendCombine`](super::AttendCombine).
    pub fn partial_bytes(&self, split: Split, max_seqs: u32) -> u64 {
        (self.partial() * 4) as u64 * u64::from(self.heads * split.splits * max_seqs)
    }

    /// `out = value · sigmoid(gate)` for one head of one token, `value(column, width)`.
    pub(super) fn finish<'k>(
        &self,
        b: &'k KernelBuilder,
        caps: &Caps,
        (x, out): (Mem, Mem),
        (token, head): (Expr<'k>, Expr<'k>),
        value: impl Fn(Expr<'k>, u8) -> Expr<'k>,
    ) {
        let width = self.pages.width;
        let gate = token * self.x_cols + self.gate + head * (2 * width);
        let to = token * self.q_cols() + head * width;
        row::each(b, caps, width as usize, |i, w| {
            b.store(out, to + i, value(i, w) * b.load_vec(x, gate + i, w).sigmoid());
        });
    }

    fn cost(&self, kv_reads: f64) -> Cost {
        let width = self.pages.width as usize;
        let q = self.q_cols() as usize * self.dtype.size();
        let kv = 2 * self.pages.kv_heads as usize * width * self.kv.size();
        Cost {
            state: Amount { per_context: kv as f64 * kv_reads, ..Amount::default() },
            activations_read: per_token(2 * q),
            activations_written: per_token(q),
            flops: Amount { per_context: (4 * self.q_cols()) as f64, ..Amount::default() },
            ..Cost::default()
        }
    }
}

/// Up to `rows` queries against pages of one sequence and KV head.
struct Attend<'k> {
    b: &'k KernelBuilder,
    caps: &'k Caps,
    h: Heads,
    keys: Mem,
    values: Mem,
    scores: Mem,
    acc: Mem,
    m: Mem,
    l: Mem,
    /// 0, 1, .. 15
    columns: Mem,
}

/// Which queries, and what they may see.
pub(super) struct Queries<'k> {
    pub q: (Mem, Expr<'k>),
    pub q_row: Expr<'k>,
    pub rows: Expr<'k>,
    /// Position of the first row, and what each further row adds.
    pub pos: Expr<'k>,
    pub pos_step: i32,
    pub seq: Expr<'k>,
    pub kv_head: Expr<'k>,
    /// Positions that have keys.
    pub context: Expr<'k>,
}

impl<'k> Attend<'k> {
    fn new(
        b: &'k KernelBuilder,
        caps: &'k Caps,
        h: Heads,
        keys: Mem,
        values: Mem,
        rows: u32,
    ) -> Self {
        let shared = |name, len| b.shared(name, DType::F32, len);
        let columns = b.shared("columns", DType::I32, PANEL as u32);
        b.range(0, PANEL, 1, |i| b.store(columns, i, i));
        Attend {
            b,
            caps,
            h,
            keys,
            values,
            scores: shared("scores", rows * PAGE),
            acc: shared("acc", rows * h.wide() as u32),
            m: shared("m", rows),
            l: shared("l", rows),
            columns,
        }
    }

    /// Leaves `acc`, `m` and `l` of the pages `first..end`.
    fn run(&self, step: &Step<'k>, q: &Queries<'k>, first: Expr<'k>, end: Expr<'k>) {
        let (b, h, wide) = (self.b, self.h, self.h.wide());
        b.range(0, q.rows, 1, |r| {
            b.store(self.m, r, b.f(f32::NEG_INFINITY));
            b.store(self.l, r, b.f(0.0));
            row::each(b, self.caps, wide, |i, w| {
                b.store(self.acc, r * wide + i, b.f(0.0).splat(w))
            });
        });
        b.range(first, end, 1, |n| {
            let page = step.page(q.seq, n);
            let filled = (q.context - n * PAGE).min(PAGE as i32);
            b.panel_dot(PanelArgs {
                x: b.at(q.q.0, q.q.1),
                x_row: q.q_row,
                x_k: b.i(1),
                w: b.at(self.keys, h.pages.keys(page, q.kv_head)),
                w_panel: b.n(PANEL * h.pages.width as usize),
                out: b.at(self.scores, 0),
                out_row: b.i(PAGE as i32),
                rows: q.rows,
                panels: b.n(PAGE as usize / PANEL),
                k: b.i(h.pages.width as i32),
                accumulate: false,
            });
            b.range(0, q.rows, 1, |r| {
                let limit = q.pos + r * q.pos_step - n * PAGE;
                self.softmax(r, limit);
            });
            b.panel_dot(PanelArgs {
                x: b.at(self.scores, 0),
                x_row: b.i(PAGE as i32),
                x_k: b.i(1),
                w: b.at(self.values, h.pages.values(page, q.kv_head)),
                w_panel: b.n(PANEL * PAGE as usize),
                out: b.at(self.acc, 0),
                out_row: b.n(wide),
                rows: q.rows,
                panels: b.n(wide / PANEL),
                k: filled,
                accumulate: true,
            });
        });
    }

    /// One row of scores to probabilities, columns beyond `limit` masked.
    fn softmax(&self, r: Expr<'k>, limit: Expr<'k>) {
        let (b, wide) = (self.b, self.h.wide());
        let at = |j: usize| r * PAGE + j * PANEL;
        let parts = 0..PAGE as usize / PANEL;
        let masked: Vec<Expr> = parts
            .clone()
            .map(|j| {
                let column = b.load_vec(self.columns, 0, PANEL as u8) + (j * PANEL) as i32;
                let score = b.load_vec(self.scores, at(j), PANEL as u8) * self.h.scale;
                column.le(limit).select(score, f32::NEG_INFINITY)
            })
            .collect();
        let highest = masked.iter().copied().reduce(|a, b| a.max(b)).expect("a page").largest();
        let old = b.load(self.m, r);
        let new = old.max(highest);
        let factor = (old - new).exp();
        let weights: Vec<Expr> = masked.iter().map(|&s| (s - new).exp()).collect();
        for (j, &p) in parts.zip(&weights) {
            b.store(self.scores, at(j), p);
        }
        let sum = weights.into_iter().reduce(|a, b| a + b).expect("a page").sum();
        b.store(self.m, r, new);
        b.store(self.l, r, b.load(self.l, r) * factor + sum);
        row::each(b, self.caps, wide, |i, w| {
            b.store(self.acc, r * wide + i, b.load_vec(self.acc, r * wide + i, w) * factor);
        });
    }
}

impl Template for AttendPrefill {
    fn name(&self) -> String {
        format!("attend_prefill_{}", self.0.text())
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let h = self.0;
        let step = Step::new(b, layout);
        let q = b.input("q", h.dtype);
        let x = b.input("x", h.dtype);
        let keys = b.input("keys", h.kv);
        let values = b.input("values", h.kv);
        let out = b.output("out", h.dtype);
        if caps.lanes > 1 {
            h.prefill_on_lanes(b, caps, &step, [q, x, keys, values, out]);
            return;
        }
        let attend = Attend::new(b, caps, h, keys, values, PAGE);
        let width = h.pages.width;

        let (tile, head) = (step.tile(b.task() / h.heads), b.task() % h.heads);
        let from = tile.token * h.q_cols() + head * width;
        let (q, q_row) = if h.dtype == DType::F32 {
            ((q, from), b.n(h.q_cols() as usize))
        } else {
            let rows = b.shared("rows", DType::F32, PAGE * width);
            b.range(0, tile.len, 1, |r| {
                row::copy(b, caps, width as usize, (q, from + r * h.q_cols()), (rows, r * width));
            });
            ((rows, b.i(0)), b.n(width as usize))
        };
        let queries = Queries {
            q,
            q_row,
            rows: tile.len,
            pos: tile.pos,
            pos_step: 1,
            seq: tile.seq,
            kv_head: head / h.group(),
            context: tile.pos + tile.len,
        };
        attend.run(&step, &queries, b.i(0), tile.pos / PAGE + 1);
        b.range(0, tile.len, 1, |r| {
            let l = b.load(attend.l, r);
            h.finish(b, caps, (x, out), (tile.token + r, head), |i, w| {
                b.load_vec(attend.acc, r * h.wide() + i, w) / l
            });
        });
    }

    fn tasks(&self, caps: &Caps) -> Tasks {
        let blocks = if caps.lanes > 1 { PAGE / ROWS } else { 1 };
        Tasks { each: self.0.heads * blocks, times: Times::Step(Count::Tiles) }
    }

    fn cost(&self, caps: &Caps) -> Cost {
        // A page is read by each query head of its group, for the tokens of a tile or, on lanes, of a
        // block together.
        let together = if caps.lanes == 1 { PAGE } else { ROWS };
        self.0.cost(f64::from(self.0.group()) / f64::from(together))
    }
}

impl Template for AttendSplit {
    fn name(&self) -> String {
        format!("attend_split_{}_{}", self.0.text(), self.1.text())
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let (h, split) = (self.0, self.1);
        let step = Step::new(b, layout);
        let q = b.input("q", h.dtype);
        let keys = b.input("keys", h.kv);
        let values = b.input("values", h.kv);
        let partial = b.output("partial", DType::F32);
        if caps.lanes > 1 {
            h.split_on_lanes(b, &step, split, [q, keys, values, partial]);
            return;
        }
        let group = h.group();
        let attend = Attend::new(b, caps, h, keys, values, group);
        let width = h.pages.width;

        let each = h.pages.kv_heads * split.splits;
        let (seq, rest) = (b.task() / each, b.task() % each);
        let (kv_head, number) = (rest / split.splits, rest % split.splits);
        let tile = step.tile_of_seq(seq);
        let first = split.first(number);
        let end = split.first(number + 1).min(tile.pos / PAGE + 1);
        b.when(first.lt(end), || {
            let from = (tile.token * h.heads + kv_head * group) * width;
            let q = if h.dtype == DType::F32 {
                (q, from)
            } else {
                let rows = b.shared("rows", DType::F32, group * width);
                row::copy(b, caps, (group * width) as usize, (q, from), (rows, b.i(0)));
                (rows, b.i(0))
            };
            let queries = Queries {
                q,
                q_row: b.n(width as usize),
                rows: b.n(group as usize),
                pos: tile.pos,
                pos_step: 0,
                seq,
                kv_head,
                context: tile.pos + 1,
            };
            attend.run(&step, &queries, first, end);
            b.range(0, group, 1, |r| {
                let to = partial_at(&h, split, seq, kv_head * group + r, number);
                row::copy(b, caps, h.wide(), (attend.acc, r * h.wide()), (partial, to));
                b.store(partial, to + h.wide(), b.load(attend.m, r));
                b.store(partial, to + h.wide() + 1, b.load(attend.l, r));
            });
        });
    }

    fn tasks(&self, caps: &Caps) -> Tasks {
        let each = self.0.pages.kv_heads * self.0.row_blocks(caps) * self.1.splits;
        Tasks { each, times: Times::Step(Count::Seqs) }
    }

    fn cost(&self, _: &Caps) -> Cost {
        let part = (self.0.heads as usize * (self.0.wide() + 2) * 4) as f64;
        Cost {
            activations_read: self.1.each(self.0.q_cols() as f64 * self.0.dtype.size() as f64),
            activations_written: self.1.each(part),
            ..self.0.cost(1.0)
        }
    }
}

/// Where a split leaves a head's part.
pub(super) fn partial_at<'k>(
    h: &Heads,
    split: Split,
    seq: Expr<'k>,
    head: Expr<'k>,
    number: Expr<'k>,
) -> Expr<'k> {
    ((seq * h.heads + head) * split.splits + number) * h.partial()
}

/// The same on many lanes: blocks of sixteen queries.
impl Heads {
    /// Blocks that the query heads of a KV head make.
    fn row_blocks(&self, caps: &Caps) -> u32 {
        if caps.lanes > 1 { self.group().div_ceil(ROWS) } else { 1 }
    }

    /// `rows` of sixteen queries, scaled; those that are not there repeat the last.
    fn stage<'k>(
        &self,
        b: &'k KernelBuilder,
        (q, from): (Mem, Expr<'k>),
        row_len: u32,
        rows: Expr<'k>,
    ) -> attention::Queries {
        let width = self.pages.width;
        let staged = attention::Queries::new(b, ROWS, width);
        b.range(0, ROWS, 1, |r| {
            let row = from + r.min(rows - 1) * row_len;
            b.range(b.lane(), width, LANES, |c| {
                b.store(staged.mem, staged.at(r, c), b.load(q, row + c) * self.scale);
            });
        });
        b.barrier();
        staged
    }

    fn prefill_on_lanes<'k>(
        &self,
        b: &'k KernelBuilder,
        caps: &Caps,
        step: &Step<'k>,
        [q, x, keys, values, out]: [Mem; 5],
    ) {
        let blocks = PAGE / ROWS;
        let (tile, rest) = (b.task() / (self.heads * blocks), b.task() % (self.heads * blocks));
        let (tile, head, first) = (step.tile(tile), rest / blocks, rest % blocks * ROWS);
        let rows = (tile.len - first).min(ROWS as i32);
        b.when(rows.gt(0), || {
            let queries = Queries {
                q: (q, (tile.token + first) * self.q_cols() + head * self.pages.width),
                q_row: b.n(self.q_cols() as usize),
                rows,
                pos: tile.pos + first,
                pos_step: 1,
                seq: tile.seq,
                kv_head: head / self.group(),
                context: tile.pos + tile.len,
            };
            let (kv, end) = ((keys, values), tile.pos / PAGE + 1);
            let width = self.pages.width;
            let put = |l: Mem, r: Expr<'k>, column: Expr<'k>, sum: Expr<'k>| {
                let token = tile.token + first + r;
                let gate = token * self.x_cols + self.gate + head * (2 * width) + column;
                let to = token * self.q_cols() + head * width + column;
                b.store(out, to, sum / b.load(l, r) * b.load(x, gate).sigmoid());
            };
            if attention_mma::usable(caps, self) {
                let running = attention_mma::attend(b, caps, *self, kv, step, &queries, end);
                running.each(b, width, rows, |r, column, sum| put(running.l, r, column, sum));
            } else {
                let see = Sight {
                    seq: queries.seq,
                    kv_head: queries.kv_head,
                    pos: queries.pos,
                    pos_step: queries.pos_step,
                    context: queries.context,
                };
                let staged = self.stage(b, queries.q, self.q_cols(), rows);
                let running = attend(b, *self, kv, step, staged, &see, (b.i(0), end));
                running.each(b, width, rows, |r, column, sum| put(running.l, r, column, sum));
            }
        });
    }

    fn split_on_lanes<'k>(
        &self,
        b: &'k KernelBuilder,
        step: &Step<'k>,
        split: Split,
        [q, keys, values, partial]: [Mem; 4],
    ) {
        let blocks = self.group().div_ceil(ROWS);
        let each = self.pages.kv_heads * blocks * split.splits;
        let (seq, rest) = (b.task() / each, b.task() % each);
        let (kv_head, rest) = (rest / (blocks * split.splits), rest % (blocks * split.splits));
        let (block, number) = (rest / split.splits, rest % split.splits);
        let tile = step.tile_of_seq(seq);
        let first = split.first(number);
        let end = split.first(number + 1).min(tile.pos / PAGE + 1);
        b.when(first.lt(end), || {
            let head = kv_head * self.group() + block * ROWS;
            let width = self.pages.width;
            let rows = (b.n(self.group() as usize) - block * ROWS).min(ROWS as i32);
            let queries = self.stage(b, (q, (tile.token * self.heads + head) * width), width, rows);
            let see = Sight { seq, kv_head, pos: tile.pos, pos_step: 0, context: tile.pos + 1 };
            let running = attend(b, *self, (keys, values), step, queries, &see, (first, end));
            self.leave(b, split, &running, partial, (seq, head, number), rows);
        });
    }

    /// What a split found for `rows` heads from `head` on, for [`AttendCombine`](super::AttendCombine).
    pub(super) fn leave<'k>(
        &self,
        b: &'k KernelBuilder,
        split: Split,
        running: &attention::Running<'k>,
        partial: Mem,
        (seq, head, number): (Expr<'k>, Expr<'k>, Expr<'k>),
        rows: Expr<'k>,
    ) {
        let width = self.pages.width;
        let at = |r: Expr<'k>| partial_at(self, split, seq, head + r, number);
        running.each(b, width, rows, |r, column, sum| b.store(partial, at(r) + column, sum));
        // Columns that pad the row are joined, though nobody reads what they give.
        b.range(b.lane() + width, self.wide(), LANES, |column| {
            b.range(0, rows, 1, |r| b.store(partial, at(r) + column, b.f(0.0)));
        });
        b.when(b.lane().lt(rows), || {
            let to = at(b.lane()) + self.wide();
            b.store(partial, to, b.load(running.m, b.lane()));
            b.store(partial, to + 1, b.load(running.l, b.lane()));
        });
    }
}
