use super::*;
use crate::frontend::config::published;
use crate::frontend::tensors;
use q35_graph::{Part, verify};
use std::collections::{BTreeMap, BTreeSet};

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

/// The manifest comes from the recipes, so they must name what a checkpoint holds: each tensor of
/// the text model, every row of it once.
#[test]
fn recipes_take_each_row_of_each_tensor_once() {
    for model in MODELS {
        let config = published(model);
        let mut taken: BTreeMap<String, (Vec<u64>, BTreeSet<u64>)> = BTreeMap::new();
        for (block, layer) in runs(&config) {
            for weight in &block.weights {
                let recipe = weight.recipes.first().expect("a recipe");
                for part in recipe {
                    take(&mut taken, part, weight.experts.unwrap_or(1), layer);
                }
            }
        }
        let tensors = tensors::text(&config);
        assert_eq!(taken.len(), tensors.len(), "{model}");
        for tensor in tensors {
            let (shape, firsts) = &taken[&tensor.name];
            assert_eq!(shape, &tensor.shape, "{}", tensor.name);
            let per_expert = if tensor.shape.len() == 3 && tensor.name.contains("experts") {
                tensor.shape[0] as usize
            } else {
                1
            };
            assert_eq!(firsts.len(), per_expert, "{}", tensor.name);
        }
    }
}

/// Blocks with the layer they run for; of prefill and head, since decode has prefill's.
fn runs(config: &Config) -> Vec<(Graph, Option<u32>)> {
    let programs = programs(config, &PLAIN);
    let of = |p: &Program| -> Vec<_> {
        p.sequence.iter().map(|&(block, layer)| (p.blocks[block].clone(), layer)).collect()
    };
    [of(&programs[0]), of(&programs[2])].concat()
}

/// Note the first row of what each expert takes of a tensor.
fn take(
    taken: &mut BTreeMap<String, (Vec<u64>, BTreeSet<u64>)>,
    part: &Part,
    experts: u32,
    layer: Option<u32>,
) {
    let Part::Rows { tensor, shape, first, per_expert, rows, .. } = part else { return };
    let name = match layer {
        Some(n) => tensor.replace("{layer}", &n.to_string()),
        None => tensor.clone(),
    };
    let matrix_rows = if shape.len() == 1 { 1 } else { shape[0] };
    let all = if *per_expert == 0 { matrix_rows } else { shape[1] };
    assert_eq!(u64::from(*rows), all, "{name}");
    let entry = taken.entry(name).or_insert_with(|| (shape.clone(), BTreeSet::new()));
    entry.1.extend((0..u64::from(experts)).map(|e| first + e * per_expert));
}

#[test]
fn experts_come_fused_or_one_by_one() {
    let blocks = &programs(&published("Qwen3.5-35B-A3B"), &PLAIN)[0].blocks;
    let delta_net = blocks.iter().find(|b| b.name == "delta_net").unwrap();
    let experts: Vec<_> = delta_net.weights.iter().filter(|w| w.experts.is_some()).collect();
    let text: Vec<String> = experts.iter().map(|w| w.to_string()).collect();
    insta::assert_snapshot!(text.concat(), @"");
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
