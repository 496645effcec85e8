//! Threads that run launches together.
//!
//! A step is a list of launches. Starting threads for each would cost more than many launches
//! do, so a pool's threads live on, all go through the same list side by side, and meet at the
//! end of every launch. Who is early waits by spinning, as launches are short, but gives way
//! soon: machines may have fewer cores than threads. Between steps threads sleep.
//!
//! ```
//! # use q35_device::cpu::pool::Pool;
//! # use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
//! let mut pool = Pool::new(4);
//! let (sum, seen) = (AtomicU64::new(0), AtomicU64::new(0));
//! pool.run(|worker| {
//!     worker.launch(1000, |tasks| {
//!         sum.fetch_add(tasks.sum(), Relaxed);
//!     });
//!     // Everything that the launch did is there now, whichever thread did it.
//!     worker.launch(1, |_| seen.store(sum.load(Relaxed), Relaxed));
//! });
//! assert_eq!(seen.into_inner(), 999 * 1000 / 2);
//! ```

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Turns of a waiting loop before it yields at each further one: some ten microseconds.
const SPINS: u32 = 512;
/// Turns, all in all, before a thread without work goes to sleep: a few hundred microseconds, so
/// that it is still awake when the next token's step follows.
const TURNS: u32 = SPINS + 512;

/// A number of threads, the caller's among them.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// One of the threads, during [`Pool::run`].
#[derive(Debug, Clone, Copy)]
pub struct Worker<'p> {
    index: usize,
    shared: &'p Shared,
}

