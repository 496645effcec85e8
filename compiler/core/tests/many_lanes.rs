//! Schedules for many lanes against plain definitions, on sizes and steps that no golden checkpoint has.

#[path = "../../../ir/interp/tests/numbers/mod.rs"]
mod numbers;

use numbers::{noise, words};
use q35_core::kernels::{DeltaRule, DeltaShape, ExpertGroups, Spec};
use q35_interp::kernel::{Arg, Counters, run};
use q35_target::{Caps, Mma};
use q35_types::step::PAGE;
use q35_types::{Count, DType, StepLayout};

const GPU: Caps = Caps {
    lanes: 128,
    subgroup: 32,
    vector: 4,
    shared_bytes: 28 << 10,
    fma: true,
    panel_dot: false,
    mma: None,
};

/// With matrix units, and room for what they work on.
const UNITS: Caps = Caps { shared_bytes: 95 << 10, mma: Some(Mma { m: 16, n: 8, k: 16 }), ..GPU };

const LAYOUT: StepLayout = StepLayout { max_tokens: 512, max_seqs: 3, max_pages: 8 };

fn bytes(values: &[f32]) -> Vec<u8> {
    packed(DType::F32, values)
}

fn packed(dtype: DType, values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; dtype.size() * values.len()];
    for (&v, to) in values.iter().zip(bytes.chunks_exact_mut(dtype.size())) {
        dtype.write_f32(v, to);
    }
    bytes
}

fn floats(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(dtype.size()).map(|b| dtype.read_f32(b)).collect()
}

/// Tokens of one sequence in a step.
#[derive(Clone, Copy)]
struct Run {
    /// Where they begin in the sequence, and how many there are.
    pos: usize,
    len: usize,
    /// Slots that state comes from and goes to; -1 for none.
    from: i32,
    to: i32,
}

/// The step buffer of these sequences, cut into tiles.
fn step(layout: &StepLayout, runs: &[Run]) -> Vec<i32> {
    let mut buffer = vec![0; layout.words() as usize];
    let (mut token, mut tiles) = (0, 0);
    for (seq, run) in runs.iter().enumerate() {
        buffer[layout.seq_tile() as usize + seq] = tiles as i32;
        buffer[layout.seq_slot() as usize + seq] = run.from;
        let (mut pos, end) = (run.pos, run.pos + run.len);
        while pos < end {
            let next = end.min((pos / PAGE as usize + 1) * PAGE as usize);
            let slot = if next == end { run.to } else { -1 };
            let tile = [
                (layout.tile_seq(), seq as i32),
                (layout.tile_token(), token),
                (layout.tile_len(), (next - pos) as i32),
                (layout.tile_pos(), pos as i32),
                (layout.tile_slot(), slot),
            ];
            tile.iter().for_each(|&(array, v)| buffer[array as usize + tiles] = v);
            token += (next - pos) as i32;
            tiles += 1;
            pos = next;
        }
    }
    buffer[layout.seq_tile() as usize + runs.len()] = tiles as i32;
    buffer[Count::Tokens.word() as usize] = token;
    buffer
}

/// Inputs of a delta rule, for any number of tokens.
struct Delta {
    spec: DeltaRule,
    qkv: Vec<f32>,
    x: Vec<f32>,
    decay: Vec<f32>,
    dt_bias: Vec<f32>,
    norm: Vec<f32>,
}

impl Delta {
    fn new(shape: DeltaShape, tokens: usize) -> Delta {
        Delta::of(DType::F32, shape, tokens)
    }

    /// With activations of that type.
    fn of(dtype: DType, shape: DeltaShape, tokens: usize) -> Delta {
        let DeltaShape { nk, dk, nv, dv } = shape;
        let (values, heads) = (nv * dv, nv as usize);
        let spec = DeltaRule {
            shape,
            x_cols: values + 2 * nv + 3,
            z: 1,
            b: values + 1,
            a: values + nv + 2,
            dtype,
            eps: 1e-6,
            chunked: true,
        };
        let rounded = |values: Vec<f32>| floats(dtype, &packed(dtype, &values));
        let mut qkv = noise(1, tokens * shape.channels() as usize);
        for row in qkv.chunks_exact_mut(shape.channels() as usize) {
            for head in row[..2 * (nk * dk) as usize].chunks_exact_mut(dk as usize) {
                let norm = head.iter().map(|v| v * v).sum::<f32>().sqrt();
                head.iter_mut().for_each(|v| *v /= norm);
            }
        }
        let x = noise(2, tokens * spec.x_cols as usize).iter().map(|v| 3.0 * v).collect();
        Delta {
            qkv: rounded(qkv),
            x: rounded(x),
            decay: noise(3, heads).iter().map(|v| -v.abs()).collect(),
            dt_bias: noise(4, heads),
            norm: noise(5, dv as usize),
            spec,
        }
    }

