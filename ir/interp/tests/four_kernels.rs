//! The four kernels that a GPU's language has to be able to say, in 32 lanes, each against a few
//! lines of plain Rust, two of them also as a machine with subgroups of any size has them: a quantised matrix-vector product, a tiled matrix product through shared memory,
//! blockwise attention, and the gated delta rule with its state in shared memory.

mod numbers;

use numbers::{noise, words};
use q35_interp::kernel::{Arg, Counters, run};
use q35_kernel::text::parse;
use q35_kernel::{Kernel, KernelBuilder, Machine, MmaArgs, ReduceOp, UnaryOp};
use q35_types::DType;

const LANES: u32 = 32;

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn values(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| DType::F32.read_f32(b)).collect()
}

/// Run what the text of the kernel says, so that the text is tried as well.
fn launch(kernel: &Kernel, args: &mut [Arg<'_>], tasks: u32) -> Counters {
    let kernel = parse(&kernel.to_string()).expect("it was printed");
    run(&kernel, args, 0..tasks).expect("it runs")
}

#[track_caller]
fn close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(g) - w).abs() <= tolerance, "[{i}] is {g}, expected {w}");
    }
}

/// `out[n] = Σₖ x[k] · scale[n, k / 32] · (nibble[n, k] - 8)`.
///
/// One task per row. A lane takes every 32nd group: one load of four words holds its 32 nibbles,
/// the lowest first. The last round is not full, and the lanes' sums meet at the end.
fn int4_matvec(cols: usize) -> Kernel {
    let k = KernelBuilder::new(
        "int4_matvec",
        Machine { lanes: LANES, subgroup: LANES, fma: true, panel_dot: false },
    );
    let (x, scales) = (k.input("x", DType::F32), k.input("scales", DType::Bf16));
    let (packed, out) = (k.input("packed", DType::I32), k.output("out", DType::F32));
    let groups = cols / 32;
    let row = k.task();
    let [sum] = k.fold(k.lane(), groups, LANES, [k.f(0.0)], |group, [sum]| {
        let scale = k.load(scales, row * groups + group);
        let four = k.load_vec(packed, (row * groups + group) * 4, 4);
        let mut dot = k.f(0.0);
        for word in 0..4 {
            let bits = four.extract(word);
            let activations = k.load_vec(x, group * 32 + i32::from(word) * 8, 8);
            for nibble in 0..8 {
                let level = (bits >> (i32::from(nibble) * 4)).and(k.i(15));
                dot = k.mul_add((level - 8).to_f32(), activations.extract(nibble), dot);
            }
        }
        [k.mul_add(dot, scale, sum)]
    });
    let total = k.group(ReduceOp::Sum, sum);
    k.when(k.lane().eq(0), || k.store(out, row, total));
    k.finish()
}

#[test]
fn a_quantised_matrix_vector_product() {
    let (rows, cols) = (5, 33 * 32);
    let x = noise(1, cols);
    let levels: Vec<i32> = noise(2, rows * cols).iter().map(|v| (v * 7.9) as i32 + 8).collect();
    let mut scales = vec![0; rows * cols / 32 * 2];
    for (v, b) in noise(3, rows * cols / 32).iter().zip(scales.chunks_exact_mut(2)) {
        DType::Bf16.write_f32(*v, b);
    }
    let pack = |eight: &[i32]| eight.iter().rev().fold(0, |word, level| word << 4 | level);
    let packed: Vec<i32> = levels.chunks_exact(8).map(pack).collect();
    let mut out = vec![0; rows * 4];
    let (x_bytes, packed) = (bytes(&x), words(&packed));
    let args =
        &mut [Arg::Read(&x_bytes), Arg::Read(&scales), Arg::Read(&packed), Arg::Write(&mut out)];
    let counters = launch(&int4_matvec(cols), args, rows as u32);

    let want: Vec<f64> = (0..rows)
        .map(|n| {
            let term = |k: usize| {
                let scale = DType::Bf16.read_f32(&scales[(n * cols + k) / 32 * 2..]);
                f64::from(x[k]) * f64::from(scale) * f64::from(levels[n * cols + k] - 8)
            };
            (0..cols).map(term).sum()
        })
        .collect();
    close(&values(&out), &want, 1e-3);
    // Each weight is read once: half a byte.
    assert_eq!(counters.params[2].loaded, (rows * cols / 2) as u64);
}

