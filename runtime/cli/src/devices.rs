//! `q35 devices`

use crate::failure::Failure;
use crate::units;
use q35_device::{Device, DeviceError, DeviceInfo};
use std::io::Write;

/// List what models can run on, best first
#[derive(clap::Args)]
pub struct Devices {}

pub fn run(_: &Devices, _: u8) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for info in q35_device::devices() {
        let opened = q35_device::open(Some(&info.id), &[info.target], None);
        out.write_all(described(&info, opened).as_bytes()).map_err(Failure::stdout)?;
    }
    out.flush().map_err(Failure::stdout)
}

/// A line of what it is, and a line each of what it runs and of how much fits.
fn described(info: &DeviceInfo, opened: Result<Box<dyn Device>, DeviceError>) -> String {
    let device = match opened {
        Ok(device) => device,
        Err(error) => return format!("{info}\n  cannot be used: {error}\n"),
    };
    let variants = device.variants().join(", ");
    let mut text = format!("{info}\n  code: target {}, variants {variants}\n", info.target);
    let mut memory = Vec::new();
    if let Some(total) = info.memory {
        memory.push(units::bytes(total));
    }
    if let Some(free) = device.free_memory() {
        memory.push(format!("{} free", units::bytes(free)));
    }
    let most = device.limits().max_buffer;
    // A limit beyond all memory is none.
    if info.memory.is_none_or(|total| most < total) {
        memory.push(format!("at most {} in one buffer", units::bytes(most)));
    }
    if !memory.is_empty() {
        text += &format!("  memory: {}\n", memory.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_listed_with_its_limits_or_why_it_has_none() {
        let info = q35_device::devices().into_iter().find(|d| d.id == "cpu").expect("a CPU");
        let text = described(&info, q35_device::open(Some("cpu"), &["cpu"], Some(1)));
        assert!(text.starts_with("cpu: "), "{text}");
        assert!(text.contains("\n  code: target cpu, variants "), "{text}");
        let broken = DeviceError::Threads { found: 0, most: 1 };
        let text = described(&info, Err(broken));
        assert!(text.ends_with("\n  cannot be used: 0 threads were asked for, expected 1 to 1\n"));
    }
}
