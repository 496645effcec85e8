//! Loads that widen and stores that round.
//!
//! `bf16` is the upper half of an `f32`: widening is an interleave with zeros, rounding is integer
//! arithmetic on the bits. `f16` is converted by integer arithmetic as well, exactly and with
//! subnormals, because no variant may assume F16C; weights of `f16` are for micro-kernels.
//! Only instructions of SSE2 are used.

use super::{Lowering, Parts, part_types};
use cranelift_codegen::ir::immediates::V128Imm;
use cranelift_codegen::ir::{self, Endianness, InstBuilder, MemFlagsData, condcodes::IntCC, types};
use q35_kernel::{Place, Scalar, Type, Value};
use q35_types::DType;

/// An access that is always in bounds, aligned to its element only.
pub fn flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

/// Between vectors of differently many lanes.
fn lanes() -> MemFlagsData {
    MemFlagsData::new().with_endianness(Endianness::Little)
}

/// `[a0, b0, a1, b1, ..]` of the lower four and the upper four of eight lanes of 16 bits.
const INTERLEAVE: [[u8; 16]; 2] = [
    [0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23],
    [8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31],
];

impl Lowering<'_> {
    pub fn load(&mut self, at: Place, width: u8) -> Result<Parts, String> {
        let dtype = self.kernel.dtype_of(at.mem);
        let (base, offset) = self.address(at);
        let (scalar, count) = (width < 4, i32::from(width));
        Ok(match dtype {
            DType::F32 | DType::I32 => {
                let scalar = if dtype == DType::F32 { Scalar::F32 } else { Scalar::I32 };
                let part = part_types(Type::vector(scalar, width)).enumerate();
                part.map(|(i, t)| {
                    self.f.ins().load(t, flags(), base, offset + i as i32 * t.bytes() as i32)
                })
                .collect()
            }
            DType::F16 | DType::Bf16 if scalar => (0..count)
                .map(|i| {
                    let half = self.f.ins().uload16(types::I32, flags(), base, offset + 2 * i);
                    let high = self.f.ins().ishl_imm_u(half, 16);
                    self.widen(dtype, high)
                })
                .collect(),
            DType::F16 | DType::Bf16 if count == 4 => {
                let four = self.f.ins().load(types::I64, flags(), base, offset);
                let eight = self.f.ins().scalar_to_vector(types::I64X2, four);
                vec![self.widen_half(dtype, eight, 0)]
            }
            DType::F16 | DType::Bf16 => (0..count / 8)
                .flat_map(|i| {
                    let eight = self.f.ins().load(types::I16X8, flags(), base, offset + 16 * i);
                    [0, 1].map(|half| self.widen_half(dtype, eight, half))
                })
                .collect(),
        })
    }

    pub fn store(&mut self, at: Place, value: Value) -> Result<(), String> {
        let dtype = self.kernel.dtype_of(at.mem);
        let (base, offset) = self.address(at);
        let parts = self.parts_of(value).to_vec();
        let scalar = self.kernel.type_of(value).width < 4;
        match dtype {
            DType::F32 | DType::I32 => {
                for (i, part) in parts.into_iter().enumerate() {
                    let bytes = self.f.func.dfg.value_type(part).bytes() as i32;
                    self.f.ins().store(flags(), part, base, offset + i as i32 * bytes);
                }
            }
            DType::F16 | DType::Bf16 => {
                let rounded: Parts = parts.into_iter().map(|p| self.round(dtype, p)).collect();
                if scalar {
                    for (i, part) in rounded.into_iter().enumerate() {
                        self.f.ins().istore16(flags(), part, base, offset + 2 * i as i32);
                    }
                } else {
                    self.store_halves(&rounded, base, offset);
                }
            }
        }
        Ok(())
    }

    /// Vectors of four `i32` that fit in 16 bits, signed.
    fn store_halves(&mut self, rounded: &[ir::Value], base: ir::Value, offset: i32) {
        for (i, pair) in rounded.chunks(2).enumerate() {
            let [low, high] = [pair[0], pair[pair.len() - 1]];
            let mut packed = self.f.ins().snarrow(low, high);
            if pair.len() == 1 {
                let halves = self.f.ins().bitcast(types::I64X2, lanes(), packed);
                packed = self.f.ins().extractlane(halves, 0);
            }
            self.f.ins().store(flags(), packed, base, offset + 16 * i as i32);
        }
    }

    /// The lower or upper four of eight elements of 16 bits, as `f32`.
    fn widen_half(&mut self, dtype: DType, eight: ir::Value, half: usize) -> ir::Value {
        let zero = self.f.func.dfg.constants.insert(V128Imm([0; 16]).into());
        let zero = self.f.ins().vconst(types::I8X16, zero);
        let eight = self.f.ins().bitcast(types::I8X16, lanes(), eight);
        let mask = self.f.func.dfg.immediates.push(INTERLEAVE[half].as_slice().into());
        let high = self.f.ins().shuffle(zero, eight, mask);
        let high = self.f.ins().bitcast(types::I32X4, lanes(), high);
        self.widen(dtype, high)
    }

    /// `f32` from 16 bits that stand in the upper half of each `i32`, over zeros.
    fn widen(&mut self, dtype: DType, high: ir::Value) -> ir::Value {
        let ty = self.f.func.dfg.value_type(high);
        let float = float_like(ty);
        if dtype == DType::Bf16 {
            return self.f.ins().bitcast(float, MemFlagsData::new(), high);
        }
        // Exponent and mantissa, moved to where f32 has them, are too small by 2^112, subnormals
        // too; infinity and NaN get the largest exponent instead.
        let sign = self.and(high, 0x8000_0000);
        let magnitude = self.and(high, 0x7fff_0000);
        let shifted = self.f.ins().ushr_imm_u(magnitude, 3);
        let small = self.f.ins().bitcast(float, MemFlagsData::new(), shifted);
        let scale = self.float(ty, f32::from_bits((127 + 112) << 23));
        let finite = self.f.ins().fmul(small, scale);
        let finite = self.f.ins().bitcast(ty, MemFlagsData::new(), finite);
        let all_ones = self.int(ty, 0x7f80_0000);
        let special = self.f.ins().bor(shifted, all_ones);
        let is_special = self.at_least(magnitude, 0x7c00_0000);
        let widened = self.pick(is_special, special, finite);
        let signed = self.f.ins().bor(widened, sign);
        self.f.ins().bitcast(float, MemFlagsData::new(), signed)
    }

    /// The 16 bits of an `f32` rounded to nearest, ties to even, sign-extended to `i32`.
    fn round(&mut self, dtype: DType, value: ir::Value) -> ir::Value {
        let ty = int_like(self.f.func.dfg.value_type(value));
        let bits = self.f.ins().bitcast(ty, MemFlagsData::new(), value);
        let magnitude = self.and(bits, 0x7fff_ffff);
        let nan = self.at_least(magnitude, 0x7f80_0001);
        if dtype == DType::Bf16 {
            let odd = self.f.ins().ushr_imm_u(bits, 16);
            let odd = self.and(odd, 1);
            let bias = self.int(ty, 0x7fff);
            let bias = self.f.ins().iadd(bias, odd);
            let rounded = self.f.ins().iadd(bits, bias);
            let quiet = self.int(ty, 0x0040_0000);
            let quiet = self.f.ins().bor(bits, quiet);
            let high = self.pick(nan, quiet, rounded);
            return self.f.ins().sshr_imm_u(high, 16);
        }
        // Normal results: rebase the exponent and round off 13 bits, into infinity if need be.
        let odd = self.f.ins().ushr_imm_u(magnitude, 13);
        let odd = self.and(odd, 1);
        let bias = self.int(ty, 0xfff_u32.wrapping_sub(112 << 23));
        let bias = self.f.ins().iadd(bias, odd);
        let normal = self.f.ins().iadd(magnitude, bias);
        let normal = self.f.ins().ushr_imm_u(normal, 13);
        // Subnormal ones: adding 0.5 puts the last place of f16 into that of f32, which rounds.
        let float = self.f.ins().bitcast(float_like(ty), MemFlagsData::new(), magnitude);
        let half = self.float(ty, 0.5);
        let sum = self.f.ins().fadd(float, half);
        let sum = self.f.ins().bitcast(ty, MemFlagsData::new(), sum);
        let half = self.int(ty, 0.5f32.to_bits());
        let subnormal = self.f.ins().isub(sum, half);
        let is_normal = self.at_least(magnitude, (127 - 14) << 23);
        let finite = self.pick(is_normal, normal, subnormal);
        let infinity = self.int(ty, 0x7c00);
        let is_large = self.at_least(magnitude, (127 + 16) << 23);
        let bounded = self.pick(is_large, infinity, finite);
        let payload = self.f.ins().ushr_imm_u(magnitude, 13);
        let payload = self.and(payload, 0x3ff);
        let quiet = self.int(ty, 0x7e00);
        let quiet = self.f.ins().bor(payload, quiet);
        let unsigned = self.pick(nan, quiet, bounded);
        let sign = self.and(bits, 0x8000_0000);
        let sign = self.f.ins().sshr_imm_u(sign, 16);
        self.f.ins().bor(unsigned, sign)
    }

    // The same on an `i32` and on four of them.

    fn int(&mut self, ty: ir::Type, bits: u32) -> ir::Value {
        if ty.is_vector() {
            return self.vector_constant(ty, bits);
        }
        self.f.ins().iconst(types::I32, i64::from(bits as i32))
    }

    fn float(&mut self, ty: ir::Type, v: f32) -> ir::Value {
        if ty.is_vector() {
            return self.vector_constant(types::F32X4, v.to_bits());
        }
        self.f.ins().f32const(v)
    }

    fn and(&mut self, v: ir::Value, bits: u32) -> ir::Value {
        let mask = self.int(self.f.func.dfg.value_type(v), bits);
        self.f.ins().band(v, mask)
    }

    /// Whether `v`, not negative, is at least `bits`.
    fn at_least(&mut self, v: ir::Value, bits: u32) -> ir::Value {
        let below = self.int(self.f.func.dfg.value_type(v), bits - 1);
        self.f.ins().icmp(IntCC::SignedGreaterThan, v, below)
    }

    fn pick(&mut self, cond: ir::Value, a: ir::Value, b: ir::Value) -> ir::Value {
        match self.f.func.dfg.value_type(cond).is_vector() {
            true => self.f.ins().bitselect(cond, a, b),
            false => self.f.ins().select(cond, a, b),
        }
    }
}

fn float_like(ty: ir::Type) -> ir::Type {
    if ty.is_vector() { types::F32X4 } else { types::F32 }
}

fn int_like(ty: ir::Type) -> ir::Type {
    if ty.is_vector() { types::I32X4 } else { types::I32 }
}
