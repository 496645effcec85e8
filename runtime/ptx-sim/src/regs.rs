//! The registers of one warp: 32 lanes of each, in one file for up to 32 bits and one for 64, predicates as masks.
//!
//! Immediates and special registers live in the same files (the decoder gives each a register that is filled before
//! the warp starts), so that every operand is an index and arithmetic is one plain loop over lanes.

pub(crate) const LANES: usize = 32;
pub(crate) const FULL: u32 = u32::MAX;

pub(crate) type Lanes<T> = [T; LANES];

#[derive(Clone, Default)]
pub(crate) struct Regs {
    pub w32: Vec<Lanes<u32>>,
    pub w64: Vec<Lanes<u64>>,
    pub preds: Vec<u32>,
    /// The carry flag of `add.cc` and its kin.
    pub carry: u32,
}

/// A register: its file and its index there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reg {
    W32(usize),
    W64(usize),
    Pred(usize),
}

/// What a file holds for each lane.
pub(crate) trait Word: Copy + Default + Send + Sync + 'static {
    const BITS: u32;
    fn file(regs: &Regs) -> &[Lanes<Self>];
    fn file_mut(regs: &mut Regs) -> &mut [Lanes<Self>];
    fn index(reg: Reg) -> Option<usize>;
    fn from_bits(bits: u64) -> Self;
    fn bits(self) -> u64;
}

impl Word for u32 {
    const BITS: u32 = 32;
    fn file(regs: &Regs) -> &[Lanes<Self>] {
        &regs.w32
    }
    fn file_mut(regs: &mut Regs) -> &mut [Lanes<Self>] {
        &mut regs.w32
    }
    fn index(reg: Reg) -> Option<usize> {
        if let Reg::W32(i) = reg { Some(i) } else { None }
    }
    fn from_bits(bits: u64) -> Self {
        bits as Self
    }
    fn bits(self) -> u64 {
        self.into()
    }
}

impl Word for u64 {
    const BITS: u32 = 64;
    fn file(regs: &Regs) -> &[Lanes<Self>] {
        &regs.w64
    }
    fn file_mut(regs: &mut Regs) -> &mut [Lanes<Self>] {
        &mut regs.w64
    }
    fn index(reg: Reg) -> Option<usize> {
        if let Reg::W64(i) = reg { Some(i) } else { None }
    }
    fn from_bits(bits: u64) -> Self {
        bits
    }
    fn bits(self) -> u64 {
        self
    }
}

impl Regs {
    pub fn get<T: Word>(&self, index: usize) -> &Lanes<T> {
        &T::file(self)[index]
    }

    /// Writes the lanes of `mask`.
    #[inline(always)]
    pub fn put<T: Word>(&mut self, index: usize, mask: u32, values: &Lanes<T>) {
        let to = &mut T::file_mut(self)[index];
        if mask == FULL {
            *to = *values;
        } else {
            for (i, (to, value)) in to.iter_mut().zip(values).enumerate() {
                *to = if mask & BIT[i] != 0 { *value } else { *to };
            }
        }
    }

    pub fn put_pred(&mut self, index: usize, mask: u32, value: u32) {
        let to = &mut self.preds[index];
        *to = *to & !mask | value & mask;
    }

    /// One lane of a register of any file, zero-extended.
    #[inline]
    pub fn lane(&self, reg: Reg, lane: usize) -> u64 {
        match reg {
            Reg::W32(i) => self.w32[i][lane].into(),
            Reg::W64(i) => self.w64[i][lane],
            Reg::Pred(i) => (self.preds[i] >> lane & 1).into(),
        }
    }

    /// The same bits in all lanes of `mask`.
    pub fn splat(&mut self, reg: Reg, mask: u32, bits: u64) {
        match reg {
            Reg::W32(i) => self.put(i, mask, &[bits as u32; LANES]),
            Reg::W64(i) => self.put(i, mask, &[bits; LANES]),
            Reg::Pred(i) => self.put_pred(i, mask, (bits as u32 & 1).wrapping_neg()),
        }
    }

    #[inline]
    pub fn set_lane(&mut self, reg: Reg, lane: usize, bits: u64) {
        match reg {
            Reg::W32(i) => self.w32[i][lane] = bits as u32,
            Reg::W64(i) => self.w64[i][lane] = bits,
            Reg::Pred(i) => self.put_pred(i, 1 << lane, (bits as u32 & 1) << lane),
        }
    }
}

/// `1 << i`, as a table: a loop that tests bits of a mask this way becomes vector code.
pub(crate) const BIT: Lanes<u32> = {
    let mut bits = [0; LANES];
    let mut i = 0;
    while i < LANES {
        bits[i] = 1 << i;
        i += 1;
    }
    bits
};

/// The lanes of a mask, lowest first.
pub(crate) fn lanes_of(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let lane = mask.trailing_zeros();
            mask &= mask - 1;
            lane as usize
        })
    })
}

/// How the addresses of all 32 lanes lie to each other.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Spread {
    Same,
    /// Each lane's bytes follow the last lane's.
    Row,
    Any,
}

impl Spread {
    #[inline]
    pub fn of(addresses: &Lanes<u64>, bytes: u64) -> Self {
        let (mut apart, mut off) = (0, 0);
        for (i, address) in addresses.iter().enumerate() {
            let from_first = address.wrapping_sub(addresses[0]);
            apart |= from_first;
            off |= from_first ^ (i as u64 * bytes);
        }
        match (apart, off) {
            (0, _) => Self::Same,
            (_, 0) => Self::Row,
            _ => Self::Any,
        }
    }
}

/// The lanes where `f` holds.
#[inline(always)]
pub(crate) fn mask_where(f: impl Fn(usize) -> bool) -> u32 {
    let mut bytes = [0u8; LANES];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from(f(i));
    }
    let mut mask = 0;
    for (i, eight) in bytes.chunks_exact(8).enumerate() {
        let eight = u64::from_le_bytes(eight.try_into().expect("chunks of eight"));
        // Gathers the low bit of each byte in the topmost byte.
        let bits = eight.wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask |= (bits as u32) << (8 * i);
    }
    mask
}
