//! The opened device, and its one queue: everything that is submitted has a number, and work with
//! a number has finished when the timeline says so.

use super::VulkanError;
use super::facts::Facts;
use super::features::Chain;
use super::instance::{Instance, Physical};
use ash::vk;
use std::sync::Arc;

/// An opened device.
pub struct Gpu {
    raw: ash::Device,
    handle: vk::PhysicalDevice,
    facts: Facts,
    /// Outlives the device.
    instance: Instance,
}

/// Number of a submission; 0 came before all.
pub type Ticket = u64;

/// The queue, its commands and what has been submitted.
pub struct Queue {
    gpu: Arc<Gpu>,
    raw: vk::Queue,
    pool: vk::CommandPool,
    timeline: vk::Semaphore,
    last: Ticket,
}

impl Gpu {
    /// Open a device that has been checked.
    pub fn open(instance: Instance, physical: Physical) -> Result<Self, VulkanError> {
        let Physical { handle, facts } = physical;
        facts.check()?;
        let family = facts.queue.expect("a checked device has a queue");
        let queue = vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(&[1.0]);
        let queues = [queue];
        let extensions: Vec<_> = facts.extensions.iter().map(|name| name.as_ptr()).collect();
        let mut chain = Chain::enabling(&facts.features);
        let raw = chain.linked(&facts.extensions, |features| {
            let create = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&extensions)
                .push_next(features);
            // SAFETY: the device is of the instance, the extensions and features are its own, and
            // all structures live until the call returns.
            unsafe { instance.raw().create_device(handle, &create, None) }
        });
        let raw = raw.map_err(|result| VulkanError::Call {
            device: facts.named(),
            call: "vkCreateDevice",
            result,
        })?;
        Ok(Self { raw, handle, facts, instance })
    }

    pub fn raw(&self) -> &ash::Device {
        &self.raw
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Bytes of a heap that could still be had, if the driver says.
    pub fn budget(&self, heap: usize) -> Option<u64> {
        if !self.facts.has_budget() {
            return None;
        }
        let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let mut all = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
        // SAFETY: the device is of this instance and has the extension of the structure.
        unsafe {
            self.instance.raw().get_physical_device_memory_properties2(self.handle, &mut all);
        }
        Some(budget.heap_budget[heap].saturating_sub(budget.heap_usage[heap]))
    }

    /// The error that a call returned.
    pub fn failed(&self, call: &'static str, result: vk::Result) -> VulkanError {
        let device = self.facts.named();
        match result {
            vk::Result::ERROR_DEVICE_LOST => VulkanError::Lost { device, call },
            result => VulkanError::Call { device, call, result },
        }
    }

    /// Order all that was submitted before against what follows.
    ///
    /// # Safety
    ///
    /// `commands` is being recorded.
    pub unsafe fn barrier(&self, commands: vk::CommandBuffer, before: Side, after: Side) {
        let barrier = vk::MemoryBarrier2::default()
            .src_stage_mask(before.0)
            .src_access_mask(before.1)
            .dst_stage_mask(after.0)
            .dst_access_mask(after.1);
        let barriers = [barrier];
        let all = vk::DependencyInfo::default().memory_barriers(&barriers);
        // SAFETY: the caller's; stages and accesses are of Vulkan 1.3, whose
        // `synchronization2` every opened device has.
        unsafe { self.raw.cmd_pipeline_barrier2(commands, &all) };
    }
}

/// One side of a barrier.
#[derive(Clone, Copy)]
pub struct Side(vk::PipelineStageFlags2, vk::AccessFlags2);

/// Kernels that read and write.
pub const KERNELS: Side = Side(
    vk::PipelineStageFlags2::COMPUTE_SHADER,
    vk::AccessFlags2::from_raw(
        vk::AccessFlags2::SHADER_READ.as_raw() | vk::AccessFlags2::SHADER_WRITE.as_raw(),
    ),
);
/// Copies.
pub const COPIES: Side = Side(
    vk::PipelineStageFlags2::ALL_TRANSFER,
    vk::AccessFlags2::from_raw(
        vk::AccessFlags2::TRANSFER_READ.as_raw() | vk::AccessFlags2::TRANSFER_WRITE.as_raw(),
    ),
);
/// The host, once it has waited.
pub const HOST: Side = Side(vk::PipelineStageFlags2::HOST, vk::AccessFlags2::HOST_READ);
/// Whatever it was.
pub const ANYTHING: Side = Side(
    vk::PipelineStageFlags2::ALL_COMMANDS,
    vk::AccessFlags2::from_raw(
        vk::AccessFlags2::MEMORY_READ.as_raw() | vk::AccessFlags2::MEMORY_WRITE.as_raw(),
    ),
);

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: whatever was made from it keeps it alive, so nothing is left.
        unsafe { self.raw.destroy_device(None) };
    }
}

