//! What the text of a kernel says, how it accesses memory, and what is refused.

use crate::harness::{panels, sm_80, written};
use q35_kernel::{KernelBuilder, ReduceOp};
use q35_target::{Target, Variant};
use q35_target_ptx::Ptx;
use q35_types::DType;

fn code(write: impl Fn(&KernelBuilder)) -> String {
    let kernel = written(sm_80(), "kernel", 128, write);
    String::from_utf8(Ptx::ALL.lower(sm_80(), &kernel).expect("a kernel")).expect("PTX is text")
}

/// The instructions that `wanted` picks by their names.
fn names(text: &str, wanted: impl Fn(&str) -> bool) -> Vec<&str> {
    text.lines().filter_map(|l| l.split_whitespace().next()).filter(|name| wanted(name)).collect()
}

fn accesses(text: &str) -> Vec<&str> {
    names(text, |name| name.starts_with("ld.global.nc") || name.starts_with("st."))
}

fn copy(dtype: DType, width: u8, scale: u32) -> impl Fn(&KernelBuilder) {
    move |k| {
        let (from, to) = (k.input("from", dtype), k.output("to", dtype));
        let at = (k.task() * 128 + k.lane()) * scale;
        k.store(to, at, k.load_vec(from, at, width));
    }
}

#[test]
fn an_access_is_as_wide_as_its_index_is_known_to_be_aligned() {
    for (dtype, width, scale, load, count) in [
        (DType::F32, 4, 4, ".v4.b32", 1),
        (DType::F32, 8, 8, ".v4.b32", 2),
        (DType::F32, 4, 2, ".v2.b32", 2),
        (DType::F32, 2, 1, ".b32", 2),
        (DType::Bf16, 8, 8, ".v4.b32", 1),
        (DType::Bf16, 16, 16, ".v4.b32", 2),
        (DType::Bf16, 8, 4, ".v2.b32", 2),
        (DType::Bf16, 4, 2, ".b32", 2),
        (DType::F16, 2, 1, ".b16", 2),
    ] {
        let text = code(copy(dtype, width, scale));
        let mut expected = vec![format!("ld.global.nc{load}"); count];
        expected.extend(vec![format!("st.global{load}"); count]);
        assert_eq!(accesses(&text), expected, "{text}");
    }
}

#[test]
fn what_neighbouring_accesses_have_in_common_is_computed_once() {
    let text = code(|k| {
        let (from, to) = (k.input("from", DType::F32), k.output("to", DType::F32));
        let at = k.lane() * 64;
        for i in 0..8 {
            k.store(to, at + i * 4, k.load_vec(from, at + i * 4, 4));
        }
    });
    assert_eq!(names(&text, |name| name == "mad.wide.s32").len(), 2, "{text}");
    assert_eq!(names(&text, |name| name == "add.s32").len(), 1, "of the task alone: {text}");
    assert!(text.contains("+112]"), "{text}");
}

#[test]
fn what_is_only_copied_stays_as_it_lies() {
    let text = code(copy(DType::Bf16, 8, 8));
    assert!(names(&text, |n| n.starts_with("cvt") || n == "prmt.b32").is_empty(), "{text}");
}

#[test]
fn buffers_that_are_written_are_not_read_as_constants() {
    let text = code(|k| {
        let (x, y) = (k.input("x", DType::F32), k.state("y", DType::F32));
        k.store(y, k.lane(), k.load(x, k.lane()) + k.load(y, k.lane()));
    });
    let loads = names(&text, |name| name.starts_with("ld.global"));
    // The count of repeats, then the two.
    assert_eq!(loads, ["ld.global.u32", "ld.global.nc.b32", "ld.global.b32"]);
}

#[test]
fn lanes_of_a_warp_shuffle_and_warps_meet_in_shared_memory() {
    let cluster = |size: u32| {
        code(|k| {
            let out = k.output("out", DType::F32);
            k.store(out, k.lane(), k.cluster(ReduceOp::Sum, k.lane().to_f32(), size));
        })
    };
    let count = |text: &str, name: &str| names(text, |n| n.starts_with(name)).len();
    for (size, shuffles, stores, barriers) in [(32, 5, 0, 0), (128, 5, 2, 3)] {
        let text = cluster(size);
        assert_eq!(count(&text, "shfl.sync.bfly"), shuffles, "{text}");
        assert_eq!(count(&text, "st.shared"), stores, "{text}");
        assert_eq!(count(&text, "bar.sync"), barriers, "{text}");
    }
}

