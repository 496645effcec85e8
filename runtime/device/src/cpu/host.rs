//! What this machine is and has, as far as the system tells.

/// The maker's name of the processor.
pub(crate) fn name() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").ok();
    let line = |text: &str| {
        let line = text.lines().find(|l| l.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    told.and_then(|text| line(&text)).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Threads that can run at once.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(crate) fn total_memory() -> Option<u64> {
    memory("MemTotal")
}

/// What could be allocated without others having to give way.
pub(crate) fn free_memory() -> Option<u64> {
    memory("MemAvailable")
}

/// The instruction sets that kernels here have a use for.
pub(crate) fn features() -> Vec<String> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found: [(&str, bool); 0] = [];
    found.into_iter().filter(|f| f.1).map(|f| f.0.to_owned()).collect()
}

fn memory(key: &str) -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/meminfo").ok()?, key)
}

/// A line such as `MemTotal:  24689332 kB`, in bytes.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_by_its_exact_key() {
        let text = "MemTotal:       100 kB\nMemFree:  7 kB\nMemAvailable:    50 kB\n";
        assert_eq!(kibibytes(text, "MemAvailable"), Some(51_200));
        assert_eq!(kibibytes(text, "Mem"), None);
        assert_eq!(kibibytes("MemTotal: lots", "MemTotal"), None);
    }
}
