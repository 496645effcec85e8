//! The features of a device that matter here, by the names that the Vulkan specification gives
//! them: one table for asking, for checking and for enabling.

use ash::vk;
use std::collections::BTreeSet;
use std::ffi::{CStr, c_void};

/// Names of features.
pub type Names = BTreeSet<&'static str>;

/// Extensions that are enabled where they are.
pub const EXTENSIONS: [&CStr; 3] = [MATRIX, BFLOAT16, BUDGET];
pub const MATRIX: &CStr = ash::khr::cooperative_matrix::NAME;
/// Newer than what `ash` knows.
pub const BFLOAT16: &CStr = c"VK_KHR_shader_bfloat16";
pub const BUDGET: &CStr = ash::ext::memory_budget::NAME;
/// The type of elements of matrices that comes with [`BFLOAT16`].
pub const BFLOAT16_COMPONENT: vk::ComponentTypeKHR = vk::ComponentTypeKHR::from_raw(1_000_141_000);

/// Without these no kernel runs.
pub const REQUIRED: [&str; 9] = [
    "shaderInt64",
    "bufferDeviceAddress",
    "vulkanMemoryModel",
    "vulkanMemoryModelDeviceScope",
    "timelineSemaphore",
    "synchronization2",
    "subgroupSizeControl",
    "computeFullSubgroups",
    "maintenance4",
];

/// The structures in which Vulkan says what a device has, and is told what is wanted of it.
#[derive(Default)]
pub struct Chain {
    core: vk::PhysicalDeviceFeatures,
    v11: vk::PhysicalDeviceVulkan11Features<'static>,
    v12: vk::PhysicalDeviceVulkan12Features<'static>,
    v13: vk::PhysicalDeviceVulkan13Features<'static>,
    matrix: vk::PhysicalDeviceCooperativeMatrixFeaturesKHR<'static>,
    bfloat16: Bfloat16,
}

/// `VkPhysicalDeviceShaderBfloat16FeaturesKHR`
#[repr(C)]
struct Bfloat16 {
    s_type: vk::StructureType,
    p_next: *mut c_void,
    scalar: vk::Bool32,
    dot_product: vk::Bool32,
    cooperative_matrix: vk::Bool32,
}

// SAFETY: it is laid out as the specification says, begins with its own number, and extends the
// structure of features.
unsafe impl vk::ExtendsPhysicalDeviceFeatures2 for Bfloat16 {}
// SAFETY: as above.
unsafe impl vk::ExtendsDeviceCreateInfo for Bfloat16 {}

impl Default for Bfloat16 {
    fn default() -> Self {
        Self {
            s_type: vk::StructureType::from_raw(1_000_141_000),
            p_next: std::ptr::null_mut(),
            scalar: 0,
            dot_product: 0,
            cooperative_matrix: 0,
        }
    }
}

impl Chain {
    /// All of `names`, and no others.
    pub fn enabling(names: &Names) -> Self {
        let mut chain = Self::default();
        for (name, field) in chain.table() {
            *field = names.contains(name).into();
        }
        chain
    }

    pub fn names(mut self) -> Names {
        let table = self.table().into_iter();
        table.filter(|(_, field)| **field == vk::TRUE).map(|(name, _)| name).collect()
    }

    /// Hand the structures over, linked: those of Vulkan 1.3 and of these extensions.
    pub fn linked<R>(
        &mut self,
        extensions: &[&CStr],
        with: impl FnOnce(&mut vk::PhysicalDeviceFeatures2<'_>) -> R,
    ) -> R {
        let Self { core, v11, v12, v13, matrix, bfloat16 } = self;
        let mut all = vk::PhysicalDeviceFeatures2::default().features(*core);
        all = all.push_next(v11).push_next(v12).push_next(v13);
        if extensions.contains(&MATRIX) {
            all = all.push_next(matrix);
        }
        if extensions.contains(&BFLOAT16) {
            all = all.push_next(bfloat16);
        }
        let result = with(&mut all);
        *core = all.features;
        result
    }

    fn table(&mut self) -> [(&'static str, &mut vk::Bool32); 19] {
        let Self { core, v11, v12, v13, matrix, bfloat16 } = self;
        [
            ("shaderInt64", &mut core.shader_int64),
            ("shaderInt16", &mut core.shader_int16),
            ("storageBuffer16BitAccess", &mut v11.storage_buffer16_bit_access),
            ("storageBuffer8BitAccess", &mut v12.storage_buffer8_bit_access),
            ("shaderInt8", &mut v12.shader_int8),
            ("shaderFloat16", &mut v12.shader_float16),
            ("bufferDeviceAddress", &mut v12.buffer_device_address),
            ("vulkanMemoryModel", &mut v12.vulkan_memory_model),
            ("vulkanMemoryModelDeviceScope", &mut v12.vulkan_memory_model_device_scope),
            ("timelineSemaphore", &mut v12.timeline_semaphore),
            ("shaderSubgroupExtendedTypes", &mut v12.shader_subgroup_extended_types),
            ("synchronization2", &mut v13.synchronization2),
            ("subgroupSizeControl", &mut v13.subgroup_size_control),
            ("computeFullSubgroups", &mut v13.compute_full_subgroups),
            ("maintenance4", &mut v13.maintenance4),
            ("shaderIntegerDotProduct", &mut v13.shader_integer_dot_product),
            ("cooperativeMatrix", &mut matrix.cooperative_matrix),
            ("shaderBFloat16Type", &mut bfloat16.scalar),
            ("shaderBFloat16CooperativeMatrix", &mut bfloat16.cooperative_matrix),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_enabled_is_read_back_and_all_that_is_required_is_in_the_table() {
        let names = Names::from(REQUIRED);
        assert_eq!(Chain::enabling(&names).names(), names);
        assert_eq!(Chain::default().names(), Names::new());
    }

    #[test]
    fn linking_keeps_what_is_set_and_takes_what_is_said() {
        let mut chain = Chain::enabling(&Names::from(["shaderInt64", "maintenance4"]));
        chain.linked(&EXTENSIONS, |all| {
            assert_eq!(all.features.shader_int64, vk::TRUE);
            all.features.shader_int16 = vk::TRUE;
        });
        assert_eq!(chain.names(), Names::from(["shaderInt64", "shaderInt16", "maintenance4"]));
    }
}
