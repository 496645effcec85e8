//! A launch: its blocks on host threads, and one after the other where their order could show.
//!
//! A kernel whose results could depend on the order of its blocks (float atomics, returned values that are used,
//! volatile and acquire loads) runs them in the order of their index. Such kernels may also wait for each other: a
//! block that polls what does not change steps back, those after it begin, and it goes on when it is its turn again.
//! All other kernels run on as many threads as are wanted; their counters are sums, and of several faults the one of
//! the lowest block is told, so neither depends on the number of threads.

use crate::block::{Block, Pause, Spare};
use crate::counters::{Counters, Tally};
use crate::error::Error;
use crate::memory::Memory;
use crate::op::Kernel;
use crate::types::Space;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Rounds of polling by all blocks, with nothing done in between, before they are taken to wait forever.
const PATIENCE: u32 = 8;
/// Instructions before other threads are asked to help: to wake them takes as long.
const ALONE: u64 = 1 << 12;
/// What the hardware allows a block.
const MOST_THREADS: u64 = 1024;
const MOST_SHARED: u64 = 227 << 10;

/// What a launch is given.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of `.extern .shared`.
    pub dynamic_shared: u64,
    /// The parameters, each at its alignment, as the driver lays them out: see [`crate::Program::parameters`].
    pub params: &'a [u8],
    /// Host threads.
    pub threads: usize,
    /// Warp instructions that a host thread may run: more is a hang.
    pub limit: u64,
}

impl Default for Launch<'_> {
    fn default() -> Self {
        Self {
            grid: [1; 3],
            block: [1; 3],
            dynamic_shared: 0,
            params: &[],
            threads: 1,
            limit: u64::MAX,
        }
    }
}

/// What all blocks of a launch share.
pub(crate) struct Env<'a> {
    pub kernel: &'a Kernel,
    pub memory: &'a Memory,
    pub params: &'a [u8],
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub threads: usize,
    pub dynamic_shared: u64,
    pub shared_bytes: u64,
}

impl Env<'_> {
    pub fn thread_at(&self, index: usize) -> [u32; 3] {
        unfold(index as u64, self.block)
    }
}

fn unfold(index: u64, [x, y, _]: [u32; 3]) -> [u32; 3] {
    let (x, y) = (u64::from(x), u64::from(y));
    [(index % x) as u32, (index / x % y) as u32, (index / (x * y)) as u32]
}

pub(crate) fn launch(
    kernel: &Kernel,
    spare: &Spare,
    memory: &Memory,
    launch: &Launch<'_>,
) -> Result<Counters, Error> {
    let env = environment(kernel, memory, launch)?;
    let [x, y, z] = launch.grid.map(u64::from);
    let blocks = x * y * z;
    let tally = if kernel.ordered || launch.threads <= 1 || blocks == 1 {
        in_order(&env, spare, blocks, launch.limit)?
    } else {
        at_once(&env, spare, blocks, launch)?
    };
    Ok(tally.counters(kernel, memory))
}

fn environment<'a>(
    kernel: &'a Kernel,
    memory: &'a Memory,
    launch: &Launch<'a>,
) -> Result<Env<'a>, Error> {
    let fail = |message: String| Err(Error::Launch(format!("kernel `{}`: {message}", kernel.name)));
    let Launch { grid, block, dynamic_shared, params, .. } = *launch;
    let [x, y, z] = block.map(u64::from);
    let threads = x.saturating_mul(y).saturating_mul(z);
    if threads == 0 || threads > MOST_THREADS || z > 64 {
        return fail(format!("a block of {x} x {y} x {z} threads, expected 1 to {MOST_THREADS}"));
    }
    if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65535 || grid[2] > 65535 {
        return fail(format!("a grid of {} x {} x {} blocks", grid[0], grid[1], grid[2]));
    }
    if let Some([rx, ry, rz]) = kernel.required
        && kernel.required != Some(block)
    {
        return fail(format!(
            "a block of {x} x {y} x {z} threads, where .reqntid wants {rx} x {ry} x {rz}"
        ));
    }
    if let Some(most) = kernel.most
        && threads > most
    {
        return fail(format!("a block of {threads} threads, where .maxntid allows {most}"));
    }
    let shared_bytes = kernel.static_shared.saturating_add(dynamic_shared);
    if shared_bytes > MOST_SHARED {
        return fail(format!(
            "{shared_bytes} bytes of shared memory, more than the {MOST_SHARED} of any GPU"
        ));
    }
    if (params.len() as u64) < kernel.param_bytes {
        return fail(format!(
            "{} bytes of parameters, expected {}",
            params.len(),
            kernel.param_bytes
        ));
    }
    Ok(Env {
        kernel,
        memory,
        params,
        grid,
        block,
        threads: threads as usize,
        dynamic_shared,
        shared_bytes,
    })
}

fn tally_for(env: &Env<'_>) -> Tally {
    Tally::new(env.kernel.code.len(), env.memory.allocations().len())
}

