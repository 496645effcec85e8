//! Each group of instructions against the same arithmetic in Rust.

mod common;

use common::{Bench, module};
use half::{bf16, f16};

/// Values with a say: small, large, at the edges of types, and floats of all kinds.
fn values() -> Vec<u64> {
    let mut out: Vec<u64> =
        vec![0, 1, 2, 31, 32, 33, 63, 64, 255, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000];
    out.extend([
        u64::from(u32::MAX),
        1 << 32,
        i64::MAX as u64,
        i64::MIN as u64,
        u64::MAX,
        0x0123_4567_89ab_cdef,
    ]);
    for f in
        [1.0f32, -1.5, 0.1, 3e38, -1e-40, 1e-45, 65519.9, f32::INFINITY, f32::NAN, 0.5, 2.5, -0.0]
    {
        out.push(u64::from(f.to_bits()) << 32 | u64::from(f.to_bits()));
    }
    out
}

/// One thread for each pair of values: `a` in %rd10, %r10, %h10, %f10, %fd10, `b` in 11 and `c`, which is both mixed, in
/// 12. Gives %rd0 of each.
fn run(body: &str) -> Vec<(u64, u64, u64, u64)> {
    let values = values();
    let pairs: Vec<(u64, u64)> =
        values.iter().flat_map(|a| values.iter().map(|b| (*a, *b))).collect();
    let pairs = &pairs[..1024];
    let mixed = |(a, b): &(u64, u64)| a.rotate_left(7) ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3;
    let mut text = String::from("mov.u32 %r1, %tid.x;\n");
    for (i, name) in ["a", "b", "c"].iter().enumerate() {
        let n = 10 + i;
        text += &format!(
            "ld.param.u64 %rd1, [{name}]; mad.wide.u32 %rd1, %r1, 8, %rd1; ld.global.u64 %rd{n}, [%rd1];\n\
             cvt.u32.u64 %r{n}, %rd{n}; cvt.u16.u64 %h{n}, %rd{n}; mov.b32 %f{n}, %r{n}; mov.b64 %fd{n}, %rd{n};\n"
        );
    }
    text += &format!(
        "{body}\nld.param.u64 %rd1, [out]; mad.wide.u32 %rd1, %r1, 8, %rd1; st.global.u64 [%rd1], %rd0;"
    );
    let mut bench =
        Bench::new(&module(".param .u64 a, .param .u64 b, .param .u64 c, .param .u64 out", &text));
    bench.given(&pairs.iter().map(|p| p.0).collect::<Vec<u64>>());
    bench.given(&pairs.iter().map(|p| p.1).collect::<Vec<u64>>());
    bench.given(&pairs.iter().map(mixed).collect::<Vec<u64>>());
    let out = bench.room::<u64>(pairs.len());
    bench.launch("k", [1, 1, 1], [pairs.len() as u32, 1, 1], 0);
    let found = bench.read::<u64>(out, pairs.len());
    pairs.iter().zip(found).map(|(p, f)| (p.0, p.1, mixed(p), f)).collect()
}

/// `op %r0, ...` against `wanted(a, b, c)`.
fn check32(op: &str, wanted: impl Fn(u32, u32, u32) -> u32) {
    for (a, b, c, found) in run(&format!("{op}; cvt.u64.u32 %rd0, %r0;")) {
        let wanted = wanted(a as u32, b as u32, c as u32);
        assert_eq!(
            found as u32, wanted,
            "{op}: {:#x}, {:#x}, {:#x}: {found:#x}, {wanted:#x}",
            a as u32, b as u32, c as u32
        );
    }
}

fn check64(op: &str, wanted: impl Fn(u64, u64, u64) -> u64) {
    for (a, b, c, found) in run(&format!("{op};")) {
        let wanted = wanted(a, b, c);
        assert_eq!(found, wanted, "{op}: {a:#x}, {b:#x}, {c:#x}: {found:#x}, {wanted:#x}");
    }
}

