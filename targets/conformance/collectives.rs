//! What lanes do together gives the same bits in subgroups of any size.

use crate::harness::*;
use q35_kernel::ReduceOp;
use q35_types::DType;

const OPS: [ReduceOp; 3] = [ReduceOp::Sum, ReduceOp::Min, ReduceOp::Max];

/// Sums whose bits show their order; extremes with zeros of both signs and NaN among them.
fn numbers(op: ReduceOp, len: usize) -> Vec<f32> {
    match op {
        ReduceOp::Sum => ramp(len),
        ReduceOp::Min | ReduceOp::Max => floats(len)
            .into_iter()
            .enumerate()
            .map(|(i, v)| if i % 3 == 0 { v } else { [0.0, -0.0, f32::NAN][i % 7 % 3] })
            .collect(),
    }
}

#[test]
fn clusters_of_every_size() {
    for lanes in [128, 64, 16, 8] {
        for size in [2, 4, 8, 16, 32, 64, 128].into_iter().filter(|s| *s <= lanes) {
            let n = 3 * lanes as usize;
            let mut data = OPS.map(|op| Data::f32(&numbers(op, n))).to_vec();
            data.extend(OPS.map(|_| Data::zeros(DType::F32, n)));
            agree("cluster", lanes, 3, &data, EXACT, |k| {
                let inputs = ["a", "b", "c"].map(|name| k.input(name, DType::F32));
                let at = k.task() * lanes + k.lane();
                for (i, op) in OPS.into_iter().enumerate() {
                    let out = k.output(&format!("out{i}"), DType::F32);
                    k.store(out, at, k.cluster(op, k.load(inputs[i], at), size));
                }
            });
        }
    }
}

#[test]
fn clusters_of_vectors_and_integers() {
    for width in [2u8, 4, 8] {
        for (lanes, size) in [(128, 128), (128, 16), (8, 8)] {
            let n = (lanes * u32::from(width)) as usize;
            let data = [
                Data::f32(&ramp(n)),
                Data::i32(&ints(n)),
                Data::zeros(DType::F32, n),
                Data::zeros(DType::I32, n),
            ];
            agree("cluster", lanes, 1, &data, EXACT, |k| {
                let (x, y) = (k.input("x", DType::F32), k.input("y", DType::I32));
                let (out, ints) = (k.output("out", DType::F32), k.output("ints", DType::I32));
                let at = k.lane() * i32::from(width);
                k.store(out, at, k.cluster(ReduceOp::Sum, k.load_vec(x, at, width), size));
                let y = k.load_vec(y, at, width);
                let [sum, least, most] = OPS.map(|op| k.cluster(op, y, size));
                k.store(ints, at, sum.binary(q35_kernel::BinaryOp::Xor, least) + most);
            });
        }
    }
}

#[test]
fn scans() {
    for lanes in [128, 64, 48, 7, 1] {
        for width in [1u8, 4] {
            let n = 2 * lanes as usize * usize::from(width);
            let data = [
                Data::f32(&ramp(n)),
                Data::zeros(DType::F32, n),
                Data::i32(&ints(n)),
                Data::zeros(DType::I32, n),
            ];
            agree("scan", lanes, 2, &data, EXACT, |k| {
                let at = (k.task() * lanes + k.lane()) * i32::from(width);
                let (x, out) = (k.input("x", DType::F32), k.output("out", DType::F32));
                k.store(out, at, k.group_scan(k.load_vec(x, at, width)));
                let (x, out) = (k.input("ints", DType::I32), k.output("sums", DType::I32));
                k.store(out, at, k.group_scan(k.load_vec(x, at, width)));
            });
        }
    }
}

#[test]
fn collectives_in_loops_and_after_one_another() {
    let data = [Data::f32(&ramp(2 * 128)), Data::zeros(DType::F32, 2 * 128)];
    agree("again", 128, 2, &data, EXACT, |k| {
        let (x, out) = (k.input("x", DType::F32), k.output("out", DType::F32));
        let array = k.shared("array", DType::F32, 128);
        let at = k.task() * 128 + k.lane();
        let start = k.load(x, at);
        let [v] = k.fold(0, k.task() + 3, 1, [start], |i, [v]| {
            let most = k.cluster(ReduceOp::Max, v * (i + 1).to_f32(), 128);
            let sum = k.cluster(ReduceOp::Sum, v - most, 32);
            k.store(array, k.lane(), sum);
            k.barrier();
            let other = k.load(array, k.i(127) - k.lane());
            k.barrier();
            [k.group_scan(other * 0.01) + v]
        });
        k.store(out, at, v);
    });
}

#[test]
fn the_number_of_a_subgroup_is_that_of_its_lanes() {
    let data = [Data::zeros(DType::I32, 3 * 128)];
    agree("subgroups", 128, 3, &data, EXACT, |k| {
        let out = k.output("out", DType::I32);
        let at = k.task() * 128 + k.lane();
        k.store(out, at, k.subgroup() * 1000 + k.lane());
    });
}
