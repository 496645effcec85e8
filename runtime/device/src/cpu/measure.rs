//! What this machine can do at best, so that every speed can be stated as a share of a limit.
//!
//! Data sheets know neither how fast the memory of a rented machine is nor how its clock falls
//! with wide vectors and many threads, so both are measured here and now, with as many threads as
//! the model gets. A limit is the best of several passes: what disturbs a pass makes it slower.

use super::host;
use super::pool::Pool;
use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The limits of a number of threads together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// Bytes per second that they can read from memory.
    pub bandwidth: f64,
    /// Operations on float32 per second, two for each multiply-add.
    pub flops: f64,
}

/// More than the caches of any machine but the largest hold.
const BUFFER: u64 = 1 << 30;
/// How long each limit is measured, preparations aside.
const LONG: Duration = Duration::from_millis(400);
/// Passes at least.
const PASSES: usize = 5;
/// Multiply-adds of each chain in a pass: some milliseconds.
const ROUNDS: u32 = 1 << 21;

impl Peaks {
    /// Measure them; takes one or two seconds and up to 1 GiB of memory, at most a quarter of
    /// what is free.
    ///
    /// The instruction set is the best of the machine, whatever `Q35_CPU` says.
    pub fn measure(threads: usize) -> Peaks {
        let mut pool = Pool::new(threads);
        Peaks { bandwidth: bandwidth(&mut pool), flops: flops(&mut pool) }
    }

    /// The better of two measurements of each: what disturbs one only makes it worse.
    #[must_use]
    pub fn best(self, other: Peaks) -> Peaks {
        Peaks { bandwidth: self.bandwidth.max(other.bandwidth), flops: self.flops.max(other.flops) }
    }
}

fn bandwidth(pool: &mut Pool) -> f64 {
    let bytes = host::free_memory().map_or(BUFFER, |free| BUFFER.min(free / 4));
    let words = (bytes as usize / size_of::<u64>() / pool.threads()).max(1);
    // Each thread writes what it will read: memory that nobody wrote is not there yet, and on some
    // machines it lies near whoever wrote it first.
    let parts: Vec<Mutex<Vec<u64>>> = (0..pool.threads()).map(|_| Mutex::default()).collect();
    let part = |i: usize| parts[i].lock().unwrap_or_else(PoisonError::into_inner);
    pool.run(|worker| *part(worker.index()) = vec![1; words]);
    let pass = || {
        pool.run(|worker| {
            black_box(sum(&part(worker.index())));
        });
    };
    let bytes = parts.len() * words * size_of::<u64>();
    bytes as f64 / quickest(pass)
}

fn flops(pool: &mut Pool) -> f64 {
    let chains = best_chains();
    let pass = || {
        pool.run(|_| {
            black_box((chains.run)(black_box(ROUNDS)));
        });
    };
    let seconds = quickest(pass);
    2.0 * f64::from(ROUNDS) * f64::from(chains.floats) * pool.threads() as f64 / seconds
}

/// Seconds of the quickest of several passes.
fn quickest(mut pass: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut least = f64::INFINITY;
    let mut passes = 0;
    while passes < PASSES || begin.elapsed() < LONG {
        let start = Instant::now();
        pass();
        least = least.min(start.elapsed().as_secs_f64());
        passes += 1;
    }
    // A clock too coarse to see a pass would make the limit infinite.
    least.max(1e-9)
}

/// Adds in sixteen chains: enough loads are on their way at any time, with any vectors.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 16];
    let (groups, rest) = words.as_chunks::<16>();
    for group in groups {
        for (sum, word) in sums.iter_mut().zip(group) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().chain(rest).fold(0, |a, b| a.wrapping_add(*b))
}

/// Independent chains of multiply-adds, in registers.
struct Chains {
    /// Floats in all chains.
    floats: u32,
    /// Does so many rounds, each one multiply-add of every float.
    run: fn(u32) -> f32,
}

/// More chains than a multiply-add takes cycles, times the multipliers of any core.
const CHAINS: usize = 12;

fn best_chains() -> Chains {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return Chains { floats: 16 * CHAINS as u32, run: x86::avx512 };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Chains { floats: 8 * CHAINS as u32, run: x86::avx2 };
        }
    }
    Chains { floats: 4 * CHAINS as u32, run: portable }
}

/// Vectors of 128 bits, which every machine has; fused where that is one instruction.
fn portable(rounds: u32) -> f32 {
    let (factor, term) = (black_box([0.5f32; 4]), black_box([1f32; 4]));
    let mut sums = [[1f32; 4]; CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            for lane in 0..4 {
                sum[lane] = match cfg!(target_arch = "aarch64") {
                    true => sum[lane].mul_add(factor[lane], term[lane]),
                    false => sum[lane] * factor[lane] + term[lane],
                };
            }
        }
    }
    sums.iter().flatten().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::CHAINS;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    pub fn avx512(rounds: u32) -> f32 {
        #[target_feature(enable = "avx512f")]
        fn run(rounds: u32) -> f32 {
            let (factor, term) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(1.0)));
            let mut sums = [term; CHAINS];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = _mm512_fmadd_ps(*sum, factor, term);
                }
            }
            sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
        }
        assert!(is_x86_feature_detected!("avx512f"), "chosen by what there is");
        // SAFETY: checked in the line above.
        unsafe { run(rounds) }
    }

    pub fn avx2(rounds: u32) -> f32 {
        #[target_feature(enable = "avx2,fma")]
        fn run(rounds: u32) -> f32 {
            let (factor, term) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(1.0)));
            let mut sums = [term; CHAINS];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = _mm256_fmadd_ps(*sum, factor, term);
                }
            }
            sums.into_iter().map(|sum| _mm256_cvtss_f32(sum)).sum()
        }
        let there = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        assert!(there, "chosen by what there is");
        // SAFETY: checked in the lines above.
        unsafe { run(rounds) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        for length in [0, 1, 15, 16, 17, 1000] {
            let words: Vec<u64> = (0..length).collect();
            assert_eq!(sum(&words), (0..length).sum::<u64>());
        }
    }

    /// `x ← x / 2 + 1` comes closer to 2 with each round, so the work cannot have been left out.
    #[test]
    fn every_chain_runs_every_round() {
        let after = |rounds: u32| 2.0 - 0.5f32.powi(rounds as i32);
        for rounds in [0, 1, 3] {
            assert_eq!(portable(rounds), after(rounds) * (4 * CHAINS) as f32, "{rounds}");
        }
        let best = best_chains();
        assert!((best.run)(3) >= after(3) * CHAINS as f32);
    }

    #[test]
    fn of_two_measurements_the_best_of_each_counts() {
        let (a, b) = (Peaks { bandwidth: 1.0, flops: 4.0 }, Peaks { bandwidth: 2.0, flops: 3.0 });
        assert_eq!(a.best(b), Peaks { bandwidth: 2.0, flops: 4.0 });
    }

    #[test]
    fn limits_are_what_a_computer_can_have() {
        let peaks = Peaks::measure(2);
        assert!((1e8..1e13).contains(&peaks.bandwidth), "{peaks:?}");
        assert!((1e8..1e14).contains(&peaks.flops), "{peaks:?}");
    }
}
