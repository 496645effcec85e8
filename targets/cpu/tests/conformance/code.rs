//! What is emitted: refusals, reproducibility, and files that other tools read.

use q35_kernel::{BinaryOp, Kernel, KernelBuilder, Machine, PanelArgs};
use q35_target::{Target, Variant};
use q35_target_cpu::Cpu;
use q35_types::DType;

fn variant(name: &str) -> &'static Variant {
    Cpu.variants().iter().find(|v| v.name == name).expect("a variant")
}

fn kernel(lanes: u32, fma: bool, panel_dot: bool, write: impl Fn(&KernelBuilder)) -> Kernel {
    let k = KernelBuilder::new("sample", Machine { lanes, subgroup: 1, fma, panel_dot });
    write(&k);
    k.finish()
}

/// Uses most of the language.
fn sample(variant: &Variant) -> Kernel {
    kernel(1, variant.caps.fma, variant.caps.panel_dot, |k| {
        let (x, w, out) =
            (k.input("x", DType::F32), k.input("w", DType::Bf16), k.output("out", DType::F16));
        let sums = k.shared("sums", DType::F32, 32);
        k.panel_dot(PanelArgs {
            x: k.at(x, k.task() * 64),
            x_row: k.i(0),
            x_k: k.i(1),
            w: k.at(w, 0),
            w_panel: k.i(1024),
            out: k.at(sums, 0),
            out_row: k.i(0),
            rows: k.i(1),
            panels: k.i(2),
            k: k.i(64),
            accumulate: false,
        });
        k.range(0, 32, 8, |i| {
            let v = k.load_vec(sums, i, 8).silu();
            k.when((i / 3).ne(1), || k.store(out, i, v));
        });
    })
}

fn why(variant_name: &str, kernel: &Kernel) -> String {
    Cpu.lower(variant(variant_name), kernel).expect_err("a refusal").to_string()
}

#[test]
fn what_a_machine_lacks_is_refused_by_name() {
    let fused = kernel(1, true, false, |k| {
        let out = k.output("out", DType::F32);
        k.store(out, 0, k.mul_add(k.f(2.0), k.f(3.0), k.f(4.0)));
    });
    assert_eq!(why("sse2", &fused), "`sample` for `sse2`: `fma`, but the machine has none");
    assert_eq!(
        why("avx2", &sample(variant("native"))),
        "`sample` for `avx2`: `panel_dot`, but there is no micro-kernel"
    );
    let group = kernel(32, true, false, |_| {});
    assert_eq!(why("avx2", &group), "`sample` for `avx2`: has 32 lanes, expected 1");
    let tile = kernel(1, true, false, |k| k.mma_zero(k.accumulator("acc", 16, 8)));
    assert_eq!(why("native", &tile), "`sample` for `native`: `mma`, but there are no matrix units");
    let divided = kernel(1, true, false, |k| {
        let n = k.state("n", DType::I32);
        k.store(n, 0, k.load(n, 0).binary(BinaryOp::Div, k.load(n, 1)));
    });
    assert_eq!(
        why("avx2", &divided),
        "`sample` for `avx2`: a divisor that is no positive constant"
    );
}

#[test]
fn code_is_the_same_every_time() {
    for variant in Cpu.variants() {
        let kernel = sample(variant);
        let code = Cpu.lower(variant, &kernel).expect("code");
        assert_eq!(code, Cpu.lower(variant, &kernel).expect("code"), "{variant}");
    }
}

#[test]
fn avx2_and_native_differ_only_where_there_is_a_micro_kernel() {
    let plain = kernel(1, true, false, |k| {
        let out = k.output("out", DType::F32);
        k.store(out, k.task(), k.task().to_f32().exp());
    });
    let [avx2, native] =
        ["avx2", "native"].map(|name| Cpu.lower(variant(name), &plain).expect("code"));
    assert_eq!(avx2, native);
}

#[test]
fn object_files_hold_the_code_under_the_name_of_the_kernel() {
    for variant in Cpu.variants() {
        let code = Cpu.lower(variant, &sample(variant)).expect("code");
        let file = Cpu.file(variant, "sample", &code);
        assert_eq!(file[..7], *b"\x7fELF\x02\x01\x01", "64 bits, little-endian, version 1");
        let machine = if variant.name == "aarch64" { 183 } else { 62 };
        assert_eq!(half_word(&file, 16), 1, "relocatable");
        assert_eq!(half_word(&file, 18), machine);
        let sections: Vec<&[u8]> = (0..half_word(&file, 60))
            .map(|i| {
                let header = word(&file, 40) as usize + 64 * usize::from(i);
                let (offset, size) =
                    (word(&file, header + 24) as usize, word(&file, header + 32) as usize);
                &file[offset..offset + size]
            })
            .collect();
        assert_eq!(sections[1], code);
        let [symbols, strings] = [sections[2], sections[3]];
        assert_eq!((symbols.len(), half_word(symbols, 30)), (48, 1), "one symbol, in section 1");
        assert_eq!(word(symbols, 40), code.len() as u64);
        assert_eq!(strings, b"\0sample\0");
        assert_eq!(sections[4], b"\0.text\0.symtab\0.strtab\0.shstrtab\0");
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn half_word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

#[test]
fn a_listing_is_the_kernel_and_then_its_instructions() {
    for variant in Cpu.variants() {
        let kernel = sample(variant);
        let listing = Cpu.listing(variant, &kernel).expect("a listing");
        let code = listing.strip_prefix(&kernel.to_string()).expect("the kernel first");
        let instruction = match variant.name {
            "sse2" => "punpcklwd",
            "avx2" => "vfmadd213ps",
            "native" => "call",
            _ => "fmla",
        };
        assert!(code.contains(instruction), "{variant} has `{instruction}`:\n{code}");
    }
}

/// The baseline has nothing newer than SSE2: no VEX or EVEX prefix, which all of AVX has.
#[test]
fn the_baseline_listing_has_no_avx() {
    let listing = Cpu.listing(variant("sse2"), &sample(variant("sse2"))).expect("a listing");
    let newer = listing
        .split_whitespace()
        .find(|w| w.starts_with("vp") || w.starts_with("vf") || w.starts_with("vmov"));
    assert_eq!(newer, None);
}
