//! GPU code through CUDA's driver: on the stand-in for it, in processes of their own.

use q35_device::cuda::Cuda;
use q35_device::{Device, KernelCode, Usage};
use q35_e2e::golden::{checkpoint, runs};
use q35_e2e::guarantees::{self, Prompt};
use q35_e2e::hand::{self, WIDTH, alloc, flip, put, words};
use q35_e2e::libcuda::{on_stand_in, stand_in};
use q35_e2e::program::{Outcome, outcome, q35};
use q35_e2e::run::{Build, assert_float32, assert_greedy};
use q35_e2e::scratch::Scratch;
use q35_runtime::{LoadOptions, Model};
use q35_target_ptx::Ptx;
use std::path::Path;
use std::process::Command;

fn open() -> Cuda {
    Cuda::open(0).expect("the stand-in has a device")
}

#[test]
fn hand_written_kernels_do_what_devices_promise() {
    on_stand_in("hand_written_kernels_do_what_devices_promise", "", || {
        for (what, check) in hand::CHECKS {
            eprintln!("{what}");
            check(&mut open());
        }
    });
}

#[test]
fn what_is_larger_than_a_copy_goes_through_in_parts() {
    on_stand_in("what_is_larger_than_a_copy_goes_through_in_parts", "", || {
        let mut device = open();
        device.copy_at_most(4096);
        let some: Vec<i32> = (0..5001).collect();
        let span = alloc(&mut device, some.len(), Usage::Resident);
        put(&mut device, span, &some);
        assert_eq!(words(&mut device, span), some);
    });
}

#[test]
fn a_device_is_listed_and_is_the_best() {
    on_stand_in("a_device_is_listed_and_is_the_best", "devices:2,capability:89", || {
        let devices = q35_device::devices();
        assert_eq!(
            devices[0].to_string(),
            "cuda:0: ptx-sim as a GPU, 4 compute units, 8.0 GiB (compute capability 8.9, driver of CUDA \
             13.0, 99 KiB shared memory, variant sm_89)"
        );
        assert_eq!(devices[1].id, "cuda:1");
        assert_eq!(open().variants(), ["sm_89", "sm_80"]);
        for targets in [&["ptx"][..], &["cpu", "spirv", "ptx"]] {
            let best = q35_device::open(None, targets, Some(1)).expect("a device");
            assert_eq!(best.info().id, "cuda:0");
        }
        let second = q35_device::open(Some("cuda:1"), &["ptx"], None).expect("a device");
        assert_eq!(second.info().id, "cuda:1");
        let refused = Cuda::open(9).map(drop).expect_err("there are two").to_string();
        assert_eq!(refused, "device `cuda:9` is not there, expected `cuda:0` to `cuda:1`");
    });
}

#[test]
fn all_memory_is_given_back() {
    on_stand_in("all_memory_is_given_back", "", || {
        let all = open().free_memory();
        for _ in 0..2 {
            let mut device = open();
            let [kernel, ..] = hand::load(&mut device);
            let span = alloc(&mut device, WIDTH, Usage::Resident);
            let other = alloc(&mut device, WIDTH, Usage::Resident);
            let entry = device.record(vec![flip(kernel, 1, span, other)]).expect("it fits");
            device.run(entry).expect("it runs");
            assert!(device.free_memory() < all);
        }
        assert_eq!(open().free_memory(), all);
    });
}

#[test]
fn out_of_memory_says_how_much_there_is() {
    on_stand_in("out_of_memory_says_how_much_there_is", "memory:1000000", || {
        let mut device = open();
        alloc(&mut device, 150_000, Usage::Resident);
        let refused = device.alloc(500_000, Usage::Resident).expect_err("it is too much");
        assert_eq!(
            refused.to_string(),
            "`cuda:0` (ptx-sim as a GPU) has no memory left: 500000 bytes were asked for, 400000 of \
             1000000 are free"
        );
        // What fits still does.
        alloc(&mut device, 100_000, Usage::Resident);
    });
}

