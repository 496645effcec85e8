//! One input must not cost much.

use std::time::{Duration, Instant};

/// For one input. Far above what any takes, so that a busy machine does not matter.
pub const MOST_TIME: Duration = Duration::from_secs(20);

/// By which the process may grow, in bytes. The seeds are small: what needs this much for one was told a size and
/// believed it.
pub const MOST_MEMORY: u64 = 1 << 30;

/// Holds inputs to the limits.
pub struct Watch {
    before: u64,
}

impl Watch {
    pub fn new() -> Self {
        Watch { before: peak() }
    }

    pub fn over(&self, work: impl FnOnce()) {
        let start = Instant::now();
        work();
        let (time, grown) = (start.elapsed(), peak().saturating_sub(self.before));
        assert!(time < MOST_TIME, "an input took {time:?}, expected less than {MOST_TIME:?}");
        assert!(
            grown < MOST_MEMORY,
            "the process grew by {grown} bytes, expected less than {MOST_MEMORY}"
        );
    }
}

/// The most memory that this process ever had, in bytes; 0 where the system does not say.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn growth_is_noticed() {
        let before = peak();
        let bytes = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(peak() >= before.max(bytes.len() as u64));
    }
}
