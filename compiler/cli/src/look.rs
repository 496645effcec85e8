//! `q35c inspect` and `q35c explain`: looking into an artifact.

use crate::failure::{Failure, print};
use crate::ptxas::Ptxas;
use crate::{explain, extract, inspect, targets};
use clap::Args;
use q35_artifact::Artifact;
use std::path::{Path, PathBuf};

/// Show what is in an artifact
#[derive(Args)]
pub struct Inspect {
    artifact: PathBuf,
    /// As JSON
    #[arg(long, conflicts_with = "dot")]
    json: bool,
    /// Draw the graphs, in the DOT language
    #[arg(long)]
    dot: bool,
    /// Create DIR and write every kernel's code there, as NAME.VARIANT.EXT
    #[arg(long, value_name = "DIR")]
    extract: Option<PathBuf>,
}

/// Show what each kernel of a step reads, writes and computes
#[derive(Args)]
pub struct Explain {
    artifact: PathBuf,
    /// Of an artifact with several targets, which; also with the variant, such as `ptx:sm_90`
    #[arg(long, value_name = "T[:VARIANT]")]
    target: Option<String>,
    /// Predict how long steps take on this GPU, by its data sheet: A100, L40S, H100, H200, B200, RTX 4090, RTX 5090
    #[arg(long, value_name = "NAME")]
    gpu: Option<String>,
    /// NVIDIA's assembler, which tells what kernels in PTX take of a GPU [default: the one in the path]
    #[arg(long, value_name = "PATH")]
    ptxas: Option<PathBuf>,
    /// Tokens that each sequence has before the step [default: 4096, or as many as fit]
    #[arg(long, value_name = "N")]
    depth: Option<u32>,
    /// Sequences of a decode step [default: 1, 64, and as many as fit]
    #[arg(long, value_name = "N")]
    batch: Option<u32>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub fn inspect(args: &Inspect) -> Result<(), Failure> {
    let artifact = read(&args.artifact)?;
    if let Some(dir) = &args.extract {
        let written = extract::extract(&artifact, dir, targets::TARGETS).map_err(Failure::new)?;
        eprintln!("wrote {} files to `{}`", written.len(), dir.display());
    }
    if args.dot {
        print(&dot(&artifact)?)
    } else if args.json {
        print(&format!("{:#}\n", inspect::json(&artifact)))
    } else if args.extract.is_none() {
        print(&inspect::text(&artifact))
    } else {
        Ok(())
    }
}

pub fn explain(args: &Explain) -> Result<(), Failure> {
    let artifact = read(&args.artifact)?;
    let options = explain::Options {
        target: args.target.as_deref(),
        depth: args.depth,
        batch: args.batch,
        gpu: args.gpu.as_deref(),
    };
    let ptxas = Ptxas::find(args.ptxas.as_deref());
    // Only one that was named has to be there.
    if let (Err(error), Some(_)) = (&ptxas, &args.ptxas) {
        return Err(Failure::new(error));
    }
    let report = explain::explain(&artifact, options, &ptxas).map_err(Failure::new)?;
    match args.json {
        true => print(&format!("{:#}\n", explain::json(&report))),
        false => print(&explain::text(&report)),
    }
}

fn read(path: &Path) -> Result<Artifact, Failure> {
    Artifact::read_file(path).map_err(|error| Failure::new(error).of(path))
}

/// One drawing a block; blocks that entry points share are drawn for each, as passes differ.
fn dot(artifact: &Artifact) -> Result<String, Failure> {
    let mut out = String::new();
    for (entry, text) in &artifact.graphs {
        let program = q35_graph::text::program(entry, text).map_err(Failure::new)?;
        for block in &program.blocks {
            if let Err(findings) = q35_graph::verify(block) {
                let why = findings.first().map(ToString::to_string).unwrap_or_default();
                return Err(Failure::new(format!("graph `{entry}` of the artifact: {why}")));
            }
            out += &format!("// {entry}\n{}", q35_graph::dot(block));
        }
    }
    Ok(out)
}
