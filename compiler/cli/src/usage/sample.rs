use q35_artifact::*;
use q35_types::pack::Transform;
use q35_types::{Count, DType, Layout, StepLayout};

/// A mixture of experts: a layer of each kind, a slot of 1000 bytes, 100 bytes of keys and values a
/// token.
pub fn artifact() -> Artifact {
    let plan = plan();
    let variant = |name: &str| Variant {
        name: name.into(),
        extension: "o".into(),
        kernels: plan
            .kernels
            .iter()
            .map(|k| (k.name.clone(), k.name.clone().into_bytes()))
            .collect(),
    };
    let variants = vec![variant("plain"), variant("wide")];
    let artifact = Artifact {
        config: "{}".into(),
        model: model(),
        graphs: vec![("decode".into(), "%0: i32[T] = input\n".into())],
        manifest: manifest(),
        targets: vec![TargetSection {
            name: "cpu".into(),
            activations: DType::F32,
            plan,
            variants,
        }],
    };
    artifact.check().expect("a sound sample");
    artifact
}

fn model() -> ModelFacts {
    ModelFacts {
        model_type: "qwen3_5_moe".into(),
        layers: vec![LayerKind::LinearAttention, LayerKind::FullAttention],
        hidden_size: 10,
        vocab_size: 100,
        context: 2000,
        experts: Some(Experts { count: 4, chosen: 1 }),
        dtype: DType::Bf16,
        tied: false,
        eos: vec![99],
        parameters: Parameters { text: 1_234_567, vision: 1000, mtp: 100, active: 7654 },
        kv: DType::Bf16,
        max_batch: 8,
        max_chunk: 64,
        max_context: 1000,
    }
}

fn manifest() -> Manifest {
    let weight = |name: &str, rows, layers: &[u32]| Weight {
        name: name.into(),
        rows,
        cols: 10,
        dtype: DType::Bf16,
        layout: Layout::Rows,
        layers: layers.into(),
        experts: None,
        recipes: vec![vec![Part::Rows {
            tensor: name.into(),
            shape: vec![rows.into(), 10],
            first: 0,
            per_expert: 0,
            rows,
            transform: Transform::None,
        }]],
    };
    let mut mixed = Weight { dtype: DType::F32, ..weight("{layer}.in_proj.weight", 30, &[0]) };
    mixed.rows = 32;
    mixed.recipes[0].push(Part::Zeros { rows: 2 });
    Manifest {
        weights: vec![
            weight("embed_tokens.weight", 100, &[]),
            mixed,
            Weight { experts: Some(4), ..weight("{layer}.{expert}.weight", 8, &[0, 1]) },
            Weight { layout: Layout::Panels, ..weight("lm_head.weight", 100, &[]) },
        ],
        ignored: vec![],
    }
}

fn amount(set: impl FnOnce(&mut Amount)) -> Amount {
    let mut amount = Amount::default();
    set(&mut amount);
    amount
}

fn plan() -> Plan {
    let param = |name: &str, dtype, write, table| Param { name: name.into(), dtype, write, table };
    let weight = |dtype, table| param("w", dtype, false, table);
    let state = |write| param("state", DType::F32, write, false);
    let x = param("x", DType::F32, true, false);
    let kernel = |name: &str, params: &[Param]| Kernel {
        name: name.into(),
        shared_bytes: 0,
        params: params.into(),
    };
    let kernels = vec![
        kernel("embed", &[weight(DType::Bf16, false), x.clone()]),
        kernel("delta", &[weight(DType::F32, false), state(true)]),
        kernel("append", &[state(true)]),
        kernel("attend", &[state(false), x.clone()]),
        kernel("experts", &[weight(DType::Bf16, true), x.clone()]),
        kernel("head", &[weight(DType::Bf16, false), x]),
    ];

    let launch = |kernel, args: &[Arg], cost| Launch {
        kernel,
        tasks: Tasks { each: 1, times: Times::Step(Count::Tokens) },
        args: args.into(),
        cost,
    };
    let arena = Arg::Arena { offset: 0, bytes: 2560 };
    let embed = Cost {
        weights: amount(|a| a.per_token = 20.0),
        activations_written: amount(|a| a.per_token = 40.0),
        ..Cost::default()
    };
    let delta = Cost {
        weights: amount(|a| a.once = 1280.0),
        state: amount(|a| a.per_seq = 2000.0),
        activations_read: amount(|a| a.per_token = 40.0),
        flops: amount(|a| a.per_token = 640.0),
        ..Cost::default()
    };
    let append = Cost { state: amount(|a| a.per_token = 100.0), ..Cost::default() };
    let attend = Cost {
        state: amount(|a| a.per_context = 100.0),
        flops: amount(|a| a.per_context = 40.0),
        ..Cost::default()
    };
    let experts = Cost {
        weights: amount(|a| a.per_expert = 160.0),
        flops: amount(|a| a.per_token = 160.0),
        ..Cost::default()
    };
    let head = Cost {
        weights: amount(|a| a.once = 2000.0),
        flops: amount(|a| a.per_row = 2000.0),
        ..Cost::default()
    };
    let block =
        |name: &str, launches: &[Launch]| Block { name: name.into(), launches: launches.into() };
    let experts = launch(4, &[Arg::Weight(2), arena], experts);
    let blocks = [
        block("embed", &[launch(0, &[Arg::Weight(0), arena], embed)]),
        block("linear", &[launch(1, &[Arg::Weight(1), Arg::State(0)], delta), experts.clone()]),
        block(
            "full",
            &[
                launch(2, &[Arg::State(1)], append),
                launch(3, &[Arg::State(1), arena], attend),
                experts,
            ],
        ),
    ];
    let entry = |name: &str, max_tokens| Entry {
        name: name.into(),
        max_tokens,
        blocks: blocks.to_vec(),
        sequence: vec![(0, None), (1, Some(0)), (2, Some(1))],
    };
    let logits = Entry {
        name: "head".into(),
        max_tokens: 64,
        blocks: vec![block("head", &[launch(5, &[Arg::Weight(3), Arg::Buffer(0)], head)])],
        sequence: vec![(0, None)],
    };
    let state = |name: &str, unit, unit_bytes, layer| State {
        name: name.into(),
        unit,
        unit_bytes,
        ring: false,
        layers: vec![layer],
    };
    Plan {
        step: StepLayout { max_tokens: 64, max_seqs: 8, max_pages: 16 },
        max_context: 1000,
        vocab: 100,
        kernels,
        arena_bytes: 2560,
        buffers: vec![Buffer { name: LOGITS.into(), bytes: 3200 }],
        states: vec![state("delta", Unit::Slot, 1000, 0), state("kv", Unit::Page, 6400, 1)],
        entries: vec![entry("prefill", 64), entry("decode", 8), logits],
    }
}
