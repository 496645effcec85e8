//! What is known about a device before it is opened: plain data, and what follows from it.
//!
//! Drivers are asked once, in [`instance`](super::instance). Whether a device will do, which code
//! it runs and how many workgroups a launch has is decided here, where it can be tested without one.

use super::features::{BUDGET, Names, REQUIRED};
use super::{NAME, TARGET, VulkanError};
use crate::{DeviceInfo, SOFTWARE};
use ash::vk;
use std::ffi::CStr;

/// Subgroup sizes that code can cope with.
const SUBGROUPS: std::ops::RangeInclusive<u32> = 4..=64;
/// The subgroup size that serves best where any does.
const USUAL_SUBGROUP: u32 = 32;
/// Shared memory that the `desktop` variants may use.
const DESKTOP_SHARED: u32 = 48 << 10;
/// Features that the `desktop` variants take, and those with matrix units beyond them: both types of
/// elements, since which of them a model needs is for its kernels to say.
const DESKTOP_FEATURES: [&str; 3] =
    ["storageBuffer16BitAccess", "storageBuffer8BitAccess", "shaderInt16"];
const MATRIX_FEATURES: [&str; 4] =
    ["cooperativeMatrix", "shaderFloat16", "shaderBFloat16Type", "shaderBFloat16CooperativeMatrix"];
/// All variants, best first.
const VARIANTS: [Variant; 5] = [
    Variant { name: "desktop-coop", desktop: Some(32), matrices: true },
    Variant { name: "desktop-64-coop", desktop: Some(64), matrices: true },
    Variant { name: "desktop", desktop: Some(32), matrices: false },
    Variant { name: "desktop-64", desktop: Some(64), matrices: false },
    Variant { name: "baseline", desktop: None, matrices: false },
];
/// What kernels do across a subgroup.
const OPERATIONS: [(vk::SubgroupFeatureFlags, &str); 3] = [
    (vk::SubgroupFeatureFlags::BASIC, "basic subgroup operations in compute shaders"),
    (vk::SubgroupFeatureFlags::ARITHMETIC, "subgroup arithmetic in compute shaders"),
    (vk::SubgroupFeatureFlags::SHUFFLE, "subgroup shuffles in compute shaders"),
];
/// Spans begin at multiples of it: the widest load, and a cache line.
pub const ALIGNMENT: u64 = 64;
/// Buffers are whole numbers of it.
pub const GRAIN: u64 = 256;

/// Code for one kind of device. The other side of it is `q35-target-spirv`.
struct Variant {
    name: &'static str,
    /// Of the `desktop` profile, for subgroups of so many lanes.
    desktop: Option<u32>,
    /// With instructions for matrix units.
    matrices: bool,
}

/// A device, as its driver describes it.
#[derive(Clone)]
pub struct Facts {
    /// Its number in `--device vulkan:N`: its place in the loader's list.
    pub index: usize,
    pub name: String,
    pub kind: vk::PhysicalDeviceType,
    pub version: u32,
    /// Name and version of the driver, for people.
    pub driver: String,
    /// Tells pipeline caches of other devices and drivers apart.
    pub identity: Vec<u8>,
    pub features: Names,
    /// Those of [`EXTENSIONS`](super::features::EXTENSIONS) that it has.
    pub extensions: Vec<&'static CStr>,
    /// Whether infinities and NaN in f32 stay what they are, if a kernel asks for that.
    pub keeps_infinities: bool,
    /// Subgroup operations of compute shaders.
    pub operations: vk::SubgroupFeatureFlags,
    pub subgroup: Subgroup,
    /// Bytes that the arrays of a workgroup may have.
    pub shared_memory: u32,
    /// Workgroups in a row, invocations in a row and in all.
    pub max_groups: u32,
    pub max_group_size: u32,
    /// Bytes of the largest buffer and of the largest piece of memory.
    pub max_buffer: u64,
    pub max_allocation: u64,
    pub memory: vk::PhysicalDeviceMemoryProperties,
    /// The queue family to use.
    pub queue: Option<u32>,
    /// Compute units, where the driver says.
    pub units: Option<u32>,
    /// Whether it multiplies 16 x 16 tiles into f32, a subgroup at a time, of f16 and of bf16.
    pub multiplies_f16: bool,
    pub multiplies_bf16: bool,
}

