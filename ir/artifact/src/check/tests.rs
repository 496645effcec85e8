use crate::sample;
use crate::*;
use q35_types::{Count, DType};

/// What `check` says of the sample after `change`.
fn said(change: impl FnOnce(&mut Artifact)) -> String {
    let mut artifact = sample::artifact();
    change(&mut artifact);
    match artifact.check() {
        Ok(()) => "nothing".into(),
        Err(e) => e.to_string(),
    }
}

fn said_of_plan(change: impl FnOnce(&mut Plan)) -> String {
    said(|a| change(&mut a.targets[0].plan))
}

/// Of a weight: 0 embedding, 1 padded and per layer, 2 experts, 3 made of numbers.
fn said_of_weight(weight: usize, change: impl FnOnce(&mut Weight)) -> String {
    said(|a| change(&mut a.manifest.weights[weight]))
}

/// Of a launch of block 1 of `prefill`: 0 `mix`, 1 `experts`.
fn said_of_launch(launch: usize, change: impl FnOnce(&mut Launch)) -> String {
    said_of_plan(|p| change(&mut p.entries[0].blocks[1].launches[launch]))
}

#[test]
fn a_sound_artifact_passes() {
    assert_eq!(said(|_| ()), "nothing");
}

#[test]
fn facts_about_the_model_are_in_range() {
    assert_eq!(
        said(|a| a.model.layers.clear()),
        "section `model`: `layers` is 0, expected 1 to 4096"
    );
    assert_eq!(
        said(|a| a.model.max_chunk = 100),
        "section `model`: `max_chunk` is 100, expected 128"
    );
    assert_eq!(
        said(|a| a.model.experts = Some(Experts { count: 4, chosen: 5 })),
        "section `model`: `experts.chosen` is 5, expected 1 to 4"
    );
    assert_eq!(said(|a| a.model.eos.push(20)), "section `model`: `eos[1]` is 20, expected 0 to 19");
    assert_eq!(
        said(|a| a.model.kv = DType::I32),
        "section `model`: `kv` is i32, expected f32, f16 or bf16"
    );
}

#[test]
fn recipes_give_the_rows_of_their_weight() {
    assert_eq!(
        said_of_weight(1, |w| w.rows = 25),
        "section `manifest`: `weights[1].recipes[0]` has 24 rows, expected 25"
    );
    assert_eq!(
        said_of_weight(2, |w| w.recipes[1].clear()),
        "section `manifest`: `weights[2].recipes[1]` has 0 rows, expected 8"
    );
    assert_eq!(
        said_of_weight(2, |w| w.recipes.clear()),
        "section `manifest`: `weights[2].recipes` is empty"
    );
    assert_eq!(
        said_of_weight(3, |w| w.recipes[0][0] = Part::Values { bits: vec![0; 5] }),
        "section `manifest`: `weights[3].recipes[0][0].values.bits` is 5, expected 8"
    );
}

#[test]
fn recipes_stay_inside_their_tensors() {
    let with = |change: fn(&mut Part)| said_of_weight(2, |w| change(&mut w.recipes[0][0]));
    let rows = "section `manifest`: `weights[2].recipes[0][0].rows";
    assert_eq!(
        with(|p| {
            let Part::Rows { first, .. } = p else { panic!("rows") };
            *first = 1;
        }),
        format!("{rows}` ends at row 33 of a tensor of 32 rows")
    );
    assert_eq!(
        with(|p| {
            let Part::Rows { per_expert, .. } = p else { panic!("rows") };
            *per_expert = u64::MAX;
        }),
        format!("{rows}` ends at row 18446744073709551615 of a tensor of 32 rows")
    );
    assert_eq!(
        with(|p| {
            let Part::Rows { shape, .. } = p else { panic!("rows") };
            *shape = vec![2, 5];
        }),
        format!("{rows}.shape` is 10, expected 12")
    );
    assert_eq!(
        with(|p| {
            let Part::Rows { shape, .. } = p else { panic!("rows") };
            *shape = vec![1 << 40, 1 << 40];
        }),
        format!("{rows}.shape` is 18446744073709551615, expected 1 to 1099511627776")
    );
}

