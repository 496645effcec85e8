//! The language: types, instructions, blocks.
//!
//! Arithmetic is in `f32`, `i32` and `bool` only; buffers may hold narrower elements. There are
//! no transcendental functions: the builder expands them (see [`crate::KernelBuilder`]), so that every
//! target computes the same.

use q35_types::DType;

/// An SSA value of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scalar {
    F32,
    I32,
    Bool,
}

/// One to sixteen elements of a scalar type; the width is a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Type {
    pub scalar: Scalar,
    pub width: u8,
}

impl Type {
    pub const F32: Type = Type { scalar: Scalar::F32, width: 1 };
    pub const I32: Type = Type { scalar: Scalar::I32, width: 1 };
    pub const BOOL: Type = Type { scalar: Scalar::Bool, width: 1 };

    pub const fn vector(scalar: Scalar, width: u8) -> Type {
        Type { scalar, width }
    }

    pub const fn with(self, scalar: Scalar) -> Type {
        Type { scalar, ..self }
    }
}

/// What a launch does to a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

/// A buffer of the launch, or with `table` a list of buffers of one type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Param {
    pub name: String,
    pub dtype: DType,
    pub access: Access,
    pub table: bool,
}

/// An array that the lanes of a group share while one task runs. Its contents are undefined
/// when a task begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Array {
    pub name: String,
    pub dtype: DType,
    pub len: u32,
}

/// Sums of [`Inst::Mma`], `f32`, a matrix that each subgroup has for itself, held by its lanes as
/// the machine likes. Its contents are undefined when a task begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Accumulator {
    pub name: String,
    /// Rows, a multiple of [`MMA_M`]; a machine may want a larger one.
    pub m: u32,
    /// Columns, a multiple of [`MMA_N`]; a machine may want a larger one.
    pub n: u32,
}

/// The smallest matrix product that any matrix unit has: `m16n8k16` of PTX. Others are multiples.
pub const MMA_M: u32 = 16;
pub const MMA_N: u32 = 8;
pub const MMA_K: u32 = 16;

/// An [`Accumulator`] by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Acc(pub u32);

/// Which memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mem {
    /// Parameter by number.
    Param(u32),
    /// Entry of a table parameter.
    Entry(u32, Value),
    /// Shared array by number.
    Shared(u32),
}

/// An element: memory and an index in elements, `i32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    pub mem: Mem,
    pub index: Value,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Literal {
    F32(f32),
    I32(i32),
    Bool(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnaryOp {
    /// `f32`
    Neg,
    /// `f32`
    Abs,
    /// `f32`, correctly rounded
    Sqrt,
    /// `bool`
    Not,
    /// `i32` to `f32`, to nearest
    IntToFloat,
    /// `f32` to `i32`, toward zero; the nearest `i32` beyond its range, 0 for NaN
    FloatToInt,
    /// Same bits, `i32` as `f32`
    BitsToFloat,
    /// Same bits, `f32` as `i32`
    FloatToBits,
}

/// On equal types; the result has that type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    /// `f32`, or `i32` wrapping
    Add,
    Sub,
    Mul,
    /// `f32` correctly rounded, or `i32` toward zero with a divisor that is a positive constant
    Div,
    /// `i32`, sign of the dividend, divisor a positive constant
    Rem,
    /// `a < b ? a : b`
    Min,
    /// `a > b ? a : b`
    Max,
    /// `i32` or `bool`
    And,
    Or,
    Xor,
    /// `i32`, by 0 to 31
    Shl,
    /// `i32`, arithmetic, by 0 to 31
    Shr,
}

/// Ordered comparisons: false when an operand is NaN, but for `Ne`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CompareOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    Sum,
    /// As [`BinaryOp::Min`].
    Min,
    /// As [`BinaryOp::Max`].
    Max,
}

/// The operands of [`Inst::PanelDot`]. Indices and strides are `i32`, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PanelDot {
    /// `x[r, j]` is at `x + r * x_row + j * x_k`; `f32`.
    pub x: Place,
    pub x_row: Value,
    pub x_k: Value,
    /// `w[p, j, n]` is at `w + p * w_panel + 16 * j + n`; any float type.
    pub w: Place,
    pub w_panel: Value,
    /// `out[r, p, n]` is at `out + r * out_row + 16 * p + n`; `f32`.
    pub out: Place,
    pub out_row: Value,
    pub rows: Value,
    pub panels: Value,
    pub k: Value,
    /// Start from what `out` holds instead of zero.
    pub accumulate: bool,
}

