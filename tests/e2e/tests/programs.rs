//! The programs' commands and options, in the exact forms that other tools are written against.

use q35_artifact::{Artifact, Plan, Variant};
use q35_e2e::golden::{Golden, checkpoint, folder, runs};
use q35_e2e::program::{self, outcome, q35, q35c};
use q35_e2e::run::variants;
use q35_e2e::scratch::Scratch;
use q35_e2e::tensors::{Tensor, Tensors};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

const SMALL: &str = "dense-text-f32";

fn config(name: &str) -> PathBuf {
    checkpoint(name).join("config.json")
}

/// Compile a golden config into a file.
fn compiled(scratch: &Scratch, name: &str, options: &[&str]) -> PathBuf {
    let out = scratch.join(&format!("{name}.bin"));
    let mut command = q35c();
    command.arg("compile").arg(config(name)).arg("-o").arg(&out).args(options);
    assert_eq!(outcome(&mut command).text(), "", "an artifact is no data for stdout");
    out
}

/// The tensors that `q35 logits` writes.
fn logits(command: &mut Command, scratch: &Scratch) -> Vec<Tensor> {
    let out = scratch.join("logits.safetensors");
    assert_eq!(outcome(command.arg("-o").arg(&out)).text(), "");
    let tensors = Tensors::read(&out).0;
    assert!(tensors.iter().all(|t| t.dtype == "F32"));
    tensors
}

fn run_logits(artifact: &Path, name: &str) -> Command {
    let mut command = q35();
    command.arg("logits").arg(artifact).arg("--weights").arg(checkpoint(name));
    command
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    let word = |b: &[u8]| f32::from_le_bytes(b.try_into().expect("four bytes"));
    tensor.data.chunks_exact(4).map(word).collect()
}

