//! Which variant of an artifact's CPU code to run: decided here, by what this machine can do,
//! never where the artifact was made.

/// The environment variable that chooses a variant.
pub const ENV: &str = "Q35_CPU";

/// Names of the variants that this architecture has, most portable first, and whether this very
/// machine runs them.
fn variants() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    {
        // All that the compiler assumes of `avx2`. The micro-kernels of `native` also convert f16.
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        vec![("sse2", true), ("avx2", avx2), ("native", avx2 && is_x86_feature_detected!("f16c"))]
    }
    #[cfg(target_arch = "aarch64")]
    {
        vec![("aarch64", true)]
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        vec![]
    }
}

/// The variant that `Q35_CPU` names, or else the fastest that this machine runs.
pub fn choose() -> Result<&'static str, VariantError> {
    match std::env::var_os(ENV) {
        Some(value) => named(&value.to_string_lossy()),
        None => variants()
            .iter()
            .rev()
            .find(|v| v.1)
            .map(|v| v.0)
            .ok_or(VariantError::Architecture { found: std::env::consts::ARCH }),
    }
}

/// The variant of that name.
pub fn named(name: &str) -> Result<&'static str, VariantError> {
    let variants = variants();
    match variants.iter().find(|v| v.0 == name) {
        Some((name, true)) => Ok(name),
        Some((name, false)) => Err(VariantError::Unsupported { name }),
        None => Err(VariantError::Unknown {
            found: name.into(),
            choices: variants.iter().map(|v| format!("`{}`", v.0)).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// Why there is no variant to run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariantError {
    #[error("`{ENV}` is `{found}`, expected one of {choices}")]
    Unknown { found: String, choices: String },
    #[error("`{ENV}` is `{name}`, but this processor lacks AVX2, FMA or F16C; expected `sse2`")]
    Unsupported { name: &'static str },
    #[error("no CPU code for `{found}`, expected `x86_64` or `aarch64`")]
    Architecture { found: &'static str },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_runs_the_most_portable_one() {
        let first = variants()[0].0;
        assert_eq!(named(first), Ok(first));
    }

    #[test]
    fn an_unknown_name_lists_the_choices() {
        let message = named("avx9000").expect_err("no such variant").to_string();
        assert!(message.starts_with("`Q35_CPU` is `avx9000`, expected one of `"), "{message}");
        assert!(variants().iter().all(|v| message.contains(v.0)), "{message}");
    }
}
