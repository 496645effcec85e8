use super::*;
use crate::usage::sample;
use serde_json::Value;

/// Without an assembler.
fn explain(artifact: &Artifact, options: Options<'_>) -> Result<Report, ExplainError> {
    super::explain(artifact, options, &Err(PtxasError::None))
}

fn steps(options: Options<'_>) -> Vec<Step> {
    explain(&sample::artifact(), options).expect("the sample has it").steps
}

fn decode(batch: u32, depth: u32) -> Step {
    let options =
        Options { batch: Some(batch), depth: Some(depth), target: Some("cpu"), gpu: None };
    steps(options).pop().expect("decode comes last")
}

fn row<'a>(step: &'a Step, name: &str) -> &'a KernelRow {
    step.kernels.iter().find(|k| k.name == name).expect("a kernel of the sample")
}

#[test]
fn the_steps_are_a_full_chunk_and_decode_of_one_and_of_all_that_fit() {
    let steps = steps(Options::default());
    let of: Vec<_> = steps.iter().map(|s| (s.entry, s.tokens, s.sequences, s.depth)).collect();
    // 4096 tokens do not fit into the sample's context of 1000.
    assert_eq!(of, [("prefill", 64, 1, 936), ("decode", 1, 1, 999), ("decode", 8, 8, 999)]);
}

#[test]
fn kernels_of_a_decode_step_add_up() {
    let step = decode(1, 9);
    assert_eq!(step.kernels.iter().map(|k| k.launches).sum::<u64>(), 7);
    assert_eq!(row(&step, "experts").launches, 2);
    // One of four experts: a token's choice. The step's own token is attended to.
    assert_eq!(row(&step, "experts").moved.weights, 2.0 * 160.0);
    assert_eq!(row(&step, "attend").moved.state_read, 10.0 * 100.0);
    assert_eq!(step.total.weights, 20.0 + 1280.0 + 320.0 + 2000.0);
    assert_eq!(step.total.flops, 640.0 + 400.0 + 320.0 + 2000.0);
    assert_eq!(step.total.activations(), 40.0 + 40.0);
    assert_eq!(step.share_of, ShareOf::Bytes);
    assert_eq!(row(&step, "head").share, 2000.0 / step.total.bytes());
    let sum: f64 = step.kernels.iter().map(|k| k.share).sum();
    assert!((sum - 1.0).abs() < 1e-12);
    assert!(step.kernels.is_sorted_by(|a, b| a.share >= b.share));
}

#[test]
fn slots_are_read_and_written_and_pages_either() {
    let step = decode(1, 9);
    let state = |name| (row(&step, name).moved.state_read, row(&step, name).moved.state_written);
    assert_eq!(state("delta"), (1000.0, 1000.0));
    assert_eq!(state("append"), (0.0, 100.0));
    assert_eq!(state("attend"), (1000.0, 0.0));
    assert_eq!(step.total.read() + step.total.written(), step.total.bytes());
}

#[test]
fn the_least_is_known_without_the_launches() {
    let mut artifact = sample::artifact();
    for entry in &mut artifact.targets[0].plan.entries {
        let launches = entry.blocks.iter_mut().flat_map(|b| &mut b.launches);
        launches.for_each(|l| l.cost = Cost::default());
    }
    let options = Options { batch: Some(1), depth: Some(9), ..Options::default() };
    let step = explain(&artifact, options).expect("there").steps.pop().expect("decode");
    assert_eq!(step.total, Moved::default());
    // One row of the embedding, no rows of zeros, one of four experts in each of two layers.
    assert_eq!(step.least.weights, 20.0 + 30.0 * 40.0 + 2.0 * 160.0 + 2000.0);
    assert_eq!(step.least.state, 2.0 * 1000.0);
    assert_eq!(step.least.kv, 9.0 * 100.0 + 100.0);
}

#[test]
fn an_embedding_that_is_the_head_is_read_whole_and_once() {
    let mut artifact = sample::artifact();
    artifact.targets[0].plan.entries[2].blocks[0].launches[0].args[0] = Arg::Weight(0);
    artifact.check().expect("sound");
    let step = explain(&artifact, Options::default()).expect("there").steps.remove(1);
    assert_eq!(step.least.weights, 30.0 * 40.0 + 2.0 * 160.0 + 2000.0);
}

#[test]
fn a_batch_shares_weights_but_not_state() {
    let (one, eight) = (decode(1, 9), decode(8, 9));
    assert_eq!(eight.least.state, 8.0 * one.least.state);
    assert_eq!(eight.least.kv, 8.0 * one.least.kv);
    // Eight tokens choose 4 (1 - (3/4)^8) of four experts.
    let experts = 4.0 * (1.0 - 0.75f64.powi(8));
    assert!((eight.experts.expect("a mixture") - experts).abs() < 1e-12);
    assert!((eight.least.weights - (160.0 + 1200.0 + 320.0 * experts + 2000.0)).abs() < 1e-9);
    assert_eq!(row(&eight, "delta").moved.weights, row(&one, "delta").moved.weights);
}