/// Lanes that run in step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subgroup {
    /// If nobody asks.
    pub usual: u32,
    pub min: u32,
    pub max: u32,
    /// Whether a compute pipeline can ask for a size.
    pub choosable: bool,
    /// How many a workgroup may have whose pipeline asks.
    pub most: u32,
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

    /// Whether it is a processor that plays a GPU.
    pub fn is_software(&self) -> bool {
        self.kind == vk::PhysicalDeviceType::CPU
    }

    /// Whether it says how much memory is free.
    pub fn has_budget(&self) -> bool {
        self.extensions.contains(&BUDGET)
    }

    /// Whether its memory is the host's.
    pub fn is_unified(&self) -> bool {
        self.is_software() || self.kind == vk::PhysicalDeviceType::INTEGRATED_GPU
    }

    /// Whether it has all that every kernel needs.
    ///
    /// # Errors
    ///
    /// [`VulkanError::Version`], or [`VulkanError::Feature`] with the first that is missing.
    pub fn check(&self) -> Result<(), VulkanError> {
        if self.version < vk::API_VERSION_1_3 {
            let found = version(self.version);
            return Err(VulkanError::Version { device: self.named(), found });
        }
        match self.missing() {
            Some(feature) => Err(VulkanError::Feature { device: self.named(), feature }),
            None => Ok(()),
        }
    }

    fn missing(&self) -> Option<String> {
        if let Some(name) = REQUIRED.into_iter().find(|name| !self.features.contains(name)) {
            return Some(format!("the feature `{name}`"));
        }
        if let Some((_, what)) =
            OPERATIONS.iter().find(|(flag, _)| !self.operations.contains(*flag))
        {
            return Some((*what).into());
        }
        if !self.keeps_infinities {
            return Some("`shaderSignedZeroInfNanPreserveFloat32`".into());
        }
        if self.baseline_subgroup().is_none() {
            let (min, max) = SUBGROUPS.into_inner();
            return Some(format!("subgroups of {min} to {max} lanes"));
        }
        if self.queue.is_none() {
            return Some("a queue for compute".into());
        }
        None
    }

    /// Names of the code variants that it runs, best first.
    pub fn variants(&self) -> Vec<&'static str> {
        let runs = VARIANTS.iter().filter(|variant| self.missing_for(variant).is_empty());
        runs.map(|variant| variant.name).collect()
    }

    /// All that keeps it from running a variant, if it is a known one.
    pub fn lacks(&self, variant: &str) -> Option<String> {
        let variant = VARIANTS.iter().find(|v| v.name == variant)?;
        match self.missing_for(variant).as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            [others @ .., last] => Some(format!("{} and {last}", others.join(", "))),
        }
    }

    fn missing_for(&self, variant: &Variant) -> Vec<String> {
        let Some(subgroup) = variant.desktop else { return vec![] };
        let matrices: &[&str] = if variant.matrices { &MATRIX_FEATURES } else { &[] };
        let features = DESKTOP_FEATURES.iter().chain(matrices);
        let absent = features.filter(|name| !self.features.contains(*name));
        let mut missing: Vec<_> = absent.map(|name| format!("the feature `{name}`")).collect();
        let (kib, Subgroup { min, max, choosable, .. }) = (self.shared_memory >> 10, self.subgroup);
        if self.shared_memory < DESKTOP_SHARED {
            let needed = DESKTOP_SHARED >> 10;
            missing.push(format!("{needed} KiB of shared memory (it has {kib} KiB)"));
        }
        if !self.subgroup.can_be(subgroup) {
            let has = match (min == max, choosable) {
                (true, _) => min.to_string(),
                (false, true) => format!("{min} to {max}"),
                (false, false) => format!("{min} to {max}, as the driver likes"),
            };
            missing.push(format!("subgroups of {subgroup} lanes (it has {has})"));
        }
        if variant.matrices && !(self.multiplies_f16 && self.multiplies_bf16) {
            missing.push("products of 16 x 16 matrices of f16 and of bf16".into());
        }
        missing
    }

    /// The subgroup size with which kernels of a variant run.
    pub fn subgroup_of(&self, variant: &str) -> u32 {
        let known = VARIANTS.iter().find(|v| v.name == variant);
        let fixed = known.expect("it is one of `variants`").desktop;
        fixed.unwrap_or_else(|| self.baseline_subgroup().expect("the device was checked"))
    }

    /// One size for all kernels, so that sums are in the same order in each: 32, or the nearest.
    fn baseline_subgroup(&self) -> Option<u32> {
        let Subgroup { usual, min, max, choosable, .. } = self.subgroup;
        let size = if choosable { USUAL_SUBGROUP.clamp(min, max.max(min)) } else { usual };
        (SUBGROUPS.contains(&size) && size.is_power_of_two()).then_some(size)
    }

    /// Workgroups of a launch: constant, so that it can be recorded once; enough to fill the
    /// device with the smallest ones, and so few that it does not matter if most find no task.
    pub fn grid(&self) -> u32 {
        let each = if self.is_software() { 8 } else { 16 };
        let units = self.units.unwrap_or(64).max(1);
        units.saturating_mul(each).min(self.max_groups)
    }

    /// Bytes of the largest buffer that can be had, in one piece of memory.
    pub fn largest_buffer(&self) -> u64 {
        self.max_buffer.min(self.max_allocation) / GRAIN * GRAIN
    }

    /// Bytes in all of the memory that kernels work in.
    pub fn total_memory(&self) -> u64 {
        self.main_heap().map_or(0, |heap| self.memory.memory_heaps[heap].size)
    }

    /// The largest heap of the device's own memory.
    pub fn main_heap(&self) -> Option<usize> {
        let heaps = self.memory.memory_heaps_as_slice().iter().enumerate();
        let local = heaps.filter(|(_, h)| h.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL));
        local.max_by_key(|(_, h)| h.size).map(|(index, _)| index)
    }

    pub fn info(&self) -> DeviceInfo {
        let kind = match self.kind {
            vk::PhysicalDeviceType::DISCRETE_GPU => "discrete GPU",
            vk::PhysicalDeviceType::INTEGRATED_GPU => "integrated GPU",
            vk::PhysicalDeviceType::VIRTUAL_GPU => "virtual GPU",
            vk::PhysicalDeviceType::CPU => SOFTWARE,
            _ => "other",
        };
        let mut features = vec![kind.to_owned(), format!("Vulkan {}", version(self.version))];
        if self.version >= vk::API_VERSION_1_3 {
            let Subgroup { min, max, .. } = self.subgroup;
            features.push(format!("driver {}", self.driver));
            features.push(match min == max {
                true => format!("subgroups of {min}"),
                false => format!("subgroups of {min} to {max}"),
            });
            features.push(format!("{} KiB shared memory", self.shared_memory >> 10));
            let named = [
                ("storageBuffer16BitAccess", "16-bit storage"),
                ("storageBuffer8BitAccess", "8-bit storage"),
                ("shaderFloat16", "f16"),
                ("shaderIntegerDotProduct", "integer dot product"),
                ("cooperativeMatrix", "cooperative matrices"),
            ];
            let has = named.into_iter().filter(|(feature, _)| self.features.contains(feature));
            features.extend(has.map(|(_, name)| name.to_owned()));
        }
        if self.check().is_ok() {
            features.push(format!("variant {}", self.variants()[0]));
        }
        DeviceInfo {
            id: self.id(),
            target: TARGET,
            name: self.name.clone(),
            units: self.units.unwrap_or(0) as usize,
            features,
            memory: Some(self.total_memory()),
        }
    }
}

