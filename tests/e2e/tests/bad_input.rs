//! Whatever is wrong with what they are given, the programs say so in one line and leave nothing
//! half-written.

use q35_e2e::program::{Outcome, outcome, q35, q35c};
use q35_e2e::run::Build;
use q35_e2e::scratch::Scratch;
use q35_e2e::tensors::{Tensor, Tensors, edit_header};
use q35_target_spirv::Spirv;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Small, dense, one file.
const WHOLE: &str = "dense-text-f32";
/// With experts, in shards.
const SHARDED: &str = "moe-sharded-extras";

/// The artifact of a golden checkpoint for two sequences of up to 1024 tokens.
fn artifact(name: &'static str) -> &'static [u8] {
    static WHOLE_ONE: OnceLock<Vec<u8>> = OnceLock::new();
    static SHARDED_ONE: OnceLock<Vec<u8>> = OnceLock::new();
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    let cell = match name {
        WHOLE => &WHOLE_ONE,
        SHARDED => &SHARDED_ONE,
        _ => &TEXT,
    };
    cell.get_or_init(|| Build { max_batch: 2, ..Build::DEFAULT }.artifact(name).to_bytes())
}

/// `q35 logits`, which reads an artifact and a whole checkpoint and writes a file.
fn logits(artifact: &Path, weights: &Path, out: &Path) -> Command {
    let mut command = q35();
    command.args(["logits", "--threads", "1"]).arg(artifact);
    command.arg("--weights").arg(weights).arg("-o").arg(out);
    command
}

/// Where a program is to write: it must leave there what it finds, and nothing beside it.
struct Place {
    folder: Scratch,
    old: bool,
}

impl Place {
    fn both() -> [Place; 2] {
        [false, true].map(|old| {
            let folder = Scratch::new();
            if old {
                folder.file("out", "as it was");
            }
            Place { folder, old }
        })
    }

    fn path(&self) -> PathBuf {
        self.folder.join("out")
    }

    fn untouched(&self, what: &str) {
        let expected: &[&str] = if self.old { &["out"] } else { &[] };
        assert_eq!(self.folder.names(), expected, "{what}");
        if self.old {
            assert_eq!(fs::read(self.path()).expect("an old file"), b"as it was", "{what}");
        }
    }
}

/// Whatever `command` is told to write is refused, with these words, and not begun.
fn refused(command: impl Fn(&Path) -> Command, says: &[&str]) {
    for place in Place::both() {
        outcome(&mut command(&place.path())).refused(says);
        place.untouched(&format!("{says:?}"));
    }
}

// Configs.

fn compile(config: &Path, out: &Path) -> Command {
    let mut command = q35c();
    command.arg("compile").arg(config).arg("-o").arg(out);
    command
}

fn config_refused(bytes: &[u8], says: &[&str]) {
    let scratch = Scratch::new();
    let config = scratch.file("config.json", bytes);
    refused(|out| compile(&config, out), says);
    let folder = scratch.join("checkpoint");
    outcome(q35c().arg("synth").arg(&config).arg("-o").arg(&folder)).refused(says);
    assert_eq!(scratch.names(), ["config.json"]);
}

/// A golden config with a few keys of its text part changed.
fn changed(name: &str, keys: &[(&str, Value)]) -> Vec<u8> {
    let file = q35_e2e::golden::checkpoint(name).join("config.json");
    let text = fs::read(file).expect("a golden config");
    let mut config: Value = serde_json::from_slice(&text).expect("a golden config is JSON");
    let text = match config.get("text_config") {
        Some(_) => &mut config["text_config"],
        None => &mut config,
    };
    for (key, value) in keys {
        text[*key] = value.clone();
    }
    config.to_string().into()
}

#[test]
fn a_config_that_is_not_json() {
    let whole = changed("tiny-moe", &[]);
    config_refused(b"", &["not JSON"]);
    config_refused(b"model_type: qwen3_5", &["not JSON"]);
    config_refused(&whole[..whole.len() / 2], &["not JSON"]);
    config_refused(&[whole.as_slice(), b"}"].concat(), &["not JSON"]);
    config_refused("[".repeat(200_000).as_bytes(), &["nested more than 64 deep"]);
    config_refused(b"{\"model_type\": \"\xff\"}", &["not UTF-8"]);
    config_refused(b"[]", &["expected"]);
}

#[test]
fn a_config_that_is_not_there() {
    let scratch = Scratch::new();
    refused(|out| compile(&scratch.join("none.json"), out), &["cannot read", "none.json"]);
    refused(|out| compile(scratch.path(), out), &["cannot read"]);
}

#[test]
fn a_config_of_another_family() {
    config_refused(b"{}", &["model_type"]);
    config_refused(br#"{"model_type": "llama", "hidden_size": 4096}"#, &["model_type", "llama"]);
    config_refused(br#"{"model_type": "qwen3_next"}"#, &["model_type", "qwen3_next"]);
}

#[test]
fn targets_that_are_unknown_or_named_twice() {
    let config = q35_e2e::golden::checkpoint("tiny-moe").join("config.json");
    let profiles = "expected one of `spirv:baseline`, `spirv:desktop`";
    for (options, says) in [
        (&["--target=tpu"][..], ["`--target` is `tpu`", "expected one of `cpu`, `spirv"]),
        (&["--target=cpu,cpu"], ["`cpu` twice", "expected"]),
        (&["--target=spirv,spirv:desktop"], ["`spirv` twice", "expected"]),
        (&["--target=spirv:fast"], ["`--target` is `spirv:fast`", profiles]),
        (&["--target=cpu:fast"], ["`--target` is `cpu:fast`", "expected `cpu`"]),
        (
            &["--target=cpu,spirv:desktop", "--subgroup=16"],
            ["`--subgroup` is 16", "expected 32 or 64"],
        ),
        (&["--subgroup=64"], ["`--subgroup` is 64", "expected one of `spirv:desktop`"]),
        (&["--target=spirv", "--subgroup=32"], ["`--subgroup` is 32", "`spirv:desktop`"]),
    ] {
        let command = |out: &Path| {
            let mut command = compile(&config, out);
            command.args(options);
            command
        };
        refused(command, &says);
    }
}

#[test]
fn a_config_that_contradicts_itself() {
    let heads = [("num_attention_heads", json!(5))];
    config_refused(&changed("tiny-moe", &heads), &["num_attention_heads", "5"]);
    let heads = [("linear_num_value_heads", json!(3))];
    config_refused(&changed("tiny-moe", &heads), &["linear_num_value_heads", "3"]);
    let layers = [("num_hidden_layers", json!(9))];
    config_refused(&changed("tiny-moe", &layers), &["layer_types", "8", "9"]);
    let experts = [("num_experts", json!(3))];
    config_refused(&changed("tiny-moe", &experts), &["num_experts", "3", "4"]);
}

#[test]
fn a_config_of_absurd_sizes() {
    for key in ["hidden_size", "vocab_size", "head_dim", "num_experts", "moe_intermediate_size"] {
        for value in [json!(0), json!(-1), json!(u64::MAX), json!("64"), json!(1.5)] {
            config_refused(&changed("tiny-moe", &[(key, value)]), &[key]);
        }
    }
}

// Artifacts.

/// Each command that reads an artifact refuses it.
fn artifact_refused(bytes: &[u8], says: &[&str]) {
    let scratch = Scratch::new();
    let file = scratch.file("model.bin", bytes);
    let weights = q35_e2e::golden::checkpoint(WHOLE);
    let tokens = ["--tokens", "1,2"];
    refused(
        |out| {
            let mut command = logits(&file, &weights, out);
            command.args(tokens);
            command
        },
        says,
    );
    outcome(q35c().arg("inspect").arg(&file)).refused(says);
    outcome(q35c().arg("explain").arg(&file)).refused(says);
    let run = ["--prompt", "x", "--weights"];
    outcome(q35().arg("run").arg(&file).args(run).arg(&weights)).refused(says);
    outcome(q35().arg("bench").arg(&file).arg("--random-weights")).refused(says);
    let extracted = scratch.join("code");
    outcome(q35c().arg("inspect").arg(&file).arg("--extract").arg(&extracted)).refused(says);
    assert_eq!(scratch.names(), ["model.bin"]);
}

#[test]
fn an_artifact_that_is_cut_off() {
    let whole = artifact(WHOLE);
    let cuts = [0, 7, 60, 120, 5_000, whole.len() / 2, whole.len() - 1];
    for cut in cuts {
        artifact_refused(&whole[..cut], &["artifact ends after", &cut.to_string()]);
    }
    artifact_refused(&[whole, b"x"].concat(), &["artifact has", "bytes, expected"]);
}

#[test]
fn an_artifact_with_a_flipped_bit() {
    let whole = artifact(WHOLE);
    // In the hash, in the list of sections, in code, in the last section.
    for at in [50, 400, whole.len() / 3, whole.len() - 5] {
        for bit in [1, 0x80] {
            let mut bytes = whole.to_vec();
            bytes[at] ^= bit;
            artifact_refused(&bytes, &["BLAKE3", "damaged"]);
        }
    }
}

#[test]
fn an_artifact_of_a_later_format() {
    artifact_refused(&of_version(artifact(WHOLE), 2), &["format version 2, expected 1"]);
}

/// The artifact with another version, and the hash that its header then has.
fn of_version(artifact: &[u8], version: u32) -> Vec<u8> {
    let mut bytes = artifact.to_vec();
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header = &mut bytes[..8 + length];
    let find = |header: &[u8], what: &str| {
        let mut places = header.windows(what.len());
        places.position(|w| w == what.as_bytes()).expect(what) + what.len()
    };
    let at = find(header, r#"\"version\":"#);
    header[at] = b'0' + version as u8;
    let digits = find(header, r#"\"blake3\":\""#);
    header[digits..digits + 64].fill(b'0');
    let hash = blake3::hash(header).to_hex();
    header[digits..digits + 64].copy_from_slice(hash.as_bytes());
    bytes
}

#[test]
fn an_artifact_rewritten_without_a_change_is_good() {
    // So what the test above finds is the version, not its own mistake.
    assert_eq!(of_version(artifact(WHOLE), 1), artifact(WHOLE));
}

#[test]
fn a_file_that_is_no_artifact() {
    artifact_refused(b"#!/bin/sh\nexit", &["not an artifact"]);
    artifact_refused(&[0; 4096], &["not an artifact"]);
    let model = q35_e2e::golden::checkpoint(WHOLE).join("model.safetensors");
    artifact_refused(&fs::read(model).expect("a golden file"), &["not an artifact", "safetensors"]);
}

#[test]
fn an_artifact_that_is_not_there() {
    let scratch = Scratch::new();
    let (file, weights) = (scratch.join("none.bin"), q35_e2e::golden::checkpoint(WHOLE));
    let command = |out: &Path| {
        let mut command = logits(&file, &weights, out);
        command.args(["--tokens", "1"]);
        command
    };
    refused(command, &["cannot read", "none.bin"]);
}

// Checkpoints.

/// `q35 logits` of a checkpoint that `spoil` was at.
fn checkpoint_refused(name: &'static str, spoil: impl FnOnce(&Path), says: &[&str]) {
    let scratch = Scratch::new();
    let artifact = scratch.file("model.bin", artifact(name));
    let weights = scratch.checkpoint("weights", name);
    let command = |out: &Path| {
        let mut command = logits(&artifact, &weights, out);
        command.args(["--tokens", "1,2"]);
        command
    };
    let good = scratch.join("good");
    outcome(&mut command(&good)).text();
    assert!(good.exists(), "the checkpoint was good before");
    spoil(&weights);
    refused(command, says);
}

/// As above, of a checkpoint in one file whose tensors `spoil` changes.
fn tensors_refused(spoil: impl FnOnce(&mut Tensors), says: &[&str]) {
    let spoil = |weights: &Path| {
        let file = weights.join("model.safetensors");
        let mut tensors = Tensors::read(&file);
        spoil(&mut tensors);
        tensors.write(&file);
    };
    checkpoint_refused(WHOLE, spoil, says);
}

/// As above, of one whose header `spoil` changes.
fn header_refused(spoil: impl FnOnce(&mut serde_json::Map<String, Value>), says: &[&str]) {
    let spoil = |weights: &Path| edit_header(&weights.join("model.safetensors"), spoil);
    checkpoint_refused(WHOLE, spoil, says);
}

#[test]
fn a_checkpoint_without_a_tensor() {
    for name in ["model.norm.weight", "model.layers.1.linear_attn.A_log"] {
        tensors_refused(|t| t.remove(name), &[name, "is not in the checkpoint"]);
    }
}

#[test]
fn a_checkpoint_with_a_tensor_too_many() {
    for name in ["model.layers.99.mlp.up_proj.weight", "lm_head.bias"] {
        let extra =
            Tensor { name: name.into(), dtype: "F32".into(), shape: vec![2], data: vec![0; 8] };
        tensors_refused(|t| t.0.push(extra), &[name, "belongs to no part of the model"]);
    }
}

#[test]
fn a_tensor_of_the_wrong_shape() {
    let end = "layers.1.mlp.up_proj.weight";
    tensors_refused(|t| t.find(end).shape.reverse(), &[end, "shape [54, 130]", "[130, 54]"]);
    let end = "model.norm.weight";
    tensors_refused(|t| t.find(end).shape.push(1), &[end, "shape [54, 1]", "[54]"]);
    let end = "embed_tokens.weight";
    let shorter = |t: &mut Tensors| {
        let tensor = t.find(end);
        tensor.shape[0] -= 1;
        tensor.data.truncate(tensor.shape.iter().product::<usize>() * 4);
    };
    tensors_refused(shorter, &[end, "expected"]);
}

#[test]
fn a_tensor_of_the_wrong_type() {
    for dtype in ["I32", "U32"] {
        let end = "layers.1.mlp.up_proj.weight";
        tensors_refused(|t| t.find(end).dtype = dtype.into(), &[end, dtype, "expected"]);
    }
    let quantised = |t: &mut Tensors| {
        let tensor = t.find("layers.1.mlp.up_proj.weight");
        tensor.dtype = "F8_E4M3".into();
        tensor.data.truncate(tensor.data.len() / 4);
    };
    tensors_refused(quantised, &["up_proj.weight", "F8_E4M3", "expected"]);
}

#[test]
fn a_checkpoint_whose_types_would_have_to_be_rounded() {
    let widened = |weights: &Path| {
        let file = weights.join("model-00001-of-00004.safetensors");
        let mut tensors = Tensors::read(&file);
        let tensor = tensors.0.iter_mut().find(|t| t.dtype == "BF16").expect("16-bit weights");
        let wide = tensor.data.chunks_exact(2).flat_map(|b| [0, 0, b[0], b[1]]);
        (tensor.data, tensor.dtype) = (wide.collect(), "F32".into());
        tensors.write(&file);
    };
    checkpoint_refused(SHARDED, widened, &["is f32, expected", "bf16"]);
}

#[test]
fn a_checkpoint_without_one_of_its_shards() {
    let shard = "model-00003-of-00004.safetensors";
    let spoil = |weights: &Path| fs::remove_file(weights.join(shard)).expect("a shard");
    checkpoint_refused(SHARDED, spoil, &[shard, "missing"]);
}

#[test]
fn an_index_that_does_not_fit_its_shards() {
    let index = |edit: fn(&mut Value)| {
        move |weights: &Path| {
            let file = weights.join("model.safetensors.index.json");
            let text = fs::read(&file).expect("an index");
            let mut index: Value = serde_json::from_slice(&text).expect("an index is JSON");
            edit(&mut index["weight_map"]);
            fs::write(&file, index.to_string()).expect("a temporary file");
        }
    };
    const FIRST: &str = "model-00001-of-00004.safetensors";
    let absent = index(|map| map["model.phantom.weight"] = json!(FIRST));
    checkpoint_refused(SHARDED, absent, &["model.phantom.weight", FIRST]);
    let lost = index(|map| map["model.phantom.weight"] = json!("model-00009.safetensors"));
    checkpoint_refused(SHARDED, lost, &["model-00009.safetensors", "missing"]);
    let outside = index(|map| map["model.phantom.weight"] = json!("../../../etc/passwd"));
    checkpoint_refused(SHARDED, outside, &["etc/passwd"]);
    let forgotten = index(|map| {
        map.as_object_mut().expect("a map").retain(|name, _| !name.ends_with(".A_log"));
    });
    checkpoint_refused(SHARDED, forgotten, &["A_log", "not in the index"]);
    let wrong = index(|map| *map = json!([1, 2]));
    checkpoint_refused(SHARDED, wrong, &["is not an index of shards"]);
}

#[test]
fn a_header_with_offsets_that_overlap() {
    let overlapping = |header: &mut serde_json::Map<String, Value>| {
        let twin = header["model.layers.1.input_layernorm.weight"]["data_offsets"].clone();
        header["model.layers.2.input_layernorm.weight"]["data_offsets"] = twin;
    };
    header_refused(overlapping, &["input_layernorm.weight", "inside"]);
}

#[test]
fn a_header_with_offsets_out_of_range() {
    let name = "model.layers.1.input_layernorm.weight";
    for offsets in [
        json!([1_u64 << 40, (1_u64 << 40) + 216]),
        json!([u64::MAX - 216, u64::MAX]),
        json!([216, 0]),
        json!([0, 1]),
        json!([-216, 0]),
        json!([0.5, 216.5]),
    ] {
        let spoil = |header: &mut serde_json::Map<String, Value>| {
            header[name]["data_offsets"] = offsets;
        };
        header_refused(spoil, &["model.safetensors"]);
    }
    let vast = |header: &mut serde_json::Map<String, Value>| {
        header[name]["shape"] = json!([1_u64 << 40, 1_u64 << 40]);
    };
    header_refused(vast, &[name]);
}

#[test]
fn a_checkpoint_file_that_is_cut_off_or_something_else() {
    let with = |edit: fn(Vec<u8>) -> Vec<u8>| {
        move |weights: &Path| {
            let file = weights.join("model.safetensors");
            let bytes = fs::read(&file).expect("a checkpoint");
            fs::write(&file, edit(bytes)).expect("a temporary file");
        }
    };
    let says = &["model.safetensors"];
    checkpoint_refused(WHOLE, with(|_| vec![]), says);
    checkpoint_refused(WHOLE, with(|b| b[..7].into()), says);
    checkpoint_refused(WHOLE, with(|b| b[..100].into()), says);
    checkpoint_refused(WHOLE, with(|b| b[..b.len() - 1].into()), says);
    checkpoint_refused(WHOLE, with(|b| [b.as_slice(), b"x"].concat()), says);
    checkpoint_refused(WHOLE, with(|b| [&[0xff; 8], &b[8..]].concat()), says);
    checkpoint_refused(WHOLE, with(|b| [&b[..8], b"[[[[", &b[12..]].concat()), says);
    let nested = |_| [&100_000_u64.to_le_bytes(), "[".repeat(100_000).as_bytes()].concat();
    checkpoint_refused(WHOLE, with(nested), says);
}

#[test]
fn a_folder_without_weights() {
    let spoil = |weights: &Path| {
        fs::remove_file(weights.join("model.safetensors")).expect("a checkpoint");
    };
    checkpoint_refused(WHOLE, spoil, &["has no weights"]);
}

// Requests.

/// `q35 logits` of a good artifact and checkpoint with these options.
fn request_refused(options: &[&str], says: &[&str]) {
    let scratch = Scratch::new();
    let artifact = scratch.file("model.bin", artifact(WHOLE));
    let weights = q35_e2e::golden::checkpoint(WHOLE);
    let command = |out: &Path| {
        let mut command = logits(&artifact, &weights, out);
        command.args(options);
        command
    };
    refused(command, says);
}

/// `q35 run` of tiny-moe with these options.
fn generate(options: &[&str]) -> Outcome {
    let scratch = Scratch::new();
    let artifact = scratch.file("model.bin", artifact("tiny-moe"));
    let weights = q35_e2e::golden::checkpoint("tiny-moe");
    let mut command = q35();
    outcome(command.arg("run").arg(&artifact).arg("--weights").arg(&weights).args(options))
}

#[test]
fn a_prompt_longer_than_the_context() {
    let ids = vec!["1"; 1025].join(",");
    let says = &["1025 tokens", "at most 1024"];
    request_refused(&["--tokens", &ids], says);
    request_refused(&["--tokens", "1,2", "--tokens", &ids, "--chunk", "1"], says);
    generate(&["--prompt", &"the crown ".repeat(2000)]).refused(&["at most 1024"]);
}

#[test]
fn no_kv_pages_left() {
    let long = "the crown and the river ".repeat(20);
    let says = &["KV pages of 64 tokens are needed", "of 1 are free"];
    generate(&["--kv-tokens", "64", "--prompt", &long]).refused(says);
    generate(&["--kv-tokens", "1", "--prompt", "a", "--max-tokens", "100"]).refused(says);
    // Whoever does not say how much gets what there is room for.
    let text = generate(&["--kv-tokens", "64", "--prompt", "a", "--greedy"]).text();
    assert!(text.len() > 20, "{text}");
}

#[test]
fn a_token_id_out_of_range() {
    for id in ["100000", "4294967295"] {
        let says = &[id, "out of range"];
        request_refused(&["--tokens", &format!("1,{id}")], says);
        request_refused(&["--tokens", "1", "--tokens", id, "--chunk", "1"], says);
    }
}

#[test]
fn an_empty_prompt() {
    let says = &["the prompt is empty"];
    request_refused(&["--tokens", ""], says);
    request_refused(&["--tokens", "1", "--tokens", ""], says);
    generate(&["--prompt", ""]).refused(says);
}

#[test]
fn more_sequences_than_slots() {
    let three = ["--tokens", "1", "--tokens", "2", "--tokens", "3"];
    request_refused(&three, &["2 sequence slots are taken"]);
    let scratch = Scratch::new();
    let artifact = scratch.file("model.bin", artifact(WHOLE));
    let mut command = q35();
    command.arg("bench").arg(&artifact).args(["--random-weights", "--batch", "3"]);
    let found = outcome(&mut command);
    assert!(found.stderr.starts_with("skipped: batch 3, the artifact takes at most 2\n"));
    found.refused(&["nothing is left to measure"]);
}

#[test]
fn a_device_or_target_that_is_not_there() {
    request_refused(&["--tokens", "1", "--device", "abacus"], &["abacus", "expected"]);
    let config = q35_e2e::golden::checkpoint(WHOLE).join("config.json");
    let command = |out: &Path| {
        let mut command = compile(&config, out);
        command.args(["--target", "abacus"]);
        command
    };
    refused(command, &["--target", "abacus", "`cpu`"]);
}

#[test]
fn wrong_usage() {
    let config = q35_e2e::golden::checkpoint(WHOLE).join("config.json");
    outcome(&mut q35c()).code.map(|code| assert_eq!(code, 2)).expect("it ends by itself");
    outcome(q35c().arg("compile").arg(&config)).misused(&["required"]);
    let chunk = ["-o", "/dev/null", "--max-chunk", "65"];
    outcome(q35c().arg("compile").arg(&config).args(chunk)).misused(&["--max-chunk", "64"]);
    outcome(q35c().arg("compile").arg(&config).args(["--emit", "soup"])).misused(&["soup"]);
    outcome(q35().args(["run", "model.bin", "--prompt", "x"])).misused(&["required"]);
    let tokens = ["logits", "m", "--weights", "w", "-o", "o", "--tokens", "1,x"];
    outcome(q35().args(tokens)).misused(&["`x` is not a token id"]);
    let top_p = ["run", "m", "--weights", "w", "--prompt", "x", "--top-p", "2"];
    outcome(q35().args(top_p)).misused(&["--top-p"]);
}

// Vulkan.

/// `q35 logits` of the small checkpoint on a Vulkan device, compiled for a profile.
fn on_vulkan(profile: Spirv, device: &'static str) -> (Scratch, impl Fn(&Path) -> Command) {
    let scratch = Scratch::new();
    let build = Build { max_batch: 2, max_chunk: 64, ..Build::DEFAULT };
    let model = scratch.file("model.bin", build.artifact_for(WHOLE, &profile).to_bytes());
    let command = move |out: &Path| {
        let mut command = logits(&model, &q35_e2e::golden::checkpoint(WHOLE), out);
        command.args(["--tokens", "1,2", "--device", device]);
        command
    };
    (scratch, command)
}

/// What `q35 devices` says, if a Vulkan device is among them that can be used.
fn vulkan_devices() -> Option<String> {
    let text = outcome(q35().arg("devices")).text();
    if text.contains("code: target spirv") {
        return Some(text);
    }
    let required = std::env::var("Q35_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|r| r == "vulkan"), "Vulkan is required: {text}");
    eprintln!("skipped: no Vulkan device");
    None
}

#[test]
fn an_artifact_without_code_for_the_device() {
    let says = &["the artifact has code for `cpu`, expected code for `spirv`"];
    request_refused(&["--tokens", "1", "--device", "vulkan"], says);
    request_refused(&["--tokens", "1", "--device", "vulkan:9"], says);
    let (_model, command) = on_vulkan(Spirv::BASELINE, "cpu");
    refused(command, &["the artifact has code for `spirv`, expected code for `cpu`"]);
}

/// A loader that is none hides the system's.
#[cfg(target_os = "linux")]
#[test]
fn no_vulkan_loader() {
    let folder = Scratch::new();
    folder.file("libvulkan.so.1", "");
    let hidden = |mut command: Command| {
        command.env("LD_LIBRARY_PATH", folder.path());
        command
    };
    let (_model, command) = on_vulkan(Spirv::BASELINE, "vulkan");
    refused(|out| hidden(command(out)), &["Vulkan cannot be used: there is no loader"]);
    let mut devices = q35();
    devices.arg("devices");
    let text = outcome(&mut hidden(devices)).text();
    assert!(text.starts_with("cpu: ") && !text.contains("vulkan"), "{text}");
}

#[test]
fn no_vulkan_driver() {
    let (_model, command) = on_vulkan(Spirv::BASELINE, "vulkan");
    let without = |out: &Path| {
        let mut command = command(out);
        for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            command.env(variable, "/no/such/driver.json");
        }
        command.env("VK_LOADER_DEBUG", "none");
        command
    };
    refused(without, &["Vulkan cannot be used: "]);
}

#[test]
fn a_vulkan_device_beyond_the_last() {
    if vulkan_devices().is_none() {
        return;
    }
    let (_model, command) = on_vulkan(Spirv::BASELINE, "vulkan:9");
    refused(command, &["device `vulkan:9` is not there", "expected `vulkan:0`"]);
}

#[test]
fn a_device_that_lacks_what_desktop_code_takes() {
    let Some(devices) = vulkan_devices() else { return };
    let runs = |variant: &str| devices.split([' ', ',', '\n']).any(|word| word == variant);
    let lacking = [(Spirv::DESKTOP, "desktop"), (Spirv::DESKTOP_64, "desktop-64")];
    for (profile, variant) in lacking.into_iter().filter(|(_, variant)| !runs(variant)) {
        let (_model, command) = on_vulkan(profile, "vulkan");
        let expected = format!("expected by the artifact's variant `{variant}`");
        refused(&command, &["`vulkan:", " lacks ", &expected]);
        let said = outcome(&mut command(Path::new("/dev/null"))).stderr;
        assert!(said.contains("help: compile for `spirv`"), "{said}");
    }
}

#[test]
fn a_pipeline_cache_that_is_broken() {
    if vulkan_devices().is_none() {
        return;
    }
    let (model, command) = on_vulkan(Spirv::BASELINE, "vulkan");
    let caches = Scratch::new();
    let run = || {
        let out = model.join("logits");
        let found = outcome(command(&out).env("XDG_CACHE_HOME", caches.path()));
        let said = found.stderr.clone();
        found.text();
        (fs::read(out).expect("logits"), said)
    };
    let (logits, said) = run();
    assert_eq!(said, "");
    let folder = fs::read_dir(caches.join("q35c")).expect("a folder of caches");
    let files: Vec<_> = folder.map(|entry| entry.expect("an entry").path()).collect();
    let [file] = files.as_slice() else { panic!("one cache: {files:?}") };
    let whole = fs::read(file).expect("a cache");
    for broken in [&whole[..0], &whole[..whole.len() / 2], b"not a cache"] {
        fs::write(file, broken).expect("a temporary file");
        let (again, said) = run();
        let warning = format!("warning: the pipeline cache `{}` is broken", file.display());
        assert!(said.starts_with(&warning) && said.lines().count() == 1, "{said}");
        assert!(logits == again, "a broken cache changes nothing");
        assert_eq!(run().1, "", "it has been rebuilt");
    }
}

// Disks that are full.

/// `/dev/full` takes nothing.
#[cfg(target_os = "linux")]
#[test]
fn stdout_that_is_full() {
    let scratch = Scratch::new();
    let model = scratch.file("model.bin", artifact("tiny-moe"));
    let config = q35_e2e::golden::checkpoint("tiny-moe").join("config.json");
    let weights = q35_e2e::golden::checkpoint("tiny-moe");
    let run = ["--prompt", "x", "--greedy", "--max-tokens", "4", "--weights"];
    let bench = ["--random-weights", "--prompt", "1", "--gen", "1", "--depth", "0", "--runs", "1"];
    let mut commands = [(); 8].map(|()| q35c());
    commands[0].arg("inspect").arg(&model);
    commands[1].arg("inspect").arg(&model).arg("--json");
    commands[2].arg("inspect").arg(&model).arg("--dot");
    commands[3].arg("explain").arg(&model);
    commands[4].arg("compile").arg(config).args(["--emit", "graph"]);
    commands[5] = q35();
    commands[5].arg("run").arg(&model).args(run).arg(weights);
    commands[6] = q35();
    commands[6].arg("devices");
    commands[7] = q35();
    commands[7].arg("bench").arg(&model).args(bench);
    for mut command in commands {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let output = command.stdout(full).output().expect("the program starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command:?}\n{stderr}");
        let says = "error: cannot write to stdout: No space left on device";
        assert!(stderr.contains(says) && !stderr.contains("panicked"), "{command:?}\n{stderr}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_is_full() {
    let scratch = Scratch::new();
    let artifact = scratch.file("model.bin", artifact(WHOLE));
    let golden = q35_e2e::golden::checkpoint(WHOLE);
    let full = Path::new("/dev/full");
    let says = &["cannot write `/dev/full`", "No space left on device"];
    outcome(&mut compile(&golden.join("config.json"), full)).refused(says);
    outcome(logits(&artifact, &golden, full).args(["--tokens", "1,2"])).refused(says);
}

/// A disk that fills up on the way: no file can have more than 4 KiB.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_while_writing() {
    let limited = |command: &Command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"trap "" XFSZ; ulimit -f 8; exec "$@""#, "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        shell
    };
    let scratch = Scratch::new();
    let artifact = scratch.file("model.bin", artifact(WHOLE));
    let golden = q35_e2e::golden::checkpoint(WHOLE);
    let config = golden.join("config.json");
    let says = &["cannot write", "File too large"];
    refused(|out| limited(&compile(&config, out)), says);
    let command = |out: &Path| {
        let mut command = logits(&artifact, &golden, out);
        command.args(["--tokens", "1,2,3,4,5,6,7,8,9,10"]);
        limited(&command)
    };
    refused(command, says);
    let mut synth = q35c();
    synth.arg("synth").arg(&config).arg("-o").arg(scratch.join("checkpoint"));
    outcome(&mut limited(&synth)).refused(says);
    assert_eq!(scratch.names(), ["model.bin"]);
}

#[test]
fn an_output_in_a_folder_that_is_not_there() {
    let scratch = Scratch::new();
    let artifact = scratch.file("model.bin", artifact(WHOLE));
    let golden = q35_e2e::golden::checkpoint(WHOLE);
    let out = scratch.join("no/such/folder/out");
    let says = &["cannot write", "no/such/folder/out"];
    outcome(&mut compile(&golden.join("config.json"), &out)).refused(says);
    outcome(logits(&artifact, &golden, &out).args(["--tokens", "1"])).refused(says);
    assert_eq!(scratch.names(), ["model.bin"]);
}
