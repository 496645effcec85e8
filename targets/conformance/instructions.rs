//! Every instruction on values, of every width and type.

use crate::harness::*;
use q35_kernel::{BinaryOp, CompareOp, Expr, KernelBuilder, Scalar, UnaryOp};
use q35_types::DType;

const WIDTHS: [u8; 5] = [1, 2, 4, 8, 16];
const LANES: u32 = 32;
const N: usize = 1024;

const COMPARISONS: [CompareOp; 6] =
    [CompareOp::Eq, CompareOp::Ne, CompareOp::Lt, CompareOp::Le, CompareOp::Gt, CompareOp::Ge];

#[track_caller]
fn elementwise<const R: usize>(
    name: &str,
    input: DType,
    output: DType,
    f: impl for<'k> Fn(&'k KernelBuilder, [Expr<'k>; 3]) -> [Expr<'k>; R],
) {
    within(EXACT, name, input, output, f);
}

/// For each width, `out[r][i] = f(a[i], b[i], c[i])[r]`, each of type `input`; a result of `bool` is
/// stored as 0 or 1.
#[track_caller]
fn within<const R: usize>(
    ulps: Ulps,
    name: &str,
    input: DType,
    output: DType,
    f: impl for<'k> Fn(&'k KernelBuilder, [Expr<'k>; 3]) -> [Expr<'k>; R],
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
        let mut data = vec![shifted(0), shifted(1), shifted(30)];
        data.extend((0..R).map(|_| Data::zeros(output, N)));
        let tasks = N as u32 / (LANES * u32::from(width));
        agree(name, LANES, tasks, &data, ulps, |k| {
            let inputs = ["a", "b", "c"].map(|name| k.input(name, input));
            let at = (k.task() * LANES + k.lane()) * i32::from(width);
            let values = inputs.map(|mem| k.load_vec(mem, at, width));
            for (r, result) in f(k, values).into_iter().enumerate() {
                let out = k.output(&format!("out{r}"), output);
                let result = match result.ty().scalar {
                    Scalar::Bool => result.select(1, 0),
                    Scalar::F32 | Scalar::I32 => result,
                };
                k.store(out, at, result);
            }
        });
    }
}

#[test]
fn unary() {
    elementwise("floats", DType::F32, DType::F32, |_, [a, ..]| {
        [a.unary(UnaryOp::Neg), a.unary(UnaryOp::Abs)]
    });
    within(Ulps(3), "sqrt", DType::F32, DType::F32, |_, [a, ..]| [a.sqrt()]);
    elementwise("from_int", DType::I32, DType::F32, |_, [a, ..]| {
        [a.unary(UnaryOp::IntToFloat), a.unary(UnaryOp::BitsToFloat)]
    });
    elementwise("to_int", DType::F32, DType::I32, |k, [a, b, _]| {
        // Of numbers: the payload of a NaN may differ.
        let number = a.eq(a).select(a, k.f(0.0));
        let not = a.lt(b).unary(UnaryOp::Not);
        [a.unary(UnaryOp::FloatToInt), number.unary(UnaryOp::FloatToBits), not]
    });
}

#[test]
fn binary_of_floats() {
    use BinaryOp::*;
    elementwise("binary", DType::F32, DType::F32, |_, [a, b, _]| {
        [Add, Sub, Mul, Min, Max].map(|op| a.binary(op, b))
    });
    // Vulkan promises this only for divisors from 2^-126 to 2^126.
    within(Ulps(3), "divide", DType::F32, DType::F32, |k, [a, b, _]| {
        let size = b.abs();
        let fits = size.ge(2.0f32.powi(-126)).and(size.le(2.0f32.powi(126)));
        [a / fits.select(b, k.f(3.0))]
    });
}

#[test]
fn binary_of_integers() {
    use BinaryOp::*;
    elementwise("binary", DType::I32, DType::I32, |_, [a, b, _]| {
        [Add, Sub, Mul, Min, Max, And, Or, Xor].map(|op| a.binary(op, b))
    });
}

#[test]
fn division_by_constants() {
    for op in [BinaryOp::Div, BinaryOp::Rem] {
        elementwise("divide", DType::I32, DType::I32, |k, [a, ..]| {
            // A scalar by 1 is folded by the builder; a repeated one is not.
            let divisors = [1, 3, 16, 641, 65536, i32::MAX - 1, i32::MAX];
            divisors.map(|d| a.binary(op, k.i(d).splat(a.ty().width)))
        });
    }
}

#[test]
fn shifts() {
    for op in [BinaryOp::Shl, BinaryOp::Shr] {
        elementwise("shift", DType::I32, DType::I32, |_, [a, b, _]| {
            let each = b.binary(BinaryOp::And, 31);
            [a.binary(op, 0), a.binary(op, 5), a.binary(op, 31), a.binary(op, each)]
        });
    }
}

#[test]
fn bools() {
    use BinaryOp::*;
    elementwise("bools", DType::I32, DType::I32, |k, [a, b, c]| {
        let [x, y] = [a.lt(b), b.lt(c)];
        let [and, or, xor] = [And, Or, Xor].map(|op| x.binary(op, y));
        [and, or, xor, x.select(y, a.lt(c)), x.select(k.bool(true), k.bool(false)).or(b.lt(a))]
    });
}