#[test]
fn weights_have_names_and_sizes() {
    assert_eq!(
        said_of_weight(3, |w| w.name = "model.embed_tokens.weight".into()),
        "section `manifest`: `weights[3].name` is there twice"
    );
    assert_eq!(
        said_of_weight(3, |w| w.name = "rope.{layer}".into()),
        "section `manifest`: `weights[3].name` is \"rope.{layer}\", expected no `{layer}`, which \
         the weight does not have"
    );
    assert_eq!(
        said_of_weight(1, |w| w.layers = vec![0, 2]),
        "section `manifest`: `weights[1].layers` is index 2 into 2 layers"
    );
    assert_eq!(
        said_of_weight(1, |w| w.layers = vec![1, 0]),
        "section `manifest`: `weights[1].layers` is [1, 0], expected ascending numbers"
    );
    assert_eq!(
        said_of_weight(2, |w| w.experts = Some(5)),
        "section `manifest`: `weights[2].experts` is 5, expected 1 to 4"
    );
    assert_eq!(
        said_of_weight(0, |w| (w.rows, w.cols) = (1 << 28, 1 << 28)),
        "section `manifest`: `weights[0]` is 144115188075855872, expected 1 to 1099511627776"
    );
    assert_eq!(
        said(|a| a.manifest.ignored.push(String::new())),
        "section `manifest`: `ignored[1]` is empty"
    );
}

#[test]
fn all_weights_together_have_a_size() {
    let large = |w: &mut Weight| {
        (w.rows, w.cols) = (1 << 20, 1 << 19);
        w.recipes = vec![vec![Part::Zeros { rows: 1 << 20 }]];
    };
    assert_eq!(said_of_weight(0, large), "nothing");
    let total = 8 * ((1u64 << 40) + 32 * 4) + 20 * 8 * 2 + 2 * 32 * 8 * 2 - 8 * 32 * 4;
    assert!(total < 1 << 46, "eight experts fit");
    let said = said(|a| {
        a.model.layers = vec![LayerKind::LinearAttention; 20];
        a.manifest.weights[2].layers = (0..20).collect();
        large(&mut a.manifest.weights[2]);
    });
    assert_eq!(
        said,
        format!(
            "section `manifest`: `weights[2]` is {}, expected 1 to 70368744177664",
            80 * (1u64 << 40) + 20 * 8 * 2 + 2 * 32 * 8 * 2
        )
    );
}

#[test]
fn a_plan_fits_its_model() {
    assert_eq!(said_of_plan(|p| p.vocab = 21), "section `plan.cpu`: `vocab` is 21, expected 20");
    assert_eq!(
        said_of_plan(|p| p.step.max_tokens = 63),
        "section `plan.cpu`: `step.max_tokens` is 63, expected 64 to 268435456"
    );
    assert_eq!(
        said_of_plan(|p| p.step.max_pages = 1),
        "section `plan.cpu`: `step.max_pages` is 1, expected 2 to 268435456"
    );
    assert_eq!(
        said_of_plan(|p| p.step.max_pages = 1 << 28),
        "section `plan.cpu`: `step.words` is 536871280, expected 0 to 268435456"
    );
}

#[test]
fn the_words_of_a_step_are_those_of_its_layout() {
    // The check computes them in `u64`, on its own; the limit lies between these two.
    let words = |max_pages| {
        let mut plan = sample::artifact().targets.remove(0).plan;
        plan.step.max_pages = max_pages;
        plan.step.words()
    };
    let most = ((1 << 28) - words(0)) / 2;
    assert!(words(most) <= 1 << 28 && words(most + 1) > 1 << 28);
    assert_eq!(said_of_plan(|p| p.step.max_pages = most), "nothing");
    assert!(said_of_plan(|p| p.step.max_pages = most + 1).contains("step.words"));
}