    /// Results and slots after a step whose tokens are `tokens` of these.
    fn launch(
        &self,
        caps: &Caps,
        runs: &[Run],
        tokens: &[usize],
        slots: &mut [u8],
    ) -> (Vec<f32>, Counters) {
        let shape = self.spec.shape;
        let rows = |all: &[f32], cols: u32| {
            let row = |&t: &usize| all[t * cols as usize..][..cols as usize].to_vec();
            packed(self.spec.dtype, &tokens.iter().flat_map(row).collect::<Vec<f32>>())
        };
        let (qkv, x) = (rows(&self.qkv, shape.channels()), rows(&self.x, self.spec.x_cols));
        let [decay, dt_bias, norm] = [&self.decay, &self.dt_bias, &self.norm].map(|v| bytes(v));
        let values = tokens.len() * (shape.nv * shape.dv) as usize;
        let mut out = vec![0; values * self.spec.dtype.size()];
        let step = words(&step(&LAYOUT, runs));
        let args = &mut [
            Arg::Read(&step),
            Arg::Read(&qkv),
            Arg::Read(&x),
            Arg::Read(&decay),
            Arg::Read(&dt_bias),
            Arg::Read(&norm),
            Arg::Write(slots),
            Arg::Write(&mut out),
        ];
        let kernel = Spec::from(self.spec.clone()).build(caps, &LAYOUT);
        assert!(kernel.shared_bytes() <= caps.shared_bytes as usize);
        let units = caps.mma.is_some() && self.spec.dtype == DType::Bf16;
        assert_eq!(!kernel.accumulators.is_empty(), units, "{shape:?}");
        let counters = run(&kernel, args, 0..runs.len() as u32 * shape.nv).expect("it runs");
        (floats(self.spec.dtype, &out), counters)
    }

    /// Results and states `[head][dk][dv]` after the first `tokens`, token by token.
    fn defined(&self, tokens: usize) -> (Vec<f64>, Vec<f64>) {
        let DeltaShape { nk, dk, nv, dv } = self.spec.shape;
        let [nk, dk, nv, dv] = [nk, dk, nv, dv].map(|n| n as usize);
        let channels = self.spec.shape.channels() as usize;
        let mut states = vec![0f64; nv * dk * dv];
        let mut results = vec![];
        for t in 0..tokens {
            let qkv: Vec<f64> =
                self.qkv[t * channels..][..channels].iter().map(|&v| v.into()).collect();
            let x = &self.x[t * self.spec.x_cols as usize..];
            let x = |at: u32, n: usize| f64::from(x[at as usize + n]);
            for head in 0..nv {
                let state = &mut states[head * dk * dv..][..dk * dv];
                let key = head / (nv / nk) * dk;
                let (q, k) = (&qkv[key..][..dk], &qkv[nk * dk + key..][..dk]);
                let v = &qkv[2 * nk * dk + head * dv..][..dv];
                let dt = (x(self.spec.a, head) + f64::from(self.dt_bias[head])).exp().ln_1p();
                let alpha = (f64::from(self.decay[head]) * dt).exp();
                let beta = 1.0 / (1.0 + (-x(self.spec.b, head)).exp());
                state.iter_mut().for_each(|s| *s *= alpha);
                let times = |state: &[f64], x: &[f64], c: usize| -> f64 {
                    (0..dk).map(|r| state[r * dv + c] * x[r]).sum()
                };
                for c in 0..dv {
                    let error = beta * (v[c] - times(state, k, c));
                    (0..dk).for_each(|r| state[r * dv + c] += k[r] * error);
                }
                let o: Vec<f64> = (0..dv).map(|c| times(state, q, c)).collect();
                let mean = o.iter().map(|o| o * o).sum::<f64>() / dv as f64;
                let scale = 1.0 / (mean + f64::from(self.spec.eps)).sqrt();
                results.extend((0..dv).map(|c| {
                    let z = x(self.spec.z, head * dv + c);
                    o[c] * scale * f64::from(self.norm[c]) * z / (1.0 + (-z).exp())
                }));
            }
        }
        (results, states)
    }

    /// The states in a slot, `[head][dk][dv]`.
    fn unpacked(&self, slot: &[u8]) -> Vec<f32> {
        let DeltaShape { dk, nv, dv, .. } = self.spec.shape;
        let (dk, dv, wide) = (dk as usize, dv as usize, self.spec.shape.head_state());
        let packed = floats(DType::F32, slot);
        let at = |head: usize, r: usize, c: usize| head * wide + c / 16 * dk * 16 + r * 16 + c % 16;
        let heads = 0..nv as usize;
        let rows = heads.flat_map(|head| (0..dk).map(move |r| (head, r)));
        rows.flat_map(|(h, r)| (0..dv).map(move |c| (h, r, c)))
            .map(|(h, r, c)| packed[at(h, r, c)])
            .collect()
    }

