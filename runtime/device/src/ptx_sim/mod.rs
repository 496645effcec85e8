//! PTX without a GPU: the kernels of an artifact on a simulator, which counts what they do.
//!
//! It is there for tests and for those who write kernels. Memory, warps, barriers and shuffles are
//! those of a GPU, and what a GPU would leave undefined stops it with the kernel, the line, the
//! block and the thread. Results are the same on any number of threads, and so are the
//! [counters](PtxSim::counters).

use crate::cpu::host;
use crate::ptx::{self, ALIGNMENT, ARCHITECTURES, Code, Draft, TARGET};
use crate::{
    BoundLaunch, BufferId, Device, DeviceError, DeviceInfo, EntryId, KernelCode, KernelId, Limits,
    Mapped, SOFTWARE, Span, Usage, handle,
};
use q35_artifact::Kernel;
use q35_ptx_sim::{Counters, Launch, Memory, Module, Program};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// As in `--device`.
pub const NAME: &str = "ptx-sim";

/// Blocks of a launch. Each of them costs time even without a task, and there must be enough for
/// every host thread; results do not depend on it, but the counters do, so it is always the same.
const GRID: u32 = 16;

/// Bytes of the largest buffer: a slip of a plan is not to take all memory of the host.
const LARGEST: u64 = 64 << 30;

/// The simulator and all that has been loaded into it.
pub struct PtxSim {
    info: DeviceInfo,
    variants: Vec<&'static str>,
    threads: usize,
    memory: Memory,
    buffers: Vec<Buffer>,
    kernels: Vec<Loaded>,
    entries: Vec<Vec<Recorded>>,
}

struct Buffer {
    address: u64,
    bytes: u64,
}

struct Loaded {
    kernel: Kernel,
    program: Program,
    block: u32,
    dynamic_shared: u32,
    /// Of all launches so far.
    counters: Counters,
    launches: u64,
}

struct Recorded {
    kernel: usize,
    grid: u32,
    params: Vec<u8>,
}

/// What a kernel has done so far.
#[derive(Debug, Clone, Copy)]
pub struct Counted<'a> {
    pub kernel: &'a str,
    pub launches: u64,
    pub counters: &'a Counters,
}

impl PtxSim {
    /// A simulator on so many host threads, or as many as there are.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Threads`].
    pub fn open(threads: Option<usize>) -> Result<Self, DeviceError> {
        let threads = crate::cpu::threads_or_all(threads)?;
        Ok(Self {
            info: DeviceInfo { units: threads, ..Self::describe() },
            variants: ARCHITECTURES.iter().map(|a| a.variant).collect(),
            threads,
            memory: Memory::new(),
            buffers: Vec::new(),
            kernels: Vec::new(),
            entries: Vec::new(),
        })
    }

    /// What there is to say about it.
    pub fn describe() -> DeviceInfo {
        DeviceInfo {
            id: NAME.into(),
            target: TARGET,
            name: "simulator of NVIDIA GPUs".into(),
            units: host::threads(),
            features: vec![SOFTWARE.into(), format!("variant {}", ARCHITECTURES[0].variant)],
            memory: host::total_memory(),
        }
    }

    /// What each kernel has done so far, in the order in which they were loaded.
    pub fn counters(&self) -> impl Iterator<Item = Counted<'_>> {
        self.kernels.iter().map(|loaded| Counted {
            kernel: &loaded.kernel.name,
            launches: loaded.launches,
            counters: &loaded.counters,
        })
    }

    /// Begin to count anew.
    pub fn reset_counters(&mut self) {
        for loaded in &mut self.kernels {
            (loaded.counters, loaded.launches) = (Counters::default(), 0);
        }
    }

    /// Where a buffer lies, as in [`Counters::buffers`].
    ///
    /// # Errors
    ///
    /// [`DeviceError::Handle`].
    pub fn address(&self, buffer: BufferId) -> Result<u64, DeviceError> {
        self.place(Span::whole(buffer, 0))
    }

    fn place(&self, span: Span) -> Result<u64, DeviceError> {
        let buffer = handle::find("buffer", &self.buffers, span.buffer.0)?;
        Ok(buffer.address + span.within(buffer.bytes)?.start)
    }

    fn loaded(&mut self, kernel: &Kernel, code: &[u8]) -> Result<Loaded, DeviceError> {
        let refuse = |error: q35_ptx_sim::Error| ptx::refused(kernel, error.to_string());
        let Code { text, block, dynamic_shared, .. } = Code::new(kernel, code)?;
        let module = Module::parse(text).map_err(refuse)?;
        let program = module.load(&mut self.memory).map_err(refuse)?;
        // This decodes it, so that what the simulator does not know is said now.
        let params = program.parameters(&kernel.name).map_err(refuse)?;
        let expected = parameters(kernel);
        if params != expected {
            let reason = format!(
                "it has {} parameters of {} bytes, expected {} of {}",
                params.len(),
                params.iter().map(|p| p.1).sum::<u64>(),
                expected.len(),
                expected.iter().map(|p| p.1).sum::<u64>(),
            );
            return Err(ptx::refused(kernel, reason));
        }
        let (kernel, counters) = (kernel.clone(), Counters::default());
        Ok(Loaded { kernel, program, block, dynamic_shared, counters, launches: 0 })
    }
}