fn check_float(op: &str, wanted: impl Fn(f32, f32, f32) -> f32) {
    let op = format!("{op}; mov.b32 %r0, %f0");
    check32(&op, |a, b, c| {
        let v = wanted(f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
        if v.is_nan() { 0x7fff_ffff } else { v.to_bits() }
    });
}

#[test]
fn integer_sums_and_products() {
    check32("add.s32 %r0, %r10, %r11", |a, b, _| a.wrapping_add(b));
    check32("sub.u32 %r0, %r10, %r11", |a, b, _| a.wrapping_sub(b));
    check32("add.sat.s32 %r0, %r10, %r11", |a, b, _| (a as i32).saturating_add(b as i32) as u32);
    check32("mul.lo.u32 %r0, %r10, %r11", |a, b, _| a.wrapping_mul(b));
    check32("mul.hi.u32 %r0, %r10, %r11", |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    check32("mul.hi.s32 %r0, %r10, %r11", |a, b, _| {
        ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
    });
    check32("mul.wide.u16 %r0, %h10, %h11", |a, b, _| (a & 0xffff) * (b & 0xffff));
    check32("mad.lo.s32 %r0, %r10, %r11, %r12", |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    check32("sad.u32 %r0, %r10, %r11, %r12", |a, b, c| a.abs_diff(b).wrapping_add(c));
    check64("mul.wide.s32 %rd0, %r10, %r11", |a, b, _| {
        (i64::from(a as i32) * i64::from(b as i32)) as u64
    });
    check64("mad.wide.u32 %rd0, %r10, %r11, %rd12", |a, b, c| {
        (a & 0xffff_ffff).wrapping_mul(b & 0xffff_ffff).wrapping_add(c)
    });
    check64("mul.hi.u64 %rd0, %rd10, %rd11", |a, b, _| {
        ((u128::from(a) * u128::from(b)) >> 64) as u64
    });
    check64("mul.hi.s64 %rd0, %rd10, %rd11", |a, b, _| {
        ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
    });
    check64("mad.lo.s64 %rd0, %rd10, %rd11, %rd12", |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    check32("max.s32 %r0, %r10, %r11", |a, b, _| (a as i32).max(b as i32) as u32);
    check32("min.u32 %r0, %r10, %r11", |a, b, _| a.min(b));
    check32("abs.s32 %r0, %r10", |a, _, _| (a as i32).wrapping_abs() as u32);
    check64("neg.s64 %rd0, %rd10", |a, _, _| a.wrapping_neg());
}

#[test]
fn division_and_remainder() {
    check32("div.s32 %r0, %r10, %r11", |a, b, _| {
        if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 }
    });
    check32("div.u32 %r0, %r10, %r11", |a, b, _| a.checked_div(b).unwrap_or(u32::MAX));
    check32("rem.s32 %r0, %r10, %r11", |a, b, _| {
        if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }
    });
    check64("div.s64 %rd0, %rd10, %rd11", |a, b, _| {
        if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }
    });
    check64("rem.u64 %rd0, %rd10, %rd11", |a, b, _| a.checked_rem(b).unwrap_or(a));
}

#[test]
fn carries_make_wide_sums_and_products() {
    let halves = "mov.b64 {%r20,%r21}, %rd10; mov.b64 {%r22,%r23}, %rd11;";
    check64(
        &format!(
            "{halves} add.cc.u32 %r24, %r20, %r22; addc.u32 %r25, %r21, %r23; mov.b64 %rd0, {{%r24,%r25}}"
        ),
        |a, b, _| a.wrapping_add(b),
    );
    check64(
        &format!(
            "{halves} sub.cc.u32 %r24, %r20, %r22; subc.u32 %r25, %r21, %r23; mov.b64 %rd0, {{%r24,%r25}}"
        ),
        |a, b, _| a.wrapping_sub(b),
    );
    let long = "mul.lo.u32 %r24, %r20, %r22; mul.hi.u32 %r25, %r20, %r22; mad.lo.cc.u32 %r25, %r20, %r23, %r25; \
                mad.lo.cc.u32 %r25, %r21, %r22, %r25; mov.b64 %rd0, {%r24,%r25}";
    check64(&format!("{halves} {long}"), |a, b, _| a.wrapping_mul(b));
}

#[test]
fn bits() {
    check64("popc.b64 %r0, %rd10; cvt.u64.u32 %rd0, %r0", |a, _, _| a.count_ones().into());
    check64("clz.b64 %r0, %rd10; cvt.u64.u32 %rd0, %r0", |a, _, _| a.leading_zeros().into());
    check32("brev.b32 %r0, %r10", |a, _, _| a.reverse_bits());
    check32("bfind.u32 %r0, %r10", |a, _, _| a.checked_ilog2().unwrap_or(u32::MAX));
    check32("shl.b32 %r0, %r10, %r11", |a, b, _| a.checked_shl(b).unwrap_or(0));
    check32("shr.u32 %r0, %r10, %r11", |a, b, _| a.checked_shr(b).unwrap_or(0));
    check32("shr.s32 %r0, %r10, %r11", |a, b, _| (a as i32 >> b.min(31)) as u32);
    check64("shl.b64 %rd0, %rd10, %r11", |a, b, _| a.checked_shl(b as u32).unwrap_or(0));
    check64("shr.s64 %rd0, %rd10, %r11", |a, b, _| (a as i64 >> (b as u32).min(63)) as u64);
    check32("shf.l.wrap.b32 %r0, %r10, %r11, %r12", |a, b, c| {
        ((u64::from(b) << 32 | u64::from(a)) << (c & 31) >> 32) as u32
    });
    check32("shf.r.clamp.b32 %r0, %r10, %r11, %r12", |a, b, c| {
        ((u64::from(b) << 32 | u64::from(a)) >> c.min(32)) as u32
    });
    check32("bfe.u32 %r0, %r10, 5, 9", |a, _, _| a >> 5 & 0x1ff);
    check32("bfe.s32 %r0, %r10, 5, 9", |a, _, _| ((a << 18) as i32 >> 23) as u32);
    check32("bfe.s32 %r0, %r10, 28, 9", |a, _, _| (a as i32 >> 28) as u32);
    check32("bfi.b32 %r0, %r10, %r11, 7, 5", |a, b, _| b & !(31 << 7) | (a & 31) << 7);
    check64("bfi.b64 %rd0, %rd10, %rd11, 32, 32", |a, b, _| a << 32 | b & 0xffff_ffff);
    check32("lop3.b32 %r0, %r10, %r11, %r12, 0xca", |a, b, c| a & b | !a & c);
    check32("lop3.b32 %r0, %r10, %r11, %r12, 0x96", |a, b, c| a ^ b ^ c);
    check32("not.b32 %r0, %r10", |a, _, _| !a);
    check32("prmt.b32 %r0, %r10, %r11, 0x5410", |a, b, _| a & 0xffff | b << 16);
    check32("prmt.b32 %r0, %r10, %r11, 0x0123", |a, _, _| a.swap_bytes());
    check32("prmt.b32 %r0, %r10, %r11, 0x8888", |a, _, _| if a & 0x80 != 0 { u32::MAX } else { 0 });
    check32("dp4a.s32.s32 %r0, %r10, %r11, %r12", |a, b, c| {
        let bytes = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
        bytes.fold(c, |s, (x, y)| s.wrapping_add((i32::from(x as i8) * i32::from(y as i8)) as u32))
    });
}

#[test]
fn comparisons_and_selections() {
    let test = |how: &str, of: &str| format!("setp.{how} %p1, {of}; selp.u32 %r0, 1, 0, %p1");
    check32(&test("lt.s32", "%r10, %r11"), |a, b, _| u32::from((a as i32) < b as i32));
    check32(&test("hi.u32", "%r10, %r11"), |a, b, _| u32::from(a > b));
    check32(&test("ne.s16", "%h10, %h11"), |a, b, _| u32::from(a as u16 != b as u16));
    let f = f32::from_bits;
    check32(&test("lt.f32", "%f10, %f11"), |a, b, _| u32::from(f(a) < f(b)));
    check32(&test("geu.f32", "%f10, %f11"), |a, b, _| {
        u32::from(f(a).is_nan() || f(b).is_nan() || f(a) >= f(b))
    });
    check32(&test("ne.f32", "%f10, %f11"), |a, b, _| u32::from(f(a) < f(b) || f(a) > f(b)));
    check32(&test("neu.f32", "%f10, %f11"), |a, b, _| u32::from(f(a) != f(b)));
    check32(&test("nan.f32", "%f10, %f11"), |a, b, _| u32::from(f(a).is_nan() || f(b).is_nan()));
    let joined = "setp.gt.u32 %p2, %r12, 5; setp.eq.and.u32 %p1|%p3, %r10, %r11, !%p2; selp.u32 %r0, 1, 0, %p1; @%p3 add.u32 %r0, %r0, 2";
    check32(joined, |a, b, c| {
        if c > 5 {
            0
        } else if a == b {
            1
        } else {
            2
        }
    });
    let logic = "setp.gt.u32 %p2, %r12, 5; setp.eq.u32 %p1, %r10, %r11; xor.pred %p3, %p1, %p2; not.pred %p3, %p3; selp.u32 %r0, 1, 0, %p3";
    check32(logic, |a, b, c| u32::from((a == b) == (c > 5)));
    check32("set.lt.u32.u32 %r0, %r10, %r11", |a, b, _| if a < b { u32::MAX } else { 0 });
    check32("testp.subnormal.f32 %p1, %f10; selp.u32 %r0, 1, 0, %p1", |a, _, _| {
        u32::from(f(a).is_subnormal())
    });
}

#[test]
fn floats_round_to_nearest() {
    check_float("add.f32 %f0, %f10, %f11", |a, b, _| a + b);
    check_float("mul.rn.f32 %f0, %f10, %f12", |a, _, c| a * c);
    check_float("div.rn.f32 %f0, %f10, %f12", |a, _, c| a / c);
    check_float("fma.rn.f32 %f0, %f10, %f12, %f11", |a, b, c| a.mul_add(c, b));
    check_float("fma.rn.f32 %f0, %f12, %f12, %f12", |_, _, c| c.mul_add(c, c));
    check_float("sqrt.rn.f32 %f0, %f12", |_, _, c| c.sqrt());
    check_float("rcp.rn.f32 %f0, %f12", |_, _, c| 1.0 / c);
    check_float(
        "max.f32 %f0, %f10, %f11",
        |a, b, _| if a == 0.0 && b == 0.0 { a + b } else { a.max(b) },
    );
    check_float("add.ftz.f32 %f0, %f10, %f10", |a, _, _| {
        if a.is_subnormal() { 0.0f32.copysign(a) } else { a + a }
    });
    check_float("mul.sat.f32 %f0, %f10, %f11", |a, b, _| {
        let v = a * b;
        if v.is_nan() { 0.0 } else { v.clamp(0.0, 1.0) + 0.0 }
    });
    let d = f64::from_bits;
    check64("fma.rn.f64 %fd0, %fd10, %fd11, %fd12; mov.b64 %rd0, %fd0", |a, b, c| {
        let v = d(a).mul_add(d(b), d(c));
        if v.is_nan() { i64::MAX as u64 } else { v.to_bits() }
    });
}

#[test]
fn floats_round_down_up_and_to_zero() {
    // The exact product of two float32 is a float64.
    let down = |v: f64| if f64::from(v as f32) > v { (v as f32).next_down() } else { v as f32 };
    let up = move |v: f64| -down(-v);
    let product = |a: f32, c: f32| f64::from(a) * f64::from(c);
    check_float("mul.rm.f32 %f0, %f10, %f12", |a, _, c| down(product(a, c)));
    check_float("mul.rp.f32 %f0, %f10, %f12", |a, _, c| up(product(a, c)));
    check_float("mul.rz.f32 %f0, %f10, %f12", |a, _, c| {
        if product(a, c) > 0.0 { down(product(a, c)) } else { up(product(a, c)) }
    });
    // Of quotients and roots, that the result and its neighbour enclose the exact value.
    for (a, _, c, found) in
        run("div.rp.f32 %f0, %f10, %f12; mov.b32 %r0, %f0; cvt.u64.u32 %rd0, %r0;")
    {
        let (a, c, q) =
            (f32::from_bits(a as u32), f32::from_bits(c as u32), f32::from_bits(found as u32));
        if a.is_finite() && c.is_normal() && q.is_normal() {
            let (a, c) = (f64::from(a) * f64::from(c).signum(), f64::from(c).abs());
            assert!(f64::from(q) * c >= a && f64::from(q.next_down()) * c < a, "{a} / {c}: {q}");
        }
    }
}

#[test]
fn approximations_are_close() {
    let near = |op: &str, wanted: fn(f64) -> f64| {
        for (_, _, c, found) in
            run(&format!("{op}.f32 %f0, %f12; mov.b32 %r0, %f0; cvt.u64.u32 %rd0, %r0;"))
        {
            let x = f64::from(f32::from_bits(c as u32));
            let (found, wanted) = (f32::from_bits(found as u32), wanted(x) as f32);
            let same = found == wanted || found.is_nan() && wanted.is_nan();
            assert!(
                same || (found - wanted).abs() <= 2.5e-7 * wanted.abs() + 1e-45,
                "{op}({x}): {found}, {wanted}"
            );
        }
    };
    near("ex2.approx", f64::exp2);
    near("lg2.approx", f64::log2);
    near("rsqrt.approx", |x| 1.0 / x.sqrt());
    near("sin.approx", f64::sin);
    near("tanh.approx", f64::tanh);
    near("rcp.approx", |x| 1.0 / x);
}

#[test]
fn conversions_between_integers() {
    check32("cvt.u32.u16 %r0, %h10", |a, _, _| a & 0xffff);
    check32("cvt.s32.s8 %r0, %r10", |a, _, _| a as i8 as u32);
    check64("cvt.s64.s32 %rd0, %r10", |a, _, _| a as i32 as u64);
    check32("cvt.sat.u8.s32 %r0, %r10", |a, _, _| (a as i32).clamp(0, 255) as u32);
    check32("cvt.sat.s16.s32 %r0, %r10", |a, _, _| (a as i32).clamp(-32768, 32767) as u32);
}

#[test]
fn conversions_between_floats_and_integers() {
    let f = f32::from_bits;
    check32("cvt.rzi.s32.f32 %r0, %f10", |a, _, _| f(a) as i32 as u32);
    check32("cvt.rzi.u32.f32 %r0, %f12", |_, _, c| f(c) as u32);
    check32("cvt.rni.s32.f32 %r0, %f10", |a, _, _| f(a).round_ties_even() as i32 as u32);
    check32("cvt.rmi.s32.f32 %r0, %f10", |a, _, _| f(a).floor() as i32 as u32);
    check_float("cvt.rpi.f32.f32 %f0, %f12", |_, _, c| c.ceil());
    check_float("cvt.rn.f32.s32 %f0, %r10", |a, _, _| a.to_bits() as i32 as f32);
    for (a, _, _, found) in
        run("cvt.rn.f32.u64 %f0, %rd10; mov.b32 %r0, %f0; cvt.u64.u32 %rd0, %r0;")
    {
        assert_eq!(f32::from_bits(found as u32), a as f32);
    }
    for (a, _, _, found) in
        run("cvt.rz.f32.s64 %f0, %rd10; mov.b32 %r0, %f0; cvt.u64.u32 %rd0, %r0;")
    {
        let (exact, found) = (a as i64 as i128, f32::from_bits(found as u32));
        let (found, exact) = (found.abs(), exact.abs());
        assert!(found as i128 <= exact, "{found}, {exact}");
        let beyond = found.next_up();
        assert!(beyond.fract() != 0.0 || beyond as i128 > exact, "{found}, {exact}");
    }
    check32("cvt.rn.f32.f64 %f0, %fd10; mov.b32 %r0, %f0; and.b32 %r0, %r0, 0", |_, _, _| 0);
}

#[test]
fn conversions_to_and_from_halves() {
    let f = f32::from_bits;
    let brain = |v: f32| if v.is_nan() { 0x7fff } else { u32::from(bf16::from_f32(v).to_bits()) };
    let half = |v: f32| if v.is_nan() { 0x7fff } else { u32::from(f16::from_f32(v).to_bits()) };
    let low = "cvt.u32.u16 %r0, %h0";
    check32(&format!("cvt.rn.bf16.f32 %h0, %f12; {low}"), |_, _, c| brain(f(c)));
    check32(&format!("cvt.rn.f16.f32 %h0, %f12; {low}"), |_, _, c| half(f(c)));
    check32(&format!("cvt.rn.f16.f32 %h0, %f10; {low}"), |a, _, _| half(f(a)));
    check32("cvt.rn.bf16x2.f32 %r0, %f10, %f12", |a, _, c| brain(f(a)) << 16 | brain(f(c)));
    check32("cvt.rn.relu.f16x2.f32 %r0, %f10, %f12", |a, _, c| {
        let half = |v: f32| half(if v <= 0.0 { 0.0 } else { v });
        half(f(a)) << 16 | half(f(c))
    });
    check32(&format!("cvt.rz.bf16.f32 %h0, %f12; {low}"), |_, _, c| {
        if f(c).is_nan() { 0x7fff } else { c >> 16 }
    });
    check32("cvt.f32.bf16 %f0, %h12; mov.b32 %r0, %f0", |_, _, c| c << 16);
    check_float("cvt.f32.f16 %f0, %h12", |_, _, c| f16::from_bits(c.to_bits() as u16).to_f32());
    // Ties of tf32 go away from zero.
    check32("cvt.rna.tf32.f32 %r0, %f12", |_, _, c| {
        if f(c).is_nan() {
            0x7fff_ffff
        } else if c & 0x7f80_0000 == 0x7f80_0000 {
            c
        } else {
            c.wrapping_add(0x1000) & 0xffff_e000
        }
    });
}

#[test]
fn packed_halves() {
    let pair = |c: u32| [f16::from_bits(c as u16), f16::from_bits((c >> 16) as u16)];
    let packed = |v: [f64; 2]| {
        let bits =
            v.map(|v| if v.is_nan() { 0x7fff } else { u32::from(f16::from_f64(v).to_bits()) });
        bits[0] | bits[1] << 16
    };
    check32("add.f16x2 %r0, %r10, %r12", |a, _, c| {
        let (a, c) = (pair(a), pair(c));
        packed([a[0].to_f64() + c[0].to_f64(), a[1].to_f64() + c[1].to_f64()])
    });
    check32("mul.rn.f16x2 %r0, %r10, %r12", |a, _, c| {
        let (a, c) = (pair(a), pair(c));
        packed([a[0].to_f64() * c[0].to_f64(), a[1].to_f64() * c[1].to_f64()])
    });
    let brain = |c: u32| bf16::from_bits(c as u16).to_f64();
    check32("fma.rn.bf16 %h0, %h10, %h12, %h11; cvt.u32.u16 %r0, %h0", |a, b, c| {
        // The sum is not always a float64, but an odd last bit then stands for the rest.
        let (product, b) = (brain(a) * brain(c), brain(b));
        let sum = product + b;
        let back = sum - product;
        let rest = (product - (sum - back)) + (b - back);
        let odd = if rest != 0.0 && rest.is_finite() && sum.to_bits() & 1 == 0 {
            f64::from_bits(if (rest > 0.0) == (sum > 0.0) {
                sum.to_bits() + 1
            } else {
                sum.to_bits() - 1
            })
        } else {
            sum
        };
        if odd.is_nan() { 0x7fff } else { u32::from(bf16::from_f64(odd).to_bits()) }
    });
    check32("neg.bf16x2 %r0, %r10", |a, _, _| a ^ 0x8000_8000);
    check32("max.bf16 %h0, %h10, %h12; cvt.u32.u16 %r0, %h0", |a, _, c| {
        let v = brain(a).max(brain(c));
        if v.is_nan() {
            0x7fff
        } else if brain(a) == 0.0 && brain(c) == 0.0 {
            a & c & 0x8000
        } else {
            u32::from(bf16::from_f64(v).to_bits())
        }
    });
}

#[test]
fn values_are_packed_unpacked_and_moved() {
    check64(
        "mov.b64 {%r1,%r2}, %rd10; mov.u32 %r1, %r1; mov.b64 %rd0, {%r2,%r1}; mov.u32 %r1, %tid.x",
        |a, _, _| a.rotate_left(32),
    );
    check32("mov.b32 {%h1,%h2}, %r10; mov.b32 %r0, {%h2,%h1}", |a, _, _| a.rotate_left(16));
    check32(
        "mov.u32 %r0, %laneid; mov.u32 %r2, %lanemask_lt; popc.b32 %r2, %r2; sub.u32 %r0, %r0, %r2",
        |_, _, _| 0,
    );
    check32("mov.f32 %f0, 0f3F800000; mov.b32 %r0, %f0", |_, _, _| 0x3f80_0000);
    check32("mov.u32 %r0, -5", |_, _, _| -5i32 as u32);
}

#[test]
fn lanes_part_and_meet_again() {
    // Collatz steps: each lane leaves the loop at its own time; the vote after it has all of them again.
    let body = "mov.u32 %r0, 0; and.b32 %r20, %r10, 0xff; add.u32 %r20, %r20, 1;
        L: setp.eq.u32 %p1, %r20, 1; @%p1 bra D;
        add.u32 %r0, %r0, 1; and.b32 %r21, %r20, 1; setp.eq.u32 %p2, %r21, 0;
        @%p2 bra E; mad.lo.u32 %r20, %r20, 3, 1; bra.uni L;
        E: shr.u32 %r20, %r20, 1; bra.uni L;
        D: vote.sync.ballot.b32 %r22, %p1, 0xffffffff; setp.eq.u32 %p3, %r22, 0xffffffff; @!%p3 mov.u32 %r0, 999";
    check32(body, |a, _, _| {
        let (mut n, mut steps) = ((a & 0xff) + 1, 0);
        while n != 1 {
            n = if n % 2 == 0 { n / 2 } else { 3 * n + 1 };
            steps += 1;
        }
        steps
    });
    let table = "and.b32 %r20, %r10, 3; brx.idx %r20, T; T: .branchtargets A, B, C, D;
        A: mov.u32 %r0, 10; bra Z; B: mov.u32 %r0, 20; bra Z; C: mov.u32 %r0, 30; bra Z; D: mov.u32 %r0, 40; Z:";
    check32(&format!("{table} mov.u32 %r0, %r0"), |a, _, _| 10 * ((a & 3) + 1));
}

#[test]
fn lanes_exchange_values() {
    let lanes = |op: &str| -> Vec<u32> {
        let body = format!(
            "mov.u32 %r1, %tid.x; mul.lo.u32 %r2, %r1, 3; setp.lt.u32 %p1, %r1, 7; {op}
             ld.param.u64 %rd1, [out]; mad.wide.u32 %rd1, %r1, 4, %rd1; st.global.u32 [%rd1], %r0;"
        );
        let mut bench = Bench::new(&module(".param .u64 out", &body));
        let out = bench.room::<u32>(32);
        bench.launch("k", [1, 1, 1], [32, 1, 1], 0);
        bench.read(out, 32)
    };
    let each = |f: fn(u32) -> u32| (0..32).map(f).collect::<Vec<u32>>();
    assert_eq!(lanes("shfl.sync.bfly.b32 %r0, %r2, 5, 31, -1;"), each(|i| 3 * (i ^ 5)));
    assert_eq!(
        lanes("shfl.sync.down.b32 %r0, %r2, 4, 31, -1;"),
        each(|i| 3 * if i + 4 < 32 { i + 4 } else { i })
    );
    assert_eq!(
        lanes("shfl.sync.up.b32 %r0|%p2, %r2, 4, 0, -1; @!%p2 mov.u32 %r0, 1;"),
        each(|i| if i < 4 { 1 } else { 3 * (i - 4) })
    );
    // Segments of eight lanes.
    assert_eq!(lanes("shfl.sync.idx.b32 %r0, %r2, 2, 0x181f, -1;"), each(|i| 3 * (i / 8 * 8 + 2)));
    assert_eq!(lanes("vote.sync.ballot.b32 %r0, %p1, -1;"), each(|_| 0x7f));
    assert_eq!(lanes("vote.sync.any.pred %p2, %p1, -1; selp.u32 %r0, 1, 0, %p2;"), each(|_| 1));
    assert_eq!(lanes("vote.sync.all.pred %p2, !%p1, -1; selp.u32 %r0, 1, 0, %p2;"), each(|_| 0));
    assert_eq!(lanes("redux.sync.add.u32 %r0, %r2, -1;"), each(|_| 3 * 496));
    assert_eq!(
        lanes("and.b32 %r3, %r1, 3; match.any.sync.b32 %r0, %r3, -1;"),
        each(|i| 0x1111_1111 << (i & 3))
    );
    assert_eq!(
        lanes("elect.sync %r0|%p2, -1; selp.u32 %r0, 1, %r0, %p2;"),
        each(|i| u32::from(i == 0))
    );
    assert_eq!(
        lanes("mov.u32 %r0, 0; @%p1 activemask.b32 %r0;"),
        each(|i| if i < 7 { 0x7f } else { 0 })
    );
    // Two halves of a warp, each for itself.
    let halves = "setp.lt.u32 %p2, %r1, 16; selp.b32 %r4, 0xffff, 0xffff0000, %p2; redux.sync.max.u32 %r0, %r2, %r4;";
    assert_eq!(lanes(halves), each(|i| if i < 16 { 45 } else { 93 }));
}

#[test]
fn functions_are_called() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64
        .func (.param .b32 out) square(.param .b32 x) { .reg .b32 %r<3>; ld.param.b32 %r1, [x];
            mul.lo.u32 %r2, %r1, %r1; st.param.b32 [out], %r2; ret; }
        .func (.reg .b32 %out) bump(.reg .b32 %x) { .reg .pred %p; setp.gt.u32 %p, %x, 20; mov.u32 %out, 0; @%p ret;
            add.u32 %out, %x, 100; ret; }
        .visible .entry k(.param .u64 out) { .reg .b32 %r<9>; .reg .b64 %rd<3>; .reg .b32 %s;
            mov.u32 %r1, %tid.x;
            { .param .b32 a; .param .b32 b; st.param.b32 [a], %r1; call.uni (b), square, (a); ld.param.b32 %r2, [b]; }
            call (%s), bump, (%r1);
            add.u32 %r2, %r2, %s;
            ld.param.u64 %rd1, [out]; mad.wide.u32 %rd1, %r1, 4, %rd1; st.global.u32 [%rd1], %r2; ret; }";
    let mut bench = Bench::new(text);
    let out = bench.room::<u32>(32);
    bench.launch("k", [1, 1, 1], [32, 1, 1], 0);
    let wanted: Vec<u32> = (0..32).map(|i| i * i + if i > 20 { 0 } else { i + 100 }).collect();
    assert_eq!(bench.read::<u32>(out, 32), wanted);
}

