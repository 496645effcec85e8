//! Numbers and tables as people read them.

/// `1.50 GiB`, with three digits that count.
pub fn bytes(n: u64) -> String {
    scaled(n as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// `1.50 G`, with three digits that count.
pub fn decimal(n: f64) -> String {
    scaled(n, 1000.0, &["", "K", "M", "G", "T", "P"])
}

/// `12.3`, with three digits that count.
pub fn digits(n: f64) -> String {
    match n {
        _ if n < 9.995 => format!("{n:.2}"),
        _ if n < 99.95 => format!("{n:.1}"),
        _ => format!("{n:.0}"),
    }
}

/// `12.3 %`
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn scaled(mut n: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // What would round up to the next unit is in the next unit.
    while n >= step - 0.5 && unit + 1 < units.len() {
        n /= step;
        unit += 1;
    }
    let text = match unit {
        0 if n == n.trunc() => format!("{n}"),
        _ => digits(n),
    };
    format!("{text} {}", units[unit])
}

/// Lines of cells, each column as wide as its widest cell and aligned to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_count() {
        let said = [0, 1023, 1024, 3 << 19, (1 << 20) - 1, u64::MAX].map(bytes);
        assert_eq!(said, ["0 B", "1023 B", "1.00 KiB", "1.50 MiB", "1.00 MiB", "16.0 EiB"]);
        let said = [0.5, 7.0, 999.7, 32.9e9, 1e20].map(decimal);
        assert_eq!(said, ["0.50 ", "7 ", "1.00 K", "32.9 G", "100000 P"]);
        assert_eq!([0.004, 9.999, 12.34, 999.9].map(digits), ["0.00", "10.0", "12.3", "1000"]);
        assert_eq!(percent(0.1234), "12.3 %");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "10"], ["long", "1"]].map(|r| r.map(String::from).to_vec());
        assert_eq!(table(&rows), "   a  10\nlong   1\n");
    }
}