fn listed(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

// q35c compile

#[test]
fn compile_obeys_its_options() {
    let scratch = Scratch::new();
    let plain = Artifact::read_file(&compiled(&scratch, SMALL, &[])).expect("an artifact");
    let sizes = |a: &Artifact| (a.model.max_context, a.model.max_batch, a.model.max_chunk);
    assert_eq!(sizes(&plain), (plain.model.context, 8, 512));
    assert_eq!(plain.targets.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["cpu"]);
    let storage = |a: &Artifact| (a.targets[0].activations.name(), a.model.kv.name());
    assert_eq!(storage(&plain), ("f32", "bf16"));
    let options = [
        "--target=cpu",
        "--activations=bf16",
        "--kv=f32",
        "--max-context=300",
        "--max-batch=3",
        "--max-chunk=128",
    ];
    let other = Artifact::read_file(&compiled(&scratch, SMALL, &options)).expect("an artifact");
    assert_eq!(sizes(&other), (300, 3, 128));
    assert_eq!(storage(&other), ("bf16", "f32"));
}

#[test]
fn compile_writes_the_same_bytes_each_time() {
    let scratch = Scratch::new();
    let once = || std::fs::read(compiled(&scratch, SMALL, &["-v"])).expect("an artifact");
    assert_eq!(once(), once());
}

#[test]
fn every_stage_is_emitted_as_text_that_can_be_read_back() {
    let emit = |stage: &str| {
        let mut command = q35c();
        outcome(command.arg("compile").arg(config(SMALL)).args(["--emit", stage])).text()
    };
    for stage in q35_core::stages() {
        let text = emit(stage);
        match stage {
            "kernels" => {
                let kernels = q35_kernel::text::parse_all(&text).expect("kernels");
                assert!(kernels.len() > 40, "of every variant");
                // Comments between them say whose they are.
                let all: Vec<_> = text.lines().filter(|line| !line.starts_with("//")).collect();
                let all = all.join("\n") + "\n";
                assert_eq!(kernels.iter().map(ToString::to_string).collect::<String>(), all);
            }
            "plan" => {
                let plan = serde_json::from_str::<Plan>(&text).expect("a plan");
                assert_eq!(plan.to_text(), text);
            }
            "code" => assert!(text.lines().count() > 1000, "a listing"),
            _ => {
                for program in programs_in(&text) {
                    let read = q35_graph::text::program(stage, &program).expect("a graph");
                    assert_eq!(read.to_string(), program, "{stage}");
                }
            }
        }
    }
}

/// `prefill`, `decode` and `head`, one after another.
fn programs_in(text: &str) -> Vec<String> {
    let mut programs: Vec<String> = vec![];
    for line in text.lines() {
        if line.starts_with("program") {
            programs.push(String::new());
        }
        let program = programs.last_mut().expect("it begins with a program");
        *program += line;
        program.push('\n');
    }
    assert_eq!(programs.len(), 3);
    programs
}

#[test]
fn what_is_emitted_does_not_replace_the_artifact() {
    let scratch = Scratch::new();
    let out = scratch.join("model.bin");
    let mut command = q35c();
    command.arg("compile").arg(config(SMALL)).args(["--emit", "graph", "-o"]).arg(&out);
    assert!(outcome(&mut command).text().starts_with("program"));
    Artifact::read_file(&out).expect("an artifact");
}

// q35c inspect

/// Parameters of the text model, the vision tower and the MTP block, and in total (spec section 1);
/// and those that a token reads, in thousand millions to two digits, where they are stated.
const PUBLISHED: [(&str, [u64; 4], Option<f64>); 9] = [
    (
        "Qwen3.5-397B-A17B",
        [396_346_350_336, 456_010_480, 6_595_568_128, 403_397_928_944],
        Some(16.33),
    ),
    (
        "Qwen3.5-122B-A10B",
        [122_111_526_912, 451_290_864, 2_523_679_232, 125_086_497_008],
        Some(9.01),
    ),
    ("Qwen3.5-35B-A3B", [34_660_610_688, 446_571_248, 844_640_768, 35_951_822_704], Some(2.95)),
    (
        "Qwen-AgentWorld-35B-A3B",
        [34_660_610_688, 446_571_248, 844_640_768, 35_951_822_704],
        Some(2.95),
    ),
    ("Qwen3.5-27B", [26_895_998_464, 460_730_096, 424_699_392, 27_781_427_952], None),
    ("Qwen3.5-9B", [8_953_803_264, 456_010_480, 243_290_624, 9_653_104_368], None),
    ("Qwen3.5-4B", [4_205_751_296, 333_514_240, 120_599_552, 4_659_865_088], None),
    ("Qwen3.5-2B", [1_881_825_088, 331_416_576, 60_828_160, 2_274_069_824], None),
    ("Qwen3.5-0.8B", [752_393_024, 100_592_896, 20_452_864, 873_438_784], None),
];

#[test]
fn inspect_counts_the_parameters_of_published_models() {
    let scratch = Scratch::new();
    for (name, expected, active) in PUBLISHED {
        let (file, out) =
            (folder().join(format!("configs/{name}.json")), scratch.join("model.bin"));
        outcome(q35c().arg("compile").arg(file).arg("-o").arg(&out)).text();
        let json = outcome(q35c().arg("inspect").arg(&out).arg("--json")).json();
        let parameters = &json["parameters"];
        let count = |key: &str| parameters[key].as_u64().expect(key);
        assert_eq!(["text", "vision", "mtp", "total"].map(count), expected, "{name}");
        let found = count("active_per_token");
        if let Some(billions) = active {
            assert_eq!(format!("{:.2}", found as f64 / 1e9), format!("{billions:.2}"), "{name}");
        }
        assert!(found <= count("text") && parameters["active_counts"].is_string());
    }
}

#[test]
fn inspect_tells_what_is_in_an_artifact() {
    let scratch = Scratch::new();
    let file = compiled(&scratch, "tiny-moe", &["--kv=f32"]);
    let json = outcome(q35c().arg("inspect").arg(&file).arg("--json")).json();
    let target = &json["targets"][0];
    let entries = target["entry_points"].as_array().expect("a list");
    let names: Vec<_> = entries.iter().map(|e| e["name"].as_str().expect("text")).collect();
    assert_eq!(names, ["prefill", "decode", "head"]);
    assert!(entries.iter().all(|e| e["launches"].as_u64() >= Some(1)));
    assert!(target["arena_bytes"].as_u64() > Some(0));
    // Six layers with a matrix of 32 x 32 for each of four heads, and the conv's ring of four rows.
    let state = 6 * (4 * 32 * 32 + 4 * (2 * 2 * 32 + 4 * 32)) * 4;
    assert_eq!(target["state_bytes_per_sequence"], state);
    // Two layers with keys and values of two heads of 64.
    assert_eq!(target["state_bytes_per_1000_tokens"], 1000 * 2 * 2 * 2 * 64 * 4);
    let bytes = std::fs::read(&file).expect("an artifact");
    assert_eq!(json["bytes"], bytes.len());
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("it is a safetensors file");
    let sections = json["sections"].as_array().expect("a list");
    assert_eq!(sections.len(), file.len());
    for section in sections {
        let data = file.tensor(section["name"].as_str().expect("text")).expect("a section").data();
        assert_eq!(section["bytes"], data.len());
        assert_eq!(section["blake3"], blake3::hash(data).to_hex().as_str());
    }
    let text = outcome(q35c().arg("inspect").arg(scratch.join("tiny-moe.bin"))).text();
    for what in ["5,419,440", "prefill", "code.cpu.avx2", "parameters active per token"] {
        assert!(text.contains(what), "`{what}` is not in\n{text}");
    }
}

#[test]
fn inspect_draws_the_graph() {
    let scratch = Scratch::new();
    let file = compiled(&scratch, SMALL, &[]);
    let dot = outcome(q35c().arg("inspect").arg(file).arg("--dot")).text();
    assert!(dot.matches("digraph").count() >= 3, "{dot}");
    assert_eq!(dot.matches('{').count(), dot.matches('}').count());
}

#[test]
fn inspect_extracts_every_kernel_of_every_variant() {
    let scratch = Scratch::new();
    let file = compiled(&scratch, SMALL, &["--target=cpu,spirv:desktop", "--subgroup=64"]);
    let dir = scratch.join("code");
    outcome(q35c().arg("inspect").arg(&file).arg("--extract").arg(&dir)).text();
    let artifact = Artifact::read_file(&file).expect("an artifact");
    let gpu = artifact.target("spirv").expect("it was asked for").variants.iter();
    assert_eq!(gpu.map(|v| v.name.as_str()).collect::<Vec<_>>(), ["desktop-64", "desktop-64-coop"]);
    let variants = artifact.targets.iter().flat_map(|t| &t.variants);
    let file = |v: &Variant, kernel: &str| format!("{kernel}.{}.{}", v.name, v.extension);
    let expected: BTreeSet<String> =
        variants.flat_map(|v| v.kernels.iter().map(|(kernel, _)| file(v, kernel))).collect();
    let entries = std::fs::read_dir(&dir).expect("the folder was made");
    let files: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    let name = |p: &PathBuf| p.file_name().expect("a name").to_string_lossy().into_owned();
    assert_eq!(files.iter().map(name).collect::<BTreeSet<_>>(), expected);
    for file in files {
        let magic: &[u8] = match file.extension().is_some_and(|e| e == "spv") {
            true => &0x0723_0203_u32.to_le_bytes(),
            false => b"\x7fELF",
        };
        assert!(std::fs::read(&file).expect("code").starts_with(magic), "{}", file.display());
    }
}

// q35c explain

#[test]
fn explain_shares_out_what_a_step_moves() {
    let scratch = Scratch::new();
    let file = compiled(&scratch, "tiny-moe", &[]);
    let json = outcome(q35c().arg("explain").arg(&file).args(["--target=cpu", "--json"])).json();
    let steps = json["steps"].as_array().expect("a list");
    assert!(["prefill", "decode"].iter().all(|name| steps.iter().any(|s| s["entry"] == *name)));
    for step in steps {
        let kernels = step["kernels"].as_array().expect("a list");
        let sum = |key: &str| kernels.iter().map(|k| k[key].as_f64().expect(key)).sum::<f64>();
        assert!((sum("share") - 1.0).abs() < 1e-6, "{step}");
        for key in ["read", "written", "bytes", "flops"] {
            let total = step["total"][key].as_f64().expect(key);
            assert!(total > 0.0 && (sum(key) / total - 1.0).abs() < 1e-6, "{key}: {step}");
        }
        assert!(step["least_per_token"]["bytes"].as_f64() > Some(0.0));
        assert!(step["weights_and_state_over_least"].as_f64() >= Some(0.999), "{step}");
    }
    let text = outcome(q35c().arg("explain").arg(&file)).text();
    assert!(text.contains("decode") && text.contains("delta_rule"), "{text}");
}

// q35c synth

#[test]
fn synth_makes_a_checkpoint_that_runs() {
    let scratch = Scratch::new();
    let synth = |name: &str, seed: &str| {
        let dir = scratch.join(name);
        let mut command = q35c();
        command.arg("synth").arg(config("tiny-moe")).arg("-o").arg(&dir).args(["--seed", seed]);
        assert_eq!(outcome(&mut command).text(), "");
        dir
    };
    let dirs = [synth("a", "7"), synth("b", "7"), synth("c", "8")];
    let weights = |dir: &Path| std::fs::read(dir.join("model.safetensors")).expect("weights");
    assert!(weights(&dirs[0]) == weights(&dirs[1]), "equal seeds give equal weights");
    assert!(weights(&dirs[0]) != weights(&dirs[2]), "other seeds give others");
    // Names, shapes and types are those of the true checkpoint.
    let shapes = |dir: &Path| -> BTreeSet<_> {
        let tensors = Tensors::read(&dir.join("model.safetensors")).0;
        tensors.into_iter().map(|t| (t.name, t.shape, t.dtype)).collect()
    };
    assert_eq!(shapes(&dirs[0]), shapes(&checkpoint("tiny-moe")));
    let artifact = compiled(&scratch, "tiny-moe", &[]);
    let mut command = q35();
    command.arg("logits").arg(&artifact).arg("--weights").arg(&dirs[0]).args(["--tokens", "5,6,7"]);
    let row = floats(&logits(&mut command, &scratch)[0]);
    let size = row.iter().map(|v| v.abs()).fold(0.0, f32::max);
    assert!(row.iter().all(|v| v.is_finite()) && (1e-3..1e3).contains(&size), "{size}");
}

// q35 logits

#[test]
fn logits_of_every_variant_are_the_golden_ones() {
    let scratch = Scratch::new();
    for name in ["tiny-moe", SMALL] {
        let artifact = compiled(&scratch, name, &["--kv=f32"]);
        let golden: Golden = runs(name).remove(0);
        for variant in variants() {
            for chunk in ["1", "7", "64", ""] {
                let mut command = run_logits(&artifact, name);
                command.env("Q35_CPU", variant).args(["--tokens", &listed(&golden.tokens)]);
                command.args(["--device", "cpu", "--threads", "2"]);
                if !chunk.is_empty() {
                    command.args(["--chunk", chunk]);
                }
                let found = logits(&mut command, &scratch);
                assert_eq!((found.len(), found[0].name.as_str()), (1, "logits"));
                assert_eq!(found[0].shape, [golden.tokens.len(), golden.vocab]);
                golden.assert_float32(&floats(&found[0]), &format!("{variant}, chunk `{chunk}`"));
            }
        }
    }
}

#[test]
fn further_tokens_are_a_batch_of_further_tensors() {
    let scratch = Scratch::new();
    let artifact = compiled(&scratch, SMALL, &[]);
    let prompts = ["1,2,3,4,5", "9", "7,8"];
    for chunk in [&[][..], &["--chunk", "1"]] {
        let mut together = run_logits(&artifact, SMALL);
        for prompt in prompts {
            together.args(["--tokens", prompt]);
        }
        let mut together = logits(together.args(chunk), &scratch);
        together.sort_by(|a, b| a.name.cmp(&b.name));
        let names: Vec<&str> = together.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["logits", "logits.1", "logits.2"]);
        for (prompt, found) in prompts.iter().zip(&together) {
            let mut alone = run_logits(&artifact, SMALL);
            let alone = logits(alone.args(["--tokens", prompt]).args(chunk), &scratch);
            assert_eq!(found.shape, alone[0].shape);
            assert_eq!(found.data, alone[0].data, "to the bit");
        }
    }
}