/// `out[m, n] = Σₖ a[m, k] · b[n, k]`, a tile of 16 x 16 a task.
///
/// Both tiles of `K_TILE` columns go through shared memory, that of `b` transposed. A lane brings half a
/// row of each and computes eight neighbouring results.
fn tiled_matmul(m: usize, n: usize, cols: usize) -> Kernel {
    const TILE: usize = 16;
    let k = KernelBuilder::new(
        "tiled_matmul",
        Machine { lanes: LANES, subgroup: LANES, fma: true, panel_dot: false },
    );
    let (a, b) = (k.input("a", DType::Bf16), k.input("b", DType::Bf16));
    let out = k.output("out", DType::F32);
    let a_tile = k.shared("a_tile", DType::F32, (TILE * TILE) as u32);
    let b_tile = k.shared("b_tile", DType::F32, (TILE * TILE) as u32);
    let tiles = n.div_ceil(TILE);
    let (row0, col0) = (k.task() / tiles * TILE, k.task() % tiles * TILE);
    let (line, half) = (k.lane() / 2, k.lane() % 2 * 8);
    let zero = k.f(0.0).splat(8);

    let [sums] = k.fold(0, cols, TILE as u32, [zero], |k0, [sums]| {
        let [line_of_a, line_of_b] =
            [(a, row0 + line, m), (b, col0 + line, n)].map(|(matrix, row, rows)| {
                let there = || [k.load_vec(matrix, row * cols + k0 + half, 8)];
                let [v] = k.choose(row.lt(rows), there, || [zero]);
                v
            });
        k.store(a_tile, line * TILE + half, line_of_a);
        for i in 0..8 {
            k.store(b_tile, (half + i32::from(i)) * TILE + line, line_of_b.extract(i));
        }
        k.barrier();
        let [sums] = k.fold(0, TILE, 1, [sums], |j, [sums]| {
            let left = k.load(a_tile, line * TILE + j);
            [k.mul_add(left, k.load_vec(b_tile, j * TILE + half, 8), sums)]
        });
        k.barrier();
        [sums]
    });
    let (row, col) = (row0 + line, col0 + half);
    for i in 0..8 {
        let col = col + i32::from(i);
        let inside = row.lt(m).and(col.lt(n));
        k.when(inside, || k.store(out, row * n + col, sums.extract(i)));
    }
    k.finish()
}

#[test]
fn a_tiled_matrix_product() {
    let (m, n, cols) = (19, 37, 48);
    let (a, b) = (narrow(&noise(4, m * cols)), narrow(&noise(5, n * cols)));
    let mut out = vec![0; m * n * 4];
    let args = &mut [Arg::Read(&a), Arg::Read(&b), Arg::Write(&mut out)];
    let tasks = m.div_ceil(16) * n.div_ceil(16);
    let counters = launch(&tiled_matmul(m, n, cols), args, tasks as u32);

    let at = |bytes: &[u8], i: usize| f64::from(DType::Bf16.read_f32(&bytes[2 * i..]));
    let want: Vec<f64> = (0..m * n)
        .map(|i| (0..cols).map(|k| at(&a, i / n * cols + k) * at(&b, i % n * cols + k)).sum())
        .collect();
    close(&values(&out), &want, 1e-4);
    assert_eq!(counters.barriers, (tasks * 2 * cols / 16) as u64);
    // A row of `a` is read once for each column of tiles.
    assert_eq!(counters.params[0].loaded, (m * cols * 2 * n.div_ceil(16)) as u64);
}

