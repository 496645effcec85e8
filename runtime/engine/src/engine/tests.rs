//! On the hashing model of `testing`.

use super::*;
use crate::LoadOptions;
use crate::testing::{Step, greedy, model};
use std::collections::BTreeMap;

fn engine(options: LoadOptions<'_>) -> Engine {
    Engine::new(model(&options).0, None)
}

fn request(prompt: &[u32], max_tokens: u32) -> Request {
    Request {
        prompt: prompt.to_vec(),
        sampling: SamplingParams::greedy(),
        max_tokens: Some(max_tokens),
        ..Request::default()
    }
}

/// The tokens of every request, and how each ended.
type Outcome = BTreeMap<RequestId, (Vec<u32>, Option<(FinishReason, Usage)>)>;

fn take(outcome: &mut Outcome, events: &[Event]) {
    for event in events {
        match event {
            Event::Token { request, id, .. } => {
                let (tokens, end) = outcome.entry(*request).or_default();
                assert!(end.is_none(), "no token after the end");
                tokens.push(*id);
            }
            Event::Finished { request, reason, usage, .. } => {
                let (_, end) = outcome.entry(*request).or_default();
                assert!(end.replace((reason.clone(), *usage)).is_none(), "one end");
            }
        }
    }
}

fn run(engine: &mut Engine) -> Outcome {
    let mut outcome = Outcome::new();
    while !engine.is_idle() {
        take(&mut outcome, engine.step().unwrap());
    }
    outcome
}

fn prompts() -> Vec<Vec<u32>> {
    let lengths = [3, 130, 1, 64, 65, 200, 17];
    lengths.iter().map(|&n| (0..n).map(|i| (i * 5 + n) % 50).collect()).collect()
}

#[test]
fn more_requests_than_slots_are_all_served_as_if_alone() {
    for shuffle in [None, Some(1), Some(2)] {
        let mut engine = engine(LoadOptions { shuffle, ..LoadOptions::default() });
        let prompts = prompts();
        let submit = |p: &Vec<u32>| engine.submit(request(p, 20)).unwrap();
        let ids: Vec<_> = prompts.iter().map(submit).collect();
        let outcome = run(&mut engine);
        for (id, prompt) in ids.iter().zip(&prompts) {
            let usage = Usage { prompt_tokens: prompt.len() as u32, generated_tokens: 20 };
            let expected = (greedy(prompt, 20), Some((FinishReason::Length, usage)));
            assert_eq!(outcome[id], expected, "{shuffle:?}");
        }
        assert_eq!(engine.model.free_pages(), engine.model.pages());
    }
}

#[test]
fn a_request_that_comes_later_joins_those_that_run() {
    let mut engine = engine(LoadOptions::default());
    let mut outcome = Outcome::new();
    let first = engine.submit(request(&[1, 2], 10)).unwrap();
    for _ in 0..4 {
        take(&mut outcome, engine.step().unwrap());
    }
    let second = engine.submit(request(&[7], 3)).unwrap();
    while !engine.is_idle() {
        take(&mut outcome, engine.step().unwrap());
    }
    assert_eq!(outcome[&first].0, greedy(&[1, 2], 10));
    assert_eq!(outcome[&second].0, greedy(&[7], 3));
}

#[test]
fn prompts_are_read_side_by_side_and_before_answers() {
    let (model, steps) = model(&LoadOptions::default());
    let mut engine = Engine::new(model, None);
    engine.submit(request(&[1; 10], 2)).unwrap();
    engine.step().unwrap();
    engine.submit(request(&[2; 150], 1)).unwrap();
    engine.submit(request(&[3; 20], 2)).unwrap();
    run(&mut engine);
    let steps: Vec<_> =
        steps.lock().unwrap().iter().copied().filter(|s| !matches!(s, Step::Head { .. })).collect();
    let expected = [
        Step::Prefill { tokens: 10, seqs: 1 },
        Step::Prefill { tokens: 128, seqs: 1 },
        Step::Prefill { tokens: 42, seqs: 2 },
        Step::Decode { seqs: 2 },
    ];
    assert_eq!(steps, expected);
}

