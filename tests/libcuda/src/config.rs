//! What is played: `Q35_LIBCUDA`, a list of `name:value`.

use std::fmt::Display;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    pub devices: u32,
    /// 90 is compute capability 9.0.
    pub capability: u32,
    /// Bytes of each device.
    pub memory: u64,
    /// 12040 is CUDA 12.4.
    pub driver: u32,
}

const DEFAULT: Config = Config { devices: 1, capability: 90, memory: 8 << 30, driver: 13_000 };

impl Config {
    /// What the environment says, or why that cannot be.
    pub fn from_env() -> Result<Self, String> {
        Self::parse(&std::env::var("Q35_LIBCUDA").unwrap_or_default())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut config = DEFAULT;
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once(':').ok_or(format!("`{part}` has no value"))?;
            let number: u64 = value.parse().map_err(|why| wrong(part, why))?;
            let small = || u32::try_from(number).map_err(|why| wrong(part, why));
            match name {
                "devices" => config.devices = small()?,
                "capability" => config.capability = small()?,
                "memory" => config.memory = number,
                "driver" => config.driver = small()?,
                _ => return Err(format!("`{name}` is not known")),
            }
        }
        Ok(config)
    }
}

fn wrong(part: &str, why: impl Display) -> String {
    format!("`{part}`: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_usual_and_what_is_not_known_is_refused() {
        assert_eq!(Config::parse("").unwrap(), DEFAULT);
        assert_eq!(
            Config::parse("capability:86,devices:2,memory:77,driver:11080").unwrap(),
            Config { devices: 2, capability: 86, memory: 77, driver: 11_080 }
        );
        for text in ["capability", "capability:8.6", "devices:-1", "colour:1", "devices:9999999999"]
        {
            assert!(Config::parse(text).is_err(), "{text}");
        }
    }
}
