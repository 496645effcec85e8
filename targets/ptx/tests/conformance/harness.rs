//! Runs a kernel on the evaluator and on a simulated GPU, and compares.

pub use crate::gpu::*;
use q35_kernel::{Kernel, KernelBuilder};
use q35_ptx_sim::{Launch, Memory, Module};
use q35_target::{Target, Variant};
use q35_target_ptx::Ptx;

pub fn sm_80() -> &'static Variant {
    &Ptx::SM_80.variants()[0]
}

/// The kernel that `write` writes gives what the evaluator gives. Here that is the same bits, whatever
/// other machines are allowed.
#[track_caller]
pub fn agree(
    name: &str,
    lanes: u32,
    tasks: u32,
    data: &[Data],
    _: Ulps,
    write: impl Fn(&KernelBuilder),
) {
    let kernel = written(sm_80(), name, lanes, write);
    let found = run(&kernel, (tasks, None), data);
    compare("sm_80", &kernel, tasks, data, &found, EXACT);
}

/// `expected` is what `each` tasks make of `data`, repeated as often as a word in memory says.
#[track_caller]
pub fn repeated(
    name: &str,
    lanes: u32,
    (each, times): (u32, i32),
    data: &[Data],
    expected: &[Data],
    write: impl Fn(&KernelBuilder),
) {
    let found = run(&written(sm_80(), name, lanes, write), (each, Some(times)), data);
    assert_eq!(found, expected, "{each} tasks {times} times");
}

/// On three blocks, so that some do several tasks and some none.
#[track_caller]
fn run(kernel: &Kernel, (each, times): (u32, Option<i32>), data: &[Data]) -> Vec<Data> {
    let listing = || Ptx::ALL.listing(sm_80(), kernel).expect("it was lowered before");
    let code = Ptx::ALL.lower(sm_80(), kernel).unwrap_or_else(|e| panic!("{e}\n{kernel}"));
    let code = String::from_utf8(code).expect("PTX is text");
    if let Some(used) = crate::ptxas::assemble(&code, "sm_80") {
        assert_eq!(used.local, 0, "{}", listing());
    }
    let mut memory = Memory::new();
    let mut upload = |bytes: &[u8]| {
        let at = memory.alloc(bytes.len() as u64).expect("memory");
        memory.write(at, bytes).expect("a buffer");
        at
    };
    let mut params = vec![];
    let buffers: Vec<Vec<u64>> = data
        .iter()
        .map(|d| match d {
            Data::Buffer(bytes) => vec![upload(bytes)],
            Data::Table(table) => table.iter().map(|bytes| upload(bytes)).collect(),
        })
        .collect();
    for (d, at) in data.iter().zip(&buffers) {
        let list = || at.iter().flat_map(|at| at.to_le_bytes()).collect::<Vec<u8>>();
        let address = match d {
            Data::Buffer(_) => at[0],
            Data::Table(_) => upload(&list()),
        };
        params.extend(address.to_le_bytes());
    }
    let times = times.map_or(0, |times| upload(&times.to_le_bytes()));
    params.extend(times.to_le_bytes());
    params.extend(each.to_le_bytes());
    let dynamic = if code.contains("dynamic_shared") { kernel.shared_bytes() } else { 0 };
    let launch = Launch {
        grid: [3, 1, 1],
        block: [kernel.lanes, 1, 1],
        dynamic_shared: dynamic as u64,
        params: &params,
        ..Launch::default()
    };
    let module = Module::parse(&code).unwrap_or_else(|e| panic!("{e}\n{}", listing()));
    let program = module.load(&mut memory).unwrap_or_else(|e| panic!("{e}\n{}", listing()));
    let done = program.launch(&memory, &kernel.name, &launch);
    done.unwrap_or_else(|e| panic!("{e}\n{}", listing()));
    let download = |at: u64, like: &Vec<u8>| {
        let mut bytes = vec![0; like.len()];
        memory.read(at, &mut bytes).expect("a buffer");
        bytes
    };
    let found = data.iter().zip(&buffers).map(|(d, at)| match d {
        Data::Buffer(bytes) => Data::Buffer(download(at[0], bytes)),
        Data::Table(t) => Data::Table(t.iter().zip(at).map(|(b, at)| download(*at, b)).collect()),
    });
    found.collect()
}
