//! The last stage: kernels built and lowered for every variant, joined with plan and manifest.

use crate::frontend::build::{self, Options};
use crate::frontend::config::{Config, LayerKind, Mlp};
use crate::frontend::count;
use crate::kernels::Spec;
use crate::passes;
use crate::schedule::{Limits, Schedule, schedule};
use q35_artifact as artifact;
use q35_artifact::{Artifact, ModelFacts, TargetSection};
use q35_graph::Program;
use q35_kernel::{Access, Kernel};
use q35_target::{Caps, LowerError, Target, Variant};
use q35_types::DType;
use rayon::prelude::*;

/// What is to be compiled.
pub struct Request<'a> {
    /// The text of the `config.json`, which the artifact keeps.
    pub text: &'a str,
    pub config: &'a Config,
    pub options: Options,
    pub limits: Limits,
    pub targets: &'a [&'a dyn Target],
}

/// A request that cannot be met.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CompileError {
    /// A target cannot lower one of the model's kernels.
    #[error(transparent)]
    Lower(#[from] LowerError),

    /// Kernels count elements in `i32`.
    #[error("{what} has {elements} elements, expected at most {MOST_ELEMENTS}")]
    TooLarge { what: String, elements: u64, help: &'static str },
}

impl CompileError {
    /// What to do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            CompileError::Lower(_) => None,
            CompileError::TooLarge { help, .. } => Some(help),
        }
    }
}

const MOST_ELEMENTS: u64 = i32::MAX as u64;

/// The artifact of a request.
///
/// # Errors
///
/// [`CompileError`]: a size beyond what kernels can index, or a kernel that a target cannot lower.
pub fn compile(request: &Request<'_>) -> Result<Artifact, CompileError> {
    let programs = optimised(request);
    let mut targets = vec![];
    let mut manifest: Option<artifact::Manifest> = None;
    for target in request.targets {
        let first = target.variants().first().expect("a target has a variant");
        let mut schedule = scheduled(request, &programs, &first.caps);
        let (kernels, variants) = lower(*target, &schedule)?;
        schedule.plan.kernels = kernels;
        check_sizes(&schedule)?;
        targets.push(TargetSection {
            name: target.name().into(),
            activations: request.options.activations,
            plan: schedule.plan,
            variants,
        });
        let known = manifest.get_or_insert_with(|| schedule.manifest.clone());
        assert_eq!(*known, schedule.manifest, "targets read the same packed weights");
    }
    Ok(Artifact {
        config: request.text.into(),
        model: facts(request),
        graphs: programs.iter().map(|p| (p.entry.name().into(), p.to_string())).collect(),
        manifest: manifest.expect("a request has a target"),
        targets,
    })
}

/// An artifact of one model for the targets of both: those with other activations are compiled by
/// themselves. Of an entry point that both have, it keeps the graph of `first`.
pub fn join(first: Artifact, other: Artifact) -> Artifact {
    assert_eq!(first.manifest, other.manifest, "activations do not change what weights are");
    let mut joined = first;
    let known: Vec<String> = joined.graphs.iter().map(|(name, _)| name.clone()).collect();
    joined.graphs.extend(other.graphs.into_iter().filter(|(name, _)| !known.contains(name)));
    joined.targets.extend(other.targets);
    joined
}

