//! What users of other engines complain about, for this family of models: one test each.

use q35_artifact::Unit;
use q35_e2e::golden::{checkpoint, checkpoints, folder, runs};
use q35_e2e::program::{outcome, q35};
use q35_e2e::run::{Build, cpu, logits, variants};
use q35_e2e::scratch::Scratch;
use q35_e2e::spy::{Call, Spy};
use q35_e2e::tensors::Tensors;
use q35_runtime::sampling::SamplingParams;
use q35_runtime::text::{ChatRequest, ChatTemplate, Tokenizer};
use q35_runtime::{Engine, Event, FinishReason, LoadOptions, Model, Request, RequestId};
use q35_types::DType;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

fn best() -> &'static str {
    variants().pop().expect("a variant")
}

fn engine(model: Model) -> Engine {
    let tokenizer = Tokenizer::load(&checkpoint("tiny-moe")).expect("the golden tokenizer");
    Engine::new(model, Some(Arc::new(tokenizer)))
}

/// What each request gave: ids and text.
type Answers = BTreeMap<RequestId, (Vec<u32>, String)>;

fn finish(engine: &mut Engine, answers: &mut Answers) {
    while !engine.is_idle() {
        step(engine, answers);
    }
}

fn step(engine: &mut Engine, answers: &mut Answers) {
    for event in engine.step().expect("a step") {
        match event {
            Event::Token { request, id, text } => {
                let answer = answers.entry(*request).or_default();
                answer.0.push(*id);
                answer.1.push_str(text);
            }
            Event::Finished { request, text, reason, .. } => {
                let answer = answers.entry(*request).or_default();
                answer.1.push_str(text);
                if let FinishReason::StopId(id) = reason {
                    answer.0.push(*id);
                }
            }
        }
    }
}

/// Requests of very different length, greedy and drawn, of which some end early.
fn requests(tokenizer: &Tokenizer) -> Vec<Request> {
    let scene = "ROMEO:\nBut soft, what light through yonder window breaks? ".repeat(9);
    let prompts =
        ["K", "ROMEO:\n", "What is 7 plus 8?", &scene[..200], &scene, "JULIET:", "1", "the"];
    let request = |(n, text): (usize, &&str)| Request {
        prompt: tokenizer.encode(text).expect("text"),
        sampling: match n % 2 {
            0 => SamplingParams::greedy(),
            _ => SamplingParams { seed: Some(n as u64), top_k: 50, ..SamplingParams::default() },
        },
        max_tokens: Some([5, 40, 17, 30, 12, 50, 1, 25][n]),
        stop_ids: vec![2037],
        stop_strings: if n == 5 { vec!["e".into()] } else { vec![] },
    };
    prompts.iter().enumerate().map(request).collect()
}

/// "Wrong output with batch > 1", "garbage from three sequences on".
#[test]
fn requests_side_by_side_get_the_text_that_each_gets_alone() {
    let new = || engine(Build::DEFAULT.model("tiny-moe", best(), 2));
    let mut alone = vec![];
    let mut together = new();
    let requests = requests(together.tokenizer().expect("it has one"));
    assert_eq!(requests.len(), together.model().facts().max_batch as usize);
    for request in &requests {
        let mut engine = new();
        let mut answers = Answers::new();
        engine.submit(request.clone()).expect("a request");
        finish(&mut engine, &mut answers);
        alone.extend(answers.into_values());
    }
    assert!(alone.iter().all(|(ids, _)| !ids.is_empty()));
    // All at once, then one after another while others run.
    for gap in [0, 3] {
        let mut answers = Answers::new();
        for request in &requests {
            together.submit(request.clone()).expect("a request");
            (0..gap).for_each(|_| step(&mut together, &mut answers));
        }
        finish(&mut together, &mut answers);
        assert_eq!(answers.into_values().collect::<Vec<_>>(), alone, "{gap} steps between them");
    }
}

