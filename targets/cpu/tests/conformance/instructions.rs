//! Every instruction, of every width and type, gives the bits that the evaluator gives.

use crate::harness::*;
use q35_kernel::{BinaryOp, CompareOp, Expr, KernelBuilder, Scalar, UnaryOp};
use q35_types::DType;

const WIDTHS: [u8; 5] = [1, 2, 4, 8, 16];
const N: usize = 160;

const COMPARISONS: [CompareOp; 6] =
    [CompareOp::Eq, CompareOp::Ne, CompareOp::Lt, CompareOp::Le, CompareOp::Gt, CompareOp::Ge];

/// For each width, `out[i] = f(a[i], b[i], c[i])`, each of type `input`; a result of `bool` is stored as 0 or 1.
#[track_caller]
fn elementwise(
    name: &str,
    input: DType,
    output: DType,
    f: impl for<'k> Fn(&'k KernelBuilder, [Expr<'k>; 3]) -> Expr<'k>,
) {
    let shifted = |by: usize| match input {
        DType::I32 => {
            let mut values = ints(N);
            values.rotate_left(by);
            Data::i32(&values)
        }
        DType::F32 | DType::F16 | DType::Bf16 => {
            let mut values = floats(N);
            values.rotate_left(by);
            Data::of(input, &values)
        }
    };
    for width in WIDTHS {
        let data = [shifted(0), shifted(1), shifted(30), Data::zeros(output, N)];
        agree(name, (N / usize::from(width)) as u32, &data, |k| {
            let inputs = ["a", "b", "c"].map(|name| k.input(name, input));
            let out = k.output("out", output);
            let at = k.task() * i32::from(width);
            let values = inputs.map(|mem| k.load_vec(mem, at, width));
            let result = f(k, values);
            let result = match result.ty().scalar {
                Scalar::Bool => result.select(1, 0),
                Scalar::F32 | Scalar::I32 => result,
            };
            k.store(out, at, result);
        });
    }
}

#[test]
fn unary() {
    for op in [UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Sqrt] {
        elementwise("unary", DType::F32, DType::F32, |_, [a, ..]| a.unary(op));
    }
    elementwise("not", DType::F32, DType::I32, |_, [a, b, _]| a.lt(b).unary(UnaryOp::Not));
    elementwise("int_to_float", DType::I32, DType::F32, |_, [a, ..]| a.unary(UnaryOp::IntToFloat));
    elementwise("bits_to_float", DType::I32, DType::F32, |_, [a, ..]| {
        a.unary(UnaryOp::BitsToFloat)
    });
    elementwise("float_to_int", DType::F32, DType::I32, |_, [a, ..]| a.to_i32());
    elementwise("float_to_bits", DType::F32, DType::I32, |k, [a, ..]| {
        // Of numbers: the payload of a NaN may differ.
        a.eq(a).select(a, k.f(0.0)).unary(UnaryOp::FloatToBits)
    });
}

#[test]
fn binary_of_floats() {
    for op in
        [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Div, BinaryOp::Min, BinaryOp::Max]
    {
        elementwise("binary", DType::F32, DType::F32, |_, [a, b, _]| a.binary(op, b));
    }
}

#[test]
fn binary_of_integers() {
    use BinaryOp::*;
    for op in [Add, Sub, Mul, Min, Max, And, Or, Xor] {
        elementwise("binary", DType::I32, DType::I32, |_, [a, b, _]| a.binary(op, b));
    }
}

#[test]
fn division_by_constants() {
    for op in [BinaryOp::Div, BinaryOp::Rem] {
        for divisor in [1, 2, 3, 7, 10, 16, 641, 1000, 65536, i32::MAX - 1, i32::MAX] {
            elementwise("divide", DType::I32, DType::I32, |k, [a, ..]| {
                // A scalar by 1 is folded by the builder; a repeated one is not.
                a.binary(op, k.i(divisor).splat(a.ty().width))
            });
        }
    }
}

#[test]
fn shifts() {
    for op in [BinaryOp::Shl, BinaryOp::Shr] {
        for amount in [0, 1, 5, 16, 31] {
            elementwise("shift", DType::I32, DType::I32, |_, [a, ..]| a.binary(op, amount));
        }
        elementwise("shift_each", DType::I32, DType::I32, |_, [a, b, _]| {
            let amount = b.binary(BinaryOp::And, 31);
            a.binary(op, amount)
        });
        elementwise("shift_all", DType::I32, DType::I32, |_, [a, b, _]| {
            let amount = b.extract(0).binary(BinaryOp::And, 31);
            a.binary(op, amount)
        });
    }
}

#[test]
fn bools() {
    for op in [BinaryOp::And, BinaryOp::Or, BinaryOp::Xor] {
        elementwise("bool", DType::I32, DType::I32, |_, [a, b, c]| a.lt(b).binary(op, b.lt(c)));
    }
    elementwise("choose", DType::I32, DType::I32, |_, [a, b, c]| a.lt(b).select(b.lt(c), a.lt(c)));
    elementwise("constants", DType::I32, DType::I32, |k, [a, b, _]| {
        a.lt(b).select(k.bool(true), k.bool(false)).or(b.lt(a))
    });
}

#[test]
fn comparisons() {
    for op in COMPARISONS {
        elementwise("compare", DType::F32, DType::I32, |_, [a, b, _]| a.compare(op, b));
        elementwise("compare", DType::I32, DType::I32, |_, [a, b, _]| a.compare(op, b));
        elementwise("compare_self", DType::F32, DType::I32, |_, [a, ..]| a.compare(op, a));
    }
}

#[test]
fn selects() {
    elementwise("each", DType::F32, DType::F32, |_, [a, b, c]| a.lt(b).select(b, c));
    elementwise("minimum", DType::F32, DType::F32, |_, [a, b, _]| a.lt(b).select(a, b));
    elementwise("maximum", DType::F32, DType::F32, |_, [a, b, _]| a.gt(b).select(a, b));
    elementwise("ints", DType::I32, DType::I32, |_, [a, b, c]| a.lt(b).select(b, c));
    elementwise("by_int", DType::F32, DType::F32, |_, [a, b, c]| {
        a.unary(UnaryOp::FloatToBits).lt(0).select(b, c)
    });
    elementwise("all", DType::F32, DType::F32, |_, [a, b, c]| {
        a.extract(0).lt(b.extract(0)).select(b, c)
    });
}

#[test]
fn multiply_adds() {
    elementwise("mul_add", DType::F32, DType::F32, |k, [a, b, c]| k.mul_add(a, b, c));
    elementwise("by_scalar", DType::F32, DType::F32, |k, [a, b, c]| k.mul_add(a.extract(0), b, c));
    elementwise("negated", DType::F32, DType::F32, |k, [a, b, c]| k.mul_add(-a, b, -c));
}

#[test]
fn splat_and_extract() {
    for element in 0..16 {
        elementwise("f32", DType::F32, DType::F32, |_, [a, b, _]| {
            let width = a.ty().width;
            a.extract(element % width).splat(width) + b
        });
        elementwise("i32", DType::I32, DType::I32, |_, [a, b, _]| {
            let width = a.ty().width;
            a.extract(element % width).splat(width) + b
        });
        elementwise("bool", DType::I32, DType::I32, |_, [a, b, c]| {
            let width = a.ty().width;
            a.lt(b).extract(element % width).splat(width).or(a.lt(c))
        });
    }
}

#[test]
fn vectors_of_scalars() {
    /// The elements of `v` from the last to the first.
    fn reversed<'k>(k: &'k KernelBuilder, v: Expr<'k>) -> Expr<'k> {
        let elements: Vec<_> = (0..v.ty().width).rev().map(|i| v.extract(i)).collect();
        k.vector(&elements)
    }
    elementwise("f32", DType::F32, DType::F32, |k, [a, b, _]| reversed(k, a) + b);
    elementwise("i32", DType::I32, DType::I32, |k, [a, ..]| reversed(k, a));
    elementwise("bool", DType::I32, DType::I32, |k, [a, b, c]| reversed(k, a.lt(b)).select(b, c));
}

#[test]
fn reductions() {
    elementwise("sum", DType::F32, DType::F32, |_, [a, ..]| a.sum().splat(a.ty().width));
    elementwise("smallest", DType::F32, DType::F32, |_, [a, ..]| a.smallest().splat(a.ty().width));
    elementwise("smallest", DType::I32, DType::I32, |_, [a, ..]| a.smallest().splat(a.ty().width));
    elementwise("largest", DType::F32, DType::F32, |_, [a, ..]| a.largest().splat(a.ty().width));
    elementwise("sum", DType::I32, DType::I32, |_, [a, ..]| a.sum().splat(a.ty().width));
    elementwise("largest", DType::I32, DType::I32, |_, [a, ..]| a.largest().splat(a.ty().width));
}

#[test]
fn formulas() {
    elementwise("exp", DType::F32, DType::F32, |_, [a, ..]| a.exp());
    elementwise("silu", DType::F32, DType::F32, |_, [a, ..]| a.silu());
    elementwise("sigmoid", DType::F32, DType::F32, |_, [a, ..]| a.sigmoid());
    elementwise("softplus", DType::F32, DType::F32, |_, [a, ..]| a.softplus());
    elementwise("log", DType::F32, DType::F32, |_, [a, ..]| a.abs().max(1e-30).log());
    elementwise("sin", DType::F32, DType::F32, |k, [a, ..]| k.sin_cos(a.min(1e6).max(-1e6)).0);
    elementwise("cos", DType::F32, DType::F32, |k, [a, ..]| k.sin_cos(a.min(1e6).max(-1e6)).1);
}

#[test]
fn narrow_types_are_widened_and_rounded() {
    for dtype in [DType::F16, DType::Bf16] {
        elementwise("widen", dtype, DType::F32, |_, [a, ..]| a);
        elementwise("round", DType::F32, dtype, |_, [a, ..]| a);
        elementwise("both", dtype, dtype, |_, [a, b, _]| a * b);
    }
}

/// All 16-bit patterns, and every way an `f32` can fall between two of them.
#[test]
fn conversions_are_exact_on_every_pattern() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for dtype in [DType::F16, DType::Bf16] {
        for width in [1u8, 4, 8] {
            let data = [Data::Buffer(all.clone()), Data::zeros(DType::F32, 1 << 16)];
            agree("widen", (1 << 16) / u32::from(width), &data, |k| {
                let (from, to) = (k.input("from", dtype), k.output("to", DType::F32));
                let at = k.task() * i32::from(width);
                k.store(to, at, k.load_vec(from, at, width));
            });
            let near: Vec<f32> = all
                .chunks(2)
                .flat_map(|b| {
                    let bits = dtype.read_f32(b).to_bits();
                    let half = if dtype == DType::F16 { 0x1000 } else { 0x8000 };
                    [bits, bits ^ 1, bits | half, bits | half | 1, (bits | half).wrapping_sub(1)]
                        .map(f32::from_bits)
                })
                .collect();
            let data = [Data::f32(&near), Data::zeros(dtype, near.len())];
            agree("round", (near.len() / usize::from(width)) as u32, &data, |k| {
                let (from, to) = (k.input("from", DType::F32), k.output("to", dtype));
                let at = k.task() * i32::from(width);
                k.store(to, at, k.load_vec(from, at, width));
            });
        }
    }
}
