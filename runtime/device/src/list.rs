//! Which devices there are, and which one to use.

use crate::cpu::{self, Cpu};
use crate::{Device, DeviceError, DeviceInfo};

/// Every device that an artifact could run on here, best first.
pub fn devices() -> Vec<DeviceInfo> {
    vec![Cpu::describe()]
}

/// Open the device that `choice` names, or else the best for which there is code in an artifact
/// with these `targets`. `threads` is for the CPU; without it, the system is asked.
///
/// # Errors
///
/// [`DeviceError::UnknownDevice`], [`DeviceError::NoCode`], and those of opening it.
pub fn open(
    choice: Option<&str>,
    targets: &[&str],
    threads: Option<usize>,
) -> Result<Box<dyn Device>, DeviceError> {
    match choice {
        None | Some(cpu::NAME) if targets.contains(&cpu::NAME) => Ok(Box::new(Cpu::open(threads)?)),
        None | Some(cpu::NAME) => Err(DeviceError::NoCode {
            found: quoted(targets),
            expected: quoted(&[cpu::NAME]),
        }),
        Some(other) => Err(DeviceError::UnknownDevice {
            name: other.into(),
            known: quoted(&devices().iter().map(|d| d.id.as_str()).collect::<Vec<_>>()),
        }),
    }
}

/// `a`, `b`
fn quoted(names: &[&str]) -> String {
    match names {
        [] => "no device".into(),
        names => names
            .iter()
            .map(|n| format!("`{n}`"))
            .collect::<Vec<_>>()
            .join(", "),
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
            assert_eq!(
                open(choice, &["ptx", "cpu"], Some(3)).unwrap().info().units,
                3
            );
        }
    }

    #[test]
    fn an_unknown_device_and_one_without_code_are_refused() {
        assert_eq!(
            refusal(Some("tpu"), &["cpu"]),
            "device `tpu` is not known, expected `cpu`"
        );
        let without = "the artifact has code for `ptx`, expected code for `cpu`";
        assert_eq!(refusal(Some("cpu"), &["ptx"]), without);
        assert_eq!(refusal(None, &["ptx"]), without);
    }

    #[test]
    fn a_number_of_threads_that_no_machine_has_is_refused() {
        for threads in [0, 100_000] {
            let opened = open(None, &["cpu"], Some(threads));
            assert!(
                matches!(opened, Err(DeviceError::Threads { .. })),
                "{threads}"
            );
        }
    }
}
