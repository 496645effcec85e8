//! Whatever the text: it is refused, or its kernel does not verify, or it runs to an end or a fault.
//! Tried on kernels with some of their words exchanged, so that many of them get far.

use q35_interp::kernel::{Arg, Fault, Program};
use q35_kernel::text::parse;
use q35_kernel::{Access, Kernel, KernelBuilder, Machine, MmaArgs, PanelArgs, ReduceOp};
use q35_types::DType;

/// Every instruction, on one lane or on several.
fn everything(lanes: u32) -> Kernel {
    let k = KernelBuilder::new(
        "everything",
        Machine { lanes, subgroup: lanes.min(4), fma: true, panel_dot: lanes == 1 },
    );
    let x = k.input("x", DType::Bf16);
    let table = k.table("table", DType::F16);
    let out = k.state("out", DType::F32);
    let counts = k.param("counts", DType::I32, Access::ReadWrite);
    let row = k.shared("row", DType::F32, 64);
    let tile = k.shared("tile", DType::Bf16, 256);
    let acc = k.accumulator("acc", 16, 8);
    let (task, lane) = (k.task(), k.lane());
    let v = k.load_vec(x, task * 4 + lane, 4);
    let e = k.load_vec(k.entry(table, task), lane, 4);
    let [total, last] = k.fold(0, lane + 4, 2, [v, e], |i, [a, b]| {
        k.store(row, lane * 8, a);
        let [c] = k.choose(i.lt(2), || [b.max(a)], || [k.load_vec(row, lane * 8, 4)]);
        [k.mul_add(a, c, -b), a / b]
    });
    let [chosen] = k.choose(lane.lt(3).and(task.ne(7)), || [total.sum()], || [last.extract(1)]);
    k.range(lane * 4, 256, lanes * 4, |i| k.store(tile, i, e));
    k.barrier();
    let count = k.load(counts, lane % 3);
    let scan = k.group_scan(count) + (lane << (count % 5)) / 3;
    k.store(counts, lane, scan.binary(q35_kernel::BinaryOp::Xor, lane));
    let all = k.group(ReduceOp::Max, chosen.abs().sqrt()) + scan.to_f32();
    let pair = k.vector(&[all, all + 1.0]);
    let pair = k.cluster(ReduceOp::Min, pair, lanes.min(2));
    k.store(counts, lane + 16, pair.to_i32());
    k.mma_zero(acc);
    k.when(k.subgroup().lt(1), || k.mma_load(acc, k.at(out, 0), 8));
    for b_columns in [false, true] {
        let (a, b) = (k.at(tile, k.subgroup()), k.at(tile, task));
        let (a_row, b_row) = (k.i(8), k.i(16));
        k.mma(MmaArgs { acc, a, a_row, b, b_row: b_row - 8, b_columns, k: 16 });
    }
    k.mma_store(acc, k.at(out, 0), 8);
    k.store(out, lane, all.gt(0.5).select(total, last.min(1.0)));
    if k.machine().panel_dot {
        k.panel_dot(PanelArgs {
            x: k.at(row, 0),
            x_row: k.i(8),
            x_k: k.i(1),
            w: k.at(x, task),
            w_panel: k.i(16),
            out: k.at(out, 0),
            out_row: k.i(16),
            rows: k.i(2),
            panels: k.i(1),
            k: k.i(8),
            accumulate: true,
        });
    }
    k.finish()
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// The text cut where words begin and end.
fn split(text: &str) -> Vec<&str> {
    let mut parts = vec![];
    let mut rest = text;
    while !rest.is_empty() {
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '%' | '_' | '-');
        let first = part(rest.chars().next().expect("not empty"));
        let end = rest.find(|c| part(c) != first).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = &rest[end..];
    }
    parts
}

#[derive(Default, Debug)]
struct Seen {
    refused: usize,
    invalid: usize,
    faulted: usize,
    ran: usize,
}

fn attempt(text: &str, seen: &mut Seen) {
    let Ok(kernel) = parse(text) else {
        seen.refused += 1;
        return;
    };
    let program = match Program::new(&kernel) {
        Ok(program) => program,
        Err(Fault::Invalid { .. } | Fault::TooLarge { .. }) => {
            seen.invalid += 1;
            return;
        }
        Err(fault) => panic!("{fault}"),
    };
    assert_eq!(parse(&kernel.to_string()).as_ref(), Ok(&kernel), "{kernel}");
    let readable = vec![0x3c; 512];
    let entries = [&readable[..], &readable[..64]];
    let mut buffers: Vec<Vec<u8>> = kernel.params.iter().map(|_| vec![0x3d; 512]).collect();
    let args = kernel.params.iter().zip(&mut buffers).map(|(param, buffer)| match param.table {
        true => Arg::Table(&entries),
        false => Arg::Write(buffer),
    });
    let mut args: Vec<Arg<'_>> = args.collect();
    match program.run_within(&mut args, 0..2, 20_000) {
        Ok(_) => seen.ran += 1,
        Err(Fault::At { .. }) => seen.faulted += 1,
        Err(fault) => panic!("{fault}"),
    }
}

#[test]
fn kernels_with_exchanged_words_are_refused_or_run() {
    let mut seen = Seen::default();
    let mut random = Random(7);
    for lanes in [1, 2, 8] {
        let text = everything(lanes).to_string();
        attempt(&text, &mut seen);
        assert_eq!(seen.refused + seen.invalid, 0, "{text}");
    }
    for round in 0..12_000 {
        let text = everything([1, 2, 8][round % 3]).to_string();
        let mut parts = split(&text);
        for _ in 0..=random.below(2) {
            let to = random.below(parts.len());
            // Mostly one value for another, so that what comes out has a chance.
            let from = (0..50).map(|_| random.below(parts.len())).find(|&from| {
                parts[from].starts_with('%') == parts[to].starts_with('%') && from != to
            });
            parts[to] = parts[from.unwrap_or(0)];
        }
        attempt(&parts.concat(), &mut seen);
    }
    let Seen { refused, invalid, faulted, ran } = seen;
    assert!([refused, invalid, faulted, ran].iter().all(|&n| n > 100), "{seen:?}");
}

#[test]
fn damaged_bytes_are_refused_or_run() {
    let mut seen = Seen::default();
    let mut random = Random(8);
    for round in 0..12_000 {
        let mut text = everything([1, 2, 8][round % 3]).to_string().into_bytes();
        for _ in 0..=random.below(3) {
            let at = random.below(text.len());
            match random.below(3) {
                0 => text[at] = b" %0123456789.,:={}[]x-"[random.below(22)],
                1 => drop(text.remove(at)),
                _ => text[at] = random.below(128) as u8,
            }
        }
        attempt(&String::from_utf8(text).expect("all below 128"), &mut seen);
    }
    assert!(seen.refused > 100 && seen.ran > 100, "{seen:?}");
}
