//! The list of targets: the one place that knows them all.

use crate::failure::Failure;
use q35_target::Target;

pub const TARGETS: &[&dyn Target] = &[&q35_target_cpu::Cpu, &q35_target_spirv::Spirv];

/// The targets of these names.
pub fn all(names: &[String]) -> Result<Vec<&'static dyn Target>, Failure> {
    for (n, name) in names.iter().enumerate() {
        if names[..n].contains(name) {
            return Err(Failure::new(format!(
                "`--target` names `{name}` twice, expected each once"
            )));
        }
    }
    names.iter().map(|name| find(name)).collect()
}

/// The target of that name.
fn find(name: &str) -> Result<&'static dyn Target, Failure> {
    let known = || TARGETS.iter().map(|t| format!("`{}`", t.name())).collect::<Vec<_>>().join(", ");
    TARGETS
        .iter()
        .copied()
        .find(|t| t.name() == name)
        .ok_or_else(|| Failure::new(format!("`--target` is `{name}`, expected one of {}", known())))
}
