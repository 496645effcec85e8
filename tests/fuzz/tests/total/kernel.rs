//! The text of a kernel: refused, or a kernel that means something.

use crate::model;
use q35_fuzz::fuzz;
use q35_interp::kernel::{Arg, Program};
use q35_kernel::text::{parse, parse_all};
use q35_kernel::{Kernel, verify};

/// Lanes that share, which kernels for a CPU do not.
const LANES: &str = "\
kernel row_sum lanes 4
param x: bf16 read
param out: f32 write
shared row: f32[8]
  %0: i32 = task
  %1: i32 = lane
  %2: i32 = const 4
  %3: i32 = mul %0, %2
  %4: i32 = add %3, %1
  %5: f32 = load x[%4]
  store row[%1], %5
  barrier
  %6: f32 = load row[%1]
  %7: f32 = cluster sum %6, 4
  store out[%0], %7
";

fn seeds() -> Vec<Vec<u8>> {
    let (text, config) = &model::configs()[0];
    let kernels = model::with_request(text, config, |request| {
        q35_core::link::kernels(request, &model::VARIANT)
    });
    let mut seeds: Vec<_> = kernels.iter().map(|k| k.to_string().into_bytes()).collect();
    seeds.push(LANES.into());
    seeds
}

#[test]
fn a_kernel_is_read_or_refused() {
    assert!(parse(LANES).is_ok_and(|k| verify(&k).is_ok()), "{:?}", parse(LANES));
    fuzz("kernel", &seeds(), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = parse_all(&text);
        let Ok(kernel) = parse(&text) else { return };
        let printed = kernel.to_string();
        let back = parse(&printed).expect("what is printed can be read");
        assert_eq!(back.to_string(), printed);
        if verify(&kernel).is_ok() {
            run(&kernel);
        }
    });
}

/// Does something, or stops with a fault.
fn run(kernel: &Kernel) {
    let Ok(program) = Program::new(kernel) else { return };
    let read: Vec<u8> = (0..4096).map(|n| (n * 37 % 61) as u8).collect();
    let table = [&read[..], &read[..100]];
    let mut written = vec![read.clone(); kernel.params.len()];
    let mut args: Vec<_> = kernel
        .params
        .iter()
        .zip(&mut written)
        .map(|(param, bytes)| if param.table { Arg::Table(&table) } else { Arg::Write(bytes) })
        .collect();
    let _ = program.run_within(&mut args, 0..2, 20_000);
}