#[test]
fn a_chunk_attends_to_what_came_before_and_to_itself() {
    let options = Options { depth: Some(100), ..Options::default() };
    let step = steps(options).remove(0);
    let pairs = 64.0 * 100.0 + 64.0 * 65.0 / 2.0;
    assert_eq!(row(&step, "attend").moved.flops, 40.0 * pairs);
    assert_eq!(step.least.kv, 100.0 * 100.0 + 64.0 * 100.0);
    assert_eq!(step.share_of, ShareOf::Flops);
    assert_eq!(row(&step, "attend").share, 40.0 * pairs / step.total.flops);
}

#[test]
fn what_the_artifact_does_not_have_is_refused() {
    let said = |options| explain(&sample::artifact(), options).expect_err("not there").to_string();
    assert_eq!(
        said(Options { target: Some("ptx"), ..Options::default() }),
        "artifact has no code for `ptx`, expected one of: cpu"
    );
    assert_eq!(
        said(Options { batch: Some(9), ..Options::default() }),
        "batch is 9, expected 1 to 8"
    );
    assert_eq!(
        said(Options { batch: Some(0), ..Options::default() }),
        "batch is 0, expected 1 to 8"
    );
    assert_eq!(
        said(Options { depth: Some(1000), ..Options::default() }),
        "depth is 1000, expected 0 to 999"
    );
}

#[test]
fn people_see_a_table() {
    let artifact = sample::artifact();
    let options = Options { batch: Some(1), depth: Some(9), ..Options::default() };
    let text = text(&explain(&artifact, options).expect("there"));
    let decode = text.split_once("decode and head").expect("a decode step").1;
    assert_eq!(
        decode,
        "\
: 1 token of 1 sequence, each after 9 tokens, 1.0 experts a layer expected
  kernel    launches   weights     state  activations      read   written   flops  of bytes
  delta            1  1.25 KiB  1.95 KiB         40 B  2.27 KiB    1000 B     640    48.8 %
  head             1  1.95 KiB         -            -  1.95 KiB         -  2.00 K    29.4 %
  attend           1         -    1000 B            -    1000 B         -     400    14.7 %
  experts          2     320 B         -            -     320 B         -     320     4.7 %
  append           1         -     100 B            -         -     100 B       -     1.5 %
  embed            1      20 B         -         40 B      20 B      40 B       -     0.9 %
  together         7  3.54 KiB  3.03 KiB         80 B  5.53 KiB  1.11 KiB  3.36 K   100.0 %

  per token                  moved  least possible
  weights                 3.54 KiB        3.46 KiB  1.02 x
  state, keys and values  3.03 KiB        2.93 KiB  1.03 x
  together                6.56 KiB        6.39 KiB  1.03 x
  besides: 40 B of activations read and 40 B written per token, and 3.36 K flops

7 launches of decode and head for cpu
  block   layers  launches a layer
  embed        -                 1
  linear       1                 2
  full         1                 3
  head         -                 1
"
    );
}

#[test]
fn launches_are_counted_by_kind_of_layer() {
    let mut artifact = sample::artifact();
    let decode = &mut artifact.targets[0].plan.entries[1];
    decode.sequence = vec![(0, None), (1, Some(0)), (1, Some(2)), (2, Some(1)), (1, Some(3))];
    let launches = explain(&artifact, Options::default()).expect("there").launches.remove(0);
    let rows: Vec<_> =
        launches.blocks.iter().map(|b| (b.name.as_str(), b.layers, b.launches)).collect();
    let expected =
        [("embed", None, 1), ("linear", Some(3), 2), ("full", Some(1), 3), ("head", None, 1)];
    assert_eq!(rows, expected);
    assert_eq!(launches.total(), 1 + 3 * 2 + 3 + 1);
}

#[test]
fn launches_are_those_of_the_target_asked_for_or_of_all() {
    let mut artifact = sample::artifact();
    let mut other = artifact.targets[0].clone();
    other.name = "gpu".into();
    other.plan.entries[1].blocks[2].launches.pop();
    artifact.targets.push(other);
    let totals = |target| {
        let options = Options { target, ..Options::default() };
        let launches = explain(&artifact, options).expect("there").launches;
        launches.iter().map(|l| (l.target.clone(), l.total())).collect::<Vec<_>>()
    };
    assert_eq!(totals(None), [("cpu".into(), 7), ("gpu".into(), 6)]);
    assert_eq!(totals(Some("gpu")), [("gpu".into(), 6)]);
}