/// Every buffer that a kernel sees can be indexed.
fn check_sizes(schedule: &Schedule) -> Result<(), CompileError> {
    let fits = |what: String, elements: u64, help| match elements <= MOST_ELEMENTS {
        true => Ok(()),
        false => Err(CompileError::TooLarge { what, elements, help }),
    };
    let (plan, manifest) = (&schedule.plan, &schedule.manifest);
    for weight in &manifest.weights {
        let elements = weight.packed().bytes() / weight.dtype.size();
        let help = "no published model has such a matrix; is the config right?";
        fits(format!("weight `{}`", weight.name), elements as u64, help)?;
    }
    let help = "a smaller `--max-chunk` or `--max-batch` may fit";
    for state in plan.states.iter().filter(|s| s.unit == artifact::Unit::Slot) {
        let elements = state.unit_bytes / 4 * u64::from(plan.step.max_seqs);
        fits(format!("state `{}`", state.name), elements, help)?;
    }
    let blocks = plan.entries.iter().flat_map(|e| &e.blocks);
    for launch in blocks.flat_map(|b| &b.launches) {
        let kernel = &plan.kernels[launch.kernel as usize];
        for (arg, param) in launch.args.iter().zip(&kernel.params) {
            let bytes = match *arg {
                artifact::Arg::Arena { bytes, .. } => bytes,
                artifact::Arg::Buffer(n) => plan.buffers[n as usize].bytes,
                artifact::Arg::Step => u64::from(plan.step.words()) * 4,
                artifact::Arg::Weight(_) | artifact::Arg::State(_) => continue,
            };
            let what = format!("`{}` of kernel `{}`", param.name, kernel.name);
            fits(what, bytes / param.dtype.size() as u64, help)?;
        }
    }
    Ok(())
}

/// Every kernel of the plan, in its order, as a variant gets it.
pub fn kernels(request: &Request<'_>, variant: &Variant) -> Vec<Kernel> {
    let schedule = scheduled(request, &optimised(request), &variant.caps);
    schedule.specs.iter().map(|spec| build(spec, variant, &schedule)).collect()
}

/// Names of what [`emit`] can show, in the order of the pipeline.
pub fn stages() -> Vec<&'static str> {
    let passes = passes::PIPELINE.iter().map(|p| p.name);
    ["graph"].into_iter().chain(passes).chain(["kernels", "plan", "code"]).collect()
}

/// The text of a stage: every program as it was after it, or kernels, plan or code.
///
/// Panics if `stage` is none of [`stages`].
pub fn emit(request: &Request<'_>, stage: &str) -> Result<String, CompileError> {
    let mut text = String::new();
    match stage {
        "graph" => {
            for program in programs(request) {
                text += &program.to_string();
            }
        }
        "kernels" => {
            for (_, variant) in variants(request) {
                for kernel in kernels(request, &variant) {
                    text += &format!("// {variant}\n{kernel}");
                }
            }
        }
        "plan" => {
            let artifact = compile(request)?;
            for target in &artifact.targets {
                text += &target.plan.to_text();
            }
        }
        "code" => {
            for (target, variant) in variants(request) {
                for kernel in kernels(request, &variant) {
                    text += &target.listing(&variant, &kernel)?;
                }
            }
        }
        pass => {
            assert!(passes::PIPELINE.iter().any(|p| p.name == pass), "`{pass}` is a stage");
            for mut program in programs(request) {
                let watch = |name: &str, program: &Program| {
                    if name == pass {
                        text += &program.to_string();
                    }
                };
                passes::run(&mut program, watch).expect("passes keep the graph well formed");
            }
        }
    }
    Ok(text)
}

/// What the frontend writes: those programs that any of the targets has.
fn programs(request: &Request<'_>) -> Vec<Program> {
    let mut programs = build::programs(request.config, &request.options);
    if variants(request).any(|(_, variant)| variant.caps.lanes > 1) {
        programs.extend(build::sampling(request.config, &request.options));
    }
    programs
}

fn optimised(request: &Request<'_>) -> Vec<Program> {
    let mut programs = programs(request);
    for program in &mut programs {
        passes::run(program, |_, _| {}).expect("passes keep the graph well formed");
    }
    programs
}

/// Prefixes of the tensors of parts that are not compiled.
const IGNORED: [&str; 2] = ["mtp.", "model.visual."];

fn scheduled(request: &Request<'_>, programs: &[Program], caps: &Caps) -> Schedule {
    schedule(programs, request.limits, caps, IGNORED.map(String::from).to_vec())
}

fn variants<'a>(request: &'a Request<'_>) -> impl Iterator<Item = (&'a dyn Target, Variant)> {
    request.targets.iter().flat_map(|t| t.variants().iter().map(move |v| (*t, *v)))
}

