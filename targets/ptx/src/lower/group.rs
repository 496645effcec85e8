//! What lanes do together.
//!
//! The order in which values meet follows from the number of the lane alone. Butterflies within a warp are shuffles,
//! the others go through shared memory. A group whose last warp is not full and not its only one uses shared memory
//! alone.

use super::arith::{chosen, combine};
use super::{Elements, Lowering};
use crate::function::{Arg, Class, Function};
use q35_kernel::{Block, Inst, Kernel, ReduceOp, Scalar, Value};

/// Lanes of a warp.
const WARP: u32 = 32;
/// Elements of a value that are exchanged at once.
const AT_ONCE: usize = 4;

pub struct Group {
    pub lane: Arg,
    /// Lanes that can shuffle with one another; one alone if none can.
    shuffled: u32,
    /// The lane's first word in what is exchanged.
    own: Option<Arg>,
    pub exchange_bytes: u32,
    /// Elements of a lane in one of the two halves of that.
    elements: u32,
}

impl Group {
    pub fn new(f: &mut Function, kernel: &Kernel, lane: Arg) -> Group {
        let shuffled = match kernel.lanes {
            lanes if lanes < WARP => lanes,
            lanes if lanes.is_multiple_of(WARP) => WARP,
            _ => 1,
        };
        let elements = exchanged(&kernel.body, kernel, shuffled);
        let exchange_bytes = 2 * 4 * kernel.lanes * elements;
        let own = (elements > 0).then(|| {
            let base = f.read(Class::Word, "mov.u32", "exchange");
            f.word("mad.lo.s32", &[lane, Arg::Int(4), base])
        });
        Group { lane, shuffled, own, exchange_bytes, elements }
    }

    pub fn declared(&self) -> String {
        match self.exchange_bytes {
            0 => String::new(),
            bytes => format!("\n.shared .align 16 .b8 exchange[{bytes}];\n"),
        }
    }
}

/// How many elements of a value go through shared memory at once, of all that do in `block`.
fn exchanged(block: &Block, kernel: &Kernel, shuffled: u32) -> u32 {
    let elements = |v: Value| u32::from(kernel.type_of(v).width).min(AT_ONCE as u32);
    let each = block.stmts.iter().map(|stmt| match &stmt.inst {
        Inst::Cluster { value, size, .. } if *size > shuffled => elements(*value),
        Inst::GroupScan(value) if kernel.lanes > shuffled => elements(*value),
        inst => inst.blocks().map(|b| exchanged(b, kernel, shuffled)).max().unwrap_or(0),
    });
    each.max().unwrap_or(0)
}

