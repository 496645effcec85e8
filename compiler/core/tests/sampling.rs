//! The kernels that choose among logits find what their ops are defined to find.

use q35_core::kernels::{LogitsAt, MergeLikeliest, SliceLikeliest, Spec};
use q35_graph::{Graph, Op, Port, Type};
use q35_interp::graph::{Checkpoint, Sequence, Tensor, block};
use q35_interp::kernel::{Arg, run};
use q35_target::Caps;
use q35_types::{Count, DType, Dim, Sizes, StepLayout};

const STEP: StepLayout = StepLayout { max_tokens: 64, max_seqs: 3, max_pages: 2 };

fn machine(lanes: u32, subgroup: u32) -> Caps {
    let shared_bytes = 16 << 10;
    Caps { lanes, subgroup, vector: 4, shared_bytes, fma: true, panel_dot: false, mma: None }
}

/// Ids by rank and their logits, of each row.
#[derive(Debug, PartialEq)]
struct Found {
    ids: Vec<i32>,
    /// Bits: a zero keeps its sign.
    logits: Vec<u32>,
}

fn by_kernels(caps: &Caps, logits: &[f32], vocab: u32, valid: i32, k: u32) -> Found {
    let rows = logits.len() as u32 / vocab;
    let mut step = vec![0; STEP.words() as usize];
    step[Count::Rows.word() as usize] = rows as i32;
    step[Count::ValidIds.word() as usize] = valid;
    let step = ints(&step);
    let logits: Vec<u8> = logits.iter().flat_map(|v| v.to_le_bytes()).collect();

    let launch = |spec: Spec, inputs: &[&[u8]], out: &mut [u8]| {
        let kernel = spec.build(caps, &STEP);
        assert_eq!(q35_kernel::verify(&kernel), Ok(()), "{}", kernel.name);
        let mut args: Vec<Arg<'_>> = inputs.iter().map(|i| Arg::Read(i)).collect();
        args.push(Arg::Write(out));
        let tasks = spec.template().tasks(caps).each * rows;
        run(&kernel, &mut args, 0..tasks).expect("it stays within its buffers");
    };
    let slices = SliceLikeliest { vocab, k };
    let mut lists = vec![0xff; slices.bytes(rows) as usize];
    launch(slices.into(), &[&step, &logits], &mut lists);
    let mut ids = vec![0xff; (rows * k) as usize * 4];
    launch(MergeLikeliest { vocab, k }.into(), &[&step, &lists], &mut ids);
    let mut values = ids.clone();
    launch(LogitsAt { vocab, k }.into(), &[&step, &logits, &ids], &mut values);
    let words = |bytes: &[u8]| -> Vec<u32> {
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    Found { ids: words(&ids).into_iter().map(|id| id as i32).collect(), logits: words(&values) }
}

fn by_definition(logits: &[f32], vocab: u32, valid: i32, k: u32) -> Found {
    let rows = logits.len() as u32 / vocab;
    let mut g = Graph::new("likeliest");
    let x = g.input(Port::Logits, Type::new(DType::F32, [Dim::Rows, Dim::Fixed(vocab)]));
    let n = g.input(Port::ValidIds, Type::new(DType::I32, [Dim::Fixed(1)]));
    let ids = g.push(Op::Likeliest { k }, [x, n]);
    let values = g.push(Op::LogitsAt {}, [x, ids]);
    g.output(Port::Candidates, ids);
    g.output(Port::CandidateLogits, values);
    assert_eq!(q35_graph::verify(&g), Ok(()));
    let ports = [
        (Port::Logits, Tensor::floats([rows as usize, vocab as usize], logits)),
        (Port::ValidIds, Tensor::ints([1], [valid])),
    ];
    let no_weights = Checkpoint::new([]).expect("no file");
    let sizes = Sizes { tokens: 0, rows };
    let given = block(&g, None, &ports, &no_weights, &mut Sequence::default(), sizes);
    let given = given.expect("it has no weights to lack");
    Found {
        ids: given[0].1.i32s().to_vec(),
        logits: given[1].1.f32s().iter().map(|v| v.to_bits()).collect(),
    }
}

fn ints(words: &[i32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// A few distinct values, so that ties abound, and all that is no ordinary number.
fn rough(n: u32, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match state >> 26 {
                0 => f32::NAN,
                1 => -f32::NAN,
                2 => f32::NEG_INFINITY,
                3 => -0.0,
                4 => 0.0,
                5 => f32::from_bits(1),
                6 => -f32::from_bits(1),
                x => x as f32 / 4.0 - 8.0,
            }
        })
        .collect()
}

#[test]
fn any_vocabulary_on_any_machine() {
    for caps in [machine(1, 1), machine(32, 32), machine(128, 8), machine(128, 64)] {
        for (vocab, k) in [(1, 1), (7, 3), (515, 1), (515, 32), (4097, 1), (6143, 5), (4100, 32)] {
            let logits = rough(3 * vocab, vocab + k);
            let found = by_kernels(&caps, &logits, vocab, vocab as i32, k);
            assert_eq!(found, by_definition(&logits, vocab, vocab as i32, k), "{k} of {vocab}");
        }
    }
}

#[test]
fn ids_without_a_token_are_not_looked_at() {
    let vocab = 4200;
    let mut logits = rough(2 * vocab, 5);
    logits[vocab as usize - 1] = f32::INFINITY;
    for valid in [4199, 4096, 2049, 2048, 100, 3, 0] {
        for k in [1, 8] {
            let found = by_kernels(&machine(128, 32), &logits, vocab, valid, k);
            assert_eq!(found, by_definition(&logits, vocab, valid, k), "{k} of {valid}");
            assert!(found.ids.iter().all(|&id| id < valid));
        }
    }
}

#[test]
fn equals_are_ranked_by_id_across_lanes_and_slices() {
    let vocab = 5000;
    let mut logits = vec![-3.0; vocab as usize];
    for id in [4999, 2048, 2047, 130, 3] {
        logits[id] = 7.0;
    }
    logits[4000] = f32::INFINITY;
    let found = by_kernels(&machine(128, 32), &logits, vocab, vocab as i32, 8);
    assert_eq!(found.ids, [4000, 3, 130, 2047, 2048, 4999, 0, 1]);
}

#[test]
fn where_nothing_is_left_there_is_no_id() {
    let logits = [f32::NAN, 2.0, f32::NEG_INFINITY, 2.0];
    let found = by_kernels(&machine(32, 32), &logits, 4, 4, 4);
    assert_eq!(found.ids, [1, 3, -1, -1]);
    assert_eq!(found.logits[2..], [f32::NEG_INFINITY.to_bits(); 2]);
    let nothing = by_kernels(&machine(32, 32), &[f32::NAN; 4], 4, 4, 1);
    assert_eq!(nothing.ids, [-1]);
}
