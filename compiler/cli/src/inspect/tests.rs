use super::*;
use crate::usage::sample;

#[test]
fn people_see_the_model_its_needs_and_its_sections() {
    let artifact = sample::artifact();
    let text = text(&artifact);
    let (before, sections) = text.split_once(" bytes, of which\n").expect("sections");
    let (before, bytes) = before.rsplit_once('\n').expect("lines");
    assert_eq!(bytes, count(artifact.to_bytes().len() as u64));
    assert_eq!(
        before,
        "\
model         qwen3_5_moe: 2 layers (1 linear_attention, 1 full_attention), hidden size 10; 1 of 4 experts chosen for each token
vocabulary    100 rows; the head is apart from the embedding
checkpoint    bf16, made for 2,000 tokens of context
compiled for  1,000 tokens of context, 8 sequences at once, chunks of 64 tokens; keys and values bf16

parameters of the text model                        1,234,567
parameters of the vision tower, not compiled            1,000
parameters of multi-token prediction, not compiled        100
parameters in total                                 1,235,667
parameters active per token                             7,654
  active: weights of the text model that one token reads, of the routed experts the chosen ones; the head, not the embedding, where a token looks up one row

target cpu: activations f32; code for plain, wide
  entry point  launches a step  kernels  tokens at most
  prefill                    6        5              64
  decode                     6        5               8
  head                       1        1              64

  weights, packed                     6,800  6.64 KiB
  arena                               2,560  2.50 KiB
  buffers                             3,200  3.12 KiB
  step parameters                     2,296  2.24 KiB
  state of a sequence                 1,000    1000 B
  state of 1,000 tokens of context  100,000  97.7 KiB
"
    );
    let hash = &artifact.sections()[0].blake3;
    assert!(
        sections.starts_with(&format!("  code.cpu.plain          384  {hash}\n")),
        "{sections}"
    );
    assert_eq!(sections.lines().count(), artifact.sections().len());
}

#[test]
fn programs_see_the_same_numbers() {
    let artifact = sample::artifact();
    let value = json(&artifact);
    assert_eq!(value["parameters"]["total"], 1_235_667);
    assert_eq!(value["parameters"]["active_per_token"], 7654);
    assert_eq!(value["layer_kinds"], json!({ "linear_attention": 1, "full_attention": 1 }));
    let target = &value["targets"][0];
    assert_eq!(
        target["entry_points"][1],
        json!({
            "name": "decode", "launches": 6, "kernels": 5, "max_tokens": 8,
        })
    );
    // Embedding, one layer's projection, two layers' four experts, a head of seven panels.
    assert_eq!(target["weights_bytes"], 2000 + 1280 + 2 * 4 * 160 + 2240);
    assert_eq!(target["state_bytes_per_sequence"], 1000);
    assert_eq!(target["state_bytes_per_1000_tokens"], 100_000);
    assert_eq!(target["variants"][1]["kernels"], 6);
    assert_eq!(value["bytes"], artifact.to_bytes().len());
    assert_eq!(value["sections"].as_array().map(Vec::len), Some(artifact.sections().len()));
}

#[test]
fn a_dense_model_has_no_experts_and_parts_that_are_not_there_are_not_listed() {
    let mut artifact = sample::artifact();
    artifact.model.experts = None;
    artifact.model.parameters.vision = 0;
    let text = text(&artifact);
    assert!(!text.contains("chosen for each token"), "{text}");
    assert!(!text.contains("vision tower"), "{text}");
    assert_eq!(json(&artifact)["experts"], Value::Null);
}
