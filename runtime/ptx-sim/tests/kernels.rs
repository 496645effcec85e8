//! Kernels that other compilers made, against results that NumPy computed: see `kernels/make.py`.

mod common;

use common::{Bench, expected};
use half::bf16;

/// Bits without order: the same as `noise` of `make.py`.
fn noise(count: u32, seed: u32) -> Vec<u32> {
    (0..count)
        .map(|i| {
            let mut v = i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40503));
            v ^= v >> 15;
            v = v.wrapping_mul(2_246_822_519);
            v ^= v >> 13;
            v = v.wrapping_mul(3_266_489_917);
            v ^ v >> 16
        })
        .collect()
}

fn floats(count: u32, seed: u32, scale: f32) -> Vec<f32> {
    noise(count, seed)
        .into_iter()
        .map(|v| ((v >> 8) as f32 / (1 << 24) as f32 - 0.5) * scale)
        .collect()
}

fn brains(values: &[f32]) -> Vec<u16> {
    values.iter().map(|v| bf16::from_f32(*v).to_bits()).collect()
}

/// Within a share of each value, or of what it was summed from.
fn close(found: &[f32], wanted: &[f32], within: f32, least: f32) {
    assert_eq!(found.len(), wanted.len());
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!((f - w).abs() <= within * w.abs().max(least), "{i}: {f}, expected {w}");
    }
}

#[test]
fn a_reduction_sums() {
    let mut bench = Bench::new(include_str!("kernels/reduce.ptx"));
    bench.given(&floats(5000, 1, 2.0));
    let partial = bench.room::<f32>(7);
    let total = bench.given(&[0f32]);
    bench.value(5000i32);
    bench.launch("reduce", [7, 1, 1], [128, 1, 1], 0);
    let wanted = expected::<f64>(include_bytes!("kernels/reduce.expected"))[0];
    let total: f32 = bench.read(total, 1)[0];
    assert!((f64::from(total) - wanted).abs() < 1e-3, "{total}, expected {wanted}");
    let parts: f32 = bench.read::<f32>(partial, 7).into_iter().sum();
    assert!((parts - total).abs() < 1e-4);
}

#[test]
fn a_scan_whose_blocks_wait_for_each_other_finishes() {
    let mut bench = Bench::new(include_str!("kernels/scan.ptx"));
    let x: Vec<i32> = noise(600, 2).into_iter().map(|v| v as i32).collect();
    bench.given(&x);
    let out = bench.room::<i64>(600);
    bench.given(&[0i64; 10]);
    bench.given(&[0i32; 10]);
    bench.value(600i32);
    bench.launch("scan", [10, 1, 1], [64, 1, 1], 64 * 8);
    assert_eq!(
        bench.read::<i64>(out, 600),
        expected::<i64>(include_bytes!("kernels/scan.expected"))
    );
}

#[test]
fn a_transpose_without_padding_meets_banks_and_one_with_it_does_not() {
    let wanted = expected::<f32>(include_bytes!("kernels/transpose.expected"));
    let mut conflicts = vec![];
    for entry in ["transpose", "transpose_conflicts"] {
        let mut bench = Bench::new(include_str!("kernels/transpose.ptx"));
        bench.given(&floats(70 * 45, 3, 2.0));
        let out = bench.room::<f32>(70 * 45);
        bench.value(70i32);
        bench.value(45i32);
        let counters = bench.launch(entry, [2, 3, 1], [32, 8, 1], 0);
        assert_eq!(bench.read::<f32>(out, 70 * 45), wanted);
        assert_eq!(counters.barriers, 6, "one in each of six blocks");
        conflicts.push(counters.shared_conflicts);
    }
    // Columns of the tile: as many passes as lanes. 45 columns are warps for 32 + 13 of them; rows 70 = 32 + 32 + 6.
    let columns = 32 + 13;
    assert_eq!(conflicts, [0, columns * (31 + 31 + 5)]);
}

#[test]
fn a_histogram_counts() {
    let mut bench = Bench::new(include_str!("kernels/histogram.ptx"));
    let x: Vec<u8> = noise(10000, 4).into_iter().map(|v| (v >> 25) as u8).collect();
    bench.given(&x);
    let bins = bench.given(&[0u32; 256]);
    bench.value(10000i32);
    bench.launch("histogram", [5, 1, 1], [96, 1, 1], 0);
    assert_eq!(
        bench.read::<u32>(bins, 256),
        expected::<u32>(include_bytes!("kernels/histogram.expected"))
    );
}

#[test]
fn a_softmax_is_right_within_its_bfloat16() {
    let mut bench = Bench::new(include_str!("kernels/softmax.ptx"));
    bench.given(&brains(&floats(4 * 333, 5, 16.0)));
    let out = bench.room::<u16>(4 * 333);
    bench.value(333i32);
    bench.launch("softmax", [4, 1, 1], [128, 1, 1], 0);
    let found: Vec<f32> =
        bench.read::<u16>(out, 4 * 333).into_iter().map(|b| bf16::from_bits(b).to_f32()).collect();
    close(&found, &expected::<f32>(include_bytes!("kernels/softmax.expected")), 1.0 / 256.0, 1e-6);
}

