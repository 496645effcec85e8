//! Runs a kernel on the evaluator and on a Vulkan device, and compares.

use crate::validator::validate;
use q35_artifact::{Kernel as Loadable, Param as LoadableParam};
use q35_device::vulkan::{Choice, Options, Vulkan};
use q35_device::{BoundArg, BoundLaunch, BoundTasks, Device as _, KernelCode, Repeat, Span, Usage};
use q35_interp::kernel::{self as interp, Arg};
use q35_kernel::{Access, Kernel, KernelBuilder, Machine};
use q35_target::{Target, Variant};
use q35_target_spirv::Spirv;
use q35_types::DType;
use std::cell::RefCell;

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

/// Units in the last place by which a float may differ.
#[derive(Debug, Clone, Copy)]
pub struct Ulps(pub u32);

/// To the bit, but for subnormal numbers and the payload of a NaN.
pub const EXACT: Ulps = Ulps(0);

/// The kernel that `write` writes for each variant is valid, and gives what the evaluator gives.
#[track_caller]
pub fn agree(
    name: &str,
    lanes: u32,
    tasks: u32,
    data: &[Data],
    ulps: Ulps,
    write: impl Fn(&KernelBuilder),
) {
    let kernels = Spirv::ALL.variants().iter().map(|v| (v, written(v, name, lanes, &write)));
    let mut seen = vec![];
    for (variant, kernel) in kernels {
        let code = Spirv::ALL.lower(variant, &kernel).unwrap_or_else(|e| panic!("{e}\n{kernel}"));
        if !seen.contains(&code) {
            agree_on(variant, &kernel, &code, tasks, data, ulps);
            seen.push(code);
        }
    }
}

pub fn written(
    variant: &Variant,
    name: &str,
    lanes: u32,
    write: impl Fn(&KernelBuilder),
) -> Kernel {
    let subgroup = variant.caps.subgroup.min(1 << lanes.trailing_zeros());
    let machine = Machine { lanes, subgroup, fma: variant.caps.fma, panel_dot: false };
    let k = KernelBuilder::new(name, machine);
    write(&k);
    k.finish()
}

#[track_caller]
fn agree_on(
    variant: &Variant,
    kernel: &Kernel,
    code: &[u8],
    tasks: u32,
    data: &[Data],
    ulps: Ulps,
) {
    validate(code, || Spirv::ALL.listing(variant, kernel).expect("it was lowered before"));
    let Some(found) = run(kernel, code, tasks, data) else { return };
    let expected = evaluated(kernel, tasks, data);
    for ((param, expected), found) in kernel.params.iter().zip(&expected).zip(&found) {
        let (Data::Buffer(expected), Data::Buffer(found)) = (expected, found) else { continue };
        let size = param.dtype.size();
        for (i, (e, f)) in expected.chunks(size).zip(found.chunks(size)).enumerate() {
            assert!(
                e == f || (param.dtype.is_float() && close(param.dtype, e, f, ulps)),
                "{variant}: {}[{i}] is {}, expected {}\n{kernel}",
                param.name,
                shown(param.dtype, f),
                shown(param.dtype, e),
            );
        }
    }
}

fn close(dtype: DType, expected: &[u8], found: &[u8], ulps: Ulps) -> bool {
    let [e, f] = [expected, found].map(|bytes| dtype.read_f32(bytes));
    // Numbers of either sign on one line.
    let place = |v: f32| {
        let bits = i64::from(v.to_bits() as i32);
        if bits < 0 { i64::from(i32::MIN) - bits } else { bits }
    };
    let flushed = dtype == DType::F32 && f == 0.0 && e.is_subnormal();
    (e.is_nan() && f.is_nan()) || flushed || place(e).abs_diff(place(f)) <= u64::from(ulps.0)
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

thread_local! {
    /// One for each test; none if there is none here.
    static DEVICE: RefCell<Option<Vulkan>> = RefCell::new(open());
}

fn open() -> Option<Vulkan> {
    match Vulkan::open(Choice::Best, Options::default()) {
        Ok(device) => Some(device),
        Err(why) => {
            let required = std::env::var("Q35_REQUIRE").is_ok_and(|list| list.contains("vulkan"));
            assert!(!required, "`Q35_REQUIRE` names `vulkan`, but: {why}");
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// On a Vulkan device, if there is one that can.
fn run(kernel: &Kernel, code: &[u8], tasks: u32, data: &[Data]) -> Option<Vec<Data>> {
    run_repeated(kernel, code, (tasks, None), data)
}

/// With the tasks repeated as often as a word in memory says.
pub fn run_repeated(
    kernel: &Kernel,
    code: &[u8],
    (each, times): (u32, Option<i32>),
    data: &[Data],
) -> Option<Vec<Data>> {
    DEVICE.with_borrow_mut(|device| {
        let device = device.as_mut()?;
        launch(device, kernel, code, (each, times), data)
    })
}

fn launch(
    device: &mut Vulkan,
    kernel: &Kernel,
    code: &[u8],
    (each, times): (u32, Option<i32>),
    data: &[Data],
) -> Option<Vec<Data>> {
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
    // Under the name of the variant that every device has: what a module needs beyond that is
    // checked when it is loaded, and decides whether it can be run.
    let name = *device.variants().last().expect("a variant");
    let loaded = device.load(name, &[KernelCode { kernel: &loadable, code }]);
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(why) => {
            let lacks = ["BFloat16", "Float16", "CooperativeMatrix", "StorageBuffer16BitAccess"];
            let known = lacks.iter().any(|name| why.to_string().contains(name));
            assert!(known, "{why}\n{kernel}");
            eprintln!("not run: {why}");
            return None;
        }
    };
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
    let repeat = match times {
        None => Repeat::Once,
        Some(times) => Repeat::Word { buffer: upload(&times.to_le_bytes()).buffer, offset: 0 },
    };
    let launch =
        BoundLaunch { kernel: loaded[0], tasks: BoundTasks { each, repeat }, args: args.clone() };
    let entry = device.record(vec![launch]).expect("a launch that fits");
    device.run(entry).expect("a run");
    let mut download = |span: Span| {
        let mut bytes = vec![];
        device.read(span, &mut |b| bytes.extend_from_slice(b)).expect("a buffer");
        bytes
    };
    let args = args.into_iter();
    let found = args.map(|arg| match arg {
        BoundArg::Span(span) => Data::Buffer(download(span)),
        BoundArg::Table(spans) => Data::Table(spans.into_iter().map(&mut download).collect()),
    });
    Some(found.collect())
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

/// Floats of every kind, subnormal ones excepted, which a device may take for zero.
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
    let mut random = Random(len as u64);
    let mut any = || match random.below(4) {
        0 => special[random.below(special.len() as u32) as usize],
        1 => Some(f32::from_bits(random.bits())).filter(|v| !v.is_subnormal()).unwrap_or(3.5),
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
