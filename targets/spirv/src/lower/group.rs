//! What lanes do together.
//!
//! The order in which values meet follows from the number of the lane alone, never from the size of
//! a subgroup. Butterflies at distances within a subgroup are shuffles, the others go through shared
//! memory, and which is which is found out when the group runs: a driver that fixes the size folds
//! the branch.
//!
//! The lane's number is put together from its subgroup's and its place in it where shuffles are used,
//! as SPIR-V does not say how the one index of an invocation falls into subgroups. That needs all
//! subgroups full, for which the group is a multiple of the largest. A group that is not uses shared
//! memory alone.

use super::{Lowering, Parts, part_shape};
use crate::module::{Kind, Module, Shape};
use q35_kernel::{Block, Inst, Kernel, ReduceOp, Scalar, Value};
use rspirv::dr::{Instruction, Operand};
use rspirv::spirv::{BuiltIn, Capability, MemorySemantics, Op, Scope, StorageClass, Word};

/// Lanes of the smallest and of the largest subgroup there may be.
const SMALLEST: u32 = 4;
const LARGEST: u32 = 64;

pub struct Group {
    pub lane: Word,
    /// Number of the subgroup that owns accumulators, where it must be the machine's own.
    own: Option<Word>,
    /// Lanes of a subgroup of the machine, where shuffles are used.
    size: Option<Word>,
    scratch: Option<Word>,
    pub scratch_words: u32,
    /// Words of a lane in one of the two halves of `scratch`.
    lane_words: u32,
}

/// What a kernel's lanes do together.
#[derive(Default)]
struct Uses {
    shuffles: bool,
    /// The largest part that goes through shared memory.
    exchanged: u32,
}

impl Group {
    pub fn new(m: &mut Module, kernel: &Kernel) -> Group {
        let full = kernel.lanes.is_multiple_of(LARGEST);
        let mut uses = Uses::default();
        uses.of(&kernel.body, kernel, full);
        let scratch_words = 2 * kernel.lanes * uses.exchanged;
        let scratch = (scratch_words > 0).then(|| m.shared(scratch_words, "exchange"));
        let owned = !kernel.accumulators.is_empty();
        let (lane, own, size) = if uses.shuffles || owned {
            m.require(Capability::GroupNonUniform);
            let number = m.builtin(BuiltIn::SubgroupId, 1);
            let size = m.builtin(BuiltIn::SubgroupSize, 1);
            let place = m.builtin(BuiltIn::SubgroupLocalInvocationId, 1);
            let first = m.op(Op::IMul, (Kind::U32, 1), &[number, size]);
            let lane = m.op(Op::IAdd, (Kind::U32, 1), &[first, place]);
            (lane, owned.then_some(number), Some(size))
        } else {
            (m.builtin(BuiltIn::LocalInvocationIndex, 1), None, None)
        };
        if uses.shuffles {
            m.require(Capability::GroupNonUniformShuffle);
        }
        let size = size.filter(|_| uses.shuffles);
        Group { lane, own, size, scratch, scratch_words, lane_words: uses.exchanged }
    }
}

impl Uses {
    fn of(&mut self, block: &Block, kernel: &Kernel, full: bool) {
        for stmt in &block.stmts {
            match &stmt.inst {
                Inst::Cluster { value, size, .. } => {
                    self.shuffles |= full && *size > 1;
                    if *size > SMALLEST || !full {
                        self.exchange(kernel, *value);
                    }
                }
                Inst::GroupScan(value) => self.exchange(kernel, *value),
                inst => inst.blocks().for_each(|block| self.of(block, kernel, full)),
            }
        }
    }

    fn exchange(&mut self, kernel: &Kernel, value: Value) {
        let (_, n) = part_shape(kernel.type_of(value));
        self.exchanged = self.exchanged.max(u32::from(n));
    }
}

