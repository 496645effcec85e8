//! One block: its warps in turns, its barriers, its shared memory.

use crate::counters::Tally;
use crate::error::{Error, Fault, FaultKind};
use crate::exec::{Around, Arrivals, Barriers, Stop, Trouble, Warp};
use crate::launch::Env;
use crate::shared::{Shared, Unwritten};
use std::sync::{Mutex, MutexGuard};

/// Instructions of a warp before the next has its turn: a warp that polls what another writes gets an answer.
const QUANTUM: u64 = 1 << 16;
/// Instructions of a warp that may follow a read of unwritten shared memory before it is told.
const GRACE: u64 = 1 << 22;

/// How a block stopped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pause {
    Done,
    /// All that can run polls memory that does not change.
    Waiting,
}

pub(crate) struct Block {
    /// What it was made for, besides its kernel: grid, block, bytes of dynamic shared memory.
    shape: Shape,
    at: [u32; 3],
    warps: Vec<Warp>,
    shared: Shared,
    barriers: Barriers,
    done: Vec<bool>,
    hint: usize,
    clock: u64,
    grace: u64,
}

type Shape = ([u32; 3], [u32; 3], u64);

fn shape(env: &Env<'_>) -> Shape {
    (env.grid, env.block, env.dynamic_shared)
}

/// Blocks of a kernel that have ended well, for the next ones: to make one takes longer than many run.
#[derive(Default)]
pub(crate) struct Spare(Mutex<Vec<Block>>);

impl Spare {
    /// As many as small launches, of which there are many, have at once.
    const MOST: usize = 4;

    pub fn take(&self, env: &Env<'_>) -> Block {
        let mut blocks = self.blocks();
        blocks.retain(|block| block.shape == shape(env));
        let found = blocks.pop();
        drop(blocks);
        found.unwrap_or_else(|| Block::new(env))
    }

    pub fn give(&self, block: Block) {
        let mut blocks = self.blocks();
        if blocks.len() < Self::MOST {
            blocks.push(block);
        }
    }

    fn blocks(&self) -> MutexGuard<'_, Vec<Block>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Block {
    fn new(env: &Env<'_>) -> Self {
        let warps = env.threads.div_ceil(32);
        let kernel = env.kernel;
        Self {
            shape: shape(env),
            at: [0; 3],
            warps: (0..warps).map(|index| Warp::new(env, index)).collect(),
            shared: Shared::new(env.shared_bytes, kernel.granule, warps, kernel.partial_barriers),
            barriers: Barriers::default(),
            done: vec![],
            hint: 0,
            clock: 0,
            grace: 0,
        }
    }

    pub fn start(&mut self, env: &Env<'_>, at: [u32; 3]) {
        self.at = at;
        self.shared.restart();
        self.barriers = Barriers::default();
        self.done.clear();
        self.done.resize(self.warps.len(), false);
        self.clock = 0;
        self.grace = 0;
        for warp in &mut self.warps {
            warp.start(env, at);
        }
    }

    /// What has happened that others may wait for.
    pub fn progress(&self) -> u64 {
        self.warps.iter().map(|warp| warp.progress).sum()
    }

    pub fn run(
        &mut self,
        env: &Env<'_>,
        tally: &mut Tally,
        left: &mut u64,
    ) -> Result<Pause, Error> {
        loop {
            let mut ran = false;
            let mut spinning = false;
            for i in 0..self.warps.len() {
                if self.done[i] {
                    continue;
                }
                let mut around = Around {
                    env,
                    shared: &mut self.shared,
                    tally,
                    barriers: &mut self.barriers,
                    hint: &mut self.hint,
                    left,
                    clock: &mut self.clock,
                };
                let stop = self.warps[i]
                    .run(&mut around, QUANTUM)
                    .map_err(|t| self.faulted(env, i, *t))?;
                match stop {
                    Stop::Done => {
                        self.done[i] = true;
                        ran = true;
                    }
                    Stop::Blocked => {}
                    Stop::Paused => {
                        if *left == 0 {
                            return Err(self.hang(env, i, "the launch has run as long as it may"));
                        }
                        self.end_grace(env)?;
                        ran = true;
                    }
                    Stop::Spinning => spinning = true,
                    Stop::Arrived => {
                        self.release(env, tally)?;
                        ran = true;
                    }
                }
            }
            if self.done.iter().all(|done| *done) {
                self.tell_unwritten(env)?;
                return Ok(Pause::Done);
            }
            if !ran {
                if spinning {
                    return Ok(Pause::Waiting);
                }
                return Err(self.deadlock(env));
            }
        }
    }