#[test]
fn barriers_reduce_and_join_some_of_the_warps() {
    let body = "mov.u32 %r1, %tid.x; setp.lt.u32 %p1, %r1, 40; bar.red.popc.u32 %r2, 0, %p1;
        setp.ge.u32 %p2, %r1, 64; @%p2 bra REST;
        bar.sync 1, 64;
        REST: ld.param.u64 %rd1, [out]; mad.wide.u32 %rd1, %r1, 4, %rd1; st.global.u32 [%rd1], %r2;";
    let mut bench = Bench::new(&module(".param .u64 out", body));
    let out = bench.room::<u32>(96);
    let counters = bench.launch("k", [1, 1, 1], [96, 1, 1], 0);
    assert_eq!(bench.read::<u32>(out, 96), [40; 96]);
    assert_eq!(counters.barriers, 2);
}

#[test]
fn atomics_on_global_and_shared_memory() {
    let body = ".shared .b32 s; mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [out]; setp.eq.u32 %p1, %r1, 0;
        @%p1 st.shared.u32 [s], 0; bar.sync 0;
        atom.shared.add.u32 %r2, [s], 1; bar.sync 0; ld.shared.u32 %r3, [s];
        red.global.add.u32 [%rd1], %r3; red.global.max.s32 [%rd1+4], %r1; atom.global.cas.b32 %r4, [%rd1+8], 7, 9;
        red.global.add.f32 [%rd1+12], 0f3F000000; atom.global.inc.u32 %r5, [%rd1+16], 9; red.global.xor.b32 [%rd1+20], %r1;
        red.global.add.u64 [%rd1+24], 1; mov.b32 %r6, 0x3c003c00; red.global.add.noftz.f16x2 [%rd1+32], %r6;";
    let mut bench = Bench::new(&module(".param .u64 out", body));
    let out = bench.given(&[0u32, -5i32 as u32, 7, 0, 0, 0, u32::MAX, 0, 0]);
    bench.launch("k", [2, 1, 1], [64, 1, 1], 0);
    let found = bench.read::<u32>(out, 9);
    assert_eq!(found[..6], [2 * 64 * 64, 63, 9, 64f32.to_bits(), 128 % 10, 0]);
    assert_eq!((found[6], found[7]), (127, 1), "64 bits carry");
    assert_eq!(found[8], u32::from(f16::from_f32(128.0).to_bits()) * 0x1_0001);
}

