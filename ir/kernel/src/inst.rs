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
    /// `f32` or `i32`.
    pub dtype: DType,
    pub len: u32,
}

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

#[derive(Debug, Clone, PartialEq)]
pub enum Inst {
    Const(Literal),
    /// Number of the task.
    Task,
    /// Number of the lane in its group.
    Lane,
    Unary(UnaryOp, Value),
    Binary(BinaryOp, Value, Value),
    /// `a * b + c`, rounded once. Only on targets whose capabilities have it.
    Fma(Value, Value, Value),
    Compare(CompareOp, Value, Value),
    /// `if cond { a } else { b }`, element by element; `cond` has the width of `a`, or 1.
    Select(Value, Value, Value),
    /// A scalar in every element.
    Splat(Value, u8),
    /// One element.
    Extract(Value, u8),
    /// Elements folded in halves: `v[i] op v[i + w/2]`, until one is left.
    Reduce(ReduceOp, Value),
    /// `width` neighbouring elements, widened to `f32` or as `i32`. No alignment beyond the element's.
    Load { at: Place, width: u8 },
    /// Rounded to the element type, to nearest, ties to even.
    Store { at: Place, value: Value },
    /// `out[r, p, :] (+)= Σⱼ x[r, j] · w[p, j, :]`, each sum in ascending `j`: the matrix product of a
    /// CPU, which may have a micro-kernel for it. Of a panel, always all sixteen columns are written.
    /// Fused or not, the multiply-add is what the target's is everywhere.
    PanelDot(PanelDot),
    /// Over the lanes of the group, folded in halves; every lane gets it. Uniform control only.
    Group(ReduceOp, Value),
    /// Inclusive sum over lanes `0..=lane`. Uniform control only.
    GroupScan(Value),
    /// Makes shared and global writes of the group visible to the group. Uniform control only.
    Barrier,
    /// `for var in (start..end).step_by(step)`, `step` a positive constant.
    For { start: Value, end: Value, step: u32, var: Value, init: Vec<Value>, carried: Vec<Value>, body: Block },
    /// Both blocks yield as many values as the statement has results.
    If { cond: Value, then: Block, otherwise: Block },
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
    pub params: Vec<Param>,
    pub shared: Vec<Array>,
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

    /// Bytes of all shared arrays, each aligned to 64 bytes.
    pub fn shared_bytes(&self) -> usize {
        self.shared.iter().map(|a| (a.len as usize * a.dtype.size()).next_multiple_of(64)).sum()
    }
}
