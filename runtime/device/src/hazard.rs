//! Which launches must wait for those before them.
//!
//! A device may run launches at the same time unless something stands between. That is needed where
//! a launch touches bytes that another wrote, or writes bytes that another read. A command buffer
//! gets barriers ([`Hazards`]), which hold back all that follows; a graph gets an edge for each
//! pair that must not change places ([`Order`]).

use crate::{BufferId, Span};

/// What has been touched since the last barrier.
#[derive(Debug, Default)]
pub struct Hazards {
    read: Vec<Extent>,
    written: Vec<Extent>,
}

/// The launches so far, and what each of them comes after, as bits.
#[derive(Debug, Default)]
pub struct Order {
    launches: Vec<(Touched, Vec<u64>)>,
}

/// Bytes of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    buffer: BufferId,
    begin: u64,
    end: u64,
}

/// What one launch touches.
#[derive(Debug, Default)]
pub struct Touched {
    read: Vec<Extent>,
    written: Vec<Extent>,
}

impl Hazards {
    /// Whether a barrier is needed before a launch, which comes next.
    pub fn barrier_before(&mut self, launch: &Touched) -> bool {
        let needed = conflict((&self.read, &self.written), launch);
        if needed {
            self.read.clear();
            self.written.clear();
        }
        self.read.extend(&launch.read);
        self.written.extend(&launch.written);
        needed
    }
}

impl Order {
    /// Those of the launches before it for which a launch must wait, which comes next; without
    /// those that come before another of them anyway. The nearest is first.
    pub fn next(&mut self, launch: Touched) -> Vec<usize> {
        let mut waits = Vec::new();
        let mut behind = vec![0; self.launches.len().div_ceil(64)];
        for (index, (earlier, before)) in self.launches.iter().enumerate().rev() {
            let (word, bit) = (index / 64, 1 << (index % 64));
            if behind[word] & bit != 0 || !conflict((&earlier.read, &earlier.written), &launch) {
                continue;
            }
            behind[word] |= bit;
            behind.iter_mut().zip(before).for_each(|(all, some)| *all |= some);
            waits.push(index);
        }
        self.launches.push((launch, behind));
        waits
    }
}

impl Touched {
    pub fn read(&mut self, span: Span) {
        add(&mut self.read, span);
    }

    pub fn write(&mut self, span: Span) {
        // A kernel may also read what it writes, which adds nothing: nobody may write it meanwhile.
        add(&mut self.written, span);
    }
}

/// Add a span. Those of a list, which follow each other in one buffer, become one, with what
/// lies between: experts are many, and never written.
fn add(extents: &mut Vec<Extent>, span: Span) {
    let new = Extent { buffer: span.buffer, begin: span.offset, end: span.offset + span.bytes };
    match extents.last_mut() {
        Some(last) if last.buffer == new.buffer && new.begin >= last.end => last.end = new.end,
        _ => extents.push(new),
    }
}

/// Whether a launch must wait for what was read and written before it.
fn conflict((read, written): (&[Extent], &[Extent]), launch: &Touched) -> bool {
    meet(&launch.read, written) || meet(&launch.written, written) || meet(&launch.written, read)
}