fn in_order(env: &Env<'_>, spare: &Spare, blocks: u64, limit: u64) -> Result<Tally, Error> {
    let mut tally = tally_for(env);
    let mut left = limit;
    let mut waiting: Vec<Block> = vec![];
    let mut next = 0;
    let mut idle = 0;
    while next < blocks || !waiting.is_empty() {
        let mut moved = false;
        let mut at = 0;
        while at < waiting.len() {
            let before = waiting[at].progress();
            let pause = waiting[at].run(env, &mut tally, &mut left)?;
            moved |= pause == Pause::Done || waiting[at].progress() != before;
            if pause == Pause::Done {
                spare.give(waiting.remove(at));
            } else {
                at += 1;
            }
        }
        if next < blocks {
            let mut block = spare.take(env);
            block.start(env, unfold(next, env.grid));
            next += 1;
            moved = true;
            match block.run(env, &mut tally, &mut left)? {
                Pause::Done => spare.give(block),
                Pause::Waiting => waiting.push(block),
            }
        }
        idle = if moved { 0 } else { idle + 1 };
        if idle > PATIENCE {
            return Err(waiting[0].waits_forever(env));
        }
    }
    Ok(tally)
}

/// Blocks that threads take one after the other.
struct Queue {
    next: AtomicU64,
    blocks: u64,
    /// The lowest that failed so far.
    failed: AtomicU64,
}

/// What one thread has run.
struct Worker {
    tally: Tally,
    left: u64,
    failed: Option<(u64, Error)>,
}

impl Worker {
    /// Runs blocks until there are no more, or until it has run so many instructions.
    fn run(&mut self, env: &Env<'_>, spare: &Spare, queue: &Queue, most: u64) {
        let end = self.left.saturating_sub(most);
        let mut block = spare.take(env);
        while self.left >= end {
            let index = queue.next.fetch_add(1, Relaxed);
            // Blocks before one that failed are finished: one of them may fail too, and is the one to be told.
            if index >= queue.blocks || index > queue.failed.load(Relaxed) {
                break;
            }
            block.start(env, unfold(index, env.grid));
            if let Err(error) = self.block(env, &mut block) {
                queue.failed.fetch_min(index, Relaxed);
                self.failed = Some((index, error));
                return;
            }
        }
        spare.give(block);
    }

    fn block(&mut self, env: &Env<'_>, block: &mut Block) -> Result<(), Error> {
        let mut idle = 0;
        let mut before = block.progress();
        while block.run(env, &mut self.tally, &mut self.left)? == Pause::Waiting {
            let now = block.progress();
            idle = if now == before { idle + 1 } else { 0 };
            before = now;
            if idle > PATIENCE {
                return Err(block.waits_forever(env));
            }
        }
        Ok(())
    }
}

fn at_once(env: &Env<'_>, spare: &Spare, blocks: u64, launch: &Launch<'_>) -> Result<Tally, Error> {
    let queue = Queue { next: AtomicU64::new(0), blocks, failed: AtomicU64::new(u64::MAX) };
    let worker = || Worker { tally: tally_for(env), left: launch.limit, failed: None };
    let mut workers = vec![worker()];
    workers[0].run(env, spare, &queue, ALONE);
    if queue.next.load(Relaxed) < blocks && workers[0].failed.is_none() {
        workers.resize_with((launch.threads as u64).min(blocks) as usize, worker);
        rayon::scope(|scope| {
            for worker in &mut workers {
                scope.spawn(|_| worker.run(env, spare, &queue, u64::MAX));
            }
        });
    }
    if let Some((_, error)) =
        workers.iter_mut().filter_map(|w| w.failed.take()).min_by_key(|(index, _)| *index)
    {
        return Err(error);
    }
    let mut workers = workers.into_iter().map(|worker| worker.tally);
    let mut total = workers.next().expect("the one that began");
    workers.for_each(|tally| total.merge(&tally));
    Ok(total)
}

const SHARED_WINDOW: u64 = 0x1000_0000;
const LOCAL_WINDOW: u64 = 0x2000_0000;
const PARAM_WINDOW: u64 = 0x3000_0000;
const WINDOW: u64 = 0x1000_0000;

/// Where a space begins among generic addresses; None where addresses are the same.
pub(crate) fn window(space: Space) -> Option<u64> {
    match space {
        Space::Shared => Some(SHARED_WINDOW),
        Space::Local => Some(LOCAL_WINDOW),
        Space::Param => Some(PARAM_WINDOW),
        Space::Global | Space::Const | Space::Generic => None,
    }
}

/// The space that a generic address lies in, and the address there.
pub(crate) fn space_of(address: u64) -> (Space, u64) {
    match address / WINDOW {
        1 => (Space::Shared, address - SHARED_WINDOW),
        2 => (Space::Local, address - LOCAL_WINDOW),
        3 => (Space::Param, address - PARAM_WINDOW),
        _ => (Space::Global, address),
    }
}
