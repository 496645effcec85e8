//! The CPU's buffers: memory that the system gives page by page as it is touched, and mapped files.

use crate::{BufferId, DeviceError, Mapped, Span, handle};
use memmap2::{MmapOptions, MmapRaw};
use std::ops::Range;
use std::sync::Arc;

/// Spans begin at multiples of it: a cache line, which is also the widest vector.
pub(super) const ALIGNMENT: u64 = 64;

/// From here on, memory is worth asking for in large pages: weights are read front to back, and
/// looking up small pages costs a visible share of that.
#[cfg(target_os = "linux")]
const LARGE: u64 = 4 << 20;

/// All buffers of a device. None is ever freed or moved, so an address stays good as long as this
/// lives.
#[derive(Default)]
pub(super) struct Buffers {
    list: Vec<Memory>,
}

enum Memory {
    /// Raw, because kernels hold addresses from when they were recorded: slices are made for the
    /// length of a call.
    Own {
        map: MmapRaw,
        bytes: u64,
    },
    File {
        file: Arc<Mapped>,
        range: Range<usize>,
    },
}

impl Buffers {
    /// Zeros, taken from the system only where they are touched.
    pub fn alloc(&mut self, bytes: u64) -> Result<BufferId, DeviceError> {
        let too_large = || DeviceError::TooLarge { bytes, max: isize::MAX as u64 };
        let len = usize::try_from(bytes.max(1)).map_err(|_| too_large())?;
        let map = MmapOptions::new().len(len).no_reserve_swap().map_anon();
        let map = map.map_err(|source| DeviceError::System {
            what: format!("{bytes} bytes of memory"),
            source,
        })?;
        #[cfg(target_os = "linux")]
        if bytes >= LARGE {
            // A hint: kernels without large pages refuse it, and nothing is lost.
            drop(map.advise(memmap2::Advice::HugePage));
        }
        Ok(self.push(Memory::Own { map: map.into(), bytes }))
    }

    /// Part of a mapped file, if it begins at a multiple of `alignment`.
    pub fn adopt(
        &mut self,
        file: &Arc<Mapped>,
        range: Range<usize>,
        alignment: u64,
    ) -> Result<Option<BufferId>, DeviceError> {
        let part = file.part(&range)?;
        if !(part.as_ptr() as u64).is_multiple_of(alignment) {
            return Ok(None);
        }
        Ok(Some(self.push(Memory::File { file: Arc::clone(file), range })))
    }

    pub fn bytes(&self, span: Span) -> Result<&[u8], DeviceError> {
        let range = self.check(span)?;
        Ok(match &self.list[span.buffer.0 as usize] {
            // SAFETY: `check` has found the range inside the mapping, which is of initialised
            // bytes and lives as long as `self`. Kernels write only during `run`, which has
            // the device to itself, as has `bytes_mut`.
            Memory::Own { map, .. } => unsafe {
                std::slice::from_raw_parts(map.as_ptr().add(range.start), range.len())
            },
            Memory::File { file, range: all } => &file.bytes()[all.clone()][range],
        })
    }

    pub fn bytes_mut(&mut self, span: Span) -> Result<&mut [u8], DeviceError> {
        let range = self.check(span)?;
        match &self.list[span.buffer.0 as usize] {
            // SAFETY: as in `bytes`; and `self` is borrowed for as long as the slice lives, so
            // nothing else reads or writes meanwhile. Different buffers do not overlap.
            Memory::Own { map, .. } => Ok(unsafe {
                std::slice::from_raw_parts_mut(map.as_mut_ptr().add(range.start), range.len())
            }),
            Memory::File { .. } => Err(DeviceError::ReadOnly),
        }
    }

    /// Where a span lies, to be read by kernels.
    pub fn address(&self, span: Span) -> Result<*const u8, DeviceError> {
        let range = self.check(span)?;
        Ok(match &self.list[span.buffer.0 as usize] {
            Memory::Own { map, .. } => map.as_ptr().wrapping_add(range.start),
            Memory::File { file, range: all } => {
                file.bytes().as_ptr().wrapping_add(all.start + range.start)
            }
        })
    }

    /// Where a span lies, to be written by kernels.
    pub fn address_mut(&self, span: Span) -> Result<*mut u8, DeviceError> {
        let range = self.check(span)?;
        match &self.list[span.buffer.0 as usize] {
            Memory::Own { map, .. } => Ok(map.as_mut_ptr().wrapping_add(range.start)),
            Memory::File { .. } => Err(DeviceError::ReadOnly),
        }
    }

    fn push(&mut self, memory: Memory) -> BufferId {
        let id = u32::try_from(self.list.len()).expect("buffers are counted in thousands");
        self.list.push(memory);
        BufferId(id)
    }

    /// The span as a range of its buffer, if the buffer has it.
    fn check(&self, span: Span) -> Result<Range<usize>, DeviceError> {
        let bytes = match handle::find("buffer", &self.list, span.buffer.0)? {
            Memory::Own { bytes, .. } => *bytes,
            Memory::File { range, .. } => range.len() as u64,
        };
        let Range { start, end } = span.within(bytes)?;
        Ok(start as usize..end as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_begins_as_zeros_and_keeps_what_is_written() {
        let mut buffers = Buffers::default();
        let a = Span::whole(buffers.alloc(100).unwrap(), 100);
        let b = Span::whole(buffers.alloc(8 << 20).unwrap(), 8 << 20);
        assert!(buffers.bytes(b).unwrap().iter().all(|&x| x == 0));
        buffers.bytes_mut(a.part(96, 4)).unwrap().copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!(buffers.bytes(a.part(94, 4)).unwrap(), [0, 0, 1, 2]);
        assert_eq!(buffers.bytes(b.part(0, 1)).unwrap(), [0]);
    }

    #[test]
    fn a_span_beyond_its_buffer_is_refused_even_if_the_system_gave_more() {
        let mut buffers = Buffers::default();
        let id = buffers.alloc(100).unwrap();
        for (offset, bytes) in [(0, 101), (100, 1), (u64::MAX, 2), (1, u64::MAX)] {
            let span = Span { buffer: id, offset, bytes };
            assert!(matches!(buffers.bytes(span), Err(DeviceError::OutOfRange { .. })), "{span:?}");
            assert!(buffers.bytes_mut(span).is_err() && buffers.address_mut(span).is_err());
        }
        let stranger = Span::whole(BufferId(7), 0);
        assert!(matches!(buffers.bytes(stranger), Err(DeviceError::Handle { .. })));
    }

    #[test]
    fn a_mapped_range_is_read_where_it_lies_and_never_written() {
        let path = std::env::temp_dir().join(format!("q35-adopt-{}", std::process::id()));
        std::fs::write(&path, [1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let file = Arc::new(Mapped::open(&path).unwrap());
        let mut buffers = Buffers::default();
        let id = buffers.adopt(&file, 4..8, 4).unwrap().unwrap();
        let span = Span::whole(id, 4);
        assert_eq!(buffers.bytes(span).unwrap(), [5, 6, 7, 8]);
        assert_eq!(buffers.address(span).unwrap(), file.bytes()[4..].as_ptr());
        assert!(matches!(buffers.bytes_mut(span), Err(DeviceError::ReadOnly)));
        assert!(matches!(buffers.address_mut(span), Err(DeviceError::ReadOnly)));
        assert!(buffers.adopt(&file, 2..6, 4).unwrap().is_none(), "not aligned");
        assert!(buffers.adopt(&file, 4..9, 4).is_err(), "not in the file");
        std::fs::remove_file(&path).unwrap();
    }
}
