//! How a graph is held: dense tables, indexed by small handles.

use crate::op::Op;
use q35_types::{DType, Dim, Layout, Shape, pack::Transform};
use std::fmt;

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident $sigil:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($sigil, "{}"), self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = ();
            fn from_str(s: &str) -> Result<Self, ()> {
                s.strip_prefix($sigil).and_then(|n| n.parse().ok()).map($name).ok_or(())
            }
        }
    )*};
}
handles! {
    /// A node and the tensor it makes.
    Value "%";
    /// A weight of the graph.
    WeightId "w";
    /// A piece of sequence state of the graph.
    StateId "s";
}

/// A tensor's element type and shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Type {
    pub dtype: DType,
    pub shape: Shape,
}

impl Type {
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = Dim>) -> Self {
        Type { dtype, shape: shape.into_iter().collect() }
    }
}

/// `bf16[T, 64]`
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, dim) in self.shape.iter().enumerate() {
            write!(f, "{}{dim}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("]")
    }
}

/// What a block takes from outside or gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Port {
    /// `i32[T]`, token ids.
    Ids,
    /// `i32[3, T]`, RoPE positions.
    Positions,
    /// `i32[R]`, the tokens whose logits are wanted.
    Rows,
    /// `[T, hidden]`, the residual stream between blocks.
    Hidden,
    /// `f32[T, 2, rotary / 2]`, cosines and sines of the step.
    Rope,
    /// `f32[R, vocab]`
    Logits,
    /// `i32[1]`, how many ids have a token.
    ValidIds,
    /// `i32[R, 1]`, the likeliest token.
    Likeliest,
    /// `i32[R, k]`, the likeliest tokens by rank, and -1 where there are fewer.
    Candidates,
    /// `f32[R, k]`, their logits.
    CandidateLogits,
}

/// Rows of a packed weight.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// `rows` rows, from row `first` on, of a tensor read as a matrix with the weight's
    /// columns. `tensor` may hold `{layer}` and `{expert}`; each expert's rows begin `per_expert` rows
    /// after the one's before.
    Rows {
        tensor: String,
        shape: Vec<u64>,
        first: u64,
        per_expert: u64,
        rows: u32,
        transform: Transform,
    },
    Zeros {
        rows: u32,
    },
    /// Numbers that the compiler knows and no checkpoint holds (the RoPE frequencies), row after
    /// row: the bits of each as f32, since a weight is compared and hashed.
    Values {
        bits: Vec<u32>,
    },
}

/// A weight that kernels read: the same matrix, made from the checkpoint in one of several ways.
///
/// With `experts` it is a table of as many matrices `[rows, cols]`. As a tensor its type is `[cols]` if
/// `vector`, else `[rows, cols]`, with the number of experts in front if it has any.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Weight {
    /// Unique in the graph; `{layer}` stands for the layer's number.
    pub name: String,
    pub dtype: DType,
    pub experts: Option<u32>,
    pub rows: u32,
    pub cols: u32,
    pub vector: bool,
    pub layout: Layout,
    /// Recipes; a checkpoint serves if it has all the tensors of one.
    pub recipes: Vec<Vec<Part>>,
}

impl Weight {
    pub fn ty(&self) -> Type {
        let shape = match (self.experts, self.vector) {
            (Some(e), _) => vec![e, self.rows, self.cols],
            (None, false) => vec![self.rows, self.cols],
            (None, true) => vec![self.cols],
        };
        Type::new(self.dtype, shape.into_iter().map(Dim::Fixed))
    }
}

/// Sequence state, one of its kind for each layer that has the block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// The last rows before the convolution, that of position p in row p mod taps: `f32[slot, taps, channels]`.
    Conv { taps: u32, channels: u32 },
    /// The delta-rule matrix of each value head: `f32[slot, heads, dk, dv]`.
    Delta { heads: u32, dk: u32, dv: u32 },
    /// Keys and values of each token: `dtype[page, heads, 64, head_dim]`, twice.
    Kv { dtype: DType, heads: u32, head_dim: u32 },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub op: Op,
    pub operands: Vec<Value>,
    pub ty: Type,
}

/// One block.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Graph {
    pub name: String,
    pub weights: Vec<Weight>,
    pub states: Vec<State>,
    /// A node uses only nodes before it. State is read and written in this order.
    pub nodes: Vec<Node>,
    /// What the block gives back.
    pub outputs: Vec<(Port, Value)>,
}

/// The blocks of an entry point and the order in which they run.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    pub entry: Entry,
    pub blocks: Vec<Graph>,
    /// Block, and the layer whose weights and state it uses.
    pub sequence: Vec<(usize, Option<u32>)>,
}

/// What a step is for. Passes and schedules choose by it, never by how many tokens there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Entry {
    /// Tokens of prompts.
    Prefill,
    /// One token of each sequence.
    Decode,
    /// From hidden rows to logits.
    Head,
    /// From hidden rows to the likeliest token of each.
    Greedy,
    /// From hidden rows to the few likeliest tokens of each and their logits.
    Candidates,
}

impl Entry {
    pub const fn name(self) -> &'static str {
        match self {
            Entry::Prefill => "prefill",
            Entry::Decode => "decode",
            Entry::Head => "head",
            Entry::Greedy => "greedy",
            Entry::Candidates => "candidates",
        }
    }

    /// Whether it is `head` and then some: what only devices far from the host have.
    pub const fn samples(self) -> bool {
        match self {
            Entry::Prefill | Entry::Decode | Entry::Head => false,
            Entry::Greedy | Entry::Candidates => true,
        }
    }
}

impl Graph {
    pub fn node(&self, v: Value) -> &Node {
        &self.nodes[v.0 as usize]
    }

    pub fn ty(&self, v: Value) -> &Type {
        &self.node(v).ty
    }

    pub fn weight(&self, id: WeightId) -> &Weight {
        &self.weights[id.0 as usize]
    }

    pub fn state(&self, id: StateId) -> &State {
        &self.states[id.0 as usize]
    }

    /// The port that a value is the input of.
    pub fn input_port(&self, v: Value) -> Option<Port> {
        match self.node(v).op {
            Op::Input { port } => Some(port),
            _ => None,
        }
    }

    pub fn values(&self) -> impl DoubleEndedIterator<Item = Value> + use<> {
        (0..self.nodes.len() as u32).map(Value)
    }

    /// How often each value is used, outputs counted.
    pub fn uses(&self) -> Vec<u32> {
        let mut uses = vec![0; self.nodes.len()];
        let operands = self.nodes.iter().flat_map(|n| &n.operands);
        for v in operands.chain(self.outputs.iter().map(|(_, v)| v)) {
            uses[v.0 as usize] += 1;
        }
        uses
    }
}
