//! On the hashing model of `testing`, which stops at any word of a step that is wrong.

use super::*;
use crate::LoadOptions;
use crate::testing::{Step, expected_logits, model};

fn prompt(n: usize, seed: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * i + 7 * i + seed) % 50).collect()
}

fn plain() -> Model {
    model(&LoadOptions::default()).0
}

#[test]
fn a_prompt_has_the_logits_of_its_tokens_however_it_is_fed() {
    let prompt = prompt(290, 3);
    let cuts: [&[usize]; 5] = [&[290], &[64, 226], &[70, 30, 190], &[1, 1, 288], &[289, 1]];
    for cut in cuts {
        let mut model = plain();
        let id = model.start().unwrap();
        let mut rest = prompt.as_slice();
        for &n in cut {
            let (now, later) = rest.split_at(n);
            model.feed(&[(id, now)]).unwrap();
            rest = later;
        }
        assert_eq!(model.logits(id).unwrap(), expected_logits(&prompt), "{cut:?}");
        assert_eq!(model.length(id).unwrap(), 290);
    }
}

#[test]
fn prefill_steps_hold_several_prompts_and_cut_at_multiples_of_64() {
    let (mut model, steps) = model(&LoadOptions::default());
    let ids = [(); 3].map(|()| model.start().unwrap());
    let prompts = [prompt(70, 1), prompt(200, 2), prompt(5, 3)];
    let inputs: Vec<_> = ids.into_iter().zip(prompts.iter().map(Vec::as_slice)).collect();
    model.feed(&inputs).unwrap();
    for (id, prompt) in ids.into_iter().zip(&prompts) {
        assert_eq!(model.logits(id).unwrap(), expected_logits(prompt));
    }
    // Of the second prompt nothing fits beside the first: 58 tokens reach no multiple of 64.
    let expected = [
        Step::Prefill { tokens: 75, seqs: 2 },
        Step::Head { rows: 2 },
        Step::Prefill { tokens: 128, seqs: 1 },
        Step::Prefill { tokens: 72, seqs: 1 },
        Step::Head { rows: 1 },
    ];
    assert_eq!(*steps.lock().unwrap(), expected);
}

#[test]
fn sequences_side_by_side_are_each_alone_whatever_slots_and_pages_they_get() {
    for shuffle in [None, Some(1), Some(2), Some(3)] {
        let (mut model, _) = model(&LoadOptions { shuffle, ..LoadOptions::default() });
        // Used before, so that slots and pages hold what others left.
        for n in [150, 300, 20] {
            let id = model.start().unwrap();
            model.feed(&[(id, &prompt(n, 9))]).unwrap();
            model.finish(id).unwrap();
        }
        let mut texts = [prompt(63, 1), prompt(100, 2), prompt(1, 3)];
        let ids = [(); 3].map(|()| model.start().unwrap());
        for (id, text) in ids.into_iter().zip(&texts) {
            model.feed(&[(id, text)]).unwrap();
        }
        for round in 0..70 {
            // Not always all, nor in the same order.
            let mut now: Vec<usize> = (0..3).filter(|n| (round + n) % 4 != 0).collect();
            let count = now.len();
            now.rotate_left(round % count);
            let tokens: Vec<_> =
                now.iter().map(|&n| (ids[n], (round * 3 + n) as u32 % 50)).collect();
            model.decode(&tokens).unwrap();
            for (&n, &(id, token)) in now.iter().zip(&tokens) {
                texts[n].push(token);
                assert_eq!(model.logits(id).unwrap(), expected_logits(&texts[n]), "{shuffle:?}");
            }
        }
    }
}

#[test]
fn every_position_has_its_logits_at_any_chunk() {
    let prompts = [prompt(150, 1), prompt(3, 2), prompt(90, 3)];
    let prompts: Vec<_> = prompts.iter().map(Vec::as_slice).collect();
    for chunk in [None, Some(1), Some(7), Some(64), Some(128), Some(1000)] {
        let mut model = plain();
        let mut seen = vec![0; 3];
        model
            .all_logits(&prompts, chunk, |n, position, row| {
                assert_eq!(position, seen[n], "prompt {n}, {chunk:?}");
                assert_eq!(row, expected_logits(&prompts[n][..=position as usize]), "{chunk:?}");
                seen[n] += 1;
            })
            .unwrap();
        assert_eq!(seen, [150, 3, 90], "{chunk:?}");
        assert_eq!(model.free_pages(), model.pages(), "nothing is left behind");
    }
}

