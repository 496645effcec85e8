//! One warp: lanes that stand at the same place run together, the lowest place first.
//!
//! Lanes that part at a branch become fragments, each with its own place. Running the lowest first lets those behind
//! catch up, and fragments that meet become one again, so loops and branches reconverge where their code joins and no
//! analysis of control flow is needed. A fragment that waits for other lanes of its warp stands still until they come.

mod access;
mod atomic;
mod copy;
mod matrix;
mod shared;

use crate::counters::Tally;
use crate::error::FaultKind;
use crate::launch::Env;
use crate::op::{Barrier, Guard, Op, Special};
use crate::regs::{FULL, Reg, Regs, lanes_of};
use crate::shared::{Shared, Who};
use crate::types::Space;
use copy::Copies;

/// A fault of one lane; the warp knows the place.
pub(crate) struct Trouble {
    pub kind: FaultKind,
    pub lane: usize,
    pub message: String,
}

type Outcome<T> = Result<T, Box<Trouble>>;

fn trouble<T>(kind: FaultKind, lane: usize, message: impl Into<String>) -> Outcome<T> {
    Err(Box::new(Trouble { kind, lane, message: message.into() }))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Run,
    /// Has seen nothing new for a while and lets others go on.
    Parked,
    /// Waits for lanes of this warp.
    Sync,
    /// Waits at a barrier of the block.
    Barrier(u8),
}

#[derive(Clone, Copy, Debug)]
struct Fragment {
    pc: u32,
    mask: u32,
    state: State,
}

/// Why a warp stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stop {
    Done,
    /// All that is left of it waits at barriers.
    Blocked,
    /// Its time is up.
    Paused,
    /// It polls memory that does not change.
    Spinning,
    /// It arrived at a barrier, and nothing else of it can go on before the block has looked.
    Arrived,
}

/// How often the same values are read at the same place before a warp is taken to wait for others.
const SPINS: u32 = 32;

pub(crate) struct Warp {
    pub index: usize,
    pub regs: Regs,
    /// Lanes that the block has.
    pub lanes: u32,
    pub exited: u32,
    fragments: Vec<Fragment>,
    local: Vec<u32>,
    copies: Copies,
    polls: Vec<Poll>,
    /// Where the running fragment is, for faults.
    pub pc: u32,
    /// The last instruction of the code that has run in this block.
    reached: u32,
    /// Stores, atomics and exits: what may let others go on.
    pub progress: u64,
}

/// What was read at one place by an instruction that may wait for others.
struct Poll {
    pc: u32,
    values: u64,
    /// How often the same came, with nothing done in between.
    times: u32,
    progress: u64,
}

/// What a warp runs in.
pub(crate) struct Around<'a> {
    pub env: &'a Env<'a>,
    pub shared: &'a mut Shared,
    pub tally: &'a mut Tally,
    pub barriers: &'a mut Barriers,
    /// The allocation that was last accessed.
    pub hint: &'a mut usize,
    /// Instructions that the launch may still run.
    pub left: &'a mut u64,
    pub clock: &'a mut u64,
}

/// Arrivals at the barriers of a block.
#[derive(Clone, Default)]
pub(crate) struct Arrivals {
    /// Threads so far.
    pub count: u32,
    pub expected: u32,
    pub aligned: bool,
    /// Threads whose predicate held.
    pub holding: u32,
    /// What each warp that came has seen.
    pub brought: Vec<u32>,
    /// Warps that came.
    pub warps: u32,
}

pub(crate) type Barriers = [Arrivals; 16];

impl Warp {
    pub fn new(env: &Env<'_>, index: usize) -> Self {
        let first = index * 32;
        let mut regs = env.kernel.registers();
        for &(at, special) in &env.kernel.specials {
            regs.w32[at] = match special {
                Special::Tid(axis) => std::array::from_fn(|i| env.thread_at(first + i)[axis]),
                Special::Ntid(axis) => [env.block[axis]; 32],
                // Another in each block.
                Special::Ctaid(_) => [0; 32],
                Special::Nctaid(axis) => [env.grid[axis]; 32],
                Special::LaneId => std::array::from_fn(|i| i as u32),
                Special::WarpId => [index as u32; 32],
                Special::WarpCount => [env.threads.div_ceil(32) as u32; 32],
                Special::SmId => [0; 32],
                Special::LaneMask(mask) => mask.lanes(),
                Special::DynamicShared => [env.dynamic_shared as u32; 32],
                Special::TotalShared => [env.shared_bytes as u32; 32],
                Special::Constant(value) => [value; 32],
            };
        }
        Self {
            index,
            regs,
            lanes: if env.threads - first >= 32 { FULL } else { (1 << (env.threads - first)) - 1 },
            exited: 0,
            fragments: vec![],
            local: vec![0; env.kernel.local_bytes.div_ceil(4) as usize * 32],
            copies: Copies::default(),
            polls: vec![],
            pc: 0,
            reached: 0,
            progress: 0,
        }
    }

