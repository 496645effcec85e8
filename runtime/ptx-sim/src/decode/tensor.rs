//! `mma.sync` and the matrix loads that feed it.
//!
//! Products are exact and are summed in float32 in the order of k, beginning with the accumulator. Tensor cores sum in
//! an order and with a width that NVIDIA does not state; a kernel that depends on more than that is not portable.

use super::operand::operands;
use super::{Decoded, Decoder, Known, Mods};
use crate::ast::{Inst, Operand};
use crate::math::{NAN32, bf16_value, f16_bits, f16_value};
use crate::op::{LdMatrix, Op, Together};
use crate::regs::{FULL, Lanes, Regs};
use crate::types::{Space, Ty};

/// m16n8k?: the only sizes that sm_80 and later prefer.
struct Shape {
    k: usize,
    /// Elements in a 32-bit register.
    per: usize,
}

impl Decoder<'_> {
    pub(super) fn tensor(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Option<Decoded>> {
        match mods.base() {
            "mma" => self.mma(inst, mods).map(Some),
            "ldmatrix" | "stmatrix" => {
                let load = mods.base() == "ldmatrix";
                self.matrix(inst, mods, load).map(|op| Some(op.into()))
            }
            "movmatrix" => {
                mods.drop(&["sync", "aligned", "m8n8", "trans"]);
                mods.ty()?;
                self.movmatrix(inst).map(|op| Some(op.into()))
            }
            _ => Ok(None),
        }
    }

    fn matrix(&mut self, inst: &Inst, mods: &mut Mods, load: bool) -> Known<Op> {
        mods.drop(&["sync", "aligned"]);
        let transposed = mods.take("trans");
        let count = mods.find(|p| {
            ["x1", "x2", "x4"].contains(&p).then(|| p[1..].parse::<usize>().expect("a digit"))
        });
        let count = count.ok_or("a matrix load of how many")?;
        if !mods.take("m8n8") {
            return Err(format!("`{}`", inst.name));
        }
        let space = mods.find(Space::parse).unwrap_or(Space::Generic);
        if mods.ty()? != Ty::B16 {
            return Err(format!("`{}`", inst.name));
        }
        let [first, second] = operands(inst)?;
        let (list, at) = if load { (first, second) } else { (second, first) };
        let list = match list {
            Operand::Vector(parts) => parts.clone(),
            one => vec![one.clone()],
        };
        if list.len() != count {
            return Err(format!("{} registers for {count} matrices", list.len()));
        }
        let mut regs = vec![];
        for o in &list {
            regs.push(if load { self.dst::<u32>(o)? } else { self.src::<u32>(o, Ty::B32)? });
        }
        let at = self.address(at, space)?;
        let matrix = Box::new(LdMatrix { at, transposed, regs });
        Ok(if load { Op::LdMatrix(matrix) } else { Op::StMatrix(matrix) })
    }

    fn movmatrix(&mut self, inst: &Inst) -> Known<Op> {
        let [d, a] = operands(inst)?;
        let (a, d) = (self.src::<u32>(a, Ty::B32)?, self.dst::<u32>(d)?);
        let run: Together = Box::new(move |regs, mask| {
            let x = regs.w32[a];
            let at =
                |row: usize, column: usize| x[row * 4 + column / 2] >> (16 * (column % 2)) & 0xffff;
            let out: Lanes<u32> = std::array::from_fn(|i| {
                let (row, column) = (i / 4, i % 4 * 2);
                at(column, row) | at(column + 1, row) << 16
            });
            regs.put::<u32>(d, mask, &out);
            Ok(())
        });
        Ok(Op::Together { members: None, run })
    }

    fn mma(&mut self, inst: &Inst, mods: &mut Mods) -> Known<Decoded> {
        mods.drop(&["sync", "aligned", "row", "col"]);
        let satfinite = mods.take("satfinite");
        let shape = mods.find(|p| p.strip_prefix("m16n8k").and_then(|k| k.parse::<usize>().ok()));
        let k = shape.ok_or_else(|| format!("unknown instruction `{}`", inst.name))?;
        let types = [mods.ty()?, mods.ty()?, mods.ty()?, mods.ty()?];
        let [td, ta, tb, tc] = types;
        let kind = match (td, ta, tb, tc, k) {
            (Ty::F32, Ty::Bf16, Ty::Bf16, Ty::F32, 8 | 16) => Elements::Bf16,
            (Ty::F32, Ty::F16, Ty::F16, Ty::F32, 8 | 16) => Elements::F16,
            (Ty::F16, Ty::F16, Ty::F16, Ty::F16, 8 | 16) => Elements::F16InF16,
            (Ty::F32, Ty::Tf32, Ty::Tf32, Ty::F32, 4 | 8) => Elements::Tf32,
            (Ty::S32, Ty::S8 | Ty::U8, Ty::S8 | Ty::U8, Ty::S32, 16 | 32) => {
                Elements::Bytes(ta, tb, satfinite)
            }
            _ => return Err(format!("unknown instruction `{}`", inst.name)),
        };
        if satfinite && !matches!(kind, Elements::Bytes(..)) {
            return Err("`.satfinite` of floats".into());
        }
        let shape = Shape { k, per: 4 / ta.bytes().min(4) as usize };
        let [d, a, b, c] = operands(inst)?;
        let sums = if matches!(kind, Elements::F16InF16) { 2 } else { 4 };
        let words = 8 * k / shape.per / 32;
        let a = self.fragment(a, 2 * words)?;
        let b = self.fragment(b, words)?;
        let c = self.fragment(c, sums)?;
        let Operand::Vector(parts) = d else { return Err("expected registers in braces".into()) };
        let d = parts.iter().map(|p| self.dst::<u32>(p)).collect::<Known<Vec<_>>>()?;
        if d.len() != sums {
            return Err(format!("{} registers for the result, expected {sums}", d.len()));
        }
        let run: Together = match kind {
            Elements::Bf16 => floats(shape, a, b, c, d, |v, i| bf16_value(v >> (16 * i) & 0xffff)),
            Elements::F16 => floats(shape, a, b, c, d, |v, i| f16_value(v >> (16 * i) & 0xffff)),
            // The hardware looks at the upper bits only.
            Elements::Tf32 => floats(shape, a, b, c, d, |v, _| f32::from_bits(v & 0xffff_e000)),
            Elements::F16InF16 => halves(shape, a, b, c, d),
            Elements::Bytes(ta, tb, sat) => {
                bytes(shape, [a, b, c, d], ta.signed(), tb.signed(), sat)
            }
        };
        let op = Op::Together { members: None, run };
        Ok(Decoded { op, flops: 0, tensor_flops: 2 * 16 * 8 * k as u32 })
    }

    fn fragment(&mut self, operand: &Operand, count: usize) -> Known<Vec<usize>> {
        let list = match operand {
            Operand::Vector(parts) => parts.clone(),
            one => vec![one.clone()],
        };
        if list.len() != count {
            return Err(format!("{} registers for a matrix, expected {count}", list.len()));
        }
        list.iter().map(|o| self.src::<u32>(o, Ty::B32)).collect()
    }
}

