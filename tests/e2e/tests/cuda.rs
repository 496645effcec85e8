//! GPU code through CUDA's driver: on the stand-in for it, each test in a process of its own.

use q35_device::cuda::{Cuda, CudaError};
use q35_device::{Device, Usage};
use q35_e2e::hand::{self, WIDTH, alloc, flip, put, words};
use q35_e2e::libcuda::on_stand_in;

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
fn without_a_driver_that_is_said() {
    match Cuda::open(0).map(drop) {
        Err(error @ CudaError::Loader) => assert_eq!(
            error.to_string(),
            "CUDA cannot be used: cannot load `libcuda.so.1`, which comes with NVIDIA's driver"
        ),
        other => eprintln!("skipped: there is a driver here: {other:?}"),
    }
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
                    CUDA_ERROR_LAUNCH_FAILED, out-of-bounds: kernel `flip`, line 37";
        assert!(failed.starts_with(said) && failed.lines().count() == 1, "{failed}");
    });
}