fn meet(a: &[Extent], b: &[Extent]) -> bool {
    let one = |a: &Extent, b: &Extent| a.buffer == b.buffer && a.begin < b.end && b.begin < a.end;
    a.iter().any(|a| b.iter().any(|b| one(a, b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(buffer: u32, begin: u64, end: u64) -> Span {
        Span { buffer: BufferId(buffer), offset: begin, bytes: end - begin }
    }

    fn touched((read, written): &(&[Span], &[Span])) -> Touched {
        let mut touched = Touched::default();
        read.iter().for_each(|&span| touched.read(span));
        written.iter().for_each(|&span| touched.write(span));
        touched
    }

    /// Launches as what they read and write; which of them has a barrier before it.
    fn barriers(launches: &[(&[Span], &[Span])]) -> Vec<bool> {
        let mut hazards = Hazards::default();
        launches.iter().map(|launch| hazards.barrier_before(&touched(launch))).collect()
    }

    /// For which each of them waits.
    fn waits(launches: &[(&[Span], &[Span])]) -> Vec<Vec<usize>> {
        let mut order = Order::default();
        launches.iter().map(|launch| order.next(touched(launch))).collect()
    }

    #[test]
    fn a_barrier_stands_between_a_write_and_what_touches_it() {
        let (weights, x, y, z) = (span(0, 0, 9), span(1, 0, 64), span(1, 64, 128), span(2, 0, 64));
        // Written then read; read then written; written twice.
        assert_eq!(barriers(&[(&[weights], &[x]), (&[weights, x], &[y])]), [false, true]);
        assert_eq!(barriers(&[(&[x], &[y]), (&[z], &[x])]), [false, true]);
        assert_eq!(barriers(&[(&[x], &[y]), (&[z], &[y])]), [false, true]);
        // Overlapping by one byte.
        assert_eq!(barriers(&[(&[], &[x]), (&[span(1, 63, 65)], &[z])]), [false, true]);
    }

    #[test]
    fn none_stands_where_nothing_depends() {
        let (x, y, z) = (span(1, 0, 64), span(1, 64, 128), span(2, 0, 64));
        assert_eq!(barriers(&[(&[x], &[y]), (&[x], &[z])]), [false, false]);
        assert_eq!(barriers(&[(&[x], &[]), (&[x], &[]), (&[y], &[z])]), [false; 3]);
    }

    #[test]
    fn one_barrier_serves_all_that_came_before() {
        let (x, y, z, w) = (span(1, 0, 8), span(1, 8, 16), span(2, 0, 8), span(3, 0, 8));
        // Two independent launches, one that needs both, and one that needs only the first.
        let launches: &[(&[Span], &[Span])] =
            &[(&[x], &[y]), (&[x], &[z]), (&[y, z], &[w]), (&[y], &[x])];
        assert_eq!(barriers(launches), [false, false, true, false]);
        // And one that writes what was read after the barrier.
        let launches: &[(&[Span], &[Span])] = &[(&[], &[y]), (&[y], &[w]), (&[z], &[y])];
        assert_eq!(barriers(launches), [false, true, true]);
    }

    #[test]
    fn a_launch_waits_for_those_that_it_depends_on_and_no_others() {
        let (x, y, z, w) = (span(1, 0, 8), span(1, 8, 16), span(2, 0, 8), span(3, 0, 8));
        // Two independent launches, one that needs both, and one that needs only the first and
        // writes what both have read.
        let launches: &[(&[Span], &[Span])] =
            &[(&[x], &[y]), (&[x], &[z]), (&[y, z], &[w]), (&[y], &[x])];
        assert_eq!(waits(launches), [vec![], vec![], vec![1, 0], vec![1, 0]]);
        // Read, then written; written twice; nothing.
        let launches: &[(&[Span], &[Span])] = &[(&[x], &[]), (&[], &[x]), (&[], &[x]), (&[y], &[])];
        assert_eq!(waits(launches), [vec![], vec![0], vec![1], vec![]]);
    }

    #[test]
    fn a_wait_that_another_implies_is_left_out() {
        let (x, y, z) = (span(1, 0, 8), span(2, 0, 8), span(3, 0, 8));
        let launches: &[(&[Span], &[Span])] =
            &[(&[], &[x]), (&[x], &[y]), (&[y], &[z]), (&[x, y, z], &[])];
        assert_eq!(waits(launches), [vec![], vec![0], vec![1], vec![2]]);
        // Over a hundred of them, so that the bits need more than a word.
        let mut order = Order::default();
        for index in 0..150 {
            let mut next = Touched::default();
            next.write(x);
            next.read(span(9, index * 8, index * 8 + 8));
            let expected: Vec<usize> =
                (index > 0).then(|| index as usize - 1).into_iter().collect();
            assert_eq!(order.next(next), expected);
        }
        let mut last = Touched::default();
        last.write(span(9, 0, 1200));
        last.read(x);
        assert_eq!(order.next(last), [149]);
    }

    #[test]
    fn a_long_list_in_one_buffer_is_one_extent() {
        let mut touched = Touched::default();
        (0..512).for_each(|expert| touched.read(span(4, expert * 64, expert * 64 + 60)));
        assert_eq!(touched.read, [Extent { buffer: BufferId(4), begin: 0, end: 511 * 64 + 60 }]);
    }
}
