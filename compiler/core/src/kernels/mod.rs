//! Kernel templates: from sizes and types to a [`Kernel`].
//!
//! A [`Spec`] is all that distinguishes one kernel from another, so launches that need
//! the same kernel share it, and the same kernel is made for every variant of a target, from the
//! variant's capabilities. A template also knows what it costs and how its tasks are
//! counted.
//!
//! Everything a sum's order depends on is in the spec: never the number of tokens, sequences or
//! threads. So a token's result is the same to the bit whatever else is in the step.
//!
//! One lane runs a task (a CPU); the heavy work of all of them is
//! [`KernelBuilder::panel_dot`], whose operands the packed layouts are made for.

mod attend_combine;
mod attend_step;
mod attention;
mod delta_conv;
mod delta_in;
mod delta_rule;
mod delta_step;
mod elementwise;
mod experts;
mod gpu;
mod linear;
mod mixture;
mod norm;
pub mod page;
mod panels;
mod qk_rope;
mod router;
mod row;
mod sample;
mod step;

pub use attend_combine::AttendCombine;
pub use attend_step::AttendStep;
pub use attention::{AttendPrefill, AttendSplit, Heads, Split};
pub use delta_conv::DeltaConv;
pub use delta_in::{DeltaIn, DeltaOut};
pub use delta_rule::{DeltaRule, DeltaShape};
pub use delta_step::DeltaStep;
pub use elementwise::{Embed, Gather, RmsNorm, RopeTable};
pub use experts::{ExpertCombine, ExpertGroups, ExpertLinear, TopK};
pub use linear::{Act, Linear};
pub use mixture::{Mixture, MixtureDown, MixtureUp};
pub use norm::Norm;
pub use qk_rope::QkRope;
pub use router::MixtureRouter;
pub use sample::{LogitsAt, MergeLikeliest, SliceLikeliest};

use q35_artifact::{Cost, Tasks};
use q35_kernel::{Kernel, KernelBuilder, Machine};
use q35_target::Caps;
use q35_types::{DType, StepLayout};

/// What a template needs.
pub trait Template {
    /// Unique for the spec, a valid identifier.
    fn name(&self) -> String;
    fn build(&self, b: &KernelBuilder, caps: &Caps, step: &StepLayout);
    fn tasks(&self, caps: &Caps) -> Tasks;
    /// What a launch moves and computes; re-reads of weights included, as they depend on the machine.
    fn cost(&self, caps: &Caps) -> Cost;
}

macro_rules! specs {
    ($($name:ident),* $(,)?) => {
        /// One kernel of the table of templates.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Spec { $($name($name)),* }

        impl Spec {
            pub fn template(&self) -> &dyn Template {
                match self { $(Spec::$name(t) => t),* }
            }
        }

        $(impl From<$name> for Spec {
            fn from(t: $name) -> Spec { Spec::$name(t) }
        })*
    };
}
specs! {
    Embed, Gather, RmsNorm, RopeTable, Linear, DeltaConv, DeltaRule, QkRope,
    AttendPrefill, AttendSplit, AttendCombine, AttendStep, DeltaIn, DeltaStep, DeltaOut, TopK, ExpertGroups,
    ExpertLinear, ExpertCombine, MixtureRouter, MixtureUp, MixtureDown, SliceLikeliest, MergeLikeliest, LogitsAt,
}

impl Spec {
    /// The kernel for a machine with these capabilities.
    pub fn build(&self, caps: &Caps, step: &StepLayout) -> Kernel {
        let template = self.template();
        let &Caps { lanes, subgroup, fma, panel_dot, .. } = caps;
        let machine = Machine { lanes, subgroup, fma, panel_dot };
        let b = KernelBuilder::new(template.name(), machine);
        template.build(&b, caps, step);
        b.finish()
    }
}

/// `bf16` as `b`: what types look like in a kernel's name.
fn letter(dtype: DType) -> char {
    match dtype {
        DType::F32 => 'f',
        DType::F16 => 'h',
        DType::Bf16 => 'b',
        DType::I32 => 'i',
    }
}

/// A panel's rows: the width that weights, KV pages and delta-rule states are padded to.
const PANEL: usize = q35_types::pack::PANEL;

fn padded(n: u32) -> usize {
    (n as usize).next_multiple_of(PANEL)
}
