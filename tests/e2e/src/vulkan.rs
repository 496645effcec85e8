//! Whatever Vulkan driver is here.

use q35_device::vulkan::{Choice, Options, Vulkan};

/// The first Vulkan device; none, said aloud, where there is no driver and `Q35_REQUIRE` does not ask
/// for one.
pub fn device() -> Option<Box<Vulkan>> {
    open(Options::from_env().expect("a size, if any"))
}

/// As [`device`], opened with these options.
pub fn open(options: Options) -> Option<Box<Vulkan>> {
    match Vulkan::open(Choice::Index(0), options) {
        Ok(device) => Some(Box::new(device)),
        Err(why) => skip(&format!("no Vulkan device: {why}")),
    }
}

/// Say aloud that a test cannot be done here, unless it must be.
pub fn skip<T>(why: &str) -> Option<T> {
    let required = std::env::var("Q35_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|r| r == "vulkan"), "Vulkan is required: {why}");
    eprintln!("skipped: {why}");
    None
}
