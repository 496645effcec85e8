//! What the sampler promises, mostly as statistics of many draws with fixed seeds.

use super::*;

fn sampler(params: SamplingParams) -> Sampler {
    Sampler::new(SamplingParams { seed: params.seed.or(Some(42)), ..params }, u32::MAX).unwrap()
}

/// How often each id is drawn. Penalties would make draws depend on each other; off here.
fn counts(params: SamplingParams, logits: &[f32], draws: usize) -> Vec<f64> {
    let mut sampler = sampler(params);
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(logits).unwrap() as usize] += 1.0;
    }
    counts
}

/// Assert that draws follow `weights`; ids of weight 0 must never come.
fn follows(params: SamplingParams, logits: &[f32], weights: &[f64]) {
    const DRAWS: usize = 20_000;
    let total: f64 = weights.iter().sum();
    let mut chi2 = 0.0;
    for (id, (count, weight)) in counts(params, logits, DRAWS).iter().zip(weights).enumerate() {
        if *weight == 0.0 {
            assert_eq!(*count, 0.0, "id {id} must not be drawn");
        } else {
            let expected = DRAWS as f64 * weight / total;
            chi2 += (count - expected).powi(2) / expected;
        }
    }
    // Up to 7 degrees of freedom here: 99.9 % lie below 24.3.
    assert!(chi2 < 24.3, "chi-square is {chi2}");
}

/// Logits whose softmax is .40 .25 .15 .10 .05 .03 .015 .005, in an order that is no rank.
const PROBABILITIES: [f64; 8] = [0.10, 0.40, 0.005, 0.25, 0.03, 0.15, 0.015, 0.05];

fn logits() -> Vec<f32> {
    PROBABILITIES.iter().map(|p| (p.ln() + 3.0) as f32).collect()
}

fn only(ids: &[usize]) -> Vec<f64> {
    (0..8).map(|id| if ids.contains(&id) { PROBABILITIES[id] } else { 0.0 }).collect()
}

#[test]
fn without_controls_draws_follow_the_softmax() {
    follows(SamplingParams::default(), &logits(), &PROBABILITIES);
}

#[test]
fn temperature_sharpens_and_flattens() {
    for temperature in [0.5, 2.0] {
        let weights = PROBABILITIES.map(|p| p.powf(1.0 / f64::from(temperature)));
        follows(SamplingParams { temperature, ..Default::default() }, &logits(), &weights);
    }
}

#[test]
fn top_k_keeps_the_likeliest() {
    follows(SamplingParams { top_k: 3, ..Default::default() }, &logits(), &only(&[1, 3, 5]));
}

#[test]
fn top_p_keeps_the_token_that_reaches_the_mass() {
    // .40 + .25 + .15 = .80 and the next one makes .90.
    follows(SamplingParams { top_p: 0.85, ..Default::default() }, &logits(), &only(&[0, 1, 3, 5]));
}

#[test]
fn top_p_measures_what_top_k_left() {
    // Of .40, .25, .15 the first two are 81 %; of everything they are 65 %.
    let params = SamplingParams { top_k: 3, top_p: 0.75, ..Default::default() };
    follows(params, &logits(), &only(&[1, 3]));
}

#[test]
fn min_p_keeps_a_share_of_the_likeliest() {
    // A third of .40.
    follows(SamplingParams { min_p: 0.3333, ..Default::default() }, &logits(), &only(&[1, 3, 5]));
}

#[test]
fn filters_come_after_temperature() {
    // At temperature 2 the first two weigh .632 and .5 of 2.43 in all: short of .55 together.
    let params = SamplingParams { temperature: 2.0, top_p: 0.55, ..Default::default() };
    let weights: Vec<f64> = only(&[1, 3, 5]).iter().map(|p| p.sqrt()).collect();
    follows(params, &logits(), &weights);
}