    fn slots(&self, n: usize) -> Vec<u8> {
        // What a slot held before matters to nobody.
        bytes(&noise(9, n * self.spec.shape.nv as usize * self.spec.shape.head_state()))
    }

    fn slot_bytes(&self) -> usize {
        self.slots(1).len()
    }
}

#[track_caller]
fn close(got: &[f32], want: &[f64], what: &str) {
    near(got, want, 0.0, what);
}

/// But for a rounding of each number by `rounding` of itself.
#[track_caller]
fn near(got: &[f32], want: &[f64], rounding: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    let most = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let bound = 1e-4 * most + rounding * w.abs();
        assert!((f64::from(g) - w).abs() <= bound, "{what}: [{i}] is {g}, expected {w}");
    }
}

const SHAPES: [DeltaShape; 4] = [
    DeltaShape { nk: 1, dk: 36, nv: 2, dv: 36 },
    DeltaShape { nk: 2, dk: 17, nv: 2, dv: 33 },
    DeltaShape { nk: 1, dk: 20, nv: 1, dv: 200 },
    DeltaShape { nk: 1, dk: 128, nv: 1, dv: 128 },
];

#[test]
fn chunks_compute_the_delta_rule() {
    for shape in SHAPES {
        let delta = Delta::new(shape, 65);
        for tokens in [1, 2, 15, 16, 17, 64, 65] {
            // Room for chunks of sixteen, of eight and of four tokens, and for none.
            for shared_bytes in [48 << 10, 16 << 10, 8 << 10, 4 << 10, 2 << 10] {
                let caps = Caps { shared_bytes, ..GPU };
                let mut slots = delta.slots(2);
                let runs = [Run { pos: 0, len: tokens, from: -1, to: 1 }];
                let each: Vec<usize> = (0..tokens).collect();
                let (out, _) = delta.launch(&caps, &runs, &each, &mut slots);
                let (want, states) = delta.defined(tokens);
                let what = format!("{shape:?}, {tokens} tokens, {shared_bytes} bytes");
                close(&out, &want, &what);
                close(&delta.unpacked(&slots[delta.slot_bytes()..]), &states, &what);
            }
        }
    }
}

/// Heads that matrix units take.
const WHOLE: [DeltaShape; 3] = [
    DeltaShape { nk: 1, dk: 32, nv: 2, dv: 32 },
    DeltaShape { nk: 1, dk: 64, nv: 1, dv: 96 },
    DeltaShape { nk: 1, dk: 128, nv: 1, dv: 128 },
];

#[test]
fn chunks_on_matrix_units_compute_the_delta_rule() {
    for shape in WHOLE {
        let delta = Delta::of(DType::Bf16, shape, 81);
        for tokens in [1, 15, 16, 17, 64, 81] {
            let mut slots = delta.slots(2);
            let runs = [Run { pos: 0, len: tokens, from: -1, to: 1 }];
            let each: Vec<usize> = (0..tokens).collect();
            let (out, _) = delta.launch(&UNITS, &runs, &each, &mut slots);
            let (want, states) = delta.defined(tokens);
            let what = format!("{shape:?}, {tokens} tokens");
            near(&out, &want, f64::from(2f32.powi(-8)), &what);
            close(&delta.unpacked(&slots[delta.slot_bytes()..]), &states, &what);
        }
    }
}

#[test]
fn cuts_at_tiles_and_neighbours_change_no_bit_of_the_delta_rule() {
    let plain = SHAPES.map(|shape| (Delta::new(shape, 150), GPU));
    let on_units = WHOLE.map(|shape| (Delta::of(DType::Bf16, shape, 150), UNITS));
    for (delta, caps) in plain.into_iter().chain(on_units) {
        let shape = delta.spec.shape;
        let all: Vec<usize> = (0..150).collect();
        let mut slots = delta.slots(3);
        let whole = [Run { pos: 0, len: 150, from: -1, to: 0 }];
        let (want, _) = delta.launch(&caps, &whole, &all, &mut slots);
        let state = slots[..delta.slot_bytes()].to_vec();

        let mut slots = delta.slots(3);
        let first = [Run { pos: 0, len: 64, from: -1, to: 2 }];
        let (mut found, _) = delta.launch(&caps, &first, &all[..64], &mut slots);
        // The rest of it behind five tokens of a sequence that is in the midst of a tile.
        let rest =
            [Run { pos: 70, len: 5, from: 1, to: 1 }, Run { pos: 64, len: 86, from: 2, to: 0 }];
        let tokens = [&all[..5], &all[64..]].concat();
        let (out, _) = delta.launch(&caps, &rest, &tokens, &mut slots);
        found.extend(&out[5 * (shape.nv * shape.dv) as usize..]);
        assert!(want.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits()), "{shape:?}");
        assert!(state == slots[..delta.slot_bytes()], "{shape:?}");
    }
}

