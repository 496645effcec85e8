//! The functions that the builder expands, against `f64`, with multiply-adds fused and not.
//! The bounds are those that their documentation states.

use q35_interp::kernel::{Arg, run};
use q35_kernel::{Expr, Kernel, KernelBuilder, Machine};
use q35_types::DType;

/// Elements of a vector; a kernel that reads only whole ones keeps the evaluator quick.
const WIDTH: usize = 16;

fn map_kernel(
    fma: bool,
    n: usize,
    function: impl for<'k> Fn(&'k KernelBuilder, Expr<'k>) -> Expr<'k>,
) -> Kernel {
    let k = KernelBuilder::new("map", Machine { lanes: 1, subgroup: 1, fma, panel_dot: false });
    let (x, out) = (k.input("x", DType::F32), k.output("out", DType::F32));
    k.range(0, n, WIDTH as u32, |i| {
        let y = function(&k, k.load_vec(x, i, WIDTH as u8));
        k.store(out, i, y);
    });
    k.finish()
}

/// `function` of each of `xs`.
fn evaluate(
    fma: bool,
    xs: &[f32],
    function: impl for<'k> Fn(&'k KernelBuilder, Expr<'k>) -> Expr<'k>,
) -> Vec<f32> {
    let n = xs.len().next_multiple_of(WIDTH);
    let mut x: Vec<u8> = xs.iter().flat_map(|v| v.to_le_bytes()).collect();
    x.resize(n * 4, 0);
    let mut out = vec![0; n * 4];
    let kernel = map_kernel(fma, n, function);
    run(&kernel, &mut [Arg::Read(&x), Arg::Write(&mut out)], 0..1).expect("it runs");
    out.chunks_exact(4).take(xs.len()).map(|b| DType::F32.read_f32(b)).collect()
}

/// `n` points from `low` to `high`, both included.
fn linear(low: f64, high: f64, n: usize) -> Vec<f32> {
    (0..=n).map(|i| (low + (high - low) * i as f64 / n as f64) as f32).collect()
}

/// Every `step`th float between two positive ones.
fn floats(low: f32, high: f32, step: usize) -> Vec<f32> {
    (low.to_bits()..=high.to_bits()).step_by(step).map(f32::from_bits).collect()
}

/// Distance of `got` from `want` in units of the last place of the `f32` nearest to `want`.
fn ulps(got: f32, want: f64) -> f64 {
    let near = (want as f32).abs().max(f32::MIN_POSITIVE);
    let unit = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
    (f64::from(got) - want).abs() / unit
}

/// For both kinds of multiply-add, `error(x, function(x))` stays below `bound` on all of `xs`.
fn bounded(
    xs: &[f32],
    bound: f64,
    function: impl for<'k> Fn(&'k KernelBuilder, Expr<'k>) -> Expr<'k>,
    error: impl Fn(f32, f32) -> f64,
) {
    for fma in [false, true] {
        for (&x, y) in xs.iter().zip(evaluate(fma, xs, &function)) {
            let e = error(x, y);
            assert!(e < bound, "error {e} at {x:e}, where it gives {y:e}, fused {fma}");
        }
    }
}

/// For both kinds of multiply-add, these arguments give exactly these results, or a NaN.
fn exactly(
    cases: &[(f32, f32)],
    function: impl for<'k> Fn(&'k KernelBuilder, Expr<'k>) -> Expr<'k>,
) {
    let xs: Vec<f32> = cases.iter().map(|c| c.0).collect();
    for fma in [false, true] {
        for (&(x, want), y) in cases.iter().zip(evaluate(fma, &xs, &function)) {
            assert!(
                y == want || y.is_nan() && want.is_nan(),
                "{y} for {x}, expected {want}, fused {fma}"
            );
        }
    }
}

fn sigmoid(x: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(x)).exp())
}

#[test]
fn exp_is_within_one_and_a_half_units() {
    let xs = linear(-87.336, 88.722, 300_000);
    bounded(&xs, 1.5, |_, x| x.exp(), |x, y| ulps(y, f64::from(x).exp()));
}

#[test]
fn exp_ends_in_zero_and_infinity_and_keeps_nan() {
    const INFINITY: f32 = f32::INFINITY;
    let cases = [
        (0.0, 1.0),
        (-0.0, 1.0),
        (1e-30, 1.0),
        (-87.34, 0.0),
        (-1e30, 0.0),
        (-INFINITY, 0.0),
        (88.73, INFINITY),
        (1e30, INFINITY),
        (INFINITY, INFINITY),
        (f32::NAN, f32::NAN),
        (-f32::NAN, f32::NAN),
    ];
    exactly(&cases, |_, x| x.exp());
}

#[test]
fn log_of_normal_numbers_is_within_two_units() {
    let error = |x: f32, y: f32| ulps(y, f64::from(x).ln());
    bounded(&floats(f32::MIN_POSITIVE, f32::MAX, 9001), 2.0, |_, x| x.log(), error);
    bounded(&floats(0.7, 1.42, 31), 2.0, |_, x| x.log(), error);
    exactly(&[(1.0, 0.0)], |_, x| x.log());
}

#[test]
fn sigmoid_and_silu_are_within_three_units() {
    let xs = linear(-87.0, 100.0, 300_000);
    bounded(&xs, 3.0, |_, x| x.sigmoid(), |x, y| ulps(y, sigmoid(x)));
    bounded(&xs, 3.0, |_, x| x.silu(), |x, y| ulps(y, f64::from(x) * sigmoid(x)));
    let nan = (f32::NAN, f32::NAN);
    exactly(&[(0.0, 0.5), (-1e30, 0.0), (1e30, 1.0), nan], |_, x| x.sigmoid());
    exactly(&[(0.0, 0.0), (-1e30, 0.0), (1e30, 1e30), nan], |_, x| x.silu());
}

#[test]
fn softplus_is_within_four_units_where_it_is_tiny_too() {
    let error = |x: f32, y: f32| ulps(y, f64::from(x).exp().ln_1p());
    bounded(&linear(-87.3, 100.0, 200_000), 4.0, |_, x| x.softplus(), error);
    bounded(&linear(-20.5, 20.5, 200_000), 4.0, |_, x| x.softplus(), error);
    let cases = [(-100.0, 0.0), (20.5, 20.5), (1e30, 1e30), (f32::NAN, f32::NAN)];
    exactly(&cases, |_, x| x.softplus());
}

#[test]
fn sin_and_cos_are_within_2e_minus_7_for_every_position() {
    const MOST: f64 = 4_194_304.0;
    let whole: Vec<f32> = (0..100_000).map(|i| (i * 41) as f32).collect();
    for xs in [linear(-8.0, 8.0, 100_000), linear(-MOST, MOST, 200_001), whole] {
        let sin = |x: f32, y: f32| (f64::from(y) - f64::from(x).sin()).abs();
        let cos = |x: f32, y: f32| (f64::from(y) - f64::from(x).cos()).abs();
        bounded(&xs, 2e-7, |k, x| k.sin_cos(x).0, sin);
        bounded(&xs, 2e-7, |k, x| k.sin_cos(x).1, cos);
    }
    exactly(&[(0.0, 0.0)], |k, x| k.sin_cos(x).0);
    exactly(&[(0.0, 1.0)], |k, x| k.sin_cos(x).1);
}