    /// Before the first instruction of a block.
    pub fn start(&mut self, env: &Env<'_>, block: [u32; 3]) {
        env.kernel.clear(&mut self.regs, self.reached);
        for &(at, special) in &env.kernel.specials {
            if let Special::Ctaid(axis) = special {
                self.regs.w32[at] = [block[axis]; 32];
            }
        }
        self.exited = 0;
        self.fragments.clear();
        self.fragments.push(Fragment { pc: 0, mask: self.lanes, state: State::Run });
        self.local.fill(0);
        self.copies = Copies::default();
        self.polls.clear();
        (self.pc, self.reached) = (0, 0);
    }

    /// Waits for lanes of its own that have not come.
    pub fn waiting_for_lanes(&self) -> Option<(u32, usize)> {
        let found = self.fragments.iter().find(|f| f.state == State::Sync)?;
        Some((found.pc, found.mask.trailing_zeros() as usize))
    }

    /// A lane that waits at a barrier: its place and its number.
    pub fn waiting_at_barrier(&self) -> Option<(u32, usize, u8)> {
        self.fragments.iter().find_map(|f| match f.state {
            State::Barrier(id) => Some((f.pc, f.mask.trailing_zeros() as usize, id)),
            _ => None,
        })
    }

    /// Lets those go on that wait at a barrier; says where they stand if that is at two places.
    pub fn release(
        &mut self,
        env: &Env<'_>,
        id: u8,
        arrivals: &Arrivals,
    ) -> Result<(), (u32, usize)> {
        let mut place = None;
        let mut two = None;
        for fragment in self.fragments.iter_mut().filter(|f| f.state == State::Barrier(id)) {
            if place.is_some_and(|pc| pc != fragment.pc) {
                two = Some((fragment.pc, fragment.mask.trailing_zeros() as usize));
            }
            place = Some(fragment.pc);
            if let Op::Barrier(barrier) = &env.kernel.code[fragment.pc as usize].op
                && let Some(reduce) = barrier.reduce
            {
                use crate::op::ReduceKind::{And, Or, Popc};
                let value = match reduce.kind {
                    Popc => arrivals.holding,
                    And => u32::from(arrivals.holding == arrivals.count),
                    Or => u32::from(arrivals.holding > 0),
                };
                lanes_of(fragment.mask)
                    .for_each(|lane| self.regs.set_lane(reduce.to, lane, value.into()));
            }
            fragment.pc += 1;
            fragment.state = State::Run;
        }
        self.merge();
        match two {
            Some(found) if arrivals.aligned => Err(found),
            _ => Ok(()),
        }
    }

    fn merge(&mut self) {
        let fragments = std::mem::take(&mut self.fragments);
        for fragment in fragments {
            self.add(fragment);
        }
    }

    /// Joins those that stand at the same place; whoever waited there for lanes looks again.
    fn add(&mut self, new: Fragment) {
        if new.mask == 0 {
            return;
        }
        let alike = |f: &Fragment| {
            f.pc == new.pc
                && match (f.state, new.state) {
                    (State::Barrier(a), State::Barrier(b)) => a == b,
                    (State::Barrier(_), _) | (_, State::Barrier(_)) => false,
                    _ => true,
                }
        };
        match self.fragments.iter_mut().find(|f| alike(f)) {
            Some(found) => {
                found.mask |= new.mask;
                if !matches!(found.state, State::Barrier(_)) {
                    found.state = State::Run;
                }
            }
            None => self.fragments.push(new),
        }
    }

    /// Runs until it must stop, or for so many instructions.
    pub fn run(&mut self, around: &mut Around<'_>, quantum: u64) -> Outcome<Stop> {
        let mut budget = quantum.min(*around.left);
        let given = budget;
        let stop = self.run_within(around, &mut budget);
        *around.left -= given - budget;
        stop
    }

