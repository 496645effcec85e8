//! float32 and float64 arithmetic.

use super::operand::operands;
use super::{Decoded, Decoder, Known, Mods};
use crate::ast::Inst;
use crate::math::{Exact, Round, bits32, bits64, exp2, flush, saturate};
use crate::op::Op;
use crate::regs::LANES;
use crate::types::Ty;

/// How a result is finished: subnormals to zero, then into [0, 1].
#[derive(Clone, Copy)]
struct Finish {
    ftz: bool,
    sat: bool,
}

impl Finish {
    fn done(self, v: f32) -> u32 {
        let v = if self.ftz { flush(v) } else { v };
        bits32(if self.sat { saturate(v) } else { v })
    }

    fn taken(self, bits: u32) -> f32 {
        let v = f32::from_bits(bits);
        if self.ftz { flush(v) } else { v }
    }

    fn plain(self) -> bool {
        !self.ftz && !self.sat
    }
}

fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

fn d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

impl Decoder<'_> {
    pub(super) fn float(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Option<Decoded>> {
        let ty = match mods.peek() {
            Some(ty @ (Ty::F32 | Ty::F64)) => ty,
            _ => return Ok(None),
        };
        let base = mods.base().to_owned();
        if !FLOATS.contains(&base.as_str()) {
            return Ok(None);
        }
        let finish = Finish { ftz: mods.take("ftz"), sat: mods.take("sat") };
        let round = mods.find(Round::parse);
        mods.ty()?;
        let approximate = mods.take("approx") | mods.take("full");
        let flops = match base.as_str() {
            "fma" | "mad" => 2,
            "min" | "max" | "abs" | "neg" | "copysign" | "testp" => 0,
            _ => 1,
        };
        let directed = round.filter(|r| *r != Round::Nearest);
        let op = if ty == Ty::F64 {
            self.double(inst, mods, &base, directed)?
        } else {
            self.single(inst, mods, &base, directed, finish, approximate)?
        };
        Ok(Some(Decoded::flops(op, flops)))
    }

    fn single(
        &mut self,
        inst: &Inst,
        mods: &mut Mods,
        base: &str,
        directed: Option<Round>,
        finish: Finish,
        approximate: bool,
    ) -> Known<Op> {
        let fin = finish;
        match (base, directed) {
            ("add", None) => self.two(inst, fin, |a, b| a + b),
            ("sub", None) => self.two(inst, fin, |a, b| a - b),
            ("mul", None) => self.two(inst, fin, |a, b| a * b),
            ("div", None) => self.two(inst, fin, |a, b| a / b),
            ("fma" | "mad", None) => self.fma(inst, fin),
            ("add", Some(r)) => self.two(inst, fin, move |a, b| {
                if r == Round::Down && a == -b && a != 0.0 {
                    -0.0
                } else {
                    Exact::add(a.into(), b.into()).to_f32(r)
                }
            }),
            ("sub", Some(r)) => self.two(inst, fin, move |a, b| {
                if r == Round::Down && a == b && a != 0.0 {
                    -0.0
                } else {
                    Exact::add(a.into(), (-b).into()).to_f32(r)
                }
            }),
            ("mul", Some(r)) => {
                self.two(inst, fin, move |a, b| Exact::mul(a.into(), b.into()).to_f32(r))
            }
            ("div", Some(r)) => {
                self.two(inst, fin, move |a, b| Exact::div(a.into(), b.into()).to_f32(r))
            }
            ("fma" | "mad", Some(r)) => {
                self.tern(inst, [Ty::F32; 3], move |a: u32, b: u32, c: u32| {
                    fin.done(
                        Exact::fma(fin.taken(a).into(), fin.taken(b).into(), fin.taken(c).into())
                            .to_f32(r),
                    )
                })
            }
            ("rcp", None) => self.one_float(inst, fin, |a| 1.0 / a),
            ("rcp", Some(r)) => {
                self.one_float(inst, fin, move |a| Exact::div(1.0, a.into()).to_f32(r))
            }
            ("sqrt", None) => self.one_float(inst, fin, f32::sqrt),
            ("sqrt", Some(r)) => {
                self.one_float(inst, fin, move |a| Exact::sqrt(a.into()).to_f32(r))
            }
            ("rsqrt", None) if approximate => {
                self.one_float(inst, fin, |a| (1.0 / f64::from(a).sqrt()) as f32)
            }
            ("ex2", None) if approximate => self.one_float(inst, fin, exp2),
            ("lg2", None) if approximate => {
                self.one_float(inst, fin, |a| f64::from(a).log2() as f32)
            }
            ("sin", None) if approximate => {
                self.one_float(inst, fin, |a| f64::from(a).sin() as f32)
            }
            ("cos", None) if approximate => {
                self.one_float(inst, fin, |a| f64::from(a).cos() as f32)
            }
            ("tanh", None) if approximate => {
                self.one_float(inst, fin, |a| f64::from(a).tanh() as f32)
            }
            ("min" | "max", None) => {
                let (nan, flip) = (mods.take("NaN"), mods.take("xorsign"));
                mods.drop(&["abs"]);
                if flip {
                    return Err("`.xorsign`".into());
                }
                let max = base == "max";
                if inst.operands.len() == 4 {
                    return self.tern(inst, [Ty::F32; 3], move |a: u32, b: u32, c: u32| {
                        fin.done(pick(
                            pick(fin.taken(a), fin.taken(b), max, nan),
                            fin.taken(c),
                            max,
                            nan,
                        ))
                    });
                }
                self.two(inst, fin, move |a, b| pick(a, b, max, nan))
            }
            // Signs are bits: a NaN keeps its own.
            ("abs", None) => self.un(inst, Ty::F32, move |a: u32| fin.taken(a).abs().to_bits()),
            ("neg", None) => self.un(inst, Ty::F32, move |a: u32| (-fin.taken(a)).to_bits()),
            ("copysign", None) => {
                self.bin(inst, [Ty::F32; 2], |a: u32, b: u32| b & 0x7fff_ffff | a & 0x8000_0000)
            }
            _ => Err(format!("`{}`", inst.name)),
        }
    }

    fn one_float(
        &mut self,
        inst: &Inst,
        fin: Finish,
        op: impl Fn(f32) -> f32 + Send + Sync + 'static,
    ) -> Known<Op> {
        if fin.plain() {
            return self.un(inst, Ty::F32, move |a: u32| bits32(op(f(a))));
        }
        self.un(inst, Ty::F32, move |a: u32| fin.done(op(fin.taken(a))))
    }

    fn two(
        &mut self,
        inst: &Inst,
        fin: Finish,
        op: impl Fn(f32, f32) -> f32 + Send + Sync + 'static,
    ) -> Known<Op> {
        if fin.plain() {
            return self.bin(inst, [Ty::F32; 2], move |a: u32, b: u32| bits32(op(f(a), f(b))));
        }
        self.bin(inst, [Ty::F32; 2], move |a: u32, b: u32| fin.done(op(fin.taken(a), fin.taken(b))))
    }

    /// In float64 the product is exact, so only a sum that lies just between two float32 could round wrongly: those
    /// lanes, and subnormal ones, are done again one by one.
    fn fma(&mut self, inst: &Inst, fin: Finish) -> Known<Op> {
        if !fin.plain() {
            return self.tern(inst, [Ty::F32; 3], move |a: u32, b: u32, c: u32| {
                fin.done(fin.taken(a).mul_add(fin.taken(b), fin.taken(c)))
            });
        }
        let [to, a, b, c] = operands(inst)?;
        let a = self.src::<u32>(a, Ty::F32)?;
        let b = self.src::<u32>(b, Ty::F32)?;
        let c = self.src::<u32>(c, Ty::F32)?;
        let to = self.dst::<u32>(to)?;
        Ok(Op::Alu(Box::new(move |regs, mask| {
            let (x, y, z) = (&regs.w32[a], &regs.w32[b], &regs.w32[c]);
            let mut out = [0; LANES];
            let mut hard = 0u32;
            for i in 0..LANES {
                let sum = f64::from(f(x[i])) * f64::from(f(y[i])) + f64::from(f(z[i]));
                let rounded = sum as f32;
                out[i] = bits32(rounded);
                let between = sum.to_bits() as u32 & 0x1fff_ffff == 0x1000_0000;
                // Zero wraps to the largest.
                let subnormal = (rounded.to_bits() & 0x7fff_ffff).wrapping_sub(1) < 0x007f_ffff;
                hard |= u32::from(between | subnormal);
            }
            if hard != 0 {
                for i in 0..LANES {
                    out[i] = bits32(f(x[i]).mul_add(f(y[i]), f(z[i])));
                }
            }
            regs.put(to, mask, &out);
        })))
    }

    fn double(
        &mut self,
        inst: &Inst,
        mods: &mut Mods,
        base: &str,
        directed: Option<Round>,
    ) -> Known<Op> {
        let two = [Ty::F64; 2];
        let r = directed.unwrap_or(Round::Nearest);
        match base {
            "add" => self.bin(inst, two, move |a, b| bits64(Exact::add(d(a), d(b)).to_f64(r))),
            "sub" => self.bin(inst, two, move |a, b| bits64(Exact::add(d(a), -d(b)).to_f64(r))),
            "mul" if directed.is_none() => self.bin(inst, two, |a, b| bits64(d(a) * d(b))),
            "mul" => self.bin(inst, two, move |a, b| bits64(Exact::mul(d(a), d(b)).to_f64(r))),
            "div" if directed.is_none() => self.bin(inst, two, |a, b| bits64(d(a) / d(b))),
            "div" => self.bin(inst, two, move |a, b| bits64(Exact::div(d(a), d(b)).to_f64(r))),
            "fma" | "mad" if directed.is_none() => {
                self.tern(inst, [Ty::F64; 3], |a, b, c| bits64(d(a).mul_add(d(b), d(c))))
            }
            "fma" | "mad" => self.tern(inst, [Ty::F64; 3], move |a, b, c| {
                bits64(Exact::fma(d(a), d(b), d(c)).to_f64(r))
            }),
            "sqrt" => self.un(inst, Ty::F64, move |a| bits64(Exact::sqrt(d(a)).to_f64(r))),
            "rcp" => self.un(inst, Ty::F64, move |a| bits64(Exact::div(1.0, d(a)).to_f64(r))),
            "rsqrt" => self.un(inst, Ty::F64, |a| bits64(1.0 / d(a).sqrt())),
            "min" => self.bin(inst, two, |a, b| bits64(pick64(d(a), d(b), false))),
            "max" => self.bin(inst, two, |a, b| bits64(pick64(d(a), d(b), true))),
            "abs" => self.un(inst, Ty::F64, |a: u64| a & !(1 << 63)),
            "neg" => self.un(inst, Ty::F64, |a: u64| a ^ 1 << 63),
            "copysign" => self.bin(inst, two, |a: u64, b: u64| b & !(1 << 63) | a & 1 << 63),
            _ => {
                mods.drop(&[]);
                Err(format!("`{}`", inst.name))
            }
        }
    }
}

const FLOATS: &[&str] = &[
    "add", "sub", "mul", "div", "fma", "mad", "rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos",
    "tanh", "min", "max", "abs", "neg", "copysign",
];

/// The smaller or larger; a NaN only if both are, or with `.NaN` if one is. -0 is below +0.
pub(super) fn pick(a: f32, b: f32, max: bool, nan: bool) -> f32 {
    if a.is_nan() || b.is_nan() {
        return if nan || a.is_nan() && b.is_nan() {
            f32::NAN
        } else if a.is_nan() {
            b
        } else {
            a
        };
    }
    if a == b {
        // Differ at most in the sign of zero.
        return if a.is_sign_negative() == max { b } else { a };
    }
    if (a > b) == max { a } else { b }
}

fn pick64(a: f64, b: f64, max: bool) -> f64 {
    if a.is_nan() {
        return b;
    }
    if b.is_nan() {
        return a;
    }
    if a == b {
        return if a.is_sign_negative() == max { b } else { a };
    }
    if (a > b) == max { a } else { b }
}