#[test]
fn results_of_entries_that_a_plan_may_have_are_there_to_be_read() {
    let with = |name: &str, buffers: &[(&str, u64)]| {
        said_of_plan(|p| {
            let head = p.entries[2].clone();
            p.entries.push(Entry { name: name.into(), ..head });
            let buffer = |&(name, bytes): &(&str, u64)| Buffer { name: name.into(), bytes };
            p.buffers.extend(buffers.iter().map(buffer));
        })
    };
    assert_eq!(with("greedy", &[("likeliest", 8)]), "nothing");
    assert!(with("greedy", &[]).contains("`buffers.likeliest` is missing"));
    assert!(with("greedy", &[("likeliest", 7)]).contains("`buffers[1].bytes` is 7, expected 8"));

    let candidates =
        |ids, logits| with("candidates", &[("candidates", ids), ("candidate_logits", logits)]);
    assert_eq!(candidates(48, 48), "nothing");
    assert!(candidates(44, 44).contains("`buffers[1].bytes` is 44, expected 40"));
    assert!(candidates(48, 40).contains("`buffers[2].bytes` is 40, expected 48"));
    assert!(candidates(8 << 13, 8 << 13).contains("is 65536, expected 8 to 32768"));
    let half = with("candidates", &[("candidates", 48)]);
    assert!(half.contains("`buffers.candidate_logits` is missing"));
}

#[test]
fn memory_has_names_and_sizes() {
    assert_eq!(
        said_of_plan(|p| p.arena_bytes = u64::MAX),
        "section `plan.cpu`: `arena_bytes` is 18446744073709551615, expected 0 to 1099511627776"
    );
    assert_eq!(
        said_of_plan(|p| p.buffers[0].name = "other".into()),
        "section `plan.cpu`: `buffers.logits` is missing"
    );
    assert_eq!(
        said_of_plan(|p| p.buffers[0].bytes = 159),
        "section `plan.cpu`: `buffers[0].bytes` is 159, expected 160 to 1099511627776"
    );
    assert_eq!(
        said_of_plan(|p| p.states[1].unit_bytes = 1 << 41),
        "section `plan.cpu`: `states[1].unit_bytes` is 2199023255552, expected 1 to 1099511627776"
    );
    assert_eq!(
        said_of_plan(|p| p.states[1].name = "delta".into()),
        "section `plan.cpu`: `states[1].name` is there twice"
    );
    assert_eq!(
        said_of_plan(|p| p.kernels[1].shared_bytes = u32::MAX),
        "section `plan.cpu`: `kernels[1].shared_bytes` is 4294967295, expected 0 to 67108864"
    );
}

#[test]
fn kernels_have_names_that_files_can_have() {
    for name in ["", "../up", "a/b", ".hidden", "two words", "-o", "é"] {
        let said = said_of_plan(|p| p.kernels[0].name = name.into());
        let start = format!("section `plan.cpu`: `kernels[0].name` is {name:?}, expected");
        assert!(said.starts_with(&start), "{said}");
    }
}

#[test]
fn entry_points_are_there_and_run_blocks_that_are() {
    assert_eq!(
        said_of_plan(|p| drop(p.entries.remove(1))),
        "section `plan.cpu`: `entries.decode` is missing"
    );
    assert_eq!(
        said_of_plan(|p| p.entries[1].name = "prefill".into()),
        "section `plan.cpu`: `entries[1].name` is there twice"
    );
    assert_eq!(
        said_of_plan(|p| p.entries[0].max_tokens = 65),
        "section `plan.cpu`: `entries[0].max_tokens` is 65, expected 1 to 64"
    );
    assert_eq!(
        said_of_plan(|p| p.entries[0].sequence[1].0 = 3),
        "section `plan.cpu`: `entries[0].sequence[1]` is index 3 into 3 blocks"
    );
    assert_eq!(
        said_of_plan(|p| p.entries[0].sequence[2].1 = Some(2)),
        "section `plan.cpu`: `entries[0].sequence[2]` is index 2 into 2 layers"
    );
}

