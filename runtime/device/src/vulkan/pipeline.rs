//! Kernels as compute pipelines.
//!
//! All share one layout: no descriptors, only the push constants of a launch. Drivers take their
//! time to compile, so kernels are compiled side by side, and what comes of it is kept on disk.

use super::VulkanError;
use super::cache::CacheFile;
use super::code::Module;
use super::gpu::Gpu;
use crate::{DeviceError, KernelCode, handle};
use ash::vk;
use q35_artifact::Kernel;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a launch is told. The other side of it is `q35-target-spirv`.
///
/// `args` is the address of an array of addresses, one for each parameter; that of a list is the
/// address of an array of addresses in turn. There are `each` tasks, times the `i32` at `times` if
/// that is an address; a negative one counts as 0. Of G workgroups, b does the tasks b, b + G, ...
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Push {
    pub args: u64,
    pub times: u64,
    pub each: u32,
}

/// Bytes of [`Push`], the last four unused.
const PUSH_BYTES: u32 = 24;

/// All kernels of a device.
pub struct Pipelines {
    gpu: Arc<Gpu>,
    pub layout: vk::PipelineLayout,
    list: Vec<Loaded>,
}

/// A kernel and its pipeline.
pub struct Loaded {
    pub kernel: Kernel,
    pub pipeline: vk::Pipeline,
}

impl Push {
    pub fn bytes(self) -> [u8; PUSH_BYTES as usize] {
        let mut bytes = [0; PUSH_BYTES as usize];
        bytes[..8].copy_from_slice(&self.args.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.times.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.each.to_le_bytes());
        bytes
    }
}

impl Pipelines {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, VulkanError> {
        let range = [vk::PushConstantRange::default()
            .stage_flags(vk::ShaderStageFlags::COMPUTE)
            .size(PUSH_BYTES)];
        let create = vk::PipelineLayoutCreateInfo::default().push_constant_ranges(&range);
        // SAFETY: the structure is valid; every device has room for 128 bytes.
        let layout = unsafe { gpu.raw().create_pipeline_layout(&create, None) };
        let layout = layout.map_err(|result| gpu.failed("vkCreatePipelineLayout", result))?;
        Ok(Self { gpu: Arc::clone(gpu), layout, list: Vec::new() })
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn get(&self, index: u32) -> Result<&Loaded, DeviceError> {
        handle::find("kernel", &self.list, index)
    }

