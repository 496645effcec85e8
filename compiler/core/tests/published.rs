//! Every published config, and every one of the golden checkpoints, through the whole compiler.

use q35_core::{CompileError, Config, Limits, Options, Request, compile};
use q35_target::Target;
use q35_target_cpu::Cpu;
use q35_target_spirv::Spirv;
use q35_types::DType;
use std::path::{Path, PathBuf};

fn configs() -> Vec<PathBuf> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
    let in_folder = |folder: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(golden.join(folder)).expect("golden folder");
        entries.map(|e| e.expect("entry").path()).collect()
    };
    let mut all = in_folder("configs");
    let checkpoints = in_folder("checkpoints").into_iter().map(|p| p.join("config.json"));
    all.extend(checkpoints.filter(|p| p.exists()));
    all.sort();
    assert!(all.len() >= 16, "nine published configs and the golden checkpoints");
    all
}

fn request<'a>(text: &'a str, config: &'a Config, targets: &'a [&'a dyn Target]) -> Request<'a> {
    Request {
        text,
        config,
        options: Options { activations: DType::F32, kv: DType::Bf16 },
        limits: Limits { max_context: config.max_context(), max_batch: 8, max_chunk: 512 },
        targets,
    }
}

#[test]
fn every_config_compiles_to_a_small_artifact_that_passes_its_own_check() {
    for path in configs() {
        let text = std::fs::read_to_string(&path).expect("config");
        let config = Config::parse(&text).expect("a config of the family").config;
        let artifact = compile(&request(&text, &config, &[&Cpu])).expect("compiles");
        artifact.check().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let bytes = artifact.to_bytes();
        assert!(bytes.len() < 4 << 20, "{}: {} bytes", path.display(), bytes.len());
    }
}

#[test]
fn every_config_fits_the_shared_memory_of_every_profile_of_a_gpu() {
    for path in configs() {
        let text = std::fs::read_to_string(&path).expect("config");
        let config = Config::parse(&text).expect("a config of the family").config;
        for profile in [Spirv::BASELINE, Spirv::DESKTOP, Spirv::DESKTOP_64] {
            for activations in [DType::F32, DType::Bf16] {
                let options = Options { activations, kv: activations };
                let targets: [&dyn q35_target::Target; 1] = [&profile];
                let request = Request { options, ..request(&text, &config, &targets) };
                // A target refuses a kernel that takes more than there is.
                let artifact = compile(&request);
                let artifact = artifact.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                artifact.check().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            }
        }
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let path = &configs()[0];
    let text = std::fs::read_to_string(path).expect("config");
    let config = Config::parse(&text).expect("a config of the family").config;
    let once = || compile(&request(&text, &config, &[&Cpu])).expect("compiles").to_bytes();
    assert_eq!(once(), once());
}

#[test]
fn what_kernels_cannot_index_is_refused() {
    let path = configs().into_iter().find(|p| p.ends_with("Qwen3.5-397B-A17B.json"));
    let text = std::fs::read_to_string(path.expect("the largest model")).expect("config");
    let config = Config::parse(&text).expect("a config of the family").config;
    let limits = |max_chunk| Limits { max_context: 4096, max_batch: 8, max_chunk };
    let with = |max_chunk| {
        compile(&Request { limits: limits(max_chunk), ..request(&text, &config, &[&Cpu]) })
    };
    assert!(with(16384).is_ok());
    let refused = with(65536).expect_err("65,536 tokens of ten experts each");
    assert!(matches!(refused, CompileError::TooLarge { .. }), "{refused}");
    assert!(refused.help().is_some_and(|h| h.contains("--max-chunk")));

    let wide = text.replace("\"vocab_size\": 248320", "\"vocab_size\": 16000000");
    let config = Config::parse(&wide).expect("a config of the family").config;
    let refused = compile(&request(&wide, &config, &[&Cpu])).expect_err("65 billion elements");
    assert!(refused.to_string().contains("embed_tokens.weight"), "{refused}");
}
