//! Which devices there are, and which one to use.

use crate::cpu::{self, Cpu};
use crate::cuda::{self, Cuda};
use crate::ptx;
use crate::ptx_sim::{self, PtxSim};
use crate::vulkan::{self, Choice, Vulkan};
use crate::{Device, DeviceError, DeviceInfo};

/// Every device that an artifact could run on here, best first. Software that plays a GPU comes
/// last: it is there for tests.
pub fn devices() -> Vec<DeviceInfo> {
    // Without a driver there are none: naming one says why.
    let mut hardware = cuda::devices().unwrap_or_default();
    let gpus = vulkan::devices().unwrap_or_default();
    let (software, gpus): (Vec<_>, Vec<_>) = gpus.into_iter().partition(DeviceInfo::is_software);
    hardware.extend(gpus);
    let software = software.into_iter().chain([PtxSim::describe()]);
    hardware.into_iter().chain([Cpu::describe()]).chain(software).collect()
}

/// Open the device that `choice` names, or else the best for which there is code in an artifact
/// with these `targets`: a GPU, if it is hardware and has what kernels need, through CUDA before
/// Vulkan; or the CPU. `threads` is for the CPU and what it plays; without it, the system is asked.
///
/// # Errors
///
/// [`DeviceError::UnknownDevice`], [`DeviceError::NoCode`], and those of opening it.
pub fn open(
    choice: Option<&str>,
    targets: &[&str],
    threads: Option<usize>,
) -> Result<Box<dyn Device>, DeviceError> {
    let Some(name) = choice else {
        return best(targets, threads);
    };
    if name == cpu::NAME {
        expect_code(targets, cpu::NAME)?;
        return Ok(Box::new(Cpu::open(threads)?));
    }
    if name == ptx_sim::NAME {
        expect_code(targets, ptx::TARGET)?;
        return Ok(Box::new(PtxSim::open(threads)?));
    }
    if let Some(index) = cuda::named(name) {
        expect_code(targets, ptx::TARGET)?;
        return Ok(Box::new(Cuda::open(index)?));
    }
    match Choice::named(name) {
        Some(choice) => {
            expect_code(targets, vulkan::TARGET)?;
            open_vulkan(choice)
        }
        None => Err(DeviceError::UnknownDevice {
            name: name.into(),
            known: quoted(&devices().iter().map(|d| d.id.as_str()).collect::<Vec<_>>()),
        }),
    }
}

fn best(targets: &[&str], threads: Option<usize>) -> Result<Box<dyn Device>, DeviceError> {
    type Open<'a> = &'a dyn Fn() -> Result<Box<dyn Device>, DeviceError>;
    let through: [(&str, Open<'_>); 3] = [
        (ptx::TARGET, &|| Ok(Box::new(Cuda::open(0)?))),
        (vulkan::TARGET, &|| open_vulkan(Choice::Hardware)),
        (cpu::NAME, &|| Ok(Box::new(Cpu::open(threads)?))),
    ];
    let expected = || quoted(&[cpu::NAME, vulkan::TARGET, ptx::TARGET]);
    let none = || DeviceError::NoCode { found: quoted(targets), expected: expected() };
    let mut opened = Err(none());
    for (_, open) in through.iter().filter(|(target, _)| targets.contains(target)) {
        // Whatever is wrong with one, the next serves as well, if there is one.
        opened = open();
        if opened.is_ok() {
            break;
        }
    }
    opened
}

fn open_vulkan(choice: Choice) -> Result<Box<dyn Device>, DeviceError> {
    Ok(Box::new(Vulkan::open(choice, vulkan::Options::from_env()?)?))
}

fn expect_code(targets: &[&str], target: &str) -> Result<(), DeviceError> {
    match targets.contains(&target) {
        true => Ok(()),
        false => Err(DeviceError::NoCode { found: quoted(targets), expected: quoted(&[target]) }),
    }
}

/// Names of targets or devices.
fn quoted(names: &[&str]) -> String {
    match names {
        [] => "no device".into(),
        names => crate::error::quoted(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(choice: Option<&str>, targets: &[&str]) -> String {
        match open(choice, targets, Some(1)) {
            Ok(device) => panic!("{} was opened", device.info().id),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_cpu_is_opened_by_name_and_by_default() {
        for choice in [None, Some("cpu")] {
            let device = open(choice, &["tpu", "cpu"], Some(3)).unwrap();
            assert_eq!(device.info().units, 3);
        }
    }

    #[test]
    fn an_unknown_device_and_one_without_code_are_refused() {
        for name in
            ["tpu", "vulkan:", "vulkan:x", "vulkan:-1", "vulkan0", "Vulkan", "cuda:x", "cuda0"]
        {
            let refused = refusal(Some(name), &["cpu", "spirv"]);
            let said = format!("device `{name}` is not known, expected ");
            assert!(refused.starts_with(&said) && refused.contains("`cpu`"), "{refused}");
        }
        let found = "the artifact has code for `tpu`, expected code for";
        assert_eq!(refusal(Some("cpu"), &["tpu"]), format!("{found} `cpu`"));
        for (target, names) in
            [("spirv", ["vulkan", "vulkan:9"].as_slice()), ("ptx", &["cuda", "cuda:9", "ptx-sim"])]
        {
            for name in names {
                assert_eq!(refusal(Some(name), &["tpu"]), format!("{found} `{target}`"));
            }
        }
        assert_eq!(refusal(None, &["tpu"]), format!("{found} `cpu`, `spirv`, `ptx`"));
    }

    #[test]
    fn software_is_never_the_default() {
        let is_software = DeviceInfo::is_software;
        let chosen = open(None, &["cpu", "spirv", "ptx"], Some(1)).unwrap();
        assert!(!is_software(chosen.info()));
        for targets in [["spirv"], ["ptx"]] {
            if let Ok(device) = open(None, &targets, Some(1)) {
                assert!(!is_software(device.info()));
            }
        }
        let devices = devices();
        let cpu = devices.iter().position(|d| d.id == "cpu").unwrap();
        assert!(devices[..cpu].iter().all(|d| !is_software(d)));
        assert!(devices[cpu + 1..].iter().all(is_software));
        assert_eq!(devices.last().unwrap().id, "ptx-sim");
    }

    #[test]
    fn the_simulator_is_opened_by_name() {
        let device = open(Some("ptx-sim"), &["ptx"], Some(3)).unwrap();
        assert!(device.info().is_software());
        let told = device.info().to_string();
        assert!(told.starts_with("ptx-sim: ") && told.contains(", 3 threads"), "{told}");
    }

    #[test]
    fn a_number_of_threads_that_no_machine_has_is_refused() {
        for threads in [0, 100_000] {
            for (name, target) in [("cpu", "cpu"), ("ptx-sim", "ptx")] {
                let opened = open(Some(name), &[target], Some(threads));
                assert!(matches!(opened, Err(DeviceError::Threads { .. })), "{name} {threads}");
            }
        }
    }
}