fn build(spec: &Spec, variant: &Variant, schedule: &Schedule) -> Kernel {
    let kernel = spec.build(&variant.caps, &schedule.plan.step);
    if let Err(findings) = q35_kernel::verify(&kernel) {
        panic!("template of `{}` is well formed: {findings:?}", kernel.name);
    }
    kernel
}

/// The plan's description of each kernel, and its code for each variant.
fn lower(
    target: &dyn Target,
    schedule: &Schedule,
) -> Result<(Vec<artifact::Kernel>, Vec<artifact::Variant>), LowerError> {
    let jobs: Vec<(&Spec, &Variant)> =
        target.variants().iter().flat_map(|v| schedule.specs.iter().map(move |s| (s, v))).collect();
    let done = jobs
        .into_par_iter()
        .map(|(spec, variant)| {
            let kernel = build(spec, variant, schedule);
            let code = target.lower(variant, &kernel)?;
            Ok((described(&kernel), code))
        })
        .collect::<Result<Vec<_>, LowerError>>()?;

    let mut descriptions: Vec<artifact::Kernel> = vec![];
    let mut variants = vec![];
    let mut done = done.into_iter();
    for variant in target.variants() {
        let mut codes = vec![];
        for number in 0..schedule.specs.len() {
            let (description, code) = done.next().expect("a job for each kernel and variant");
            codes.push((description.name.clone(), code));
            match descriptions.get_mut(number) {
                None => descriptions.push(description),
                Some(known) => {
                    assert_eq!(
                        known.params, description.params,
                        "variants take the same arguments"
                    );
                    known.shared_bytes = known.shared_bytes.max(description.shared_bytes);
                }
            }
        }
        variants.push(artifact::Variant {
            name: variant.name.into(),
            extension: variant.extension.into(),
            kernels: codes,
        });
    }
    Ok((descriptions, variants))
}

fn described(kernel: &Kernel) -> artifact::Kernel {
    let param = |p: &q35_kernel::Param| artifact::Param {
        name: p.name.clone(),
        dtype: p.dtype,
        write: p.access != Access::Read,
        table: p.table,
    };
    artifact::Kernel {
        name: kernel.name.clone(),
        shared_bytes: u32::try_from(kernel.shared_bytes()).expect("shared arrays fit"),
        params: kernel.params.iter().map(param).collect(),
    }
}

fn facts(request: &Request<'_>) -> ModelFacts {
    let (config, limits) = (request.config, request.limits);
    let layer = |kind: &LayerKind| match kind {
        LayerKind::DeltaNet => artifact::LayerKind::LinearAttention,
        LayerKind::Attention => artifact::LayerKind::FullAttention,
    };
    let parameters = count::parameters(config);
    let narrow = |n: u128| u64::try_from(n).expect("a config's parameters are bounded");
    ModelFacts {
        model_type: config.model_type().into(),
        layers: config.layers.iter().map(layer).collect(),
        hidden_size: config.hidden_size,
        vocab_size: config.vocab_size,
        context: config.max_position_embeddings,
        experts: match config.mlp {
            Mlp::Dense { .. } => None,
            Mlp::Moe(moe) => {
                Some(artifact::Experts { count: moe.num_experts, chosen: moe.num_experts_per_tok })
            }
        },
        dtype: config.dtype,
        tied: config.tied,
        eos: config.eos.clone(),
        parameters: artifact::Parameters {
            text: narrow(parameters.text),
            vision: narrow(parameters.vision),
            mtp: narrow(parameters.mtp),
            active: narrow(parameters.active),
        },
        kv: request.options.kv,
        max_batch: limits.max_batch,
        max_chunk: limits.max_chunk,
        max_context: limits.max_context,
    }
}

/// What activations are by default on a target (design, Numbers).
pub fn default_activations(target: &str) -> DType {
    match target {
        "ptx" => DType::Bf16,
        _ => DType::F32,
    }
}
