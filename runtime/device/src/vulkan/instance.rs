//! The loader, and the devices that it knows.
//!
//! The loader is looked for when it is asked for, so the program starts without one.

use super::VulkanError;
use super::facts::{Facts, Subgroup};
use super::features::{BFLOAT16_COMPONENT, Chain, EXTENSIONS, MATRIX};
use ash::vk;
use std::ffi::CStr;

/// The loader, and our connection to it.
pub struct Instance {
    raw: ash::Instance,
    /// The library, which must outlive all that was got from it.
    _entry: ash::Entry,
}

/// A device of an instance.
pub struct Physical {
    pub handle: vk::PhysicalDevice,
    pub facts: Facts,
}

impl Instance {
    /// # Errors
    ///
    /// [`VulkanError::Loader`]: there is none, it is too old, or it knows no driver.
    pub fn new() -> Result<Self, VulkanError> {
        let refused = |reason: String| VulkanError::Loader { reason };
        // SAFETY: loading a library runs its initialisers. It is the system's Vulkan loader, by
        // its usual name; that it is sound is what a system promises.
        let entry = unsafe { ash::Entry::load() }
            .map_err(|error| refused(format!("there is no loader ({error})")))?;
        // SAFETY: a query without preconditions.
        let found = unsafe { entry.try_enumerate_instance_version() };
        let found = found.ok().flatten().unwrap_or(vk::API_VERSION_1_0);
        if found < vk::API_VERSION_1_1 {
            let found = super::facts::version(found);
            return Err(refused(format!(
                "the loader is of version {found}, expected at least 1.1"
            )));
        }
        let app = vk::ApplicationInfo::default()
            .application_name(c"q35")
            .engine_name(c"q35c")
            .api_version(vk::API_VERSION_1_3);
        let create = vk::InstanceCreateInfo::default().application_info(&app);
        // SAFETY: the structures are valid and live until the call returns.
        let raw = unsafe { entry.create_instance(&create, None) }.map_err(|result| {
            refused(match result {
                vk::Result::ERROR_INCOMPATIBLE_DRIVER => "the loader finds no driver".into(),
                result => format!("`vkCreateInstance` failed: {result}"),
            })
        })?;
        Ok(Self { raw, _entry: entry })
    }

    pub fn raw(&self) -> &ash::Instance {
        &self.raw
    }

    /// All devices, in the loader's order.
    ///
    /// # Errors
    ///
    /// [`VulkanError::Loader`] if the drivers do not say.
    pub fn devices(&self) -> Result<Vec<Physical>, VulkanError> {
        // SAFETY: the instance is alive.
        let handles = unsafe { self.raw.enumerate_physical_devices() };
        let handles = handles.map_err(|result| VulkanError::Loader {
            reason: format!("`vkEnumeratePhysicalDevices` failed: {result}"),
        })?;
        let facts = |(index, handle)| Physical { handle, facts: self.facts(index, handle) };
        Ok(handles.into_iter().enumerate().map(facts).collect())
    }

    /// Ask a device's driver.
    fn facts(&self, index: usize, device: vk::PhysicalDevice) -> Facts {
        // SAFETY: the device is of this instance; so are those of the other queries below.
        let basic = unsafe { self.raw.get_physical_device_properties(device) };
        // SAFETY: as above.
        let memory = unsafe { self.raw.get_physical_device_memory_properties(device) };
        let mut facts = Facts {
            index,
            name: text(basic.device_name_as_c_str().ok()),
            kind: basic.device_type,
            version: basic.api_version,
            driver: String::new(),
            identity: Vec::new(),
            features: Default::default(),
            operations: Default::default(),
            subgroup: Subgroup { usual: 0, min: 0, max: 0, choosable: false, most: 0 },
            shared_memory: basic.limits.max_compute_shared_memory_size,
            max_groups: basic.limits.max_compute_work_group_count[0],
            max_group_size: basic.limits.max_compute_work_group_size[0]
                .min(basic.limits.max_compute_work_group_invocations),
            max_buffer: 0,
            max_allocation: 0,
            memory,
            extensions: Vec::new(),
            keeps_infinities: false,
            queue: self.queue(device),
            units: None,
            multiplies_f16: false,
            multiplies_bf16: false,
        };
        // What follows is asked with structures of Vulkan 1.3, and any earlier device is refused.
        if basic.api_version >= vk::API_VERSION_1_3 {
            self.add_features(device, &mut facts);
            self.add_properties(device, &mut facts);
        }
        if facts.is_software() {
            facts.units = std::thread::available_parallelism().ok().map(|n| n.get() as u32);
        }
        facts
    }

