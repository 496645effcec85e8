//! Kernels for matrix units against the same kernels without them, and against plain sums: odd sizes, rows
//! and columns that fill no tile, experts with few tokens, numbers beyond the context that are none.

#[path = "../../../ir/interp/tests/numbers/mod.rs"]
mod numbers;

use numbers::{noise, words};
use q35_artifact::Times;
use q35_core::kernels::page::Pages;
use q35_core::kernels::{Act, AttendPrefill, ExpertLinear, Heads, Linear, Spec};
use q35_interp::kernel::{Arg, Counters, run};
use q35_target::{Caps, Mma};
use q35_types::{Count, DType, StepLayout};

const STEP: StepLayout = StepLayout { max_tokens: 512, max_seqs: 2, max_pages: 4 };

const PLAIN: Caps = Caps {
    lanes: 128,
    subgroup: 32,
    vector: 4,
    shared_bytes: 44 << 10,
    fma: true,
    panel_dot: false,
    mma: None,
};

fn units(subgroup: u32) -> Caps {
    Caps { subgroup, mma: Some(Mma { m: 16, n: 16, k: 16 }), ..PLAIN }
}

fn bytes(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; dtype.size() * values.len()];
    for (v, to) in values.iter().zip(bytes.chunks_exact_mut(dtype.size())) {
        dtype.write_f32(*v, to);
    }
    bytes
}

fn values(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(dtype.size()).map(|b| dtype.read_f32(b)).collect()
}

/// `[rows / 16][cols][16]`; what pads the last panel is not a number.
fn panels(rows: usize, cols: usize, at: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let element = |i: usize| {
        let (row, col) = (i / (cols * 16) * 16 + i % 16, i / 16 % cols);
        if row < rows { at(row, col) } else { f32::NAN }
    };
    (0..rows.next_multiple_of(16) * cols).map(element).collect()
}

/// What the last parameter holds after a launch.
fn launch(spec: &Spec, caps: &Caps, args: &mut [Arg<'_>], times: u32) -> Counters {
    let kernel = spec.build(caps, &STEP);
    assert!(kernel.shared_bytes() <= caps.shared_bytes as usize, "{}", kernel.name);
    let uses_units = !kernel.accumulators.is_empty();
    assert_eq!(uses_units, caps.mma.is_some(), "{}", kernel.name);
    let tasks = spec.template().tasks(caps).each * times;
    run(&kernel, args, 0..tasks).unwrap_or_else(|fault| panic!("{fault}\n{kernel}"))
}

#[track_caller]
fn close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let apart = (g - w).abs();
        assert!(apart <= tolerance, "{what}: [{i}] is {g}, expected {w}");
    }
}

fn linear(n: u32, k: u32, x: DType) -> Linear {
    Linear {
        n,
        k,
        x,
        weight: DType::Bf16,
        out: DType::F32,
        norm: None,
        act: Act::None,
        residual: false,
        rows: Count::Tokens,
        tile: 64,
    }
}

/// One launch of a product, all of whose operands are noise.
fn product(spec: &Linear, caps: &Caps, rows: usize) -> (Vec<f32>, Counters) {
    let (n, k) = (spec.n as usize, spec.k as usize);
    let x = bytes(spec.x, &noise(1, rows * k));
    let weight = bytes(spec.weight, &weight_of(spec));
    let residual = bytes(spec.out, &noise(3, rows * n));
    let mut step = vec![0; STEP.words() as usize];
    step[Count::Tokens.word() as usize] = rows as i32;
    let step = words(&step);
    let mut out = bytes(spec.out, &vec![f32::NAN; rows * n]);
    let mut args = vec![Arg::Read(&step), Arg::Read(&x), Arg::Read(&weight)];
    if spec.residual {
        args.push(Arg::Read(&residual));
    }
    args.push(Arg::Write(&mut out));
    let counters = launch(&spec.clone().into(), caps, &mut args, rows.div_ceil(64) as u32);
    (values(spec.out, &out), counters)
}

/// In panels: of a SwiGLU, one matrix after the other.
fn weight_of(spec: &Linear) -> Vec<f32> {
    let (n, k) = (spec.n as usize, spec.k as usize);
    let numbers = noise(2, 2 * n * k);
    let part = |from: usize| panels(n, k, |row, col| numbers[from + row * k + col]);
    match spec.act {
        Act::None => part(0),
        Act::SwiGlu { .. } => [part(0), part(n * k)].concat(),
    }
}

/// The same in float64, of operands as they are stored.
fn exact(spec: &Linear, rows: usize) -> Vec<f32> {
    let (n, k) = (spec.n as usize, spec.k as usize);
    let stored = |dtype, numbers: &[f32]| values(dtype, &bytes(dtype, numbers));
    let x = stored(spec.x, &noise(1, rows * k));
    let weight = stored(spec.weight, &noise(2, 2 * n * k));
    let residual = noise(3, rows * n);
    let sum = |row: usize, col: usize| -> f64 {
        (0..k).map(|j| f64::from(x[row * k + j]) * f64::from(weight[col * k + j])).sum()
    };
    let element = |i: usize| {
        let (row, col) = (i / n, i % n);
        let value = match spec.act {
            Act::None => sum(row, col),
            Act::SwiGlu { .. } => {
                let gate = sum(row, col);
                gate / (1.0 + (-gate).exp()) * sum(row, n + col)
            }
        };
        let more = if spec.residual { residual[i] } else { 0.0 };
        (value + f64::from(more)) as f32
    };
    (0..rows * n).map(element).collect()
}

