//! Every published config, and every one of the golden checkpoints, through the whole compiler.

use q35_core::{Config, Limits, Options, Request, compile};
use q35_target::Target;
use q35_target_cpu::Cpu;
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
fn the_same_input_gives_the_same_bytes() {
    let path = &configs()[0];
    let text = std::fs::read_to_string(path).expect("config");
    let config = Config::parse(&text).expect("a config of the family").config;
    let once = || compile(&request(&text, &config, &[&Cpu])).expect("compiles").to_bytes();
    assert_eq!(once(), once());
}
