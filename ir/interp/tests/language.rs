//! What the evaluator defines: lanes, memory, order of sums, and the faults.

use q35_interp::kernel::{Arg, Counters, Fault, Program, Traffic, run};
use q35_kernel::text::parse;
use q35_kernel::{KernelBuilder, Machine, PanelArgs};
use q35_types::DType;

fn ints(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn as_ints(bytes: &[u8]) -> Vec<i32> {
    bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().expect("four"))).collect()
}

fn as_floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| DType::F32.read_f32(b)).collect()
}

/// Run the text on `out`, `n` words of -1, for one task.
fn words(lanes: u32, dtype: &str, n: usize, body: &str) -> (Vec<u8>, Result<Counters, Fault>) {
    let text = format!("kernel k lanes {lanes} param out: {dtype} readwrite {body}");
    let mut out = vec![0xff; n * 4];
    let result = run(&parse(&text).expect("it can be read"), &mut [Arg::Write(&mut out)], 0..1);
    (out, result)
}

#[track_caller]
fn gives(lanes: u32, body: &str, expected: &[i32]) {
    let (out, result) = words(lanes, "i32", expected.len(), body);
    result.expect("it runs");
    assert_eq!(as_ints(&out), expected);
}

#[track_caller]
fn gives_floats(lanes: u32, body: &str, expected: &[f32]) {
    let (out, result) = words(lanes, "f32", expected.len(), body);
    result.expect("it runs");
    assert_eq!(as_floats(&out), expected);
}

#[track_caller]
fn faults(lanes: u32, body: &str, message: &str) {
    let (_, result) = words(lanes, "i32", 4, body);
    assert_eq!(result.expect_err("it faults").to_string(), message);
}

#[test]
fn only_lanes_that_take_part_have_effects() {
    gives(
        4,
        "%0: i32 = lane %1: i32 = const 2 %2: i32 = const 10
         %3: bool = lt %0, %1
         %4: i32 = if %3 { store out[%0], %1 yield %2 } else { %5: i32 = add %2, %0 yield %5 }
         %6: bool = ge %0, %1
         if %6 { store out[%0], %4 }",
        &[2, 2, 12, 13],
    );
}

#[test]
fn lanes_go_round_a_loop_as_often_as_each_wants() {
    gives(
        4,
        "%0: i32 = lane %1: i32 = const 0 %2: i32 = const 5
         %3: i32 = for %4: i32 in %0..%2 step 2 carry %5: i32 = %1 { %6: i32 = add %5, %4 yield %6 }
         store out[%0], %3",
        &[2 + 4, 1 + 3, 2 + 4, 3],
    );
    gives(
        4,
        "%0: i32 = lane %1: i32 = const 0
         %2: i32 = for %3: i32 in %1..%0 step 1 carry %4: i32 = %1 {
            %5: i32 = for %6: i32 in %1..%3 step 1 carry %7: i32 = %4 {
                %8: i32 = const 1 %9: i32 = add %7, %8 yield %9
            }
            yield %5
         }
         store out[%0], %2",
        &[0, 0, 1, 3],
    );
}

#[test]
fn loops_at_the_ends_of_the_integers_stop() {
    gives(
        1,
        "%0: i32 = const 2147483640 %1: i32 = const 2147483647 %2: i32 = const 0 %3: i32 = const 1
         %4: i32 = for %5: i32 in %0..%1 step 4294967295 carry %6: i32 = %2 { %7: i32 = add %6, %3 yield %7 }
         %8: i32 = for %9: i32 in %1..%0 step 1 carry %10: i32 = %4 { yield %2 }
         store out[%2], %8",
        &[1],
    );
}

