//! Attention between its projections, for one token of each sequence: queries and keys with their norms and
//! rotations, the token's key and value into their page, and the sequence's pages, split.
//!
//! A task of many lanes is one KV head and one split of one sequence. It makes the queries of that head again,
//! from cache; the split that has the token's own page also writes it, and reads it as it is stored. For up to
//! sixteen query heads a KV head, so that no two tasks have the same page to write.

use super::attention::{Heads, Split};
use super::gpu::LANES;
use super::gpu::attention::{Queries, Sight, attend};
use super::step::{Step, Tile};
use super::{AttendSplit, QkRope, Template, row};
use q35_artifact::{Amount, Cost, Tasks, Times};
use q35_kernel::{Expr, KernelBuilder, Mem, ReduceOp};
use q35_target::Caps;
use q35_types::step::PAGE;
use q35_types::{Count, DType, StepLayout};

/// [`QkRope`] and [`AttendSplit`]; [`AttendCombine`](super::AttendCombine) follows.
#[derive(Debug, Clone, PartialEq)]
pub struct AttendStep {
    pub rope: QkRope,
    pub heads: Heads,
    pub split: Split,
}

impl Template for AttendStep {
    fn name(&self) -> String {
        let split = AttendSplit(self.heads, self.split).name().replace("attend_split_", "");
        format!("attend_step_{}_{split}", self.rope.n)
    }

    fn build(&self, b: &KernelBuilder, caps: &Caps, layout: &StepLayout) {
        let h = self.heads;
        let step = Step::new(b, layout);
        let x = b.input("x", h.dtype);
        let [q_norm, k_norm, rope] =
            ["q_norm", "k_norm", "rope"].map(|name| b.input(name, DType::F32));
        let keys = b.state("keys", h.kv);
        let values = b.state("values", h.kv);
        let partial = b.output("partial", DType::F32);

        let each = h.pages.kv_heads * self.split.splits;
        let (seq, rest) = (b.task() / each, b.task() % each);
        let (kv_head, number) = (rest / self.split.splits, rest % self.split.splits);
        let tile = step.tile_of_seq(seq);
        let (first, own) = (self.split.first(number), tile.pos / PAGE);
        let end = self.split.first(number + 1).min(own + 1);
        let token = Token { b, caps, step: &self.rope, x, rope, tile, kv_head };
        b.when(first.lt(end), || {
            b.when(end.eq(own + 1), || {
                token.append(k_norm, (keys, values), step.page(seq, own));
            });
            let queries = token.queries(q_norm, h.scale);
            let (pos, context) = (tile.pos, tile.pos + 1);
            let see = Sight { seq, kv_head, pos, pos_step: 0, context };
            let running = attend(b, h, (keys, values), &step, queries, &see, (first, end));
            let head = kv_head * h.group();
            let rows = b.n(h.group() as usize);
            h.leave(b, self.split, &running, partial, (seq, head, number), rows);
        });
    }

    fn tasks(&self, _: &Caps) -> Tasks {
        let each = self.heads.pages.kv_heads * self.split.splits;
        Tasks { each, times: Times::Step(Count::Seqs) }
    }

    fn cost(&self, caps: &Caps) -> Cost {
        let (rope, split) = (self.rope.cost(caps), AttendSplit(self.heads, self.split).cost(caps));
        let h = self.heads;
        let size = h.dtype.size() as f64;
        let kv = f64::from(h.pages.kv_heads * h.pages.width);
        let norm = Amount { per_seq: kv * 4.0, ..Amount::default() };
        let own = Amount { per_token: 3.0 * kv * size, ..Amount::default() };
        Cost {
            // Each task reads the norm and, twice, its queries.
            weights: norm.and(self.split.each(kv * 4.0)),
            state: Amount { per_token: rope.state.per_token, ..split.state },
            activations_read: own.and(self.split.each(2.0 * f64::from(h.q_cols()) * size)),
            activations_written: split.activations_written,
            flops: Amount { per_token: rope.flops.per_token, ..split.flops },
        }
    }
}

