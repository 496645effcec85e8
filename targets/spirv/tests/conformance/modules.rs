//! What modules ask for, how they access memory, and what is refused.

use crate::harness::{panels, written};
use q35_kernel::{BinaryOp, Expr, Kernel, KernelBuilder, ReduceOp, UnaryOp};
use q35_target::{Target, Variant};
use q35_target_spirv::Spirv;
use q35_types::DType;

fn baseline() -> &'static Variant {
    &Spirv::BASELINE.variants()[0]
}

fn desktop() -> &'static Variant {
    &Spirv::DESKTOP.variants()[0]
}

fn listing(variant: &Variant, write: impl Fn(&KernelBuilder)) -> String {
    let kernel = written(variant, "kernel", 128, write);
    Spirv::ALL.listing(variant, &kernel).expect("a kernel")
}

fn capabilities(text: &str) -> Vec<&str> {
    text.lines().filter_map(|l| l.strip_prefix("OpCapability ")).collect()
}

fn copy(dtype: DType, width: u8, scale: u32) -> impl Fn(&KernelBuilder) {
    move |k| {
        let (from, to) = (k.input("from", dtype), k.output("to", dtype));
        let at = (k.task() * 128 + k.lane()) * scale;
        k.store(to, at, k.load_vec(from, at, width));
    }
}

const ALWAYS: [&str; 4] =
    ["Shader", "PhysicalStorageBufferAddresses", "VulkanMemoryModel", "SignedZeroInfNanPreserve"];

#[test]
fn a_module_asks_only_for_what_it_uses() {
    assert_eq!(capabilities(&listing(baseline(), copy(DType::F32, 4, 4))), ALWAYS);
    assert_eq!(capabilities(&listing(baseline(), copy(DType::Bf16, 1, 1))), ALWAYS);
    for desktop in [Spirv::DESKTOP, Spirv::DESKTOP_64].iter().flat_map(Spirv::variants) {
        assert_eq!(capabilities(&listing(desktop, copy(DType::Bf16, 8, 8))), ALWAYS);
        let text = listing(desktop, copy(DType::Bf16, 1, 1));
        let [a, b, c, d] = ALWAYS;
        assert_eq!(capabilities(&text), [a, b, c, "StorageBuffer16BitAccess", "Int16", d]);
    }
    let text = listing(baseline(), |k| {
        let out = k.output("out", DType::F32);
        k.store(out, k.lane(), k.cluster(ReduceOp::Sum, k.lane().to_f32(), 128));
    });
    let [a, b, c, d] = ALWAYS;
    assert_eq!(capabilities(&text), [a, b, c, "GroupNonUniform", "GroupNonUniformShuffle", d]);
}

#[test]
fn an_access_is_as_wide_as_its_index_is_known_to_be_aligned() {
    // Bytes of each load and store of the kernel's own, after the three of what the launch passes.
    let widths = |dtype, width, scale| {
        let text = listing(baseline(), copy(dtype, width, scale));
        let aligned = text.lines().filter_map(|l| {
            let (_, rest) = l.split_once(" Aligned")?;
            rest.split_whitespace().last()?.parse::<u32>().ok()
        });
        aligned.skip(3).collect::<Vec<_>>()
    };
    assert_eq!(widths(DType::F32, 4, 4), [16, 16]);
    assert_eq!(widths(DType::F32, 8, 8), [16; 4]);
    assert_eq!(widths(DType::F32, 4, 2), [8; 4]);
    assert_eq!(widths(DType::F32, 2, 1), [4; 4]);
    assert_eq!(widths(DType::Bf16, 8, 8), [16, 16]);
    assert_eq!(widths(DType::Bf16, 8, 4), [8; 4]);
    assert_eq!(widths(DType::Bf16, 4, 2), [4; 4]);
}

#[test]
fn halves_of_words_are_written_by_atomics_only_where_they_must() {
    let atomics = |variant, width, scale| {
        listing(variant, copy(DType::Bf16, width, scale)).matches("OpAtomic").count()
    };
    assert_eq!(atomics(baseline(), 2, 2), 0);
    assert_eq!(atomics(baseline(), 2, 3), 4);
    assert_eq!(atomics(baseline(), 1, 2), 2);
    assert_eq!(atomics(desktop(), 1, 2), 0);
}