#[test]
fn products_are_as_exact_as_without_units() {
    let swiglu = |n: u32| Act::SwiGlu { up: n.next_multiple_of(16) };
    for x in [DType::F32, DType::Bf16] {
        for (rows, n, k, act, residual) in [
            (70, 100, 33, Act::None, true),
            (3, 72, 40, swiglu(72), false),
            (64, 64, 96, Act::None, false),
            (129, 17, 100, swiglu(17), true),
        ] {
            let spec = Linear { act, residual, ..linear(n, k, x) };
            let want = exact(&spec, rows);
            let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
            for caps in [PLAIN, units(32), units(64)] {
                let what = format!("{rows} rows, {n} x {k}, {x:?}, {caps:?}");
                close(&product(&spec, &caps, rows).0, &want, 2e-6 * largest, &what);
            }
        }
    }
}

#[test]
fn sums_of_a_product_follow_from_k_alone() {
    // The first rows of a long step, on machines of either kind, whatever stands below them.
    let spec = linear(80, 72, DType::F32);
    let (many, _) = product(&spec, &units(32), 150);
    for (rows, subgroup) in [(1, 32), (64, 64), (90, 64)] {
        let (few, _) = product(&spec, &units(subgroup), rows);
        let equal = few.iter().zip(&many).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(equal, "{rows} rows, subgroups of {subgroup}");
    }
}

#[test]
fn a_long_prompt_reads_weights_and_activations_once_a_tile_and_works_on_units() {
    // A weight of the smallest published model, a part of its rows.
    let (rows, n, k) = (512usize, 288usize, 1024usize);
    for (x, caps) in [(DType::F32, PLAIN), (DType::F32, units(32)), (DType::Bf16, units(32))] {
        let k = if caps.mma.is_some() { k } else { k / 8 };
        let spec = linear(n as u32, k as u32, x);
        let (_, counters) = product(&spec, &caps, rows);
        let (tiles_down, tiles_across) = (rows / 64, n.div_ceil(64));
        let loaded = |param: usize| counters.params[param].loaded as usize;
        assert_eq!(loaded(1), tiles_across * rows * k * x.size(), "activations");
        assert_eq!(loaded(2), tiles_down * n * k * 2, "weights");
        let flops = (2 * rows * n.next_multiple_of(64) * k) as u64;
        if caps.mma.is_some() {
            let terms = if x == DType::F32 { 3 } else { 1 };
            assert_eq!(counters.mma_flops, terms * flops);
            let share = counters.mma_flops as f64 / (counters.flops + counters.mma_flops) as f64;
            assert!(share > 0.95, "{share} on units");
        } else {
            assert_eq!(counters.flops, flops);
        }
    }
}

#[test]
fn experts_with_few_tokens_are_like_without_units() {
    // Three experts of five are chosen: one by 70 pairs, one by three, one by a single one.
    let (experts, k, n, cols) = (5usize, 2usize, 40usize, 52usize);
    let tokens = 37;
    let chosen = [(4, 70), (0, 3), (2, 1)];
    let mut groups = vec![0; 2 + 2 * experts + tokens * k];
    groups[0] = chosen.len() as i32;
    let mut before = 0;
    for (slot, &(expert, pairs)) in chosen.iter().enumerate() {
        groups[1 + slot] = expert;
        groups[1 + experts + slot] = before;
        before += pairs;
    }
    groups[1 + experts + chosen.len()] = before;
    for (i, pair) in groups[2 + 2 * experts..].iter_mut().enumerate() {
        *pair = (i * 5 % (tokens * k)) as i32;
    }
    let (step, groups) = (words(&vec![0; STEP.words() as usize]), words(&groups));
    let matrices: Vec<Vec<u8>> = (0..experts)
        .map(|e| {
            let numbers = noise(20 + e as u32, 2 * n * cols);
            let part = |from: usize| panels(n, cols, |row, col| numbers[from + row * cols + col]);
            bytes(DType::Bf16, &[part(0), part(n * cols)].concat())
        })
        .collect();
    let table: Vec<&[u8]> = matrices.iter().map(Vec::as_slice).collect();
    for (act, shared_x) in [(Act::SwiGlu { up: 48 }, true), (Act::None, false)] {
        for dtype in [DType::F32, DType::Bf16] {
            let spec = Spec::from(ExpertLinear {
                experts: experts as u32,
                k: k as u32,
                n: n as u32,
                cols: cols as u32,
                dtype,
                weight: DType::Bf16,
                act,
                shared_x,
                tile: 64,
            });
            assert_eq!(spec.template().tasks(&PLAIN).times, Times::Word { arg: 3 });
            let rows = if shared_x { tokens } else { tokens * k };
            let x = bytes(dtype, &noise(7, rows * cols));
            let on = |caps: &Caps| {
                let mut out = bytes(dtype, &vec![0.0; tokens * k * n]);
                let mut args = [
                    Arg::Read(&step),
                    Arg::Read(&x),
                    Arg::Table(&table),
                    Arg::Read(&groups),
                    Arg::Write(&mut out),
                ];
                launch(&spec, caps, &mut args, chosen.len() as u32);
                values(dtype, &out)
            };
            let want = on(&PLAIN);
            let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
            // Rounded to 16 bits, neighbours may be what is nearest.
            let share = if dtype == DType::F32 { 4e-6 } else { 4e-3 };
            for subgroup in [32, 64] {
                let what = format!("{act:?}, {dtype:?}, subgroups of {subgroup}");
                close(&on(&units(subgroup)), &want, share * largest, &what);
            }
        }
    }
}