#[test]
fn an_old_device_is_refused() {
    on_stand_in("an_old_device_is_refused", "capability:75", || {
        assert_eq!(
            Cuda::open(0).map(drop).expect_err("it is too old").to_string(),
            "`cuda:0` (ptx-sim as a GPU) has compute capability 7.5, expected at least 8.0"
        );
        assert_eq!(q35_device::devices()[0].id, "cuda:0", "it is listed all the same");
        let best = q35_device::open(None, &["cpu", "ptx"], Some(1)).expect("the processor serves");
        assert_eq!(best.info().id, "cpu");
    });
}

#[test]
fn code_for_a_newer_device_is_lacking_by_name() {
    on_stand_in("code_for_a_newer_device_is_lacking_by_name", "capability:86", || {
        let device = open();
        assert_eq!(
            device.lacks("sm_90").expect("it is older"),
            "compute capability 9.0 (it has 8.6)"
        );
        assert_eq!(device.lacks("sm_80"), None);
    });
}

#[test]
fn a_driver_without_a_device_is_called_so() {
    on_stand_in("a_driver_without_a_device_is_called_so", "devices:0", || {
        let refused = Cuda::open(0).map(drop).expect_err("there is none");
        assert_eq!(refused.to_string(), "CUDA has no device here");
    });
}

#[test]
fn an_old_driver_is_refused() {
    on_stand_in("an_old_driver_is_refused", "driver:11080", || {
        assert_eq!(
            Cuda::open(0).map(drop).expect_err("it is too old").to_string(),
            "CUDA cannot be used: the driver is of CUDA 11.8, expected at least 12.0"
        );
    });
}

#[test]
fn what_a_kernel_does_wrong_shows_when_somebody_waits() {
    on_stand_in("what_a_kernel_does_wrong_shows_when_somebody_waits", "", || {
        let mut device = open();
        let [kernel, ..] = hand::load(&mut device);
        let to = alloc(&mut device, 4 * WIDTH, Usage::Resident);
        let short = alloc(&mut device, 3 * WIDTH, Usage::Resident);
        let entry = device.record(vec![flip(kernel, 4, to, short)]).expect("nobody knows yet");
        device.run(entry).expect("nor now");
        let failed = device.read(to, &mut |_| panic!("it has failed")).expect_err("it has failed");
        let failed = failed.to_string();
        let said = "`cuStreamSynchronize` failed on `cuda:0` (ptx-sim as a GPU): \
                    CUDA_ERROR_LAUNCH_FAILED, out-of-bounds: kernel `flip`, line 39";
        assert!(failed.starts_with(said) && failed.lines().count() == 1, "{failed}");
    });
}

#[test]
fn shared_memory_beyond_the_device_is_refused() {
    on_stand_in("shared_memory_beyond_the_device_is_refused", "", || {
        let greedy = hand::kernel("wide", false, 300 << 10);
        let code = [KernelCode { kernel: &greedy, code: hand::WIDE.as_bytes() }];
        let refused = open().load("sm_80", &code).expect_err("it has less").to_string();
        let said = "the code of `wide` cannot be loaded: it needs 307200 bytes of shared memory, the \
                    device has 101376";
        assert_eq!(refused, said);
    });
}

fn model(name: &str, build: Build) -> Model {
    build.model_for(name, &Ptx::SM_80, Box::new(open()), LoadOptions::default())
}

#[test]
fn logits_and_greedy_tokens_are_those_of_transformers() {
    on_stand_in("logits_and_greedy_tokens_are_those_of_transformers", "", || {
        let mut model = model("tiny-moe", Build::FLOAT32);
        for golden in runs("tiny-moe") {
            let chunks = [(None, golden.tokens.len()), (Some(1), 6)];
            assert_float32(&mut model, &golden, &chunks, "cuda");
            assert_greedy(&mut model, &golden, "cuda");
        }
    });
}