#[test]
fn no_step_has_launches_without_end() {
    let said = said_of_plan(|p| {
        let block = &mut p.entries[2].blocks[0].launches;
        *block = vec![block[0].clone(); 1 << 11];
        p.entries[2].sequence = vec![(0, None); (1 << 9) + 1];
    });
    assert_eq!(
        said,
        "section `plan.cpu`: `entries[2].sequence[512]` is 1050624, expected 0 to 1048576"
    );
}

#[test]
fn launches_name_what_is_there() {
    let launch = "section `plan.cpu`: `entries[0].blocks[1].launches";
    assert_eq!(
        said_of_launch(0, |l| l.kernel = 4),
        format!("{launch}[0].kernel` is index 4 into 4 kernels")
    );
    assert_eq!(
        said_of_launch(0, |l| l.args.truncate(3)),
        format!("{launch}[0].args.len` is 3, expected 4")
    );
    assert_eq!(
        said_of_launch(0, |l| l.args[0] = Arg::Weight(4)),
        format!("{launch}[0].args[0]` is index 4 into 4 weights")
    );
    assert_eq!(
        said_of_launch(0, |l| l.args[2] = Arg::State(2)),
        format!("{launch}[0].args[2]` is index 2 into 2 states")
    );
    assert_eq!(
        said_of_launch(0, |l| l.args[1] = Arg::Buffer(1)),
        format!("{launch}[0].args[1]` is index 1 into 1 buffers")
    );
}

#[test]
fn arena_ranges_lie_inside() {
    let with = |offset, bytes| said_of_launch(0, |l| l.args[1] = Arg::Arena { offset, bytes });
    let arg = "section `plan.cpu`: `entries[0].blocks[1].launches[0].args[1]";
    assert_eq!(with(0, 4096), "nothing");
    assert_eq!(with(4, 4096), format!("{arg}` is bytes 4 to 4 + 4096 of an arena of 4096 bytes"));
    assert_eq!(
        with(u64::MAX, 8),
        format!(
            "{arg}` is bytes 18446744073709551615 to 18446744073709551615 + 8 of an arena of \
             4096 bytes"
        )
    );
    assert_eq!(with(6, 8), format!("{arg}.offset` is 6, expected 4"));
}

#[test]
fn arguments_fit_their_parameters() {
    let arg = |i: usize| format!("section `plan.cpu`: `entries[0].blocks[1].launches[{i}].args");
    assert_eq!(
        said_of_launch(0, |l| l.args[0] = Arg::Weight(2)),
        format!("{}[0]` is a table of weights, but `w` is one buffer", arg(0))
    );
    assert_eq!(
        said_of_launch(1, |l| l.args[1] = Arg::Weight(1)),
        format!("{}[1]` is one weight, but `w` is a table of buffers", arg(1))
    );
    assert_eq!(
        said_of_launch(1, |l| l.args[1] = l.args[2]),
        format!("{}[1]` is one buffer, but `w` is a table of buffers", arg(1))
    );
    assert_eq!(
        said_of_launch(0, |l| l.args[1] = Arg::Weight(0)),
        format!("{}[1]` is a weight, but `x` is written", arg(0))
    );
    assert_eq!(
        said_of_launch(0, |l| l.args[0] = Arg::Weight(3)),
        format!("{}[0].dtype` is f32, expected bf16", arg(0))
    );
    assert_eq!(
        said_of_launch(0, |l| l.args[0] = Arg::Step),
        format!("{}[0]` is the step-parameter buffer, but `w` is not i32", arg(0))
    );
    assert_eq!(
        said_of_launch(0, |l| l.args[3] = Arg::Step),
        format!("{}[3]` is the step-parameter buffer, but `n` is written", arg(0))
    );
}