#[test]
fn a_chunk_of_one_goes_through_decode() {
    let (mut model, steps) = model(&LoadOptions::default());
    model.all_logits(&[&[1, 2], &[3]], Some(1), |_, _, _| ()).unwrap();
    let expected = [
        Step::Decode { seqs: 2 },
        Step::Head { rows: 2 },
        Step::Decode { seqs: 1 },
        Step::Head { rows: 1 },
    ];
    assert_eq!(*steps.lock().unwrap(), expected);
}

#[test]
fn what_cannot_be_fed_is_refused_and_changes_nothing() {
    let (mut model, steps) = model(&LoadOptions { kv_tokens: Some(192), ..LoadOptions::default() });
    let (a, b) = (model.start().unwrap(), model.start().unwrap());
    let long = prompt(301, 1);
    type Inputs<'a> = &'a [(SeqId, &'a [u32])];
    type Expected = fn(&EngineError) -> bool;
    let bad: [(Inputs<'_>, Expected); 6] = [
        (&[(a, &[1]), (b, &[])], |e| matches!(e, EngineError::EmptyPrompt)),
        (&[(a, &[1, 50])], |e| matches!(e, EngineError::TokenOutOfRange { id: 50, vocab: 50 })),
        (&[(a, &[1]), (a, &[2])], |e| matches!(e, EngineError::RepeatedSequence)),
        (&[(a, &long)], |e| matches!(e, EngineError::TooLong { tokens: 301, max_context: 300 })),
        (&[(a, &long[..200])], |e| {
            matches!(e, EngineError::KvPagesExhausted { needed: 4, free: 3, total: 3 })
        }),
        (&[(a, &long[..100]), (b, &long[..100])], |e| {
            matches!(e, EngineError::KvPagesExhausted { needed: 4, free: 3, total: 3 })
        }),
    ];
    for (inputs, expected) in bad {
        let error = model.feed(inputs).unwrap_err();
        assert!(expected(&error), "{error}");
        assert!(model.feed_step(inputs).is_err());
        assert_eq!((model.length(a).unwrap(), model.free_pages()), (0, 3), "{error}");
    }
    assert!(matches!(model.decode(&[(a, 99)]), Err(EngineError::TokenOutOfRange { .. })));
    assert!(matches!(model.decode(&[(a, 1), (a, 1)]), Err(EngineError::RepeatedSequence)));
    assert!(matches!(model.logits(a), Err(EngineError::NoLogits)));
    assert!(steps.lock().unwrap().is_empty(), "nothing ran");
}

#[test]
fn there_are_as_many_sequences_as_slots() {
    let mut model = plain();
    let ids = [(); 3].map(|()| model.start().unwrap());
    assert!(matches!(model.start(), Err(EngineError::NoFreeSlot { slots: 3 })));
    let four: [&[u32]; 4] = [&[1]; 4];
    assert!(model.all_logits(&four, None, |_, _, _| ()).is_err());
    model.finish(ids[1]).unwrap();
    assert!(matches!(model.decode(&[(ids[1], 1)]), Err(EngineError::UnknownSequence)));
    let fresh = model.start().unwrap();
    assert!(matches!(model.logits(fresh), Err(EngineError::NoLogits)));
}

#[test]
fn all_logits_gives_back_what_it_took_when_it_fails() {
    let mut model = plain();
    for prompts in [&[&[1u32] as &[u32]; 4] as &[&[u32]], &[&[1], &[]]] {
        assert!(model.all_logits(prompts, None, |_, _, _| ()).is_err());
        assert_eq!(model.free_pages(), model.pages());
    }
    assert!([(); 3].into_iter().all(|()| model.start().is_ok()));
}

#[test]
fn reserved_room_is_there_whatever_others_do() {
    let (mut model, _) = model(&LoadOptions { kv_tokens: Some(192), ..LoadOptions::default() });
    let (a, b) = (model.start().unwrap(), model.start().unwrap());
    model.reserve(a, 128).unwrap();
    assert!(model.feed(&[(b, &prompt(65, 1))]).is_err());
    model.feed(&[(b, &prompt(64, 1))]).unwrap();
    model.feed(&[(a, &prompt(128, 1))]).unwrap();
    assert!(matches!(model.decode(&[(a, 1)]), Err(EngineError::KvPagesExhausted { .. })));
}