enum Elements {
    Bf16,
    F16,
    F16InF16,
    Tf32,
    Bytes(Ty, Ty, bool),
}

const MOST_K: usize = 32;
type A<T> = [[T; MOST_K]; 16];
type B<T> = [[T; 8]; MOST_K];

/// The matrices that lanes hold: register r of lane l has, of A, row l/4 (+8 for odd r) and columns from l%4; of B the
/// same with column l/4.
fn gather<T: Copy + Default>(
    regs: &Regs,
    shape: &Shape,
    a: &[usize],
    b: &[usize],
    value_a: impl Fn(u32, usize) -> T,
    value_b: impl Fn(u32, usize) -> T,
) -> (A<T>, B<T>) {
    let per = shape.per;
    let mut am = [[T::default(); MOST_K]; 16];
    let mut bm = [[T::default(); 8]; MOST_K];
    for (r, &reg) in a.iter().enumerate() {
        for (lane, &word) in regs.w32[reg].iter().enumerate() {
            let (row, column) = (lane / 4 + r % 2 * 8, lane % 4 * per + r / 2 * 4 * per);
            for i in 0..per {
                am[row][column + i] = value_a(word, i);
            }
        }
    }
    for (r, &reg) in b.iter().enumerate() {
        for (lane, &word) in regs.w32[reg].iter().enumerate() {
            let row = lane % 4 * per + r * 4 * per;
            for i in 0..per {
                bm[row + i][lane / 4] = value_b(word, i);
            }
        }
    }
    (am, bm)
}