impl Queue {
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, VulkanError> {
        let family = gpu.facts.queue.expect("a checked device has a queue");
        // SAFETY: the device was opened with one queue of the family.
        let raw = unsafe { gpu.raw.get_device_queue(family, 0) };
        let create = vk::CommandPoolCreateInfo::default()
            .queue_family_index(family)
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER);
        // SAFETY: the structure is valid.
        let pool = unsafe { gpu.raw.create_command_pool(&create, None) };
        let pool = pool.map_err(|result| gpu.failed("vkCreateCommandPool", result))?;
        // Dropped with what it has, should the next call fail.
        let mut queue =
            Self { gpu: Arc::clone(gpu), raw, pool, timeline: vk::Semaphore::null(), last: 0 };
        let mut kind = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(0);
        let create = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: the structures are valid, and the device has `timelineSemaphore`.
        let timeline = unsafe { gpu.raw.create_semaphore(&create, None) };
        queue.timeline = timeline.map_err(|result| gpu.failed("vkCreateSemaphore", result))?;
        Ok(queue)
    }

    /// Room for commands, which is freed with the queue.
    pub fn commands(&mut self) -> Result<vk::CommandBuffer, VulkanError> {
        let allocate = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(1);
        // SAFETY: the pool is this queue's own, and `self` is borrowed mutably.
        let commands = unsafe { self.gpu.raw.allocate_command_buffers(&allocate) };
        let commands =
            commands.map_err(|result| self.gpu.failed("vkAllocateCommandBuffers", result))?;
        Ok(commands[0])
    }

    /// Record commands, in place of what was recorded there before.
    ///
    /// # Safety
    ///
    /// `commands` is of this queue and has finished; `with` adds only commands that are valid in
    /// it, whose memory lives until they have run for the last time.
    pub unsafe fn record(
        &mut self,
        commands: vk::CommandBuffer,
        usage: vk::CommandBufferUsageFlags,
        with: impl FnOnce(&Gpu),
    ) -> Result<(), VulkanError> {
        let begin = vk::CommandBufferBeginInfo::default().flags(usage);
        // SAFETY: the caller's: nobody uses it, and its pool lets it be begun again.
        let begun = unsafe { self.gpu.raw.begin_command_buffer(commands, &begin) };
        begun.map_err(|result| self.gpu.failed("vkBeginCommandBuffer", result))?;
        with(&self.gpu);
        // SAFETY: it was begun above.
        let ended = unsafe { self.gpu.raw.end_command_buffer(commands) };
        ended.map_err(|result| self.gpu.failed("vkEndCommandBuffer", result))
    }

    /// Have commands run after all that was submitted before, as far as barriers say.
    ///
    /// # Safety
    ///
    /// `commands` is of this queue and recorded; what it uses lives until it has run.
    pub unsafe fn submit(&mut self, commands: vk::CommandBuffer) -> Result<Ticket, VulkanError> {
        let ticket = self.last + 1;
        let buffers = [vk::CommandBufferSubmitInfo::default().command_buffer(commands)];
        let signals = [vk::SemaphoreSubmitInfo::default()
            .semaphore(self.timeline)
            .value(ticket)
            .stage_mask(vk::PipelineStageFlags2::ALL_COMMANDS)];
        let submit = [vk::SubmitInfo2::default()
            .command_buffer_infos(&buffers)
            .signal_semaphore_infos(&signals)];
        // SAFETY: the caller's for the commands; the queue is used by `self` alone, which is
        // borrowed mutably, and the timeline has not reached the ticket.
        let submitted = unsafe { self.gpu.raw.queue_submit2(self.raw, &submit, vk::Fence::null()) };
        submitted.map_err(|result| self.gpu.failed("vkQueueSubmit2", result))?;
        self.last = ticket;
        Ok(ticket)
    }

    /// Wait until a submission and all before it have finished.
    pub fn wait(&self, ticket: Ticket) -> Result<(), VulkanError> {
        if ticket == 0 {
            return Ok(());
        }
        let (semaphores, values) = ([self.timeline], [ticket]);
        let wait = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        // SAFETY: the timeline is of this device, and the ticket has been submitted.
        let waited = unsafe { self.gpu.raw.wait_semaphores(&wait, u64::MAX) };
        waited.map_err(|result| self.gpu.failed("vkWaitSemaphores", result))
    }

    /// Wait until everything has finished.
    pub fn wait_all(&self) -> Result<(), VulkanError> {
        self.wait(self.last)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: nobody uses the device meanwhile; after it has finished, or is lost, nobody uses
        // commands and timeline. Waiting can fail only if the device is lost, and then nothing runs.
        unsafe {
            let _ = self.gpu.raw.device_wait_idle();
            self.gpu.raw.destroy_semaphore(self.timeline, None);
            self.gpu.raw.destroy_command_pool(self.pool, None);
        }
    }
}
