//! An entry as PTX kernels get it: the parameters of each launch, and for which it waits.

use super::ALIGNMENT;
use crate::bind::{Addresses, bind};
use crate::hazard::Order;
use crate::{BoundLaunch, DeviceError, Repeat, Span};
use q35_artifact::Kernel;

/// Launches, checked, and the lists of addresses that they will find in memory.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub launches: Vec<Launch>,
    /// Each list begins at a multiple of [`ALIGNMENT`].
    pub lists: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    /// Its number among the loaded ones.
    pub kernel: usize,
    /// One for each parameter; then the address of the number by which the last is multiplied, or
    /// 0; then `each`.
    pub words: Vec<u64>,
    /// How many tasks there are, if that is known.
    tasks: Option<u32>,
    /// Launches before it that must have ended.
    pub waits: Vec<usize>,
    /// Parameters that get the address of a place among the lists.
    links: Vec<(usize, u64)>,
}

impl Draft {
    /// Check launches against their kernels and memory. Those without tasks are left out.
    pub fn new<'a>(
        launches: &[BoundLaunch],
        kernel: &dyn Fn(u32) -> Result<&'a Kernel, DeviceError>,
        place: &dyn Fn(Span) -> Result<u64, DeviceError>,
    ) -> Result<Self, DeviceError> {
        let mut draft = Self::default();
        let mut order = Order::default();
        for launch in launches {
            let bound = bind(launch, kernel(launch.kernel.0)?, ALIGNMENT, place)?;
            let each = launch.tasks.each;
            if each == 0 {
                continue;
            }
            let Addresses { args: mut words, lists, times, touched } = bound;
            words.extend([times, each.into()]);
            let links = lists.iter().map(|(param, list)| (*param, draft.push(list))).collect();
            let tasks = matches!(launch.tasks.repeat, Repeat::Once).then_some(each);
            let (kernel, waits) = (launch.kernel.0 as usize, order.next(touched));
            draft.launches.push(Launch { kernel, words, tasks, waits, links });
        }
        Ok(draft)
    }

    /// Write the addresses of the lists, now that it is known where they lie.
    pub fn link(&mut self, lists: u64) {
        for launch in &mut self.launches {
            for &(param, at) in &launch.links {
                launch.words[param] = lists + at;
            }
        }
    }

    fn push(&mut self, list: &[u64]) -> u64 {
        let begin = self.lists.len().next_multiple_of(ALIGNMENT as usize);
        self.lists.resize(begin, 0);
        self.lists.extend(list.iter().flat_map(|address| address.to_le_bytes()));
        begin as u64
    }
}

impl Launch {
    /// Blocks on a device that is full with so many.
    pub fn grid(&self, most: u32) -> u32 {
        self.tasks.map_or(most, |tasks| tasks.min(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BoundArg, BoundTasks, BufferId, KernelId};
    use q35_artifact::Param;
    use q35_types::DType;

    fn span(buffer: u32, offset: u64, bytes: u64) -> Span {
        Span { buffer: BufferId(buffer), offset, bytes }
    }

    /// Buffers lie at multiples of 0x10000.
    fn place(span: Span) -> Result<u64, DeviceError> {
        Ok(0x10000 * u64::from(span.buffer.0) + span.offset)
    }

    fn draft(launches: &[(u32, Repeat, Vec<BoundArg>)]) -> Draft {
        let param = |name: &str, write, table| {
            let (name, dtype) = (name.into(), DType::I32);
            Param { name, dtype, write, table }
        };
        let params = vec![param("out", true, false), param("in", false, false)];
        let one = Kernel { name: "one".into(), shared_bytes: 0, params };
        let params = vec![param("in", false, true), param("out", true, false)];
        let list = Kernel { name: "list".into(), shared_bytes: 0, params };
        let bound = |(each, repeat, args): &(u32, Repeat, Vec<BoundArg>)| BoundLaunch {
            kernel: KernelId(matches!(args[0], BoundArg::Table(_)).into()),
            tasks: BoundTasks { each: *each, repeat: *repeat },
            args: args.clone(),
        };
        let launches: Vec<_> = launches.iter().map(bound).collect();
        let kernels = [one, list];
        Draft::new(&launches, &|id| Ok(&kernels[id as usize]), &place).unwrap()
    }

    #[test]
    fn parameters_are_addresses_then_the_number_of_tasks() {
        let args = vec![BoundArg::Span(span(1, 64, 8)), BoundArg::Span(span(2, 128, 8))];
        let word = Repeat::Word { buffer: BufferId(3), offset: 12 };
        let draft = draft(&[(5, Repeat::Once, args.clone()), (7, word, args)]);
        let words = |index: usize| draft.launches[index].words.clone();
        assert_eq!(words(0), [0x10040, 0x20080, 0, 5]);
        assert_eq!(words(1), [0x10040, 0x20080, 0x3000c, 7]);
        let grids = |most| draft.launches.iter().map(|l| l.grid(most)).collect::<Vec<_>>();
        assert_eq!((grids(4), grids(100)), (vec![4, 4], vec![5, 100]));
    }

    #[test]
    fn a_list_is_an_address_of_addresses() {
        let list = |at| BoundArg::Table(vec![span(1, at, 64), span(2, 0, 64), span(9, 0, 64)]);
        let to = |buffer| BoundArg::Span(span(buffer, 0, 8));
        let once = Repeat::Once;
        let mut draft = draft(&[(1, once, vec![list(0), to(4)]), (1, once, vec![list(64), to(5)])]);
        draft.link(0x700000);
        assert_eq!(draft.launches[0].words, [0x700000, 0x40000, 0, 1]);
        assert_eq!(draft.launches[1].words, [0x700040, 0x50000, 0, 1]);
        let word = |at: usize| u64::from_le_bytes(draft.lists[at..][..8].try_into().unwrap());
        assert_eq!([word(0), word(8), word(16)], [0x10000, 0x20000, 0x90000]);
        assert_eq!([word(64), draft.lists.len() as u64], [0x10040, 64 + 24]);
    }

    #[test]
    fn a_launch_waits_for_what_it_reads_also_of_how_often_it_runs() {
        let args =
            |to, from| vec![BoundArg::Span(span(to, 0, 64)), BoundArg::Span(span(from, 0, 64))];
        let word = Repeat::Word { buffer: BufferId(5), offset: 0 };
        let once = Repeat::Once;
        let draft = draft(&[
            (1, once, args(1, 9)),
            (0, once, args(1, 9)),
            (1, once, args(5, 9)),
            (1, once, args(2, 1)),
            (1, word, args(3, 9)),
        ]);
        let waits: Vec<_> = draft.launches.iter().map(|launch| launch.waits.clone()).collect();
        assert_eq!(waits, [vec![], vec![], vec![0], vec![1]], "without the one that does nothing");
    }
}
