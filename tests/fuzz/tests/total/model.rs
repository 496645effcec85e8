//! A compiler without a machine, for seeds and for following what was accepted.

use q35_artifact::Artifact;
use q35_core::{Config, Limits, Options, Request};
use q35_kernel::Kernel;
use q35_target::{Caps, LowerError, Target, Variant};
use q35_types::DType;

/// Lowers every kernel to the same few bytes.
struct NoMachine;

pub static VARIANT: Variant = Variant { name: "none", extension: "o", caps: Caps::CPU };

impl Target for NoMachine {
    fn name(&self) -> &'static str {
        "none"
    }

    fn variants(&self) -> &'static [Variant] {
        std::slice::from_ref(&VARIANT)
    }

    fn lower(&self, _: &Variant, _: &Kernel) -> Result<Vec<u8>, LowerError> {
        Ok(vec![0xc3; 5])
    }

    fn file(&self, _: &Variant, _: &str, code: &[u8]) -> Vec<u8> {
        code.to_vec()
    }

    fn listing(&self, _: &Variant, kernel: &Kernel) -> Result<String, LowerError> {
        Ok(kernel.to_string())
    }
}

/// What to compile of a config.
pub fn with_request<T>(text: &str, config: &Config, then: impl FnOnce(&Request<'_>) -> T) -> T {
    then(&Request {
        text,
        config,
        options: Options { activations: DType::F32, kv: DType::Bf16 },
        limits: Limits { max_context: config.max_context(), max_batch: 2, max_chunk: 64 },
        targets: &[&NoMachine],
    })
}

pub fn compile(text: &str, config: &Config) -> Artifact {
    with_request(text, config, |request| {
        q35_core::compile(request).expect("any kernel can be left out")
    })
}

/// The configs of the golden checkpoints, which differ in all they can.
pub fn configs() -> Vec<(String, Config)> {
    ["tiny-moe", "dense-text-f32", "moe-text-tied"]
        .iter()
        .map(|name| {
            let text = q35_fuzz::file(&format!("golden/checkpoints/{name}/config.json"));
            let text = String::from_utf8(text).expect("a config is text");
            let config = Config::parse(&text).expect("a golden config is accepted").config;
            (text, config)
        })
        .collect()
}