impl AttendStep {
    /// Whether a task's queries are as many as a task can have.
    pub fn fits(heads: &Heads) -> bool {
        heads.group() <= super::gpu::attention::ROWS
    }
}

/// The token of a task.
struct Token<'s, 'k> {
    b: &'k KernelBuilder,
    caps: &'s Caps,
    step: &'s QkRope,
    x: Mem,
    rope: Mem,
    tile: Tile<'k>,
    kv_head: Expr<'k>,
}

impl<'k> Token<'_, 'k> {
    fn row(&self) -> Expr<'k> {
        self.tile.token * self.step.x_cols
    }

    /// The token's key and value, into `page`.
    fn append(&self, norm: Mem, (keys, values): (Mem, Mem), page: Expr<'k>) {
        let (b, pages) = (self.b, self.step.pages);
        let width = pages.width as usize;
        let key = b.shared("key", DType::F32, pages.width);
        let at = self.row() + self.step.k + self.kv_head * pages.width;
        let scale = row::inverse_rms(b, self.caps, width, self.step.eps, (self.x, at));
        row::each(b, self.caps, width, |i, w| {
            let v = b.load_vec(self.x, at + i, w) * scale * b.load_vec(norm, i, w);
            b.store(key, i, v);
        });
        b.barrier();
        self.rotate(key, b.lane(), LANES, &|i| i);
        b.barrier();
        let within = self.tile.pos % PAGE;
        let (k_at, v_at) = (pages.keys(page, self.kv_head), pages.values(page, self.kv_head));
        let from = self.row() + self.step.v + self.kv_head * pages.width;
        row::each_one(b, self.caps, width, |c| {
            b.store(keys, pages.key(k_at, within, c), b.load(key, c));
            b.store(values, pages.value(v_at, within, c), b.load(self.x, from + c));
        });
    }

    /// The query heads of the task's KV head; a few lanes each.
    fn queries(&self, norm: Mem, scale: f32) -> Queries {
        let b = self.b;
        let (width, group) = (self.step.pages.width, self.step.heads / self.step.pages.kv_heads);
        let queries = Queries::new(b, group, width);
        let each = LANES / queries.rows;
        let (query, first) = (b.lane() / each, b.lane() % each);
        // Those that are not there repeat the last.
        let head = self.kv_head * group + query.min(group as i32 - 1);
        let at = self.row() + self.step.q + head * (2 * width);
        let [squares] = b.fold(first, width, each, [b.f(0.0)], |i, [sum]| {
            let v = b.load(self.x, at + i);
            [b.mul_add(v, v, sum)]
        });
        let squares = b.cluster(ReduceOp::Sum, squares, each);
        let factor = b.f(scale) / (squares / width as f32 + self.step.eps).sqrt();
        // Once for all of them.
        let shared = b.shared("norm", DType::F32, width);
        row::copy(b, self.caps, width as usize, (norm, b.i(0)), (shared, b.i(0)));
        b.barrier();
        b.range(first, width, each, |i| {
            let v = b.load(self.x, at + i) * factor * b.load(shared, i);
            b.store(queries.mem, queries.at(query, i), v);
        });
        b.barrier();
        self.rotate(queries.mem, first, each, &|i| queries.at(query, i));
        b.barrier();
        queries
    }

    /// Rotates pairs of a row whose element i is at `at(i)`, every `round`th from `first` on (spec 6.3).
    fn rotate(&self, mem: Mem, first: Expr<'k>, round: u32, at: &dyn Fn(Expr<'k>) -> Expr<'k>) {
        let (b, n) = (self.b, self.step.n);
        let angles = self.tile.token * (2 * n);
        b.range(first, n, round, |i| {
            let cos = b.load(self.rope, angles + i);
            let sin = b.load(self.rope, angles + n + i);
            let (low, high) = (at(i), at(i + n));
            let (x, y) = (b.load(mem, low), b.load(mem, high));
            b.store(mem, low, x * cos - y * sin);
            b.store(mem, high, y * cos + x * sin);
        });
    }
}