    /// Those who wait at a barrier that is complete go on.
    fn release(&mut self, env: &Env<'_>, tally: &mut Tally) -> Result<(), Error> {
        for id in 0..self.barriers.len() {
            let arrivals = &self.barriers[id];
            if arrivals.count == 0 || arrivals.count < arrivals.expected {
                continue;
            }
            let arrivals = std::mem::take(&mut self.barriers[id]);
            tally.barriers += 1;
            let all = arrivals.expected as usize >= env.threads;
            if all && !env.kernel.partial_barriers {
                self.shared.meet();
                self.tell_unwritten(env)?;
            } else {
                self.join(id as u8, &arrivals);
            }
            for i in 0..self.warps.len() {
                if let Err((pc, lane)) = self.warps[i].release(env, id as u8, &arrivals) {
                    let message =
                        format!("lanes of one warp wait for barrier {id} at several places");
                    return Err(self.fault(
                        env,
                        FaultKind::Barrier,
                        pc as usize,
                        i * 32 + lane,
                        message,
                    ));
                }
            }
        }
        Ok(())
    }

    /// Those who waited have seen what all who came had.
    fn join(&mut self, id: u8, arrivals: &Arrivals) {
        for i in 0..self.warps.len() {
            if self.warps[i].waiting_at_barrier().is_some_and(|(_, _, at)| at == id) {
                self.shared.leave(i, &arrivals.brought);
            }
        }
    }

    fn deadlock(&self, env: &Env<'_>) -> Error {
        if let Some(error) = self.unwritten(env) {
            return error;
        }
        for (i, warp) in self.warps.iter().enumerate() {
            if let Some((pc, lane)) = warp.waiting_for_lanes() {
                let message = "waits for lanes that wait at a barrier".to_owned();
                return self.fault(
                    env,
                    FaultKind::DivergentShuffle,
                    pc as usize,
                    i * 32 + lane,
                    message,
                );
            }
        }
        let waiting = self.warps.iter().enumerate();
        let found = waiting.filter_map(|(i, warp)| Some((i, warp.waiting_at_barrier()?))).next();
        let (i, (pc, lane, id)) =
            found.expect("a warp that is neither done nor can run waits somewhere");
        let Arrivals { count, expected, .. } = self.barriers[usize::from(id)];
        let message = format!("barrier {id} is reached by {count} of {expected} threads");
        self.fault(env, FaultKind::Barrier, pc as usize, i * 32 + lane, message)
    }

    /// Nothing else will come of a read of unwritten memory.
    fn tell_unwritten(&self, env: &Env<'_>) -> Result<(), Error> {
        self.unwritten(env).map_or(Ok(()), Err)
    }

    fn unwritten(&self, env: &Env<'_>) -> Option<Error> {
        let Unwritten { thread, pc, message } = self.shared.unwritten.clone()?;
        Some(self.fault(env, FaultKind::Uninitialised, pc, thread, message))
    }

    fn end_grace(&mut self, env: &Env<'_>) -> Result<(), Error> {
        if self.shared.unwritten.is_some() {
            self.grace += QUANTUM;
            if self.grace > GRACE {
                return self.tell_unwritten(env);
            }
        }
        Ok(())
    }

    fn faulted(&self, env: &Env<'_>, warp: usize, trouble: Trouble) -> Error {
        let Trouble { kind, lane, message } = trouble;
        // What was read before it was written may be the cause; a race explains even that.
        if kind != FaultKind::Race
            && let Some(error) = self.unwritten(env)
        {
            return error;
        }
        self.fault(env, kind, self.warps[warp].pc as usize, warp * 32 + lane, message)
    }

    pub fn hang(&self, env: &Env<'_>, warp: usize, message: &str) -> Error {
        if let Some(error) = self.unwritten(env) {
            return error;
        }
        self.fault(env, FaultKind::Hang, self.warps[warp].pc as usize, warp * 32, message.into())
    }

    /// A warp that waits for what never comes.
    pub fn waits_forever(&self, env: &Env<'_>) -> Error {
        let warp = self.done.iter().position(|done| !done).unwrap_or_default();
        self.hang(env, warp, "waits for what no other block does any more")
    }

    fn fault(
        &self,
        env: &Env<'_>,
        kind: FaultKind,
        pc: usize,
        thread: usize,
        message: String,
    ) -> Error {
        Error::Fault(Box::new(Fault {
            kind,
            kernel: env.kernel.name.clone(),
            line: env.kernel.code[pc].line,
            block: self.at,
            thread: env.thread_at(thread),
            message,
        }))
    }
}
