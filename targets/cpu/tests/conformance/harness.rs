//! Runs a kernel on the evaluator and as code of every variant, and compares to the bit.

use crate::aarch64;
use q35_artifact::{Kernel as Loadable, Param as LoadableParam};
use q35_device::cpu::Cpu as Device;
use q35_device::{BoundArg, BoundLaunch, BoundTasks, Device as _, KernelCode, Repeat, Span, Usage};
use q35_interp::kernel::{self as interp, Arg};
use q35_kernel::{Access, Kernel, KernelBuilder, Machine};
use q35_target::{Target, Variant};
use q35_target_cpu::Cpu;
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

/// The kernel that `write` writes for each variant gives what the evaluator gives.
#[track_caller]
pub fn agree(name: &str, tasks: u32, data: &[Data], write: impl Fn(&KernelBuilder)) {
    for variant in Cpu.variants() {
        let k = KernelBuilder::new(
            name,
            Machine {
                lanes: 1,
                subgroup: 1,
                fma: variant.caps.fma,
                panel_dot: variant.caps.panel_dot,
            },
        );
        write(&k);
        agree_on(variant, &k.finish(), tasks, data);
    }
}

/// `kernel` as code of `variant` gives what the evaluator gives, if there is a machine to run it.
#[track_caller]
pub fn agree_on(variant: &Variant, kernel: &Kernel, tasks: u32, data: &[Data]) {
    let code = Cpu.lower(variant, kernel).unwrap_or_else(|e| panic!("{e}\n{kernel}"));
    let found = match variant.name {
        name if q35_device::cpu::variant::named(name).is_ok() => run(kernel, &code, tasks, data),
        "aarch64" => match aarch64::run(kernel, &code, tasks, data) {
            Some(found) => found,
            None => return,
        },
        _ => return,
    };
    let expected = evaluated(kernel, tasks, data);
    for ((param, expected), found) in kernel.params.iter().zip(&expected).zip(&found) {
        let (Data::Buffer(expected), Data::Buffer(found)) = (expected, found) else { continue };
        let size = param.dtype.size();
        for (i, (e, f)) in expected.chunks(size).zip(found.chunks(size)).enumerate() {
            let nan = |bytes| param.dtype.is_float() && param.dtype.read_f32(bytes).is_nan();
            assert!(
                e == f || (nan(e) && nan(f)),
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

/// On this machine.
fn run(kernel: &Kernel, code: &[u8], tasks: u32, data: &[Data]) -> Vec<Data> {
    let mut device = Device::open(Some(1)).expect("a CPU");
    let params = kernel.params.iter().map(|p| LoadableParam {
        name: p.name.clone(),
        dtype: p.dtype,
        write: p.access != Access::Read,
        table: p.table,
    });
    let loadable = Loadable {
        name: kernel.name.clone(),
        shared_bytes: kernel.shared_bytes() as u32,
        params: params.collect(),
    };
    // Under the name of the variant that the device has chosen: all that run here are loaded alike.
    let name = device.variants()[0];
    let loaded = device.load(name, &[KernelCode { kernel: &loadable, code }]).expect("code");
    let mut upload = |bytes: &[u8]| {
        let buffer = device.alloc(bytes.len() as u64, Usage::HostReads).expect("memory");
        let span = Span::whole(buffer, bytes.len() as u64);
        device.fill(span, &mut |to| to.copy_from_slice(bytes)).expect("a buffer");
        span
    };
    let args: Vec<BoundArg> = data
        .iter()
        .map(|d| match d {
            Data::Buffer(b) => BoundArg::Span(upload(b)),
            Data::Table(t) => BoundArg::Table(t.iter().map(|b| upload(b)).collect()),
        })
        .collect();
    let launch = BoundLaunch {
        kernel: loaded[0],
        tasks: BoundTasks { each: tasks, repeat: Repeat::Once },
        args: args.clone(),
    };
    let entry = device.record(vec![launch]).expect("a launch that fits");
    device.run(entry).expect("a run");
    let mut download = |span: Span| {
        let mut bytes = vec![];
        device.read(span, &mut |b| bytes.extend_from_slice(b)).expect("a buffer");
        bytes
    };
    let args = args.into_iter();
    args.map(|arg| match arg {
        BoundArg::Span(span) => Data::Buffer(download(span)),
        BoundArg::Table(spans) => Data::Table(spans.into_iter().map(&mut download).collect()),
    })
    .collect()
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

/// Floats of every kind, then ordinary ones.
pub fn floats(len: usize) -> Vec<f32> {
    let special = [
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
    ];
    let mut random = Random(len as u64);
    let mut any = || match random.below(4) {
        0 => special[random.below(special.len() as u32) as usize],
        1 => f32::from_bits(random.bits()),
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
