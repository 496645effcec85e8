//! The golden checkpoints through the reference evaluator: what the frontend writes down, and what
//! each pass makes of it, is the model that transformers computes.

use q35_core::frontend::build::programs;
use q35_core::{Config, Options, passes};
use q35_graph::{Entry, Program, verify_program};
use q35_interp::graph::{Checkpoint, Session};
use q35_types::DType;
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// A golden checkpoint.
struct Model {
    name: String,
    config: Config,
    files: Vec<Vec<u8>>,
    prompts: Vec<Prompt>,
}

/// A prompt, and the logits of each of its tokens in float32 and in transformers' own bfloat16 run.
struct Prompt {
    name: String,
    tokens: Vec<u32>,
    logits: Vec<f32>,
    logits_bf16: Vec<f32>,
}

fn models() -> Vec<Model> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/checkpoints");
    let folders = entries(&folder).into_iter().filter(|path| path.is_dir());
    let models: Vec<Model> = folders.map(|path| model(&path)).collect();
    assert!(models.len() >= 7, "the golden checkpoints");
    models
}

fn model(folder: &Path) -> Model {
    let text = std::fs::read_to_string(folder.join("config.json")).expect("config");
    let prompts = tensor_files(&folder.join("golden")).map(|path| {
        let bytes = std::fs::read(&path).expect("golden");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let words = |name, size| {
            let bytes = file.tensor(name).expect(name).data().to_vec();
            bytes.chunks_exact(size).map(<[u8]>::to_vec).collect::<Vec<_>>()
        };
        let token = |b: Vec<u8>| i64::from_le_bytes(b.try_into().expect("eight bytes")) as u32;
        let tokens = words("tokens", 8).into_iter().map(token).collect();
        let f32s = |name| words(name, 4).iter().map(|b| DType::F32.read_f32(b)).collect();
        let (logits, logits_bf16) = (f32s("logits_f32"), f32s("logits_bf16"));
        Prompt { name: name(&path), tokens, logits, logits_bf16 }
    });
    Model {
        name: name(folder),
        config: Config::parse(&text).expect("a config of the family").config,
        files: tensor_files(folder).map(|path| std::fs::read(path).expect("shard")).collect(),
        prompts: prompts.collect(),
    }
}