/// "Chunked prefill loses the state at the border of a block: uninitialised memory, NaN by the
/// eighth chunk."
#[test]
fn chunks_read_nothing_that_nobody_wrote_and_keep_the_state() {
    for name in ["tiny-moe", "dense-tied-odd"] {
        let golden = runs(name).remove(0);
        let prompt: Vec<u32> = golden.tokens.iter().copied().cycle().take(64 * 10 + 5).collect();
        for variant in variants() {
            let whole = Build { max_chunk: 1024, ..Build::DEFAULT }.model(name, variant, 2);
            let whole = logits(&mut { whole }, &[&prompt], None).remove(0);
            let chunked = Build { max_chunk: 64, ..Build::DEFAULT };
            let arena = chunked.artifact(name).targets[0].plan.arena_bytes;
            let spy = Spy::new(cpu(variant, 2)).spoiling(arena);
            let mut model = chunked.model_on(name, Box::new(spy), LoadOptions::default());
            for side_by_side in [1, 2] {
                let prompts = vec![prompt.as_slice(); side_by_side];
                for found in logits(&mut model, &prompts, None) {
                    assert!(found.iter().all(|v| v.is_finite()), "{name}, {variant}");
                    let same = found.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same && found.len() == whole.len(), "{name}, {variant}");
                }
            }
            // Decoding begins with what is left there too.
            let short = &prompt[..20];
            let clean = logits(&mut chunked.model(name, variant, 2), &[short], Some(1));
            assert_eq!(logits(&mut model, &[short], Some(1)), clean, "{name}, {variant}");
        }
    }
}

/// "No batch invariance for the gated delta net."
#[test]
fn logits_in_a_batch_of_any_size_are_those_of_one_to_the_bit() {
    for name in ["tiny-moe", "moe-perexpert-f16"] {
        let tokens = &runs(name).remove(0).tokens;
        let prompts: Vec<&[u32]> = (0..8).map(|n| &tokens[n..][..12 + n]).collect();
        for build in [Build::DEFAULT, Build::SIXTEEN] {
            for variant in variants() {
                let mut model = build.model(name, variant, 2);
                for chunk in [Some(1), None] {
                    let alone: Vec<_> =
                        prompts.iter().map(|p| logits(&mut model, &[p], chunk).remove(0)).collect();
                    for size in [2, 3, 5, 8] {
                        let batch = logits(&mut model, &prompts[..size], chunk);
                        let what = format!("{name}, {build:?}, {variant}, {chunk:?}, {size}");
                        for (found, alone) in batch.iter().zip(&alone) {
                            let pairs = || found.iter().zip(alone);
                            assert_eq!(found.len(), alone.len(), "{what}");
                            assert!(pairs().all(|(a, b)| a.to_bits() == b.to_bits()), "{what}");
                        }
                    }
                }
            }
        }
    }
}

/// "Quantised checkpoint loads as silent garbage: the weights of the linear attention are dropped."
#[test]
fn a_checkpoint_is_refused_whichever_of_its_tensors_is_dropped() {
    for name in ["dense-tied-odd", "moe-text-tied"] {
        let scratch = Scratch::new();
        let weights = scratch.checkpoint("weights", name);
        let file = weights.join("model.safetensors");
        let (whole, artifact) = (Tensors::read(&file), Build::DEFAULT.artifact(name));
        let load = || {
            let device = cpu(best(), 1);
            Model::load_on(device, &artifact, &weights, LoadOptions::default())
        };
        assert!(load().is_ok(), "{name}");
        for dropped in &whole.0 {
            let mut rest = whole.clone();
            rest.remove(&dropped.name);
            rest.write(&file);
            let Err(error) = load() else { panic!("{name} without {} loads", dropped.name) };
            assert!(error.to_string().contains(&dropped.name), "{error}");
        }
    }
}

