//! What the tests of instructions are given, and what the evaluator makes of it.

use q35_interp::kernel::{self as interp, Arg};
use q35_kernel::Kernel;
use q35_types::DType;

/// What a launch is given for one parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    Buffer(Vec<u8>),
    Table(Vec<Vec<u8>>),
}

impl Data {
    pub fn f32(values: &[f32]) -> Data {
        Data::Buffer(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn i32(values: &[i32]) -> Data {
        Data::Buffer(values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn zeros(dtype: DType, len: usize) -> Data {
        Data::Buffer(vec![0; dtype.size() * len])
    }

    pub fn of(dtype: DType, values: &[f32]) -> Data {
        let mut bytes = vec![0; dtype.size() * values.len()];
        for (at, v) in bytes.chunks_mut(dtype.size()).zip(values) {
            dtype.write_f32(*v, at);
        }
        Data::Buffer(bytes)
    }
}

/// `found` is what the evaluator makes of `data`, or of its floats as near as `same` wants them.
#[track_caller]
pub fn compare_by(
    variant: &str,
    kernel: &Kernel,
    tasks: u32,
    data: &[Data],
    found: &[Data],
    same: impl Fn(DType, &[u8], &[u8]) -> bool,
) {
    let expected = evaluated(kernel, tasks, data);
    for ((param, expected), found) in kernel.params.iter().zip(&expected).zip(found) {
        let (Data::Buffer(expected), Data::Buffer(found)) = (expected, found) else { continue };
        let size = param.dtype.size();
        for (i, (e, f)) in expected.chunks(size).zip(found.chunks(size)).enumerate() {
            assert!(
                e == f || (param.dtype.is_float() && same(param.dtype, e, f)),
                "{variant}: {}[{i}] is {}, expected {}\n{kernel}",
                param.name,
                shown(param.dtype, f),
                shown(param.dtype, e),
            );
        }
    }
}

fn shown(dtype: DType, bytes: &[u8]) -> String {
    let hex: String = bytes.iter().rev().map(|b| format!("{b:02x}")).collect();
    match dtype.is_float() {
        true => format!("{} (0x{hex})", dtype.read_f32(bytes)),
        false => format!("{} (0x{hex})", i32::from_le_bytes(bytes.try_into().expect("four bytes"))),
    }
}

fn evaluated(kernel: &Kernel, tasks: u32, data: &[Data]) -> Vec<Data> {
    let mut data = data.to_vec();
    let tables: Vec<Vec<Vec<u8>>> = data
        .iter()
        .map(|d| match d {
            Data::Table(t) => t.clone(),
            Data::Buffer(_) => vec![],
        })
        .collect();
    let lists: Vec<Vec<&[u8]>> =
        tables.iter().map(|t| t.iter().map(Vec::as_slice).collect()).collect();
    let mut args = vec![];
    for (d, list) in data.iter_mut().zip(&lists) {
        args.push(match d {
            Data::Buffer(b) => Arg::Write(b),
            Data::Table(_) => Arg::Table(list),
        });
    }
    interp::run(kernel, &mut args, 0..tasks).unwrap_or_else(|fault| panic!("{fault}\n{kernel}"));
    drop(args);
    data
}

/// A small generator of numbers, the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.bits()) * u64::from(n)) >> 32) as u32
    }

    /// Of ordinary size.
    pub fn f32(&mut self) -> f32 {
        (self.bits() as i32 as f32) / (1u32 << 28) as f32
    }
}

/// Floats of ordinary size.
pub fn ramp(len: usize) -> Vec<f32> {
    let mut random = Random(7);
    (0..len).map(|_| random.f32()).collect()
}

/// Floats of every kind that `keep` keeps, then any.
pub fn floats_where(len: usize, keep: impl Fn(&f32) -> bool) -> Vec<f32> {
    let mut special = vec![
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        -f32::MIN_POSITIVE,
        f32::from_bits(1),
        -f32::from_bits(0x7f_ffff),
        1e-30,
        -1e30,
        16_777_217.0,
        65504.0,
        65520.0,
        6e-8,
        -2.9e-8,
        2_147_483_648.0,
        -2_147_483_648.0,
        -2_147_483_904.0,
        2_147_483_520.0,
    ];
    special.retain(&keep);
    let mut random = Random(len as u64);
    let mut any = || match random.below(4) {
        0 => special[random.below(special.len() as u32) as usize],
        1 => Some(f32::from_bits(random.bits())).filter(&keep).unwrap_or(3.5),
        _ => random.f32(),
    };
    (0..len).map(|i| special.get(i).copied().unwrap_or_else(&mut any)).collect()
}

/// Integers of every kind, then any.
pub fn ints(len: usize) -> Vec<i32> {
    let special = [0, 1, -1, 2, -2, 7, -7, i32::MAX, i32::MIN, i32::MIN + 1, 1 << 24, 0x5555_5555];
    let mut random = Random(len as u64 + 1);
    let mut any = || match random.below(3) {
        0 => special[random.below(special.len() as u32) as usize],
        1 => random.below(200) as i32 - 100,
        _ => random.bits() as i32,
    };
    (0..len).map(|i| special.get(i).copied().unwrap_or_else(&mut any)).collect()
}