fn tensor_files(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let is_tensors = |path: &PathBuf| path.extension().is_some_and(|e| e == "safetensors");
    entries(folder).into_iter().filter(is_tensors)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("golden folder");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("entry").path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

const FLOAT32: Options = Options { activations: DType::F32, kv: DType::F32 };

/// Prefill, decode and head, as the frontend writes them.
fn written(model: &Model, options: Options) -> [Program; 3] {
    let programs: [Program; 3] =
        programs(&model.config, &options).try_into().expect("three entry points");
    assert_eq!([0, 1, 2].map(|i| programs[i].entry), [Entry::Prefill, Entry::Decode, Entry::Head]);
    for program in &programs {
        assert_eq!(verify_program(program), Ok(()), "{}", model.name);
    }
    programs
}

/// The same after all passes.
fn optimized(model: &Model, options: Options) -> [Program; 3] {
    let mut programs = written(model, options);
    for program in &mut programs {
        passes::run(program, |_, _| {}).expect("sound passes");
    }
    programs
}

/// The logits of a prompt, whose `portions` run one after another, each through its program.
fn logits(
    model: &Model,
    prompt: &Prompt,
    portions: &[(&Program, usize)],
    head: &Program,
) -> Vec<f32> {
    let files = model.files.iter().map(Vec::as_slice);
    let checkpoint = Checkpoint::new(files).expect("a checkpoint");
    let mut session = Session::new(&checkpoint);
    let mut logits = vec![];
    for &(program, tokens) in portions {
        let from = session.position() as usize;
        let hidden = session.step(program, &prompt.tokens[from..from + tokens]).expect("a step");
        let rows: Vec<u32> = (0..tokens as u32).collect();
        logits.extend_from_slice(session.logits(head, &hidden, &rows).expect("logits").f32s());
    }
    assert_eq!(session.position() as usize, prompt.tokens.len(), "the portions are the prompt");
    assert_eq!(logits.len(), prompt.logits.len());
    logits
}

/// Compare all logits with the golden.
///
/// The project's bound for float32 is 1e-3 of the logits' standard deviation. The evaluator rounds only where
/// the definition says so; what is left is mostly the rounding of the golden's own float32 run.
fn compare(
    model: &Model,
    prompt: &Prompt,
    what: &str,
    portions: &[(&Program, usize)],
    head: &Program,
) {
    let logits = logits(model, prompt, portions, head);
    let (_, largest) = errors(&logits, &prompt.logits);
    let error = largest / deviation(&prompt.logits);
    let case = format!("{} {} {what}: {error:.1e} of the deviation", model.name, prompt.name);
    println!("{case}");
    assert!(error < 2e-4, "{case}");
}

/// The root of the mean square, and the largest, of the differences.
fn errors(a: &[f32], b: &[f32]) -> (f64, f64) {
    let differences = || a.iter().zip(b).map(|(&x, &y)| (f64::from(x) - f64::from(y)).abs());
    assert!(differences().all(f64::is_finite));
    let squares: f64 = differences().map(|d| d * d).sum();
    ((squares / a.len() as f64).sqrt(), differences().fold(0.0, f64::max))
}

fn deviation(x: &[f32]) -> f64 {
    let n = x.len() as f64;
    let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    (x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt()
}

#[test]
fn what_the_frontend_writes_is_the_model() {
    for model in models() {
        let [prefill, _, head] = written(&model, FLOAT32);
        for prompt in &model.prompts {
            compare(&model, prompt, "as written", &[(&prefill, prompt.tokens.len())], &head);
        }
    }
}

#[test]
fn it_is_still_the_model_after_every_pass() {
    for model in models() {
        let [mut prefill, mut decode, mut head] = written(&model, FLOAT32);
        let prompt = model.prompts.iter().min_by_key(|p| p.tokens.len()).expect("a prompt");
        let tokens = prompt.tokens.len();
        let original = head.clone();
        for program in [&mut prefill, &mut decode] {
            let (entry, mut last) = (program.entry.name(), program.clone());
            let check = |pass: &str, now: &Program| {
                if *now != last {
                    let what = format!("{entry}, {pass}");
                    compare(&model, prompt, &what, &[(now, tokens)], &original);
                    last = now.clone();
                }
            };
            passes::run(program, check).expect("sound passes");
        }
        passes::run(&mut head, |_, _| {}).expect("sound passes");
        compare(&model, prompt, "head", &[(&prefill, tokens)], &head);
    }
}

#[test]
fn a_prompt_can_be_cut_and_continued_token_by_token() {
    for model in models() {
        let [prefill, decode, head] = optimized(&model, FLOAT32);
        for prompt in &model.prompts {
            let tokens = prompt.tokens.len();
            let (first, second) = (tokens / 3, tokens / 3 * 2 - tokens / 3);
            let mut portions = vec![(&prefill, first), (&prefill, second)];
            portions.resize(2 + tokens - first - second, (&decode, 1));
            compare(&model, prompt, "in portions", &portions, &head);
        }
    }
}

/// The project's bounds for bfloat16: the error is at most 1.25 times, its largest at most 2 times, that of
/// transformers' own bfloat16 run.
#[test]
fn in_bf16_it_loses_no_more_than_transformers_does() {
    let options = Options { activations: DType::Bf16, kv: DType::Bf16 };
    for model in models() {
        let [prefill, _, head] = optimized(&model, options);
        for prompt in &model.prompts {
            let logits = logits(&model, prompt, &[(&prefill, prompt.tokens.len())], &head);
            let ours = errors(&logits, &prompt.logits);
            let theirs = errors(&prompt.logits_bf16, &prompt.logits);
            let (rms, largest) = (ours.0 / theirs.0, ours.1 / theirs.1);
            let case = format!(
                "{} {}: rms {rms:.2}, largest {largest:.2} of theirs",
                model.name, prompt.name
            );
            println!("{case}");
            assert!(rms <= 1.25 && largest <= 2.0, "{case}");
        }
    }
}