    fn run_within(&mut self, around: &mut Around<'_>, budget: &mut u64) -> Outcome<Stop> {
        let env = around.env;
        let code = &env.kernel.code[..];
        loop {
            let Some(at) = self.pick() else { return self.stuck(around) };
            let Fragment { mut pc, mut mask, .. } = self.fragments.swap_remove(at);
            // Alone, no place is special; otherwise the next fragment up is met or passed.
            let limit = |fragments: &[Fragment], pc: u32| {
                fragments.iter().map(|f| f.pc).filter(|p| *p > pc).min().unwrap_or(u32::MAX)
            };
            let mut bound = limit(&self.fragments, pc);
            loop {
                if *budget == 0 {
                    self.add(Fragment { pc, mask, state: State::Run });
                    return Ok(Stop::Paused);
                }
                *budget -= 1;
                let inst = &code[pc as usize];
                around.tally.executed[pc as usize] += 1;
                let on = match inst.guard {
                    None => mask,
                    Some(guard) => mask & self.holds(guard),
                };
                self.pc = pc;
                self.reached = self.reached.max(pc);
                match &inst.op {
                    Op::Alu(run) => {
                        if on != 0 {
                            run(&mut self.regs, on);
                        }
                        if inst.flops > 0 {
                            around.tally.lanes[pc as usize] += u64::from(on.count_ones());
                        }
                        pc += 1;
                    }
                    Op::Load(access) => {
                        self.load(around, access, on)?;
                        pc += 1;
                        if access.strong && on != 0 && self.spins() {
                            self.add(Fragment { pc, mask, state: State::Run });
                            self.park(pc);
                            break;
                        }
                    }
                    Op::Store(access) => {
                        self.store(around, access, on)?;
                        let seen = access.at.space != Space::Local;
                        self.progress += u64::from(on != 0 && seen);
                        pc += 1;
                    }
                    &Op::Branch(target) => {
                        let off = mask & !on;
                        if self.fragments.is_empty() && (on == 0 || off == 0) {
                            pc = if on != 0 { target } else { pc + 1 };
                            continue;
                        }
                        self.add(Fragment { pc: target, mask: on, state: State::Run });
                        self.add(Fragment { pc: pc + 1, mask: off, state: State::Run });
                        break;
                    }
                    Op::Table { index, targets } => {
                        for lane in lanes_of(on) {
                            let index = self.regs.w32[*index][lane] as usize;
                            let Some(&target) = targets.get(index) else {
                                let message =
                                    format!("branches to target {index} of {}", targets.len());
                                return trouble(FaultKind::OutOfBounds, lane, message);
                            };
                            self.add(Fragment { pc: target, mask: 1 << lane, state: State::Run });
                        }
                        self.add(Fragment { pc: pc + 1, mask: mask & !on, state: State::Run });
                        break;
                    }
                    Op::Exit => {
                        self.exited |= on;
                        self.progress += u64::from(on != 0);
                        mask &= !on;
                        pc += 1;
                        if mask == 0 {
                            break;
                        }
                    }
                    Op::Trap if on != 0 => {
                        return trouble(
                            FaultKind::Trap,
                            on.trailing_zeros() as usize,
                            "the instruction `trap`",
                        );
                    }
                    Op::Trap | Op::Nop => pc += 1,
                    Op::Clock(to) => {
                        *around.clock += 1;
                        let now = *around.clock;
                        lanes_of(on).for_each(|lane| self.regs.set_lane(*to, lane, now));
                        pc += 1;
                    }
                    Op::Barrier(barrier) => {
                        if on == 0 {
                            pc += 1;
                            continue;
                        }
                        self.add(Fragment { pc: pc + 1, mask: mask & !on, state: State::Run });
                        let id = self.arrive(around, barrier, on)?;
                        let state = if barrier.arrive { State::Run } else { State::Barrier(id) };
                        let pc = if barrier.arrive { pc + 1 } else { pc };
                        self.add(Fragment { pc, mask: on, state });
                        let arrivals = &around.barriers[usize::from(id)];
                        if arrivals.count >= arrivals.expected {
                            return Ok(Stop::Arrived);
                        }
                        break;
                    }
                    Op::WarpSync(members) => {
                        if on != 0 && !self.gathered(Some(*members), on, false)? {
                            self.wait_for_lanes(pc, mask, on);
                            break;
                        }
                        around.shared.meet_in_warp(self.index);
                        pc += 1;
                    }
                    Op::Together { members, run } => {
                        if on != 0 {
                            if !self.gathered(*members, on, members.is_none())? {
                                self.wait_for_lanes(pc, mask, on);
                                break;
                            }
                            self.together(*members, run, on)?;
                            if on & (on - 1) != 0 {
                                around.shared.meet_in_warp(self.index);
                            }
                        }
                        pc += 1;
                    }
                    Op::Atom(atom) => {
                        self.atom(around, atom, on)?;
                        pc += 1;
                        if !atom.to.is_empty() && on != 0 && self.spins() {
                            self.add(Fragment { pc, mask, state: State::Run });
                            self.park(pc);
                            break;
                        }
                    }
                    Op::LdMatrix(matrix) | Op::StMatrix(matrix) => {
                        if on != 0 {
                            if !self.gathered(None, on, true)? {
                                self.wait_for_lanes(pc, mask, on);
                                break;
                            }
                            self.matrix(around, matrix, matches!(inst.op, Op::LdMatrix(_)))?;
                        }
                        pc += 1;
                    }
                    Op::Copy(copy) => {
                        self.copy(around, copy, on)?;
                        pc += 1;
                    }
                    Op::CopyCommit => {
                        self.copies.commit(on);
                        pc += 1;
                    }
                    &Op::CopyWait(most) => {
                        self.finish_copies(around, on, most);
                        pc += 1;
                    }
                }
                if pc >= bound {
                    if pc == bound {
                        self.add(Fragment { pc, mask, state: State::Run });
                        break;
                    }
                    bound = limit(&self.fragments, pc);
                }
            }
        }
    }

