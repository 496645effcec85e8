//! From the model as its specification writes it to the ops that have kernels.
//!
//! ```text
//! matmul, silu, conv, gated_delta, …  ── PIPELINE ──▶  norm_matmul, delta_rule, gated_attention, …
//! ```
//!
//! A pass is a file: what it makes of what, why that is better, and when it keeps its hands off.
//! It sees one block at a time and knows the entry point it is for, never how many tokens there
//! are. After [`PIPELINE`] the only ops left are those that a schedule has a kernel for.

mod attention;
mod columns;
mod delta;
mod experts;
mod layout;
mod norm;
mod projections;
mod residual;
mod simplify;
mod swiglu;

use q35_graph::{Entry, Finding, Graph, Program, verify};

/// A step of the pipeline.
pub struct Pass {
    pub name: &'static str,
    /// What it does, in a few words.
    pub about: &'static str,
    run: fn(&mut Graph, Entry),
}

/// Every pass, in order. Each one's file says why it stands where it does.
pub const PIPELINE: &[Pass] = &[
    Pass {
        name: "simplify",
        about: "drop what changes nothing or is computed twice",
        run: simplify::run,
    },
    Pass {
        name: "projections",
        about: "one matrix for all that a module makes of one input",
        run: projections::run,
    },
    Pass { name: "swiglu", about: "gate and up projection in one", run: swiglu::run },
    Pass { name: "delta", about: "DeltaNet in two ops around its state", run: delta::run },
    Pass { name: "attention", about: "attention in two ops around its cache", run: attention::run },
    Pass {
        name: "experts",
        about: "tokens by expert, each expert's weights read once",
        run: experts::run,
    },
    Pass {
        name: "residual",
        about: "add the residual stream in the projection before it",
        run: residual::run,
    },
    Pass {
        name: "norm",
        about: "normalise in the product that reads it, when decoding",
        run: norm::run,
    },
    Pass { name: "layout", about: "lay weights out as kernels read them", run: layout::run },
];

/// A pass left a block that the verifier does not accept: the pass is wrong, not its input.
#[derive(Debug, thiserror::Error)]
#[error("pass `{pass}` broke block `{block}`: {}", list(.findings))]
pub struct Broken {
    pub pass: &'static str,
    pub block: String,
    pub findings: Vec<Finding>,
}

fn list(findings: &[Finding]) -> String {
    findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("; ")
}

/// Run the pipeline over every block; `watch` sees the program after each pass.
///
/// # Errors
///
/// [`Broken`], which only a wrong pass can cause.
pub fn run(
    program: &mut Program,
    mut watch: impl FnMut(&'static str, &Program),
) -> Result<(), Broken> {
    for pass in PIPELINE {
        for block in &mut program.blocks {
            (pass.run)(block, program.entry);
            verify(block).map_err(|findings| Broken {
                pass: pass.name,
                block: block.name.clone(),
                findings,
            })?;
        }
        watch(pass.name, program);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
