//! Machine code in memory, and how it is called.
//!
//! # Calling convention
//!
//! The other side of it is `q35-target-cpu`, which makes the code and states the convention in
//! full; the runtime cannot import it. In short: [`Entry`] runs tasks `begin..end`, one after
//! another; `buffers[i]` is the address of parameter `i`, or of an array of addresses for a table;
//! `scratch` holds the shared arrays, in order, each aligned to 64 bytes; code is flat, position
//! independent and aligned to 64 bytes.

use super::micro::MicroTable;
use memmap2::{Mmap, MmapMut};
use std::io;

/// Alignment of each function in [`Code`], and of scratch memory.
pub const ALIGN: usize = 64;

/// A kernel.
#[cfg(target_arch = "x86_64")]
pub type Entry = unsafe extern "sysv64" fn(
    buffers: *const *const u8,
    scratch: *mut u8,
    begin: u64,
    end: u64,
    micro: *const MicroTable,
);
/// A kernel.
#[cfg(not(target_arch = "x86_64"))]
pub type Entry = unsafe extern "C" fn(
    buffers: *const *const u8,
    scratch: *mut u8,
    begin: u64,
    end: u64,
    micro: *const MicroTable,
);

/// Memory that can be executed and no longer written.
#[derive(Debug)]
pub struct Code {
    map: Mmap,
}

impl Code {
    /// Copy `bytes`, functions that each begin at a multiple of [`ALIGN`], to where they can run.
    ///
    /// Fails as mapping memory does; some systems forbid it.
    pub fn load(bytes: &[u8]) -> io::Result<Code> {
        let mut map = MmapMut::map_anon(bytes.len().max(1))?;
        map[..bytes.len()].copy_from_slice(bytes);
        let map = map.make_exec()?;
        synchronize(&map);
        Ok(Code { map })
    }

    /// The function at `offset`; none if that is no multiple of [`ALIGN`] within the code.
    ///
    /// To call it is unsafe: it must be a kernel of this machine's instruction set, the addresses
    /// must be those it expects, and `self` must still be alive.
    pub fn entry(&self, offset: usize) -> Option<Entry> {
        let start = self.map.get(offset..)?.first()?;
        if !offset.is_multiple_of(ALIGN) {
            return None;
        }
        // SAFETY: a function pointer is an address; what it takes to call it is said above.
        Some(unsafe { std::mem::transmute::<*const u8, Entry>(start) })
    }
}

/// Make instruction fetches see what was written. x86 does so by itself.
#[cfg(not(target_arch = "aarch64"))]
fn synchronize(_: &[u8]) {}

/// Make instruction fetches see what was written: push each line of data to where instructions
/// are fetched from, then drop what was fetched before.
#[cfg(target_arch = "aarch64")]
fn synchronize(code: &[u8]) {
    use std::arch::asm;
    // The smallest line that the architecture allows; more often than needed does no harm.
    const LINE: usize = 16;
    // SAFETY: cache maintenance by address, on memory that is mapped; it changes no data.
    unsafe {
        for at in (0..code.len()).step_by(LINE) {
            asm!("dc cvau, {}", in(reg) code.as_ptr().add(at));
        }
        asm!("dsb ish");
        for at in (0..code.len()).step_by(LINE) {
            asm!("ic ivau, {}", in(reg) code.as_ptr().add(at));
        }
        asm!("dsb ish", "isb");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn runs_what_was_loaded() {
        // mov [rsi], rdx; ret
        let mut bytes = vec![0xcc; ALIGN];
        bytes.extend([0x48, 0x89, 0x16, 0xc3]);
        let code = Code::load(&bytes).expect("executable memory");
        let mut out = 0u64;
        let entry = code.entry(ALIGN).expect("a function");
        // SAFETY: the code above writes `begin` to `scratch` and touches nothing else.
        unsafe { entry(std::ptr::null(), (&raw mut out).cast(), 42, 43, std::ptr::null()) };
        assert_eq!(out, 42);
    }

    #[test]
    fn has_no_function_outside_or_between() {
        let code = Code::load(&[0; ALIGN]).expect("executable memory");
        assert!(code.entry(0).is_some());
        assert!(code.entry(1).is_none());
        assert!(code.entry(ALIGN).is_none());
        assert!(code.entry(usize::MAX & !(ALIGN - 1)).is_none());
        Code::load(&[]).expect("no code is fine");
    }
}