/// A tile of 16 x 16 a subgroup, below one another, by matrix instructions: `b` goes through shared
/// memory as it lies, and so does the result, as only some of it may be stored.
fn mma_matmul(m: usize, n: usize, cols: usize, machine: Machine) -> Kernel {
    const TILE: usize = 16;
    let k = KernelBuilder::new("mma_matmul", machine);
    let lanes = machine.lanes;
    let rows = TILE * (lanes / machine.subgroup) as usize;
    let (a, b) = (k.input("a", DType::Bf16), k.input("b", DType::Bf16));
    let out = k.output("out", DType::F32);
    let a_tile = k.shared("a_tile", DType::Bf16, (rows * TILE) as u32);
    let b_tile = k.shared("b_tile", DType::Bf16, (TILE * TILE) as u32);
    let result = k.shared("result", DType::F32, (rows * TILE) as u32);
    let acc = k.accumulator("acc", TILE as u32, TILE as u32);
    let tiles = n.div_ceil(TILE);
    let (row0, col0) = (k.task() / tiles * rows, k.task() % tiles * TILE);
    let part = k.subgroup() * (TILE * TILE);

    k.mma_zero(acc);
    k.range(0, cols, TILE as u32, |k0| {
        for (matrix, tile, first, lines, end) in
            [(a, a_tile, row0, rows, m), (b, b_tile, col0, TILE, n)]
        {
            k.range(k.lane(), lines * 2, lanes, |i| {
                let (line, half) = (i / 2, i % 2 * 8);
                let there = || [k.load_vec(matrix, (first + line) * cols + k0 + half, 8)];
                let zero = || [k.f(0.0).splat(8)];
                let [v] = k.choose((first + line).lt(end), there, zero);
                k.store(tile, line * TILE + half, v);
            });
        }
        k.barrier();
        let (a, b, row) = (k.at(a_tile, part), k.at(b_tile, 0), k.n(TILE));
        k.mma(MmaArgs { acc, a, a_row: row, b, b_row: row, b_columns: true, k: TILE as u32 });
        k.barrier();
    });
    k.mma_store(acc, k.at(result, part), TILE);
    k.barrier();
    k.range(k.lane(), rows * TILE, lanes, |i| {
        let (row, col) = (row0 + i / TILE, col0 + i % TILE);
        let inside = row.lt(m).and(col.lt(n));
        k.when(inside, || k.store(out, row * n + col, k.load(result, i)));
    });
    k.finish()
}

#[test]
fn a_matrix_product_by_matrix_units_is_the_same_on_any_machine() {
    let (m, n, cols) = (75, 37, 48);
    let (a, b) = (narrow(&noise(4, m * cols)), narrow(&noise(5, n * cols)));
    let at = |bytes: &[u8], i: usize| DType::Bf16.read_f32(&bytes[2 * i..]);
    let term = |i: usize, k: usize| (at(&a, i / n * cols + k), at(&b, i % n * cols + k));
    let exact = |i: usize| {
        let (mut sum, mut ordered) = (0.0, 0f32);
        for (a, b) in (0..cols).map(|k| term(i, k)) {
            sum += f64::from(a) * f64::from(b);
            ordered = a.mul_add(b, ordered);
        }
        (sum, ordered)
    };
    let (want, ordered): (Vec<f64>, Vec<f32>) = (0..m * n).map(exact).unzip();
    for machine in machines() {
        let mut out = vec![0; m * n * 4];
        let args = &mut [Arg::Read(&a), Arg::Read(&b), Arg::Write(&mut out)];
        let rows = 16 * (machine.lanes / machine.subgroup) as usize;
        let tasks = m.div_ceil(rows) * n.div_ceil(16);
        let counters = launch(&mma_matmul(m, n, cols, machine), args, tasks as u32);
        close(&values(&out), &want, 1e-4);
        assert_eq!(values(&out), ordered, "{machine:?}");
        assert_eq!(counters.mma_flops, (tasks * 2 * rows * 16 * cols) as u64);
        assert_eq!(counters.flops, 0);
        // A row of `a` is read once for each column of tiles, and a row of `b` for each row of them.
        let loaded =
            [m * n.div_ceil(16), n * m.div_ceil(rows)].map(|rows| (rows * cols * 2) as u64);
        assert_eq!([0, 1].map(|p| counters.params[p].loaded), loaded);
    }
}