    #[inline]
    fn holds(&self, guard: Guard) -> u32 {
        let value = self.regs.preds[guard.pred];
        if guard.negated { !value } else { value }
    }

    /// The lowest fragment that can run.
    fn pick(&self) -> Option<usize> {
        if self.fragments.len() == 1 {
            return (self.fragments[0].state == State::Run).then_some(0);
        }
        let running = self.fragments.iter().enumerate().filter(|(_, f)| f.state == State::Run);
        running.min_by_key(|(_, f)| f.pc).map(|(at, _)| at)
    }

    fn park(&mut self, pc: u32) {
        if let Some(fragment) =
            self.fragments.iter_mut().find(|f| f.pc == pc && f.state == State::Run)
        {
            fragment.state = State::Parked;
        }
    }

    /// Nothing can run: whether that is the end, and whom it waits for.
    fn stuck(&mut self, around: &mut Around<'_>) -> Outcome<Stop> {
        if self.fragments.is_empty() {
            return Ok(Stop::Done);
        }
        let parked = self.fragments.iter().any(|f| f.state == State::Parked);
        if parked {
            self.fragments
                .iter_mut()
                .filter(|f| f.state == State::Parked)
                .for_each(|f| f.state = State::Run);
            return Ok(Stop::Spinning);
        }
        if self.meet_at_several_places(around) {
            return Ok(Stop::Paused);
        }
        let at_barrier = self.fragments.iter().any(|f| matches!(f.state, State::Barrier(_)));
        if !at_barrier && let Some((pc, lane)) = self.waiting_for_lanes() {
            self.pc = pc;
            return trouble(FaultKind::DivergentShuffle, lane, "waits for lanes that never come");
        }
        Ok(Stop::Blocked)
    }

    /// `bar.warp.sync` joins lanes wherever they call it.
    fn meet_at_several_places(&mut self, around: &mut Around<'_>) -> bool {
        let code = &around.env.kernel.code;
        let at_sync = |f: &Fragment| match code[f.pc as usize].op {
            Op::WarpSync(members) if f.state == State::Sync => Some(members),
            _ => None,
        };
        let mut here = 0;
        let mut needed = 0;
        for fragment in &self.fragments {
            if let Some(members) = at_sync(fragment) {
                here |= fragment.mask;
                lanes_of(fragment.mask).for_each(|i| needed |= self.regs.w32[members][i]);
            }
        }
        if here == 0 || needed & self.lanes & !self.exited & !here != 0 {
            return false;
        }
        let released: Vec<usize> =
            (0..self.fragments.len()).filter(|&i| at_sync(&self.fragments[i]).is_some()).collect();
        for at in released {
            self.fragments[at].pc += 1;
            self.fragments[at].state = State::Run;
        }
        self.merge();
        around.shared.meet_in_warp(self.index);
        true
    }

    fn wait_for_lanes(&mut self, pc: u32, mask: u32, on: u32) {
        self.add(Fragment { pc: pc + 1, mask: mask & !on, state: State::Run });
        // Not joined with others that wait here: these are all of them.
        self.fragments.push(Fragment { pc, mask: on, state: State::Sync });
    }

