//! Loads and stores, and how they are counted.

use super::{Around, Outcome, Trouble, Warp, trouble};
use crate::counters::Way;
use crate::decode::PARAM_LOCAL;
use crate::error::FaultKind;
use crate::launch::space_of;
use crate::memory::Allocation;
use crate::op::{Access, Address, Base};
use crate::regs::{FULL, LANES, Lanes, Reg, Spread, lanes_of};
use crate::types::Space;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

impl Warp {
    pub(super) fn load(
        &mut self,
        around: &mut Around<'_>,
        access: &Access,
        on: u32,
    ) -> Outcome<()> {
        if on == 0 {
            return Ok(());
        }
        let addresses = self.addresses(access.at);
        match plain(access.at) {
            Some(space) => self.load_in(around, access, space, &addresses, on)?,
            None => {
                for (space, addresses, on) in parts(access.at.space, &addresses, on) {
                    self.load_in(around, access, space, &addresses, on)?;
                }
            }
        }
        if access.strong {
            self.poll(on, &access.regs);
        }
        Ok(())
    }

    pub(super) fn store(
        &mut self,
        around: &mut Around<'_>,
        access: &Access,
        on: u32,
    ) -> Outcome<()> {
        if on == 0 {
            return Ok(());
        }
        let addresses = self.addresses(access.at);
        match plain(access.at) {
            Some(space) => self.store_in(around, access, space, &addresses, on)?,
            None => {
                for (space, addresses, on) in parts(access.at.space, &addresses, on) {
                    self.store_in(around, access, space, &addresses, on)?;
                }
            }
        }
        Ok(())
    }

    fn load_in(
        &mut self,
        around: &mut Around<'_>,
        access: &Access,
        space: Space,
        addresses: &Lanes<u64>,
        on: u32,
    ) -> Outcome<()> {
        match space {
            Space::Global => self.load_global(around, access, addresses, on, true),
            Space::Const => self.load_global(around, access, addresses, on, false),
            Space::Shared => self.load_shared(around, access, addresses, on),
            Space::Local => self.load_local(around, access, addresses, on),
            Space::Param | Space::Generic => self.load_param(around, access, addresses, on),
        }
    }

    fn store_in(
        &mut self,
        around: &mut Around<'_>,
        access: &Access,
        space: Space,
        addresses: &Lanes<u64>,
        on: u32,
    ) -> Outcome<()> {
        match space {
            Space::Global => self.store_global(around, access, addresses, on),
            Space::Shared => self.store_shared(around, access, addresses, on),
            Space::Local => self.store_local(around, access, addresses, on),
            _ => {
                let lane = on.trailing_zeros() as usize;
                trouble(FaultKind::OutOfBounds, lane, "writes where kernels only read")
            }
        }
    }

    pub(super) fn addresses(&self, at: Address) -> Lanes<u64> {
        let mut out = [at.offset; LANES];
        match at.base {
            Base::None => {}
            Base::W64(base) => {
                let base = &self.regs.w64[base];
                for i in 0..LANES {
                    out[i] = base[i].wrapping_add(at.offset);
                }
            }
            Base::W32(base) => {
                let base = &self.regs.w32[base];
                for i in 0..LANES {
                    out[i] = u64::from(base[i].wrapping_add(at.offset as u32));
                }
            }
        }
        out
    }

