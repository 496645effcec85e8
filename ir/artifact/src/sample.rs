//! A small artifact with one of everything, for tests.

use crate::*;
use q35_types::pack::Transform;
use q35_types::{Count, DType, Layout, StepLayout};

pub(crate) fn artifact() -> Artifact {
    let code = |seed: u8| {
        let kernels = plan().kernels.into_iter().enumerate();
        let bytes = |i: usize| (0..60 + 5 * i).map(|b| b as u8 ^ seed).collect();
        kernels.map(|(i, k)| (k.name, bytes(i))).collect()
    };
    let variant = |name: &str, seed| Variant {
        name: name.into(),
        extension: "o".into(),
        kernels: code(seed),
    };
    Artifact {
        config: "{ \"model_type\": \"qwen3_5_moe\" }\n".into(),
        model: model(),
        graphs: vec![
            ("prefill".into(), "%0: i32[T] = input\n".into()),
            ("decode".into(), "%0: i32[T] = input\n".into()),
        ],
        manifest: manifest(),
        targets: vec![TargetSection {
            name: "cpu".into(),
            activations: DType::F32,
            plan: plan(),
            variants: vec![variant("sse2", 1), variant("avx2", 2)],
        }],
    }
}

fn model() -> ModelFacts {
    ModelFacts {
        model_type: "qwen3_5_moe".into(),
        layers: vec![LayerKind::LinearAttention, LayerKind::FullAttention],
        hidden_size: 8,
        vocab_size: 20,
        context: 1000,
        experts: Some(Experts { count: 4, chosen: 2 }),
        dtype: DType::Bf16,
        tied: true,
        eos: vec![19],
        parameters: Parameters { text: 1000, vision: 200, mtp: 30, active: 700 },
        kv: DType::Bf16,
        max_batch: 2,
        max_chunk: 64,
        max_context: 100,
    }
}

fn rows(tensor: &str, shape: &[u64], rows: u32) -> Part {
    Part::Rows {
        tensor: tensor.into(),
        shape: shape.into(),
        first: 0,
        per_expert: 0,
        rows,
        transform: Transform::None,
    }
}

fn manifest() -> Manifest {
    let weight = |name: &str, [rows, cols]: [u32; 2], recipes| Weight {
        name: name.into(),
        rows,
        cols,
        dtype: DType::Bf16,
        layout: Layout::Rows,
        layers: vec![],
        experts: None,
        recipes,
    };
    let fused = Part::Rows {
        tensor: "model.layers.{layer}.mlp.experts.down_proj".into(),
        shape: vec![4, 8, 4],
        first: 0,
        per_expert: 8,
        rows: 8,
        transform: Transform::None,
    };
    let apart = rows("model.layers.{layer}.mlp.experts.{expert}.down_proj.weight", &[8, 4], 8);
    let embed = rows("model.embed_tokens.weight", &[20, 8], 20);
    let mix = rows("model.layers.{layer}.in_proj.weight", &[16, 8], 16);
    let bits = [1.0f32, 0.1, 0.01, 0.001].map(f32::to_bits).to_vec();
    Manifest {
        weights: vec![
            weight("model.embed_tokens.weight", [20, 8], vec![vec![embed]]),
            Weight {
                layout: Layout::Panels,
                layers: vec![0, 1],
                ..weight("layers.{layer}.mix", [24, 8], vec![vec![mix, Part::Zeros { rows: 8 }]])
            },
            Weight {
                layers: vec![0, 1],
                experts: Some(4),
                ..weight("layers.{layer}.experts", [8, 4], vec![vec![fused], vec![apart]])
            },
            Weight {
                dtype: DType::F32,
                ..weight("rope", [1, 4], vec![vec![Part::Values { bits }]])
            },
        ],
        ignored: vec!["mtp.".into()],
    }
}

fn param(name: &str, dtype: DType) -> Param {
    Param { name: name.into(), dtype, write: false, table: false }
}

fn out(name: &str, dtype: DType) -> Param {
    Param { write: true, ..param(name, dtype) }
}

fn plan() -> Plan {
    let kernel =
        |name: &str, params: Vec<Param>| Kernel { name: name.into(), shared_bytes: 0, params };
    let (f32, bf16, i32) = (DType::F32, DType::Bf16, DType::I32);
    let table = Param { table: true, ..param("w", bf16) };
    let kernels = vec![
        kernel("embed", vec![param("step", i32), param("w", bf16), out("x", f32)]),
        kernel("mix", vec![param("w", bf16), out("x", f32), out("state", f32), out("n", i32)]),
        kernel("experts", vec![param("n", i32), table, out("x", f32)]),
        kernel(
            "head",
            vec![param("x", f32), param("w", bf16), param("rope", f32), out("logits", f32)],
        ),
    ];
    let x = Arg::Arena { offset: 0, bytes: 64 * 8 * 4 };
    let n = Arg::Arena { offset: 2048, bytes: 64 };
    let launch = |kernel, times, args: &[Arg]| Launch {
        kernel,
        tasks: Tasks { each: 2, times },
        args: args.into(),
        cost: Cost {
            flops: Amount { per_token: 0.1 + 0.2, once: 16.0, ..Amount::default() },
            ..Cost::default()
        },
    };
    let tokens = Times::Step(Count::Tokens);
    let embed = launch(0, tokens, &[Arg::Step, Arg::Weight(0), x]);
    let layer = |state| Block {
        name: format!("layer{state}"),
        launches: vec![
            launch(1, Times::Step(Count::Tiles), &[Arg::Weight(1), x, Arg::State(state), n]),
            launch(2, Times::Word { arg: 0 }, &[n, Arg::Weight(2), x]),
        ],
    };
    let head = launch(3, Times::Once, &[x, Arg::Weight(0), Arg::Weight(3), Arg::Buffer(0)]);
    let block = |name: &str, launch| Block { name: name.into(), launches: vec![launch] };
    let entry = |name: &str, max_tokens| Entry {
        name: name.into(),
        max_tokens,
        blocks: vec![block("embed", embed.clone()), layer(0), layer(1)],
        sequence: vec![(0, None), (1, Some(0)), (2, Some(1))],
    };
    Plan {
        step: StepLayout { max_tokens: 64, max_seqs: 2, max_pages: 2 },
        max_context: 100,
        vocab: 20,
        kernels,
        arena_bytes: 4096,
        buffers: vec![Buffer { name: LOGITS.into(), bytes: 2 * 20 * 4 }],
        states: vec![
            State {
                name: "delta".into(),
                unit: Unit::Slot,
                unit_bytes: 256,
                ring: false,
                layers: vec![0],
            },
            State {
                name: "kv".into(),
                unit: Unit::Page,
                unit_bytes: 2048,
                ring: false,
                layers: vec![1],
            },
        ],
        entries: vec![
            entry("prefill", 64),
            entry("decode", 2),
            Entry {
                name: "head".into(),
                max_tokens: 64,
                blocks: vec![block("head", head)],
                sequence: vec![(0, None)],
            },
        ],
    }
}