    /// Compile kernels with subgroups of a size, with what `file` has kept, and have it keep
    /// them. What is wrong with the file is added to `warnings`.
    pub fn load(
        &mut self,
        kernels: &[KernelCode<'_>],
        subgroup: u32,
        file: Option<&CacheFile>,
        warnings: &mut Vec<String>,
    ) -> Result<(), DeviceError> {
        let modules = kernels.iter().map(|code| self.check(code, subgroup));
        let modules = modules.collect::<Result<Vec<_>, _>>()?;
        let mut warn = |result: Result<Vec<u8>, String>| {
            result.unwrap_or_else(|warning| {
                warnings.push(warning);
                vec![]
            })
        };
        let kept = warn(file.map_or(Ok(vec![]), CacheFile::read));
        let cache = Cache::new(&self.gpu, &kept)?;
        let pipelines = self.compile(&modules, subgroup, &cache)?;
        for (code, pipeline) in kernels.iter().zip(pipelines) {
            self.list.push(Loaded { kernel: code.kernel.clone(), pipeline });
        }
        if let Some(file) = file {
            let data = cache.data()?;
            if data != kept {
                warn(file.write(&data).map(|()| vec![]));
            }
        }
        Ok(())
    }

    fn check(&self, code: &KernelCode<'_>, subgroup: u32) -> Result<Module, DeviceError> {
        let facts = self.gpu.facts();
        let KernelCode { kernel, code } = code;
        let refused = |reason| DeviceError::Code { kernel: kernel.name.clone(), reason };
        if kernel.shared_bytes > facts.shared_memory {
            let (needed, most, device) = (kernel.shared_bytes, facts.shared_memory, facts.named());
            return Err(refused(format!(
                "it needs {needed} bytes of shared memory, {device} has {most}"
            )));
        }
        let module = Module::read(code, facts).map_err(refused)?;
        let (lanes, most) = (module.local_size, subgroup * facts.subgroup.most);
        if facts.subgroup.must_be_asked() && lanes > most {
            return Err(refused(format!(
                "its workgroups are of {lanes} lanes, expected at most {most}"
            )));
        }
        Ok(module)
    }

    /// Pipelines in the order of their modules, made by as many threads as the host has.
    fn compile(
        &self,
        modules: &[Module],
        subgroup: u32,
        cache: &Cache,
    ) -> Result<Vec<vk::Pipeline>, VulkanError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let index = next.fetch_add(1, Ordering::Relaxed)
                && let Some(module) = modules.get(index)
            {
                done.push((index, self.pipeline(module, subgroup, cache)));
            }
            done
        };
        let mut done = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..threads.min(modules.len())).map(|_| scope.spawn(work)).collect();
            let joined = workers.into_iter().map(|w| w.join().expect("drivers do not unwind"));
            joined.flatten().collect::<Vec<_>>()
        });
        done.sort_by_key(|(index, _)| *index);
        if done.iter().all(|(_, made)| made.is_ok()) {
            return Ok(done.into_iter().filter_map(|(_, made)| made.ok()).collect());
        }
        let mut first = None;
        for (_, made) in done {
            match made {
                // SAFETY: it was made above, and nobody has used it.
                Ok(pipeline) => unsafe { self.gpu.raw().destroy_pipeline(pipeline, None) },
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.expect("some failed"))
    }

    fn pipeline(
        &self,
        module: &Module,
        subgroup: u32,
        cache: &Cache,
    ) -> Result<vk::Pipeline, VulkanError> {
        let gpu = &*self.gpu;
        let create = vk::ShaderModuleCreateInfo::default().code(&module.words);
        // SAFETY: the words are a module that needs nothing which the device lacks. That it is
        // valid otherwise is q35c's promise, which whoever opens an artifact trusts.
        let shader = unsafe { gpu.raw().create_shader_module(&create, None) };
        let shader = shader.map_err(|result| gpu.failed("vkCreateShaderModule", result))?;
        let mut size = vk::PipelineShaderStageRequiredSubgroupSizeCreateInfo::default()
            .required_subgroup_size(subgroup);
        let mut stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(shader)
            .name(c"main");
        let subgroups = gpu.facts().subgroup;
        if subgroups.must_be_asked() {
            stage = stage.push_next(&mut size);
        }
        let largest = if subgroups.must_be_asked() { subgroup } else { subgroups.max };
        if module.local_size.is_multiple_of(largest) {
            stage = stage.flags(vk::PipelineShaderStageCreateFlags::REQUIRE_FULL_SUBGROUPS);
        }
        let create = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(self.layout)];
        // SAFETY: the structures are valid and of this device, which has `subgroupSizeControl` and
        // `computeFullSubgroups`; the cache may be used by several threads.
        let made = unsafe { gpu.raw().create_compute_pipelines(cache.raw, &create, None) };
        // SAFETY: pipelines do not need the modules that they were made from.
        unsafe { gpu.raw().destroy_shader_module(shader, None) };
        match made {
            Ok(pipelines) => Ok(pipelines[0]),
            Err((_, result)) => Err(gpu.failed("vkCreateComputePipelines", result)),
        }
    }
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        // SAFETY: the device has finished: pipelines are dropped after waiting for it.
        unsafe {
            for loaded in &self.list {
                self.gpu.raw().destroy_pipeline(loaded.pipeline, None);
            }
            self.gpu.raw().destroy_pipeline_layout(self.layout, None);
        }
    }
}

/// What a driver has compiled.
struct Cache {
    gpu: Arc<Gpu>,
    raw: vk::PipelineCache,
}

impl Cache {
    /// A cache that begins with what was kept, perhaps nothing.
    fn new(gpu: &Arc<Gpu>, kept: &[u8]) -> Result<Self, VulkanError> {
        let create = vk::PipelineCacheCreateInfo::default().initial_data(kept);
        // SAFETY: the data is what a driver of this very version gave, or nothing.
        let raw = unsafe { gpu.raw().create_pipeline_cache(&create, None) };
        let raw = raw.map_err(|result| gpu.failed("vkCreatePipelineCache", result))?;
        Ok(Self { gpu: Arc::clone(gpu), raw })
    }

    fn data(&self) -> Result<Vec<u8>, VulkanError> {
        // SAFETY: the cache is this one's own, and no thread uses it any more.
        let data = unsafe { self.gpu.raw().get_pipeline_cache_data(self.raw) };
        data.map_err(|result| self.gpu.failed("vkGetPipelineCacheData", result))
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // SAFETY: pipelines do not need the cache that they were made with.
        unsafe { self.gpu.raw().destroy_pipeline_cache(self.raw, None) };
    }
}
