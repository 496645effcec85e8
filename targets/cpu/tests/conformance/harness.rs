//! Runs a kernel on the evaluator and as code of every variant, and compares to the bit.

use crate::aarch64;
pub use crate::data::*;
use q35_artifact::{Kernel as Loadable, Param as LoadableParam};
use q35_device::cpu::Cpu as Device;
use q35_device::{BoundArg, BoundLaunch, BoundTasks, Device as _, KernelCode, Repeat, Span, Usage};
use q35_kernel::{Access, Kernel, KernelBuilder, Machine};
use q35_target::{Target, Variant};
use q35_target_cpu::Cpu;
use q35_types::DType;

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
    let nans =
        |dtype: DType, e: &[u8], f: &[u8]| dtype.read_f32(e).is_nan() && dtype.read_f32(f).is_nan();
    compare_by(variant.name, kernel, tasks, data, &found, nans);
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

/// Floats of every kind, then any.
pub fn floats(len: usize) -> Vec<f32> {
    floats_where(len, |_| true)
}
