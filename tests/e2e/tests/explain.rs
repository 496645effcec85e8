//! `q35c explain` of code for NVIDIA's GPUs: what kernels take, how long steps are predicted to take, and
//! what it refuses to look at.

use q35_e2e::golden;
use q35_e2e::program::{outcome, ptxas, q35c};
use q35_e2e::scratch::Scratch;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const GPUS: [&str; 7] = ["A100", "L40S", "H100", "H200", "B200", "rtx4090", "RTX 5090"];

/// Compile a published config, or the one of a golden checkpoint.
fn compiled(scratch: &Scratch, name: &str, options: &[&str]) -> PathBuf {
    let published = golden::folder().join(format!("configs/{name}.json"));
    let config = match published.is_file() {
        true => published,
        false => golden::checkpoint(name).join("config.json"),
    };
    let out = scratch.join(&format!("{name}.bin"));
    let mut command = q35c();
    command.arg("compile").arg(config).arg("-o").arg(&out).args(options);
    outcome(&mut command).text();
    out
}

fn explain(artifact: &Path, options: &[&str]) -> Command {
    let mut command = q35c();
    command.arg("explain").arg(artifact).args(options);
    command
}

/// With no program in the path.
fn alone(artifact: &Path, options: &[&str]) -> Command {
    let mut command = explain(artifact, options);
    command.env("PATH", "");
    command
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

/// Every GPU is predicted; what is said adds up.
fn predicted(name: &str) {
    let scratch = Scratch::new();
    let file = compiled(&scratch, name, &["--target=ptx:sm_80", "--max-batch=128"]);
    for gpu in GPUS {
        let json =
            outcome(&mut alone(&file, &["--target=ptx:sm_80", "--gpu", gpu, "--json"])).json();
        let steps = json["steps"].as_array().expect("a list");
        let of: Vec<_> = steps
            .iter()
            .map(|s| (s["entry"].as_str().expect("text"), s["tokens"].as_u64()))
            .collect();
        let decode = [1, 64, 128].map(|tokens| ("decode", Some(tokens)));
        assert_eq!(of[1..], decode, "{gpu}");
        let bandwidth = number(&json["gpu"]["bytes_per_second"]);
        for step in steps {
            let prediction = &step["prediction"];
            assert_eq!(prediction["nodes"], step["launches"]);
            let wait = prediction["nodes_that_wait"].as_u64();
            assert!(wait >= Some(1) && wait <= prediction["nodes"].as_u64(), "{gpu}: {wait:?}");
            let busy: f64 = prediction["launches"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|l| number(&l["launches"]) * number(&l["seconds"]))
                .sum();
            assert!((busy / number(&prediction["busy_seconds"]) - 1.0).abs() < 1e-9);
            let least = number(&step["least_per_token"]["bytes"]) * number(&step["tokens"]);
            let floor = number(&prediction["floor"]["seconds"]);
            assert!((least / bandwidth / floor - 1.0).abs() < 1e-9);
            // No manner is faster than the data sheet.
            for manner in prediction["manners"].as_array().expect("a list") {
                assert!(number(&manner["seconds"]) > number(&prediction["roofline"]["seconds"]));
                assert!(number(&manner["share_of_floor"]) < 1.0, "{gpu}: {step}");
            }
        }
    }
}

#[test]
fn a_small_model_is_predicted_on_every_gpu() {
    predicted("Qwen3.5-0.8B");
}

/// Its table is printed, to be looked at.
#[test]
fn a_mixture_is_predicted_on_every_gpu() {
    predicted("Qwen3.5-35B-A3B");
    let scratch = Scratch::new();
    let file = compiled(&scratch, "Qwen3.5-35B-A3B", &["--target=ptx:sm_90"]);
    let options = ["--gpu=h100", "--batch=1", "--depth=4096"];
    println!("{}", outcome(&mut alone(&file, &options)).text());
}

#[test]
fn without_an_assembler_explain_says_so_in_one_line_and_the_rest() {
    let scratch = Scratch::new();
    let file = compiled(&scratch, "tiny-moe", &["--target=ptx:sm_90"]);
    let text = outcome(&mut alone(&file, &["--gpu=H100"])).text();
    let unknown: Vec<_> = text.lines().filter(|line| line.contains("ptxas")).collect();
    let said =
        "registers and occupancy of ptx:sm_90 are not known: there is no `ptxas` in the path";
    assert_eq!(unknown, [said]);
    for what in ["together", "prediction for H100", "tokens/s", "launches of decode"] {
        assert!(text.contains(what), "`{what}` is not in\n{text}");
    }
}

#[test]
fn with_an_assembler_explain_says_what_each_kernel_takes() {
    let Some(ptxas) = ptxas() else { return };
    let scratch = Scratch::new();
    let file = compiled(&scratch, "tiny-moe", &["--target=ptx:sm_80"]);
    let option = format!("--ptxas={}", ptxas.display());
    let json = |gpu: &[&str]| {
        let options = [&["--json", &option], gpu].concat();
        outcome(&mut alone(&file, &options)).json()
    };
    let plain = json(&[]);
    assert_eq!(
        (&plain["code"]["arch"], &plain["code"]["unknown"]),
        (&"sm_80".into(), &Value::Null)
    );
    let kernels = plain["code"]["kernels"].as_array().expect("a list");
    let names: BTreeSet<_> = kernels.iter().map(|k| k["name"].as_str()).collect();
    assert!(names.len() > 10 && names.len() == kernels.len());
    for kernel in kernels {
        assert_eq!(kernel["threads"], 128, "{kernel}");
        assert!((1..=255).contains(&kernel["registers"].as_u64().expect("a number")), "{kernel}");
        let warps = kernel["warps_per_sm"].as_u64();
        assert!(warps >= Some(4) && warps <= Some(64), "{kernel}");
    }
    // A GPU's own architecture is what its driver assembles for.
    assert_eq!(json(&["--gpu=RTX-5090"])["code"]["arch"], "sm_120");
    let text = outcome(&mut alone(&file, &[&option])).text();
    assert!(text.contains("registers") && text.contains("limited by"), "{text}");
}

#[test]
fn gpus_and_assemblers_that_cannot_be_had_are_refused() {
    let scratch = Scratch::new();
    let ptx = compiled(&scratch, "tiny-moe", &["--target=cpu,ptx:sm_90"]);
    let known = "A100, L40S, H100, H200, B200, RTX 4090, RTX 5090";
    for (options, says) in [
        (&["--target=ptx", "--gpu=H300"][..], &["gpu is `H300`", known][..]),
        (&["--target=ptx", "--gpu=A100"], &["`A100` of compute capability 8.0", "at least 9.0"]),
        (&["--target=ptx:sm_90", "--gpu=rtx 4090"], &["`RTX 4090`", "8.9", "`ptx:sm_90`"]),
        (&["--target=cpu", "--gpu=H100"], &["`cpu` is no code for it", "expected target `ptx`"]),
        (&["--gpu=H100"], &["`cpu` is no code for it"]),
        (&["--target=ptx:sm_77"], &["no code for `ptx:sm_77`", "ptx:sm_90"]),
        (&["--target=spirv"], &["no code for `spirv`", "cpu, ptx"]),
        (&["--target=ptx", "--ptxas=/none/ptxas"], &["cannot run `/none/ptxas`"]),
    ] {
        outcome(&mut explain(&ptx, options)).refused(says);
    }
}