impl Lowering<'_> {
    /// Number of the subgroup: the machine's where it owns accumulators, and then of the same size.
    pub fn subgroup(&mut self) -> Word {
        match self.group.own {
            Some(number) => number,
            None => {
                let by = self.kernel.subgroup.trailing_zeros();
                self.shifted(Op::ShiftRightLogical, self.group.lane, by, 1)
            }
        }
    }

    pub fn barrier(&mut self) {
        let semantics = MemorySemantics::ACQUIRE_RELEASE
            | MemorySemantics::UNIFORM_MEMORY
            | MemorySemantics::WORKGROUP_MEMORY
            | MemorySemantics::MAKE_AVAILABLE
            | MemorySemantics::MAKE_VISIBLE;
        let scope = self.m.u32(Scope::Workgroup as u32);
        let semantics = self.m.u32(semantics.bits());
        let operands = vec![
            Operand::IdScope(scope),
            Operand::IdScope(scope),
            Operand::IdMemorySemantics(semantics),
        ];
        self.m.push(Instruction::new(Op::ControlBarrier, None, None, operands));
    }

    pub fn cluster(&mut self, op: ReduceOp, v: Value, size: u32) -> Parts {
        let (shape, scalar) = (self.shape(v), self.kernel.type_of(v).scalar);
        let parts = self.parts_of(v).to_vec().into_iter();
        parts.map(|part| self.butterflies(op, scalar, shape, part, size)).collect()
    }

    fn butterflies(
        &mut self,
        op: ReduceOp,
        scalar: Scalar,
        shape: Shape,
        part: Word,
        size: u32,
    ) -> Word {
        let mut own = part;
        // Neighbouring exchanges use the two halves of the scratch in turn, so that one barrier each
        // is enough; a last one leaves the scratch to whoever comes next.
        let mut turn = 0;
        let mut distance = 1;
        while distance < size {
            let last = 2 * distance == size;
            let other = match self.group.size {
                Some(_) if distance < SMALLEST => self.shuffled(shape, own, distance),
                Some(lanes) => {
                    let by = self.m.u32(distance);
                    let within = self.m.op(Op::ULessThan, (Kind::Bool, 1), &[by, lanes]);
                    self.either(
                        shape,
                        within,
                        |l| l.shuffled(shape, own, distance),
                        |l| l.exchanged(shape, own, distance, turn, last),
                    )
                }
                None => self.exchanged(shape, own, distance, turn, last),
            };
            own = self.meet(op, scalar, shape, (own, other), distance);
            turn ^= 1;
            distance *= 2;
        }
        own
    }

    /// The value of the lane and that of the lane at `distance` from it, the lower lane's on the left.
    fn meet(
        &mut self,
        op: ReduceOp,
        scalar: Scalar,
        shape: Shape,
        (own, other): (Word, Word),
        distance: u32,
    ) -> Word {
        // Only the sign of a zero and what is no number show which was on the left.
        let ordered = scalar == Scalar::F32 && op != ReduceOp::Sum;
        if !ordered {
            return self.combine(op, scalar, shape.1, own, other);
        }
        let [bit, zero] = [distance, 0].map(|v| self.m.u32(v));
        let bit = self.m.op(Op::BitwiseAnd, (Kind::U32, 1), &[self.group.lane, bit]);
        let lower = self.m.op(Op::IEqual, (Kind::Bool, 1), &[bit, zero]);
        let left = self.m.op(Op::Select, shape, &[lower, own, other]);
        let right = self.m.op(Op::Select, shape, &[lower, other, own]);
        self.combine(op, scalar, shape.1, left, right)
    }

    fn shuffled(&mut self, shape: Shape, own: Word, distance: u32) -> Word {
        let [scope, by] = [Scope::Subgroup as u32, distance].map(|v| self.m.u32(v));
        self.m.op(Op::GroupNonUniformShuffleXor, shape, &[scope, own, by])
    }

    fn exchanged(&mut self, shape: Shape, own: Word, distance: u32, turn: u32, last: bool) -> Word {
        let by = self.m.u32(distance);
        let partner = self.m.op(Op::BitwiseXor, (Kind::U32, 1), &[self.group.lane, by]);
        let other = self.fetched(shape, own, partner, turn);
        if last {
            self.barrier();
        }
        other
    }

    /// What lane `from` has, through half `turn` of the scratch.
    fn fetched(&mut self, shape: Shape, own: Word, from: Word, turn: u32) -> Word {
        let words = self.m.bitcast((Kind::U32, shape.1), own);
        for i in 0..shape.1 {
            let word = self.m.element((Kind::U32, shape.1), words, i);
            let at = self.scratch(self.group.lane, turn, i);
            self.m.store(at, word, None, true);
        }
        self.barrier();
        let ty = self.m.ty((Kind::U32, 1));
        let words: Vec<Word> = (0..shape.1)
            .map(|i| {
                let at = self.scratch(from, turn, i);
                self.m.load(ty, at, None, true)
            })
            .collect();
        let words = self.m.vector((Kind::U32, shape.1), &words);
        self.m.bitcast(shape, words)
    }

    /// Where a lane leaves element `i`: neighbouring lanes at neighbouring words.
    fn scratch(&mut self, lane: Word, turn: u32, i: u8) -> Word {
        let array = self.group.scratch.expect("counted among the uses");
        let row = turn * self.group.lane_words + u32::from(i);
        let first = self.m.u32(row * self.kernel.lanes);
        let index = self.m.op(Op::IAdd, (Kind::U32, 1), &[lane, first]);
        let word = self.m.ty((Kind::U32, 1));
        let pointer = self.m.pointer(StorageClass::Workgroup, word);
        self.m.access(pointer, array, &[index])
    }

    pub fn scan(&mut self, v: Value) -> Parts {
        let (shape, scalar) = (self.shape(v), self.kernel.type_of(v).scalar);
        let parts = self.parts_of(v).to_vec().into_iter();
        parts.map(|part| self.prefix_sums(scalar, shape, part)).collect()
    }

    fn prefix_sums(&mut self, scalar: Scalar, shape: Shape, part: Word) -> Word {
        let mut own = part;
        let (mut distance, mut turn) = (1, 0);
        while distance < self.kernel.lanes {
            let by = self.m.u32(distance);
            let lane = self.group.lane;
            let has = self.m.op(Op::UGreaterThanEqual, (Kind::Bool, 1), &[lane, by]);
            let left = self.m.op(Op::ISub, (Kind::U32, 1), &[lane, by]);
            let from = self.m.op(Op::Select, (Kind::U32, 1), &[has, left, lane]);
            let other = self.fetched(shape, own, from, turn);
            let sum = self.combine(ReduceOp::Sum, scalar, shape.1, other, own);
            own = self.m.op(Op::Select, shape, &[has, sum, own]);
            turn ^= 1;
            distance *= 2;
        }
        if distance > 1 {
            self.barrier();
        }
        own
    }

    /// A value that is made in one of two ways.
    fn either(
        &mut self,
        shape: Shape,
        cond: Word,
        then: impl FnOnce(&mut Self) -> Word,
        otherwise: impl FnOnce(&mut Self) -> Word,
    ) -> Word {
        let [on_true, on_false, done] = [(); 3].map(|()| self.m.label());
        self.m.choose(cond, on_true, on_false, done);
        self.m.open(on_true);
        let first = (then(self), self.m.block);
        self.m.branch(done);
        self.m.open(on_false);
        let second = (otherwise(self), self.m.block);
        self.m.branch(done);
        self.m.open(done);
        let ty = self.m.ty(shape);
        self.m.phi(ty, [first, second])
    }
}
