//! Generated code as golden files, and every stage's text read back.

use q35_core::{Config, Limits, Options, Request};
use q35_e2e::files::Files;
use q35_e2e::golden::checkpoint;
use q35_target::Target;
use q35_target_cpu::Cpu;
use q35_target_ptx::Ptx;
use q35_target_spirv::Spirv;
use q35_types::DType;

fn with_request<R>(name: &str, activations: DType, run: impl FnOnce(&Request<'_>) -> R) -> R {
    let text = std::fs::read_to_string(checkpoint(name).join("config.json")).expect("a config");
    let config = Config::parse(&text).expect("a config of the family").config;
    run(&Request {
        text: &text,
        config: &config,
        options: Options { activations, kv: DType::Bf16 },
        limits: Limits { max_context: 4096, max_batch: 8, max_chunk: 512 },
        targets: &[&Cpu],
    })
}

#[test]
fn kernels_and_their_code_are_golden() {
    // One of each instruction set; the others differ from them in few instructions.
    let shown: [(&dyn Target, &[&str], DType, &str); 3] = [
        (&Cpu, &["avx2", "aarch64"], DType::F32, "txt"),
        (&Spirv::BASELINE, &["baseline"], DType::F32, "txt"),
        // A listing is PTX, with the kernel as a comment.
        (&Ptx::SM_80, &["sm_80"], DType::Bf16, "ptx"),
    ];
    for (target, names, activations, extension) in shown {
        with_request("tiny-moe", activations, |request| {
            for variant in target.variants().iter().filter(|v| names.contains(&v.name)) {
                let mut files = Files::open(&format!("code/{}.{variant}", target.name()));
                for kernel in q35_core::link::kernels(request, variant) {
                    let listing = target.listing(variant, &kernel).expect("a kernel lowers");
                    files.check(&format!("{}.{extension}", kernel.name), &listing);
                }
                files.finish();
            }
        });
    }
}

#[test]
fn kernels_read_back_as_they_were_printed() {
    for name in ["tiny-moe", "dense-tied-odd"] {
        with_request(name, DType::F32, |request| {
            for variant in
                Cpu.variants().iter().chain(Spirv::ALL.variants()).chain(Ptx::SM_80.variants())
            {
                for kernel in q35_core::link::kernels(request, variant) {
                    let text = kernel.to_string();
                    let read: q35_kernel::Kernel = text.parse().expect("a kernel's own text");
                    assert_eq!(read.to_string(), text);
                }
            }
        });
    }
}

#[test]
fn graphs_read_back_as_they_were_printed() {
    with_request("tiny-moe", DType::F32, |request| {
        let artifact = q35_core::compile(request).expect("compiles");
        for (entry, text) in &artifact.graphs {
            let read = q35_graph::text::program(entry, text).expect("a program's own text");
            assert_eq!(&read.to_string(), text, "{entry}");
        }
    });
}

#[test]
fn every_stage_can_be_shown() {
    with_request("dense-tied-odd", DType::F32, |request| {
        for stage in q35_core::stages() {
            let text = q35_core::emit(request, stage).expect("a stage");
            assert!(text.lines().count() > 10, "`{stage}` is empty");
        }
    });
}