#[test]
fn tensor_cores_multiply_all_their_types() {
    // A is 16 x k, B is k x 8: each lane makes its fragments from formulas, and the sums are compared as a whole.
    let check = |op: &str, k: u32, bits: u32, one: fn(i32) -> u32| {
        let per = 32 / bits;
        let words = 8 * k / per / 32;
        let mut body = String::from(
            "mov.u32 %r1, %tid.x; ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u64 %rd3, [out];",
        );
        let name = |first: u32, count: u32| {
            (0..count).map(|i| format!("%r{}", first + i)).collect::<Vec<_>>().join(",")
        };
        for i in 0..2 * words {
            body += &format!(
                "mad.wide.u32 %rd4, %r1, {}, %rd1; ld.global.u32 %r{}, [%rd4+{}];",
                8 * words,
                20 + i,
                4 * i
            );
        }
        for i in 0..words {
            body += &format!(
                "mad.wide.u32 %rd4, %r1, {}, %rd2; ld.global.u32 %r{}, [%rd4+{}];",
                4 * words,
                30 + i,
                4 * i
            );
        }
        body += "mov.u32 %r40, 0; mov.u32 %r41, 0; mov.u32 %r42, 0; mov.u32 %r43, 0;";
        body += &format!(
            "{op} {{{}}}, {{{}}}, {{{}}}, {{{}}};",
            name(40, 4),
            name(20, 2 * words),
            name(30, words),
            name(40, 4)
        );
        body += "mad.wide.u32 %rd4, %r1, 16, %rd3; st.global.v4.b32 [%rd4], {%r40,%r41,%r42,%r43};";
        let mut bench = Bench::new(&module(".param .u64 a, .param .u64 b, .param .u64 out", &body));
        let a = |row: u32, column: u32| ((row * 7 + column * 3) % 11) as i32 - 5;
        let b = |row: u32, column: u32| ((row * 5 + column * 2) % 7) as i32 - 3;
        let mut fragments = (vec![], vec![]);
        for lane in 0..32 {
            for r in 0..2 * words {
                let (row, column) = (lane / 4 + r % 2 * 8, lane % 4 * per + r / 2 * 4 * per);
                fragments
                    .0
                    .push((0..per).fold(0, |w, i| w | one(a(row, column + i)) << (i * bits % 32)));
            }
            for r in 0..words {
                let row = lane % 4 * per + r * 4 * per;
                fragments.1.push(
                    (0..per).fold(0, |w, i| w | one(b(row + i, lane / 4)) << (i * bits % 32)),
                );
            }
        }
        bench.given::<u32>(&fragments.0);
        bench.given::<u32>(&fragments.1);
        let out = bench.room::<u32>(128);
        let counters = bench.launch("k", [1, 1, 1], [32, 1, 1], 0);
        assert_eq!(counters.tensor_flops, u64::from(2 * 16 * 8 * k));
        let found = bench.read::<u32>(out, 128);
        for lane in 0..32 {
            for r in 0..4 {
                let (row, column) = (lane / 4 + r / 2 * 8, lane % 4 * 2 + r % 2);
                let sum: i32 = (0..k).map(|i| a(row, i) * b(i, column)).sum();
                let word = found[(lane * 4 + r) as usize];
                let got =
                    if op.contains("s32") { word as i32 } else { f32::from_bits(word) as i32 };
                assert_eq!(got, sum, "{op}: row {row}, column {column}");
            }
        }
    };
    let brain = |v: i32| u32::from(bf16::from_f32(v as f32).to_bits());
    let half = |v: i32| u32::from(f16::from_f32(v as f32).to_bits());
    check("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", 16, 16, brain);
    check("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32", 8, 16, brain);
    check("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", 16, 16, half);
    check("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", 8, 32, |v| (v as f32).to_bits());
    check("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", 32, 8, |v| u32::from(v as u8));
    check("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32", 16, 8, |v| u32::from(v as u8));
}