#[test]
fn a_matmul_of_copies_matrix_loads_and_tensor_cores_is_right() {
    let mut bench = Bench::new(include_str!("kernels/matmul.ptx"));
    bench.given(&brains(&floats(128 * 96, 6, 2.0)));
    bench.given(&brains(&floats(64 * 96, 7, 2.0)));
    let out = bench.room::<f32>(128 * 64);
    bench.value(64i32);
    bench.value(96i32);
    let counters = bench.launch("matmul", [1, 2, 1], [128, 1, 1], 0);
    close(
        &bench.read(out, 128 * 64),
        &expected::<f32>(include_bytes!("kernels/matmul.expected")),
        1e-5,
        1.0,
    );
    assert_eq!(counters.tensor_flops, 2 * 128 * 64 * 96);
    assert_eq!(counters.shared_conflicts, 0, "chunks are placed so that no two meet");
    // Each block reads its own 64 rows of x and all of w.
    assert_eq!(counters.global_load.bytes, (128 + 2 * 64) * 96 * 2);
    assert_eq!(counters.global_load.sectors * 32, counters.global_load.bytes);
}

#[test]
fn a_matmul_that_triton_pipelined_is_right() {
    let mut bench = Bench::new(include_str!("kernels/matmul_triton.ptx"));
    bench.given(&brains(&floats(128 * 96, 6, 2.0)));
    bench.given(&brains(&floats(64 * 96, 7, 2.0)));
    let out = bench.room::<f32>(128 * 64);
    bench.value(128i32);
    bench.value(64i32);
    bench.value(96i32);
    bench.value(0u64);
    bench.value(0u64);
    let counters = bench.launch("matmul_pipelined", [1, 2, 1], [128, 1, 1], 32768);
    close(
        &bench.read(out, 128 * 64),
        &expected::<f32>(include_bytes!("kernels/matmul.expected")),
        1e-5,
        1.0,
    );
    assert_eq!(counters.tensor_flops, 2 * 128 * 64 * 96);
    assert_eq!(counters.global_load.bytes, (128 + 2 * 64) * 96 * 2);
}

#[test]
fn integers_are_those_of_c() {
    let mut bench = Bench::new(include_str!("kernels/odds.ptx"));
    bench.given(&noise(64, 8));
    bench.given(&noise(64, 9));
    let out = bench.room::<u64>(64);
    bench.value(12345i32);
    bench.value(-678_901_234_567i64);
    bench.launch("integers", [1, 1, 1], [64, 1, 1], 0);
    assert_eq!(
        bench.read::<u64>(out, 64),
        expected::<u64>(include_bytes!("kernels/integers.expected"))
    );
}

#[test]
fn floats_are_those_of_c() {
    let mut bench = Bench::new(include_str!("kernels/odds.ptx"));
    bench.given(&floats(64, 10, 40.0));
    let doubles: Vec<f64> =
        floats(64, 11, 40.0).into_iter().map(|v| f64::from(v) * 1.000_000_001).collect();
    bench.given(&doubles);
    let out = bench.room::<f32>(64 * 32);
    let out64 = bench.room::<f64>(64 * 8);
    let halves = bench.room::<u16>(128);
    let pairs = bench.room::<u16>(128);
    bench.launch("floats", [2, 1, 1], [32, 1, 1], 0);

    let wanted = expected::<f32>(include_bytes!("kernels/floats.expected"));
    for (i, (found, wanted)) in bench.read::<f32>(out, 64 * 32).into_iter().zip(&wanted).enumerate()
    {
        // Columns that are rounded once and in a direction are exact; the others are libdevice's approximations.
        let exact = matches!(i % 32, 4 | 6 | 7 | 10..=14 | 16..=24 | 28..=30);
        let within = if exact { 0.0 } else { 4e-6 * wanted.abs().max(1e-3) };
        assert!(
            (found - wanted).abs() <= within,
            "column {}, thread {}: {found}, expected {wanted}",
            i % 32,
            i / 32
        );
    }
    let wanted = expected::<f64>(include_bytes!("kernels/doubles.expected"));
    for (i, (found, wanted)) in
        bench.read::<f64>(out64, 64 * 8).into_iter().zip(&wanted).enumerate()
    {
        assert!(
            (found - wanted).abs() <= 1e-14 * wanted.abs().max(1e-2),
            "column {}: {found}, {wanted}",
            i % 8
        );
    }
    assert_eq!(
        bench.read::<u16>(halves, 128),
        expected::<u16>(include_bytes!("kernels/halves.expected"))
    );
    assert_eq!(
        bench.read::<u16>(pairs, 128),
        expected::<u16>(include_bytes!("kernels/brains.expected"))
    );
}