#[test]
fn the_same_seed_gives_the_same_tokens_and_another_one_others() {
    let draw = |seed| -> Vec<u32> {
        let mut sampler = sampler(SamplingParams { seed: Some(seed), ..Default::default() });
        (0..64).map(|_| sampler.sample(&logits()).unwrap()).collect()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn the_tokens_of_a_seed_stay_what_they_are() {
    let mut sampler =
        sampler(SamplingParams { seed: Some(2024), top_p: 0.95, ..Default::default() });
    let drawn: Vec<u32> = (0..16).map(|_| sampler.sample(&logits()).unwrap()).collect();
    assert_eq!(drawn, RECORDED);
}

/// A change here changes every recorded conversation: it must be meant.
const RECORDED: [u32; 16] = [3, 1, 1, 3, 5, 5, 7, 3, 1, 1, 3, 5, 3, 3, 1, 0];

/// The tokens in play by rank, all of them.
fn ranked(logits: &[f32]) -> Vec<Ranked> {
    let mut ranked: Vec<Ranked> =
        logits.iter().zip(0..).map(|(&logit, id)| Ranked { id, logit }).collect();
    ranked.retain(|r| r.logit > f32::NEG_INFINITY);
    ranked.sort_by(|a, b| b.logit.partial_cmp(&a.logit).unwrap());
    ranked
}

#[test]
fn what_is_drawn_does_not_depend_on_how_much_was_taken() {
    // Ties, among them those of the largest number, and what is not in play.
    let mut logits: Vec<f32> = (0..200).map(|id| (id * 37 % 23) as f32 / 3.0).collect();
    logits.extend([f32::NAN, f32::NEG_INFINITY]);
    let spiked = [&logits[..], &[f32::MAX, f32::INFINITY, f32::MAX]].concat();
    let params = SamplingParams { top_k: 20, top_p: 0.9, min_p: 0.05, ..Default::default() };
    let kept = [
        SamplingParams { top_k: 32, ..Default::default() },
        SamplingParams { top_k: 1, ..Default::default() },
        SamplingParams { temperature: 0.3, ..params.clone() },
        params,
    ];
    for (logits, params) in
        [&logits, &spiked].into_iter().flat_map(|l| kept.iter().map(move |p| (l, p)))
    {
        let (mut all, mut few) = (sampler(params.clone()), sampler(params.clone()));
        assert_eq!(few.needs(32), Take::Candidates);
        let best = &ranked(logits)[..32];
        for n in 0..300 {
            // Not always the same way: a neighbour may need more.
            let taken = if n % 3 == 0 { Taken::Logits(logits) } else { Taken::Candidates(best) };
            assert_eq!(few.sample_taken(taken), all.sample(logits), "{params:?}");
        }
    }
}

#[test]
fn a_greedy_sampler_takes_what_there_is() {
    let logits = [1.0, f32::NAN, 3.0, 3.0, f32::NEG_INFINITY];
    let best = ranked(&logits);
    let mut sampler = sampler(SamplingParams::greedy());
    for taken in [Taken::Logits(&logits), Taken::Candidates(&best), Taken::Likeliest(Some(2))] {
        assert_eq!(sampler.sample_taken(taken), Ok(2));
    }
    for nothing in [Taken::Candidates(&[]), Taken::Likeliest(None)] {
        assert!(sampler.sample_taken(nothing).is_err());
    }
}

#[test]
fn a_sampler_needs_no_more_than_its_controls_look_at() {
    let needs = |params| sampler(params).needs(32);
    let top = |top_k| SamplingParams { top_k, ..Default::default() };
    assert_eq!(needs(SamplingParams::greedy()), Take::Likeliest);
    assert_eq!(needs(SamplingParams { temperature: 0.0, ..top(20) }), Take::Likeliest);
    assert_eq!([top(1), top(32)].map(needs), [Take::Candidates; 2]);
    assert_eq!([top(0), top(33)].map(needs), [Take::Logits; 2]);
    let penalised = SamplingParams { presence_penalty: 1.5, ..SamplingParams::greedy() };
    assert_eq!(needs(penalised), Take::Logits);
    assert_eq!(needs(SamplingParams { repetition_penalty: 1.1, ..top(20) }), Take::Logits);
    assert_eq!(sampler(top(20)).needs(0), Take::Logits, "a device without candidates");
}

#[test]
fn fresh_seeds_differ_and_can_be_repeated() {
    let fresh = || Sampler::new(SamplingParams::default(), 8).unwrap();
    let (mut first, second) = (fresh(), fresh());
    assert_ne!(first.seed(), second.seed());
    let mut again = sampler(SamplingParams { seed: Some(first.seed()), ..Default::default() });
    for _ in 0..32 {
        assert_eq!(first.sample(&logits()), again.sample(&logits()));
    }
}

#[test]
fn greedy_takes_the_lowest_of_equals() {
    let logits = [1.0, f32::NAN, 3.0, 3.0, f32::NEG_INFINITY];
    let cold = SamplingParams { temperature: 0.0, ..Default::default() };
    for params in [SamplingParams::greedy(), cold] {
        assert_eq!(sampler(params).sample(&logits), Ok(2));
    }
}

#[test]
fn greedy_takes_the_likeliest_after_penalties() {
    let params = SamplingParams { presence_penalty: 1.0, ..SamplingParams::greedy() };
    let mut sampler = sampler(params);
    let drawn: Vec<u32> = (0..4).map(|_| sampler.sample(&[2.0, 1.5, 0.0]).unwrap()).collect();
    assert_eq!(drawn, [0, 1, 0, 0]);
}

#[test]
fn tokens_chosen_by_others_count_as_generated() {
    let params = SamplingParams { presence_penalty: 1.0, ..SamplingParams::greedy() };
    let mut sampler = sampler(params);
    sampler.see_generated(0);
    assert_eq!(sampler.sample(&[2.0, 1.5, 0.0]), Ok(1));
}

#[test]
fn repetition_penalty_looks_at_the_prompt() {
    let params = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::greedy() };
    let mut sampler = sampler(params);
    sampler.see_prompt(&[0]);
    assert_eq!(sampler.sample(&[2.0, 1.5, 0.0]), Ok(1));
}

#[test]
fn padding_is_never_chosen() {
    let logits = [0.0, 0.0, 9.0, f32::INFINITY];
    for params in [SamplingParams::default(), SamplingParams::greedy()] {
        let mut sampler = Sampler::new(params, 2).unwrap();
        assert!((0..100).all(|_| sampler.sample(&logits).unwrap() < 2));
    }
}

#[test]
fn the_padding_does_not_move_the_draws() {
    let (mut padded, mut plain) =
        (sampler(SamplingParams::default()), sampler(SamplingParams::default()));
    padded.valid_ids = 8;
    let longer = [logits(), vec![5.0; 3]].concat();
    for _ in 0..100 {
        assert_eq!(padded.sample(&longer), plain.sample(&logits()));
    }
}

#[test]
fn what_is_no_number_is_never_chosen_and_infinity_always() {
    let filters = SamplingParams { top_k: 2, top_p: 0.9, min_p: 0.1, ..Default::default() };
    let penalties =
        SamplingParams { repetition_penalty: 1.3, frequency_penalty: 0.1, ..Default::default() };
    for params in [SamplingParams::default(), filters, penalties, SamplingParams::greedy()] {
        let mut sampler = sampler(params);
        sampler.see_prompt(&[0, 1]);
        for _ in 0..50 {
            assert_eq!(sampler.sample(&[f32::NAN, f32::NEG_INFINITY, -1e30]), Ok(2));
            assert_eq!(sampler.sample(&[0.0, f32::INFINITY, f32::NAN]), Ok(1));
        }
    }
}

#[test]
fn no_number_at_all_is_an_error() {
    for params in [SamplingParams::default(), SamplingParams::greedy()] {
        let mut sampler = sampler(params);
        assert_eq!(sampler.sample(&[f32::NAN, f32::NEG_INFINITY]), Err(NoToken { ids: 2 }));
        assert_eq!(sampler.sample(&[]), Err(NoToken { ids: 0 }));
    }
}

#[test]
fn extreme_controls_still_give_a_token_in_play() {
    let params = SamplingParams {
        temperature: f32::MIN_POSITIVE,
        top_k: u32::MAX,
        top_p: f32::MIN_POSITIVE,
        min_p: 1.0,
        ..Default::default()
    };
    assert_eq!(sampler(params).sample(&[f32::MIN, f32::MAX, 0.0]), Ok(1));
}

#[test]
fn invalid_params_make_no_sampler() {
    let params = SamplingParams { temperature: f32::NAN, ..Default::default() };
    assert_eq!(Sampler::new(params, 8).unwrap_err().name, "temperature");
}