/// "The first request compiles for minutes."
#[test]
fn nothing_is_compiled_or_allocated_once_a_model_is_loaded() {
    let artifact = Build::DEFAULT.artifact("tiny-moe");
    let target = &artifact.targets[0];
    let spy = Spy::new(cpu(best(), 2));
    let calls = spy.calls();
    let options = LoadOptions::default();
    let weights = checkpoint("tiny-moe");
    let mut model = Model::load_on(Box::new(spy), &artifact, &weights, options).expect("it loads");
    let loading = std::mem::take(&mut *calls.lock().expect("written by this thread"));
    let loads: Vec<_> = loading.iter().filter(|c| matches!(c, Call::Load(..))).collect();
    let code = &target.variant(best()).expect("the artifact has every variant").kernels;
    assert_eq!(
        loads,
        [&Call::Load(best().into(), code.clone())],
        "code as it lies in the artifact"
    );
    assert_eq!(loading.iter().filter(|c| **c == Call::Record).count(), 3, "once each entry");
    let golden = runs("tiny-moe").remove(0);
    logits(&mut model, &[&golden.tokens[..70], &golden.tokens[..5]], None);
    logits(&mut model, &[&golden.tokens[..3]], Some(1));
    let running = calls.lock().expect("written by this thread");
    assert!(!running.is_empty() && running.iter().all(|c| *c == Call::Run), "{running:?}");
}

/// "Compiling takes longer the deeper the model is."
#[test]
fn a_model_of_twice_the_layers_has_the_same_code() {
    let text =
        std::fs::read_to_string(folder().join("configs/Qwen3.5-0.8B.json")).expect("a config");
    let code = |layers: u32| {
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        config["text_config"]["num_hidden_layers"] = layers.into();
        let kinds =
            (1..=layers).map(|n| if n % 4 == 0 { "full_attention" } else { "linear_attention" });
        config["text_config"]["layer_types"] = kinds.map(Value::from).collect();
        let artifact = Build::DEFAULT.compile(&config.to_string());
        artifact.targets.into_iter().map(|t| (t.plan.kernels, t.variants)).collect::<Vec<_>>()
    };
    assert_eq!(code(24), code(48));
}

/// "SIGILL: compiled for another machine's processor."
#[test]
fn an_artifact_without_code_for_this_machine_is_refused_by_name() {
    let mut artifact = Build::DEFAULT.artifact("dense-tied-odd");
    let have: Vec<_> = artifact.targets[0].variants.iter().map(|v| v.name.clone()).collect();
    for variant in ["sse2", "avx2", "native", "aarch64"] {
        assert!(have.iter().any(|v| v == variant), "{variant}: wherever it was compiled");
    }
    artifact.targets[0].variants.retain(|v| v.name != best());
    let weights = checkpoint("dense-tied-odd");
    let Err(error) = Model::load_on(cpu(best(), 1), &artifact, &weights, LoadOptions::default())
    else {
        panic!("code that is not there was run");
    };
    let expected = format!("expected one of `{}`", best());
    assert!(error.to_string().contains(&expected), "{error}");
}

/// As above, on a machine that lacks the instructions: qemu plays a processor without AVX, which
/// ends a program that uses them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn a_machine_without_avx_runs_sse2_and_refuses_avx2() {
    if let Err(why) = Command::new("qemu-x86_64").arg("--version").output() {
        let required = std::env::var("Q35_REQUIRE").is_ok_and(|list| list.contains("qemu"));
        assert!(!required, "`Q35_REQUIRE` names qemu, but: {why}");
        eprintln!("SKIPPED: no machine without AVX is tried, as qemu-x86_64 is missing ({why})");
        return;
    }
    let scratch = Scratch::new();
    let artifact = scratch.join("model.bin");
    Build::DEFAULT.artifact("dense-tied-odd").write_file(&artifact).expect("a temporary file");
    let logits = |mut command: Command, out: &Path| {
        command.arg("logits").arg(&artifact).arg("--weights").arg(checkpoint("dense-tied-odd"));
        command.args(["--threads", "1", "--tokens", "1,2,3,4,5"]).arg("-o").arg(out);
        command
    };
    let old = || {
        let mut command = Command::new("qemu-x86_64");
        command.args(["-cpu", "Nehalem"]).arg(q35().get_program()).env_remove("Q35_CPU");
        command
    };
    let [there, here] = ["there", "here"].map(|name| scratch.join(name));
    let told = outcome(old().arg("devices")).text();
    assert!(told.contains("variants sse2\n"), "{told}");
    outcome(&mut logits(old(), &there)).text();
    outcome(logits(q35(), &here).env("Q35_CPU", "sse2")).text();
    let read = |path| std::fs::read(path).expect("logits were written");
    assert_eq!(read(&there), read(&here));
    for variant in ["avx2", "native"] {
        let mut command = logits(old(), &scratch.join("none"));
        let says = [&format!("`Q35_CPU` is `{variant}`"), "lacks AVX2", "`sse2`"];
        outcome(command.env("Q35_CPU", variant)).refused(&says);
    }
}

