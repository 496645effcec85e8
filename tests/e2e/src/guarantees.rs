//! What holds to the bit on every device: a sequence's logits depend on nothing but its tokens.
//!
//! Others' engines break here: wrong output when there are several sequences, state lost at the border of
//! a chunk, results that change with the batch. A test says which models and how many tokens; devices
//! differ in what that costs.

use crate::run::logits;
use q35_runtime::Model;

/// One prompt and what a message calls it.
#[derive(Clone, Copy)]
pub struct Prompt<'a> {
    pub tokens: &'a [u32],
    pub title: &'a str,
}

pub fn same(a: &[f32], b: &[f32], what: &str) {
    let differ = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert!(a.len() == b.len() && differ == 0, "{what}: {differ} of {} differ", a.len());
}

pub fn cuts_at_multiples_of_64_change_nothing(model: &mut Model, prompt: Prompt<'_>) {
    let whole = logits(model, &[prompt.tokens], None).remove(0);
    for chunk in [64, 128] {
        let cut = logits(model, &[prompt.tokens], Some(chunk)).remove(0);
        same(&whole, &cut, &format!("{}, chunks of {chunk}", prompt.title));
    }
}

pub fn neighbours_change_nothing(model: &mut Model, prompt: Prompt<'_>, chunks: &[Option<usize>]) {
    let t = prompt.tokens;
    let prompts: [&[u32]; 4] = [t, &t[5..40], &t[..1], &t[11..t.len().min(150)]];
    for &chunk in chunks {
        let together = logits(model, &prompts, chunk);
        for (n, tokens) in prompts.iter().enumerate() {
            let alone = logits(model, &[tokens], chunk).remove(0);
            same(&alone, &together[n], &format!("{}, prompt {n}, {chunk:?}", prompt.title));
        }
    }
}

/// `fresh` gives a model like `model` that has run nothing.
pub fn a_used_slot_leaves_no_trace(
    model: &mut Model,
    fresh: &dyn Fn() -> Model,
    prompt: Prompt<'_>,
) {
    let short = &prompt.tokens[..9];
    for chunk in [None, Some(1)] {
        let expected = logits(&mut fresh(), &[short], chunk).remove(0);
        logits(model, &[prompt.tokens; 8], None);
        let reused = logits(model, &[short], chunk).remove(0);
        same(&expected, &reused, &format!("{}, {chunk:?}", prompt.title));
    }
}

/// `shuffled` hands out slots and pages in another order than `plain`.
pub fn slots_and_pages_change_nothing(plain: &mut Model, shuffled: &mut Model, prompt: Prompt<'_>) {
    let expected = logits(plain, &[prompt.tokens], None);
    let neighbour = &prompt.tokens[..prompt.tokens.len().min(70)];
    let found = logits(shuffled, &[prompt.tokens, neighbour], None);
    same(&expected[0], &found[0], prompt.title);
}

pub fn decoding_beside_others_that_come_and_go_changes_nothing(
    model: &mut Model,
    prompt: Prompt<'_>,
) {
    let (alone, crowded) = (decode(model, prompt, false), decode(model, prompt, true));
    same(&alone, &crowded, prompt.title);
}

/// Logits of sixteen steps, perhaps among neighbours.
fn decode(model: &mut Model, prompt: Prompt<'_>, crowd: bool) -> Vec<f32> {
    let t = prompt.tokens;
    let (prompt, rest) = (&t[..20], &t[20..36]);
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
}