/// Two sequences: one with 64 + 50 positions before its 14 and 30 tokens, one that begins.
fn step_of_two() -> (Vec<u8>, usize, u32) {
    // Sequence, first token, tokens, position.
    let tiles = [(0, 0, 14, 114), (0, 14, 30, 128), (1, 44, 23, 0)];
    let mut step = vec![0; STEP.words() as usize];
    for (n, (seq, token, len, pos)) in tiles.into_iter().enumerate() {
        for (array, value) in [
            (STEP.tile_seq(), seq),
            (STEP.tile_token(), token),
            (STEP.tile_len(), len),
            (STEP.tile_pos(), pos),
        ] {
            step[array as usize + n] = value;
        }
    }
    for (i, page) in [3, 0, 2, 9, 1].into_iter().enumerate() {
        step[STEP.pages() as usize + i] = page;
    }
    (words(&step), 67, tiles.len() as u32)
}

/// Keys or values of all pages, where `at` tells the place of a head's element in a page. What no
/// sequence has written is not a number.
fn cache(pages: Pages, seed: u32, size: usize, at: impl Fn(usize, usize) -> usize) -> Vec<u8> {
    let each = size * pages.kv_heads as usize;
    let mut numbers = vec![f32::NAN; 4 * each];
    for (page, filled) in [(3, 64), (0, 64), (2, 30), (1, 23)] {
        let noise = noise(seed + page as u32, each);
        for head in 0..pages.kv_heads as usize {
            for token in 0..filled {
                for column in 0..pages.width as usize {
                    let i = head * size + at(token, column);
                    numbers[page * each + i] = noise[i];
                }
            }
        }
    }
    bytes(DType::Bf16, &numbers)
}

#[test]
fn attention_is_like_without_units() {
    let (step, tokens, tiles) = step_of_two();
    for (width, kv_heads, group) in [(20, 2, 3), (64, 1, 1), (256, 1, 2), (144, 1, 1)] {
        let pages = Pages { kv_heads, width };
        let heads = kv_heads * group;
        let (w, cols) = (width as usize, (heads * width) as usize);
        let keys = cache(pages, 40, pages.key_head(), |token, column| {
            token / 16 * 16 * w + column * 16 + token % 16
        });
        let stored = cache(pages, 50, pages.value_head(), |token, column| {
            column / 16 * 16 * 64 + token * 16 + column % 16
        });
        for dtype in [DType::F32, DType::Bf16] {
            let (q, x) = (noise(60, tokens * cols), noise(61, tokens * 2 * cols));
            let (q, x) = (bytes(dtype, &q), bytes(dtype, &x));
            let spec = Spec::from(AttendPrefill(Heads {
                heads,
                pages,
                x_cols: 2 * cols as u32,
                gate: width,
                scale: 2.0 / (width as f32).sqrt(),
                dtype,
                kv: DType::Bf16,
            }));
            let on = |caps: &Caps| {
                let mut out = bytes(dtype, &vec![f32::NAN; tokens * cols]);
                let args = &mut [
                    Arg::Read(&step),
                    Arg::Read(&q),
                    Arg::Read(&x),
                    Arg::Read(&keys),
                    Arg::Read(&stored),
                    Arg::Write(&mut out),
                ];
                let counters = launch(&spec, caps, args, tiles);
                (values(dtype, &out), counters)
            };
            let (want, plain) = on(&PLAIN);
            assert!(want.iter().all(|v| v.is_finite()));
            // Rounded to 16 bits, neighbours may be what is nearest.
            let tolerance = if dtype == DType::F32 { 1e-6 } else { 4e-3 };
            for subgroup in [32, 64] {
                let (got, counters) = on(&units(subgroup));
                let what = format!("width {width}, {dtype:?}, subgroups of {subgroup}");
                close(&got, &want, tolerance, &what);
                // Both products are on the units: what is left is the softmax.
                assert!(counters.mma_flops > plain.flops / 2, "{what}");
            }
        }
    }
}