#[test]
fn an_unknown_choice_of_code_is_refused_with_the_choices() {
    let scratch = Scratch::new();
    let artifact = scratch.join("model.bin");
    Build::DEFAULT.artifact("dense-tied-odd").write_file(&artifact).expect("a temporary file");
    let mut command = q35();
    command.arg("bench").arg(&artifact).arg("--random-weights").env("Q35_CPU", "avx9000");
    let mut says = vec!["`Q35_CPU` is `avx9000`", "expected one of"];
    says.extend(variants());
    outcome(&mut command).refused(&says);
}

/// "`A_log` must stay float32", "the state is kept in bf16".
#[test]
fn decay_and_state_are_float32_when_all_else_is_16_bit() {
    for name in checkpoints() {
        let text =
            std::fs::read_to_string(checkpoint(&name).join("config.json")).expect("a config");
        let config: Value = serde_json::from_str(&text).expect("JSON");
        let config = config.get("text_config").unwrap_or(&config);
        let number = |key: &str| config[key].as_u64().expect(key);
        let [nk, nv] = ["key", "value"].map(|k| number(&format!("linear_num_{k}_heads")));
        let [dk, dv] = ["key", "value"].map(|k| number(&format!("linear_{k}_head_dim")));
        let taps = number("linear_conv_kernel_dim");
        let artifact = Build::SIXTEEN.artifact(&name);
        let states = &artifact.targets[0].plan.states;
        let mut slots: Vec<u64> =
            states.iter().filter(|s| s.unit == Unit::Slot).map(|s| s.unit_bytes).collect();
        slots.sort_unstable();
        let mut expected = vec![nv * dk * dv * 4, (2 * nk * dk + nv * dv) * taps * 4];
        expected.sort_unstable();
        // Rows may be padded, but not to twice their length.
        let whole = slots.iter().zip(&expected).all(|(found, bytes)| found >= bytes);
        assert!(whole && slots.len() == 2, "{name}: {slots:?}, expected {expected:?}");
        let weights = &artifact.manifest.weights;
        for end in ["linear_attn.A_log", "linear_attn.dt_bias"] {
            let mut found = weights.iter().filter(|w| w.name.ends_with(end)).peekable();
            assert!(found.peek().is_some(), "{name}: {end}");
            assert!(found.all(|w| w.dtype == DType::F32), "{name}: {end}");
        }
    }
}

/// "Value heads in the wrong order: silently wrong." They are grouped by key head (spec 8.3).
#[test]
fn value_heads_are_grouped_at_every_ratio_to_key_heads() {
    let mut ratios = vec![];
    for name in checkpoints() {
        let text =
            std::fs::read_to_string(checkpoint(&name).join("config.json")).expect("a config");
        let config: Value = serde_json::from_str(&text).expect("JSON");
        let config = config.get("text_config").unwrap_or(&config);
        let heads =
            |kind: &str| config[format!("linear_num_{kind}_heads")].as_u64().expect("heads");
        let (nk, nv) = (heads("key"), heads("value"));
        // With one key head any order is the same.
        if nk > 1 && nv > nk {
            ratios.push(nv / nk);
            let golden = runs(&name).remove(0);
            let mut model = Build::FLOAT32.model(&name, best(), 2);
            for chunk in [None, Some(1)] {
                let found = logits(&mut model, &[&golden.tokens], chunk).remove(0);
                golden.assert_float32(&found, &format!("{nv} value heads to {nk} key heads"));
            }
        }
    }
    ratios.sort_unstable();
    ratios.dedup();
    assert_eq!(ratios, [2, 3, 4]);
}