/// The operands of [`Inst::Mma`]. Both matrices are in shared arrays of one 16-bit type; indices and
/// strides are `i32`, in elements, the same for all lanes of a subgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mma {
    pub acc: Acc,
    /// `a[i, j]` is at `a + i * a_row + j`.
    pub a: Place,
    pub a_row: Value,
    /// `b[j, n]` is at `b + j * b_row + n`, or with `b_columns` at `b + n * b_row + j`.
    pub b: Place,
    pub b_row: Value,
    /// Whether columns of `b` lie in one piece, as the rows of a weight do.
    pub b_columns: bool,
    /// A multiple of [`MMA_K`].
    pub k: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Inst {
    Const(Literal),
    /// Number of the task.
    Task,
    /// Number of the lane in its group.
    Lane,
    /// Number of the lane's subgroup in the group: `lane / subgroup`.
    Subgroup,
    Unary(UnaryOp, Value),
    Binary(BinaryOp, Value, Value),
    /// `a * b + c`, rounded once. Only on targets whose capabilities have it.
    Fma(Value, Value, Value),
    Compare(CompareOp, Value, Value),
    /// `if cond { a } else { b }`, element by element; `cond` has the width of `a`, or 1.
    Select(Value, Value, Value),
    /// A scalar in every element.
    Splat(Value, u8),
    /// 2, 4, 8 or 16 scalars as one value.
    Vector(Vec<Value>),
    /// One element.
    Extract(Value, u8),
    /// Elements folded in halves: `v[i] op v[i + w/2]`, until one is left.
    Reduce(ReduceOp, Value),
    /// `width` neighbouring elements, widened to `f32` or as `i32`. No alignment beyond the element's.
    Load {
        at: Place,
        width: u8,
    },
    /// Rounded to the element type, to nearest, ties to even.
    Store {
        at: Place,
        value: Value,
    },
    /// `out[r, p, :] (+)= Σⱼ x[r, j] · w[p, j, :]`, each sum in ascending `j`: the matrix product of a
    /// CPU, which may have a micro-kernel for it. Of a panel, always all sixteen columns are written.
    /// Fused or not, the multiply-add is what the target's is everywhere.
    PanelDot(PanelDot),
    /// `value` folded over each aligned cluster of `size` lanes, a power of two that divides the
    /// lanes of the group; every lane of the cluster gets it. By butterflies at the distances
    /// `d = 1, 2, 4, .. size/2`: a lane's value is folded with that of lane `^ d`, the lower lane's on
    /// the left. So the order follows from `size` alone, whatever a subgroup is. A vector is folded
    /// element by element. Control is uniform over the group.
    Cluster {
        op: ReduceOp,
        value: Value,
        size: u32,
    },
    /// Inclusive sum over lanes `0..=lane`, for `d = 1, 2, 4, ..`: each lane from `d` on adds what
    /// lane `- d` had before, on the left. Control is uniform over the group.
    GroupScan(Value),
    /// All sums of this subgroup become zero. Like the three that follow, it is done by a subgroup
    /// as a whole, in control that is uniform over the subgroup.
    MmaZero(Acc),
    /// `acc[i, n] += Σⱼ a[i, j] · b[j, n]`. Products are exact and sums are `f32`; in which order the
    /// products of [`MMA_K`] neighbouring `j` are added, and how that is rounded, is the machine's, so
    /// that machines agree within bounds and not to the bit.
    Mma(Mma),
    /// `acc[i, n]` from `at + i * row + n`, `f32`.
    MmaLoad {
        acc: Acc,
        at: Place,
        row: Value,
    },
    /// `acc[i, n]` to `at + i * row + n`, `f32`.
    MmaStore {
        acc: Acc,
        at: Place,
        row: Value,
    },
    /// Makes shared and global writes of the group visible to the group. Control is uniform over the
    /// group.
    Barrier,
    /// `for var in (start..end).step_by(step)`, `step` a positive constant.
    For {
        start: Value,
        end: Value,
        step: u32,
        var: Value,
        init: Vec<Value>,
        carried: Vec<Value>,
        body: Block,
    },
    /// Both blocks yield as many values as the statement has results.
    If {
        cond: Value,
        then: Block,
        otherwise: Block,
    },
}

impl Inst {
    /// The blocks in it, in the order in which they are written.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        let (first, second) = match self {
            Inst::For { body, .. } => (Some(body), None),
            Inst::If { then, otherwise, .. } => (Some(then), Some(otherwise)),
            Inst::Const(_)
            | Inst::Task
            | Inst::Lane
            | Inst::Subgroup
            | Inst::Unary(..)
            | Inst::Binary(..)
            | Inst::Fma(..)
            | Inst::Compare(..)
            | Inst::Select(..)
            | Inst::Splat(..)
            | Inst::Vector(_)
            | Inst::Extract(..)
            | Inst::Reduce(..)
            | Inst::Load { .. }
            | Inst::Store { .. }
            | Inst::PanelDot(_)
            | Inst::Cluster { .. }
            | Inst::GroupScan(_)
            | Inst::MmaZero(_)
            | Inst::Mma(_)
            | Inst::MmaLoad { .. }
            | Inst::MmaStore { .. }
            | Inst::Barrier => (None, None),
        };
        first.into_iter().chain(second)
    }
}

/// Results and what makes them.
#[derive(Debug, Clone, PartialEq)]
pub struct Stmt {
    pub results: Vec<Value>,
    pub inst: Inst,
}

/// Statements, and the values handed to the enclosing `for` or `if`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Block {
    pub stmts: Vec<Stmt>,
    pub yields: Vec<Value>,
}

/// One kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Kernel {
    /// A valid identifier, unique in an artifact.
    pub name: String,
    /// Lanes of a group.
    pub lanes: u32,
    /// Lanes of a subgroup, a power of two that divides `lanes`; 1 on a CPU. It decides who owns an
    /// accumulator, and nothing else about results.
    pub subgroup: u32,
    pub params: Vec<Param>,
    pub shared: Vec<Array>,
    pub accumulators: Vec<Accumulator>,
    /// Type of each [`Value`], by number.
    pub types: Vec<Type>,
    pub body: Block,
}

impl Kernel {
    pub fn type_of(&self, v: Value) -> Type {
        self.types[v.0 as usize]
    }

    /// Element type of a memory.
    pub fn dtype_of(&self, mem: Mem) -> DType {
        match mem {
            Mem::Param(p) | Mem::Entry(p, _) => self.params[p as usize].dtype,
            Mem::Shared(a) => self.shared[a as usize].dtype,
        }
    }

    /// Subgroups of a group.
    pub fn subgroups(&self) -> u32 {
        self.lanes / self.subgroup
    }

    /// Bytes of all shared arrays, each aligned to 64 bytes.
    pub fn shared_bytes(&self) -> usize {
        self.shared.iter().map(|a| (a.len as usize * a.dtype.size()).next_multiple_of(64)).sum()
    }
}
