//! Memory of the host that copies may use.

use crate::driver::Failure;
use crate::result;
use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;

/// CUDA aligns it to a page.
const ALIGN: usize = 4096;

#[derive(Default)]
pub struct Pinned {
    /// Bytes by address.
    blocks: BTreeMap<usize, usize>,
}

impl Pinned {
    /// Bytes that are not zero, as nobody says that they are.
    pub fn alloc(&mut self, bytes: usize) -> Result<usize, Failure> {
        let layout = layout(bytes)?;
        // SAFETY: the layout is of some bytes, and so many are written.
        let address = unsafe {
            let address = alloc(layout);
            if address.is_null() {
                return Err(result::OUT_OF_MEMORY.into());
            }
            address.write_bytes(0xa5, bytes);
            address
        };
        let address = address.expose_provenance();
        self.blocks.insert(address, bytes);
        Ok(address)
    }

    pub fn free(&mut self, address: usize) -> Result<(), Failure> {
        let bytes = self.blocks.remove(&address).ok_or(Failure::from(result::INVALID_VALUE))?;
        let layout = layout(bytes)?;
        // SAFETY: it was allocated so, and is forgotten.
        unsafe { dealloc(std::ptr::with_exposed_provenance_mut(address), layout) };
        Ok(())
    }

    /// Whether a range is memory of this kind.
    pub fn check(&self, address: usize, bytes: usize) -> Result<(), Failure> {
        let block = self.blocks.range(..=address).next_back();
        match block.is_some_and(|(begin, len)| address - begin + bytes <= *len) {
            true => Ok(()),
            false => Err(result::INVALID_VALUE.into()),
        }
    }

    pub fn read(&self, address: usize, bytes: usize) -> Result<Vec<u8>, Failure> {
        self.check(address, bytes)?;
        let from = std::ptr::with_exposed_provenance::<u8>(address);
        // SAFETY: so many bytes lie there; that the caller does not write them until the copy is
        // over is CUDA's rule.
        Ok(unsafe { std::slice::from_raw_parts(from, bytes) }.to_vec())
    }

    pub fn write(&self, address: usize, bytes: &[u8]) -> Result<(), Failure> {
        self.check(address, bytes.len())?;
        let to = std::ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: as above.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }
}

fn layout(bytes: usize) -> Result<Layout, Failure> {
    let layout = Layout::from_size_align(bytes, ALIGN).ok().filter(|_| bytes > 0);
    layout.ok_or(result::INVALID_VALUE.into())
}