#[test]
fn matrices_are_loaded_straight_and_transposed() {
    for transposed in [false, true] {
        let trans = if transposed { ".trans" } else { "" };
        let body = format!(
            ".shared .align 16 .b8 s[512]; mov.u32 %r1, %tid.x; mov.u32 %r9, s; shl.b32 %r2, %r1, 4; add.u32 %r2, %r2, %r9;
             shl.b32 %r3, %r1, 3; shl.b32 %r4, %r3, 16; add.u32 %r4, %r4, %r3; add.u32 %r4, %r4, 0x10000;
             add.u32 %r5, %r4, 0x20002; add.u32 %r6, %r5, 0x20002; add.u32 %r7, %r6, 0x20002;
             st.shared.v4.b32 [%r2], {{%r4,%r5,%r6,%r7}}; bar.sync 0;
             ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r10,%r11,%r12,%r13}}, [%r2];
             ld.param.u64 %rd1, [out]; mad.wide.u32 %rd1, %r1, 16, %rd1; st.global.v4.b32 [%rd1], {{%r10,%r11,%r12,%r13}};"
        );
        let mut bench = Bench::new(&module(".param .u64 out", &body));
        let out = bench.room::<u16>(256);
        bench.launch("k", [1, 1, 1], [32, 1, 1], 0);
        // Element number n of the 32 rows of eight has the value n.
        for (at, found) in bench.read::<u16>(out, 256).into_iter().enumerate() {
            let (lane, matrix, i) = (at / 8, at / 2 % 4, at % 2);
            let (row, column) = (lane / 4, lane % 4 * 2 + i);
            let (row, column) = if transposed { (column, row) } else { (row, column) };
            assert_eq!(usize::from(found), matrix * 64 + row * 8 + column);
        }
    }
}

