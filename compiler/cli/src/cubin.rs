//! `q35c compile --cubin`: machine code beside the text of kernels in PTX, so that no driver has to compile it.

use crate::failure::Failure;
use crate::ptxas::{Ptxas, PtxasError};
use q35_artifact::{Artifact, Variant};
use q35_target::Target;
use q35_target_ptx::{Ptx, with_cubin};
use rayon::prelude::*;
use std::path::Path;

/// The assembler, before anything is compiled for it.
///
/// # Errors
///
/// There is none, or nothing that it could assemble.
pub fn assembler(targets: &[&dyn Target], named: Option<&Path>) -> Result<Ptxas, Failure> {
    if targets.iter().all(|target| target.name() != Ptx::ALL.name()) {
        return Err(Failure::new("`--cubin` is for code in PTX, expected `--target ptx`"));
    }
    Ptxas::find(named).map_err(|why| Failure::new(format!("`--cubin` needs `ptxas`: {why}")))
}

/// Assemble every kernel in PTX, each for the architecture of its variant.
///
/// # Errors
///
/// The assembler does not know the architecture.
pub fn add(artifact: &mut Artifact, ptxas: &Ptxas) -> Result<(), Failure> {
    let sections = artifact.targets.iter_mut().filter(|t| t.name == Ptx::ALL.name());
    for Variant { name, kernels, .. } in sections.flat_map(|section| &mut section.variants) {
        let assemble = |(_, code): &mut (String, Vec<u8>)| {
            *code = with_cubin(code, &ptxas.assemble(code, name)?.code);
            Ok(())
        };
        kernels
            .par_iter_mut()
            .try_for_each(assemble)
            .map_err(|why: PtxasError| Failure::new(why))?;
    }
    Ok(())
}
