use super::*;
use crate::frontend::config::published;
use q35_graph::{Part, verify};

const PLAIN: Options = Options { activations: DType::F32, kv: DType::Bf16 };

const MODELS: [&str; 9] = [
    "Qwen-AgentWorld-35B-A3B",
    "Qwen3.5-0.8B",
    "Qwen3.5-122B-A10B",
    "Qwen3.5-27B",
    "Qwen3.5-2B",
    "Qwen3.5-35B-A3B",
    "Qwen3.5-397B-A17B",
    "Qwen3.5-4B",
    "Qwen3.5-9B",
];

#[test]
fn graphs_are_well_typed_for_every_model_and_type() {
    for model in MODELS {
        for activations in [DType::F32, DType::Bf16] {
            for kv in [DType::F32, DType::Bf16] {
                for program in programs(&published(model), &Options { activations, kv }) {
                    for block in &program.blocks {
                        assert_eq!(verify(block), Ok(()), "{model}: {}", block.name);
                    }
                }
            }
        }
    }
}

/// What is compiled does not grow with depth; only the list of runs does.
#[test]
fn depth_lengthens_the_sequence_and_nothing_else() {
    let deep = published("Qwen3.5-397B-A17B");
    let mut shallow = deep.clone();
    shallow.layers.truncate(4);
    let (deep, shallow) = (programs(&deep, &PLAIN), programs(&shallow, &PLAIN));
    for (deep, shallow) in deep.iter().zip(&shallow) {
        assert_eq!(deep.blocks, shallow.blocks);
    }
    let lengths = |p: &[Program]| p.iter().map(|p| p.sequence.len()).collect::<Vec<_>>();
    assert_eq!(lengths(&deep), [61, 61, 1]);
    assert_eq!(lengths(&shallow), [5, 5, 1]);
}

#[test]
fn the_sequence_follows_the_layers() {
    let [prefill, decode, _] = &programs(&published("Qwen3.5-0.8B"), &PLAIN)[..] else {
        panic!("three entries")
    };
    assert_eq!(prefill.sequence, decode.sequence);
    let run = |&(block, layer): &(usize, Option<u32>)| (&prefill.blocks[block].name[..], layer);
    let first: Vec<_> = prefill.sequence[..6].iter().map(run).collect();
    let expected = [
        ("embed", None),
        ("delta_net", Some(0)),
        ("delta_net", Some(1)),
        ("delta_net", Some(2)),
        ("attention", Some(3)),
        ("delta_net", Some(4)),
    ];
    assert_eq!(first, expected);
}

#[test]
fn a_model_of_one_kind_of_layer_has_no_block_for_the_other() {
    let mut config = published("Qwen3.5-0.8B");
    config.layers = vec![LayerKind::Attention; 2];
    let names = |p: &Program| p.blocks.iter().map(|b| b.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&programs(&config, &PLAIN)[0]), ["embed", "attention"]);
}

#[test]
fn experts_come_fused_or_one_by_one() {
    let blocks = &programs(&published("Qwen3.5-35B-A3B"), &PLAIN)[0].blocks;
    let delta_net = blocks.iter().find(|b| b.name == "delta_net").unwrap();
    let experts: Vec<_> = delta_net.weights.iter().filter(|w| w.experts.is_some()).collect();
    let text: Vec<String> = experts.iter().map(|w| w.to_string()).collect();
    insta::assert_snapshot!(text.concat(), @r#"
    bf16[256, 1024, 2048] rows "layers.{layer}.mlp.experts.gate_up_proj"
      recipe
        rows "model.language_model.layers.{layer}.mlp.experts.gate_up_proj" [256, 1024, 2048] {first: 0, rows: 1024, per_expert: 1024, transform: none}
      recipe
        rows "model.language_model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight" [512, 2048] {first: 0, rows: 512, per_expert: 0, transform: none}
        rows "model.language_model.layers.{layer}.mlp.experts.{expert}.up_proj.weight" [512, 2048] {first: 0, rows: 512, per_expert: 0, transform: none}
    bf16[256, 2048, 512] rows "layers.{layer}.mlp.experts.down_proj"
      recipe
        rows "model.language_model.layers.{layer}.mlp.experts.down_proj" [256, 2048, 512] {first: 0, rows: 2048, per_expert: 2048, transform: none}
      recipe
        rows "model.language_model.layers.{layer}.mlp.experts.{expert}.down_proj.weight" [2048, 512] {first: 0, rows: 2048, per_expert: 0, transform: none}
    "#);
}

#[test]
fn the_head_of_a_tied_model_is_its_embedding() {
    let named = |model: &str, entry: usize| -> Vec<String> {
        let programs = programs(&published(model), &PLAIN);
        programs[entry].blocks[0].weights.iter().map(|w| w.name.clone()).collect()
    };
    assert_eq!(named("Qwen3.5-0.8B", 2), ["norm.weight", "embed_tokens.weight"]);
    assert_eq!(named("Qwen3.5-9B", 2), ["norm.weight", "lm_head.weight"]);
    assert_eq!(named("Qwen3.5-9B", 0), ["embed_tokens.weight", "rope.frequencies"]);
}

#[test]
fn the_frequencies_are_numbers_of_the_compiler() {
    let config = published("Qwen3.5-9B");
    let embed = &programs(&config, &PLAIN)[0].blocks[0];
    let [Part::Values { bits }] = &embed.weights[1].recipes[0][..] else { panic!("values") };
    let frequencies: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
    assert_eq!(frequencies, config.rope.frequencies().0);
}