    fn load_global(
        &mut self,
        around: &mut Around<'_>,
        access: &Access,
        addresses: &Lanes<u64>,
        on: u32,
        counted: bool,
    ) -> Outcome<()> {
        let (element, count) = (access.ty.bytes(), access.regs.len() as u64);
        let bytes = element * count;
        let memory = around.env.memory;
        let spread = Spread::of(addresses, bytes);
        if on == FULL && spread == Spread::Row {
            let at = one_allocation(around, addresses, bytes)?;
            let allocation = &memory.allocations()[at];
            let offset = addresses[0] - allocation.base;
            if !allocation.is_written(offset, bytes * 32) {
                return Err(unwritten(allocation, addresses, on, bytes));
            }
            if counted {
                around.count_row(at, Way::Load, addresses[0], bytes);
            }
            if element == 4 {
                let start = (offset / 4) as usize;
                let words = &allocation.words()[start..start + 32 * count as usize];
                for (e, &reg) in access.regs.iter().enumerate() {
                    let values = match count {
                        1 => every::<1>(words, e),
                        2 => every::<2>(words, e),
                        4 => every::<4>(words, e),
                        _ => every::<8>(words, e),
                    };
                    match reg {
                        Reg::W32(to) => self.regs.w32[to] = values,
                        _ => (0..LANES).for_each(|i| {
                            let value = extend(values[i].into(), 4, access.ty.signed());
                            self.regs.set_lane(reg, i, value);
                        }),
                    }
                }
                return Ok(());
            }
            for (e, &reg) in access.regs.iter().enumerate() {
                for i in 0..LANES {
                    let value =
                        allocation.load(offset + i as u64 * bytes + e as u64 * element, element);
                    self.regs.set_lane(reg, i, extend(value, element, access.ty.signed()));
                }
            }
            return Ok(());
        }
        let first = on.trailing_zeros() as usize;
        if spread == Spread::Same
            && let Some(at) = around.one(addresses, 1 << first, bytes)
        {
            let allocation = &memory.allocations()[at];
            let offset = addresses[first] - allocation.base;
            if !allocation.is_written(offset, bytes) {
                return Err(unwritten(allocation, addresses, on, bytes));
            }
            if counted {
                around.add(at, Way::Load, 1, bytes * u64::from(on.count_ones()));
            }
            for (e, &reg) in access.regs.iter().enumerate() {
                let value = allocation.load(offset + e as u64 * element, element);
                self.regs.splat(reg, on, extend(value, element, access.ty.signed()));
            }
            return Ok(());
        }
        if let Some(at) = around.one(addresses, on, bytes) {
            let allocation = &memory.allocations()[at];
            let written = |i: usize| allocation.is_written(addresses[i] - allocation.base, bytes);
            if !allocation.is_full() && !lanes_of(on).all(written) {
                return Err(unwritten(allocation, addresses, on, bytes));
            }
            if counted {
                around.count_one(at, Way::Load, addresses, on, bytes);
            }
            for (e, &reg) in access.regs.iter().enumerate() {
                let offset = |i: usize| addresses[i] - allocation.base + e as u64 * element;
                match reg {
                    Reg::W32(to) if element == 4 => {
                        let to = &mut self.regs.w32[to];
                        lanes_of(on).for_each(|i| to[i] = allocation.load(offset(i), 4) as u32);
                    }
                    _ => lanes_of(on).for_each(|i| {
                        let value = allocation.load(offset(i), element);
                        self.regs.set_lane(reg, i, extend(value, element, access.ty.signed()));
                    }),
                }
            }
            return Ok(());
        }
        let found = around.locate(addresses, on, bytes)?;
        for lane in lanes_of(on) {
            let allocation = &memory.allocations()[found[lane] as usize];
            let offset = addresses[lane] - allocation.base;
            if !allocation.is_written(offset, bytes) {
                return Err(unwritten(allocation, addresses, 1 << lane, bytes));
            }
        }
        if counted {
            around.count(Way::Load, addresses, &found, on, bytes);
        }
        // The address register may be among those that are written.
        for (e, &reg) in access.regs.iter().enumerate() {
            for lane in lanes_of(on) {
                let allocation = &memory.allocations()[found[lane] as usize];
                let value = allocation
                    .load(addresses[lane] - allocation.base + e as u64 * element, element);
                self.regs.set_lane(reg, lane, extend(value, element, access.ty.signed()));
            }
        }
        Ok(())
    }

    fn store_global(
        &mut self,
        around: &mut Around<'_>,
        access: &Access,
        addresses: &Lanes<u64>,
        on: u32,
    ) -> Outcome<()> {
        let (element, count) = (access.ty.bytes(), access.regs.len() as u64);
        let bytes = element * count;
        let memory = around.env.memory;
        let spread = Spread::of(addresses, bytes);
        if on == FULL && spread == Spread::Row {
            let at = one_allocation(around, addresses, bytes)?;
            let allocation = &memory.allocations()[at];
            let offset = addresses[0] - allocation.base;
            around.count_row(at, Way::Store, addresses[0], bytes);
            match &access.regs[..] {
                // Two lanes a word: whole words need no look at what lies there.
                &[Reg::W32(row)] if element == 2 && offset.is_multiple_of(4) => {
                    let words = &allocation.words()[(offset / 4) as usize..];
                    for (word, two) in words.iter().zip(self.regs.w32[row].chunks_exact(2)) {
                        word.store(two[0] & 0xffff | two[1] << 16, Relaxed);
                    }
                }
                regs => {
                    for (e, &reg) in regs.iter().enumerate() {
                        for i in 0..LANES {
                            let at = offset + i as u64 * bytes + e as u64 * element;
                            allocation.store(at, element, self.regs.lane(reg, i));
                        }
                    }
                }
            }
            allocation.mark(offset, bytes * 32);
            return Ok(());
        }
        if let Some(at) = around.one(addresses, on, bytes) {
            let allocation = &memory.allocations()[at];
            around.count_one(at, Way::Store, addresses, on, bytes);
            for lane in lanes_of(on) {
                self.store_lane(allocation, access, addresses[lane], lane);
            }
            return Ok(());
        }
        let found = around.locate(addresses, on, bytes)?;
        around.count(Way::Store, addresses, &found, on, bytes);
        for lane in lanes_of(on) {
            let allocation = &memory.allocations()[found[lane] as usize];
            self.store_lane(allocation, access, addresses[lane], lane);
        }
        Ok(())
    }