/// `out[n] = Σₖ w[n, k] · x[k]`, a row for each cluster of eight lanes, however many a group has.
fn clustered_matvec(rows: usize, cols: usize, machine: Machine) -> Kernel {
    let k = KernelBuilder::new("clustered_matvec", machine);
    let (x, w) = (k.input("x", DType::F32), k.input("w", DType::Bf16));
    let out = k.output("out", DType::F32);
    let lane = k.lane();
    let row = k.task() * (machine.lanes / 8) + lane / 8;
    // Control of a cluster is that of the group, so that all lanes go round and load a row there is.
    let there = row.min(rows - 1);
    let [sum] = k.fold(lane % 8 * 4, cols, 32, [k.f(0.0).splat(4)], |i, [sum]| {
        [k.mul_add(k.load_vec(w, there * cols + i, 4), k.load_vec(x, i, 4), sum)]
    });
    let total = k.cluster(ReduceOp::Sum, sum.sum(), 8);
    let first = (lane % 8).eq(0).and(row.lt(rows));
    k.when(first, || k.store(out, row, total));
    k.finish()
}

#[test]
fn sums_over_clusters_are_the_same_to_the_bit_on_any_machine() {
    let (rows, cols) = (21, 36 * 4);
    let (x, w) = (noise(15, cols), narrow(&noise(16, rows * cols)));
    let x_bytes = bytes(&x);
    let weight = |n: usize, k: usize| DType::Bf16.read_f32(&w[2 * (n * cols + k)..]);
    // Four sums in each of eight lanes; sums in halves, lanes with their neighbours.
    let sum = |n: usize| {
        let mut lanes = [0; 8].map(|_: i32| [0f32; 4]);
        for k in 0..cols {
            let sum = &mut lanes[k / 4 % 8][k % 4];
            *sum = weight(n, k).mul_add(x[k], *sum);
        }
        let l = lanes.map(|v| (v[0] + v[2]) + (v[1] + v[3]));
        ((l[0] + l[1]) + (l[2] + l[3])) + ((l[4] + l[5]) + (l[6] + l[7]))
    };
    let want: Vec<f32> = (0..rows).map(sum).collect();
    for machine in machines() {
        let mut out = vec![0; rows * 4];
        let args = &mut [Arg::Read(&x_bytes), Arg::Read(&w), Arg::Write(&mut out)];
        let tasks = (rows as u32).div_ceil(machine.lanes / 8);
        launch(&clustered_matvec(rows, cols, machine), args, tasks);
        assert_eq!(values(&out), want, "{machine:?}");
    }
}

/// Groups of 32 to 128 lanes in subgroups of 4 to 64.
fn machines() -> Vec<Machine> {
    let sizes = [32, 64, 128].into_iter().flat_map(|l| [4, 8, 16, 32, 64].map(|s| (l, s)));
    sizes
        .filter(|(lanes, subgroup)| subgroup <= lanes)
        .map(|(lanes, subgroup)| Machine { lanes, subgroup, fma: true, panel_dot: false })
        .collect()
}

fn narrow(values: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * 2];
    values.iter().zip(bytes.chunks_exact_mut(2)).for_each(|(v, b)| DType::Bf16.write_f32(*v, b));
    bytes
}

/// Width of a head; a lane holds one element of each output row.
const HEAD: usize = 32;
/// Keys of a block; a lane holds the score of one.
const BLOCK: usize = 32;
/// Query heads that share a key head.
const SHARED_BY: usize = 2;
/// Queries of a task, of each of those heads.
const QUERIES: usize = 3;

