//! Loads and stores of shared memory.

use super::access::{extend, within};
use super::{Around, Outcome, Warp, trouble};
use crate::banks::conflicts;
use crate::op::Access;
use crate::regs::{FULL, LANES, Lanes, Reg, Spread, lanes_of};

impl Warp {
    pub(super) fn load_shared(
        &mut self,
        around: &mut Around<'_>,
        access: &Access,
        addresses: &Lanes<u64>,
        on: u32,
    ) -> Outcome<()> {
        let element = access.ty.bytes();
        let bytes = element * access.regs.len() as u64;
        within_shared(around, addresses, on, bytes)?;
        let spread = Spread::of(addresses, bytes);
        let same = spread == Spread::Same;
        around.count_shared(addresses, on, bytes, spread);
        let who = self.who(0, access.strong);
        // Of lanes that read the same, all behind the second find what that one left.
        let readers = lanes_of(on).take(if same { 2 } else { LANES });
        around
            .shared
            .read(addresses, readers, bytes, who)
            .or_else(|(lane, fault)| at_lane(lane, fault))?;
        for (e, &reg) in access.regs.iter().enumerate() {
            let value =
                |lane: usize| around.shared.peek(addresses[lane] + e as u64 * element, element);
            match reg {
                _ if same => {
                    let value = value(on.trailing_zeros() as usize);
                    self.regs.splat(reg, on, extend(value, element, access.ty.signed()));
                }
                Reg::W32(to) if element == 4 => {
                    let to = &mut self.regs.w32[to];
                    lanes_of(on).for_each(|lane| to[lane] = value(lane) as u32);
                }
                _ => lanes_of(on).for_each(|lane| {
                    let value = extend(value(lane), element, access.ty.signed());
                    self.regs.set_lane(reg, lane, value);
                }),
            }
        }
        Ok(())
    }

    pub(super) fn store_shared(
        &mut self,
        around: &mut Around<'_>,
        access: &Access,
        addresses: &Lanes<u64>,
        on: u32,
    ) -> Outcome<()> {
        let element = access.ty.bytes();
        let bytes = element * access.regs.len() as u64;
        within_shared(around, addresses, on, bytes)?;
        around.count_shared(addresses, on, bytes, Spread::of(addresses, bytes));
        let who = self.who(0, access.strong);
        let shared = &mut *around.shared;
        let row = |index: usize| &self.regs.w32[index];
        let written = match (element, &access.regs[..]) {
            (4, &[Reg::W32(a)]) => shared.write(addresses, on, who, [row(a)]),
            (4, &[Reg::W32(a), Reg::W32(b)]) => shared.write(addresses, on, who, [a, b].map(row)),
            (4, &[Reg::W32(a), Reg::W32(b), Reg::W32(c), Reg::W32(d)]) => {
                shared.write(addresses, on, who, [a, b, c, d].map(row))
            }
            (_, regs) => lanes_of(on).try_for_each(|lane| {
                let who = self.who(lane, access.strong);
                regs.iter().enumerate().try_for_each(|(e, &reg)| {
                    let at = addresses[lane] + e as u64 * element;
                    shared
                        .store(at, element, self.regs.lane(reg, lane), who)
                        .map_err(|fault| (lane, fault))
                })
            }),
        };
        written.or_else(|(lane, fault)| at_lane(lane, fault))
    }
}

impl Around<'_> {
    pub(super) fn count_shared(
        &mut self,
        addresses: &Lanes<u64>,
        on: u32,
        bytes: u64,
        spread: Spread,
    ) {
        self.tally.shared_requests += 1;
        self.tally.shared_conflicts += conflicts(addresses, on, bytes, spread);
    }
}

pub(super) fn at_lane<T>(lane: usize, (kind, message): crate::shared::Fault) -> Outcome<T> {
    trouble(kind, lane, message)
}

pub(super) fn within_shared(
    around: &Around<'_>,
    addresses: &Lanes<u64>,
    on: u32,
    bytes: u64,
) -> Outcome<()> {
    let size = around.shared.bytes;
    if on == FULL && bytes <= size {
        // Negative where one lies beyond: neither sizes nor sums of them come near to the sign.
        let (mut beyond, mut low) = (0, 0);
        for address in addresses {
            beyond |= (size - bytes).wrapping_sub(*address) | address;
            low |= address;
        }
        if beyond >> 63 == 0 && low & (bytes - 1) == 0 {
            return Ok(());
        }
    }
    within((size, "shared"), addresses, on, bytes)
}
