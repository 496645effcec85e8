use super::*;
use crate::text;

const BLOCK: &str = r#"
block mixer
w0: bf16[64, 64] rows "layers.{layer}.proj"
  recipe
    rows "layers.{layer}.proj.weight" [128, 64] {first: 64, rows: 64, per_expert: 0, transform: none}
w1: bf16[64, 4] columns "layers.{layer}.conv"
  recipe
    rows "layers.{layer}.conv.weight" [60, 1, 4] {first: 0, rows: 60, per_expert: 0, transform: none}
    zeros {rows: 4}
w2: bf16[8, 32, 64] panels "layers.{layer}.experts"
  recipe
    rows "experts" [8, 32, 64] {first: 0, rows: 32, per_expert: 32, transform: none}
  recipe
    rows "experts.{expert}" [32, 64] {first: 0, rows: 32, per_expert: 0, transform: none}
s0: conv {taps: 4, channels: 64}
%0: bf16[T, 64] = input {port: hidden}
%1: bf16[64, 64] = weight {id: w0}
%2: bf16[T, 64] = matmul %0, %1 {dtype: bf16}
%3: bf16[64, 4] = weight {id: w1}
%4: bf16[T, 64] = conv %2, %3 {state: s0}
return hidden %4
"#;

/// What the verifier says of the block with `from` written as `to`.
fn findings(from: &str, to: &str) -> Vec<String> {
    assert!(BLOCK.contains(from), "`{from}` is in the block");
    let graph = text::graph("block", &BLOCK.replace(from, to)).expect("the text is well formed");
    let findings = verify(&graph).err().unwrap_or_default();
    findings.iter().map(Finding::to_string).collect()
}

#[test]
fn a_sound_block_passes() {
    assert_eq!(findings("mixer", "mixer"), Vec::<String>::new());
}

#[test]
fn values_come_before_their_use_and_are_what_they_say() {
    assert_eq!(
        findings("matmul %0, %1", "matmul %4, %1"),
        ["%2 reads %4, expected a value before it"]
    );
    assert_eq!(
        findings("%4: bf16", "%4: f32"),
        ["%4 is declared f32[T, 64], but its `conv` gives bf16[T, 64]"]
    );
    assert_eq!(
        findings("conv %2, %3", "conv %2, %1"),
        [
            "%4: s0 is conv {taps: 4, channels: 64}, but its `conv` needs conv {taps: 64, channels: 64}"
        ]
    );
    assert_eq!(findings("conv %2, %3", "conv %2"), ["%4: `conv` has 1 operands, expected 2"]);
    assert_eq!(findings("{id: w1}", "{id: w9}"), ["%3 is of w9, which is not there"]);
    assert_eq!(
        findings("%0: bf16", "s1: conv {taps: 2, channels: 9}\n%0: bf16"),
        ["s1 is conv {taps: 2, channels: 9}, expected one state of a kind"]
    );
    assert_eq!(findings("{state: s0}", "{state: s3}"), ["%4 uses s3, which is not there"]);
}

#[test]
fn ports_carry_what_they_say_and_something_comes_out() {
    assert_eq!(
        findings("return hidden %4", "return logits %4"),
        ["%4: port `logits` is bf16[T, 64], expected f32[R, vocab]"]
    );
    assert_eq!(
        findings("return hidden %4", "return hidden %44"),
        ["port `hidden` gives %44, which is not there"]
    );
    assert_eq!(
        findings("return hidden %4", "return hidden %4, hidden %2"),
        ["port `hidden` is returned twice"]
    );
    assert_eq!(findings("return hidden %4", ""), ["the block gives nothing back"]);
}

#[test]
fn weights_can_be_made_from_their_recipes() {
    let finding = &findings("zeros {rows: 4}", "zeros {rows: 5}")[0];
    assert_eq!(finding, "w1: a recipe is of 65 rows, expected 64");
    let finding = &findings("first: 64", "first: 65")[0];
    assert!(finding.ends_with("expected rows within the 128 of the tensor"), "{finding}");
    let finding = &findings("[128, 64]", "[129, 63]")[0];
    assert!(finding.ends_with("expected a tensor of rows of 64"), "{finding}");
    let finding = &findings("per_expert: 32", "per_expert: 33")[0];
    assert!(finding.ends_with("expected rows within the 256 of the tensor"), "{finding}");
    let finding = &findings("first: 64", "first: 18446744073709551615")[0];
    assert!(finding.starts_with("w0: a part is rows"), "{finding}");
    let finding = &findings("{layer}.conv\"", "{layer}.proj\"")[0];
    assert!(finding.ends_with("expected one that no other weight has"), "{finding}");
}

#[test]
fn a_block_of_layers_runs_with_one() {
    let program = |run: &str| {
        let text = format!("program prefill\nrun mixer{run}\n{BLOCK}");
        let found = verify_program(&text::program("p", &text).expect("the text is well formed"));
        found.err().unwrap_or_default().iter().map(Finding::to_string).collect::<Vec<_>>()
    };
    assert_eq!(program(" {layer: 3}"), Vec::<String>::new());
    assert_eq!(
        program(""),
        ["run 0 of `mixer` has no layer, expected one, for its weights and state"]
    );
}