    fn add_features(&self, device: vk::PhysicalDevice, facts: &mut Facts) {
        let has = |extension: &&CStr| self.has(device, extension);
        facts.extensions = EXTENSIONS.into_iter().filter(has).collect();
        let mut chain = Chain::default();
        chain.linked(&facts.extensions, |all| {
            // SAFETY: each structure is one of Vulkan 1.3 or of an extension that the device has.
            unsafe { self.raw.get_physical_device_features2(device, all) };
        });
        facts.features = chain.names();
        if facts.extensions.contains(&MATRIX) {
            let ask = ash::khr::cooperative_matrix::Instance::new(&self._entry, &self.raw);
            // SAFETY: the device has the extension.
            let kinds = unsafe { ask.get_physical_device_cooperative_matrix_properties(device) };
            let kinds = kinds.unwrap_or_default();
            facts.multiplies_f16 = multiplies(&kinds, vk::ComponentTypeKHR::FLOAT16);
            facts.multiplies_bf16 = multiplies(&kinds, BFLOAT16_COMPONENT);
        }
    }

    fn add_properties(&self, device: vk::PhysicalDevice, facts: &mut Facts) {
        let mut v11 = vk::PhysicalDeviceVulkan11Properties::default();
        let mut v12 = vk::PhysicalDeviceVulkan12Properties::default();
        let mut v13 = vk::PhysicalDeviceVulkan13Properties::default();
        let mut nvidia = vk::PhysicalDeviceShaderSMBuiltinsPropertiesNV::default();
        let mut amd = vk::PhysicalDeviceShaderCorePropertiesAMD::default();
        let mut all = vk::PhysicalDeviceProperties2::default();
        all = all.push_next(&mut v11).push_next(&mut v12).push_next(&mut v13);
        if self.has(device, ash::nv::shader_sm_builtins::NAME) {
            all = all.push_next(&mut nvidia);
        }
        if self.has(device, ash::amd::shader_core_properties::NAME) {
            all = all.push_next(&mut amd);
        }
        // SAFETY: each structure is one of Vulkan 1.3 or of an extension that the device has.
        unsafe { self.raw.get_physical_device_properties2(device, &mut all) };
        let basic = all.properties;

        let compute = vk::ShaderStageFlags::COMPUTE;
        facts.driver = format!(
            "{} {}",
            text(v12.driver_name_as_c_str().ok()),
            text(v12.driver_info_as_c_str().ok())
        );
        facts.identity = [basic.vendor_id, basic.device_id, basic.driver_version]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .chain(basic.pipeline_cache_uuid)
            .collect();
        if v11.subgroup_supported_stages.contains(compute) {
            facts.operations = v11.subgroup_supported_operations;
        }
        facts.subgroup = Subgroup {
            usual: v11.subgroup_size,
            min: v13.min_subgroup_size,
            max: v13.max_subgroup_size,
            choosable: v13.required_subgroup_size_stages.contains(compute),
            most: v13.max_compute_workgroup_subgroups,
        };
        facts.keeps_infinities = v12.shader_signed_zero_inf_nan_preserve_float32 == vk::TRUE;
        facts.max_buffer = v13.max_buffer_size;
        facts.max_allocation = v11.max_memory_allocation_size;
        let cores = amd.shader_engine_count
            * amd.shader_arrays_per_engine_count
            * amd.compute_units_per_shader_array;
        facts.units = [nvidia.shader_sm_count, cores].into_iter().find(|&n| n > 0);
    }

    /// The first queue family for compute.
    fn queue(&self, device: vk::PhysicalDevice) -> Option<u32> {
        // SAFETY: the device is of this instance.
        let families = unsafe { self.raw.get_physical_device_queue_family_properties(device) };
        let compute =
            |f: &vk::QueueFamilyProperties| f.queue_flags.contains(vk::QueueFlags::COMPUTE);
        families.iter().position(compute).map(|index| index as u32)
    }

    fn has(&self, device: vk::PhysicalDevice, extension: &CStr) -> bool {
        // SAFETY: the device is of this instance.
        let all = unsafe { self.raw.enumerate_device_extension_properties(device) };
        let is = |e: &vk::ExtensionProperties| e.extension_name_as_c_str() == Ok(extension);
        all.unwrap_or_default().iter().any(is)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // SAFETY: whatever was made from it keeps it alive, so nothing is left.
        unsafe { self.raw.destroy_instance(None) };
    }
}

/// Whether tiles of 16 x 16 are multiplied into f32 by a subgroup.
fn multiplies(kinds: &[vk::CooperativeMatrixPropertiesKHR<'_>], of: vk::ComponentTypeKHR) -> bool {
    let float = vk::ComponentTypeKHR::FLOAT32;
    kinds.iter().any(|kind| {
        [kind.m_size, kind.n_size, kind.k_size] == [16; 3]
            && [kind.a_type, kind.b_type] == [of; 2]
            && [kind.c_type, kind.result_type] == [float; 2]
            && kind.scope == vk::ScopeKHR::SUBGROUP
    })
}

fn text(name: Option<&CStr>) -> String {
    name.map_or_else(|| "unnamed".into(), |name| name.to_string_lossy().into_owned())
}