    fn store_lane(&self, to: &Allocation, access: &Access, address: u64, lane: usize) {
        let (element, offset) = (access.ty.bytes(), address - to.base);
        for (e, &reg) in access.regs.iter().enumerate() {
            to.store(offset + e as u64 * element, element, self.regs.lane(reg, lane));
        }
        to.mark(offset, element * access.regs.len() as u64);
    }

    fn load_local(
        &mut self,
        around: &mut Around<'_>,
        access: &Access,
        addresses: &Lanes<u64>,
        on: u32,
    ) -> Outcome<()> {
        let element = access.ty.bytes();
        within_local(around, addresses, on, element * access.regs.len() as u64)?;
        let depth = self.local.len() / 32;
        for lane in lanes_of(on) {
            for (e, &reg) in access.regs.iter().enumerate() {
                let at = addresses[lane] + e as u64 * element;
                let word = lane * depth + (at / 4) as usize;
                let low = u64::from(self.local[word]);
                let value = match element {
                    4 => low,
                    8 => low | u64::from(self.local[word + 1]) << 32,
                    2 => low >> (at % 4 * 8) & 0xffff,
                    _ => low >> (at % 4 * 8) & 0xff,
                };
                self.regs.set_lane(reg, lane, extend(value, element, access.ty.signed()));
            }
        }
        Ok(())
    }

    fn store_local(
        &mut self,
        around: &mut Around<'_>,
        access: &Access,
        addresses: &Lanes<u64>,
        on: u32,
    ) -> Outcome<()> {
        let element = access.ty.bytes();
        within_local(around, addresses, on, element * access.regs.len() as u64)?;
        let depth = self.local.len() / 32;
        for lane in lanes_of(on) {
            for (e, &reg) in access.regs.iter().enumerate() {
                let at = addresses[lane] + e as u64 * element;
                let word = lane * depth + (at / 4) as usize;
                let value = self.regs.lane(reg, lane);
                match element {
                    4 => self.local[word] = value as u32,
                    8 => {
                        self.local[word] = value as u32;
                        self.local[word + 1] = (value >> 32) as u32;
                    }
                    _ => {
                        let shift = at % 4 * 8;
                        let mask = (if element == 2 { 0xffffu32 } else { 0xff }) << shift;
                        self.local[word] =
                            self.local[word] & !mask | (value << shift) as u32 & mask;
                    }
                }
            }
        }
        Ok(())
    }

    fn load_param(
        &mut self,
        around: &mut Around<'_>,
        access: &Access,
        addresses: &Lanes<u64>,
        on: u32,
    ) -> Outcome<()> {
        let element = access.ty.bytes();
        let bytes = element * access.regs.len() as u64;
        let params = around.env.params;
        let same = Spread::of(addresses, bytes) == Spread::Same;
        for lane in lanes_of(on).take(if same { 1 } else { LANES }) {
            let address = addresses[lane];
            if !address.is_multiple_of(bytes) {
                return misaligned(lane, address, bytes);
            }
            let end = address.checked_add(bytes).filter(|end| *end <= params.len() as u64);
            if end.is_none() {
                let message = format!(
                    "reads {bytes} bytes at {address:#x} of {} bytes of parameters",
                    params.len()
                );
                return trouble(FaultKind::OutOfBounds, lane, message);
            }
            for (e, &reg) in access.regs.iter().enumerate() {
                let at = (address + e as u64 * element) as usize;
                let mut eight = [0; 8];
                eight[..element as usize].copy_from_slice(&params[at..at + element as usize]);
                let value = extend(u64::from_le_bytes(eight), element, access.ty.signed());
                self.regs.splat(reg, if same { on } else { 1 << lane }, value);
            }
        }
        Ok(())
    }
}

/// The space that all lanes' addresses lie in, where that is known without a look at them.
fn plain(at: Address) -> Option<Space> {
    match at.space {
        Space::Generic => None,
        Space::Param if at.offset >= PARAM_LOCAL || !matches!(at.base, Base::None) => None,
        space => Some(space),
    }
}