impl Subgroup {
    /// Whether a pipeline has to ask, so as to get the size that it wants.
    pub fn must_be_asked(&self) -> bool {
        self.choosable && self.min != self.max
    }

    fn can_be(&self, size: u32) -> bool {
        (self.min == size && self.max == size)
            || (self.choosable && (self.min..=self.max).contains(&size))
    }
}

/// `1.3.230`
pub fn version(version: u32) -> String {
    let [major, minor, patch] =
        [vk::api_version_major, vk::api_version_minor, vk::api_version_patch].map(|f| f(version));
    format!("{major}.{minor}.{patch}")
}

#[cfg(test)]
pub mod tests {
    use super::super::features::EXTENSIONS;
    use super::*;

    /// A large GPU that has everything.
    pub fn gpu() -> Facts {
        let mut memory =
            vk::PhysicalDeviceMemoryProperties { memory_heap_count: 2, ..Default::default() };
        memory.memory_heaps[0].size = 64 << 30;
        memory.memory_heaps[1] =
            vk::MemoryHeap { size: 16 << 30, flags: vk::MemoryHeapFlags::DEVICE_LOCAL };
        let mut features = Names::from(REQUIRED);
        features.extend(DESKTOP_FEATURES);
        features.extend(MATRIX_FEATURES);
        Facts {
            index: 1,
            name: "Big".into(),
            kind: vk::PhysicalDeviceType::DISCRETE_GPU,
            version: vk::make_api_version(0, 1, 3, 280),
            driver: "of Big 7.1".into(),
            identity: vec![1, 2, 3],
            features,
            operations: OPERATIONS.iter().fold(Default::default(), |all, (flag, _)| all | *flag),
            subgroup: Subgroup { usual: 64, min: 32, max: 64, choosable: true, most: 32 },
            shared_memory: 64 << 10,
            max_groups: 65_535,
            max_group_size: 1024,
            max_buffer: u64::MAX,
            max_allocation: (4 << 30) - 1,
            memory,
            extensions: EXTENSIONS.to_vec(),
            keeps_infinities: true,
            queue: Some(0),
            units: Some(60),
            multiplies_f16: true,
            multiplies_bf16: true,
        }
    }

