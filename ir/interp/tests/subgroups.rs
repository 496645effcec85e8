//! What a subgroup does as one: matrix instructions, and what they have to do with everybody else.

use q35_interp::kernel::{Arg, Counters, Fault, Program, Traffic, run};
use q35_kernel::text::parse;
use q35_kernel::{Kernel, KernelBuilder, Machine, MmaArgs};
use q35_types::DType;

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| DType::F32.read_f32(b)).collect()
}

/// `acc[i, n] = start[i, n] + Σⱼ a[i, j] · b[j, n]`, of two subgroups of four lanes: each takes half of
/// `start` and, of the `K` products, all.
///
/// `a` of `[32, K]` has a row more than it needs, `b` of `[K, 8]` or its transpose begins at 3.
fn product(dtype: DType, b_columns: bool) -> Kernel {
    let machine = Machine { lanes: 8, subgroup: 4, fma: true, panel_dot: false };
    let k = KernelBuilder::new("product", machine);
    let [a, b, start] = ["a", "b", "start"].map(|name| k.input(name, DType::F32));
    let out = k.output("out", DType::F32);
    let a_tile = k.shared("a_tile", dtype, (32 * (K + 1)) as u32);
    let b_tile = k.shared("b_tile", dtype, (3 + 8 * K) as u32);
    let acc = k.accumulator("acc", 16, 8);
    k.range(k.lane(), 32 * K, 8, |i| {
        k.store(a_tile, i / K * (K + 1) + i % K, k.load(a, i));
    });
    k.range(k.lane(), 8 * K, 8, |i| {
        let (j, n) = (i / 8, i % 8);
        let at = if b_columns { n * K + j } else { i };
        k.store(b_tile, at + 3, k.load(b, i));
    });
    k.barrier();
    let half = k.subgroup();
    k.mma_load(acc, k.at(start, half * 128), 8);
    k.mma(MmaArgs {
        acc,
        a: k.at(a_tile, half * (16 * (K + 1))),
        a_row: k.n(K + 1),
        b: k.at(b_tile, 3),
        b_row: if b_columns { k.n(K) } else { k.i(8) },
        b_columns,
        k: K as u32,
    });
    k.mma_store(acc, k.at(out, half * 160), 10);
    k.finish()
}

const K: usize = 32;

