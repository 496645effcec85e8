//! Runs a kernel on the evaluator and on a Vulkan device, and compares.

pub use crate::gpu::*;
use crate::validator::validate;
use q35_artifact::{Kernel as Loadable, Param as LoadableParam};
use q35_device::vulkan::{Choice, Options, Vulkan};
use q35_device::{BoundArg, BoundLaunch, BoundTasks, Device as _, KernelCode, Repeat, Span, Usage};
use q35_kernel::{Access, Kernel, KernelBuilder};
use q35_target::{Target, Variant};
use q35_target_spirv::Spirv;
use std::cell::RefCell;

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
    compare(variant.name, kernel, tasks, data, &found, ulps);
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

/// For each variant, `expected` is what `each` tasks make of `data`, repeated as often as a word in memory says.
#[track_caller]
pub fn repeated(
    name: &str,
    lanes: u32,
    (each, times): (u32, i32),
    data: &[Data],
    expected: &[Data],
    write: impl Fn(&KernelBuilder),
) {
    for variant in Spirv::ALL.variants() {
        let kernel = written(variant, name, lanes, &write);
        let code = Spirv::ALL.lower(variant, &kernel).expect("a kernel");
        let Some(found) = run_repeated(&kernel, &code, (each, Some(times)), data) else { continue };
        assert_eq!(found, expected, "{each} tasks {times} times");
    }
}

/// With the tasks repeated as often as a word in memory says.
fn run_repeated(
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
