//! Numbers and tables as people read them.

/// `1.50 GiB`, with three digits that count.
pub fn bytes(n: f64) -> String {
    scaled(n, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// `1.50 G` operations.
pub fn operations(n: f64) -> String {
    scaled(n, 1000.0, &["", "K", "M", "G", "T", "P", "E"])
}

/// `1,234,567`
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `12.3` of 0.0000123 seconds
pub fn microseconds(seconds: f64) -> String {
    format!("{:.1}", seconds * 1e6)
}

/// `1,234` or `12.3` a second
pub fn rate(n: f64) -> String {
    if n < 99.95 { format!("{n:.1}") } else { count(n.round() as u64) }
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
    let text = match n {
        _ if n == n.trunc() && unit == 0 => format!("{n}"),
        _ if n < 9.995 => format!("{n:.2}"),
        _ if n < 99.95 => format!("{n:.1}"),
        _ => format!("{n:.0}"),
    };
    format!("{text} {}", units[unit]).trim_end().into()
}

/// Lines of cells, the first column to the left and the others to the right, `indent` before each.
pub fn table(indent: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (c, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line += &match c {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            };
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_count() {
        let said = [0.0, 7.0, 0.5, 1023.0, 1024.0, 1.5 * 1024.0 * 1024.0, 1023.7 * 1024.0, 1e30];
        assert_eq!(
            said.map(bytes),
            [
                "0 B",
                "7 B",
                "0.50 B",
                "1023 B",
                "1.00 KiB",
                "1.50 MiB",
                "1.00 MiB",
                "888178419700125 PiB"
            ]
        );
        assert_eq!([0.0, 12.34e9, 999.7].map(operations), ["0", "12.3 G", "1.00 K"]);
        assert_eq!([0, 999, 1000, 1234567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(percent(0.1234), "12.3 %");
        assert_eq!(microseconds(12.345e-6), "12.3");
        assert_eq!([12.34, 99.96, 1234.5].map(rate), ["12.3", "100", "1,235"]);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "1"], ["longer", "100"]].map(|r| r.map(String::from).to_vec());
        assert_eq!(table("  ", &rows), "  a         1\n  longer  100\n");
    }
}
