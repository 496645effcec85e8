//! Bank conflicts of shared memory: 32 banks of 4 bytes, the same word for several lanes at once.

use crate::regs::{FULL, Lanes, lanes_of, steps};

/// Passes beyond the first that accesses of so many bytes at these addresses, multiples of them, need. 8-byte accesses
/// go by halves of the warp, 16-byte ones by quarters.
pub(crate) fn conflicts(addresses: &Lanes<u64>, mask: u32, bytes: u64) -> u64 {
    if steps(addresses, 0) || mask == FULL && bytes <= 16 && steps(addresses, bytes) {
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
    let (mut units, mut next) = ([0; 32], [NONE; 32]);
    let (mut first, mut counts) = ([NONE; 32], [0u8; 32]);
    let mut most = 1;
    for (i, address) in addresses.enumerate() {
        let unit = address >> shift;
        let bank = (unit % banks) as usize;
        let mut at = first[bank];
        while at != NONE && units[usize::from(at)] != unit {
            at = next[usize::from(at)];
        }
        if at == NONE {
            units[i] = unit;
            next[i] = first[bank];
            first[bank] = i as u8;
            counts[bank] += 1;
            most = most.max(counts[bank]);
        }
    }
    u64::from(most - 1)
}
