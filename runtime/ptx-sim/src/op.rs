//! What a kernel is decoded to, once: registers numbered, names resolved, types chosen.

use crate::regs::{Lanes, Reg, Regs, Word};
use crate::types::{Space, Ty};
use std::ops::Range;

/// Arithmetic on the lanes of a mask. The decoder makes one closure an instruction, typed and with its modifiers
/// folded in, so that running it is one call and a loop over lanes.
pub(crate) type Alu = Box<dyn Fn(&mut Regs, u32) + Send + Sync>;

/// What lanes do together. A lane that cannot take part names itself and says why.
pub(crate) type Together = Box<dyn Fn(&mut Regs, u32) -> Result<(), (usize, String)> + Send + Sync>;

pub(crate) struct Code {
    pub op: Op,
    pub guard: Option<Guard>,
    pub line: u32,
    /// Of `Kernel::kinds`.
    pub kind: u16,
    /// Floating-point operations a lane.
    pub flops: u32,
    /// Tensor-core operations a warp.
    pub tensor_flops: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    pub pred: usize,
    pub negated: bool,
}

pub(crate) enum Op {
    Alu(Alu),
    Branch(u32),
    /// `brx.idx`
    Table {
        index: usize,
        targets: Box<[u32]>,
    },
    Exit,
    Trap,
    Nop,
    /// Instructions so far, as a clock.
    Clock(Reg),
    Barrier(Box<Barrier>),
    /// `bar.warp.sync`: waits for the lanes of a register.
    WarpSync(usize),
    /// Waits for the lanes of a register, or for all, then acts.
    Together {
        members: Option<usize>,
        run: Together,
    },
    Load(Box<Access>),
    Store(Box<Access>),
    Atom(Box<Atom>),
    LdMatrix(Box<LdMatrix>),
    StMatrix(Box<LdMatrix>),
    Copy(Box<Copy>),
    CopyCommit,
    /// Waits until at most so many groups are under way; `u32::MAX` is `wait_all`, which needs no groups.
    CopyWait(u32),
}

pub(crate) struct Barrier {
    pub id: Reg,
    /// Threads that take part; all where None.
    pub threads: Option<Reg>,
    /// `bar.arrive`: counts and goes on.
    pub arrive: bool,
    /// `.aligned`: whole warps reach it together.
    pub aligned: bool,
    pub reduce: Option<BarrierReduce>,
}

#[derive(Clone, Copy)]
pub(crate) struct BarrierReduce {
    pub kind: ReduceKind,
    pub from: Guard,
    pub to: Reg,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum ReduceKind {
    Popc,
    And,
    Or,
}

/// Where an address comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Base {
    None,
    W32(usize),
    W64(usize),
}

#[derive(Clone, Copy)]
pub(crate) struct Address {
    pub space: Space,
    pub base: Base,
    pub offset: u64,
}

pub(crate) struct Access {
    pub at: Address,
    pub ty: Ty,
    /// One register for each element of a vector.
    pub regs: Vec<Reg>,
    /// `.volatile`, `.relaxed`, `.acquire`, `.release`: ordered by more than barriers.
    pub strong: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomKind {
    Add,
    And,
    Or,
    Xor,
    Min,
    Max,
    Inc,
    Dec,
    Exch,
    Cas,
}

pub(crate) struct Atom {
    pub at: Address,
    pub ty: Ty,
    pub kind: AtomKind,
    /// One for each element of a vector; none for `red`.
    pub to: Vec<Reg>,
    pub a: Vec<Reg>,
    /// The new value of `cas`.
    pub b: Option<Reg>,
}

pub(crate) struct LdMatrix {
    pub at: Address,
    pub transposed: bool,
    /// One register a matrix.
    pub regs: Vec<usize>,
}

pub(crate) struct Copy {
    pub to: Address,
    pub from: Address,
    pub bytes: u64,
    /// Bytes that are read, the rest are zeros.
    pub given: Option<Reg>,
    /// A predicate that leaves the source unread.
    pub ignore: Option<Guard>,
}

/// What is known of a lane before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(usize),
    Ntid(usize),
    Ctaid(usize),
    Nctaid(usize),
    LaneId,
    WarpId,
    WarpCount,
    SmId,
    LaneMask(LaneMask),
    DynamicShared,
    TotalShared,
    Constant(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LaneMask {
    Eq,
    Le,
    Lt,
    Ge,
    Gt,
}

pub(crate) struct Kernel {
    pub name: String,
    pub code: Vec<Code>,
    /// Names of instructions as counted, without types.
    pub kinds: Vec<String>,
    pub w32: usize,
    pub w64: usize,
    pub preds: usize,
    /// Registers that hold a constant.
    pub constants32: Vec<(usize, u32)>,
    pub constants64: Vec<(usize, u64)>,
    pub specials: Vec<(usize, Special)>,
    /// All other registers of 32 and of 64 bits, which code may write.
    pub written32: Vec<Range<usize>>,
    pub written64: Vec<Range<usize>>,
    /// Registers of 32 and of 64 bits that the code up to each instruction has.
    pub known: Vec<[u32; 2]>,
    pub params: Vec<(u64, u64)>,
    pub param_bytes: u64,
    /// Bytes of shared memory that the text fixes; what a launch adds lies behind.
    pub static_shared: u64,
    pub local_bytes: u64,
    pub required: Option<[u32; 3]>,
    pub most: Option<u64>,
    /// Whether results may depend on the order of blocks.
    pub ordered: bool,
    /// Bytes of the smallest access that may meet shared memory: races are told apart to this.
    pub granule: u64,
    /// Whether barriers are waited on by fewer than all threads.
    pub partial_barriers: bool,
}

impl Kernel {
    pub fn registers(&self) -> Regs {
        let mut regs = Regs {
            w32: vec![[0; 32]; self.w32],
            w64: vec![[0; 32]; self.w64],
            preds: vec![0; self.preds],
            carry: 0,
        };
        for &(at, value) in &self.constants32 {
            regs.w32[at] = [value; 32];
        }
        for &(at, value) in &self.constants64 {
            regs.w64[at] = [value; 32];
        }
        regs
    }

    /// Makes registers what they were at first, if no instruction behind `reached` has run.
    pub fn clear(&self, regs: &mut Regs, reached: u32) {
        let [known32, known64] = self.known[reached as usize].map(|count| count as usize);
        clear(&mut regs.w32[..known32], &self.written32);
        clear(&mut regs.w64[..known64], &self.written64);
        regs.preds.fill(0);
        regs.carry = 0;
    }
}

fn clear<T: Word>(file: &mut [Lanes<T>], written: &[Range<usize>]) {
    let known = file.len();
    for run in written.iter().take_while(|run| run.start < known) {
        file[run.start..run.end.min(known)].fill([T::default(); 32]);
    }
}

impl LaneMask {
    pub fn lanes(self) -> Lanes<u32> {
        std::array::from_fn(|i| {
            let eq = 1u32 << i;
            match self {
                Self::Eq => eq,
                Self::Lt => eq - 1,
                Self::Le => (eq - 1) | eq,
                Self::Gt => !((eq - 1) | eq),
                Self::Ge => !(eq - 1),
            }
        })
    }
}