#[test]
fn constants_local_memory_and_generic_addresses() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64
        .const .align 4 .u32 primes[4] = {2, 3, 5, 7};
        .global .align 8 .u64 where[1] = {primes};
        .visible .entry k(.param .u64 out) { .reg .b32 %r<9>; .reg .b64 %rd<9>;
            .local .align 8 .b8 mine[16]; .shared .b32 s[32];
            mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 3; mul.wide.u32 %rd1, %r2, 4;
            mov.u64 %rd2, primes; add.s64 %rd2, %rd2, %rd1; ld.const.u32 %r3, [%rd2];
            mov.u64 %rd3, mine; cvta.local.u64 %rd3, %rd3; st.u32 [%rd3+4], %r3; ld.local.u16 %r4, [mine+4];
            mov.u64 %rd4, s; cvta.shared.u64 %rd4, %rd4; mul.wide.u32 %rd5, %r1, 4; add.s64 %rd4, %rd4, %rd5;
            st.u32 [%rd4], %r4; cvta.to.shared.u64 %rd5, %rd4; ld.shared.u32 %r5, [%rd5];
            ld.global.u64 %rd6, [where]; ld.u32 %r6, [%rd6+8]; add.u32 %r5, %r5, %r6;
            ld.param.u64 %rd1, [out]; mad.wide.u32 %rd1, %r1, 4, %rd1; st.u32 [%rd1], %r5; ret; }";
    let mut bench = Bench::new(text);
    let out = bench.room::<u32>(32);
    bench.launch("k", [1, 1, 1], [32, 1, 1], 0);
    let wanted: Vec<u32> = (0..32).map(|i| [2, 3, 5, 7][i % 4] + 5).collect();
    assert_eq!(bench.read::<u32>(out, 32), wanted);
}
