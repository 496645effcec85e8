//! From a golden checkpoint to logits, in one process.

use crate::golden::{self, Golden};
use q35_artifact::Artifact;
use q35_core::{Config, Limits, Options, Request};
use q35_device::Device;
use q35_device::cpu::Cpu;
use q35_kernel::Kernel;
use q35_runtime::{LoadOptions, Model};
use q35_target::Target;
use q35_types::DType;

/// How a model is compiled.
#[derive(Debug, Clone, Copy)]
pub struct Build {
    pub activations: DType,
    pub kv: DType,
    pub max_chunk: u32,
    pub max_batch: u32,
}

impl Build {
    /// All in float32.
    pub const FLOAT32: Build =
        Build { activations: DType::F32, kv: DType::F32, max_chunk: 512, max_batch: 8 };
    /// What a user gets who asks for nothing.
    pub const DEFAULT: Build = Build { kv: DType::Bf16, ..Build::FLOAT32 };
    /// Activations in 16 bits too.
    pub const SIXTEEN: Build = Build { activations: DType::Bf16, ..Build::DEFAULT };

    fn with<R>(self, name: &str, target: &dyn Target, run: impl FnOnce(&Request<'_>) -> R) -> R {
        let file = golden::checkpoint(name).join("config.json");
        self.with_text(&std::fs::read_to_string(file).expect("a golden config"), target, run)
    }

    fn with_text<R>(
        self,
        text: &str,
        target: &dyn Target,
        run: impl FnOnce(&Request<'_>) -> R,
    ) -> R {
        let config = Config::parse(text).expect("a config of the family").config;
        run(&Request {
            text,
            config: &config,
            options: Options { activations: self.activations, kv: self.kv },
            limits: Limits {
                max_context: 1024,
                max_batch: self.max_batch,
                max_chunk: self.max_chunk,
            },
            targets: &[target],
        })
    }

    /// The artifact of a config that is in no golden checkpoint.
    pub fn compile(self, config: &str) -> Artifact {
        self.compile_for(config, &q35_target_cpu::Cpu)
    }

    pub fn compile_for(self, config: &str, target: &dyn Target) -> Artifact {
        self.with_text(config, target, |request| {
            q35_core::compile(request).expect("a good config compiles")
        })
    }

    pub fn artifact(self, name: &str) -> Artifact {
        self.artifact_for(name, &q35_target_cpu::Cpu)
    }

    pub fn artifact_for(self, name: &str, target: &dyn Target) -> Artifact {
        self.with(name, target, |request| {
            q35_core::compile(request).expect("a golden config compiles")
        })
    }

    /// The kernels that a variant's code is made from.
    pub fn kernels(self, name: &str, variant: &str) -> Vec<Kernel> {
        let variants = q35_target_cpu::Cpu.variants();
        let variant = variants.iter().find(|v| v.name == variant).expect("a variant of the target");
        self.with(name, &q35_target_cpu::Cpu, |request| q35_core::link::kernels(request, variant))
    }

    /// The golden checkpoint on the CPU device, whatever `Q35_CPU` says.
    pub fn model(self, name: &str, variant: &str, threads: usize) -> Model {
        self.model_on(name, cpu(variant, threads), LoadOptions::default())
    }

    pub fn model_on(self, name: &str, device: Box<dyn Device>, options: LoadOptions<'_>) -> Model {
        self.model_for(name, &q35_target_cpu::Cpu, device, options)
    }

    /// The golden checkpoint with code for `target`, on a device that takes it.
    pub fn model_for(
        self,
        name: &str,
        target: &dyn Target,
        device: Box<dyn Device>,
        options: LoadOptions<'_>,
    ) -> Model {
        let artifact = self.artifact_for(name, target);
        Model::load_on(device, &artifact, &golden::checkpoint(name), options)
            .expect("a golden checkpoint loads")
    }
}

pub fn cpu(variant: &str, threads: usize) -> Box<dyn Device> {
    Box::new(Cpu::open_variant(variant, Some(threads)).expect("this machine runs the variant"))
}

/// The variants that this machine runs.
pub fn variants() -> Vec<&'static str> {
    let all = q35_target_cpu::Cpu.variants().iter().map(|v| v.name);
    all.filter(|v| q35_device::cpu::variant::named(v).is_ok()).collect()
}

/// The logits of every position of each prompt, all in one batch.
pub fn logits(model: &mut Model, prompts: &[&[u32]], chunk: Option<usize>) -> Vec<Vec<f32>> {
    let mut all: Vec<Vec<f32>> = prompts.iter().map(|_| vec![]).collect();
    model
        .all_logits(prompts, chunk, |prompt, position, row| {
            assert_eq!(all[prompt].len(), position as usize * row.len(), "rows come in order");
            all[prompt].extend_from_slice(row);
        })
        .expect("golden prompts run");
    all
}

/// The float32 logits of a golden's first tokens are the golden's: of how many, for each number of tokens at
/// a time.
pub fn assert_float32(
    model: &mut Model,
    golden: &Golden,
    chunks: &[(Option<usize>, usize)],
    how: &str,
) {
    for &(chunk, tokens) in chunks {
        let tokens = &golden.tokens[..tokens.min(golden.tokens.len())];
        let found = logits(model, &[tokens], chunk).remove(0);
        golden.assert_float32(&found, &format!("{how}, chunk {chunk:?}"));
    }
}

/// The greedy continuation of a golden's prompt, one token at a time, is the golden's up to the first
/// step where two logits are closer than twice the run's error (design, Numbers): how many steps that is.
pub fn assert_greedy(model: &mut Model, golden: &Golden, how: &str) -> usize {
    let found = logits(model, &[&golden.tokens], None).remove(0);
    let clear = golden.clear_steps(golden.distance(&found).largest);
    let sequence = model.start().expect("a slot");
    model.feed(&[(sequence, &golden.tokens)]).expect("a golden prompt");
    let mut chosen = vec![];
    for &expected in &golden.greedy[..clear] {
        let row = model.logits(sequence).expect("logits of the last token");
        let best = (0..row.len()).reduce(|a, b| if row[b] > row[a] { b } else { a });
        chosen.push(best.expect("a vocabulary") as u32);
        model.decode(&[(sequence, expected)]).expect("a golden token");
    }
    model.finish(sequence).expect("a running sequence");
    assert_eq!(
        chosen,
        golden.greedy[..clear],
        "{}, {how}: the first {clear} tokens",
        golden.title()
    );
    clear
}
