//! Whatever Vulkan driver is here.

use q35_device::vulkan::{Choice, Options, Vulkan};

/// The first Vulkan device; none, said aloud, where there is no driver and `Q35_REQUIRE` does not ask
/// for one.
pub fn device() -> Option<Box<Vulkan>> {
    match Options::from_env().and_then(|options| Vulkan::open(Choice::Index(0), options)) {
        Ok(device) => Some(Box::new(device)),
        Err(why) => {
            let required = std::env::var("Q35_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|r| r == "vulkan"), "Vulkan is required: {why}");
            eprintln!("skipped: no Vulkan device: {why}");
            None
        }
    }
}
