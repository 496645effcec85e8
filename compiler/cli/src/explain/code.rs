//! What each kernel of a PTX target takes of a GPU, as NVIDIA's assembler sees it.

use super::choice::Choice;
use super::occupancy::{Block, Occupancy, Sm};
use crate::ptxas::{Ptxas, PtxasError, Used};
use crate::units::{count, table};
use q35_artifact::Kernel;
use rayon::prelude::*;
use serde_json::{Value, json};

/// Kernels of a variant, for an architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// As in `ptx:sm_90`.
    pub target: String,
    /// That it was assembled for.
    pub arch: String,
    /// In the order of the plan; or why they are not known.
    pub kernels: Result<Vec<Taken>, PtxasError>,
}

/// What one kernel takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub name: String,
    /// Of a block.
    pub threads: u32,
    pub used: Used,
    /// Bytes of shared memory that the launch adds to those in [`Used`].
    pub dynamic_shared: u32,
    pub occupancy: Occupancy,
}

/// None if the target is not PTX.
pub fn code(choice: &Choice<'_>, ptxas: &Result<Ptxas, PtxasError>) -> Option<Code> {
    let of_code = choice.capability()?;
    let capability = choice.gpu.map_or(of_code, |gpu| gpu.capability);
    let arch = format!("sm_{capability}");
    let sm = Sm::of(capability)?;
    let kernels = choice.section.plan.kernels.par_iter().zip(&choice.variant.kernels);
    let taken =
        |ptxas: &Ptxas| kernels.map(|(k, (_, text))| taken(k, text, ptxas, &arch, sm)).collect();
    let kernels = ptxas.as_ref().map_err(Clone::clone).and_then(taken);
    let target = format!("{}:{}", choice.section.name, choice.variant.name);
    Some(Code { target, arch, kernels })
}

fn taken(
    kernel: &Kernel,
    code: &[u8],
    ptxas: &Ptxas,
    arch: &str,
    sm: Sm,
) -> Result<Taken, PtxasError> {
    let text = q35_target_ptx::text(code);
    let used = ptxas.assemble(text, arch)?.used;
    let text = String::from_utf8_lossy(text);
    let threads = threads(&text);
    // The calling convention of the target has it so.
    let dynamic_shared = if text.contains(".extern .shared") { kernel.shared_bytes } else { 0 };
    let shared = used.shared + dynamic_shared;
    let occupancy = sm.occupancy(Block { threads, registers: used.registers, shared });
    Ok(Taken { name: kernel.name.clone(), threads, used, dynamic_shared, occupancy })
}

/// As `.reqntid 128, 1, 1` says; one if it does not.
fn threads(text: &str) -> u32 {
    let after = text.split_once(".reqntid").map_or("", |(_, after)| after);
    let number = after.trim_start().split(|c: char| !c.is_ascii_digit()).next();
    number.and_then(|n| n.parse().ok()).unwrap_or(1)
}

impl Code {
    pub(super) fn text(&self) -> String {
        let Code { target, arch, kernels } = self;
        let kernels = match kernels {
            Ok(kernels) => kernels,
            Err(why) => {
                return format!("registers and occupancy of {target} are not known: {why}\n");
            }
        };
        let columns = [
            "kernel",
            "threads",
            "registers",
            "spilled",
            "local",
            "static shared",
            "dynamic",
            "blocks an SM",
            "warps",
            "limited by",
        ];
        let mut rows = vec![columns.map(String::from).to_vec()];
        rows.extend(kernels.iter().map(Taken::row));
        let note = "  spilled: bytes of stores and loads in the code; local: bytes of a thread; shared: bytes of a block\n";
        format!(
            "kernels of {target} on {arch}, as ptxas assembles them\n{}{note}",
            table("  ", &rows)
        )
    }

    pub(super) fn json(&self) -> Value {
        let (kernels, unknown) = match &self.kernels {
            Ok(kernels) => (kernels.iter().map(Taken::json).collect(), None),
            Err(why) => (vec![], Some(why.to_string())),
        };
        json!({
            "target": self.target,
            "arch": self.arch,
            "unknown": unknown,
            "kernels": kernels,
        })
    }
}

impl Taken {
    fn row(&self) -> Vec<String> {
        let Used { registers, shared, local, spilled } = self.used;
        let Occupancy { blocks, warps, most_warps, limit } = self.occupancy;
        let mut row = vec![self.name.clone()];
        let numbers =
            [self.threads, registers, spilled, local, shared, self.dynamic_shared, blocks];
        row.extend(numbers.map(|n| count(n.into())));
        row.extend([format!("{warps} of {most_warps}"), limit.into()]);
        row
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "threads": self.threads,
            "registers": self.used.registers,
            "spilled": self.used.spilled,
            "local": self.used.local,
            "static_shared": self.used.shared,
            "dynamic_shared": self.dynamic_shared,
            "blocks_per_sm": self.occupancy.blocks,
            "warps_per_sm": self.occupancy.warps,
            "most_warps_per_sm": self.occupancy.most_warps,
            "limited_by": self.occupancy.limit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_how_many_threads_a_block_has() {
        assert_eq!(threads(")\n.reqntid 128, 1, 1\n{"), 128);
        assert_eq!((threads(".reqntid 32 {"), threads("{ ret; }")), (32, 1));
    }
}