#[test]
fn neighbours_in_the_batch_change_nothing() {
    on_stand_in("neighbours_in_the_batch_change_nothing", "", || {
        let mut model = model("tiny-moe", Build::DEFAULT);
        let golden = &runs("tiny-moe")[0];
        let tokens = &golden.tokens[..golden.tokens.len().min(40)];
        let prompt = Prompt { tokens, title: &golden.title() };
        guarantees::neighbours_change_nothing(&mut model, prompt, &[None]);
    });
}

/// A checkpoint of one file, without experts.
const DENSE: &str = "dense-text-f32";

/// A request for logits of two tokens, on this device with code for `target`.
struct Request {
    scratch: Scratch,
    device: &'static str,
}

impl Request {
    fn new(target: Ptx, device: &'static str) -> Self {
        let scratch = Scratch::new();
        let build = Build { max_batch: 2, max_chunk: 64, ..Build::DEFAULT };
        let artifact = build.artifact_for(DENSE, &target);
        artifact.write_file(&scratch.join("model.bin")).expect("there is room");
        Self { scratch, device }
    }

    fn command(&self) -> Command {
        let mut command = q35();
        command.arg("logits").arg(self.scratch.join("model.bin"));
        command.arg("--weights").arg(checkpoint(DENSE));
        command.args(["--tokens", "1,2", "--device", self.device]);
        command.arg("-o").arg(self.out());
        command
    }

    fn out(&self) -> std::path::PathBuf {
        self.scratch.join("logits.safetensors")
    }

    fn on_stand_in(&self, plays: &str) -> Outcome {
        outcome(stand_in(&mut self.command(), plays))
    }
}

#[test]
fn the_program_computes_the_same_through_the_driver_and_on_the_simulator() {
    let through = Request::new(Ptx::SM_80, "cuda");
    assert_eq!(through.on_stand_in("").text(), "");
    let simulated = Request { device: "ptx-sim", ..Request::new(Ptx::SM_80, "ptx-sim") };
    assert_eq!(outcome(&mut simulated.command()).text(), "");
    let read = |request: &Request| std::fs::read(request.out()).expect("it was written");
    assert_eq!(read(&through), read(&simulated));
}

#[test]
fn the_program_says_why_a_device_will_not_do() {
    let request = Request::new(Ptx::SM_90, "cuda");
    let plays = "capability:86";
    request.on_stand_in(plays).refused(&["`cuda:0` (ptx-sim as a GPU) lacks compute capability 9.0 \
                                          (it has 8.6), expected by the artifact's variant `sm_90`"]);
    request.on_stand_in("memory:100000").refused(&["has no memory left", "of 100000 are free"]);
    request.on_stand_in("devices:0").refused(&["CUDA has no device here"]);
    let ninth = Request { device: "cuda:9", ..request };
    let says = "device `cuda:9` is not there, expected `cuda:0` to `cuda:1`";
    ninth.on_stand_in("devices:2").refused(&[says]);
}

/// A driver that is none hides the system's.
fn without_driver<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::write(folder.join(name), "").expect("there is room");
    }
    command.env("LD_LIBRARY_PATH", folder)
}

#[test]
fn without_a_driver_the_program_starts_and_says_so() {
    let request = Request::new(Ptx::SM_80, "cuda");
    let mut command = request.command();
    outcome(without_driver(&mut command, request.scratch.path())).refused(&[
        "CUDA cannot be used: cannot load `libcuda.so.1`, which comes with NVIDIA's driver",
    ]);
    let mut command = q35();
    command.arg("devices");
    let text = outcome(without_driver(&mut command, request.scratch.path())).text();
    assert!(!text.contains("cuda:"), "{text}");
    let last = text.rsplit("ptx-sim: ").next().expect("it is there");
    let variants = "code: target ptx, variants sm_80, sm_89, sm_90, sm_100, sm_120";
    assert!(last.contains(variants), "{text}");
}