    fn refusal(change: impl FnOnce(&mut Facts)) -> String {
        let mut facts = gpu();
        change(&mut facts);
        facts.check().unwrap_err().to_string()
    }

    #[test]
    fn a_device_without_something_is_refused_by_name_and_thing() {
        gpu().check().unwrap();
        for name in REQUIRED {
            let found = refusal(|facts| assert!(facts.features.remove(name)));
            assert_eq!(
                found,
                format!("`vulkan:1` (Big) lacks the feature `{name}`, expected a device with it")
            );
        }
        assert_eq!(
            refusal(|facts| facts.version = vk::make_api_version(0, 1, 2, 9)),
            "`vulkan:1` (Big) has Vulkan 1.2.9, expected at least 1.3"
        );
        assert!(
            refusal(|facts| facts.operations = vk::SubgroupFeatureFlags::BASIC)
                .contains("lacks subgroup arithmetic")
        );
        assert!(
            refusal(|facts| {
                facts.subgroup =
                    Subgroup { usual: 128, min: 128, max: 128, choosable: true, most: 32 };
            })
            .contains("lacks subgroups of 4 to 64 lanes")
        );
        assert!(refusal(|facts| facts.keeps_infinities = false).contains("InfNanPreserveFloat32"));
        assert!(refusal(|facts| facts.queue = None).contains("lacks a queue for compute"));
    }