#[test]
fn a_product_is_its_sums_in_order() {
    let values = |n: usize, by: f32| (0..n).map(|i| (i as f32 * by).sin()).collect::<Vec<f32>>();
    for (dtype, b_columns) in
        [DType::Bf16, DType::F16].into_iter().flat_map(|t| [(t, false), (t, true)])
    {
        let [a, b, start] = [(32 * K, 0.7), (8 * K, 1.3), (256, 0.1)].map(|(n, by)| values(n, by));
        let [a_bytes, b_bytes, start_bytes] =
            [&a, &b, &start].map(|v| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        let mut out = vec![0xff; 320 * 4];
        let args = &mut [
            Arg::Read(&a_bytes),
            Arg::Read(&b_bytes),
            Arg::Read(&start_bytes),
            Arg::Write(&mut out),
        ];
        let counters = run(&product(dtype, b_columns), args, 0..1).expect("it runs");

        let narrow = |v: f32| {
            let mut bytes = [0; 2];
            dtype.write_f32(v, &mut bytes);
            dtype.read_f32(&bytes)
        };
        let out = numbers(&out);
        for (i, n) in (0..32 * 8).map(|at| (at / 8, at % 8)) {
            let sum = (0..K).fold(start[i * 8 + n], |sum, j| {
                narrow(a[i * K + j]).mul_add(narrow(b[j * 8 + n]), sum)
            });
            assert_eq!(out[i * 10 + n].to_bits(), sum.to_bits(), "{dtype} [{i}, {n}]");
        }
        assert!(out[8].is_nan(), "what lies between the rows is left alone");
        assert_eq!(counters.mma_flops, 2 * 32 * 8 * K as u64);
        assert_eq!(counters.flops, 0);
        // Each subgroup reads its own half of `a` and all of `b`.
        let tiles = 2 * (32 * K + 2 * 8 * K) as u64;
        assert_eq!(counters.shared, Traffic { loaded: tiles, stored: 2 * 40 * K as u64 });
        assert_eq!(counters.params[2], Traffic { loaded: 1024, stored: 0 });
        assert_eq!(counters.params[3], Traffic { loaded: 0, stored: 1024 });
    }
}

/// Eight lanes in two subgroups; what is written to `out` is of 512 elements.
fn eight(body: &str) -> (Vec<f32>, Result<Counters, Fault>) {
    let text = format!(
        "kernel k lanes 8 subgroup 4 param out: f32 readwrite
         shared tile: bf16[256] shared sums: f32[256] accumulator acc: f32[16, 8] accumulator two: f32[16, 8]
         %0: i32 = lane %1: i32 = subgroup %2: i32 = const 0 %3: i32 = const 8 %4: i32 = const 1
         %5: i32 = const 128 %6: i32 = mul %1, %5 %7: f32 = const 2.0 %8: i32 = const 256
         {body}"
    );
    let mut out = vec![0; 512 * 4];
    let result = run(&parse(&text).expect("it can be read"), &mut [Arg::Write(&mut out)], 0..1);
    (numbers(&out), result)
}

const FILL: &str = "for %9: i32 in %0..%8 step 8 { store tile[%9], %7 }";
const MMA: &str = "mma acc, a = tile[%2] row %3, b = tile[%2] row %3, k = 16";

#[track_caller]
fn faults(body: &str, message: &str) {
    let (_, result) = eight(body);
    assert_eq!(result.expect_err("it faults").to_string(), message);
}

#[test]
fn only_subgroups_that_take_part_have_effects() {
    let (out, result) = eight(&format!(
        "{FILL} barrier mma_zero acc %10: bool = eq %1, %4
         if %10 {{ {MMA} }}
         mma_store acc, out[%6] row %3
         if %10 {{ mma_store acc, out[%8] row %3 }}"
    ));
    let counters = result.expect("it runs");
    assert_eq!(out, [[0.0; 128], [64.0; 128], [64.0; 128], [0.0; 128]].concat());
    assert_eq!(counters.mma_flops, 2 * 16 * 8 * 16);
}

#[test]
fn accumulators_keep_their_sums_around_loops_and_apart() {
    let (out, result) = eight(&format!(
        "{FILL} barrier mma_zero two mma_zero acc
         for %10: i32 in %2..%3 step 4 {{ {MMA} }}
         mma_store acc, out[%6] row %3 %11: i32 = add %6, %8 mma_store two, out[%11] row %3"
    ));
    result.expect("it runs");
    assert_eq!(out, [[128.0; 256], [0.0; 256]].concat());
}

#[test]
fn what_lanes_store_needs_a_barrier_before_their_subgroup_reads_it() {
    let race = |lane, at, who: &str| {
        format!(
            "`k`, task 0, lane {lane}: `{at}` is accessed by {who} too, expected a barrier between"
        )
    };
    faults(&format!("mma_zero acc {FILL} {MMA}"), &race(0, "tile[0]", "lane 0"));
    faults(
        &format!("{FILL} barrier mma_zero acc {MMA} store tile[%0], %7"),
        &race(0, "tile[0]", "subgroup 0"),
    );
    let store = "mma_zero acc mma_store acc, sums[%6] row %3";
    faults(&format!("{store} %9: f32 = load sums[%6]"), &race(0, "sums[0]", "subgroup 0"));
    // Not even by the same subgroup, as a matrix is spread differently for each use.
    faults(&format!("{store} mma_load two, sums[%6] row %3"), &race(0, "sums[0]", "subgroup 0"));
    faults(
        &format!("{store} barrier mma_load two, sums[%6] row %3 {store}"),
        &race(0, "sums[0]", "subgroup 0"),
    );
    faults("mma_zero acc mma_store acc, sums[%2] row %3", &race(4, "sums[0]", "subgroup 0"));
    let (out, result) = eight(&format!(
        "{FILL} barrier {store} {MMA} barrier mma_load two, sums[%6] row %3 {MMA}
         %10: f32 = load sums[%0] store out[%0], %10 mma_store acc, out[%5] row %3"
    ));
    result.expect("reads are no race");
    assert_eq!(out[..256], [[0.0; 128], [128.0; 128]].concat());
}

#[test]
fn a_subgroup_of_one_lane_needs_no_barrier() {
    let kernel = parse(
        "kernel k lanes 1 param out: f32 write shared tile: f16[256] accumulator acc: f32[16, 8]
         %0: i32 = const 0 %1: i32 = const 256 %2: f32 = const 2.0 %3: f32x16 = splat %2 %4: i32 = const 8
         for %5: i32 in %0..%1 step 16 { store tile[%5], %3 }
         mma_zero acc
         mma acc, a = tile[%0] row %4, b = tile[%0] column %4, k = 16
         store tile[%0], %3
         mma_store acc, out[%0] row %4",
    );
    let mut out = vec![0; 512];
    run(&kernel.expect("it can be read"), &mut [Arg::Write(&mut out)], 0..1).expect("it runs");
    assert_eq!(numbers(&out), [64.0; 128]);
}

#[test]
fn what_matrix_instructions_read_was_written() {
    faults(
        &format!("mma_zero acc {MMA}"),
        "`k`, task 0, lane 0: `tile[0]` is read, expected a write by this task first",
    );
    faults(
        "%9: bool = eq %1, %4 if %9 { mma_store acc, out[%2] row %3 }",
        "`k`, task 0, lane 4: `acc` is used, expected this subgroup to set it in this task first",
    );
    faults(
        &format!("{FILL} barrier mma_zero two {MMA}"),
        "`k`, task 0, lane 0: `acc` is used, expected this subgroup to set it in this task first",
    );
    // What one task set is not there in the next.
    let kernel = parse(
        "kernel k lanes 1 param out: f32 write accumulator acc: f32[16, 8]
         %0: i32 = task %1: i32 = const 1 %2: bool = lt %0, %1
         if %2 { mma_zero acc }
         mma_store acc, out[%0] row %1",
    );
    let kernel = kernel.expect("it can be read");
    let fault = run(&kernel, &mut [Arg::Write(&mut [0; 512])], 0..2).expect_err("it faults");
    assert_eq!(
        fault.to_string(),
        "`k`, task 1, lane 0: `acc` is used, expected this subgroup to set it in this task first"
    );
}

#[test]
fn matrix_instructions_stay_within_memories() {
    faults(
        "mma_zero acc %9: i32 = const 400 mma_store acc, out[%9] row %3",
        "`k`, task 0, lane 0: `out[512]` and 8 elements from there on, expected at most 512",
    );
    faults(
        "%9: i32 = const -8 mma_load acc, out[%5] row %9 mma_load acc, out[%6] row %9",
        "`k`, task 0, lane 0: `out[-8]` and 1 elements from there on, expected at most 512",
    );
    faults(
        &format!(
            "{FILL} barrier mma_zero acc mma acc, a = tile[%2] row %3, b = tile[%5] column %8, k = 16"
        ),
        "`k`, task 0, lane 0: `tile[384]` and 1 elements from there on, expected at most 256",
    );
}

#[test]
fn the_budget_knows_what_a_product_costs() {
    let kernel = parse(
        "kernel k lanes 1 shared tile: f16[4096] accumulator acc: f32[16, 8]
         %0: i32 = const 0 %1: f32 = const 1.0 %2: i32 = const 4096
         for %3: i32 in %0..%2 step 1 { store tile[%3], %1 }
         mma_zero acc
         mma acc, a = tile[%0] row %0, b = tile[%0] row %0, k = 4080",
    );
    let program = Program::new(&kernel.expect("it can be read")).expect("it verifies");
    let within = |budget| program.run_within(&mut [], 0..1, budget);
    assert!(within(16 * 8 * 4080 + 10_000).is_ok());
    let fault = within(16 * 8 * 4080).expect_err("it is long");
    assert_eq!(fault.to_string(), "`k`, task 0, lane 0: more work than the budget allows");
}