/// Where a kernel's parameters lie and how large each of them is.
fn parameters(kernel: &Kernel) -> Vec<(u64, u64)> {
    let count = kernel.params.len() as u64 + 1;
    (0..count).map(|index| (index * 8, 8)).chain([(count * 8, 4)]).collect()
}

impl Device for PtxSim {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn variants(&self) -> &[&'static str] {
        &self.variants
    }

    fn limits(&self) -> Limits {
        Limits { max_buffer: LARGEST, alignment: ALIGNMENT }
    }

    fn free_memory(&self) -> Option<u64> {
        host::free_memory()
    }

    fn alloc(&mut self, bytes: u64, _usage: Usage) -> Result<BufferId, DeviceError> {
        if bytes > LARGEST {
            return Err(DeviceError::TooLarge { bytes, max: LARGEST });
        }
        // Never none, so that it has an address.
        let whole = bytes.max(1);
        let allocated = self.memory.alloc(whole).and_then(|address| {
            self.memory.fill(address, 0, whole)?;
            Ok(address)
        });
        let address = allocated.map_err(|error| DeviceError::System {
            what: format!("{bytes} bytes"),
            source: io::Error::new(io::ErrorKind::OutOfMemory, error),
        })?;
        self.buffers.push(Buffer { address, bytes });
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    fn adopt(
        &mut self,
        file: &Arc<Mapped>,
        range: Range<usize>,
        _alignment: u64,
    ) -> Result<Option<BufferId>, DeviceError> {
        file.part(&range).map(|_| None)
    }

    fn fill(&mut self, span: Span, write: &mut dyn FnMut(&mut [u8])) -> Result<(), DeviceError> {
        let address = self.place(span)?;
        let mut bytes = vec![0; span.bytes as usize];
        write(&mut bytes);
        Ok(self.memory.write(address, &bytes)?)
    }

    fn read(&mut self, span: Span, look: &mut dyn FnMut(&[u8])) -> Result<(), DeviceError> {
        let address = self.place(span)?;
        let mut bytes = vec![0; span.bytes as usize];
        self.memory.read(address, &mut bytes)?;
        look(&bytes);
        Ok(())
    }

    fn load(
        &mut self,
        variant: &str,
        kernels: &[KernelCode<'_>],
    ) -> Result<Vec<KernelId>, DeviceError> {
        if !self.variants.contains(&variant) {
            return Err(DeviceError::no_variant(TARGET, &[variant], &self.variants));
        }
        let first = self.kernels.len() as u32;
        for KernelCode { kernel, code } in kernels {
            let loaded = self.loaded(kernel, code)?;
            self.kernels.push(loaded);
        }
        Ok((first..self.kernels.len() as u32).map(KernelId).collect())
    }

    fn record(&mut self, launches: Vec<BoundLaunch>) -> Result<EntryId, DeviceError> {
        let kernel = |id| handle::find("kernel", &self.kernels, id).map(|loaded| &loaded.kernel);
        let mut draft = Draft::new(&launches, &kernel, &|span| self.place(span))?;
        let lists = self.memory.alloc(draft.lists.len() as u64)?;
        self.memory.write(lists, &draft.lists)?;
        draft.link(lists);
        let recorded = |launch: &ptx::Launch| Recorded {
            kernel: launch.kernel,
            grid: launch.grid(GRID),
            params: launch.words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        };
        let entry = draft.launches.iter().map(recorded).collect();
        self.entries.push(entry);
        Ok(EntryId(self.entries.len() as u32 - 1))
    }

    fn run(&mut self, entry: EntryId) -> Result<(), DeviceError> {
        for Recorded { kernel, grid, params } in handle::find("entry", &self.entries, entry.0)? {
            let loaded = &mut self.kernels[*kernel];
            let launch = Launch {
                grid: [*grid, 1, 1],
                block: [loaded.block, 1, 1],
                dynamic_shared: loaded.dynamic_shared.into(),
                params,
                threads: self.threads,
                ..Launch::default()
            };
            let counters = loaded.program.launch(&self.memory, &loaded.kernel.name, &launch)?;
            loaded.counters.add(&counters);
            loaded.launches += 1;
        }
        Ok(())
    }
}
