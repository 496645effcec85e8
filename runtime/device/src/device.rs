//! What the engine asks of a device, and nothing else.
//!
//! Everything that costs time is done while a model is loaded: memory is allocated, kernels are
//! loaded, and each entry point of the plan is bound to real memory and recorded. A step is then
//! three calls that allocate nothing: [`fill`](Device::fill) the step parameters,
//! [`run`](Device::run) an entry, [`read`](Device::read) the logits. A GPU records an entry as one
//! command buffer or graph and replays it, since nothing in it depends on the step: numbers of
//! tasks are read from memory ([`Repeat::Word`]).
//!
//! Memory is named by handles that live as long as the device. Kernels see addresses, not
//! handles; a list of buffers ([`BoundArg::Table`]) is an array of addresses.

use crate::{DeviceError, Mapped};
use q35_artifact::Kernel;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Memory of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// A loaded kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KernelId(pub u32);

/// A recorded entry point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryId(pub u32);

/// Part of a buffer, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    pub buffer: BufferId,
    pub offset: u64,
    pub bytes: u64,
}

/// Who touches a buffer between steps: what a device with memory of its own must know to place it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// Kernels only, once it has been filled.
    Resident,
    /// The host fills it before each step.
    HostWrites,
    /// The host reads it after a step.
    HostReads,
}

/// What one buffer can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the largest buffer.
    pub max_buffer: u64,
    /// Spans that kernels get begin at multiples of it, unless memory is adopted. A power of two.
    pub alignment: u64,
}

/// A kernel to load: its place in the plan and its code.
#[derive(Debug, Clone, Copy)]
pub struct KernelCode<'a> {
    pub kernel: &'a Kernel,
    pub code: &'a [u8],
}

/// A launch on real memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundLaunch {
    pub kernel: KernelId,
    pub tasks: BoundTasks,
    /// One for each parameter of the kernel.
    pub args: Vec<BoundArg>,
}

/// `each` tasks, as often as the memory says when the launch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundTasks {
    pub each: u32,
    pub repeat: Repeat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    Once,
    /// The `i32` there, which the host or an earlier launch wrote; a negative one counts as 0.
    Word {
        buffer: BufferId,
        offset: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundArg {
    Span(Span),
    /// A list of buffers.
    Table(Vec<Span>),
}

/// A device and all that has been loaded into it. It is dropped as a whole.
pub trait Device: Send {
    fn info(&self) -> &DeviceInfo;

    /// Names of the code variants of [`DeviceInfo::target`] that it runs, best first.
    fn variants(&self) -> &[&'static str];

    /// All that keeps it from running a variant that is none of these, for people; nothing if there
    /// is no such variant, as far as is known here.
    fn lacks(&self, _variant: &str) -> Option<String> {
        None
    }

    fn limits(&self) -> Limits;

    /// Bytes that could be allocated now, as far as that is known.
    fn free_memory(&self) -> Option<u64>;

    /// What went wrong so far and was got over, for people: one line each.
    fn warnings(&self) -> &[String] {
        &[]
    }

    /// Memory of zeros.
    ///
    /// # Errors
    ///
    /// [`DeviceError::TooLarge`] beyond [`Limits::max_buffer`], [`DeviceError::System`].
    fn alloc(&mut self, bytes: u64, usage: Usage) -> Result<BufferId, DeviceError>;

    /// Let kernels read a range of a mapped file where it lies. `None` if this device cannot, or
    /// not at a place that is no multiple of `alignment`: then allocate and fill.
    ///
    /// # Errors
    ///
    /// [`DeviceError::OutOfRange`] if the file does not have the range.
    fn adopt(
        &mut self,
        file: &Arc<Mapped>,
        range: Range<usize>,
        alignment: u64,
    ) -> Result<Option<BufferId>, DeviceError>;

    /// Have `write` write all of a span, in place or into memory on the way there. It is called
    /// once; what it finds there is undefined, and what it leaves unwritten becomes so.
    ///
    /// # Errors
    ///
    /// [`DeviceError::OutOfRange`], [`DeviceError::ReadOnly`] for an adopted buffer.
    fn fill(&mut self, span: Span, write: &mut dyn FnMut(&mut [u8])) -> Result<(), DeviceError>;

    /// Show a span to `look`, once, when all that was run has finished.
    ///
    /// # Errors
    ///
    /// [`DeviceError::OutOfRange`].
    fn read(&mut self, span: Span, look: &mut dyn FnMut(&[u8])) -> Result<(), DeviceError>;

    /// Load kernels, in order, from the code of a variant.
    ///
    /// Code in an artifact is code: it runs with all the rights of this program.
    ///
    /// # Errors
    ///
    /// The code is not what this device takes.
    fn load(
        &mut self,
        variant: &str,
        kernels: &[KernelCode<'_>],
    ) -> Result<Vec<KernelId>, DeviceError>;

    /// Check launches against kernels and memory, and make them ready to run as one entry: each
    /// launch sees all that those before it wrote.
    ///
    /// # Errors
    ///
    /// A launch does not fit its kernel or its memory: see [`DeviceError`].
    fn record(&mut self, launches: Vec<BoundLaunch>) -> Result<EntryId, DeviceError>;

    /// Run a recorded entry. Allocates nothing. It may return before the entry is done.
    ///
    /// # Errors
    ///
    /// The device is lost; a CPU never is.
    fn run(&mut self, entry: EntryId) -> Result<(), DeviceError>;
}

/// The feature of a [`DeviceInfo`] by which software that plays a GPU is known.
pub(crate) const SOFTWARE: &str = "software";

/// What is known about a device, for people and for choosing one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// As in `--device`.
    pub id: String,
    /// Whose code it runs, as in `q35c compile --target`.
    pub target: &'static str,
    /// The maker's name for it.
    pub name: String,
    /// Threads of the host on a CPU or a simulator, compute units on a GPU; 0 if that is not known.
    pub units: usize,
    /// What it can do that matters here, and which variants of the code it runs.
    pub features: Vec<String>,
    /// Bytes in all, if known.
    pub memory: Option<u64>,
}

impl Span {
    /// All of a buffer of so many bytes.
    pub const fn whole(buffer: BufferId, bytes: u64) -> Self {
        Self { buffer, offset: 0, bytes }
    }

    /// `bytes` bytes from `offset` on, counted from the beginning of this span.
    pub const fn part(self, offset: u64, bytes: u64) -> Self {
        Self { offset: self.offset + offset, bytes, ..self }
    }
}

impl DeviceInfo {
    /// Whether it is software that plays a GPU.
    pub fn is_software(&self) -> bool {
        self.features.iter().any(|feature| feature == SOFTWARE)
    }
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.name)?;
        match self.units {
            // A driver need not say.
            0 => (),
            units if [crate::cpu::NAME, crate::ptx_sim::NAME].contains(&&*self.id) => {
                write!(f, ", {units} threads")?
            }
            units => write!(f, ", {units} compute units")?,
        }
        if let Some(bytes) = self.memory {
            write!(f, ", {:.1} GiB", bytes as f64 / (1u64 << 30) as f64)?;
        }
        if !self.features.is_empty() {
            write!(f, " ({})", self.features.join(", "))?;
        }
        Ok(())
    }
}