#[test]
fn a_loop_can_exchange_what_it_carries() {
    let body = |bound: &str| {
        format!(
            "%0: i32 = lane %1: i32 = const 7 %2: i32 = const 9 %3: i32 = const 3 %4: i32 = const 0
             %5: i32, %6: i32 = for %7: i32 in %4..{bound} step 1 carry %8: i32 = %1, %9: i32 = %2 {{ yield %9, %8 }}
             store out[%0], %5"
        )
    };
    gives(2, &body("%3"), &[9, 9]);
    gives(2, &body("%0"), &[7, 9]);
}

#[test]
fn comparisons_with_nan_are_false_and_min_and_max_take_the_right_operand() {
    gives_floats(
        1,
        "%0: f32 = const 0x7fc00000 %1: f32 = const 1.0 %2: f32 = const 0.0 %3: i32 = const 0
         %4: bool = lt %0, %1 %5: bool = ge %0, %1 %6: bool = or %4, %5 %7: bool = eq %0, %0 %8: bool = or %6, %7
         %9: bool = ne %0, %0 %10: bool = not %8 %11: bool = and %9, %10
         %12: f32 = select %11, %1, %2
         store out[%3], %12
         %13: i32 = const 1 %14: f32 = min %0, %1 store out[%13], %14
         %15: i32 = const 2 %16: f32 = max %0, %1 store out[%15], %16
         %17: i32 = const 3 %18: f32 = max %1, %0 %19: bool = ne %18, %18 %20: f32 = select %19, %1, %2 store out[%17], %20",
        &[1.0, 1.0, 1.0, 1.0],
    );
}

#[test]
fn integers_wrap_and_divide_toward_zero() {
    gives(
        1,
        "%0: i32 = const 0 %1: i32 = const 1 %2: i32 = const 2 %3: i32 = const 3
         %4: i32 = const -7 %5: i32 = const 2147483647
         %6: i32 = div %4, %2 store out[%0], %6
         %7: i32 = rem %4, %2 store out[%1], %7
         %8: i32 = add %5, %5 store out[%2], %8
         %9: i32 = shr %4, %1 store out[%3], %9",
        &[-3, -1, -2, -4],
    );
}

#[test]
fn a_cluster_folds_neighbours_first_and_gives_all_its_lanes_the_result() {
    let values = [1e8f32, 1.0, -1e8, 2.0, 3.0, 0.25, 1e-8, 7.0];
    let four = |v: &[f32]| (v[0] + v[1]) + (v[2] + v[3]);
    let (low, high) = (four(&values), four(&values[4..]));
    let x = floats(&values);
    for (size, expected) in
        [(1, values.to_vec()), (4, [[low; 4], [high; 4]].concat()), (8, vec![low + high; 8])]
    {
        let text = format!(
            "kernel k lanes 8 param x: f32 read param out: f32 write
             %0: i32 = lane %1: f32 = load x[%0] %2: f32 = cluster sum %1, {size} store out[%0], %2"
        );
        let mut out = vec![0; 32];
        let args = &mut [Arg::Read(&x), Arg::Write(&mut out)];
        let counters = run(&parse(&text).expect("it can be read"), args, 0..1).expect("it runs");
        assert_eq!(as_floats(&out), expected, "{size}");
        assert_eq!(counters.flops, 8 / size * (size - 1), "{size}");
    }
}

#[test]
fn the_lower_lane_is_the_left_operand_of_a_fold() {
    // An operand that is no number gives the right one, so that in each pair the upper lane decides.
    let last = "%0: i32 = lane %1: i32 = const 2 %2: bool = lt %0, %1
        %3: f32 = const 0x7fc00000 %4: f32 = const 5.0";
    for op in ["min", "max"] {
        for (choice, expected) in [("%3, %4", 5.0), ("%4, %3", 7.0)] {
            let body = format!(
                "{last} %5: f32 = select %2, {choice} %6: f32 = cluster {op} %5, 4
                 %7: bool = ne %6, %6 %8: f32 = const 7.0 %9: f32 = select %7, %8, %6 store out[%0], %9"
            );
            gives_floats(4, &body, &[expected; 4]);
        }
    }
}