/// Causal attention over pages of one block, one task per key head and tile of queries.
///
/// `m`, `l` and `o` of all rows are carried in registers, so that a block of keys and values is read
/// once for every row. `q`, `out`: `[T, heads, HEAD]`; `keys`, `values`: `[page, key head, BLOCK, HEAD]`.
fn attention(queries: usize, before: usize, key_heads: usize) -> Kernel {
    const ROWS: usize = QUERIES * SHARED_BY;
    let k = KernelBuilder::new(
        "attention",
        Machine { lanes: LANES, subgroup: LANES, fma: true, panel_dot: false },
    );
    let (q, pages) = (k.input("q", DType::F32), k.input("pages", DType::I32));
    let (keys, values) = (k.input("keys", DType::Bf16), k.input("values", DType::Bf16));
    let out = k.output("out", DType::F32);
    let q_tile = k.shared("q_tile", DType::F32, (ROWS * HEAD) as u32);
    // A column more than needed, so that lanes on neighbouring keys are on neighbouring banks.
    let key_tile = k.shared("key_tile", DType::F32, (BLOCK * (HEAD + 1)) as u32);
    let weights = k.shared("weights", DType::F32, (ROWS * BLOCK) as u32);
    let (lane, key_head) = (k.lane(), k.task() % key_heads);
    let first = k.task() / key_heads * QUERIES;
    let heads = key_heads * SHARED_BY;
    // Row r is head r % SHARED_BY of query r / SHARED_BY; rows beyond the last repeat it.
    let query = |r: usize| (first + r / SHARED_BY).min(queries - 1);
    let row_at = |r: usize| (query(r) * heads + key_head * SHARED_BY + r % SHARED_BY) * HEAD + lane;
    for r in 0..ROWS {
        k.store(q_tile, lane + r * HEAD, k.load(q, row_at(r)) * (HEAD as f32).sqrt().recip());
    }

    let lowest = k.f(-1e30);
    let init = [[lowest; ROWS], [k.f(0.0); ROWS], [k.f(0.0); ROWS]].concat();
    let end = query(ROWS - 1) + before + 1;
    let state = k.fold_vec(0, end, BLOCK as u32, init, |block, state| {
        let page = k.load(pages, block / BLOCK);
        let base = (page * key_heads + key_head) * (BLOCK * HEAD);
        k.range(0, BLOCK, 1, |j| {
            k.store(key_tile, j * (HEAD + 1) + lane, k.load(keys, base + j * HEAD + lane));
        });
        k.barrier();
        let scores = k.fold_vec(0, HEAD, 1, vec![k.f(0.0); ROWS], |d, scores| {
            let key = k.load(key_tile, lane * (HEAD + 1) + d);
            let dot = |(r, sum)| k.mul_add(k.load(q_tile, d + r * HEAD), key, sum);
            scores.into_iter().enumerate().map(dot).collect()
        });
        let mut next = [vec![], vec![], vec![]];
        let mut kept = vec![];
        for (r, score) in scores.into_iter().enumerate() {
            let seen = (block + lane).le(query(r) + before);
            let score = seen.select(score, lowest);
            let m = state[r].max(k.group(ReduceOp::Max, score));
            let weight = seen.select((score - m).exp(), 0.0);
            let alpha = (state[r] - m).exp();
            k.store(weights, lane + r * BLOCK, weight);
            next[0].push(m);
            next[1].push(state[ROWS + r] * alpha + k.group(ReduceOp::Sum, weight));
            kept.push(state[2 * ROWS + r] * alpha);
        }
        k.barrier();
        next[2] = k.fold_vec(0, BLOCK, 1, kept, |j, o| {
            let value = k.load(values, base + j * HEAD + lane);
            let add = |(r, sum)| k.mul_add(k.load(weights, j + r * BLOCK), value, sum);
            o.into_iter().enumerate().map(add).collect()
        });
        k.barrier();
        next.concat()
    });
    for r in 0..ROWS {
        let inside = (first + r / SHARED_BY).lt(queries);
        let normal = state[2 * ROWS + r] / state[ROWS + r];
        k.when(inside, || k.store(out, row_at(r), normal));
    }
    k.finish()
}

