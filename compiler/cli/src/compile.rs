//! `q35c compile`

use crate::failure::{Failure, print, read_text};
use crate::{cubin, targets};
use clap::{Args, ValueEnum};
use q35_artifact::Artifact;
use q35_core::frontend::config::Parsed;
use q35_core::link::default_activations;
use q35_core::{Config, Limits, Options, Request};
use q35_target::Target;
use q35_types::DType;
use std::path::{Path, PathBuf};

/// Compile a config into an artifact
///
/// The artifact holds machine code that the runtime executes: run only artifacts whose maker you trust.
#[derive(Args)]
pub struct Compile {
    /// The model's config.json
    config: PathBuf,
    /// Where to write the artifact
    #[arg(short, long, value_name = "OUT", required_unless_present = "emit")]
    output: Option<PathBuf>,
    /// What to generate code for: `cpu`; `spirv`, for every GPU with Vulkan 1.3; `spirv:desktop`, for those
    /// with 16-bit and 8-bit storage and 48 KiB of shared memory; `ptx`, for NVIDIA's from `sm_80` on, or
    /// `ptx:sm_89`, `ptx:sm_90`, `ptx:sm_100` or `ptx:sm_120`; or several of these, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "T[:PROFILE]", default_value = "cpu")]
    target: Vec<String>,
    /// Lanes of a subgroup in code for `spirv:desktop`, 32 or 64 [default: 32]
    #[arg(long, value_name = "N")]
    subgroup: Option<u32>,
    /// How activations are stored between kernels [default: what suits each target: bf16 for ptx, f32 for others]
    #[arg(long)]
    activations: Option<Storage>,
    /// How keys and values are stored in the cache
    #[arg(long, default_value = "bf16")]
    kv: Storage,
    /// Tokens of the longest sequence [default: what the model was made for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    max_context: Option<u32>,
    /// Sequences that one step may advance
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_batch: u32,
    /// Prompt tokens that one step may take, a multiple of 64
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = chunk)]
    max_chunk: u32,
    /// Put machine code beside the code in PTX, made by NVIDIA's assembler: drivers then need not compile it
    #[arg(long)]
    cubin: bool,
    /// NVIDIA's assembler [default: the `ptxas` in the path]
    #[arg(long, value_name = "PATH", requires = "cubin")]
    ptxas: Option<PathBuf>,
    /// Print a stage of the compilation to stdout: graph, the name of a pass, kernels, plan or code
    #[arg(long, value_name = "STAGE", value_parser = q35_core::stages())]
    emit: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Storage {
    F32,
    Bf16,
}

impl Storage {
    fn dtype(self) -> DType {
        match self {
            Storage::F32 => DType::F32,
            Storage::Bf16 => DType::Bf16,
        }
    }
}

fn chunk(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(n) if n % 64 == 0 && (64..=65536).contains(&n) => Ok(n),
        _ => Err("expected a multiple of 64 from 64 to 65536".into()),
    }
}

pub fn run(args: &Compile, verbose: u8) -> Result<(), Failure> {
    let start = std::time::Instant::now();
    let (text, parsed) = read_config(&args.config)?;
    for note in &parsed.notes {
        eprintln!("note: {note}");
    }
    let config = parsed.config;
    let targets = targets::all(&args.target, args.subgroup)?;
    let ptxas =
        args.cubin.then(|| cubin::assembler(&targets, args.ptxas.as_deref())).transpose()?;
    let activations = |target: &dyn Target| {
        args.activations.map_or(default_activations(target.name()), Storage::dtype)
    };
    let mut artifact: Option<Artifact> = None;
    for (activations, targets) in alike(&targets, activations) {
        let request = Request {
            text: &text,
            config: &config,
            options: Options { activations, kv: args.kv.dtype() },
            limits: Limits {
                max_context: args.max_context.unwrap_or(config.max_context()),
                max_batch: args.max_batch,
                max_chunk: args.max_chunk,
            },
            targets: &targets,
        };
        if let Some(stage) = &args.emit {
            print(&q35_core::emit(&request, stage).map_err(refused)?)?;
        }
        if args.output.is_some() {
            let made = q35_core::compile(&request).map_err(refused)?;
            artifact = Some(match artifact {
                None => made,
                Some(first) => q35_core::link::join(first, made),
            });
        }
    }
    let (Some(output), Some(mut artifact)) = (&args.output, artifact) else { return Ok(()) };
    artifact.targets.sort_by_key(|section| targets.iter().position(|t| t.name() == section.name));
    if let Some(ptxas) = &ptxas {
        cubin::add(&mut artifact, ptxas)?;
    }
    artifact.write_file(output).map_err(Failure::new)?;
    if verbose > 0 {
        let bytes = std::fs::metadata(output).map_or(0, |m| m.len());
        let kernels = artifact.targets.iter().map(|t| t.plan.kernels.len()).sum::<usize>();
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("wrote `{}`: {kernels} kernels, {bytes} bytes, {seconds:.2} s", output.display());
    }
    Ok(())
}

/// The targets by what their activations are, in the order of the first of each.
fn alike<'t>(
    targets: &[&'t dyn Target],
    activations: impl Fn(&dyn Target) -> DType,
) -> Vec<(DType, Vec<&'t dyn Target>)> {
    let mut groups: Vec<(DType, Vec<&dyn Target>)> = vec![];
    for &target in targets {
        let dtype = activations(target);
        match groups.iter_mut().find(|(of, _)| *of == dtype) {
            Some((_, group)) => group.push(target),
            None => groups.push((dtype, vec![target])),
        }
    }
    groups
}

fn refused(error: q35_core::CompileError) -> Failure {
    let failure = Failure::new(&error);
    match error.help() {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// The text of a config and what it says.
pub fn read_config(path: &PathBuf) -> Result<(String, Parsed), Failure> {
    let text = read_text(path)?;
    let parsed = Config::parse(&text).map_err(|error| {
        let failure = Failure::new(&error).at(Path::new(path), &text, error.span());
        match error.help() {
            Some(help) => failure.help(help),
            None => failure,
        }
    })?;
    Ok((text, parsed))
}
