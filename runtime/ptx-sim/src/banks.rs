//! Bank conflicts of shared memory: 32 banks of 4 bytes, the same word for several lanes at once.

use crate::regs::{FULL, Lanes, Spread, lanes_of};

/// Passes beyond the first that accesses of so many bytes at these addresses, multiples of them, need. 8-byte accesses
/// go by halves of the warp, 16-byte ones by quarters.
pub(crate) fn conflicts(addresses: &Lanes<u64>, mask: u32, bytes: u64, spread: Spread) -> u64 {
    if spread == Spread::Same || spread == Spread::Row && mask == FULL && bytes <= 16 {
        return 0;
    }
    let group = match bytes {
        0..=4 => 32,
        8 => 16,
        _ => 8,
    };
    let parts = (0..32).step_by(group).map(|start| {
        let part = mask >> start & u32::MAX >> (32 - group);
        extra_passes(bytes, lanes_of(part).map(|lane| addresses[start + lane]))
    });
    parts.sum()
}

/// Passes beyond the first for one access at these addresses, 32 at most. What a lane accesses lies in neighbouring
/// banks, aligned to them, so these count as one wide bank.
pub(crate) fn extra_passes(bytes: u64, addresses: impl Iterator<Item = u64>) -> u64 {
    const NONE: u8 = u8::MAX;
    let shift = bytes.max(4).trailing_zeros();
    let banks = 128 >> shift;
    // The distinct units of each bank, as a chain.
    let (mut units, mut next) = ([0u32; 32], [NONE; 32]);
    let (mut first, mut counts) = ([NONE; 32], [0u8; 32]);
    let mut most = 1;
    for (i, address) in addresses.enumerate().take(32) {
        let unit = (address >> shift) as u32;
        let bank = (unit & (banks - 1)) as usize % 32;
        let mut at = usize::from(first[bank]);
        while at < 32 && units[at] != unit {
            at = usize::from(next[at]);
        }
        if at >= 32 {
            units[i] = unit;
            next[i] = first[bank];
            first[bank] = i as u8;
            counts[bank] += 1;
            most = most.max(counts[bank]);
        }
    }
    u64::from(most - 1)
}
