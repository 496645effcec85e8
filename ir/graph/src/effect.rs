//! Which ops touch sequence state. All else about an op is in its operands.

use crate::graph::StateId;
use crate::op::Op;

impl Op {
    /// The state that the op reads or writes.
    pub fn state(&self) -> Option<StateId> {
        {
            let mut op = *self;
            op.state_mut().copied()
        }
    }

    /// The state that the op reads or writes, to renumber it.
    pub fn state_mut(&mut self) -> Option<&mut StateId> {
        match self {
            Op::Conv { state }
            | Op::Attention { state, .. }
            | Op::GatedDelta { state }
            | Op::DeltaConv { state, .. }
            | Op::DeltaRule { state, .. }
            | Op::QkRope { state, .. }
            | Op::GatedAttention { state, .. } => Some(state),
            Op::Input { .. }
            | Op::Weight { .. }
            | Op::Embed { .. }
            | Op::Gather {}
            | Op::RmsNorm { .. }
            | Op::L2Norm { .. }
            | Op::MatMul { .. }
            | Op::Slice { .. }
            | Op::Split { .. }
            | Op::Join {}
            | Op::Add {}
            | Op::Mul {}
            | Op::Silu {}
            | Op::Sigmoid {}
            | Op::Softplus {}
            | Op::RopeTable { .. }
            | Op::Rope {}
            | Op::TopK { .. }
            | Op::RouteWeights {}
            | Op::ExpertMatMul {}
            | Op::ExpertSum {}
            | Op::Likeliest { .. }
            | Op::LogitsAt {}
            | Op::NormMatMul { .. }
            | Op::MatMulAdd {}
            | Op::SwiGlu { .. }
            | Op::NormSwiGlu { .. }
            | Op::ExpertGroups { .. }
            | Op::ExpertSwiGlu { .. }
            | Op::ExpertLinear {}
            | Op::ExpertCombine { .. } => None,
        }
    }

    /// Whether the op must run though nothing reads its result. `gated_attention` only reads.
    pub fn writes_state(&self) -> bool {
        self.state().is_some() && !matches!(self, Op::GatedAttention { .. })
    }
}
