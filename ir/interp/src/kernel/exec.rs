//! Running a [`Program`].

use super::arith::{combine, compare, f, float, fold, int, map1, unary};
use super::fault::{Accessor, Cause, Fault};
use super::memory::{Access, Arg, Memories, Shared};
use super::mma::Sums;
use super::program::{Code, For, If, Memory, Moves, Op, Panel, Place, Program, Slot};
use super::{Counters, Traffic};
use q35_kernel::{BinaryOp, ReduceOp};
use std::cell::Cell;
use std::ops::Range;

/// Columns of a panel.
const COLUMNS: usize = 16;

pub(super) struct Machine<'m, 'a> {
    pub(super) program: &'m Program,
    pub(super) memories: Memories<'m, 'a>,
    pub(super) sums: Sums,
    /// Cells, so that operands and result may be slices of one vector.
    pub(super) registers: Vec<Cell<u32>>,
    /// For copies and folds.
    scratch: Vec<u32>,
    pub(super) counters: Counters,
    budget: u64,
}

/// What one lane did wrong, boxed as it is rare.
pub(super) type Stop = Box<(u32, Cause)>;

/// The lanes that take part.
pub(super) struct Mask {
    pub(super) lanes: Vec<bool>,
    active: usize,
}

impl Mask {
    fn new(lanes: Vec<bool>) -> Mask {
        Mask { active: lanes.iter().filter(|&&on| on).count(), lanes }
    }

    fn is_full(&self) -> bool {
        self.active == self.lanes.len()
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let full = self.is_full();
        (0..self.lanes.len()).filter(move |&lane| full || self.lanes[lane])
    }

    fn first(&self) -> usize {
        self.iter().next().expect("some lane takes part")
    }
}

