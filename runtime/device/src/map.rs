//! Files as memory: how checkpoints of any size are read without being copied.

use crate::DeviceError;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file, mapped read-only.
///
/// The file must not change while it is mapped: its bytes would change under us, and cutting it
/// short would stop the process. Checkpoints are written once; tools that replace one write a new
/// file in its place, which leaves a mapping of the old one whole.
#[derive(Debug)]
pub struct Mapped {
    map: memmap2::Mmap,
    path: PathBuf,
}

impl Mapped {
    /// Map the regular file at `path`.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Map`] if it is not there, not a regular file, or cannot be mapped.
    pub fn open(path: &Path) -> Result<Self, DeviceError> {
        Self::map(path).map_err(|source| DeviceError::Map { path: path.into(), source })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of a range.
    pub(crate) fn part(&self, range: &Range<usize>) -> Result<&[u8], DeviceError> {
        self.map.get(range.clone()).ok_or_else(|| DeviceError::OutOfRange {
            begin: range.start as u64,
            end: range.end as u64,
            bytes: self.map.len() as u64,
        })
    }

    /// Say that a range will not be read again soon, so that the pages it takes in this process
    /// can go. Reading it again is allowed, and gives the same bytes.
    pub fn release(&self, range: Range<usize>) {
        let page = 4096;
        let begin = range.start.next_multiple_of(page);
        let end = range.end.min(self.map.len()) / page * page;
        if begin < end {
            self.forget(begin, end - begin);
        }
    }

    fn map(path: &Path) -> io::Result<Self> {
        // Opening a pipe would wait for somebody to write into it.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let file = File::open(path)?;
        // SAFETY: the mapping is private to this struct and read-only. That nobody changes the
        // file meanwhile cannot be checked; the type's documentation asks for it, as every
        // program that maps checkpoints does.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self { map, path: path.into() })
    }

    #[cfg(unix)]
    fn forget(&self, offset: usize, bytes: usize) {
        // SAFETY: the mapping is of a file and nobody can have written to it, so pages that are
        // dropped come back from the file with the same bytes.
        let done = unsafe {
            self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, bytes)
        };
        // It is a hint: with larger pages than assumed the system refuses, and nothing is lost.
        drop(done);
    }

    #[cfg(not(unix))]
    fn forget(&self, _offset: usize, _bytes: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_its_bytes_also_after_release() {
        let path = std::env::temp_dir().join(format!("q35-map-{}", std::process::id()));
        let bytes: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mapped = Mapped::open(&path).unwrap();
        assert_eq!(mapped.bytes(), bytes);
        mapped.release(100..19_999);
        mapped.release(19_000..usize::MAX);
        assert_eq!(mapped.bytes(), bytes);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_file_is_refused_by_name() {
        for path in [std::env::temp_dir(), "no/such/file".into()] {
            let error = Mapped::open(&path).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }
}