// q35 run

fn run(artifact: &Path) -> Command {
    let mut command = q35();
    command.arg("run").arg(artifact).arg("--weights").arg(checkpoint("tiny-moe"));
    command
}

#[test]
fn run_writes_the_text_to_stdout_and_what_it_took_to_stderr() {
    let scratch = Scratch::new();
    let artifact = compiled(&scratch, "tiny-moe", &["--max-context=1024"]);
    let prompt = ["--prompt", "ROMEO:\n", "--max-tokens", "20", "--kv-tokens", "256"];
    let found = outcome(run(&artifact).args(prompt).arg("--greedy"));
    let told = found.stderr.clone();
    for what in ["prompt tokens", "20 generated tokens", "s to first token", "tokens/s"] {
        assert!(told.contains(what), "{told}");
    }
    let text = found.text();
    assert!(text.len() > 20 && !text.contains("tokens/s"), "{text}");
    // Verbosity changes nothing of it.
    for more in ["-v", "-vv"] {
        assert_eq!(outcome(run(&artifact).args(prompt).args(["--greedy", more])).text(), text);
    }
}

#[test]
fn run_draws_what_its_seed_says() {
    let scratch = Scratch::new();
    let artifact = compiled(&scratch, "tiny-moe", &["--max-context=1024"]);
    let controls = [
        "--temperature=0.9",
        "--top-k=40",
        "--top-p=0.95",
        "--min-p=0.01",
        "--presence-penalty=0.1",
        "--frequency-penalty=0.1",
        "--repetition-penalty=1.1",
        "--max-tokens=30",
        "--threads=2",
        "--device=cpu",
    ];
    let text = |seed: &str| {
        let mut command = run(&artifact);
        outcome(command.args(["--prompt", "JULIET:\n", "--seed", seed]).args(controls)).text()
    };
    assert_eq!(text("3"), text("3"));
    assert_ne!(text("3"), text("4"));
}

