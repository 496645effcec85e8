//! What tests of all GPU targets have in common.

pub use crate::data::*;
use q35_kernel::{Kernel, KernelBuilder, Machine, PanelArgs};
use q35_target::Variant;
use q35_types::DType;

/// Units in the last place by which a float may differ.
#[derive(Debug, Clone, Copy)]
pub struct Ulps(pub u32);

/// To the bit, but for subnormal numbers and the payload of a NaN.
pub const EXACT: Ulps = Ulps(0);

/// `found` is what the evaluator makes of `data`.
#[track_caller]
pub fn compare(
    variant: &str,
    kernel: &Kernel,
    tasks: u32,
    data: &[Data],
    found: &[Data],
    ulps: Ulps,
) {
    let same = |dtype, e: &[u8], f: &[u8]| close(dtype, e, f, ulps);
    compare_by(variant, kernel, tasks, data, found, same);
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

/// Floats of every kind, subnormal ones excepted, which a device may take for zero.
pub fn floats(len: usize) -> Vec<f32> {
    floats_where(len, |v| !v.is_subnormal())
}

/// What `write` writes for a group of `lanes` lanes.
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

/// A kernel of a CPU, `panels`.
pub fn panels() -> Kernel {
    let machine = Machine { lanes: 1, subgroup: 1, fma: false, panel_dot: true };
    let k = KernelBuilder::new("panels", machine);
    let (x, out) = (k.input("x", DType::F32), k.output("out", DType::F32));
    let one = k.i(1);
    k.panel_dot(PanelArgs {
        x: k.at(x, 0),
        x_row: one,
        x_k: one,
        w: k.at(x, 0),
        w_panel: one,
        out: k.at(out, 0),
        out_row: one,
        rows: one,
        panels: one,
        k: one,
        accumulate: false,
    });
    k.finish()
}