#[test]
fn a_stop_id_ends_its_request_without_being_shown() {
    let expected = greedy(&[4, 2], 30);
    let stop = expected[12];
    let before = expected.iter().position(|&id| id == stop).unwrap();
    let mut engine = engine(LoadOptions::default());
    let stopped = Request { stop_ids: vec![stop], ..request(&[4, 2], 30) };
    let stopped = engine.submit(stopped).unwrap();
    let other = engine.submit(request(&[4, 2], 30)).unwrap();
    let outcome = run(&mut engine);
    assert_eq!(outcome[&stopped].0, expected[..before]);
    let (reason, usage) = outcome[&stopped].1.clone().unwrap();
    assert_eq!(reason, FinishReason::StopId(stop));
    assert_eq!(usage.generated_tokens as usize, before + 1);
    assert_eq!(outcome[&other].0, expected);
}

#[test]
fn the_context_is_a_limit_by_itself() {
    let mut engine = engine(LoadOptions::default());
    let full = engine.submit(request(&[1; 300], 50)).unwrap();
    let nearly = Request { max_tokens: None, ..request(&[1; 298], 0) };
    let nearly = engine.submit(nearly).unwrap();
    let outcome = run(&mut engine);
    assert_eq!(outcome[&full].0, greedy(&[1; 300], 1));
    assert_eq!(outcome[&nearly].0, greedy(&[1; 298], 3));
}

#[test]
fn with_few_pages_requests_wait_instead_of_failing() {
    let mut engine = engine(LoadOptions { kv_tokens: Some(128), ..LoadOptions::default() });
    let prompts = [vec![1; 60], vec![2; 60], vec![3; 5]];
    let submit = |p: &Vec<u32>| engine.submit(request(p, 20)).unwrap();
    let ids: Vec<_> = prompts.iter().map(submit).collect();
    let outcome = run(&mut engine);
    for (id, prompt) in ids.iter().zip(&prompts) {
        assert_eq!(outcome[id].0, greedy(prompt, 20));
    }
    let all = Request { max_tokens: None, ..request(&[1; 100], 0) };
    let all = engine.submit(all).unwrap();
    assert_eq!(run(&mut engine)[&all].0, greedy(&[1; 100], 29), "as many as 128 have room for");
}

#[test]
fn what_can_never_run_is_refused_at_once() {
    let mut engine = engine(LoadOptions { kv_tokens: Some(128), ..LoadOptions::default() });
    let mut refusal = |request: Request| engine.submit(request).unwrap_err();
    assert!(matches!(refusal(request(&[], 1)), EngineError::EmptyPrompt));
    assert!(matches!(
        refusal(request(&[1, 50], 1)),
        EngineError::TokenOutOfRange { id: 50, vocab: 50 }
    ));
    assert!(matches!(
        refusal(request(&[1; 301], 1)),
        EngineError::TooLong { tokens: 301, max_context: 300 }
    ));
    assert!(matches!(
        refusal(request(&[1; 100], 100)),
        EngineError::KvPagesExhausted { needed: 4, free: 2, total: 2 }
    ));
    let long = Request { max_tokens: None, ..request(&[1; 200], 0) };
    assert!(matches!(refusal(long), EngineError::KvPagesExhausted { .. }));
    let hot = SamplingParams { temperature: -1.0, ..SamplingParams::default() };
    let hot = Request { sampling: hot, ..request(&[1], 1) };
    assert!(matches!(refusal(hot), EngineError::Sampling(_)));
    let stop = |s: &str| Request { stop_strings: vec![s.into()], ..request(&[1], 1) };
    assert!(matches!(refusal(stop("")), EngineError::Stop(_)));
    assert!(matches!(refusal(stop("x")), EngineError::StopWithoutTokenizer));
    assert!(engine.is_idle());
}

#[test]
fn a_cancelled_request_is_gone_and_leaves_its_room() {
    let mut engine = engine(LoadOptions::default());
    let running = engine.submit(request(&[1], 50)).unwrap();
    engine.step().unwrap();
    let waiting = engine.submit(request(&[2], 50)).unwrap();
    engine.cancel(running);
    engine.cancel(waiting);
    assert!(engine.is_idle());
    assert_eq!(engine.step().unwrap(), []);
    assert_eq!(engine.model.free_pages(), engine.model.pages());
    let next = engine.submit(request(&[3], 5)).unwrap();
    assert_eq!(run(&mut engine)[&next].0, greedy(&[3], 5));
}

#[test]
fn no_tokens_at_all_can_be_asked_for() {
    let mut engine = engine(LoadOptions::default());
    let none = engine.submit(request(&[1, 2, 3], 0)).unwrap();
    let outcome = run(&mut engine);
    let usage = Usage { prompt_tokens: 3, generated_tokens: 0 };
    assert_eq!(outcome[&none], (vec![], Some((FinishReason::Length, usage))));
}
