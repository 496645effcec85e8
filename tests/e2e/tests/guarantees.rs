//! What holds to the bit, on the CPU: a sequence's logits depend on nothing but its tokens.

use q35_e2e::golden::longest;
use q35_e2e::guarantees::{self, Prompt, same};
use q35_e2e::run::{Build, cpu, logits, variants};
use q35_runtime::{LoadOptions, Model};

/// Checkpoints that between them have every kind of kernel.
const MODELS: [&str; 3] = ["tiny-moe", "moe-ratio3-yarn", "dense-text-f32"];
/// Tokens at a time: `prefill`, in chunks and at once, and `decode`.
const CHUNKS: [Option<usize>; 3] = [None, Some(64), Some(1)];

fn each_model(check: impl Fn(&mut Model, Prompt<'_>, &dyn Fn(usize) -> Model)) {
    for name in MODELS {
        for variant in variants() {
            let golden = longest(name);
            let prompt = Prompt { tokens: &golden.tokens, title: &golden.title() };
            let another = |threads| Build::DEFAULT.model(name, variant, threads);
            check(&mut another(2), prompt, &another);
        }
    }
}

#[test]
fn cuts_at_multiples_of_64_change_nothing() {
    each_model(|model, prompt, _| {
        guarantees::cuts_at_multiples_of_64_change_nothing(model, prompt);
    });
}

#[test]
fn neighbours_in_the_batch_change_nothing() {
    each_model(|model, prompt, _| guarantees::neighbours_change_nothing(model, prompt, &CHUNKS));
}

#[test]
fn threads_change_nothing() {
    each_model(|model, prompt, another| {
        for chunk in [None, Some(1)] {
            let two = logits(model, &[prompt.tokens], chunk).remove(0);
            for threads in [1, 3] {
                let other = logits(&mut another(threads), &[prompt.tokens], chunk).remove(0);
                same(&two, &other, &format!("{}, {threads} threads", prompt.title));
            }
        }
    });
}

#[test]
fn a_slot_reused_after_a_long_sequence_leaves_no_trace() {
    each_model(|model, prompt, another| {
        guarantees::a_used_slot_leaves_no_trace(model, &|| another(2), prompt);
    });
}

#[test]
fn which_slots_and_pages_a_sequence_gets_changes_nothing() {
    for name in MODELS {
        let variant = variants().pop().expect("a variant");
        let golden = longest(name);
        let prompt = Prompt { tokens: &golden.tokens, title: &golden.title() };
        let mut plain = Build::DEFAULT.model(name, variant, 2);
        for seed in [1, 2] {
            let options = LoadOptions { shuffle: Some(seed), ..LoadOptions::default() };
            let mut shuffled = Build::DEFAULT.model_on(name, cpu(variant, 2), options);
            guarantees::slots_and_pages_change_nothing(&mut plain, &mut shuffled, prompt);
        }
    }
}

#[test]
fn decoding_beside_others_that_come_and_go_changes_nothing() {
    each_model(|model, prompt, _| {
        guarantees::decoding_beside_others_that_come_and_go_changes_nothing(model, prompt);
    });
}
