//! Which devices there are, and which one to use.

use crate::cpu::{self, Cpu};
use crate::vulkan::{self, Choice, Vulkan};
use crate::{Device, DeviceError, DeviceInfo};

/// Every device that an artifact could run on here, best first. Software that plays a GPU comes
/// last: it is there for tests.
pub fn devices() -> Vec<DeviceInfo> {
    // Without a loader there are none: naming one says why.
    let gpus = vulkan::devices().unwrap_or_default();
    let (software, hardware): (Vec<_>, Vec<_>) = gpus.into_iter().partition(vulkan::is_software);
    hardware.into_iter().chain([Cpu::describe()]).chain(software).collect()
}

/// Open the device that `choice` names, or else the best for which there is code in an artifact
/// with these `targets`: a GPU, if it is hardware and has what kernels need, or the CPU.
/// `threads` is for the CPU; without it, the system is asked.
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
    let has = |target| targets.contains(&target);
    if has(vulkan::TARGET) {
        let opened = open_vulkan(Choice::Hardware);
        // Whatever is wrong with it, the CPU serves as well, if it can.
        if opened.is_ok() || !has(cpu::NAME) {
            return opened;
        }
    }
    if has(cpu::NAME) {
        return Ok(Box::new(Cpu::open(threads)?));
    }
    let expected = quoted(&[cpu::NAME, vulkan::TARGET]);
    Err(DeviceError::NoCode { found: quoted(targets), expected })
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

/// `a`, `b`
fn quoted(names: &[&str]) -> String {
    match names {
        [] => "no device".into(),
        names => names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", "),
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
            let device = open(choice, &["ptx", "cpu"], Some(3)).unwrap();
            assert_eq!(device.info().units, 3);
        }
    }

    #[test]
    fn an_unknown_device_and_one_without_code_are_refused() {
        for name in ["tpu", "vulkan:", "vulkan:x", "vulkan:-1", "vulkan0", "Vulkan"] {
            let refused = refusal(Some(name), &["cpu", "spirv"]);
            let said = format!("device `{name}` is not known, expected ");
            assert!(refused.starts_with(&said) && refused.contains("`cpu`"), "{refused}");
        }
        let found = "the artifact has code for `ptx`, expected code for";
        assert_eq!(refusal(Some("cpu"), &["ptx"]), format!("{found} `cpu`"));
        assert_eq!(refusal(Some("vulkan"), &["ptx"]), format!("{found} `spirv`"));
        assert_eq!(refusal(Some("vulkan:9"), &["ptx"]), format!("{found} `spirv`"));
        assert_eq!(refusal(None, &["ptx"]), format!("{found} `cpu`, `spirv`"));
    }

    #[test]
    fn software_is_never_the_default() {
        let chosen = open(None, &["cpu", "spirv"], Some(1)).unwrap();
        assert!(!vulkan::is_software(chosen.info()));
        if let Ok(device) = open(None, &["spirv"], Some(1)) {
            assert!(!vulkan::is_software(device.info()));
        }
        let devices = devices();
        let cpu = devices.iter().position(|d| d.id == "cpu").unwrap();
        assert!(devices[..cpu].iter().all(|d| !vulkan::is_software(d)));
        assert!(devices[cpu + 1..].iter().all(vulkan::is_software));
    }

    #[test]
    fn a_number_of_threads_that_no_machine_has_is_refused() {
        for threads in [0, 100_000] {
            let opened = open(None, &["cpu"], Some(threads));
            assert!(matches!(opened, Err(DeviceError::Threads { .. })), "{threads}");
        }
    }
}
