//! Counters as a golden file: numbers by kernel and buffer, and what has become of each.
//!
//! ```text
//! linear_128x64_bbb_t64
//!   all: launches 2, instructions 5120, flops 0, tensor_flops 2097152, barriers 8
//!   shared: requests 1024, conflicts 0
//!   loads of x: requests 64, sectors 1024, bytes 32768
//! ```

use crate::counters::Counted;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A kernel, a row of it and its numbers, in order.
type Rows = Vec<(String, String, Vec<(&'static str, u64)>)>;

/// The text of what launches of a step did, launches of a kernel together.
pub fn ledger(counted: &[Counted]) -> String {
    let mut text = String::new();
    let mut last = None;
    for (kernel, row, numbers) in &rows(counted) {
        if last != Some(kernel) {
            writeln!(text, "{kernel}").expect("a string takes it");
        }
        last = Some(kernel);
        let numbers: Vec<String> = numbers.iter().map(|(of, n)| format!("{of} {n}")).collect();
        writeln!(text, "  {row}: {}", numbers.join(", ")).expect("a string takes it");
    }
    text
}

/// A line for each number that is another in `new`, from what to what; none if all are the same.
pub fn changes(old: &str, new: &str) -> Vec<String> {
    let [old, new] = [old, new].map(read);
    let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
    let shown = |n: Option<&u64>| n.map_or("none".into(), u64::to_string);
    keys.filter(|key| old.get(*key) != new.get(*key))
        .map(|key| format!("{key}: {} -> {}", shown(old.get(key)), shown(new.get(key))))
        .collect()
}

fn rows(counted: &[Counted]) -> Rows {
    let mut rows: Rows = vec![];
    let mut add = |kernel: &str, row: String, numbers: Vec<(&'static str, u64)>| match rows
        .iter_mut()
        .find(|(k, r, _)| k == kernel && *r == row)
    {
        Some((_, _, sums)) => {
            sums.iter_mut().zip(numbers).for_each(|((_, sum), (_, n))| *sum += n);
        }
        None => rows.push((kernel.into(), row, numbers)),
    };
    for Counted { kernel, counters: c, params, .. } in counted {
        let all = vec![
            ("launches", 1),
            ("instructions", c.instructions),
            ("flops", c.flops),
            ("tensor_flops", c.tensor_flops),
            ("barriers", c.barriers),
        ];
        add(kernel, "all".into(), all);
        let shared = vec![("requests", c.shared_requests), ("conflicts", c.shared_conflicts)];
        add(kernel, "shared".into(), shared);
        for param in params {
            let ways =
                [("loads", param.loads), ("stores", param.stores), ("atomics", param.atomics)];
            for (way, t) in ways.into_iter().filter(|(_, t)| t.requests > 0) {
                let numbers =
                    vec![("requests", t.requests), ("sectors", t.sectors), ("bytes", t.bytes)];
                add(kernel, format!("{way} of {}", param.name), numbers);
            }
        }
    }
    // Rows that only a later launch of a kernel has come after the others of it.
    let order: BTreeMap<String, usize> =
        rows.iter().enumerate().rev().map(|(at, (kernel, ..))| (kernel.clone(), at)).collect();
    rows.sort_by_key(|(kernel, ..)| order[kernel]);
    rows
}

/// Each number by kernel, row and name. What cannot be read is a number of its own, so that it shows.
fn read(text: &str) -> BTreeMap<String, u64> {
    let mut kernel = "";
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let Some((row, numbers)) = line.strip_prefix("  ").and_then(|l| l.split_once(": ")) else {
            kernel = line;
            continue;
        };
        for number in numbers.split(", ") {
            let (of, n) = number.split_once(' ').unwrap_or((number, ""));
            all.insert(format!("{kernel}: {row}: {of}"), n.parse().unwrap_or(u64::MAX));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::changes;

    #[test]
    fn what_changed_is_said_by_kernel_and_counter() {
        let old = "a\n  all: launches 2, flops 7\n  loads of x: sectors 4\nb\n  all: launches 1\n";
        let new = "a\n  all: launches 2, flops 8\n  loads of y: sectors 4\nb\n  all: launches 1\n";
        assert!(changes(old, old).is_empty());
        let expected = [
            "a: all: flops: 7 -> 8",
            "a: loads of x: sectors: 4 -> none",
            "a: loads of y: sectors: none -> 4",
        ];
        assert_eq!(changes(old, new), expected);
    }
}
