//! An entry point as commands: recorded once, submitted for every step.
//!
//! Each launch finds its arguments in memory. Those of all launches of an entry lie in one buffer,
//! written when it is recorded; then nothing in the commands depends on the step.

use super::facts::ALIGNMENT;
use super::gpu::{ANYTHING, Gpu, HOST, KERNELS};
use super::memory::Memory;
use super::pipeline::{Pipelines, Push};
use crate::bind::{Addresses, bind};
use crate::hazard::{Hazards, Touched};
use crate::{BoundLaunch, DeviceError, Repeat};
use ash::vk;
use q35_artifact::Kernel;

/// Launches, checked, and the arguments that they will find.
pub struct Draft {
    launches: Vec<Launch>,
    /// Lists of addresses, each from a multiple of [`ALIGNMENT`] on.
    pub arguments: Vec<u8>,
}

struct Launch {
    pipeline: vk::Pipeline,
    /// Where its arguments begin among all.
    args: u64,
    /// The address of the number by which `each` is multiplied, or 0.
    times: u64,
    each: u32,
    groups: u32,
    /// It must wait for those before it.
    barrier: bool,
    /// Places among the arguments that get the address of another place among them.
    links: Vec<(u64, u64)>,
}

impl Draft {
    /// Check each launch against its kernel and memory, and decide what waits for what.
    pub fn new(
        launches: &[BoundLaunch],
        pipelines: &Pipelines,
        memory: &Memory,
        grid: u32,
    ) -> Result<Self, DeviceError> {
        let mut draft = Self { launches: Vec::new(), arguments: Vec::new() };
        let mut hazards = Hazards::default();
        for bound in launches {
            let loaded = pipelines.get(bound.kernel.0)?;
            let (mut launch, touched) = draft.launch(bound, &loaded.kernel, memory)?;
            if launch.each == 0 {
                continue;
            }
            launch.pipeline = loaded.pipeline;
            launch.barrier = hazards.barrier_before(&touched);
            launch.groups = match bound.tasks.repeat {
                Repeat::Once => launch.each.min(grid),
                Repeat::Word { .. } => grid,
            };
            draft.launches.push(launch);
        }
        Ok(draft)
    }

    /// Write the addresses of lists, now that it is known where the arguments will lie.
    pub fn link(&mut self, arguments: u64) {
        for &(at, to) in self.launches.iter().flat_map(|launch| &launch.links) {
            let place = &mut self.arguments[at as usize..][..8];
            place.copy_from_slice(&(arguments + to).to_le_bytes());
        }
    }

    /// Add the commands, with the arguments at that address.
    ///
    /// # Safety
    ///
    /// `commands` is being recorded; pipelines, memory and arguments live until it has run for the
    /// last time, and kernels stay within the spans that they were given.
    pub unsafe fn add_to(
        &self,
        commands: vk::CommandBuffer,
        gpu: &Gpu,
        layout: vk::PipelineLayout,
        arguments: u64,
    ) {
        let raw = gpu.raw();
        // SAFETY: the caller's; push constants are those of the layout, of which the pipelines
        // are, and the number of workgroups is within the device's limit.
        unsafe {
            // What was copied, and what an earlier run has written.
            gpu.barrier(commands, ANYTHING, KERNELS);
            let mut bound = vk::Pipeline::null();
            for launch in &self.launches {
                if launch.barrier {
                    gpu.barrier(commands, KERNELS, KERNELS);
                }
                if bound != launch.pipeline {
                    let compute = vk::PipelineBindPoint::COMPUTE;
                    raw.cmd_bind_pipeline(commands, compute, launch.pipeline);
                    bound = launch.pipeline;
                }
                let Launch { args, times, each, .. } = *launch;
                let push = Push { args: arguments + args, times, each }.bytes();
                let stage = vk::ShaderStageFlags::COMPUTE;
                raw.cmd_push_constants(commands, layout, stage, 0, &push);
                raw.cmd_dispatch(commands, launch.groups, 1, 1);
            }
            gpu.barrier(commands, KERNELS, HOST);
        }
    }

    fn launch(
        &mut self,
        bound: &BoundLaunch,
        kernel: &Kernel,
        memory: &Memory,
    ) -> Result<(Launch, Touched), DeviceError> {
        let Addresses { args, lists, times, touched } =
            bind(bound, kernel, ALIGNMENT, &|span| memory.address(span))?;
        let args = self.push(&args);
        let link = |(at, list): &(usize, Vec<u64>)| (args + *at as u64 * 8, self.push(list));
        let links = lists.iter().map(link).collect();
        let (pipeline, each) = (vk::Pipeline::null(), bound.tasks.each);
        let launch = Launch { pipeline, args, times, each, groups: 0, barrier: false, links };
        Ok((launch, touched))
    }

    /// Add a list of addresses; returns where it begins.
    fn push(&mut self, addresses: &[u64]) -> u64 {
        let begin = self.arguments.len().next_multiple_of(ALIGNMENT as usize);
        self.arguments.resize(begin, 0);
        self.arguments.extend(addresses.iter().flat_map(|address| address.to_le_bytes()));
        begin as u64
    }
}
