//! The fuzz targets, for longer than an ordinary test run gives them.

use crate::{cargo, done};

/// Each target for so many seconds, as many at once as there are cores.
///
/// # Errors
///
/// An input broke a claim; it is then in `target/fuzz`.
pub fn run(seconds: u32) -> Result<(), String> {
    let mut cargo = cargo(&["test", "--package", "q35-fuzz", "--test", "total", "--no-fail-fast"]);
    cargo.env("BOLERO_RANDOM_TEST_TIME_MS", (u64::from(seconds) * 1000).to_string());
    done(cargo)
}
