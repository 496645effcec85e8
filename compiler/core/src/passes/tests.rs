//! What holds of the whole pipeline, and what the passes' own tests share.

use super::*;
use crate::frontend::build::{self, Options};
use crate::frontend::config::{Config, Mlp};
use crate::frontend::tensors::{self, EXPERT, Experts, Role, Tensor};
use q35_graph::{Op, Part, State, Type, Value, Weight};
use q35_types::pack::Transform;
use q35_types::{DType, Dim, Layout};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Every published config and that of every golden checkpoint, by name.
pub(super) fn configs() -> Vec<(String, Config)> {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden");
    let entries = |dir: &str| std::fs::read_dir(format!("{golden}/{dir}")).unwrap();
    let paths = entries("configs").chain(entries("checkpoints")).map(|e| e.unwrap().path());
    let files = paths.filter_map(|p| match p.extension() {
        Some(e) if e == "json" => Some(p),
        _ => Some(p.join("config.json")).filter(|p| p.exists()),
    });
    let parsed = files.map(|p| {
        let text = std::fs::read_to_string(&p).unwrap();
        (p.display().to_string(), Config::parse(&text).unwrap().config)
    });
    parsed.collect()
}

/// The config of a golden checkpoint.
pub(super) fn golden(name: &str) -> Config {
    let path = format!("{name}/config.json");
    let (_, config) = configs().into_iter().find(|(p, _)| p.ends_with(&path)).unwrap();
    config
}

fn options() -> impl Iterator<Item = Options> {
    let types = [DType::F32, DType::Bf16];
    types.into_iter().flat_map(move |activations| types.map(|kv| Options { activations, kv }))
}

const PLAIN: Options = Options { activations: DType::Bf16, kv: DType::Bf16 };

/// A block as `pass` finds it.
pub(super) fn block_before(pass: &str, config: &Config, entry: Entry, block: &str) -> Graph {
    let programs = build::programs(config, &PLAIN);
    let program = programs.into_iter().find(|p| p.entry == entry).unwrap();
    let mut graph = program.blocks.into_iter().find(|b| b.name == block).unwrap();
    PIPELINE.iter().take_while(|p| p.name != pass).for_each(|p| (p.run)(&mut graph, entry));
    graph
}

/// `graph` after `pass` alone, which the verifier accepts.
pub(super) fn after(pass: &str, mut graph: Graph, entry: Entry) -> Graph {
    let pass = PIPELINE.iter().find(|p| p.name == pass).unwrap();
    (pass.run)(&mut graph, entry);
    verify(&graph).unwrap();
    graph
}

/// The text of the nodes and outputs, without weights and state.
pub(super) fn nodes(graph: &Graph) -> String {
    let text = graph.to_string();
    let lines = text.lines().filter(|l| l.starts_with(['%', 'r']));
    lines.collect::<Vec<_>>().join("\n")
}

/// Nodes whose op has that name.
pub(super) fn all(graph: &Graph, name: &str) -> Vec<Value> {
    graph.values().filter(|&v| graph.node(v).op.name() == name).collect()
}

/// A block with an input `bf16[T, 8]`.
pub(super) fn small() -> (Graph, Value) {
    let mut g = Graph::new("small");
    let x = g.input(q35_graph::Port::Hidden, Type::new(DType::Bf16, [Dim::Tokens, Dim::Fixed(8)]));
    (g, x)
}

/// The tensor of a bf16 matrix with columns to match [`small`].
pub(super) fn matrix(g: &mut Graph, name: &str, rows: u32) -> Value {
    let part = Part::Rows {
        tensor: format!("model.{name}"),
        shape: vec![rows.into(), 8],
        first: 0,
        per_expert: 0,
        rows,
        transform: Transform::None,
    };
    let id = g.add_weight(Weight {
        name: name.into(),
        dtype: DType::Bf16,
        experts: None,
        rows,
        cols: 8,
        vector: false,
        layout: Layout::Rows,
        recipes: vec![vec![part]],
    });
    g.weight_value(id)
}

pub(super) fn product(g: &mut Graph, x: Value, weight: &str, rows: u32) -> Value {
    let weight = matrix(g, weight, rows);
    g.push(Op::MatMul { dtype: DType::Bf16 }, [x, weight])
}

fn optimized(config: &Config, options: &Options) -> Vec<Program> {
    let mut programs = build::programs(config, options);
    programs.iter_mut().for_each(|p| run(p, |_, _| ()).unwrap());
    programs
}

