//! Control flow, memory and the matrix product: whole kernels give what the evaluator gives.

use crate::harness::*;
use q35_kernel::{Access, CompareOp, Expr, Kernel, KernelBuilder, Machine, PanelArgs, text};
use q35_target::Target;
use q35_target_cpu::Cpu;
use q35_types::DType;

#[test]
fn loops_carry_values_of_every_type() {
    for (start, end, step) in
        [(0, 10, 1), (3, 10, 3), (-5, 6, 4), (4, 4, 1), (7, 2, 1), (i32::MAX - 3, i32::MAX, 2)]
    {
        let data = [Data::f32(&ramp(16)), Data::zeros(DType::F32, 16), Data::zeros(DType::I32, 3)];
        agree("loops", 1, &data, |k| {
            let (x, out, counts) = (
                k.input("x", DType::F32),
                k.output("out", DType::F32),
                k.output("counts", DType::I32),
            );
            // Bounds that the builder does not know.
            let zero = k.task();
            let x = k.load_vec(x, 0, 16);
            let init = [x, zero, zero + 1, zero.eq(0)].to_vec();
            let [v, sum, last, odd] = k
                .fold_vec(zero + start, zero + end, step, init, |i, c| {
                    vec![c[0] * 0.5 + i.to_f32(), c[1] + i, i, c[3].unary(q35_kernel::UnaryOp::Not)]
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

#[test]
fn loops_nest_and_take_their_bounds_from_memory() {
    let data = [Data::i32(&[3, 0, 5, 1, -2, 4]), Data::zeros(DType::I32, 6)];
    agree("triangles", 6, &data, |k| {
        let (n, out) = (k.input("n", DType::I32), k.output("out", DType::I32));
        let task = k.task();
        let n = k.load(n, task);
        let [sum] = k.fold(0, n, 1, [k.i(0)], |i, [sum]| {
            k.fold(0, i + 1, 1, [sum], |j, [sum]| [sum * 3 + j * i])
        });
        k.store(out, task, sum);
    });
}

#[test]
fn branches_yield_values_and_only_the_one_taken_runs() {
    let data = [Data::f32(&ramp(8)), Data::zeros(DType::F32, 8 * 4), Data::zeros(DType::I32, 8)];
    agree("branches", 8, &data, |k| {
        let (x, out, which) =
            (k.input("x", DType::F32), k.output("out", DType::F32), k.output("which", DType::I32));
        let task = k.task();
        let v = k.load(x, task);
        let [wide, n] = k.choose(
            v.lt(0.0),
            || {
                k.store(which, task, k.i(1));
                [k.load_vec(x, 0, 4), task * 2]
            },
            || {
                k.when(task.gt(3), || k.store(which, task, task));
                [v.splat(4), task + 100]
            },
        );
        k.store(out, task * 4, wide + n.to_f32());
    });
}

#[test]
fn tables_pick_buffers_by_number() {
    let table = (0..5).map(|i| {
        [ramp(4)[i % 4] + i as f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect()
    });
    let data =
        [Data::Table(table.collect()), Data::i32(&[4, 0, 2, 2, 1, 3]), Data::zeros(DType::F32, 12)];
    agree("table", 6, &data, |k| {
        let (list, which, out) = (
            k.table("list", DType::F32),
            k.input("which", DType::I32),
            k.output("out", DType::F32),
        );
        let task = k.task();
        let entry = k.entry(list, k.load(which, task));
        let next = k.entry(list, (k.load(which, task) + 1) % 5);
        k.store(out, task * 2, k.load(entry, 0) + k.load(entry, 2));
        k.store(out, task * 2 + 1, k.load(next, 0));
    });
}

#[test]
fn shared_arrays_do_not_overlap() {
    let data = [Data::f32(&ramp(40)), Data::zeros(DType::F32, 40)];
    agree("shared", 4, &data, |k| {
        let (x, out) = (k.input("x", DType::F32), k.output("out", DType::F32));
        let arrays = [
            ("a", DType::F32, 3),
            ("b", DType::I32, 17),
            ("c", DType::F32, 10),
            ("d", DType::I32, 1),
        ]
        .map(|(name, dtype, len)| (k.shared(name, dtype, len), dtype, len));
        let base = k.task() * 10;
        for (mem, dtype, len) in arrays {
            k.range(0, len, 1, |i| {
                let value = match dtype {
                    DType::I32 => i * 7 + base,
                    DType::F32 | DType::F16 | DType::Bf16 => k.load(x, base + i % 10),
                };
                let value = if dtype == DType::I32 { value } else { value + i.to_f32() };
                k.store(mem, i, value);
            });
        }
        k.barrier();
        k.range(0, 10, 1, |i| {
            let [a, b, c, d] = arrays.map(|(mem, _, len)| k.load(mem, (i * 3) % len as i32));
            k.store(out, base + i, a + b.to_f32() * 2.0 + c * 3.0 + d.to_f32());
        });
    });
}

#[test]
fn narrow_shared_arrays_round_what_is_stored() {
    for dtype in [DType::F16, DType::Bf16] {
        for width in [1u8, 4, 8] {
            let data = [Data::f32(&floats(64)), Data::zeros(DType::F32, 64)];
            agree("narrow", 1, &data, |k| {
                let (x, out) = (k.input("x", DType::F32), k.output("out", DType::F32));
                let before = k.shared("before", dtype, 7);
                let narrow = k.shared("narrow", dtype, 64);
                k.range(0, 64, u32::from(width), |i| k.store(narrow, i, k.load_vec(x, i, width)));
                k.range(0, 7, 1, |i| k.store(before, i, k.f(3.0)));
                k.range(0, 64, u32::from(width), |i| {
                    k.store(out, i, k.load_vec(narrow, i, width));
                });
            });
        }
    }
}

/// In text, as the builder leaves out what a group of one lane need not do.
#[test]
fn a_group_of_one_lane_is_that_lane() {
    let kernel = text::parse(
        "kernel lane lanes 1 param x: f32 read param out: f32 write
         %0: i32 = task %1: i32 = lane %2: i32 = subgroup %3: i32 = add %0, %1
         %4: f32 = load x[%3] %5: f32 = cluster sum %4, 1 %6: f32x2 = vector %4, %5
         %7: f32x2 = cluster max %6, 1 %8: f32 = group_scan %4 %9: i32 = add %1, %2
         %10: f32 = int_to_float %9 %11: i32 = const 4 %12: i32 = mul %0, %11 store out[%12], %7
         %13: i32 = const 2 %14: i32 = add %12, %13 store out[%14], %8
         %15: i32 = const 3 %16: i32 = add %12, %15 store out[%16], %10",
    );
    let kernel = kernel.expect("it can be read");
    let data = [Data::f32(&ramp(6)), Data::zeros(DType::F32, 24)];
    for variant in Cpu.variants() {
        agree_on(variant, &kernel, 6, &data);
    }
}

#[test]
fn a_buffer_is_read_back_as_it_was_written() {
    let data = [Data::f32(&ramp(64))];
    agree("prefix", 2, &data, |k| {
        let x = k.param("x", DType::F32, Access::ReadWrite);
        let base = k.task() * 32;
        k.range(1, 32, 1, |i| {
            let sum = k.load(x, base + i - 1) + k.load(x, base + i);
            k.store(x, base + i, sum * 0.5);
        });
    });
}

/// Indices are sums of products; however they are written, the element is the same.
#[test]
fn indices_of_every_form() {
    type Index = for<'k> fn(&'k KernelBuilder, Expr<'k>, Expr<'k>, Expr<'k>) -> Expr<'k>;
    // Of the task (0 to 3), a loop (0 to 3) and a number from memory (5).
    let forms: [Index; 9] = [
        |_, t, i, n| t * n + i,
        |_, t, i, n| (t + 1) * n - n + i,
        |_, t, i, n| (t * 4 + i) * n - (t * 4 + i) * (n - 1),
        |_, t, i, _| (t << 2) + i + 1000 - 990,
        |_, t, i, _| t * 8 - t * 4 + i * 3 - i - i,
        |_, t, i, n| (n - i) * 1 + t * 6 - 2,
        |_, t, i, _| (t * 4 + i) / 2 + (t * 4 + i) % 2,
        |k, t, i, _| k.i(1 << 20) + i - (1 << 20) + t,
        |_, t, i, n| n.min(t + i).max(i) * 2,
    ];
    for (which, index) in forms.into_iter().enumerate() {
        let data = [Data::f32(&ramp(64)), Data::i32(&[5]), Data::zeros(DType::F32, 16)];
        agree(&format!("index_{which}"), 4, &data, |k| {
            let (x, n, out) =
                (k.input("x", DType::F32), k.input("n", DType::I32), k.output("out", DType::F32));
            let (t, n) = (k.task(), k.load(n, 0));
            k.range(0, 4, 1, |i| {
                let at = index(k, t, i, n);
                k.store(out, t * 4 + i, k.load(x, at));
            });
        });
    }
}

#[test]
fn panel_dot_of_every_shape_and_type() {
    for weights in [DType::F32, DType::F16, DType::Bf16] {
        for (rows, panels, depth) in
            [(1, 1, 1), (1, 4, 33), (2, 3, 7), (5, 2, 40), (13, 1, 300), (0, 2, 3), (3, 2, 0)]
        {
            for accumulate in [false, true] {
                let (x_row, w_panel, out_row) = (depth + 3, 16 * depth + 16, 16 * panels + 5);
                let tasks = 2;
                let data = [
                    Data::f32(&ramp((rows + 1) * x_row + 8)),
                    Data::of(weights, &ramp(tasks * panels * w_panel + 1)),
                    Data::f32(&ramp(tasks * (rows + 1) * out_row)),
                    Data::i32(&[rows as i32]),
                ];
                agree("panels", tasks as u32, &data, |k| {
                    let (x, w, out, n) = (
                        k.input("x", DType::F32),
                        k.input("w", weights),
                        k.state("out", DType::F32),
                        k.input("rows", DType::I32),
                    );
                    let task = k.task();
                    k.panel_dot(PanelArgs {
                        x: k.at(x, task * 2),
                        x_row: k.n(x_row),
                        x_k: k.i(1),
                        w: k.at(w, task * (panels * w_panel)),
                        w_panel: k.n(w_panel),
                        out: k.at(out, task * ((rows + 1) * out_row)),
                        out_row: k.n(out_row),
                        rows: k.load(n, 0),
                        panels: k.n(panels),
                        k: k.n(depth),
                        accumulate,
                    });
                });
            }
        }
    }
}

#[test]
fn panel_dot_reads_x_by_columns_and_writes_shared_memory() {
    let data = [
        Data::f32(&ramp(64)),
        Data::of(DType::Bf16, &ramp(16 * 9)),
        Data::zeros(DType::F32, 6 * 16),
    ];
    agree("columns", 1, &data, |k| {
        let (x, w, out) =
            (k.input("x", DType::F32), k.input("w", DType::Bf16), k.output("out", DType::F32));
        let sums = k.shared("sums", DType::F32, 6 * 16);
        k.panel_dot(PanelArgs {
            x: k.at(x, 1),
            x_row: k.i(1),
            x_k: k.i(7),
            w: k.at(w, 0),
            w_panel: k.i(0),
            out: k.at(sums, 0),
            out_row: k.i(16),
            rows: k.i(6),
            panels: k.i(1),
            k: k.i(9),
            accumulate: false,
        });
        k.range(0, 6 * 16, 8, |i| k.store(out, i, k.load_vec(sums, i, 8)));
    });
}

/// A condition of one element may choose between vectors; templates never write it.
#[test]
fn one_condition_for_a_vector() {
    let written = {
        let k = KernelBuilder::new(
            "one",
            Machine { lanes: 1, subgroup: 1, fma: false, panel_dot: false },
        );
        let (x, out) = (k.input("x", DType::F32), k.output("out", DType::F32));
        let (a, b) = (k.load_vec(x, 0, 8), k.load_vec(x, 8, 8));
        let cond = k.load(x, k.task()).compare(CompareOp::Lt, 0.0);
        k.store(out, k.task() * 8, cond.splat(8).select(a, b));
        k.finish()
    };
    let mut kernel: Kernel = text::parse(&written.to_string()).expect("text that was printed");
    // Bypass the repetition.
    let mut repeated = None;
    for stmt in &mut kernel.body.stmts {
        match &mut stmt.inst {
            q35_kernel::Inst::Splat(v, 8) => repeated = Some(*v),
            q35_kernel::Inst::Select(cond, ..) => *cond = repeated.expect("it comes first"),
            _ => {}
        }
    }
    let data = [Data::f32(&ramp(16)), Data::zeros(DType::F32, 16 * 8)];
    for variant in Cpu.variants() {
        agree_on(variant, &kernel, 16, &data);
    }
}

/// Straight-line programs over everything, with loops and branches around them.
#[test]
fn random_kernels() {
    for seed in 0..150 {
        let data = [
            Data::f32(&floats(64)),
            Data::i32(&ints(64)),
            Data::zeros(DType::F32, 4 * 64),
            Data::zeros(DType::I32, 4 * 64),
        ];
        agree(&format!("random_{seed}"), 4, &data, |k| {
            let (x, n) = (k.input("x", DType::F32), k.input("n", DType::I32));
            let (floats, ints) = (k.output("floats", DType::F32), k.output("ints", DType::I32));
            let mut random = Random(seed);
            let width = 1 << random.below(5);
            let at = k.task() * 8;
            let mut f = vec![k.load_vec(x, at, width), k.load_vec(x, at + 16, width)];
            let mut i = vec![k.load_vec(n, at, width), k.load_vec(n, at + 16, width)];
            scramble(k, &mut random, &mut f, &mut i);
            let carried = [f[f.len() - 1], i[i.len() - 1]];
            let [a, b] = k.fold(0, k.task() + 1, 1, carried, |_, [a, b]| {
                let (mut f, mut i) = (f.clone(), i.clone());
                f.push(a);
                i.push(b);
                scramble(k, &mut random, &mut f, &mut i);
                [f[f.len() - 1], i[i.len() - 1]]
            });
            let [a, b] = k.choose(
                k.task().eq(1),
                || [a, b],
                || {
                    let (mut f, mut i) = (vec![a, f[0]], vec![b, i[0]]);
                    scramble(k, &mut random, &mut f, &mut i);
                    [f[f.len() - 1], i[i.len() - 1]]
                },
            );
            k.store(floats, k.task() * 64, a);
            k.store(ints, k.task() * 64, b);
        });
    }
}

fn scramble<'k>(
    k: &'k KernelBuilder,
    random: &mut Random,
    f: &mut Vec<Expr<'k>>,
    i: &mut Vec<Expr<'k>>,
) {
    use q35_kernel::{BinaryOp::*, UnaryOp::*};
    for _ in 0..12 {
        let mut pick = |list: &[Expr<'k>]| list[random.below(list.len() as u32) as usize];
        let (a, b, c) = (pick(f), pick(f), pick(f));
        let (m, n) = (pick(i), pick(i));
        let width = a.ty().width;
        match random.below(20) {
            0 => f.push(a + b),
            1 => f.push(a - b),
            2 => f.push(a * b),
            3 => f.push(a / b),
            4 => f.push(k.mul_add(a, b, c)),
            5 => f.push(a.min(b)),
            6 => f.push(a.max(b)),
            7 => f.push(a.lt(b).select(b, c)),
            8 => f.push(m.lt(n).select(b, c)),
            9 => f.push(m.to_f32()),
            10 => f.push(a.abs().sqrt()),
            11 => f.push(-a),
            12 => f.push(a.sum().splat(width)),
            13 => f.push(a.extract(random.below(u32::from(width)) as u8) * b),
            14 => i.push(m + n),
            15 => i.push(m * n),
            16 => i.push(m.binary([And, Or, Xor, Sub][random.below(4) as usize], n)),
            17 => i.push(
                m.binary([Div, Rem][random.below(2) as usize], random.below(1000) as i32 + 1),
            ),
            18 => i.push(m.binary([Shl, Shr][random.below(2) as usize], random.below(32) as i32)),
            _ => i.push(a.le(b).or(a.gt(c)).select(m, n.unary(BitsToFloat).unary(FloatToBits))),
        }
    }
}
