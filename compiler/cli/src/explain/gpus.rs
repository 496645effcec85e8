//! GPUs that steps are predicted for: numbers of the vendor's public documents.
//!
//! Rates are without sparsity, at the clocks that the document states; of consumer GPUs, matrix units
//! with sums in float32 run at half the rate, and that is the one here.

/// A GPU, by what its vendor says of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpu {
    pub name: &'static str,
    /// 90 is compute capability 9.0.
    pub capability: u32,
    /// Multiprocessors.
    pub sms: u32,
    /// Bytes per second of device memory.
    pub bandwidth: f64,
    /// Operations per second of matrix units, bf16 with sums in float32.
    pub matrix_flops: f64,
    /// Operations per second in float32 without matrix units.
    pub flops: f64,
    /// Where the numbers are from.
    pub source: &'static str,
}

const GB: f64 = 1e9;
const TERA: f64 = 1e12;

pub const GPUS: [Gpu; 7] = [
    Gpu {
        name: "A100",
        capability: 80,
        sms: 108,
        bandwidth: 2039.0 * GB,
        matrix_flops: 312.0 * TERA,
        flops: 19.5 * TERA,
        source: "NVIDIA A100 data sheet, 80GB SXM",
    },
    Gpu {
        name: "L40S",
        capability: 89,
        sms: 142,
        bandwidth: 864.0 * GB,
        matrix_flops: 362.0 * TERA,
        flops: 91.6 * TERA,
        source: "NVIDIA L40S data sheet",
    },
    Gpu {
        name: "H100",
        capability: 90,
        sms: 132,
        bandwidth: 3350.0 * GB,
        matrix_flops: 989.0 * TERA,
        flops: 67.0 * TERA,
        source: "NVIDIA H100 data sheet, SXM",
    },
    Gpu {
        name: "H200",
        capability: 90,
        sms: 132,
        bandwidth: 4800.0 * GB,
        matrix_flops: 989.0 * TERA,
        flops: 67.0 * TERA,
        source: "NVIDIA H200 data sheet, SXM",
    },
    Gpu {
        name: "B200",
        capability: 100,
        sms: 148,
        bandwidth: 8000.0 * GB,
        matrix_flops: 2250.0 * TERA,
        flops: 75.0 * TERA,
        source: "NVIDIA DGX and HGX B200 data sheets, an eighth",
    },
    Gpu {
        name: "RTX 4090",
        capability: 89,
        sms: 128,
        bandwidth: 1008.0 * GB,
        matrix_flops: 165.2 * TERA,
        flops: 82.6 * TERA,
        source: "NVIDIA Ada GPU architecture white paper, appendix A",
    },
    Gpu {
        name: "RTX 5090",
        capability: 120,
        sms: 170,
        bandwidth: 1792.0 * GB,
        matrix_flops: 209.5 * TERA,
        flops: 104.8 * TERA,
        source: "NVIDIA RTX Blackwell GPU architecture white paper, appendix A",
    },
];

impl Gpu {
    /// `RTX 4090` is also `rtx4090` and `RTX-4090`.
    pub fn named(name: &str) -> Option<Gpu> {
        let plain = |name: &str| -> String {
            let letters = name.chars().filter(|c| !" -_".contains(*c));
            letters.map(|c| c.to_ascii_lowercase()).collect()
        };
        GPUS.into_iter().find(|gpu| plain(gpu.name) == plain(name))
    }
}

/// 90 of `sm_90`.
pub fn capability(variant: &str) -> Option<u32> {
    variant.strip_prefix("sm_")?.parse().ok()
}

/// 9.0 of 90.
pub fn dotted(capability: u32) -> String {
    format!("{}.{}", capability / 10, capability % 10)
}

#[cfg(test)]
mod tests {
    use super::super::occupancy::Sm;
    use super::*;

    #[test]
    fn a_gpu_is_named_in_several_spellings() {
        for name in ["RTX 4090", "rtx4090", "RTX-4090", "Rtx_4090"] {
            assert_eq!(Gpu::named(name).map(|gpu| gpu.name), Some("RTX 4090"), "{name}");
        }
        assert_eq!(Gpu::named("h100").map(|gpu| gpu.capability), Some(90));
        for name in ["", "4090", "H1000", "H100 PCIe"] {
            assert_eq!(Gpu::named(name), None, "{name}");
        }
    }

    #[test]
    fn every_gpu_has_an_architecture_whose_limits_are_known() {
        for gpu in GPUS {
            assert!(Sm::of(gpu.capability).is_some(), "{}", gpu.name);
            assert!(gpu.flops < gpu.matrix_flops && gpu.bandwidth < gpu.flops, "{}", gpu.name);
        }
    }

    #[test]
    fn architectures_are_numbers() {
        assert_eq!((capability("sm_120"), dotted(120)), (Some(120), "12.0".into()));
        assert_eq!((capability("avx2"), capability("sm_x")), (None, None));
    }
}
