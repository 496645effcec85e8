//! Several measurements as three numbers.

/// The middle one of several measurements, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stats {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Stats {
    /// None of no measurements. Of an even number, the median is between the middle two.
    pub fn of(measured: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = measured.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&least, &most) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len().is_multiple_of(2) {
            true => (sorted[middle - 1] + sorted[middle]) / 2.0,
            false => sorted[middle],
        };
        Some(Self { median, least, most })
    }

    /// The distance from least to most, as a share of the median.
    pub fn spread(&self) -> f64 {
        match self.median {
            0.0 => 0.0,
            median => (self.most - self.least) / median,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_run_does_not_move_the_median() {
        let stats = Stats::of([10.0, 2.0, 11.0]).unwrap();
        assert_eq!(stats, Stats { median: 10.0, least: 2.0, most: 11.0 });
        assert_eq!(stats.spread(), 0.9);
    }

    #[test]
    fn an_even_number_of_runs_has_its_median_between_two() {
        assert_eq!(Stats::of([4.0, 1.0, 2.0, 100.0]).unwrap().median, 3.0);
        assert_eq!(Stats::of([5.0]).unwrap(), Stats { median: 5.0, least: 5.0, most: 5.0 });
    }

    #[test]
    fn nothing_measured_is_no_result() {
        assert_eq!(Stats::of([]), None);
        assert_eq!(Stats { median: 0.0, least: 0.0, most: 0.0 }.spread(), 0.0);
    }
}