#[test]
fn run_ends_at_a_stop_string_and_takes_a_system_message() {
    let scratch = Scratch::new();
    let artifact = compiled(&scratch, "tiny-moe", &["--max-context=1024"]);
    let chat = ["--chat", "Say: crown river", "--no-think", "--greedy"];
    assert_eq!(outcome(run(&artifact).args(chat)).text(), "crown river");
    assert_eq!(outcome(run(&artifact).args(chat).args(["--stop", " ri"])).text(), "crown");
    let system = ["--system", "You are brief.", "--max-tokens", "9"];
    assert!(!outcome(run(&artifact).args(chat).args(system)).text().is_empty());
}

// q35 bench, q35 devices

#[test]
fn bench_reports_each_batch_and_depth_as_json() {
    let scratch = Scratch::new();
    let artifact = compiled(&scratch, SMALL, &["--max-context=256"]);
    let sizes = ["--prompt=32", "--gen=4", "--depth=0,64", "--batch=1,2", "--runs=2"];
    let random = vec!["--random-weights".into()];
    let weights = vec!["--weights".into(), checkpoint(SMALL).into_os_string()];
    for source in [random, weights] {
        let mut command = q35();
        command
            .arg("bench")
            .arg(&artifact)
            .args(source)
            .args(sizes)
            .args(["--threads=2", "--json"]);
        let json = outcome(&mut command).json();
        let results = json["results"].as_array().expect("a list");
        let cases: BTreeSet<_> = results
            .iter()
            .map(|r| (r["phase"].to_string(), r["batch"].to_string(), r["depth"].to_string()))
            .collect();
        assert_eq!((results.len(), cases.len()), (8, 8), "two phases, batches and depths each");
        for result in results {
            assert!(result["tokens_per_second"]["median"].as_f64() > Some(0.0), "{result}");
            assert!(result["share_of_bandwidth"].as_f64() > Some(0.0), "{result}");
            assert!(result["share_of_flops"].as_f64() > Some(0.0), "{result}");
        }
    }
}