#[test]
fn comparisons() {
    for dtype in [DType::F32, DType::I32] {
        elementwise("compare", dtype, DType::I32, |_, [a, b, _]| {
            COMPARISONS.map(|op| a.compare(op, b))
        });
        elementwise("itself", dtype, DType::I32, |_, [a, ..]| {
            COMPARISONS.map(|op| a.compare(op, a))
        });
    }
}

#[test]
fn selects() {
    elementwise("floats", DType::F32, DType::F32, |_, [a, b, c]| {
        [a.lt(b).select(b, c), a.extract(0).lt(b.extract(0)).select(b, c)]
    });
    elementwise("ints", DType::I32, DType::I32, |_, [a, b, c]| [a.lt(b).select(b, c)]);
}

/// Vulkan lets a driver round `fma` twice, so operands are such that it does not matter.
#[test]
fn multiply_adds() {
    fn small(a: Expr<'_>) -> Expr<'_> {
        a.unary(UnaryOp::FloatToBits).binary(BinaryOp::And, 0xfff).to_f32()
    }
    elementwise("fma", DType::F32, DType::F32, |k, v| {
        let [a, b, c] = v.map(small);
        [k.mul_add(a, b, c), k.mul_add(-a, b.extract(0), -c)]
    });
}

/// Where fusing would show: the product is not a float, and the sum cancels all of it but that.
#[test]
fn a_multiplication_and_an_addition_stay_two() {
    elementwise("unfused", DType::I32, DType::F32, |_, [a, ..]| {
        let x = a.binary(BinaryOp::And, 0x7f_ffff).to_f32() * 2.0f32.powi(-23) + 1.0;
        let square = x * x;
        [x * x - square]
    });
}

#[test]
fn splat_vector_and_extract() {
    const ELEMENTS: [u8; 6] = [0, 1, 3, 5, 10, 15];
    elementwise("f32", DType::F32, DType::F32, |_, [a, b, _]| {
        let width = a.ty().width;
        ELEMENTS.map(|element| a.extract(element % width).splat(width) + b)
    });
    elementwise("bool", DType::I32, DType::I32, |_, [a, b, c]| {
        let width = a.ty().width;
        ELEMENTS.map(|element| a.lt(b).extract(element % width).splat(width).or(a.lt(c)))
    });
    elementwise("reversed", DType::I32, DType::I32, |k, [a, b, _]| {
        let less = a.lt(b);
        [a, less].map(|v| {
            let elements: Vec<Expr> = (0..a.ty().width).rev().map(|i| v.extract(i)).collect();
            k.vector(&elements)
        })
    });
}

#[test]
fn reductions() {
    for dtype in [DType::F32, DType::I32] {
        elementwise("reduce", dtype, dtype, |_, [a, ..]| {
            [a.sum(), a.largest()].map(|v| v.splat(a.ty().width))
        });
    }
}

/// Where multiply-adds may be fused there, and are here, or the other way round, some units more.
#[test]
fn formulas() {
    within(Ulps(4), "exp", DType::F32, DType::F32, |_, [a, ..]| {
        let bounded = a.max(-80.0).min(80.0);
        [a.exp(), bounded.sigmoid(), bounded.silu()]
    });
    within(Ulps(16), "softplus", DType::F32, DType::F32, |_, [a, ..]| [a.max(-80.0).softplus()]);
    within(Ulps(2), "sin", DType::F32, DType::F32, |k, [a, ..]| {
        let (sin, cos) = k.sin_cos(a.min(1e6).max(-1e6));
        [sin, cos]
    });
}

#[test]
fn narrow_types_are_widened_and_rounded() {
    for dtype in [DType::F16, DType::Bf16] {
        elementwise("widen", dtype, DType::F32, |_, [a, ..]| [a]);
        elementwise("round", DType::F32, dtype, |_, [a, ..]| [a]);
        elementwise("both", dtype, dtype, |_, [a, b, _]| [a * b]);
    }
}

/// All 16-bit patterns, and every way an `f32` can fall between two of them.
#[test]
fn conversions_are_exact_on_every_pattern() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for dtype in [DType::F16, DType::Bf16] {
        let data = [Data::Buffer(all.clone()), Data::zeros(DType::F32, 1 << 16)];
        agree("widen", LANES, (1 << 16) / (LANES * 4), &data, EXACT, |k| {
            let (from, to) = (k.input("from", dtype), k.output("to", DType::F32));
            let at = (k.task() * LANES + k.lane()) * 4;
            k.store(to, at, k.load_vec(from, at, 4));
        });
        let near: Vec<f32> = all
            .chunks(2)
            .flat_map(|b| {
                let bits = dtype.read_f32(b).to_bits();
                let half = if dtype == DType::F16 { 0x1000 } else { 0x8000 };
                [bits, bits ^ 1, bits | half, bits | half | 1].map(f32::from_bits)
            })
            .collect();
        for width in [1, 4] {
            let data = [Data::f32(&near), Data::zeros(dtype, near.len())];
            let tasks = near.len() as u32 / (LANES * width);
            agree("round", LANES, tasks, &data, EXACT, |k| {
                let (from, to) = (k.input("from", DType::F32), k.output("to", dtype));
                let at = (k.task() * LANES + k.lane()) * width;
                k.store(to, at, k.load_vec(from, at, width as u8));
            });
        }
    }
}
