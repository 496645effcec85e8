//! Control flow and the task loop.

use crate::harness::*;
use q35_kernel::UnaryOp;
use q35_types::DType;

#[test]
fn loops_carry_values_of_every_type() {
    for (start, end, step) in
        [(0, 10, 1), (3, 10, 3), (-5, 6, 4), (4, 4, 1), (7, 2, 1), (i32::MAX - 3, i32::MAX, 2)]
    {
        for known in [true, false] {
            let data =
                [Data::f32(&ramp(16)), Data::zeros(DType::F32, 16), Data::zeros(DType::I32, 3)];
            agree("loops", 1, 1, &data, EXACT, |k| {
                let (x, out, counts) = (
                    k.input("x", DType::F32),
                    k.output("out", DType::F32),
                    k.output("counts", DType::I32),
                );
                let zero = if known { k.i(0) } else { k.task() };
                let x = k.load_vec(x, 0, 16);
                let init = [x, zero, zero + 1, zero.eq(0)].to_vec();
                let [v, sum, last, odd] = k
                    .fold_vec(zero + start, zero + end, step, init, |i, c| {
                        vec![c[0] * 0.5 + i.to_f32(), c[1] + i, i, c[3].unary(UnaryOp::Not)]
                    })
                    .try_into()
                    .unwrap_or_else(|_| panic!("four"));
                k.store(out, 0, v);
                k.store(counts, 0, sum);
                k.store(counts, 1, last);
                k.store(counts, 2, odd.select(1, 0));
            });
        }
    }
}

#[test]
fn lanes_go_their_own_ways() {
    let n = 96;
    let counts: Vec<i32> = ints(n).iter().map(|v| v.rem_euclid(13) - 2).collect();
    let data = [Data::i32(&counts), Data::zeros(DType::I32, n)];
    agree("triangles", 32, 3, &data, EXACT, |k| {
        let (n, out) = (k.input("n", DType::I32), k.output("out", DType::I32));
        let at = k.task() * 32 + k.lane();
        let n = k.load(n, at);
        let [sum] = k.fold(0, n, 1, [k.i(0)], |i, [sum]| {
            k.fold(0, i + 1, 1, [sum], |j, [sum]| [sum * 3 + j * i])
        });
        k.store(out, at, sum);
    });
}

#[test]
fn branches_yield_values_and_only_the_one_taken_runs() {
    let data = [Data::f32(&ramp(32)), Data::zeros(DType::F32, 32 * 4), Data::zeros(DType::I32, 32)];
    agree("branches", 16, 2, &data, EXACT, |k| {
        let (x, out, which) =
            (k.input("x", DType::F32), k.output("out", DType::F32), k.output("which", DType::I32));
        let at = k.task() * 16 + k.lane();
        let v = k.load(x, at);
        let [wide, n] = k.choose(
            v.lt(0.0),
            || {
                k.store(which, at, k.i(1));
                [k.load_vec(x, 0, 4), at * 2]
            },
            || {
                k.when(at.gt(3), || k.store(which, at, at));
                [v.splat(4), at + 100]
            },
        );
        k.store(out, at * 4, wide + n.to_f32());
    });
}

#[test]
fn shared_arrays_of_one_task_are_not_seen_by_the_next() {
    // More tasks than groups, and lanes of very different speed.
    let tasks = 200;
    let data = [Data::f32(&ramp(tasks)), Data::zeros(DType::F32, tasks * 64)];
    agree("reuse", 64, tasks as u32, &data, EXACT, |k| {
        let (x, out) = (k.input("x", DType::F32), k.output("out", DType::F32));
        let array = k.shared("array", DType::F32, 64);
        let v = k.load(x, k.task());
        k.store(array, k.lane(), v + k.lane().to_f32());
        k.barrier();
        let [sum] = k.fold(0, k.lane() + 1, 1, [k.f(0.0)], |i, [sum]| [sum + k.load(array, i)]);
        k.store(out, k.task() * 64 + k.lane(), sum);
    });
}

#[test]
fn tasks_are_repeated_as_often_as_memory_says() {
    for (each, times, done) in [(3, 5, 15), (3, 0, 0), (3, -2, 0), (1, 1, 1), (7, 100, 700)] {
        let numbers = (0..701).flat_map(|t| [if t < done { t + 1 } else { 0 }; 8]);
        let data = [Data::zeros(DType::I32, 8 * 701)];
        let expected = [Data::i32(&numbers.collect::<Vec<i32>>())];
        repeated("count", 8, (each, times), &data, &expected, |k| {
            let out = k.output("out", DType::I32);
            k.store(out, k.task() * 8 + k.lane(), k.task() + 1);
        });
    }
}