#[test]
fn blockwise_attention_with_online_softmax() {
    let (queries, before, key_heads) = (7, 61, 2);
    let heads = key_heads * SHARED_BY;
    let total = queries + before;
    let pages = [2, 0, 3];
    let q = noise(6, queries * heads * HEAD).iter().map(|v| v * 4.0).collect::<Vec<_>>();
    let cache = 4 * key_heads * BLOCK * HEAD;
    let [keys, values_in] = [7, 8].map(|seed| {
        let mut bytes = vec![0; cache * 2];
        let noise = noise(seed, cache);
        noise.iter().zip(bytes.chunks_exact_mut(2)).for_each(|(v, b)| DType::Bf16.write_f32(*v, b));
        bytes
    });
    let mut out = vec![0; queries * heads * HEAD * 4];
    let (q_bytes, pages_bytes) = (bytes(&q), words(&pages));
    let args = &mut [
        Arg::Read(&q_bytes),
        Arg::Read(&pages_bytes),
        Arg::Read(&keys),
        Arg::Read(&values_in),
        Arg::Write(&mut out),
    ];
    let kernel = attention(queries, before, key_heads);
    launch(&kernel, args, (queries.div_ceil(QUERIES) * key_heads) as u32);

    let element = |cache: &[u8], head: usize, key: usize, d: usize| {
        let page = pages[key / BLOCK] as usize;
        let at = ((page * key_heads + head) * BLOCK + key % BLOCK) * HEAD + d;
        f64::from(DType::Bf16.read_f32(&cache[2 * at..]))
    };
    let mut want = vec![];
    for (t, h) in (0..queries * heads).map(|row| (row / heads, row % heads)) {
        let seen = (before + t + 1).min(total);
        let score = |key: usize| {
            let dot = |d: usize| {
                f64::from(q[(t * heads + h) * HEAD + d]) * element(&keys, h / SHARED_BY, key, d)
            };
            (0..HEAD).map(dot).sum::<f64>() / (HEAD as f64).sqrt()
        };
        let weights: Vec<f64> = (0..seen).map(|key| score(key).exp()).collect();
        let sum: f64 = weights.iter().sum();
        want.extend((0..HEAD).map(|d| {
            let value = |key: usize| weights[key] * element(&values_in, h / SHARED_BY, key, d);
            (0..seen).map(value).sum::<f64>() / sum
        }));
    }
    close(&values(&out), &want, 1e-5);
}

/// The gated delta rule, token by token, one task per value head.
///
/// `S` of `[dk, dv]` lies in shared memory, and lane `n` keeps column `n` to itself, so that only `q` and
/// `k` cross lanes. `q`, `k`: `[T, key heads, 32]`; `v`, `out`: `[T, value heads, 32]`; `g`, `beta`: `[T, value heads]`.
fn gated_delta(tokens: usize, key_heads: usize, value_heads: usize) -> Kernel {
    let k = KernelBuilder::new(
        "gated_delta",
        Machine { lanes: LANES, subgroup: LANES, fma: true, panel_dot: false },
    );
    let inputs = ["q", "k", "v", "g", "beta"].map(|name| k.input(name, DType::F32));
    let [q, key, v, g, beta] = inputs;
    let (state, out) = (k.state("state", DType::F32), k.output("out", DType::F32));
    let s = k.shared("s", DType::F32, (HEAD * HEAD) as u32);
    let [q_row, k_row] = ["q_row", "k_row"].map(|name| k.shared(name, DType::F32, HEAD as u32));
    let (lane, head) = (k.lane(), k.task());
    let base = head * (HEAD * HEAD) + lane;
    k.range(0, HEAD, 1, |i| k.store(s, i * HEAD + lane, k.load(state, base + i * HEAD)));

    k.range(0, tokens, 1, |t| {
        let key_at = (t * key_heads + head / (value_heads / key_heads)) * HEAD + lane;
        for (mem, row, scale) in [(q, q_row, (HEAD as f32).sqrt().recip()), (key, k_row, 1.0)] {
            let v = k.load(mem, key_at);
            let norm = (k.group(ReduceOp::Sum, v * v) + 1e-6).unary(UnaryOp::Sqrt);
            k.store(row, lane, v / norm * scale);
        }
        k.barrier();
        let at = t * value_heads + head;
        let alpha = k.load(g, at).exp();
        let [seen] = k.fold(0, HEAD, 1, [k.f(0.0)], |i, [seen]| {
            let decayed = k.load(s, i * HEAD + lane) * alpha;
            k.store(s, i * HEAD + lane, decayed);
            [k.mul_add(decayed, k.load(k_row, i), seen)]
        });
        let e = (k.load(v, at * HEAD + lane) - seen) * k.load(beta, at);
        let [result] = k.fold(0, HEAD, 1, [k.f(0.0)], |i, [result]| {
            let updated = k.mul_add(k.load(k_row, i), e, k.load(s, i * HEAD + lane));
            k.store(s, i * HEAD + lane, updated);
            [k.mul_add(updated, k.load(q_row, i), result)]
        });
        k.store(out, at * HEAD + lane, result);
        k.barrier();
    });
    k.range(0, HEAD, 1, |i| k.store(state, base + i * HEAD, k.load(s, i * HEAD + lane)));
    k.finish()
}

