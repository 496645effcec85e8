//! An emulated machine: qemu-user runs a C program that loads kernels and calls them.
//!
//! It takes `qemu-aarch64` and `aarch64-linux-gnu-gcc` (Debian: qemu-user,
//! gcc-aarch64-linux-gnu, libc6-dev-arm64-cross). Where they are missing, this is said aloud,
//! and is an error if `Q35_REQUIRE` names `qemu-aarch64`.

use crate::harness::Data;
use q35_kernel::Kernel;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// Run aarch64 code; none if there is no emulator.
pub fn run(kernel: &Kernel, code: &[u8], tasks: u32, data: &[Data]) -> Option<Vec<Data>> {
    static MACHINE: OnceLock<Option<Mutex<Child>>> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| start().map(Mutex::new)).as_ref()?;
    let mut machine = machine.lock().expect("no other test failed in the middle of a request");
    let mut request = vec![];
    let number = |request: &mut Vec<u8>, n: usize| request.extend((n as u64).to_le_bytes());
    number(&mut request, code.len());
    request.extend(code);
    number(&mut request, tasks as usize);
    number(&mut request, kernel.shared_bytes());
    number(&mut request, data.len());
    for d in data {
        let (entries, buffers) = match d {
            Data::Buffer(b) => (0, std::slice::from_ref(b)),
            Data::Table(t) => (t.len(), t.as_slice()),
        };
        number(&mut request, entries);
        for b in buffers {
            number(&mut request, b.len());
            request.extend(b);
        }
    }
    let failed = "the emulated program runs";
    let input = machine.stdin.as_mut().expect("a pipe");
    input.write_all(&request).and_then(|()| input.flush()).expect(failed);
    let output = machine.stdout.as_mut().expect("a pipe");
    let mut result = data.to_vec();
    for d in &mut result {
        match d {
            Data::Buffer(b) => output.read_exact(b).expect(failed),
            Data::Table(_) => {}
        }
    }
    Some(result)
}

fn start() -> Option<Child> {
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("run-aarch64-{}", std::process::id()));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/run.c");
    let compile = Command::new("aarch64-linux-gnu-gcc")
        .args(["-O1", "-static", "-o"])
        .arg(&program)
        .arg(source)
        .status();
    let machine = match compile {
        Ok(status) if status.success() => Command::new("qemu-aarch64")
            .arg(&program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn(),
        Ok(status) => Err(std::io::Error::other(format!("aarch64-linux-gnu-gcc: {status}"))),
        Err(e) => Err(e),
    };
    match machine {
        Ok(machine) => Some(machine),
        Err(why) => {
            let required =
                std::env::var("Q35_REQUIRE").is_ok_and(|list| list.contains("qemu-aarch64"));
            assert!(!required, "`Q35_REQUIRE` names `qemu-aarch64`, but: {why}");
            eprintln!(
                "SKIPPED: aarch64 code is not run, as qemu-aarch64 or aarch64-linux-gnu-gcc is missing ({why})"
            );
            None
        }
    }
}

/// Says aloud whether the other tests ran aarch64 code.
#[test]
fn runs_aarch64_code_or_says_that_it_does_not() {
    let k = q35_kernel::KernelBuilder::new(
        "forty_two",
        q35_kernel::Machine { lanes: 1, subgroup: 1, fma: true, panel_dot: false },
    );
    let out = k.output("out", q35_types::DType::I32);
    k.store(out, k.task(), k.task() + 42);
    let kernel = k.finish();
    let variant =
        q35_target::Target::variants(&q35_target_cpu::Cpu).iter().find(|v| v.name == "aarch64");
    let code =
        q35_target::Target::lower(&q35_target_cpu::Cpu, variant.expect("a variant"), &kernel)
            .expect("code");
    if let Some(out) = run(&kernel, &code, 2, &[Data::i32(&[0, 0])]) {
        assert_eq!(out, [Data::i32(&[42, 43])]);
    }
}
