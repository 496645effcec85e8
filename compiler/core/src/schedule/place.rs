//! Where in the arena each tensor lies: at the lowest offset that nothing alive at the same time
//! covers.

/// Bytes wanted from the first launch that touches them to the last.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub bytes: u64,
    pub first: usize,
    pub last: usize,
}

/// Every tensor begins at a multiple of this.
const ALIGN: u64 = 64;

/// Offsets, and how far they reach. Larger tensors choose first.
pub fn place(wanted: &[Wanted]) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&n| (std::cmp::Reverse(wanted[n].bytes), n));
    let mut offsets = vec![0; wanted.len()];
    let mut placed: Vec<usize> = vec![];
    let mut end = 0;
    for n in order {
        let w = wanted[n];
        let mut rivals: Vec<(u64, u64)> = placed
            .iter()
            .filter(|&&p| wanted[p].first <= w.last && w.first <= wanted[p].last)
            .map(|&p| (offsets[p], offsets[p] + wanted[p].bytes))
            .collect();
        rivals.sort_unstable();
        let mut at = 0;
        for (from, to) in rivals {
            if at + w.bytes <= from {
                break;
            }
            at = at.max(to.next_multiple_of(ALIGN));
        }
        offsets[n] = at;
        end = end.max(at + w.bytes);
        placed.push(n);
    }
    (offsets, end.next_multiple_of(ALIGN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alive_together_does_not_overlap() {
        let wanted: Vec<Wanted> = (0..40u64)
            .map(|n| {
                let first = (n * 7 % 13) as usize;
                Wanted { bytes: n * 37 % 500 + 1, first, last: first + (n % 4) as usize }
            })
            .collect();
        let (offsets, end) = place(&wanted);
        for (i, a) in wanted.iter().enumerate() {
            assert!(offsets[i] % ALIGN == 0 && offsets[i] + a.bytes <= end);
            for (j, b) in wanted.iter().enumerate().skip(i + 1) {
                let together = a.first <= b.last && b.first <= a.last;
                let apart =
                    offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                assert!(!together || apart, "{i} and {j}");
            }
        }
    }

    #[test]
    fn what_follows_reuses_the_place() {
        let one = |first| Wanted { bytes: 100, first, last: first };
        assert_eq!(place(&[one(0), one(1), one(2)]), (vec![0, 0, 0], 128));
    }
}