#[test]
fn the_gated_delta_rule() {
    let (tokens, key_heads, value_heads) = (9, 2, 4);
    let (q, key) = (noise(9, tokens * key_heads * HEAD), noise(10, tokens * key_heads * HEAD));
    let v = noise(11, tokens * value_heads * HEAD);
    let g: Vec<f32> = noise(12, tokens * value_heads).iter().map(|v| v - 1.0).collect();
    let beta: Vec<f32> = noise(13, tokens * value_heads).iter().map(|v| v.abs()).collect();
    let before = noise(14, value_heads * HEAD * HEAD);
    let inputs = [&q, &key, &v, &g, &beta].map(|v| bytes(v));
    let (mut state, mut out) = (bytes(&before), vec![0; tokens * value_heads * HEAD * 4]);
    let mut args: Vec<Arg<'_>> = inputs.iter().map(|b| Arg::Read(b)).collect();
    args.extend([Arg::Write(&mut state), Arg::Write(&mut out)]);
    launch(&gated_delta(tokens, key_heads, value_heads), &mut args, value_heads as u32);

    let mut want = vec![0.0; tokens * value_heads * HEAD];
    let mut s: Vec<f64> = before.iter().map(|&v| f64::from(v)).collect();
    for (t, h) in (0..tokens * value_heads).map(|i| (i / value_heads, i % value_heads)) {
        let at = t * value_heads + h;
        let s = &mut s[h * HEAD * HEAD..][..HEAD * HEAD];
        let unit = |rows: &[f32]| {
            let from = (t * key_heads + h / (value_heads / key_heads)) * HEAD;
            let row: Vec<f64> = rows[from..from + HEAD].iter().map(|&v| f64::from(v)).collect();
            let norm = (row.iter().map(|v| v * v).sum::<f64>() + 1e-6).sqrt();
            row.into_iter().map(|v| v / norm).collect::<Vec<f64>>()
        };
        let (q, k) = (unit(&q), unit(&key));
        s.iter_mut().for_each(|v| *v *= f64::from(g[at]).exp());
        for n in 0..HEAD {
            let seen: f64 = (0..HEAD).map(|i| s[i * HEAD + n] * k[i]).sum();
            let e = f64::from(beta[at]) * (f64::from(v[at * HEAD + n]) - seen);
            (0..HEAD).for_each(|i| s[i * HEAD + n] += k[i] * e);
            let result: f64 = (0..HEAD).map(|i| s[i * HEAD + n] * q[i]).sum();
            want[at * HEAD + n] = result / (HEAD as f64).sqrt();
        }
    }
    close(&values(&out), &want, 1e-6);
    close(&values(&state), &s, 1e-5);
}