#[test]
fn clusters_fold_vectors_and_integers() {
    gives(
        4,
        "%0: i32 = lane %1: i32 = const 10 %2: i32 = sub %1, %0 %3: i32x2 = vector %0, %2
         %4: i32x2 = cluster min %3, 2 %5: i32x2 = cluster max %3, 4 %6: i32x2 = cluster sum %3, 2
         %7: i32 = const 6 %8: i32 = mul %0, %7 store out[%8], %4
         %9: i32 = const 2 %11: i32 = add %8, %9 store out[%11], %5
         %10: i32 = add %11, %9 store out[%10], %6",
        &[[0, 9, 3, 10, 1, 19], [0, 9, 3, 10, 1, 19], [2, 7, 3, 10, 5, 15], [2, 7, 3, 10, 5, 15]]
            .concat(),
    );
}

#[test]
fn lanes_know_their_subgroup() {
    let kernel = "kernel k lanes 12 subgroup 4 param out: i32 write
        %0: i32 = lane %1: i32 = subgroup store out[%0], %1";
    let mut out = vec![0; 48];
    run(&parse(kernel).expect("it can be read"), &mut [Arg::Write(&mut out)], 0..1)
        .expect("it runs");
    assert_eq!(as_ints(&out), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
}

#[test]
fn vectors_are_made_of_scalars_lane_by_lane() {
    gives(
        2,
        "%0: i32 = lane %1: i32 = const 7 %2: i32 = const 4 %3: i32 = mul %0, %2 %4: i32 = sub %1, %0
         %5: i32x4 = vector %1, %0, %4, %3 store out[%3], %5",
        &[7, 0, 7, 0, 7, 1, 6, 4],
    );
}

#[test]
fn floats_become_integers_toward_zero_and_within_range() {
    let values = [1.9f32, -1.9, -0.0, 0.0, 2_147_483_520.0, 3e9, f32::INFINITY, f32::NEG_INFINITY];
    let text = "kernel k lanes 1 param x: f32 read param out: i32 write
        %0: i32 = const 0 %1: f32x8 = load x[%0] %2: i32x8 = float_to_int %1 store out[%0], %2
        %3: i32 = const 8 %4: f32 = const 0x7fc00000 %5: i32 = float_to_int %4 store out[%3], %5";
    let (x, mut out) = (floats(&values), vec![0xff; 36]);
    let args = &mut [Arg::Read(&x), Arg::Write(&mut out)];
    run(&parse(text).expect("it can be read"), args, 0..1).expect("it runs");
    let expected = [1, -1, 0, 0, 2_147_483_520, i32::MAX, i32::MAX, i32::MIN, 0];
    assert_eq!(as_ints(&out), expected);
}

#[test]
fn a_scan_includes_its_own_lane() {
    gives(5, "%0: i32 = lane %1: i32 = group_scan %0 store out[%0], %1", &[0, 1, 3, 6, 10]);
}

#[test]
fn narrow_floats_round_to_the_nearest_and_ties_to_even() {
    for (dtype, ulp) in [(DType::Bf16, 2f32.powi(-7)), (DType::F16, 2f32.powi(-10))] {
        let text = format!(
            "kernel k lanes 1 param x: f32 read param narrow: {dtype} readwrite param out: f32 write
             %0: i32 = const 0 %1: f32x4 = load x[%0] store narrow[%0], %1
             %2: f32x4 = load narrow[%0] store out[%0], %2"
        );
        let x = floats(&[1.0 + ulp / 2.0, 1.0 + ulp * 1.5, 1.0 + ulp * 0.51, 1e30]);
        let (mut narrow, mut out) = (vec![0; 8], vec![0; 16]);
        let args = &mut [Arg::Read(&x), Arg::Write(&mut narrow), Arg::Write(&mut out)];
        run(&parse(&text).expect("it can be read"), args, 0..1).expect("it runs");
        let last = if dtype == DType::F16 { f32::INFINITY } else { dtype.read_f32(&narrow[6..]) };
        assert_eq!(as_floats(&out), [1.0, 1.0 + 2.0 * ulp, 1.0 + ulp, last]);
    }
}

#[test]
fn narrow_shared_arrays_keep_what_a_narrow_buffer_would() {
    for (dtype, ulp) in [(DType::Bf16, 2f32.powi(-7)), (DType::F16, 2f32.powi(-10))] {
        let text = format!(
            "kernel k lanes 1 param x: f32 read param out: f32 write shared narrow: {dtype}[5]
             %0: i32 = const 0 %1: i32 = const 1 %2: f32x4 = load x[%0] store narrow[%1], %2
             %3: f32x4 = load narrow[%1] store out[%0], %3"
        );
        let x = floats(&[1.0 + ulp / 2.0, 1.0 + ulp * 1.5, 1.0 + ulp * 0.51, -0.0]);
        let mut out = vec![0; 16];
        let args = &mut [Arg::Read(&x), Arg::Write(&mut out)];
        let counters = run(&parse(&text).expect("it can be read"), args, 0..1).expect("it runs");
        assert_eq!(as_floats(&out), [1.0, 1.0 + 2.0 * ulp, 1.0 + ulp, -0.0]);
        assert_eq!(counters.shared, Traffic { loaded: 8, stored: 8 });
    }
}

#[test]
fn panel_dot_is_what_its_loops_are() {
    let (rows, panels, k) = (5, 3, 7);
    let kernel = |native: bool, accumulate: bool| {
        let b = KernelBuilder::new(
            "product",
            Machine { lanes: 1, subgroup: 1, fma: true, panel_dot: native },
        );
        let (x, w) = (b.input("x", DType::F32), b.input("w", DType::Bf16));
        let out = b.state("out", DType::F32);
        b.panel_dot(PanelArgs {
            x: b.at(x, 2),
            x_row: b.i(1),
            x_k: b.n(rows),
            w: b.at(w, 16),
            w_panel: b.n(16 * k),
            out: b.at(out, 1),
            out_row: b.n(16 * panels + 2),
            rows: b.n(rows),
            panels: b.n(panels),
            k: b.n(k),
            accumulate,
        });
        b.finish()
    };
    let x = floats(&(0..2 + rows * k).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>());
    let mut w = vec![0; 2 * (16 + 16 * k * panels)];
    w.chunks_exact_mut(2).enumerate().for_each(|(i, b)| DType::Bf16.write_f32((i as f32).cos(), b));
    for accumulate in [false, true] {
        let [native, loops] = [true, false].map(|native| {
            let mut out = floats(&vec![0.25; 1 + rows * (16 * panels + 2)]);
            let args = &mut [Arg::Read(&x), Arg::Read(&w), Arg::Write(&mut out)];
            let counters = run(&kernel(native, accumulate), args, 0..1).expect("it runs");
            (out, counters.flops)
        });
        assert_eq!(native, loops, "accumulate {accumulate}");
        assert_eq!(native.1, (2 * rows * panels * 16 * k) as u64);
        let first = as_floats(&native.0)[1];
        let x = as_floats(&x);
        let sum = (0..k).fold(if accumulate { 0.25 } else { 0.0 }, |sum, j| {
            x[2 + j * rows].mul_add(DType::Bf16.read_f32(&w[2 * (16 + 16 * j)..]), sum)
        });
        assert_eq!(first, sum);
    }
}

#[test]
fn tables_are_read_by_entry() {
    let text = "kernel k lanes 1 param list: i32 read table param out: i32 write
        %0: i32 = task %1: i32 = const 1 %2: i32 = load list[%0][%1] store out[%0], %2";
    let (a, b) = (ints(&[1, 2]), ints(&[3, 4, 5]));
    let mut out = vec![0; 12];
    let kernel = parse(text).expect("it can be read");
    let args = &mut [Arg::Table(&[&a, &b]), Arg::Write(&mut out)];
    let counters = run(&kernel, args, 0..2).expect("it runs");
    assert_eq!(counters.params[0], Traffic { loaded: 8, stored: 0 });
    let fault = run(&kernel, args, 2..3).expect_err("there is no third");
    assert_eq!(fault.to_string(), "`k`, task 2, lane 0: entry 2 of `list`, expected less than 2");
    assert_eq!(as_ints(&out), [2, 4, 0]);
}

#[test]
fn accesses_beyond_a_memory_are_faults() {
    let beyond = |index: &str| {
        format!(
            "`k`, task 0, lane 0: `out[{index}]` and 1 elements from there on, expected at most 4"
        )
    };
    faults(1, "%0: i32 = const 4 store out[%0], %0", &beyond("4"));
    faults(1, "%0: i32 = const -1 %1: i32 = load out[%0]", &beyond("-1"));
    faults(
        1,
        "%0: i32 = const 1 %1: i32x4 = splat %0 store out[%0], %1",
        "`k`, task 0, lane 0: `out[1]` and 4 elements from there on, expected at most 4",
    );
    faults(
        8,
        "shared a: i32[5] %0: i32 = lane store a[%0], %0",
        "`k`, task 0, lane 5: `a[5]` and 1 elements from there on, expected at most 5",
    );
    // A lane that takes no part may compute any index.
    gives(
        4,
        "%0: i32 = lane %1: i32 = const 1 %2: bool = lt %0, %1 if %2 { store out[%0], %0 }",
        &[0],
    );
}

#[test]
fn what_was_not_written_by_this_task_cannot_be_read_from_shared_arrays() {
    let first =
        "shared a: f32[2] %0: i32 = const 0 %1: i32 = const 1 %2: f32 = const 1.0 %3: i32 = task";
    faults(
        1,
        &format!("{first} store a[%0], %2 %4: f32x2 = load a[%0]"),
        "`k`, task 0, lane 0: `a[1]` is read, expected a write by this task first",
    );
    let text = format!(
        "kernel k lanes 1 {first} %4: bool = lt %3, %1
         if %4 {{ store a[%0], %2 }}
         %5: f32 = load a[%0]"
    );
    let kernel = parse(&text).expect("it can be read");
    let fault = run(&kernel, &mut [], 0..2).expect_err("the second task writes nothing");
    assert_eq!(
        fault.to_string(),
        "`k`, task 1, lane 0: `a[0]` is read, expected a write by this task first"
    );
}

#[test]
fn lanes_need_a_barrier_to_see_one_another() {
    let body = |between: &str| {
        format!(
            "shared a: i32[4] %0: i32 = lane %1: i32 = const 3 %2: i32 = sub %1, %0
             store a[%0], %0 {between} %3: i32 = load a[%2] store out[%0], %3"
        )
    };
    gives(4, &body("barrier"), &[3, 2, 1, 0]);
    let race = "is accessed by lane 3 too, expected a barrier between";
    faults(4, &body(""), &format!("`k`, task 0, lane 0: `a[3]` {race}"));
    let written = "shared a: i32[4] %0: i32 = lane %1: i32 = const 0 store a[%0], %0 barrier";
    faults(
        4,
        &format!("{written} %2: i32 = load a[%1] store a[%0], %2"),
        "`k`, task 0, lane 0: `a[0]` is accessed by lane 1 too, expected a barrier between",
    );
    faults(
        4,
        "shared a: i32[4] %0: i32 = lane %1: i32 = const 0 store a[%1], %0",
        "`k`, task 0, lane 1: `a[0]` is accessed by lane 0 too, expected a barrier between",
    );
    gives(
        4,
        &format!(
            "{written} %2: i32 = load a[%1] barrier store a[%0], %2 %3: i32 = load a[%0] store out[%0], %3"
        ),
        &[0; 4],
    );
}

#[test]
fn shifts_are_by_less_than_the_width() {
    faults(
        1,
        "%0: i32 = task %1: i32 = const 32 %2: i32 = add %0, %1 %3: i32 = shl %1, %2",
        "`k`, task 0, lane 0: shift by 32, expected 0 to 31",
    );
    gives(2, "%0: i32 = lane %1: i32 = const 31 %2: i32 = const 1 %3: i32 = sub %0, %2 %4: i32 = sub %2, %0
        %5: bool = lt %0, %2 if %5 { %6: i32 = shl %2, %1 store out[%0], %6 } else { %7: i32 = shl %1, %3 store out[%0], %7 }", &[i32::MIN, 31]);
}

#[test]
fn arguments_must_fit_the_parameters() {
    let kernel = parse("kernel k lanes 1 param x: f32 readwrite param t: f32 read table")
        .expect("it can be read");
    let mut bytes = vec![];
    let refused = |args: &mut [Arg<'_>], message: &str| {
        assert_eq!(run(&kernel, args, 0..1).expect_err("it does not fit").to_string(), message);
    };
    refused(&mut [], "`k` is given 0 arguments, expected 2");
    refused(
        &mut [Arg::Read(&[]), Arg::Table(&[])],
        "`k` is given a read-only buffer for `x`, expected a buffer that can be written",
    );
    refused(
        &mut [Arg::Write(&mut bytes), Arg::Read(&[])],
        "`k` is given a read-only buffer for `t`, expected a table",
    );
}

#[test]
fn what_does_not_verify_does_not_run() {
    let kernel = parse("kernel k lanes 1 %0: f32 = task").expect("it can be read");
    let fault = run(&kernel, &mut [], 0..1).expect_err("it does not verify");
    assert_eq!(
        fault.to_string(),
        "`k` is not a valid kernel: `%0: f32 = task`: the result is f32, expected i32"
    );
    let values: String = (0..5000).map(|v| format!("%{}: f32x16 = splat %0 ", v + 1)).collect();
    let kernel = parse(&format!("kernel k lanes 1024 %0: f32 = const 1.0 {values}"))
        .expect("it can be read");
    assert!(matches!(Program::new(&kernel), Err(Fault::TooLarge { .. })));
}

#[test]
fn a_budget_ends_long_loops() {
    let kernel = parse(
        "kernel k lanes 1 %0: i32 = const 0 %1: i32 = const 2147483647
         for %2: i32 in %0..%1 step 1 { for %3: i32 in %0..%1 step 1 { } }",
    );
    let program = Program::new(&kernel.expect("it can be read")).expect("it verifies");
    let fault = program.run_within(&mut [], 0..1, 10_000).expect_err("it is long");
    assert_eq!(fault.to_string(), "`k`, task 0, lane 0: more work than the budget allows");
}

#[test]
fn counters_count_lanes_that_take_part() {
    let text = "kernel k lanes 4 param x: bf16 read param out: f32 write
        %0: i32 = lane %1: i32 = const 3 %2: bool = lt %0, %1 %3: i32 = const 2
        if %2 { %4: f32x2 = load x[%0] %5: f32x2 = fma %4, %4, %4 %6: f32 = reduce sum %5 store out[%0], %6 }
        barrier";
    let (x, mut out) = (vec![0; 10], vec![0; 16]);
    let args = &mut [Arg::Read(&x), Arg::Write(&mut out)];
    let counters = run(&parse(text).expect("it can be read"), args, 0..2).expect("it runs");
    let params = vec![Traffic { loaded: 24, stored: 0 }, Traffic { loaded: 0, stored: 24 }];
    let shared = Traffic::default();
    assert_eq!(counters, Counters { params, shared, flops: 2 * 3 * 5, mma_flops: 0, barriers: 2 });
}