/// Every program of every config after the pipeline, with every choice of types.
fn all_optimized() -> impl Iterator<Item = (String, Vec<Program>)> {
    let each = |(name, config): (String, Config)| {
        options().map(move |o| (name.clone(), optimized(&config, &o)))
    };
    configs().into_iter().flat_map(each)
}

#[test]
fn only_ops_with_kernels_remain() {
    const KERNELS: &[&str] = &[
        "input",
        "weight",
        "embed",
        "gather",
        "rope_table",
        "rms_norm",
        "matmul",
        "norm_matmul",
        "matmul_add",
        "swiglu",
        "norm_swiglu",
        "delta_conv",
        "delta_rule",
        "qk_rope",
        "gated_attention",
        "top_k",
        "expert_groups",
        "expert_swiglu",
        "expert_linear",
        "expert_combine",
    ];
    let mut seen = 0;
    for (name, programs) in all_optimized() {
        for block in programs.iter().flat_map(|p| &p.blocks) {
            for node in &block.nodes {
                assert!(KERNELS.contains(&node.op.name()), "{name}: {} has {node}", block.name);
            }
        }
        seen += programs.len();
    }
    assert!(seen >= 3 * 4 * 16, "{seen} programs");
}

/// The engine packs a weight once: whichever block or entry names it means the same bytes.
#[test]
fn a_weight_is_the_same_wherever_it_is_named() {
    for (name, programs) in all_optimized() {
        let mut known: BTreeMap<String, Weight> = BTreeMap::new();
        for weight in programs.iter().flat_map(|p| &p.blocks).flat_map(|b| &b.weights) {
            let first = known.entry(weight.name.clone()).or_insert_with(|| weight.clone());
            assert_eq!(first, weight, "{name}");
        }
    }
}

/// The manifest is made of recipes: each way to make the weights takes every row of every tensor
/// of the text model once, and no other.
#[test]
fn recipes_take_each_row_of_each_tensor_once() {
    for (name, config) in configs() {
        let programs = optimized(&config, &PLAIN);
        for (recipe, experts) in [(0, Experts::Fused), (1, Experts::Apart)] {
            let mut taken = BTreeMap::<String, Vec<Range<u64>>>::new();
            for (weight, layer) in weights_by_layer(&programs) {
                let parts = weight.recipes.get(recipe).unwrap_or(&weight.recipes[0]);
                for part in parts {
                    take(&mut taken, weight, part, layer);
                }
            }
            let mut expected = tensors_by_rows(&config, experts);
            for (tensor, rows) in &mut taken {
                rows.sort_by_key(|r| r.start);
                let joined = rows.windows(2).all(|w| w[0].end == w[1].start);
                assert!(joined, "{name}: {tensor}: {rows:?}");
                let all = rows[0].start..rows[rows.len() - 1].end;
                assert_eq!(expected.remove(tensor), Some(all), "{name}: {tensor}");
            }
            assert_eq!(expected, BTreeMap::new(), "{name}");
        }
    }
}

/// Each weight once with each layer that it is made for.
fn weights_by_layer(programs: &[Program]) -> Vec<(&Weight, Option<u32>)> {
    let mut seen = BTreeSet::new();
    let mut list = Vec::new();
    for program in programs {
        for &(block, layer) in &program.sequence {
            let new = |w: &&Weight| seen.insert((w.name.clone(), layer));
            let weights = program.blocks[block].weights.iter().filter(new);
            list.extend(weights.map(|w| (w, layer)));
        }
    }
    list
}

/// Note the rows that a part takes of its tensors.
fn take(
    taken: &mut BTreeMap<String, Vec<Range<u64>>>,
    weight: &Weight,
    part: &Part,
    layer: Option<u32>,
) {
    let Part::Rows { tensor, first, per_expert, rows, .. } = part else {
        return;
    };
    let tensor = layer.map_or(tensor.clone(), |n| tensor.replace("{layer}", &n.to_string()));
    for expert in 0..weight.experts.unwrap_or(1) {
        let start = first + u64::from(expert) * per_expert;
        let name = tensor.replace("{expert}", &expert.to_string());
        taken.entry(name).or_default().push(start..start + u64::from(*rows));
    }
}

