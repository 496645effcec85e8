//! Loads and stores of every type, width and alignment, in buffers, tables and shared arrays.

use crate::harness::*;
use q35_kernel::Access;
use q35_types::DType;

const LANES: u32 = 64;

fn values(dtype: DType, len: usize) -> Data {
    match dtype {
        DType::I32 => Data::i32(&ints(len)),
        DType::F32 | DType::F16 | DType::Bf16 => Data::of(dtype, &ramp(len)),
    }
}

/// What is known of the index decides how it is accessed, and never what is accessed.
#[test]
fn any_alignment_reaches_the_same_elements() {
    for dtype in DType::ALL {
        for width in [1u8, 2, 4, 8, 16] {
            for stride in [1, 2, 3, 4].map(|s| s * u32::from(width)) {
                let len = (LANES * stride + 2) as usize;
                let [from, to] = [values(dtype, len), values(dtype, len)];
                let data = [from, to.clone(), to.clone(), to];
                agree("aligned", LANES, 1, &data, EXACT, |k| {
                    let from = k.input("from", dtype);
                    for (shift, name) in [(0, "even"), (1, "odd"), (2, "two")] {
                        let to = k.state(name, dtype);
                        let v = k.load_vec(from, k.lane() * stride + shift, width);
                        // From another lane's place, so that neighbours share words in other ways.
                        let lane = (k.lane() + 1) % LANES;
                        k.store(to, lane * stride + shift, v);
                    }
                });
            }
        }
    }
}

#[test]
fn neighbours_write_the_halves_of_a_word() {
    for dtype in [DType::F16, DType::Bf16] {
        // Tasks differ in parity: halves of one word are written by different groups.
        let data = [Data::of(dtype, &ramp(3 * 41)), Data::zeros(dtype, 3 * 41)];
        agree("halves", 41, 3, &data, EXACT, |k| {
            let (from, to) = (k.input("from", dtype), k.output("to", dtype));
            let at = k.lane() * 3 + k.task();
            k.store(to, at, k.load(from, at));
        });
    }
}

#[test]
fn tables_pick_buffers_by_number() {
    let table = (0..5).map(|i| {
        [ramp(4)[i % 4] + i as f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect()
    });
    let data =
        [Data::Table(table.collect()), Data::i32(&[4, 0, 2, 2, 1, 3]), Data::zeros(DType::F32, 12)];
    agree("table", 2, 3, &data, EXACT, |k| {
        let (list, which, out) = (
            k.table("list", DType::F32),
            k.input("which", DType::I32),
            k.output("out", DType::F32),
        );
        let number = k.task() * 2 + k.lane();
        let entry = k.entry(list, k.load(which, number));
        let next = k.entry(list, (k.load(which, number) + 1) % 5);
        k.store(out, number * 2, k.load(entry, 0) + k.load(entry, 2));
        k.store(out, number * 2 + 1, k.load(next, 0));
    });
}

#[test]
fn lanes_hand_values_over_through_shared_arrays() {
    for dtype in DType::ALL {
        for width in [1u8, 2, 4] {
            let len = (LANES * u32::from(width)) as usize;
            let data = [values(dtype, 3 * len), values(dtype, 3 * len)];
            agree("shared", LANES, 3, &data, EXACT, |k| {
                let (from, to) = (k.input("from", dtype), k.state("to", dtype));
                let before = k.shared("before", DType::I32, 5);
                let array = k.shared("array", dtype, LANES * u32::from(width));
                let after = k.shared("after", DType::F32, 3);
                k.when(k.lane().lt(5), || k.store(before, k.lane(), k.lane() * 7));
                k.when(k.lane().lt(3), || k.store(after, k.lane(), k.lane().to_f32()));
                let base = k.task() * len;
                let at = k.lane() * i32::from(width);
                k.store(array, at, k.load_vec(from, base + at, width));
                k.barrier();
                let other = (k.i(LANES as i32 - 1) - k.lane()) * i32::from(width);
                k.store(to, base + at, k.load_vec(array, other, width));
            });
        }
    }
}

#[test]
fn a_barrier_shows_what_other_lanes_wrote_to_a_buffer() {
    let n = 128;
    let data = [Data::f32(&ramp(4 * n)), Data::zeros(DType::F32, 4 * n)];
    agree("rotate", n as u32, 4, &data, EXACT, |k| {
        let work = k.param("work", DType::F32, Access::ReadWrite);
        let out = k.output("out", DType::F32);
        let base = k.task() * n;
        let v = k.load(work, base + k.lane());
        k.barrier();
        k.store(work, base + (k.lane() + 37) % n, v + 1.0);
        k.barrier();
        k.store(out, base + k.lane(), k.load(work, base + k.lane()));
    });
}
