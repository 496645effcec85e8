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
        let [d, a, b, c] = operands(inst)?;
        let sums = if matches!(kind, Elements::F16InF16) { 2 } else { 4 };
        // Registers of B; A has twice as many.
        let words = 8 * k * ta.bytes() as usize / 128;
        let a = self.fragment(a, 2 * words)?;
        let b = self.fragment(b, words)?;
        let c = self.fragment(c, sums)?;
        let Operand::Vector(parts) = d else { return Err("expected registers in braces".into()) };
        let d = parts.iter().map(|p| self.dst::<u32>(p)).collect::<Known<Vec<_>>>()?;
        if d.len() != sums {
            return Err(format!("{} registers for the result, expected {sums}", d.len()));
        }
        let regs = [a, b, c, d];
        let brain = |v: u32, i: usize| bf16_value(v >> (16 * i) & 0xffff);
        let half = |v: u32, i: usize| f16_value(v >> (16 * i) & 0xffff);
        // The hardware looks at the upper bits only.
        let tf32 = |v: u32, _: usize| f32::from_bits(v & 0xffff_e000);
        let run: Together = match (kind, k) {
            (Elements::Bf16, 8) => floats::<8, 2>(regs, brain),
            (Elements::Bf16, _) => floats::<16, 2>(regs, brain),
            (Elements::F16, 8) => floats::<8, 2>(regs, half),
            (Elements::F16, _) => floats::<16, 2>(regs, half),
            (Elements::F16InF16, 8) => halves::<8>(regs),
            (Elements::F16InF16, _) => halves::<16>(regs),
            (Elements::Tf32, 4) => floats::<4, 1>(regs, tf32),
            (Elements::Tf32, _) => floats::<8, 1>(regs, tf32),
            (Elements::Bytes(ta, tb, sat), 16) => bytes::<16>(regs, ta.signed(), tb.signed(), sat),
            (Elements::Bytes(ta, tb, sat), _) => bytes::<32>(regs, ta.signed(), tb.signed(), sat),
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

type A<T, const K: usize> = [[T; K]; 16];
type B<T, const K: usize> = [[T; 8]; K];

/// The matrices that lanes hold: register r of lane l has, of A, row l/4 (+8 for odd r) and `PER` columns from l%4; of B
/// the same of column l/4. Widths are constants, so that the loops unroll.
fn gather<T: Copy + Default, const K: usize, const PER: usize>(
    regs: &Regs,
    a: &[usize],
    b: &[usize],
    value_a: impl Fn(u32, usize) -> T,
    value_b: impl Fn(u32, usize) -> T,
    (am, bm): (&mut A<T, K>, &mut B<T, K>),
) {
    for (r, &reg) in a.iter().enumerate() {
        let words = &regs.w32[reg];
        let (down, right) = (r % 2 * 8, r / 2 * 4 * PER);
        for (row, words) in words.chunks_exact(4).enumerate() {
            let row = &mut am[row + down][right..right + 4 * PER];
            for (values, &word) in row.chunks_exact_mut(PER).zip(words) {
                for (i, value) in values.iter_mut().enumerate() {
                    *value = value_a(word, i);
                }
            }
        }
    }
    for (r, &reg) in b.iter().enumerate() {
        let words = &regs.w32[reg];
        let rows = &mut bm[r * 4 * PER..(r + 1) * 4 * PER];
        for (column, words) in words.chunks_exact(4).enumerate() {
            for (rows, &word) in rows.chunks_exact_mut(PER).zip(words) {
                for (i, row) in rows.iter_mut().enumerate() {
                    row[column] = value_b(word, i);
                }
            }
        }
    }
}

fn floats<const K: usize, const PER: usize>(
    [a, b, c, d]: [Vec<usize>; 4],
    value: impl Fn(u32, usize) -> f32 + Copy + Send + Sync + 'static,
) -> Together {
    Box::new(move |regs, _| {
        let (mut am, mut bm) = ([[0.0; K]; 16], [[0.0; 8]; K]);
        gather::<f32, K, PER>(regs, &a, &b, value, value, (&mut am, &mut bm));
        let mut sums = [[0f32; 8]; 16];
        for (r, &reg) in c.iter().enumerate() {
            for (lane, &word) in regs.w32[reg].iter().enumerate() {
                sums[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2] = f32::from_bits(word);
            }
        }
        multiply(&mut sums, &am, &bm);
        for (r, &reg) in d.iter().enumerate() {
            for (lane, word) in regs.w32[reg].iter_mut().enumerate() {
                let v = sums[lane / 4 + r / 2 * 8][lane % 4 * 2 + r % 2];
                *word = if v.is_nan() { NAN32 } else { v.to_bits() };
            }
        }
        Ok(())
    })
}

fn multiply<const K: usize>(sums: &mut [[f32; 8]; 16], a: &A<f32, K>, b: &B<f32, K>) {
    for (sums, a) in sums.iter_mut().zip(a) {
        let mut row = *sums;
        for (a, b) in a.iter().zip(b) {
            for (sum, b) in row.iter_mut().zip(b) {
                *sum += a * b;
            }
        }
        *sums = row;
    }
}

fn halves<const K: usize>([a, b, c, d]: [Vec<usize>; 4]) -> Together {
    Box::new(move |regs, _| {
        let value = |v: u32, i: usize| f16_value(v >> (16 * i) & 0xffff);
        let (mut am, mut bm) = ([[0.0; K]; 16], [[0.0; 8]; K]);
        gather::<f32, K, 2>(regs, &a, &b, value, value, (&mut am, &mut bm));
        let mut sums = [[0f32; 8]; 16];
        for (r, &reg) in c.iter().enumerate() {
            for (lane, &word) in regs.w32[reg].iter().enumerate() {
                for i in 0..2 {
                    sums[lane / 4 + r * 8][lane % 4 * 2 + i] = value(word, i);
                }
            }
        }
        multiply(&mut sums, &am, &bm);
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

fn bytes<const K: usize>(
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
        let (mut am, mut bm) = ([[0; K]; 16], [[0; 8]; K]);
        let (value_a, value_b) = (value(signed_a), value(signed_b));
        gather::<i32, K, 4>(regs, &a, &b, value_a, value_b, (&mut am, &mut bm));
        // A register may be both of C and of D, though not at the same place.
        let c: Vec<Lanes<u32>> = c.iter().map(|&reg| regs.w32[reg]).collect();
        for ((r, &reg), c) in d.iter().enumerate().zip(&c) {
            for (lane, (word, &c)) in regs.w32[reg].iter_mut().zip(c).enumerate() {
                let (row, column) = (lane / 4 + r / 2 * 8, lane % 4 * 2 + r % 2);
                let products = (0..K).map(|k| i64::from(am[row][k]) * i64::from(bm[k][column]));
                let sum = products.sum::<i64>() + i64::from(c as i32);
                let sum = if saturates { sum.clamp(i32::MIN.into(), i32::MAX.into()) } else { sum };
                *word = sum as u32;
            }
        }
        Ok(())
    })
}