/// "Templates that a community had to fix." Both published ones, as they are.
#[test]
fn published_chat_templates_work_as_they_are() {
    let recorded =
        std::fs::read(folder().join("templates/rendered.json")).expect("recorded prompts");
    let cases: Vec<Value> = serde_json::from_slice(&recorded).expect("JSON");
    for (file, thinks) in [("chat_template.jinja", true), ("chat_template_nothink.jinja", false)] {
        let scratch = Scratch::new();
        let text = std::fs::read(folder().join("templates").join(file)).expect("a template");
        scratch.file("chat_template.jinja", text);
        let template = ChatTemplate::load(scratch.path()).expect("a published template");
        let of_file = cases.iter().filter(|c| c["template"] == file && c["prompt"].is_string());
        let mut count = 0;
        for case in of_file {
            let prompt = template.render(&chat(case)).expect("a recorded conversation");
            assert_eq!(prompt, case["prompt"].as_str().expect("text"), "{}", case["name"]);
            count += 1;
        }
        assert!(count > 20, "{file}: {count} conversations");
        for (wish, thinking) in [(None, thinks), (Some(true), true), (Some(false), false)] {
            let mut chat = ChatRequest::default().message("user", "hi");
            chat.enable_thinking = wish;
            let prompt = template.render(&chat).expect("a conversation");
            let end = if thinking { "<think>\n" } else { "<think>\n\n</think>\n\n" };
            assert!(prompt.ends_with(&format!("assistant\n{end}")), "{file}, {wish:?}: {prompt}");
        }
    }
}

/// A recorded conversation.
fn chat(case: &Value) -> ChatRequest {
    let list = |key: &str| case[key].as_array().cloned().unwrap_or_default();
    ChatRequest {
        messages: list("messages"),
        tools: list("tools"),
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap_or(true),
        enable_thinking: case["enable_thinking"].as_bool(),
        add_vision_id: case["add_vision_id"].as_bool().unwrap_or(false),
    }
}

fn recorded_chats() -> Vec<Value> {
    let file = checkpoint("tiny-moe").join("golden/chats.json");
    serde_json::from_slice(&std::fs::read(file).expect("recorded chats")).expect("JSON")
}

/// Every recorded chat, tool calls and answers of tools included: the prompt is the recorded one, and
/// so are the tokens of the answer.
#[test]
fn chats_are_answered_as_transformers_answers_them() {
    let template = ChatTemplate::load(&checkpoint("tiny-moe")).expect("the golden template");
    let mut engine =
        engine(Build { max_chunk: 128, ..Build::DEFAULT }.model("tiny-moe", best(), 2));
    let chats = recorded_chats();
    assert!(chats.len() >= 4 && chats.iter().any(|c| c["name"] == "tool_answer"));
    let mut expected = Answers::new();
    for case in &chats {
        let ids = |key: &str| -> Vec<u32> {
            serde_json::from_value(case[key].clone()).expect("a list of ids")
        };
        let tokenizer = engine.tokenizer().expect("it has one");
        let prompt = template.render(&chat(case)).expect("a recorded conversation");
        assert_eq!(prompt, case["prompt"].as_str().expect("text"));
        let prompt = tokenizer.encode(&prompt).expect("text");
        assert_eq!(prompt, ids("ids"), "{}", case["name"]);
        let request = Request {
            prompt,
            sampling: SamplingParams::greedy(),
            max_tokens: Some(100),
            stop_ids: vec![2037],
            ..Request::default()
        };
        let text = case["answer"].as_str().expect("text").strip_suffix("<|im_end|>");
        let id = engine.submit(request).expect("a request");
        expected.insert(id, (ids("answer_ids"), text.expect("the end of a turn").into()));
    }
    let mut answers = Answers::new();
    finish(&mut engine, &mut answers);
    assert_eq!(answers, expected);
}

/// The same through the program, as far as its options can give a conversation: thinking on by
/// default, and off.
#[test]
fn the_program_answers_with_and_without_thinking() {
    let scratch = Scratch::new();
    let artifact = scratch.join("model.bin");
    Build::DEFAULT.artifact("tiny-moe").write_file(&artifact).expect("a temporary file");
    let mut thoughts = vec![];
    for case in recorded_chats() {
        let messages = case["messages"].as_array().expect("a list");
        if case.get("tools").is_some() || messages.len() > 1 {
            continue;
        }
        let mut command = q35();
        command.arg("run").arg(&artifact).arg("--weights").arg(checkpoint("tiny-moe"));
        command.arg("--greedy").arg("--chat").arg(messages[0]["content"].as_str().expect("text"));
        let thinks = case["enable_thinking"].as_bool().expect("recorded with a choice");
        if !thinks {
            command.arg("--no-think");
        }
        thoughts.push(thinks);
        let answer = case["answer"].as_str().expect("text").strip_suffix("<|im_end|>");
        assert_eq!(outcome(&mut command).text(), answer.expect("the end of a turn"));
    }
    thoughts.sort_unstable();
    thoughts.dedup();
    assert_eq!(thoughts, [false, true]);
}