/// The space that each address lies in, and the address there, for those lanes that share it.
pub(super) fn parts(
    space: Space,
    addresses: &Lanes<u64>,
    on: u32,
) -> Vec<(Space, Lanes<u64>, u32)> {
    let split: fn(u64) -> (Space, u64) = match space {
        Space::Generic => space_of,
        Space::Param => {
            |a| if a >= PARAM_LOCAL { (Space::Local, a - PARAM_LOCAL) } else { (Space::Param, a) }
        }
        _ => return vec![(space, *addresses, on)],
    };
    let mut out: Vec<(Space, Lanes<u64>, u32)> = vec![];
    for lane in lanes_of(on) {
        let (space, address) = split(addresses[lane]);
        match out.iter_mut().find(|(s, _, _)| *s == space) {
            Some((_, addresses, on)) => {
                addresses[lane] = address;
                *on |= 1 << lane;
            }
            None => {
                let mut own = [0; LANES];
                own[lane] = address;
                out.push((space, own, 1 << lane));
            }
        }
    }
    out
}

/// Element `e` of each `N` words.
fn every<const N: usize>(words: &[AtomicU32], e: usize) -> Lanes<u32> {
    let mut out = [0; LANES];
    for (to, words) in out.iter_mut().zip(words.chunks_exact(N)) {
        *to = words[e].load(Relaxed);
    }
    out
}

/// Where a row of 32 accesses lies.
fn one_allocation(around: &mut Around<'_>, addresses: &Lanes<u64>, bytes: u64) -> Outcome<usize> {
    let memory = around.env.memory;
    let first = addresses[0];
    if let Some(at) = memory.find(first, *around.hint) {
        let allocation = &memory.allocations()[at];
        if first.is_multiple_of(bytes)
            && bytes * 32 <= allocation.bytes - (first - allocation.base).min(allocation.bytes)
        {
            *around.hint = at;
            return Ok(at);
        }
    }
    // Says which lane it is.
    around.locate(addresses, FULL, bytes).map(|found| found[0] as usize)
}

impl Around<'_> {
    /// The allocation that each lane's access lies in.
    pub(super) fn locate(
        &mut self,
        addresses: &Lanes<u64>,
        on: u32,
        bytes: u64,
    ) -> Outcome<Lanes<u32>> {
        let memory = self.env.memory;
        let mut found = [0; LANES];
        for lane in lanes_of(on) {
            let address = addresses[lane];
            let at = memory.find(address, *self.hint);
            let fits = at.filter(|&at| {
                let allocation = &memory.allocations()[at];
                bytes <= allocation.bytes - (address - allocation.base).min(allocation.bytes)
            });
            let Some(at) = fits else {
                return trouble(FaultKind::OutOfBounds, lane, self.outside(address, bytes, at));
            };
            if !address.is_multiple_of(bytes) {
                return misaligned(lane, address, bytes);
            }
            *self.hint = at;
            found[lane] = at as u32;
        }
        Ok(found)
    }

    fn outside(&self, address: u64, bytes: u64, at: Option<usize>) -> String {
        let allocations = self.env.memory.allocations();
        let before =
            at.or_else(|| allocations.partition_point(|a| a.base <= address).checked_sub(1));
        match before {
            Some(at) => {
                let allocation = &allocations[at];
                let (size, into) = (allocation.bytes, address - allocation.base);
                format!("{bytes} bytes at {address:#x}, {into} bytes into a buffer of {size}")
            }
            None => format!("{bytes} bytes at {address:#x}, where no buffer lies"),
        }
    }

    /// The allocation of all lanes, if it is one and nothing is wrong.
    fn one(&mut self, addresses: &Lanes<u64>, on: u32, bytes: u64) -> Option<usize> {
        let (mut low, mut high, mut all) = (u64::MAX, 0, 0);
        for lane in lanes_of(on) {
            let address = addresses[lane];
            low = low.min(address);
            high = high.max(address);
            all |= address;
        }
        // Sizes are powers of two.
        if all & (bytes - 1) != 0 {
            return None;
        }
        let at = self.env.memory.find(low, *self.hint)?;
        let allocation = &self.env.memory.allocations()[at];
        let end = allocation.base + allocation.bytes;
        if high.checked_add(bytes)? > end {
            return None;
        }
        *self.hint = at;
        Some(at)
    }

    /// Counts an access of one allocation.
    fn count_one(&mut self, at: usize, way: Way, addresses: &Lanes<u64>, on: u32, bytes: u64) {
        let (mut sectors, mut last, mut falls) = (0, u64::MAX, false);
        for lane in lanes_of(on) {
            let sector = addresses[lane] / 32;
            sectors += u64::from(sector != last);
            falls |= sector < last && last != u64::MAX;
            last = sector;
        }
        if falls {
            let mut all = addresses.map(|a| a / 32);
            let mut count = 0;
            for lane in lanes_of(on) {
                all[count] = addresses[lane] / 32;
                count += 1;
            }
            all[..count].sort_unstable();
            sectors = 1 + all[..count].windows(2).filter(|two| two[0] != two[1]).count() as u64;
        }
        self.add(at, way, sectors, bytes * u64::from(on.count_ones()));
    }

    /// Counts a whole warp's access of neighbouring bytes.
    fn count_row(&mut self, at: usize, way: Way, first: u64, bytes: u64) {
        let sectors = (first + bytes * 32 - 1) / 32 - first / 32 + 1;
        self.add(at, way, sectors, bytes * 32);
    }

    /// Counts a request to one allocation.
    fn add(&mut self, at: usize, way: Way, sectors: u64, bytes: u64) {
        for traffic in
            [&mut self.tally.global[way as usize], &mut self.tally.buffers[at][way as usize]]
        {
            traffic.requests += 1;
            traffic.sectors += sectors;
            traffic.bytes += bytes;
        }
    }

    /// Counts an access by sectors; one of at most 32 bytes, at a multiple of them, lies in one.
    pub(super) fn count(
        &mut self,
        way: Way,
        addresses: &Lanes<u64>,
        found: &Lanes<u32>,
        on: u32,
        bytes: u64,
    ) {
        let mut sectors: Vec<(u64, u32)> =
            lanes_of(on).map(|i| (addresses[i] / 32, found[i])).collect();
        let lanes = sectors.len() as u64;
        if !sectors.is_sorted() {
            sectors.sort_unstable();
        }
        sectors.dedup();
        let total = &mut self.tally.global[way as usize];
        total.requests += 1;
        total.sectors += sectors.len() as u64;
        total.bytes += lanes * bytes;
        // Allocations do not share sectors, and sectors are in the order of allocations.
        let mut last = u32::MAX;
        for &(_, at) in &sectors {
            let buffer = &mut self.tally.buffers[at as usize][way as usize];
            buffer.requests += u64::from(at != last);
            buffer.sectors += 1;
            last = at;
        }
        for lane in lanes_of(on) {
            self.tally.buffers[found[lane] as usize][way as usize].bytes += bytes;
        }
    }
}