#[test]
fn what_is_a_number_of_bf16_is_not_rounded_again() {
    fn cut(v: Expr<'_>, mask: i32) -> Expr<'_> {
        let bits = v.unary(UnaryOp::FloatToBits).binary(BinaryOp::And, mask);
        bits.unary(UnaryOp::BitsToFloat)
    }
    // Rounding picks apart what is not a number.
    let roundings = |change: &dyn for<'k> Fn(Expr<'k>) -> Expr<'k>| {
        let text = listing(baseline(), |k| {
            let (from, to) = (k.input("from", DType::Bf16), k.output("to", DType::Bf16));
            let at = k.lane() * 8;
            let inside = at.lt(64);
            let zero = || [k.f(0.0).splat(8)];
            let [v] = k.choose(inside, || [k.load_vec(from, at, 8)], zero);
            k.store(to, at, change(v));
        });
        text.matches("= OpSelect ").count()
    };
    assert_eq!(roundings(&|v| v), 0);
    assert_eq!(roundings(&|v| cut(v * 3.0, !0xffff)), 0);
    assert_eq!(roundings(&|v| cut(v * 3.0, !0x7fff)), 2);
    assert_eq!(roundings(&|v| v * 3.0), 2);
    assert_eq!(roundings(&|v| v + v), 2);
}

#[test]
fn arithmetic_is_never_contracted() {
    let text = listing(baseline(), |k| {
        let (x, out) = (k.input("x", DType::F32), k.output("out", DType::F32));
        let v = k.load(x, k.lane());
        k.store(out, k.lane(), (v * v + 1.0) / v - v);
    });
    for op in ["OpFMul", "OpFAdd", "OpFDiv", "OpFSub"] {
        let line = text.lines().find(|l| l.contains(op)).expect(op);
        let id = line.split_whitespace().next().expect("an id");
        assert!(text.contains(&format!("OpDecorate {id} NoContraction")), "{line}");
    }
}

#[track_caller]
fn refused(kernel: &Kernel) -> String {
    Spirv::ALL.lower(baseline(), kernel).expect_err("it cannot be lowered").to_string()
}

#[test]
fn what_a_gpu_does_not_do_is_refused() {
    let kernel = written(desktop(), "fused", 128, |k| {
        let out = k.output("out", DType::F32);
        k.store(out, k.lane(), k.mul_add(k.lane().to_f32(), 2.0, 3.0));
    });
    assert_eq!(refused(&kernel), "`fused` for `baseline`: `fma`, but multiply-adds are not fused");

    let kernel = written(baseline(), "large", 128, |k| {
        let array = k.shared("array", DType::F32, 8192);
        k.store(array, k.lane(), k.cluster(ReduceOp::Sum, k.lane().to_f32(), 128));
    });
    assert_eq!(
        refused(&kernel),
        "`large` for `baseline`: needs 33792 bytes of shared memory, expected at most 32768"
    );

    assert_eq!(
        refused(&panels()),
        "`panels` for `baseline`: `panel_dot`, which is for kernels of a CPU"
    );
}

#[test]
fn profiles_share_out_all_variants() {
    let profiles = [Spirv::BASELINE, Spirv::DESKTOP, Spirv::DESKTOP_64];
    let of = |profile: &Spirv| profile.variants().iter().map(|v| v.name).collect::<Vec<_>>();
    assert_eq!(profiles.iter().flat_map(of).collect::<Vec<_>>(), of(&Spirv::ALL));
    for (profile, lanes) in profiles.iter().zip([32, 32, 64]) {
        assert!(profile.variants().iter().all(|v| v.caps.subgroup == lanes));
        // The plan is made for the first, and matrix units are what the others add.
        assert_eq!(profile.variants()[0].caps.mma, None);
    }
    let tomorrow = Variant { name: "tomorrow", ..*desktop() };
    let kernel = written(&tomorrow, "kernel", 128, copy(DType::F32, 1, 1));
    let refused = Spirv::ALL.lower(&tomorrow, &kernel).expect_err("nobody knows it");
    assert_eq!(refused.to_string(), "`kernel` for `tomorrow`: no such variant");
}

#[test]
fn the_same_kernel_gives_the_same_bytes() {
    for variant in Spirv::ALL.variants() {
        let [first, second] = [(); 2].map(|()| {
            let kernel = written(variant, "kernel", 128, copy(DType::Bf16, 8, 8));
            Spirv::ALL.lower(variant, &kernel).expect("a kernel")
        });
        assert_eq!(first, second);
        assert_eq!(Spirv::ALL.file(variant, "kernel", &first), first);
    }
}