#[test]
fn strong_decay_overflows_nowhere() {
    let mut delta = Delta::new(SHAPES[0], 64);
    delta.decay.fill(-60.0);
    let all: Vec<usize> = (0..64).collect();
    let run = [Run { pos: 0, len: 64, from: -1, to: 0 }];
    let (out, _) = delta.launch(&GPU, &run, &all, &mut delta.slots(1));
    close(&out, &delta.defined(64).0, "strong decay");
}

#[test]
fn a_chunk_of_the_delta_rule_meets_six_barriers() {
    let delta = Delta::new(SHAPES[3], 128);
    let all: Vec<usize> = (0..128).collect();
    let run = [Run { pos: 0, len: 128, from: -1, to: 0 }];
    let (_, counters) = delta.launch(&GPU, &run, &all, &mut delta.slots(1));
    assert_eq!(counters.barriers, 6 * 128 / 16);
    // Without room for a chunk it goes token by token.
    let narrow = Caps { shared_bytes: 2 << 10, ..GPU };
    let (_, before) = delta.launch(&narrow, &run, &all, &mut delta.slots(1));
    // A lane that has four columns reads a key or a query for all of them.
    assert!(2 * counters.shared.loaded < before.shared.loaded, "{counters:?}, {before:?}");
}

/// The words that the definition of the op says something of.
fn grouped(ids: &[i32], experts: usize) -> Vec<(usize, i32)> {
    let mut pairs: Vec<usize> = (0..ids.len()).collect();
    pairs.sort_by_key(|&p| ids[p]);
    let mut chosen: Vec<i32> = ids.to_vec();
    chosen.sort();
    chosen.dedup();
    let start = |e: i32| ids.iter().filter(|&&id| id < e).count() as i32;
    let mut words = vec![(0, chosen.len() as i32)];
    words.extend(chosen.iter().enumerate().map(|(i, &e)| (1 + i, e)));
    words.extend(chosen.iter().enumerate().map(|(i, &e)| (1 + experts + i, start(e))));
    words.push((1 + experts + chosen.len(), ids.len() as i32));
    words.extend(pairs.iter().enumerate().map(|(i, &p)| (2 + 2 * experts + i, p as i32)));
    words
}

fn groups(ids: &[i32], experts: u32, k: u32) -> (Vec<i32>, Counters) {
    let spec = ExpertGroups { experts, k };
    let kernel = Spec::from(spec).build(&GPU, &LAYOUT);
    let mut buffer = vec![0; LAYOUT.words() as usize];
    buffer[Count::Tokens.word() as usize] = ids.len() as i32 / k as i32;
    let mut out = words(&vec![-7; 2 + 2 * experts as usize + ids.len()]);
    let (step, ids) = (words(&buffer), words(ids));
    let args = &mut [Arg::Read(&step), Arg::Read(&ids), Arg::Write(&mut out)];
    let counters = run(&kernel, args, 0..1).expect("it runs");
    let word = |b: &[u8]| i32::from_le_bytes(b.try_into().expect("four bytes"));
    (out.chunks_exact(4).map(word).collect(), counters)
}

#[test]
fn tokens_are_grouped_by_expert() {
    for (experts, k) in [(4, 2), (60, 4), (128, 8), (200, 3), (512, 10)] {
        for tokens in [1, 2, 15, 16, 17, 64, 65, 400] {
            let random = noise(tokens + experts, (tokens * k) as usize);
            let pick = |v: &f32| ((v.abs() * experts as f32) as i32).min(experts as i32 - 1);
            let mixed: Vec<i32> = random.iter().map(pick).collect();
            let one_for_all = vec![experts as i32 - 1; mixed.len()];
            let few: Vec<i32> = mixed.iter().map(|id| id % 3).collect();
            for ids in [mixed, one_for_all, few] {
                let (found, _) = groups(&ids, experts, k);
                for (at, want) in grouped(&ids, experts as usize) {
                    assert_eq!(found[at], want, "word {at}, {tokens} tokens, {k} of {experts}");
                }
            }
        }
    }
}

#[test]
fn each_pair_is_read_twice_to_be_grouped() {
    let ids: Vec<i32> = (0..400 * 8).map(|n| n * 37 % 256).collect();
    let (_, counters) = groups(&ids, 256, 8);
    assert_eq!(counters.params[1].loaded, 2 * 4 * ids.len() as u64);
    assert_eq!(counters.params[2].stored, 4 * (ids.len() as u64 + 2 * 256 + 2));
}
