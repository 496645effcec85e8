//! What is known about a device before it is opened: plain data, and what follows from it.
//!
//! The driver is asked once, in [`driver`](super::driver). Whether a device will do and which code
//! it runs is decided here, where it can be tested without one.

use super::{CudaError, NAME};
use crate::DeviceInfo;
use crate::ptx::{ARCHITECTURES, TARGET};

/// What a driver says about one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub index: usize,
    pub name: String,
    /// 90 is 9.0.
    pub capability: u32,
    pub units: u32,
    pub memory: u64,
    /// Bytes of shared memory that a block may have if its launch asks for them.
    pub shared_memory: u32,
    /// The newest CUDA that the driver knows: 12040 is 12.4.
    pub driver: u32,
}

impl Facts {
    /// As in `--device`.
    pub fn id(&self) -> String {
        format!("{NAME}:{}", self.index)
    }

    /// For messages.
    pub fn named(&self) -> String {
        format!("`{}` ({})", self.id(), self.name)
    }

    /// Whether there is any code for it.
    pub fn check(&self) -> Result<(), CudaError> {
        let expected = ARCHITECTURES[0].capability;
        match self.capability >= expected {
            true => Ok(()),
            false => Err(CudaError::Capability {
                device: self.named(),
                found: dotted(self.capability),
                expected: dotted(expected),
            }),
        }
    }

    /// The variants that it runs, best first: code for its own architecture and for older ones.
    pub fn variants(&self) -> Vec<&'static str> {
        let runs = ARCHITECTURES.iter().rev().filter(|a| a.capability <= self.capability);
        runs.map(|a| a.variant).collect()
    }

    /// Whether it runs machine code for the architecture of a variant: that is good for the same major
    /// number and the same or later minor ones.
    pub fn runs_machine_code(&self, variant: &str) -> bool {
        let made_for = ARCHITECTURES.iter().find(|a| a.variant == variant);
        made_for.is_some_and(|a| {
            a.capability / 10 == self.capability / 10 && a.capability <= self.capability
        })
    }

    /// What keeps it from running a variant.
    pub fn lacks(&self, variant: &str) -> Option<String> {
        let wanted = ARCHITECTURES.iter().find(|a| a.variant == variant)?.capability;
        let (has, wants) = (dotted(self.capability), dotted(wanted));
        (wanted > self.capability).then(|| format!("compute capability {wants} (it has {has})"))
    }

    pub fn info(&self) -> DeviceInfo {
        let mut features = vec![
            format!("compute capability {}", dotted(self.capability)),
            format!("driver of CUDA {}", version(self.driver)),
            format!("{} KiB shared memory", self.shared_memory >> 10),
        ];
        features.extend(self.variants().first().map(|name| format!("variant {name}")));
        DeviceInfo {
            id: self.id(),
            target: TARGET,
            name: self.name.clone(),
            units: self.units as usize,
            features,
            memory: Some(self.memory),
        }
    }
}

/// 9.0 for 90.
fn dotted(capability: u32) -> String {
    format!("{}.{}", capability / 10, capability % 10)
}

/// 12.4 for 12040.
pub fn version(driver: u32) -> String {
    format!("{}.{}", driver / 1000, driver % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(capability: u32) -> Facts {
        Facts {
            index: 1,
            name: "NVIDIA Big".into(),
            capability,
            units: 132,
            memory: 80 << 30,
            shared_memory: 227 << 10,
            driver: 12040,
        }
    }

    #[test]
    fn a_device_runs_code_for_itself_and_for_older_ones_newest_first() {
        assert_eq!(gpu(80).variants(), ["sm_80"]);
        assert_eq!(gpu(86).variants(), ["sm_80"]);
        assert_eq!(gpu(89).variants(), ["sm_89", "sm_80"]);
        assert_eq!(gpu(90).variants(), ["sm_90", "sm_89", "sm_80"]);
        assert_eq!(gpu(103).variants(), ["sm_100", "sm_90", "sm_89", "sm_80"]);
        assert_eq!(gpu(121).variants()[..2], ["sm_120", "sm_100"]);
    }

    #[test]
    fn machine_code_is_for_one_major_number_from_its_minor_one_on() {
        let runs = |capability: u32, variant| gpu(capability).runs_machine_code(variant);
        assert!(runs(80, "sm_80") && runs(86, "sm_80") && runs(89, "sm_89") && runs(103, "sm_100"));
        assert!(!runs(80, "sm_89") && !runs(90, "sm_80") && !runs(120, "sm_100"));
        assert!(!runs(90, "tomorrow"));
    }

    #[test]
    fn what_a_device_lacks_is_said_with_what_it_has() {
        assert_eq!(gpu(86).lacks("sm_90").unwrap(), "compute capability 9.0 (it has 8.6)");
        assert_eq!(gpu(100).lacks("sm_120").unwrap(), "compute capability 12.0 (it has 10.0)");
        assert_eq!((gpu(86).lacks("sm_80"), gpu(86).lacks("tomorrow")), (None, None));
    }

    #[test]
    fn a_device_older_than_all_code_is_refused() {
        gpu(80).check().unwrap();
        assert_eq!(
            gpu(75).check().unwrap_err().to_string(),
            "`cuda:1` (NVIDIA Big) has compute capability 7.5, expected at least 8.0"
        );
    }

    #[test]
    fn people_are_told_what_matters() {
        assert_eq!(
            gpu(90).info().to_string(),
            "cuda:1: NVIDIA Big, 132 compute units, 80.0 GiB (compute capability 9.0, driver of CUDA \
             12.4, 227 KiB shared memory, variant sm_90)"
        );
        assert_eq!(gpu(75).info().features.len(), 3, "no code runs on it");
    }
}