#[test]
fn blocks_run_only_for_layers_that_their_weights_and_states_have() {
    let launch = "section `plan.cpu`: `entries[0].blocks[1].launches[0].args";
    assert_eq!(
        said_of_plan(|p| p.entries[0].sequence[1].1 = Some(1)),
        format!(
            "{launch}[2]` is of `delta`, which has none for it, but the block runs for layer 1"
        )
    );
    assert_eq!(
        said_of_plan(|p| p.entries[0].sequence[1].1 = None),
        format!(
            "{launch}[0]` is of `layers.{{layer}}.mix`, which belongs to layers, but the block \
             runs for no layer"
        )
    );
    assert_eq!(
        said_of_weight(1, |w| w.layers = vec![1]),
        format!(
            "{launch}[0]` is of `layers.{{layer}}.mix`, which has none for it, but the block runs \
             for layer 0"
        )
    );
}

#[test]
fn numbers_of_tasks_can_be_computed() {
    let tasks = "section `plan.cpu`: `entries[0].blocks[1].launches[0].tasks";
    let with = |each, times| said_of_launch(0, |l| l.tasks = Tasks { each, times });
    assert_eq!(with(u32::MAX, Times::Once), "nothing");
    assert_eq!(
        with(1 << 26, Times::Step(Count::Tokens)),
        format!("{tasks}.each` is 4294967296, expected 0 to 4294967295")
    );
    assert_eq!(with(1, Times::Word { arg: 4 }), format!("{tasks}.times` is index 4 into 4 args"));
    for (arg, name) in [(0, "w"), (1, "x"), (2, "state")] {
        assert_eq!(
            with(1, Times::Word { arg }),
            format!(
                "{tasks}.times` is a number of tasks, but `{name}` is no i32 in the arena or a \
                 buffer"
            )
        );
    }
}

#[test]
fn costs_are_numbers() {
    for bad in [f64::NAN, f64::INFINITY, -1.0] {
        assert_eq!(
            said_of_launch(1, |l| l.cost.state.per_context = bad),
            "section `plan.cpu`: `entries[0].blocks[1].launches[1].cost` holds a number that is \
             negative or not finite"
        );
    }
}

#[test]
fn every_variant_has_code_for_every_kernel() {
    assert_eq!(
        said(|a| drop(a.targets[0].variants[1].kernels.pop())),
        "section `target.cpu`: `variants[1].kernels.len` is 3, expected 4"
    );
    assert_eq!(
        said(|a| a.targets[0].variants[1].kernels.swap(0, 1)),
        "section `target.cpu`: `variants[1].kernels[0]` is mix, expected embed"
    );
    assert_eq!(
        said(|a| a.targets[0].variants[0].kernels[2].1.clear()),
        "section `target.cpu`: `variants[0].kernels[2]` is empty"
    );
    assert_eq!(
        said(|a| a.targets[0].variants.clear()),
        "section `target.cpu`: `variants` is empty"
    );
}

#[test]
fn names_of_sections_and_files_are_plain_and_differ() {
    assert_eq!(
        said(|a| a.targets[0].variants[1].name = "sse2".into()),
        "section `target.cpu`: `variants[1].name` is there twice"
    );
    assert!(said(|a| a.graphs[0].0 = "a/b".into()).contains("`graphs[0].name` is \"a/b\""));
    assert!(said(|a| a.targets[0].name = "".into()).contains("`targets[0].name` is \"\""));
    let again = said(|a| {
        let mut other = a.targets[0].clone();
        other.name = "other".into();
        a.targets.push(other);
    });
    assert_eq!(again, "section `target.other`: `variants[0].extension` is there twice");
}