fn floats(
    shape: Shape,
    a: Vec<usize>,
    b: Vec<usize>,
    c: Vec<usize>,
    d: Vec<usize>,
    value: impl Fn(u32, usize) -> f32 + Copy + Send + Sync + 'static,
) -> Together {
    Box::new(move |regs, _| {
        let (am, bm) = gather(regs, &shape, &a, &b, value, value);
        let mut sums = [[0f32; 8]; 16];
        for (r, &reg) in c.iter().enumerate() {
            for (lane, &word) in regs.w32[reg].iter().enumerate() {
                sums[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2] = f32::from_bits(word);
            }
        }
        multiply(&mut sums, &am, &bm, shape.k);
        for (r, &reg) in d.iter().enumerate() {
            for (lane, word) in regs.w32[reg].iter_mut().enumerate() {
                let v = sums[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
                *word = if v.is_nan() { NAN32 } else { v.to_bits() };
            }
        }
        Ok(())
    })
}

fn multiply(sums: &mut [[f32; 8]; 16], a: &A<f32>, b: &B<f32>, k: usize) {
    for (sums, a) in sums.iter_mut().zip(a) {
        let mut row = *sums;
        for (a, b) in a[..k].iter().zip(b) {
            for (sum, b) in row.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
        *sums = row;
    }
}

fn halves(shape: Shape, a: Vec<usize>, b: Vec<usize>, c: Vec<usize>, d: Vec<usize>) -> Together {
    Box::new(move |regs, _| {
        let value = |v: u32, i: usize| f16_value(v >> (16 * i) & 0xffff);
        let (am, bm) = gather(regs, &shape, &a, &b, value, value);
        let mut sums = [[0f32; 8]; 16];
        for (r, &reg) in c.iter().enumerate() {
            for (lane, &word) in regs.w32[reg].iter().enumerate() {
                for i in 0..2 {
                    sums[lane / 4 + r * 8][lane % 4 * 2 + i] = value(word, i);
                }
            }
        }
        multiply(&mut sums, &am, &bm, shape.k);
        for (r, &reg) in d.iter().enumerate() {
            for (lane, word) in regs.w32[reg].iter_mut().enumerate() {
                let half = |i: usize| {
                    let v = sums[lane / 4 + r * 8][lane % 4 * 2 + i];
                    u32::from(f16_bits(
                        crate::math::Exact::of(v.into()),
                        crate::math::Round::Nearest,
                    ))
                };
                *word = half(0) | half(1) << 16;
            }
        }
        Ok(())
    })
}

fn bytes(
    shape: Shape,
    [a, b, c, d]: [Vec<usize>; 4],
    signed_a: bool,
    signed_b: bool,
    saturates: bool,
) -> Together {
    let value = |signed: bool| {
        move |v: u32, i: usize| {
            let byte = (v >> (8 * i)) as u8;
            if signed { i32::from(byte as i8) } else { i32::from(byte) }
        }
    };
    Box::new(move |regs, mask| {
        debug_assert_eq!(mask, FULL, "the whole warp");
        let (am, bm) = gather(regs, &shape, &a, &b, value(signed_a), value(signed_b));
        let c: Vec<Lanes<u32>> = c.iter().map(|&reg| regs.w32[reg]).collect();
        for (r, &reg) in d.iter().enumerate() {
            for lane in 0..32 {
                let (row, column) = (lane / 4 + r / 2 * 8, lane % 4 * 2 + r % 2);
                let sum: i64 =
                    (0..shape.k).map(|k| i64::from(am[row][k]) * i64::from(bm[k][column])).sum();
                let sum = sum + i64::from(c[r][lane] as i32);
                let sum = if saturates { sum.clamp(i32::MIN.into(), i32::MAX.into()) } else { sum };
                regs.w32[reg][lane] = sum as u32;
            }
        }
        Ok(())
    })
}