#[test]
fn large_shared_arrays_are_dynamic() {
    for (len, dynamic) in [(11 << 10, false), ((11 << 10) + 1, true), (23 << 10, true)] {
        let text = code(|k| {
            let (array, out) = (k.shared("array", DType::F32, len), k.output("out", DType::F32));
            k.store(array, k.lane(), k.f(1.0));
            k.store(out, k.lane(), k.load(array, k.lane()));
        });
        let declared = "\n.extern .shared .align 64 .b8 dynamic_shared[];\n";
        assert_eq!(text.contains(declared), dynamic, "{text}");
    }
}

#[test]
fn arithmetic_is_never_contracted() {
    let text = code(|k| {
        let (x, out) = (k.input("x", DType::F32), k.output("out", DType::F32));
        let v = k.load(x, k.lane());
        k.store(out, k.lane(), (v * v + 1.0) / v - v);
    });
    for op in ["mul", "add", "div", "sub"] {
        let all = names(&text, |name| name.starts_with(op) && name.ends_with(".f32"));
        assert_eq!(all, [format!("{op}.rn.f32")], "{text}");
    }
}

#[track_caller]
fn refused(kernel: &q35_kernel::Kernel) -> String {
    Ptx::ALL.lower(sm_80(), kernel).expect_err("it cannot be lowered").to_string()
}

#[test]
fn what_a_gpu_does_not_do_is_refused() {
    let kernel = written(sm_80(), "large", 128, |k| {
        let array = k.shared("array", DType::F32, 25 << 10);
        k.store(array, k.lane(), k.cluster(ReduceOp::Sum, k.lane().to_f32(), 128));
    });
    assert_eq!(
        refused(&kernel),
        "`large` for `sm_80`: needs 103424 bytes of shared memory, expected at most 101376"
    );

    assert_eq!(
        refused(&panels()),
        "`panels` for `sm_80`: `panel_dot`, which is for kernels of a CPU"
    );
}

#[test]
fn architectures_differ_in_what_the_assembler_is_told() {
    let all = [Ptx::SM_80, Ptx::SM_89, Ptx::SM_90, Ptx::SM_100, Ptx::SM_120];
    let each: Vec<&str> = all.iter().flat_map(|p| p.variants()).map(|v| v.name).collect();
    assert_eq!(each, ["sm_80", "sm_89", "sm_90", "sm_100", "sm_120"]);
    assert_eq!(Ptx::ALL.variants().iter().map(|v| v.name).collect::<Vec<_>>(), each);
    let kernel = written(sm_80(), "kernel", 128, copy(DType::F32, 4, 4));
    let of = |variant: &Variant| {
        let code = Ptx::ALL.lower(variant, &kernel).expect("a kernel");
        assert_eq!(Ptx::ALL.file(variant, "kernel", &code), code);
        let text = String::from_utf8(code).expect("PTX is text");
        assert!(Ptx::ALL.listing(variant, &kernel).expect("a kernel").ends_with(&text));
        let lines: Vec<String> = text.lines().map(String::from).collect();
        (lines[..2].to_vec(), lines[2..].to_vec())
    };
    let (head, body) = of(sm_80());
    assert_eq!(head, [".version 8.0", ".target sm_80"]);
    for variant in Ptx::ALL.variants() {
        let (head, same) = of(variant);
        assert_eq!(head[1], format!(".target {variant}"));
        assert_eq!(same, body);
    }
    let tomorrow = Variant { name: "sm_300", ..*sm_80() };
    let refused = Ptx::ALL.lower(&tomorrow, &kernel).expect_err("nobody knows it");
    assert_eq!(refused.to_string(), "`kernel` for `sm_300`: no such variant");
}
