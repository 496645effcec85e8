//! An entry point as commands: recorded once, submitted for every step.
//!
//! Each launch finds its arguments in memory. Those of all launches of an entry lie in one buffer,
//! written when it is recorded; then nothing in the commands depends on the step.

use super::facts::ALIGNMENT;
use super::gpu::{ANYTHING, Gpu, HOST, KERNELS};
use super::hazard::{Hazards, Touched};
use super::memory::Memory;
use super::pipeline::{Pipelines, Push};
use crate::{BoundArg, BoundLaunch, DeviceError, Repeat, Span};
use ash::vk;
use q35_artifact::{Kernel, Param};

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
        let (found, expected) = (bound.args.len(), kernel.params.len());
        if found != expected {
            let kernel = kernel.name.clone();
            return Err(DeviceError::Arguments { kernel, found, expected });
        }
        let mut touched = Touched::default();
        let (mut addresses, mut lists) = (Vec::new(), Vec::new());
        for (arg, param) in bound.args.iter().zip(&kernel.params) {
            let refuse = |found, expected| {
                let (kernel, param) = (kernel.name.clone(), param.name.clone());
                Err(DeviceError::Argument { kernel, param, found, expected })
            };
            let mut address = |span| argument(span, kernel, param, memory, &mut touched);
            match arg {
                BoundArg::Span(_) if param.table => {
                    return refuse("one buffer", "a list of buffers");
                }
                BoundArg::Table(_) if !param.table => {
                    return refuse("a list of buffers", "one buffer");
                }
                BoundArg::Span(span) => addresses.push(address(*span)?),
                BoundArg::Table(spans) => {
                    let list = spans.iter().map(|&span| address(span));
                    lists.push((addresses.len() as u64, list.collect::<Result<Vec<_>, _>>()?));
                    addresses.push(0);
                }
            }
        }
        let times = match bound.tasks.repeat {
            Repeat::Once => 0,
            Repeat::Word { buffer, offset } => {
                let word = Span { buffer, offset, bytes: 4 };
                touched.read(word);
                aligned(word, 4, kernel, "tasks", memory)?
            }
        };
        let args = self.push(&addresses);
        let links = lists.iter().map(|(at, list)| (args + at * 8, self.push(list))).collect();
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

/// The address of a span that a kernel gets, which is thereby touched.
fn argument(
    span: Span,
    kernel: &Kernel,
    param: &Param,
    memory: &Memory,
    touched: &mut Touched,
) -> Result<u64, DeviceError> {
    let address = aligned(span, ALIGNMENT, kernel, &param.name, memory)?;
    match param.write {
        true => touched.write(span),
        false => touched.read(span),
    }
    Ok(address)
}

fn aligned(
    span: Span,
    size: u64,
    kernel: &Kernel,
    param: &str,
    memory: &Memory,
) -> Result<u64, DeviceError> {
    let address = memory.address(span)?;
    if !address.is_multiple_of(size) {
        let (kernel, param) = (kernel.name.clone(), param.into());
        return Err(DeviceError::Misaligned { kernel, param, size: size as usize });
    }
    Ok(address)
}
