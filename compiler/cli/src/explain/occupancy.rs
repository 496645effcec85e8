//! How many blocks of a kernel a multiprocessor (SM) has room for.
//!
//! Limits are those of the CUDA C++ Programming Guide, "Technical Specifications per Compute
//! Capability"; how registers and shared memory are given out is that of CUDA's `cuda_occupancy.h`.

/// What one SM has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sm {
    /// 90 is compute capability 9.0.
    pub capability: u32,
    pub blocks: u32,
    /// Of 32 threads each.
    pub warps: u32,
    /// Bytes for all blocks together.
    pub shared: u32,
}

/// What one block takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub threads: u32,
    /// Of each thread.
    pub registers: u32,
    /// Bytes, static and dynamic.
    pub shared: u32,
}

/// What runs on an SM at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occupancy {
    pub blocks: u32,
    pub warps: u32,
    /// Warps that the SM has room for.
    pub most_warps: u32,
    /// What runs out first.
    pub limit: &'static str,
}

const WARP: u32 = 32;
/// Of 32 bits, in an SM of every architecture here.
const REGISTERS: u32 = 64 << 10;
/// Registers are given to warps in pieces of so many.
const REGISTER_PIECE: u32 = 256;
/// An SM has four parts, each with a quarter of the registers for a quarter of the warps.
const PARTS: u32 = 4;
/// Bytes of shared memory that each block gives to the system.
const RESERVED: u32 = 1 << 10;
/// Bytes of shared memory are given to blocks in pieces of so many.
const SHARED_PIECE: u32 = 128;

/// By compute capability, of all architectures that there is code for.
const SMS: [Sm; 5] = [
    Sm { capability: 80, blocks: 32, warps: 64, shared: 164 << 10 },
    Sm { capability: 89, blocks: 24, warps: 48, shared: 100 << 10 },
    Sm { capability: 90, blocks: 32, warps: 64, shared: 228 << 10 },
    Sm { capability: 100, blocks: 32, warps: 64, shared: 228 << 10 },
    Sm { capability: 120, blocks: 24, warps: 48, shared: 100 << 10 },
];

impl Sm {
    /// None of an architecture that is not known.
    pub fn of(capability: u32) -> Option<Sm> {
        SMS.into_iter().find(|sm| sm.capability == capability)
    }

    pub fn occupancy(&self, block: Block) -> Occupancy {
        let warps = block.threads.div_ceil(WARP).max(1);
        let of_warp = (block.registers * WARP).next_multiple_of(REGISTER_PIECE).max(REGISTER_PIECE);
        let by_registers = REGISTERS / PARTS / of_warp * PARTS;
        let shared = (block.shared + RESERVED).next_multiple_of(SHARED_PIECE);
        // Of what runs out at once, the first is named: an SM that is full lacks nothing else.
        let limits = [
            (self.warps / warps, "warps"),
            (self.blocks, "blocks"),
            (by_registers / warps, "registers"),
            (self.shared / shared, "shared memory"),
        ];
        let (blocks, limit) = limits.into_iter().min_by_key(|(n, _)| *n).expect("four limits");
        Occupancy { blocks, warps: blocks * warps, most_warps: self.warps, limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupancy(
        capability: u32,
        [threads, registers, shared]: [u32; 3],
    ) -> (u32, u32, &'static str) {
        let sm = Sm::of(capability).expect("it is known");
        let Occupancy { blocks, warps, limit, .. } =
            sm.occupancy(Block { threads, registers, shared });
        (blocks, warps, limit)
    }

    /// Computed by hand.
    #[test]
    fn what_runs_out_first_decides() {
        // 80 x 32 = 2560 registers a warp, 16384 / 2560 = 6 warps in each of four parts.
        assert_eq!(occupancy(90, [128, 80, 0]), (6, 24, "registers"));
        // 33 registers are given as 40: 1280 a warp, 12 in each part.
        assert_eq!(occupancy(90, [128, 33, 0]), (12, 48, "registers"));
        // 40 KiB and the system's one: 5 in 228 KiB, 2 in 100 KiB.
        assert_eq!(occupancy(90, [128, 80, 40 << 10]), (5, 20, "shared memory"));
        assert_eq!(occupancy(89, [128, 80, 40 << 10]), (2, 8, "shared memory"));
        // 164 / 41.
        assert_eq!(occupancy(80, [128, 80, 40 << 10]), (4, 16, "shared memory"));
        // 255 registers are 8192 a warp: two in each part.
        assert_eq!(occupancy(120, [128, 255, 0]), (2, 8, "registers"));
        assert_eq!(occupancy(100, [128, 32, 0]), (16, 64, "warps"));
        assert_eq!(occupancy(89, [128, 16, 0]), (12, 48, "warps"));
        assert_eq!(occupancy(100, [32, 16, 0]), (32, 32, "blocks"));
        assert_eq!(occupancy(120, [32, 16, 0]), (24, 24, "blocks"));
    }

    #[test]
    fn a_block_that_has_no_room_does_not_run() {
        assert_eq!(occupancy(89, [128, 32, 100 << 10]), (0, 0, "shared memory"));
        assert_eq!(occupancy(90, [1024, 255, 0]), (0, 0, "registers"));
        assert_eq!(Sm::of(75), None);
    }

    #[test]
    fn every_architecture_that_there_is_code_for_is_known() {
        use q35_target::Target as _;
        for variant in q35_target_ptx::Ptx::ALL.variants() {
            let capability = super::super::gpus::capability(variant.name).expect("`sm_N`");
            assert!(Sm::of(capability).is_some(), "{variant}");
        }
    }
}