#[cold]
pub(super) fn misaligned<T>(lane: usize, address: u64, bytes: u64) -> Outcome<T> {
    trouble(
        FaultKind::Misaligned,
        lane,
        format!("{bytes} bytes at {address:#x}, which is no multiple of {bytes}"),
    )
}

#[cold]
fn unwritten(allocation: &Allocation, addresses: &Lanes<u64>, on: u32, bytes: u64) -> Box<Trouble> {
    let missing = |lane: &usize| !allocation.is_written(addresses[*lane] - allocation.base, bytes);
    let lane = lanes_of(on).find(missing).unwrap_or_default();
    let into = addresses[lane] - allocation.base;
    let message = format!(
        "reads {bytes} bytes at {into} of a buffer of {}, which nobody has written",
        allocation.bytes
    );
    Box::new(Trouble { kind: FaultKind::Uninitialised, lane, message })
}

fn within_local(around: &Around<'_>, addresses: &Lanes<u64>, on: u32, bytes: u64) -> Outcome<()> {
    within((around.env.kernel.local_bytes, "local"), addresses, on, bytes)
}

/// Whether all lanes have aligned addresses in a memory of so many bytes.
pub(super) fn within(
    (size, name): (u64, &str),
    addresses: &Lanes<u64>,
    on: u32,
    bytes: u64,
) -> Outcome<()> {
    for lane in lanes_of(on) {
        let address = addresses[lane];
        if address.checked_add(bytes).is_none_or(|end| end > size) {
            let message = format!("{bytes} bytes at {address:#x} of {size} bytes of {name} memory");
            return trouble(FaultKind::OutOfBounds, lane, message);
        }
        if !address.is_multiple_of(bytes) {
            return misaligned(lane, address, bytes);
        }
    }
    Ok(())
}

/// To 64 bits by the sign of the type.
#[inline]
pub(super) fn extend(value: u64, bytes: u64, signed: bool) -> u64 {
    match (signed, bytes) {
        (true, 1) => value as i8 as u64,
        (true, 2) => value as i16 as u64,
        (true, 4) => value as i32 as u64,
        _ => value,
    }
}