    /// Whether all lanes that are named have come. Those that have exited are not waited for, but for what the whole
    /// warp must do.
    fn gathered(&self, members: Option<usize>, on: u32, whole: bool) -> Outcome<bool> {
        let Some(members) = members else {
            if whole
                && (self.exited != 0 || self.lanes != FULL)
                && on | self.exited | !self.lanes == FULL
            {
                let message =
                    "the whole warp is needed, and some of its lanes have exited or do not exist";
                return trouble(FaultKind::DivergentShuffle, on.trailing_zeros() as usize, message);
            }
            return Ok(on == FULL);
        };
        for lane in lanes_of(on) {
            let named = self.regs.w32[members][lane];
            if named >> lane & 1 == 0 {
                return trouble(
                    FaultKind::DivergentShuffle,
                    lane,
                    format!("is not among the lanes {named:#x} it names"),
                );
            }
            if named & self.lanes & !self.exited & !on != 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Each group of lanes that name each other acts on its own.
    fn together(
        &mut self,
        members: Option<usize>,
        run: &crate::op::Together,
        on: u32,
    ) -> Outcome<()> {
        let mut left = on;
        while left != 0 {
            let group = match members {
                None => left,
                Some(members) => {
                    let named = self.regs.w32[members];
                    let first = named[left.trailing_zeros() as usize];
                    if first == FULL {
                        left
                    } else {
                        lanes_of(left).filter(|&i| named[i] == first).fold(0, |m, i| m | 1 << i)
                    }
                }
            };
            if let Err((lane, message)) = run(&mut self.regs, group) {
                return trouble(FaultKind::DivergentShuffle, lane, message);
            }
            left &= !group;
        }
        Ok(())
    }

    fn arrive(&mut self, around: &mut Around<'_>, barrier: &Barrier, on: u32) -> Outcome<u8> {
        let lane = on.trailing_zeros() as usize;
        let id = self.regs.lane(barrier.id, lane);
        if id > 15 {
            return trouble(FaultKind::Barrier, lane, format!("barrier {id} of 16"));
        }
        let all = around.env.threads as u32;
        let expected = match barrier.threads {
            None => all,
            Some(threads) => self.regs.lane(threads, lane) as u32,
        };
        let whole = all.next_multiple_of(32);
        if expected == 0 || expected > whole || barrier.threads.is_some() && expected % 32 != 0 {
            let message = format!("a barrier for {expected} threads, in a block of {all}");
            return trouble(FaultKind::Barrier, lane, message);
        }
        let arrivals = &mut around.barriers[id as usize];
        if arrivals.count > 0 && arrivals.expected != expected {
            let message = format!(
                "barrier {id} for {expected} threads, where others want {}",
                arrivals.expected
            );
            return trouble(FaultKind::Barrier, lane, message);
        }
        arrivals.expected = expected;
        arrivals.aligned = barrier.aligned;
        // A warp counts as 32 threads where threads are counted, though its block may end within it.
        arrivals.count +=
            if barrier.threads.is_some() && on == self.lanes { 32 } else { on.count_ones() };
        arrivals.warps |= 1 << self.index;
        if let Some(reduce) = barrier.reduce {
            arrivals.holding += (self.holds(reduce.from) & on).count_ones();
        }
        if around.env.kernel.partial_barriers {
            around.shared.arrive(self.index, &mut arrivals.brought);
        }
        Ok(id as u8)
    }

    /// Notes what a poll has found.
    fn poll(&mut self, on: u32, regs: &[Reg]) {
        let mut hash = u64::from(on);
        for &reg in regs {
            for lane in lanes_of(on) {
                hash = (hash ^ self.regs.lane(reg, lane))
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .rotate_left(23);
            }
        }
        let (pc, progress) = (self.pc, self.progress);
        match self.polls.iter_mut().find(|poll| poll.pc == pc) {
            Some(poll) if poll.values == hash && poll.progress == progress => poll.times += 1,
            Some(poll) => *poll = Poll { pc, values: hash, times: 0, progress },
            None => self.polls.push(Poll { pc, values: hash, times: 0, progress }),
        }
    }

    /// Whether the poll just made has found the same too often.
    fn spins(&mut self) -> bool {
        let pc = self.pc;
        let poll = self.polls.iter_mut().find(|poll| poll.pc == pc && poll.times >= SPINS);
        poll.map(|poll| poll.times = 0).is_some()
    }

    fn who(&self, lane: usize, strong: bool) -> Who {
        Who { warp: self.index, lane, strong, pc: self.pc as usize }
    }
}