struct Shared {
    /// Threads, the caller's among them.
    count: usize,
    /// Counts up when there is a job, and when the pool is dropped.
    generation: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// Threads of the pool that still run the job.
    running: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    /// First task of the launch that nobody has taken yet.
    next: AtomicU64,
    barrier: Barrier,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

type Job = *const (dyn Fn(Worker<'_>) + Sync);

// SAFETY: `job` is written only by `Pool::run` and `Pool::drop`, while no thread runs one
// (`running` is 0), and read only after a change of `generation` that was made later. What it
// points at is `Sync` and outlives `run`, which waits until `running` is 0 again.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing else in it is bound to a thread.
unsafe impl Send for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Pool {
    /// `threads` of them (at least one), of which all but the caller's are started now.
    ///
    /// Panics if the system refuses to start a thread.
    pub fn new(threads: usize) -> Pool {
        let count = threads.max(1);
        let shared = Arc::new(Shared {
            count,
            generation: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            running: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            next: AtomicU64::new(0),
            barrier: Barrier::new(count),
            panic: Mutex::new(None),
        });
        let start = |index| {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("q35-cpu-{index}"));
            thread.spawn(move || shared.serve(index)).expect("a thread can be started")
        };
        let threads = (1..count).map(start).collect();
        Pool { shared, threads }
    }

    pub fn threads(&self) -> usize {
        self.shared.count
    }

    /// Run `job` on every thread at once; all must make the same calls of [`Worker::launch`].
    ///
    /// If it panics on one thread, it ends on all of them at their next launch, and the panic goes on here.
    pub fn run(&mut self, job: impl Fn(Worker<'_>) + Sync) {
        let shared = &*self.shared;
        shared.barrier.reset();
        shared.next.store(0, Ordering::Relaxed);
        let job: &(dyn Fn(Worker<'_>) + Sync) = &job;
        // SAFETY: the lifetime is forgotten, but this function does not return, nor unwind, before
        // every thread is done with `job`; and no thread reads the cell now (see `Shared`).
        unsafe {
            *shared.job.get() = Some(std::mem::transmute::<&(dyn Fn(Worker<'_>) + Sync), Job>(job))
        };
        shared.running.store(shared.count - 1, Ordering::Relaxed);
        shared.announce();
        shared.guarded(0, job);
        let mut turns = 0;
        while shared.running.load(Ordering::Acquire) != 0 {
            pause(&mut turns);
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: no job is running, so no thread reads the cell.
        unsafe { *self.shared.job.get() = None };
        self.shared.announce();
        for thread in self.threads.drain(..) {
            thread.join().expect("a thread catches the panics of its jobs");
        }
    }
}

impl Worker<'_> {
    /// Number of this thread, below [`count`](Self::count).
    pub fn index(&self) -> usize {
        self.index
    }

    /// Threads that run the job.
    pub fn count(&self) -> usize {
        self.shared.count
    }

    /// Run tasks `0..tasks`, this thread's share in some number of ranges, and wait for the others.
    ///
    /// Who is first takes more: a range is half of an even share of what is left. So a launch of equal
    /// tasks takes few ranges, and one of unequal tasks still ends for all at about the same time.
    pub fn launch(&self, tasks: u64, run: impl Fn(Range<u64>)) {
        let shared = self.shared;
        let parts = 2 * shared.count as u64;
        let share = |next: u64| match shared.count {
            1 => tasks - next,
            _ => (tasks - next).div_ceil(parts),
        };
        let take = |next: u64| (next < tasks).then(|| next + share(next));
        while let Ok(begin) = shared.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            run(begin..begin + share(begin));
        }
        shared.barrier.wait(|| shared.next.store(0, Ordering::Relaxed));
    }
}

impl Shared {
    fn announce(&self) {
        // Under the lock, lest a thread goes to sleep between its last look and the call.
        let _guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::Release);
        self.wake.notify_all();
    }

    /// The life of a thread.
    fn serve(&self, index: usize) {
        let mut seen = 0;
        loop {
            seen = self.news(seen);
            // SAFETY: `generation` has changed, so the cell was written before and is not now.
            match unsafe { *self.job.get() } {
                // SAFETY: the job lives until `running` has come down to 0.
                Some(job) => self.guarded(index, unsafe { &*job }),
                None => return,
            }
            self.running.fetch_sub(1, Ordering::Release);
        }
    }

    /// Wait for another generation than `seen`.
    fn news(&self, seen: u64) -> u64 {
        let current = || self.generation.load(Ordering::Acquire);
        let mut turns = 0;
        while turns < TURNS {
            if current() != seen {
                return current();
            }
            pause(&mut turns);
        }
        let guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.wake
                .wait_while(guard, |()| current() == seen)
                .unwrap_or_else(PoisonError::into_inner),
        );
        current()
    }

    /// Run the job; keep the first panic, and let nobody wait for who panicked.
    fn guarded(&self, index: usize, job: &(dyn Fn(Worker<'_>) + Sync)) {
        let result = catch_unwind(AssertUnwindSafe(|| job(Worker { index, shared: self })));
        if let Err(panic) = result {
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            if !panic.is::<Broken>() {
                first.get_or_insert(panic);
            }
            self.barrier.broken.store(true, Ordering::Release);
        }
    }
}

/// What threads end with that wait for one that has panicked.
struct Broken;

/// A meeting point, used again and again.
struct Barrier {
    count: usize,
    arrived: AtomicUsize,
    /// Counts the meetings.
    meeting: AtomicUsize,
    broken: AtomicBool,
}

impl Barrier {
    fn new(count: usize) -> Barrier {
        Barrier {
            count,
            arrived: AtomicUsize::new(0),
            meeting: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        }
    }

    fn reset(&self) {
        self.arrived.store(0, Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
    }

    /// Wait until all have come. The last one does `between` before anyone goes on.
    fn wait(&self, between: impl FnOnce()) {
        let meeting = self.meeting.load(Ordering::Relaxed);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.count {
            between();
            self.arrived.store(0, Ordering::Relaxed);
            self.meeting.store(meeting.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut turns = 0;
        while self.meeting.load(Ordering::Acquire) == meeting {
            if self.broken.load(Ordering::Acquire) {
                // Not a panic of its own: nothing is printed, and `guarded` knows it.
                resume_unwind(Box::new(Broken));
            }
            pause(&mut turns);
        }
    }
}

/// One turn of a waiting loop.
fn pause(turns: &mut u32) {
    if *turns < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
    *turns = turns.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_task_runs_once_and_launches_come_one_after_another() {
        for threads in [1, 2, 3, 8] {
            let mut pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 64, 1000] {
                let ran: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(|worker| {
                    for round in 0..20 {
                        worker.launch(tasks, |range| {
                            for task in range {
                                // Whoever ran the launch before, it is complete and visible.
                                let other = (task as usize * 7 + 3) % ran.len();
                                assert!(ran[other].load(Ordering::Relaxed) >= round);
                                ran[task as usize].fetch_add(1, Ordering::Relaxed);
                            }
                        });
                    }
                });
                assert!(
                    ran.iter().all(|r| r.load(Ordering::Relaxed) == 20),
                    "{threads} threads, {tasks} tasks"
                );
            }
        }
    }

    #[test]
    fn threads_that_slept_wake_up() {
        let mut pool = Pool::new(3);
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(20));
            let ran = AtomicUsize::new(0);
            pool.run(|_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.into_inner(), 3);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = Pool::new(4);
        for who in [0, 2] {
            let job = |worker: Worker<'_>| {
                assert_ne!(worker.index(), who, "as planned");
                worker.launch(10, |_| {});
                worker.launch(10, |_| {});
            };
            let caught = catch_unwind(AssertUnwindSafe(|| pool.run(job))).expect_err("a panic");
            let message = caught.downcast_ref::<String>().expect("the panic's own message");
            assert!(message.contains("as planned"), "{message}");
            let ran = AtomicU64::new(0);
            pool.run(|worker| {
                worker.launch(100, |tasks| {
                    ran.fetch_add(tasks.end - tasks.start, Ordering::Relaxed);
                })
            });
            assert_eq!(ran.into_inner(), 100);
        }
    }
}
