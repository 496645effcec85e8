//! What holds of the whole pipeline, and what the passes' own tests share.

use super::*;
use crate::frontend::build::{self, Options};
use crate::frontend::config::Config;
use q35_graph::{Op, Part, State, Type, Value, Weight};
use q35_types::pack::Transform;
use q35_types::{DType, Dim, Layout};
use std::collections::BTreeMap;

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

/// Every program of every config after the pipeline.
fn optimized() -> impl Iterator<Item = (String, Config, Vec<Program>)> {
    let each = |(name, config): (String, Config)| options().map(move |o| (name.clone(), config.clone(), o));
    configs().into_iter().flat_map(each).map(|(name, config, options)| {
        let mut programs = build::programs(&config, &options);
        programs.iter_mut().for_each(|p| run(p, |_, _| ()).unwrap());
        (name, config, programs)
    })
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
    for (name, _, programs) in optimized() {
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
    for (name, _, programs) in optimized() {
        let mut known: BTreeMap<String, Weight> = BTreeMap::new();
        for weight in programs.iter().flat_map(|p| &p.blocks).flat_map(|b| &b.weights) {
            let first = known.entry(weight.name.clone()).or_insert_with(|| weight.clone());
            assert_eq!(first, weight, "{name}");
        }
    }
}

/// State is written as in the graph before: the same pieces, in the same blocks.
#[test]
fn passes_keep_the_state() {
    for (name, config) in configs() {
        let states = |programs: &[Program]| -> Vec<Vec<State>> {
            programs.iter().flat_map(|p| &p.blocks).map(|b| b.states.clone()).collect()
        };
        let mut programs = build::programs(&config, &PLAIN);
        let before = states(&programs);
        programs.iter_mut().for_each(|p| run(p, |_, _| ()).unwrap());
        assert_eq!(states(&programs), before, "{name}");
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

/// The whole way of a layer: what decoding a token through the smallest mixture runs.
#[test]
fn a_decode_layer_is_ten_launches() {
    let config = golden("tiny-moe");
    let mut programs = build::programs(&config, &PLAIN);
    run(&mut programs[1], |_, _| ()).unwrap();
    insta::assert_snapshot!(nodes(&programs[1].blocks[1]), @"");
}