#[test]
fn programs_see_stable_keys() {
    let artifact = sample::artifact();
    let options = Options { batch: Some(8), depth: Some(9), ..Options::default() };
    let value = json(&explain(&artifact, options).expect("there"));
    let decode = &value["steps"][1];
    assert_eq!(decode["entry"], "decode");
    assert_eq!(
        decode["per_token"]["weights"].as_f64(),
        decode["total"]["weights"].as_f64().map(|n| n / 8.0)
    );
    assert_eq!(decode["least_per_token"]["state"], 2000.0);
    assert_eq!(decode["kernels"].as_array().map(Vec::len), Some(6));
    let keys = |v: &Value| v.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>().join(" "));
    assert_eq!(
        keys(decode).as_deref(),
        Some(
            "entry tokens sequences depth distinct_experts launches share_of kernels total \
             per_token least_per_token weights_and_state_over_least prediction"
        )
    );
    let launches = &value["decode_launches"][0];
    assert_eq!(keys(launches).as_deref(), Some("target launches blocks"));
    assert_eq!(keys(&launches["blocks"][0]).as_deref(), Some("block layers launches_per_layer"));
    assert_eq!(launches["blocks"][1]["layers"], 1);
    assert_eq!(launches["blocks"][0]["layers"], Value::Null);
    assert_eq!(
        keys(&decode["kernels"][0]).as_deref(),
        Some(
            "name launches share weights state_read state_written activations_read \
             activations_written read written bytes flops"
        )
    );
}

/// The sample as if it were PTX for `sm_90`.
fn for_nvidia() -> Artifact {
    let mut artifact = sample::artifact();
    let section = &mut artifact.targets[0];
    section.name = "ptx".into();
    section.variants.truncate(1);
    section.variants[0].name = "sm_90".into();
    artifact
}

#[test]
fn a_gpu_must_be_known_and_run_the_code() {
    let said = |artifact: &Artifact, target, gpu| {
        let options = Options { target, gpu, ..Options::default() };
        explain(artifact, options).map(|report| report.target).map_err(|e| e.to_string())
    };
    let (cpu, ptx) = (sample::artifact(), for_nvidia());
    let refused = |text: &str| Err(text.to_string());
    assert_eq!(
        said(&ptx, None, Some("H300")),
        refused("gpu is `H300`, expected one of: A100, L40S, H100, H200, B200, RTX 4090, RTX 5090")
    );
    assert_eq!(
        said(&ptx, None, Some("a100")),
        refused("gpu is `A100` of compute capability 8.0, but `ptx:sm_90` needs at least 9.0")
    );
    assert_eq!(
        said(&cpu, None, Some("h100")),
        refused("gpu is `H100`, but `cpu` is no code for it, expected target `ptx`")
    );
    assert_eq!(
        said(&ptx, Some("ptx:sm_77"), None),
        refused("artifact has no code for `ptx:sm_77`, expected one of: ptx:sm_90")
    );
    assert_eq!(
        said(&cpu, Some("cpu:fast"), None),
        refused("artifact has no code for `cpu:fast`, expected one of: cpu:plain, cpu:wide")
    );
    for gpu in ["H100", "h200", "B200", "rtx5090"] {
        assert_eq!(said(&ptx, Some("ptx:sm_90"), Some(gpu)), Ok("ptx".into()), "{gpu}");
    }
    assert_eq!(said(&cpu, Some("cpu:wide"), None), Ok("cpu".into()));
}

/// A decode step of one token, 9 tokens before, on a GPU of round numbers.
fn predicted() -> Prediction {
    let artifact = for_nvidia();
    let step = decode(1, 9);
    let section = &artifact.targets[0];
    let entry = |name: &str| section.plan.entry(name).expect("it is there");
    let gpu = Gpu {
        name: "Round",
        capability: 90,
        sms: 4,
        bandwidth: 1000.0,
        matrix_flops: 200.0,
        flops: 100.0,
        source: "",
    };
    let workload = Workload { tokens: 1.0, seqs: 1.0, rows: 1.0, context: 10.0, experts: 1.0 };
    let scene = Scene {
        artifact: &artifact,
        plan: &section.plan,
        variant: &section.variants[0],
        entries: &[entry("decode"), entry("head")],
        workload,
        depth: 9,
    };
    predict::predict(&scene, &step.total, &step.least, gpu)
}