    #[test]
    fn variants_follow_from_what_it_has() {
        let variants = |change: &dyn Fn(&mut Facts)| {
            let mut facts = gpu();
            change(&mut facts);
            facts.variants()
        };
        let both = ["desktop", "desktop-64", "baseline"];
        assert_eq!(variants(&|_| ())[..2], ["desktop-coop", "desktop-64-coop"]);
        assert_eq!(variants(&|_| ())[2..], both);
        for without in [
            |f: &mut Facts| f.multiplies_f16 = false,
            |f: &mut Facts| f.multiplies_bf16 = false,
            |f: &mut Facts| assert!(f.features.remove("shaderBFloat16Type")),
        ] {
            assert_eq!(variants(&without), both);
        }
        for name in DESKTOP_FEATURES {
            assert_eq!(variants(&|f| assert!(f.features.remove(name))), ["baseline"]);
        }
        assert_eq!(variants(&|f| f.shared_memory = 32 << 10), ["baseline"]);
        assert_eq!(variants(&|f| f.subgroup.choosable = false), ["baseline"]);
        let only_64 = ["desktop-64-coop", "desktop-64", "baseline"];
        assert_eq!(variants(&|f| f.subgroup.min = 64), only_64);
        let only_32 = ["desktop-coop", "desktop", "baseline"];
        assert_eq!(variants(&|f| f.subgroup.max = 32), only_32);
    }

    #[test]
    fn all_that_a_variant_lacks_is_named_with_what_there_is() {
        assert_eq!(gpu().lacks("desktop-64-coop"), None);
        assert_eq!(gpu().lacks("tomorrow"), None);
        let mut facts = Facts { multiplies_bf16: false, ..gpu() };
        assert_eq!(
            facts.lacks("desktop-coop").unwrap(),
            "products of 16 x 16 matrices of f16 and of bf16"
        );
        assert!(facts.features.remove("storageBuffer8BitAccess"));
        assert_eq!(facts.lacks("desktop").unwrap(), "the feature `storageBuffer8BitAccess`");
        facts.shared_memory = 32 << 10;
        facts.subgroup = Subgroup { usual: 8, min: 8, max: 8, choosable: true, most: 32 };
        assert_eq!(
            facts.lacks("desktop").unwrap(),
            "the feature `storageBuffer8BitAccess`, 48 KiB of shared memory (it has 32 KiB) and \
             subgroups of 32 lanes (it has 8)"
        );
        facts.subgroup.max = 16;
        let lacked = facts.lacks("desktop-64").unwrap();
        assert!(lacked.ends_with("subgroups of 64 lanes (it has 8 to 16)"), "{lacked}");
        assert_eq!(facts.lacks("baseline"), None);
    }

    #[test]
    fn all_kernels_of_a_variant_have_one_subgroup_size() {
        let size = |usual, min, max, choosable| {
            let subgroup = Subgroup { usual, min, max, choosable, most: 32 };
            Facts { subgroup, ..gpu() }.subgroup_of("baseline")
        };
        assert_eq!(size(64, 32, 64, true), 32);
        assert_eq!(size(16, 8, 32, true), 32);
        assert_eq!(size(8, 8, 8, true), 8);
        assert_eq!(size(64, 64, 128, true), 64);
        assert_eq!(size(64, 32, 64, false), 64);
        assert_eq!(gpu().subgroup_of("desktop"), 32);
        assert_eq!(gpu().subgroup_of("desktop-64-coop"), 64);
    }

    #[test]
    fn the_largest_buffer_is_one_piece_of_memory_in_whole_grains() {
        assert_eq!(gpu().largest_buffer(), (4 << 30) - 256);
        assert_eq!(gpu().total_memory(), 16 << 30);
    }

    #[test]
    fn a_grid_fills_the_device_and_is_within_its_limit() {
        assert_eq!(gpu().grid(), 960);
        assert_eq!(Facts { max_groups: 500, ..gpu() }.grid(), 500);
        let software = vk::PhysicalDeviceType::CPU;
        assert_eq!(Facts { kind: software, units: Some(2), ..gpu() }.grid(), 16);
    }

    #[test]
    fn people_are_told_what_matters() {
        let told = gpu().info().to_string();
        for part in [
            "vulkan:1: Big, 60 compute units, 16.0 GiB (discrete GPU, Vulkan 1.3.280, ",
            "driver of Big 7.1, subgroups of 32 to 64, 64 KiB shared memory, 16-bit storage, ",
            "cooperative matrices, variant desktop-coop)",
        ] {
            assert!(told.contains(part), "{told}");
        }
    }
}
