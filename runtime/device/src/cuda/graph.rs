//! An entry as a graph: built once from its launches, started for every step.
//!
//! Each launch is a node, with an edge from each launch that it must wait for and from no other, so
//! the device may run side by side what does not depend on each other. Parameters are copied into
//! the nodes, and nothing in them depends on the step.

use super::CudaError;
use super::code::Loaded;
use super::gpu::Gpu;
use crate::ptx::{Draft, Launch};
use cudarc::driver::sys::{self, CUDA_KERNEL_NODE_PARAMS, CUgraph, CUgraphExec, CUgraphNode};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

/// A graph that can be started.
pub struct Graph {
    gpu: Arc<Gpu>,
    exec: CUgraphExec,
}

// SAFETY: graphs belong to the context; it is started through `&self` of a device that is borrowed
// mutably, so by one thread at a time.
unsafe impl Send for Graph {}

impl Graph {
    /// # Safety
    ///
    /// The launches' kernels are among `kernels`; those and all memory of which the parameters are
    /// addresses live as long as the graph, and kernels stay within the spans that they were given.
    pub unsafe fn new(
        gpu: &Arc<Gpu>,
        draft: &Draft,
        kernels: &[Loaded],
    ) -> Result<Self, CudaError> {
        gpu.enter()?;
        let mut template = Template(null_mut());
        // SAFETY: the context is current; the handle's place is alive.
        gpu.check("cuGraphCreate", unsafe { sys::cuGraphCreate(&raw mut template.0, 0) })?;
        let mut nodes = Vec::with_capacity(draft.launches.len());
        for launch in &draft.launches {
            let waits: Vec<CUgraphNode> = launch.waits.iter().map(|&index| nodes[index]).collect();
            // SAFETY: the nodes are of this graph; the rest is the caller's.
            nodes.push(unsafe { node(gpu, template.0, launch, &kernels[launch.kernel], &waits)? });
        }
        let mut graph = Self { gpu: Arc::clone(gpu), exec: null_mut() };
        // SAFETY: the graph is whole; the handle's place is alive.
        let made = unsafe { sys::cuGraphInstantiateWithFlags(&raw mut graph.exec, template.0, 0) };
        gpu.check("cuGraphInstantiate", made)?;
        // SAFETY: the graph was made above. So the first step costs no more than others.
        gpu.check("cuGraphUpload", unsafe { sys::cuGraphUpload(graph.exec, gpu.stream()) })?;
        Ok(graph)
    }

    /// Start it, after all that was started before.
    pub fn launch(&self) -> Result<(), CudaError> {
        self.gpu.enter()?;
        // SAFETY: what it needs lives as long as it, as the caller of `new` has promised.
        let started = unsafe { sys::cuGraphLaunch(self.exec, self.gpu.stream()) };
        self.gpu.check("cuGraphLaunch", started)
    }
}

/// Add a launch.
///
/// # Safety
///
/// `waits` are nodes of `graph`; otherwise as for [`Graph::new`].
unsafe fn node(
    gpu: &Gpu,
    graph: CUgraph,
    launch: &Launch,
    loaded: &Loaded,
    waits: &[CUgraphNode],
) -> Result<CUgraphNode, CudaError> {
    // Of the last word, the kernel takes the lower half, which comes first in memory.
    let words = launch.words.iter().map(|word| word.to_le()).collect::<Vec<_>>();
    let mut params: Vec<*mut c_void> =
        words.iter().map(|word| std::ptr::from_ref(word).cast_mut().cast()).collect();
    let params = CUDA_KERNEL_NODE_PARAMS {
        func: loaded.function,
        gridDimX: launch.grid(loaded.grid),
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: loaded.block,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: loaded.dynamic_shared,
        kernelParams: params.as_mut_ptr(),
        extra: null_mut(),
        kern: null_mut(),
        ctx: null_mut(),
    };
    let mut node = null_mut();
    // SAFETY: the parameters are as many and as large as the kernel takes, which the driver copies;
    // the rest is the caller's.
    let added = unsafe {
        let first = waits.as_ptr();
        sys::cuGraphAddKernelNode_v2(&raw mut node, graph, first, waits.len(), &raw const params)
    };
    gpu.check("cuGraphAddKernelNode", added)?;
    Ok(node)
}

/// A graph while it is being built.
struct Template(CUgraph);

impl Drop for Template {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: it was made so; what was instantiated from it does not need it.
            let _ = unsafe { sys::cuGraphDestroy(self.0) };
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if !self.exec.is_null() && self.gpu.enter().is_ok() {
            // SAFETY: it was made so, and does not run any more.
            let _ = unsafe { sys::cuGraphExecDestroy(self.exec) };
        }
    }
}