#[test]
fn a_launch_takes_the_longer_of_its_bytes_and_its_flops_on_its_share_of_the_gpu() {
    let prediction = predicted();
    let of = |name: &str| {
        let found = prediction.launches.iter().find(|l| l.kernel == name);
        found.unwrap_or_else(|| panic!("{name}"))
    };
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} is not {b}");
    // One task on one of four SMs gets a quarter: 230 bytes and 12.5 operations a second.
    near(of("embed").seconds, 60.0 / 230.0);
    assert_eq!((of("embed").bound, of("embed").work.bytes), (predict::Bound::Bytes, 60.0));
    // 640 operations take longer than 1280 bytes of weights and 2000 of state.
    near(of("delta").seconds, 640.0 / 12.5);
    assert_eq!(of("delta").bound, predict::Bound::Flops);
    // Of a page of 6400 bytes, ten tokens.
    assert_eq!(of("attend").work.bytes, 1000.0);
    assert_eq!((of("experts").launches, prediction.nodes), (2, 7));
    let busy = prediction.launches.iter().map(|l| l.launches as f64 * l.seconds).sum::<f64>();
    near(prediction.busy, busy);
}

#[test]
fn work_that_fills_a_gpu_gets_all_of_it() {
    let gpu = Gpu::named("H100").expect("it is listed");
    let work = predict::Work { tasks: 264.0, bytes: 3.35e6, flops: 0.0, matrix: false };
    // A microsecond at all of the bandwidth.
    let (seconds, bound) = work.on(gpu);
    assert!((seconds - 1e-6 / 0.92).abs() < 1e-12 && bound == predict::Bound::Bytes);
    // 33 tasks have a quarter of the SMs.
    let (few, _) = predict::Work { tasks: 33.0, ..work }.on(gpu);
    assert!((few - 4e-6 / 0.92).abs() < 1e-12);
    // A microsecond at the peak of either kind of unit, of which half is had.
    for (flops, matrix) in [(989e6, true), (67e6, false)] {
        let (seconds, bound) = predict::Work { flops, matrix, ..work }.on(gpu);
        assert!((seconds - 2e-6).abs() < 1e-12 && bound == predict::Bound::Flops);
    }
}

#[test]
fn a_step_waits_for_each_launch_of_the_longest_chain() {
    let mut prediction = predicted();
    (prediction.busy, prediction.chain) = (100e-6, 10);
    let seconds = predict::MANNERS.map(|m| (prediction.seconds(m) * 1e7).round() / 10.0);
    assert_eq!(seconds, [120.0, 107.0, 110.0]);
    assert_eq!(prediction.tokens_per_second(100e-6).round(), 10_000.0);
}

#[test]
fn what_tasks_read_again_is_not_from_memory() {
    let mut artifact = for_nvidia();
    let options =
        Options { batch: Some(1), depth: Some(9), gpu: Some("H100"), ..Options::default() };
    let of = |artifact: &Artifact, kernel: &str| {
        let step = explain(artifact, options).expect("there").steps.pop().expect("decode");
        let launches = step.prediction.expect("a GPU is named").launches;
        let found = launches.into_iter().find(|l| l.kernel == kernel);
        found.map(|l| (l.work.bytes, l.again)).expect("a kernel of the sample")
    };
    let (bytes, again) = of(&artifact, "head");
    assert_eq!(again, 0.0);
    // Weights that each of three tasks reads whole.
    let head = &mut artifact.targets[0].plan.entries[2].blocks[0].launches[0];
    head.cost.weights.once *= 3.0;
    let (more, again) = of(&artifact, "head");
    assert!(more >= bytes && more < 2.0 * bytes && again > bytes / 2.0, "{more} and {again}");
}

#[test]
fn without_an_assembler_all_else_is_said() {
    let options = Options { gpu: Some("H100"), ..Options::default() };
    let report = explain(&for_nvidia(), options).expect("there");
    let said = text(&report);
    let line =
        "registers and occupancy of ptx:sm_90 are not known: there is no `ptxas` in the path";
    assert_eq!(said.lines().filter(|l| l.contains("not known")).collect::<Vec<_>>(), [line]);
    for what in
        ["prediction for H100", "predicted for H100, not measured", "3350 GB/s", "data sheet"]
    {
        assert!(said.contains(what), "{what}: {said}");
    }
    let value = json(&report);
    assert_eq!(value["code"]["unknown"], "there is no `ptxas` in the path");
    assert_eq!(value["gpu"]["sms"], 132);
    let manners = value["steps"][0]["prediction"]["manners"].as_array().map(Vec::len);
    assert_eq!(manners, Some(3));
    // Of a CPU, nothing of this.
    let value = json(&explain(&sample::artifact(), Options::default()).expect("there"));
    assert_eq!((&value["code"], &value["gpu"]), (&Value::Null, &Value::Null));
}
