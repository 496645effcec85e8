//! Kernels as text: what is printed is read back, and any text gives a kernel or an error.

use q35_kernel::text::{ParseError, parse, parse_all};
use q35_kernel::{
    Access, BinaryOp, Inst, Kernel, KernelBuilder, Literal, Machine, MmaArgs, PanelArgs, ReduceOp,
    Type, Value, verify,
};
use q35_types::DType;

/// Every instruction at least once.
fn everything(lanes: u32) -> Kernel {
    let k = KernelBuilder::new(
        "everything",
        Machine { lanes, subgroup: lanes.min(8), fma: true, panel_dot: lanes == 1 },
    );
    let x = k.input("x", DType::Bf16);
    let experts = k.table("experts", DType::F16);
    let out = k.state("out", DType::F32);
    let counts = k.param("counts", DType::I32, Access::Write);
    let row = k.shared("row", DType::F32, 64);
    let tile = k.shared("tile", DType::Bf16, 256);
    let acc = k.accumulator("acc", 16, 8);
    let (task, lane) = (k.task(), k.lane());
    let v = k.load_vec(x, task * 4 + lane, 4);
    let e = k.load_vec(k.entry(experts, task), lane, 4);
    let (sin, cos) = k.sin_cos(v.softplus());
    let both = k.mul_add(sin, cos, e);
    let [total, last] = k.fold(0, 16, 4, [both, -both], |i, [a, b]| {
        k.store(row, i, a);
        [b, a.max(b).abs().sqrt()]
    });
    let [chosen] = k.choose(
        lane.lt(3).and(task.ne(7)),
        || [total.sum() + last.largest() * last.smallest()],
        || [last.extract(1)],
    );
    k.barrier();
    let all = k.group(ReduceOp::Sum, chosen) + k.group_scan(lane.to_f32());
    let near = k.cluster(ReduceOp::Min, k.vector(&[all, lane.to_f32()]), lanes.min(2));
    let all = all + near.extract(1).to_i32().to_f32();
    for b_columns in [false, true] {
        k.mma_zero(acc);
        k.mma_load(acc, k.at(out, k.subgroup() * 128), 8);
        let (a, b) = (k.at(tile, 0), k.at(tile, k.subgroup()));
        k.mma(MmaArgs { acc, a, a_row: k.i(16), b, b_row: k.i(8), b_columns, k: 16 });
        k.mma_store(acc, k.at(out, 0), 8);
    }
    k.when(all.gt(0.5), || k.store(counts, lane / 3 + lane % 3, lane));
    k.store(out, lane, total.lt(last).select(total, last));
    k.store(out, lane, k.mul_add(all, f32::INFINITY, -0.0));
    if k.machine().panel_dot {
        k.panel_dot(PanelArgs {
            x: k.at(row, 0),
            x_row: k.i(8),
            x_k: k.i(1),
            w: k.at(x, task),
            w_panel: k.i(128),
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

#[test]
fn a_kernel_reads_well() {
    let k = KernelBuilder::new(
        "row_sum_64",
        Machine { lanes: 1, subgroup: 1, fma: true, panel_dot: true },
    );
    let (x, out) = (k.input("x", DType::Bf16), k.output("out", DType::F32));
    let row = k.task() * 64;
    let [sums] = k.fold(0, 64, 16, [k.f(0.0).splat(16)], |i, [sums]| {
        let v = k.load_vec(x, row + i, 16);
        [k.mul_add(v, v, sums)]
    });
    k.when(row.ge(64), || k.store(out, k.task(), sums.sum()));
    insta::assert_snapshot!(k.finish(), @"
    kernel row_sum_64 lanes 1
    param x: bf16 read
    param out: f32 write
      %1: i32 = const 64
      %3: f32 = const 0.0
      %5: i32 = const 0
      %0: i32 = task
      %2: i32 = mul %0, %1
      %4: f32x16 = splat %3
      %11: f32x16 = for %6: i32 in %5..%1 step 16 carry %7: f32x16 = %4 {
        %8: i32 = add %2, %6
        %9: f32x16 = load x[%8]
        %10: f32x16 = fma %9, %9, %7
        yield %10
      }
      %12: bool = ge %2, %1
      if %12 {
        %13: i32 = task
        %14: f32 = reduce sum %11
        store out[%13], %14
      }
    ");
}

#[test]
fn a_kernel_of_subgroups_reads_well() {
    let machine = Machine { lanes: 64, subgroup: 32, fma: true, panel_dot: false };
    let k = KernelBuilder::new("tile", machine);
    let (x, out) = (k.input("x", DType::F32), k.output("out", DType::F32));
    let tile = k.shared("tile", DType::Bf16, 512);
    let acc = k.accumulator("acc", 16, 16);
    let (lane, part) = (k.lane(), k.subgroup() * 256);
    let largest = k.cluster(ReduceOp::Max, k.load(x, lane), 4);
    k.store(tile, lane * 2, k.vector(&[largest, -largest]));
    k.barrier();
    k.mma_zero(acc);
    let (a, b) = (k.at(tile, part), k.at(tile, 0));
    k.mma(MmaArgs { acc, a, a_row: k.i(16), b, b_row: k.i(16), b_columns: true, k: 16 });
    k.mma_store(acc, k.at(out, part), 16);
    insta::assert_snapshot!(k.finish(), @"
    kernel tile lanes 64 subgroup 32
    param x: f32 read
    param out: f32 write
    shared tile: bf16[512]
    accumulator acc: f32[16, 16]
      %2: i32 = const 256
      %6: i32 = const 2
      %10: i32 = const 0
      %11: i32 = const 16
      %0: i32 = lane
      %1: i32 = subgroup
      %3: i32 = mul %1, %2
      %4: f32 = load x[%0]
      %5: f32 = cluster max %4, 4
      %7: i32 = mul %0, %6
      %8: f32 = neg %5
      %9: f32x2 = vector %5, %8
      store tile[%7], %9
      barrier
      mma_zero acc
      mma acc, a = tile[%3] row %11, b = tile[%10] column %11, k = 16
      mma_store acc, out[%3] row %11
    ");
}

#[test]
fn what_is_printed_is_read_back() {
    for lanes in [1, 32] {
        let kernel = everything(lanes);
        assert_eq!(verify(&kernel), Ok(()));
        let text = kernel.to_string();
        let back = parse(&text).expect("it was printed");
        assert_eq!(back, kernel, "{text}");
        assert_eq!(back.to_string(), text);
    }
    let two = format!("{}\n// the next\n{}", everything(1), everything(2));
    assert_eq!(parse_all(&two), Ok(vec![everything(1), everything(2)]));
}

#[test]
fn every_float_is_read_back_to_the_bit() {
    let odd = [0, 1, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, 0xffc0_1234, 0x0080_0000];
    for bits in (0..=u32::MAX).step_by(0x0123_4567).chain(odd).chain(odd.map(|b| b ^ 1 << 31)) {
        let text =
            format!("kernel c lanes 1 %0: f32 = const {}", Literal::F32(f32::from_bits(bits)));
        let kernel = parse(&text).expect("a literal");
        let Inst::Const(Literal::F32(back)) = kernel.body.stmts[0].inst else {
            panic!("a float in {text}");
        };
        assert_eq!(back.to_bits(), bits, "{text}");
    }
}

#[track_caller]
fn refused(text: &str, message: &str) {
    let error = parse(text).expect_err("it is wrong");
    assert_eq!(error.to_string(), message);
}

#[test]
fn errors_say_where_and_what() {
    refused("", "line 1: found the end of the text, expected kernel");
    refused("kernel 1x lanes 2", "line 1: found `1x`, expected a name");
    refused("kernel k lanes -1", "line 1: found `-1`, expected a number of lanes");
    refused("kernel k lanes 1\nparam x: f8 read", "line 2: found `f8`, expected an element type");
    refused("kernel k lanes 1 $", "line 1: found `$`, expected a part of a kernel");
    refused(
        "kernel k lanes 1 %4294967296: f32 = task",
        "line 1: found `%4294967296`, expected a part of a kernel",
    );
    refused(
        "kernel k lanes 1\n // c\n  %0: i32 = tsk",
        "line 3: found `tsk`, expected an instruction",
    );
    refused(
        "kernel k lanes 1 %0: i32 = load x[%0]",
        "line 1: `x` is no parameter or shared array of this kernel",
    );
    refused("kernel k lanes 1 %0: i32 = task\n%0: i32 = task", "line 2: `%0` is defined again");
    refused(
        "kernel k lanes 1 %1: i32 = task",
        "`%0` is not defined, expected a definition of all values up to the highest",
    );
    refused(
        "kernel k lanes 4 subgroup\n%0: i32 = subgroup",
        "line 2: found `%0`, expected a number of lanes",
    );
    refused("kernel k lanes 1 accumulator acc: bf16[16, 8]", "line 1: found `bf16`, expected f32");
    refused(
        "kernel k lanes 1 shared acc: f32[1] mma_zero acc",
        "line 1: `acc` is no accumulator of this kernel",
    );
    refused(
        "kernel k lanes 1 %0: f32 = reduce mean %0",
        "line 1: found `mean`, expected `sum`, `min` or `max`",
    );
    refused("kernel k lanes 1 task", "line 1: 0 results, expected 1");
    refused("kernel k lanes 1 %0: i32 = const 1.5", "line 1: found `1.5`, expected an `i32`");
    refused("kernel k lanes 1 }", "line 1: found `}`, expected the end of the text");
}

#[test]
fn nesting_is_limited() {
    let nested = |n: usize| {
        format!("kernel k lanes 1 %0: bool = const true {}{}", "if %0 {".repeat(n), "}".repeat(n))
    };
    let deepest = parse(&nested(64)).expect("not too deep");
    assert_eq!(verify(&deepest), Ok(()));
    assert_eq!(parse(&nested(65)), Err(ParseError::TooDeep { line: 1 }));
    assert_eq!(parse(&nested(100_000)), Err(ParseError::TooDeep { line: 1 }));
}

#[test]
fn every_cut_of_a_text_gives_a_kernel_or_an_error() {
    let text = everything(1).to_string();
    for end in 0..text.len() {
        let cut = &text[..end];
        if let Ok(kernel) = parse(cut) {
            // A cut after a whole statement may be a kernel; if it is one, it prints as one.
            let printed = kernel.to_string();
            assert_eq!(parse(&printed), Ok(kernel), "{printed}");
        }
    }
}

#[test]
fn printing_is_total() {
    let mut kernel = everything(1);
    kernel.params.clear();
    kernel.shared.clear();
    kernel.accumulators.clear();
    kernel.types = vec![Type::F32];
    kernel.body.stmts[0].inst = Inst::Binary(BinaryOp::Add, Value(u32::MAX), Value(0));
    assert!(kernel.to_string().contains("?0[%"));
    assert!(kernel.to_string().contains("mma_zero ?0\n"));
    assert!(kernel.to_string().contains("add %4294967295, %0"));
}