impl Lowering<'_> {
    /// Number of the subgroup.
    pub fn subgroup(&mut self) -> Arg {
        let by = self.kernel.subgroup.trailing_zeros();
        self.f.word("shr.u32", &[self.group.lane, Arg::Int(by as i32)])
    }

    pub fn barrier(&mut self) {
        self.arrive();
        self.f.line(format_args!("bar.sync 0"));
    }

    pub fn cluster(&mut self, op: ReduceOp, v: Value, size: u32) -> Elements {
        let scalar = self.kernel.type_of(v).scalar;
        let parts = self.of(v).to_vec();
        parts.chunks(AT_ONCE).flat_map(|part| self.butterflies(op, scalar, part, size)).collect()
    }

    fn butterflies(&mut self, op: ReduceOp, scalar: Scalar, part: &[Arg], size: u32) -> Elements {
        let mut own = part.to_vec();
        // Neighbouring exchanges use the two halves of the memory in turn, so that one barrier each
        // is enough; a last one leaves it to whoever comes next.
        let mut turn = 0;
        let mut distance = 1;
        while distance < size {
            let other = if distance < self.group.shuffled {
                let how = (distance, 31);
                own.iter().map(|v| self.shuffle("bfly", *v, how)).collect()
            } else {
                let partner = self.f.word("xor.b32", &[self.group.lane, Arg::Int(distance as i32)]);
                let other = self.exchange(&own, partner, turn);
                if 2 * distance == size {
                    self.barrier();
                }
                turn ^= 1;
                other
            };
            own = self.meet(op, scalar, (&own, &other), distance);
            distance *= 2;
        }
        own
    }

    /// What this lane has and what the one at `distance` from it has, the lower lane's on the left.
    fn meet(
        &mut self,
        op: ReduceOp,
        scalar: Scalar,
        (own, other): (&[Arg], &[Arg]),
        distance: u32,
    ) -> Elements {
        let pairs = own.iter().copied().zip(other.iter().copied());
        // Only the sign of a zero and what is no number show which was on the left.
        let ordered = scalar == Scalar::F32 && op != ReduceOp::Sum;
        if !ordered {
            return pairs.map(|(a, b)| combine(&mut self.f, op, scalar, a, b)).collect();
        }
        let bit = self.f.word("and.b32", &[self.group.lane, Arg::Int(distance as i32)]);
        let lower = self.f.pred("setp.eq.s32", &[bit, Arg::Int(0)]);
        let f = &mut self.f;
        pairs
            .map(|(own, other)| {
                let left = chosen(f, scalar, lower, own, other);
                let right = chosen(f, scalar, lower, other, own);
                combine(f, op, scalar, left, right)
            })
            .collect()
    }

    /// Lanes that are not there take no part.
    fn shuffle(&mut self, kind: &str, v: Arg, (by, clamp): (u32, u32)) -> Arg {
        let v = self.f.register(v);
        let to = self.f.fresh(Class::Word);
        let members = u32::MAX >> (WARP - self.group.shuffled);
        self.f.line(format_args!("shfl.sync.{kind}.b32 {to}, {v}, {by}, {clamp}, {members:#x}"));
        to
    }

    /// What lane `from` has, through half `turn` of the memory for that.
    fn exchange(&mut self, own: &[Arg], from: Arg, turn: u32) -> Elements {
        let mine = self.group.own.expect("counted among the exchanges");
        // Neighbouring lanes at neighbouring words.
        let (lanes, first) = (self.kernel.lanes, turn * self.group.elements);
        let at = |i: usize| 4 * lanes * (first + i as u32);
        for (i, v) in own.iter().enumerate() {
            let v = self.f.register(*v);
            self.f.line(format_args!("st.shared.b32 [{mine}+{}], {v}", at(i)));
        }
        self.barrier();
        let apart = self.f.word("sub.s32", &[from, self.group.lane]);
        let theirs = self.f.word("mad.lo.s32", &[apart, Arg::Int(4), mine]);
        let each = (0..own.len()).map(|i| format!("[{theirs}+{}]", at(i)));
        each.map(|from| self.f.read(Class::Word, "ld.shared.b32", from)).collect()
    }

    pub fn scan(&mut self, v: Value) -> Elements {
        let scalar = self.kernel.type_of(v).scalar;
        let parts = self.of(v).to_vec();
        parts.chunks(AT_ONCE).flat_map(|part| self.prefix_sums(scalar, part)).collect()
    }

    fn prefix_sums(&mut self, scalar: Scalar, part: &[Arg]) -> Elements {
        let (lane, lanes) = (self.group.lane, self.kernel.lanes);
        let alone = lanes <= self.group.shuffled;
        let mut own = part.to_vec();
        let (mut distance, mut turn) = (1, 0);
        while distance < lanes {
            let by = Arg::Int(distance as i32);
            let has = self.f.pred("setp.ge.u32", &[lane, by]);
            let other: Elements = if alone {
                own.iter().map(|v| self.shuffle("up", *v, (distance, 0))).collect()
            } else {
                let left = self.f.word("sub.s32", &[lane, by]);
                let from = self.f.word("selp.b32", &[left, lane, has]);
                self.exchange(&own, from, turn)
            };
            let f = &mut self.f;
            let sums = own.iter().zip(other).map(|(own, other)| {
                let sum = combine(f, ReduceOp::Sum, scalar, other, *own);
                chosen(f, scalar, has, sum, *own)
            });
            own = sums.collect();
            turn ^= 1;
            distance *= 2;
        }
        if distance > 1 && !alone {
            self.barrier();
        }
        own
    }
}