/// Rows of the head without a token are never chosen, be their logits ever so large.
#[test]
fn padded_rows_of_the_vocabulary_are_never_sampled() {
    const PADDED: usize = 2112;
    let scratch = Scratch::new();
    let weights = scratch.checkpoint("weights", "tiny-moe");
    let config = weights.join("config.json");
    let text = std::fs::read_to_string(&config).expect("a config");
    let text = text.replace("\"vocab_size\": 2048", &format!("\"vocab_size\": {PADDED}"));
    std::fs::write(&config, &text).expect("a temporary file");
    // The new rows of the head are those of likely tokens, a hundred times as long, either way.
    let file = weights.join("model.safetensors");
    let mut tensors = Tensors::read(&file);
    for end in ["embed_tokens.weight", "lm_head.weight"] {
        let tensor = tensors.find(end);
        let (rows, row) = (tensor.shape[0], tensor.data.len() / tensor.shape[0]);
        for n in rows..PADDED {
            let factor = if n % 2 == 0 { 100.0 } else { -100.0 };
            let from = tensor.data[(n - rows) * row..][..row].to_vec();
            let values =
                from.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32());
            let grown = values.flat_map(|v| half::bf16::from_f32(v * factor).to_le_bytes());
            tensor.data.extend(grown.collect::<Vec<_>>());
        }
        tensor.shape[0] = PADDED;
    }
    tensors.write(&file);
    let artifact = Build::DEFAULT.compile(&text);
    let load = || {
        let device = cpu(best(), 2);
        Model::load_on(device, &artifact, &weights, LoadOptions::default()).expect("it loads")
    };
    // The temptation is there: raw logits have the padding, and it is largest.
    let prompt = &runs("tiny-moe").remove(0).tokens[..40];
    let raw = logits(&mut load(), &[prompt], None).remove(0);
    for row in raw.chunks_exact(PADDED) {
        let most = |v: &[f32]| v.iter().copied().fold(f32::MIN, f32::max);
        assert!(most(&row[2048..]) > most(&row[..2048]));
    }
    let mut engine = engine(load());
    let tries = [
        SamplingParams::greedy(),
        SamplingParams { temperature: 5.0, seed: Some(1), ..SamplingParams::default() },
        SamplingParams { top_k: 3, seed: Some(2), ..SamplingParams::default() },
        SamplingParams { top_p: 0.5, min_p: 0.1, seed: Some(3), ..SamplingParams::default() },
        SamplingParams { repetition_penalty: 2.0, ..SamplingParams::greedy() },
    ];
    for sampling in tries {
        let max_tokens = Some(60);
        let prompt = prompt.to_vec();
        let request = Request { prompt, sampling, max_tokens, ..Request::default() };
        engine.submit(request).expect("a request");
    }
    let mut answers = Answers::new();
    finish(&mut engine, &mut answers);
    for (ids, _) in answers.values() {
        assert!(ids.len() == 60 && ids.iter().all(|&id| id < 2048), "{ids:?}");
    }
    // And greedy text is that of the model without padding.
    let golden = &runs("tiny-moe").remove(0);
    let mut plain = self::engine(Build::DEFAULT.model("tiny-moe", best(), 2));
    let sampling = SamplingParams::greedy();
    let prompt = golden.tokens[..40].to_vec();
    plain
        .submit(Request { prompt, sampling, max_tokens: Some(60), ..Request::default() })
        .expect("fits");
    let mut expected = Answers::new();
    finish(&mut plain, &mut expected);
    assert_eq!(answers.values().next(), expected.values().next());
}
