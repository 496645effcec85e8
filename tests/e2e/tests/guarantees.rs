//! What holds to the bit: a sequence's logits depend on nothing but its tokens.
//!
//! Others' engines break here: wrong output when there are several sequences, state lost at the border of
//! a chunk, results that change with the batch.

use q35_e2e::golden::{Golden, runs};
use q35_e2e::run::{Build, cpu, logits, variants};
use q35_runtime::{LoadOptions, Model};

/// Checkpoints that between them have every kind of kernel.
const MODELS: [&str; 3] = ["tiny-moe", "moe-ratio3-yarn", "dense-text-f32"];

fn each_model(check: impl Fn(&mut Model, &Golden, &dyn Fn(usize) -> Model)) {
    for name in MODELS {
        for variant in variants() {
            let golden = runs(name).into_iter().max_by_key(|g| g.tokens.len()).expect("a run");
            let another = |threads| Build::DEFAULT.model(name, variant, threads);
            check(&mut another(2), &golden, &another);
        }
    }
}

fn same(a: &[f32], b: &[f32], what: &str) {
    let differ = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert!(a.len() == b.len() && differ == 0, "{what}: {differ} of {} differ", a.len());
}

#[test]
fn cuts_at_multiples_of_64_change_nothing() {
    each_model(|model, golden, _| {
        let whole = logits(model, &[&golden.tokens], None).remove(0);
        for chunk in [64, 128] {
            let cut = logits(model, &[&golden.tokens], Some(chunk)).remove(0);
            same(&whole, &cut, &format!("{}, chunks of {chunk}", golden.title()));
        }
    });
}

#[test]
fn neighbours_in_the_batch_change_nothing() {
    each_model(|model, golden, _| {
        let t = &golden.tokens;
        let prompts: [&[u32]; 4] = [t, &t[5..40], &t[..1], &t[11..t.len().min(150)]];
        for chunk in [None, Some(64), Some(1)] {
            let together = logits(model, &prompts, chunk);
            for (n, prompt) in prompts.iter().enumerate() {
                let alone = logits(model, &[prompt], chunk).remove(0);
                same(&alone, &together[n], &format!("{}, prompt {n}, {chunk:?}", golden.title()));
            }
        }
    });
}

#[test]
fn threads_change_nothing() {
    each_model(|model, golden, another| {
        for chunk in [None, Some(1)] {
            let two = logits(model, &[&golden.tokens], chunk).remove(0);
            for threads in [1, 3] {
                let other = logits(&mut another(threads), &[&golden.tokens], chunk).remove(0);
                same(&two, &other, &format!("{}, {threads} threads", golden.title()));
            }
        }
    });
}

#[test]
fn a_slot_reused_after_a_long_sequence_leaves_no_trace() {
    each_model(|model, golden, another| {
        let short = &golden.tokens[..9];
        for chunk in [None, Some(1)] {
            let fresh = logits(&mut another(2), &[short], chunk).remove(0);
            logits(model, &[golden.tokens.as_slice(); 8], None);
            let reused = logits(model, &[short], chunk).remove(0);
            same(&fresh, &reused, &format!("{}, {chunk:?}", golden.title()));
        }
    });
}

#[test]
fn which_slots_and_pages_a_sequence_gets_changes_nothing() {
    for name in MODELS {
        let variant = variants().pop().expect("a variant");
        let golden = runs(name).into_iter().max_by_key(|g| g.tokens.len()).expect("a run");
        let plain = logits(&mut Build::DEFAULT.model(name, variant, 2), &[&golden.tokens], None);
        for seed in [1, 2] {
            let options = LoadOptions { shuffle: Some(seed), ..LoadOptions::default() };
            let mut model = Build::DEFAULT.model_on(name, cpu(variant, 2), options);
            let shuffled = logits(&mut model, &[&golden.tokens, &golden.tokens[..70]], None);
            same(&plain[0], &shuffled[0], &golden.title());
        }
    }
}

#[test]
fn decoding_beside_others_that_come_and_go_changes_nothing() {
    each_model(|model, golden, _| {
        let t = &golden.tokens;
        let (prompt, rest) = (&t[..20], &t[20..36]);
        let mut run = |crowd: bool| -> Vec<f32> {
            let mut all = vec![];
            let neighbour = crowd.then(|| model.start().expect("a slot"));
            if let Some(n) = neighbour {
                model.feed(&[(n, &t[3..30])]).expect("a prompt");
            }
            let me = model.start().expect("a slot");
            model.feed(&[(me, prompt)]).expect("a prompt");
            let mut third = None;
            for (step, &token) in rest.iter().enumerate() {
                if crowd && step == 5 {
                    let id = model.start().expect("a slot");
                    model.feed(&[(id, &t[..7])]).expect("a prompt");
                    third = Some(id);
                }
                let mut inputs = vec![(me, token)];
                inputs.extend(neighbour.map(|n| (n, t[step])));
                inputs.extend(third.map(|n| (n, t[step + 1])));
                inputs.reverse();
                model.decode(&inputs).expect("a step");
                all.extend_from_slice(model.logits(me).expect("logits"));
            }
            for id in [Some(me), neighbour, third].into_iter().flatten() {
                model.finish(id).expect("a running sequence");
            }
            all
        };
        let (alone, crowded) = (run(false), run(true));
        same(&alone, &crowded, &golden.title());
    });
}