#[test]
fn devices_lists_the_cpu() {
    let text = outcome(q35().arg("devices")).text();
    assert!(text.lines().any(|line| line.starts_with("cpu: ")), "{text}");
}

// Both.

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let scratch = Scratch::new();
    let artifact = compiled(&scratch, "tiny-moe", &["--max-context=1024"]);
    let mut explain = q35c();
    explain.arg("explain").arg(&artifact).arg("--json");
    let mut emit = q35c();
    emit.arg("compile").arg(config("tiny-moe")).args(["--emit", "code"]);
    let mut text = run(&artifact);
    text.args(["--prompt", "ROMEO:", "--greedy", "--max-tokens", "40"]);
    for mut command in [explain, emit, text] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = command.stdout(writer).output().expect("the program starts");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{command:?}\n{told}");
        assert!(!told.contains("error") && !told.contains("panicked"), "{command:?}\n{told}");
    }
}

/// The commands that the README shows are typed in as they stand there, but for the name of the
/// checkpoint, and quicker benchmarks.
#[test]
fn the_commands_in_the_readme_work() {
    let readme = folder().join("../README.md");
    let readme = std::fs::read_to_string(readme).expect("a README");
    let commands: Vec<&str> =
        readme.lines().filter(|l| l.starts_with("q35 ") || l.starts_with("q35c ")).collect();
    assert!(commands.len() >= 8, "{commands:?}");
    let scratch = Scratch::new();
    scratch.checkpoint("Qwen3.5-0.8B", "tiny-moe");
    let path = std::env::var("PATH").expect("a PATH");
    let path = format!("{}:{path}", program::folder().display());
    for command in commands {
        // Of the true vocabulary, which the small model does not have.
        let mut command = command.replace("9707,11,1879", "970,11,187");
        if command.contains(" bench ") {
            command += " --runs 1";
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).current_dir(scratch.path()).env("PATH", &path);
        outcome(&mut shell).text();
    }
}

#[test]
fn help_is_data_and_says_that_artifacts_are_code() {
    for command in ["run", "logits", "bench"] {
        let text = outcome(q35().args([command, "--help"])).text();
        assert!(text.contains("The code in an artifact is code"), "{text}");
    }
}