/// The rows of the text model's tensors, each read as the matrix that it is part of.
fn tensors_by_rows(config: &Config, experts: Experts) -> BTreeMap<String, Range<u64>> {
    let layers = config.layers.iter().zip(0..).flat_map(|(&kind, n)| {
        let rows = tensors::layer_pattern(config, kind, experts);
        rows.into_iter().map(move |t| t.at_layer(n))
    });
    let each = |t: Tensor| match (t.name.contains(EXPERT), config.mlp) {
        (true, Mlp::Moe(moe)) => (0..moe.num_experts).map(|e| t.of_expert(e)).collect(),
        _ => vec![t],
    };
    let all = tensors::top(config).into_iter().chain(layers).flat_map(each);
    let rows = all.map(|t| match (t.role, &t.shape[..]) {
        (Role::ExpertsGateUp | Role::ExpertsDown, [e, rows, _]) => (t.name, 0..e * rows),
        (_, [_]) => (t.name, 0..1),
        (_, [rows, ..]) => (t.name, 0..*rows),
        _ => unreachable!("a tensor has an axis"),
    });
    rows.collect()
}

/// State is written as in the graph before: the same pieces, in the same blocks.
#[test]
fn passes_keep_the_state() {
    for (name, config) in configs() {
        let states = |programs: &[Program]| -> Vec<Vec<State>> {
            programs.iter().flat_map(|p| &p.blocks).map(|b| b.states.clone()).collect()
        };
        let before = states(&build::programs(&config, &PLAIN));
        assert_eq!(states(&optimized(&config, &PLAIN)), before, "{name}");
    }
}

#[test]
fn watch_sees_every_pass_in_order() {
    let mut programs = build::programs(&golden("tiny-moe"), &PLAIN);
    let mut seen = Vec::new();
    run(&mut programs[0], |pass, _| seen.push(pass)).unwrap();
    assert_eq!(seen, PIPELINE.iter().map(|p| p.name).collect::<Vec<_>>());
}

#[test]
fn a_broken_graph_names_the_pass() {
    let mut programs = build::programs(&golden("tiny-moe"), &PLAIN);
    let broken = &mut programs[1].blocks[2];
    let v = all(broken, "rms_norm")[0];
    broken.nodes[v.0 as usize].ty.dtype = DType::F16;
    let error = run(&mut programs[1], |_, _| ()).unwrap_err();
    assert_eq!((error.pass, &error.block[..]), ("simplify", "attention"));
    let start = "pass `simplify` broke block `attention`: ";
    assert!(error.to_string().starts_with(start), "{error}");
}

/// What decoding a token through a layer runs.
#[test]
fn a_layer_with_a_mixture_decodes_in_thirteen_ops() {
    let programs = optimized(&golden("tiny-moe"), &PLAIN);
    insta::assert_snapshot!(nodes(&programs[1].blocks[1]), @"
    %0: bf16[T, 128] = input {port: hidden}
    %1: bf16[128] = weight {id: w0}
    %2: bf16[392, 128] = weight {id: w10}
    %3: bf16[T, 392] = norm_matmul %0, %1, %2 {eps: 0.000001, zero_centred: true, dtype: bf16}
    %4: f32[256, 4] = weight {id: w1}
    %5: f32[4] = weight {id: w2}
    %6: f32[4] = weight {id: w3}
    %7: f32[32] = weight {id: w4}
    %8: bf16[T, 256] = delta_conv %3, %4 {nk: 2, dk: 32, nv: 4, dv: 32, eps: 0.000001, scale: 0.17677669, state: s0}
    %9: bf16[T, 128] = delta_rule %8, %3, %6, %5, %7 {nk: 2, dk: 32, nv: 4, dv: 32, z: 256, b: 384, a: 388, eps: 0.000001, state: s1}
    %10: bf16[128, 128] = weight {id: w5}
    %11: bf16[T, 128] = matmul_add %9, %10, %0
    %12: bf16[128] = weight {id: w6}
    %13: bf16[T, 128] = rms_norm %11, %12 {eps: 0.000001, zero_centred: true}
    %14: bf16[17, 128] = weight {id: w11}
    %15: f32[T, 17] = matmul %13, %14 {dtype: f32}
    %16: bf16[16, 128, 128] = weight {id: w7}
    %17: bf16[16, 128, 64] = weight {id: w8}
    %18: bf16[128, 128] = weight {id: w12}
    %19: bf16[T, 64] = swiglu %13, %18 {width: 64, up: 64}
    %20: bf16[128, 64] = weight {id: w9}
    %21: bf16[T, 128] = matmul %19, %20 {dtype: bf16}
    %22: i32[T, 4] = top_k %15 {experts: 16, k: 4}
    %23: i32[4T+34] = expert_groups %22 {experts: 16}
    %24: bf16[T, 4, 64] = expert_swiglu %13, %16, %23 {k: 4, width: 64, up: 64}
    %25: bf16[T, 4, 128] = expert_linear %24, %17, %23
    %26: bf16[T, 128] = expert_combine %25, %15, %22, %21, %11 {gate: 16}
    return hidden %26
    ");
}