impl<'m, 'a> Machine<'m, 'a> {
    pub(super) fn new(program: &'m Program, args: &'m mut [Arg<'a>], budget: u64) -> Self {
        let params = vec![Traffic::default(); program.params.len()];
        Machine {
            program,
            memories: Memories { program, args, shared: Shared::new(program.shared_words) },
            sums: Sums::new(program),
            registers: program.registers.iter().copied().map(Cell::new).collect(),
            scratch: vec![],
            counters: Counters { params, ..Counters::default() },
            budget,
        }
    }

    pub(super) fn run(mut self, tasks: Range<u32>) -> Result<Counters, Fault> {
        let program = self.program;
        let all = Mask::new(vec![true; program.lanes]);
        for task in tasks {
            self.memories.shared.begin_task();
            self.sums.begin_task();
            self.block(&program.body, task, &all).map_err(|stop| Fault::At {
                kernel: program.name.clone(),
                task,
                lane: stop.0,
                cause: stop.1,
            })?;
        }
        Ok(self.counters)
    }

    fn block(&mut self, code: &Code, task: u32, mask: &Mask) -> Result<(), Stop> {
        self.spend(code.ops.len() as u64 + 1, mask)?;
        self.counters.flops += code.flops * mask.active as u64;
        for op in &code.ops {
            self.op(op, task, mask)?;
        }
        Ok(())
    }

    pub(super) fn spend(&mut self, work: u64, mask: &Mask) -> Result<(), Stop> {
        match self.budget.checked_sub(work) {
            Some(left) => self.budget = left,
            None => return Err(at(mask.first(), Cause::Budget)),
        }
        Ok(())
    }

    fn op(&mut self, op: &Op, task: u32, mask: &Mask) -> Result<(), Stop> {
        let r = &self.registers[..];
        let lanes = self.program.lanes;
        match *op {
            Op::Task { d } => r[d..d + lanes].iter().for_each(|c| c.set(task)),
            Op::Unary { op, d, a, n } => unary(r, op, d, a, n),
            Op::Float { op, d, a, b, n } => float(r, op, d, a, b, n),
            Op::Int { op, d, a, b, n } => int(r, op, d, a, b, n),
            Op::Divide { op, d, a, by, n } => match op {
                BinaryOp::Rem => map1(r, d, a, n, |a| (a as i32 % by) as u32),
                _ => map1(r, d, a, n, |a| (a as i32 / by) as u32),
            },
            Op::CheckShift { by, w } => {
                for lane in mask.iter() {
                    for c in &r[by + lane * w..][..w] {
                        if c.get() > 31 {
                            return Err(at(lane, Cause::Shift { by: c.get() as i32 }));
                        }
                    }
                }
            }
            Op::Fma { d, a, b, c, n } => {
                let (d, a, b, c) = (&r[d..d + n], &r[a..a + n], &r[b..b + n], &r[c..c + n]);
                for i in 0..n {
                    d[i].set(f(a[i].get()).mul_add(f(b[i].get()), f(c[i].get())).to_bits());
                }
            }
            Op::CompareFloat { op, d, a, b, n } => compare(r, op, (d, a, b, n), f),
            Op::CompareInt { op, d, a, b, n } => compare(r, op, (d, a, b, n), |v| v as i32),
            Op::Select { d, cond, a, b, n } => {
                let (d, cond) = (&r[d..d + n], &r[cond..cond + n]);
                let (a, b) = (&r[a..a + n], &r[b..b + n]);
                for i in 0..n {
                    d[i].set(if cond[i].get() != 0 { a[i].get() } else { b[i].get() });
                }
            }
            Op::SelectWhole { d, cond, a, b, w } => {
                for lane in 0..lanes {
                    let from = if r[cond + lane].get() != 0 { a } else { b };
                    map1(r, d + lane * w, from + lane * w, w, |v| v);
                }
            }
            Op::Splat { d, a, w } => {
                for lane in 0..lanes {
                    let v = r[a + lane].get();
                    r[d + lane * w..][..w].iter().for_each(|c| c.set(v));
                }
            }
            Op::Vector { d, ref elements } => {
                for (i, &a) in elements.iter().enumerate() {
                    (0..lanes)
                        .for_each(|lane| r[d + lane * elements.len() + i].set(r[a + lane].get()));
                }
            }
            Op::Extract { d, a, w, element } => {
                (0..lanes).for_each(|lane| r[d + lane].set(r[a + lane * w + element].get()));
            }
            Op::Reduce { op, float, d, a, w } => {
                for lane in 0..lanes {
                    self.scratch.clear();
                    self.scratch.extend(r[a + lane * w..][..w].iter().map(Cell::get));
                    fold(op, float, &mut self.scratch);
                    r[d + lane].set(self.scratch[0]);
                }
            }
            Op::Load { d, ref at, w } => self.load(d, at, w, mask)?,
            Op::Store { ref at, a, w } => self.store(at, a, w, mask)?,
            Op::Panel(ref panel) => {
                for lane in mask.iter() {
                    self.panel(panel, lane, mask)?;
                }
            }
            Op::Cluster { op, float, d, a, w, size } => {
                assert!(mask.is_full(), "verified: control is uniform");
                map1(r, d, a, lanes * w, |v| v);
                let mut distance = 1;
                while distance < size {
                    for lane in (0..lanes).filter(|lane| lane & distance == 0) {
                        for i in d + lane * w..d + lane * w + w {
                            let (low, high) = (&r[i], &r[i + distance * w]);
                            let both = combine(op, float, low.get(), high.get());
                            low.set(both);
                            high.set(both);
                        }
                    }
                    distance *= 2;
                }
                self.counters.flops +=
                    if float { (lanes / size * (size - 1) * w) as u64 } else { 0 };
            }
            Op::Scan { float, d, a, w } => {
                assert!(mask.is_full(), "verified: control is uniform");
                map1(r, d, a, lanes * w, |v| v);
                let mut distance = 1;
                while distance < lanes {
                    // From the last lane down, so that each adds what the other had before.
                    for i in (distance * w..lanes * w).rev() {
                        let (left, right) = (r[d + i - distance * w].get(), r[d + i].get());
                        r[d + i].set(combine(ReduceOp::Sum, float, left, right));
                    }
                    self.counters.flops += if float { ((lanes - distance) * w) as u64 } else { 0 };
                    distance *= 2;
                }
            }
            Op::MmaZero { acc } => self.mma_zero(acc, mask),
            Op::Mma(ref mma) => self.mma(mma, mask)?,
            Op::MmaLoad { acc, ref at, row } => self.mma_load(acc, at, row, mask)?,
            Op::MmaStore { acc, ref at, row } => self.mma_store(acc, at, row, mask)?,
            Op::Barrier => {
                assert!(mask.is_full(), "verified: control is uniform");
                self.memories.shared.barrier();
                self.counters.barriers += 1;
            }
            Op::For(ref stmt) => self.repeat(stmt, task, mask)?,
            Op::If(ref stmt) => self.branch(stmt, task, mask)?,
        }
        Ok(())
    }

    fn repeat(&mut self, stmt: &For, task: u32, mask: &Mask) -> Result<(), Stop> {
        self.copy(&stmt.enter, None);
        let bounds = |m: &Self, lane: usize| {
            let [start, end] = [stmt.start, stmt.end].map(|s| m.registers[s + lane].get() as i32);
            (i64::from(start), i64::from(end))
        };
        let (start, end) = bounds(self, mask.first());
        let step = i64::from(stmt.step);
        if mask.iter().all(|lane| bounds(self, lane) == (start, end)) {
            let mut i = start;
            while i < end {
                let var = &self.registers[stmt.var..stmt.var + self.program.lanes];
                var.iter().for_each(|c| c.set(i as u32));
                self.block(&stmt.body, task, mask)?;
                self.copy(&stmt.next, None);
                i += step;
            }
            return Ok(());
        }
        let bounds: Vec<(i64, i64)> =
            (0..mask.lanes.len()).map(|lane| bounds(self, lane)).collect();
        let mut passed = 0;
        loop {
            let goes_on = bounds.iter().zip(&mask.lanes).map(|(b, &on)| on && b.0 + passed < b.1);
            let inner = Mask::new(goes_on.collect());
            if inner.active == 0 {
                return Ok(());
            }
            for lane in inner.iter() {
                self.registers[stmt.var + lane].set((bounds[lane].0 + passed) as u32);
            }
            self.block(&stmt.body, task, &inner)?;
            self.copy(&stmt.next, Some(&inner));
            passed += step;
        }
    }

    fn branch(&mut self, stmt: &If, task: u32, mask: &Mask) -> Result<(), Stop> {
        let first = self.registers[stmt.cond + mask.first()].get() != 0;
        let differs = |lane: usize| (self.registers[stmt.cond + lane].get() != 0) != first;
        if !mask.iter().any(differs) {
            let (code, results) = match first {
                true => (&stmt.then, &stmt.then_results),
                false => (&stmt.otherwise, &stmt.otherwise_results),
            };
            self.block(code, task, mask)?;
            self.copy(results, None);
            return Ok(());
        }
        let cond = &self.registers[stmt.cond..stmt.cond + self.program.lanes];
        let [then, otherwise] = [true, false].map(|side| {
            let on = cond.iter().zip(&mask.lanes).map(|(c, &on)| on && (c.get() != 0) == side);
            Mask::new(on.collect())
        });
        self.block(&stmt.then, task, &then)?;
        self.copy(&stmt.then_results, Some(&then));
        self.block(&stmt.otherwise, task, &otherwise)?;
        self.copy(&stmt.otherwise_results, Some(&otherwise));
        Ok(())
    }

    /// In the lanes of `mask`, or in all where no other lane could see it.
    fn copy(&mut self, moves: &Moves, mask: Option<&Mask>) {
        let lanes = self.program.lanes;
        let r = &self.registers[..];
        let value = |from: Slot, to: Slot, w: usize, set: &dyn Fn(&Cell<u32>, &Cell<u32>)| {
            let whole = |from: &[Cell<u32>], to: &[Cell<u32>]| {
                from.iter().zip(to).for_each(|(from, to)| set(from, to));
            };
            match mask {
                None => whole(&r[from..from + lanes * w], &r[to..to + lanes * w]),
                Some(mask) => mask
                    .iter()
                    .for_each(|lane| whole(&r[from + lane * w..][..w], &r[to + lane * w..][..w])),
            }
        };
        if !moves.tangled {
            for m in &moves.list {
                value(m.from, m.to, m.w, &|from, to| to.set(from.get()));
            }
            return;
        }
        self.scratch.clear();
        for m in &moves.list {
            self.scratch.extend(r[m.from..m.from + lanes * m.w].iter().map(Cell::get));
        }
        let mut saved = 0;
        for m in &moves.list {
            for lane in 0..lanes {
                if mask.is_none_or(|mask| mask.lanes[lane]) {
                    let from = &self.scratch[saved + lane * m.w..][..m.w];
                    r[m.to + lane * m.w..].iter().zip(from).for_each(|(c, v)| c.set(*v));
                }
            }
            saved += lanes * m.w;
        }
    }

    fn load(&mut self, d: Slot, place: &Place, w: usize, mask: &Mask) -> Result<(), Stop> {
        for lane in mask.iter() {
            let index = i64::from(self.int(place.index, lane));
            let access = self.access(place, index, lane);
            let to = &self.registers[d + lane * w..][..w];
            self.memories.read(&access, to).map_err(|cause| at(lane, cause))?;
        }
        self.count(place, (w * place.dtype.size() * mask.active) as u64, 0);
        Ok(())
    }

    fn store(&mut self, place: &Place, a: Slot, w: usize, mask: &Mask) -> Result<(), Stop> {
        for lane in mask.iter() {
            let index = i64::from(self.int(place.index, lane));
            let access = self.access(place, index, lane);
            let from = &self.registers[a + lane * w..][..w];
            self.memories.write(&access, from).map_err(|cause| at(lane, cause))?;
        }
        self.count(place, 0, (w * place.dtype.size() * mask.active) as u64);
        Ok(())
    }

    pub(super) fn access(&self, place: &Place, index: i64, lane: usize) -> Access {
        let entry = match place.memory {
            Memory::Entry(_, entry) => Some(self.int(entry, lane)),
            Memory::Param(_) | Memory::Shared { .. } => None,
        };
        Access {
            memory: place.memory,
            dtype: place.dtype,
            index,
            entry,
            by: Accessor::Lane(lane as u32),
        }
    }

    fn panel(&mut self, panel: &Panel, lane: usize, mask: &Mask) -> Result<(), Stop> {
        let int = |slot: Slot| i64::from(self.int(slot, lane));
        let [x, w, out] = [&panel.x, &panel.w, &panel.out].map(|place| int(place.index));
        let [x_row, x_k] = [panel.x_row, panel.x_k].map(int);
        let [w_panel, out_row] = [panel.w_panel, panel.out_row].map(int);
        let [rows, panels, k] = [panel.rows, panel.panels, panel.k].map(|slot| int(slot).max(0));
        let stop = |cause| at(lane, cause);
        let [sums, weights] = [(); 2].map(|()| [const { Cell::new(0u32) }; COLUMNS]);
        let factor = [const { Cell::new(0u32) }];
        for p in 0..panels {
            self.spend(1, mask)?;
            for r in 0..rows {
                self.spend(k as u64 + 1, mask)?;
                let to = self.access(&panel.out, out + r * out_row + 16 * p, lane);
                sums.iter().for_each(|c| c.set(0));
                if panel.accumulate {
                    self.memories.read(&to, &sums).map_err(stop)?;
                }
                for j in 0..k {
                    let from = self.access(&panel.x, x + r * x_row + j * x_k, lane);
                    self.memories.read(&from, &factor).map_err(stop)?;
                    let from = self.access(&panel.w, w + p * w_panel + 16 * j, lane);
                    self.memories.read(&from, &weights).map_err(stop)?;
                    let factor = f(factor[0].get());
                    for (sum, weight) in sums.iter().zip(&weights) {
                        sum.set(factor.mul_add(f(weight.get()), f(sum.get())).to_bits());
                    }
                }
                self.memories.write(&to, &sums).map_err(stop)?;
            }
        }
        let sums = (rows * panels) as u64;
        let bytes = |place: &Place, n: u64| n * place.dtype.size() as u64;
        self.count(&panel.x, bytes(&panel.x, sums * k as u64), 0);
        self.count(&panel.w, bytes(&panel.w, sums * k as u64 * 16), 0);
        let out = bytes(&panel.out, sums * 16);
        self.count(&panel.out, if panel.accumulate { out } else { 0 }, out);
        self.counters.flops += 2 * sums * 16 * k as u64;
        Ok(())
    }

    pub(super) fn count(&mut self, place: &Place, loaded: u64, stored: u64) {
        let traffic = match place.memory {
            Memory::Param(p) | Memory::Entry(p, _) => &mut self.counters.params[p],
            Memory::Shared { .. } => &mut self.counters.shared,
        };
        traffic.loaded += loaded;
        traffic.stored += stored;
    }

    pub(super) fn int(&self, slot: Slot, lane: usize) -> i32 {
        self.registers[slot + lane].get() as i32
    }
}

pub(super) fn at(lane: usize, cause: Cause) -> Stop {
    Box::new((lane as u32, cause))
}
