//! Which launches must wait for those before them.
//!
//! A device may run launches at the same time unless a barrier stands between. One is needed where
//! a launch touches bytes that another wrote since the last barrier, or writes bytes that another
//! read.

use crate::{BufferId, Span};

/// What has been touched since the last barrier.
#[derive(Debug, Default)]
pub struct Hazards {
    read: Vec<Extent>,
    written: Vec<Extent>,
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
        let needed = meet(&launch.read, &self.written)
            || meet(&launch.written, &self.written)
            || meet(&launch.written, &self.read);
        if needed {
            self.read.clear();
            self.written.clear();
        }
        self.read.extend(&launch.read);
        self.written.extend(&launch.written);
        needed
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

    /// Launches as what they read and write; which of them has a barrier before it.
    fn barriers(launches: &[(&[Span], &[Span])]) -> Vec<bool> {
        let mut hazards = Hazards::default();
        let mut before = |(read, written): &(&[Span], &[Span])| {
            let mut touched = Touched::default();
            read.iter().for_each(|&span| touched.read(span));
            written.iter().for_each(|&span| touched.write(span));
            hazards.barrier_before(&touched)
        };
        launches.iter().map(&mut before).collect()
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
    fn a_long_list_in_one_buffer_is_one_extent() {
        let mut touched = Touched::default();
        (0..512).for_each(|expert| touched.read(span(4, expert * 64, expert * 64 + 60)));
        assert_eq!(touched.read, [Extent { buffer: BufferId(4), begin: 0, end: 511 * 64 + 60 }]);
    }
}
