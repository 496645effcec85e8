//! A device that writes down what it is asked for, and spoils what nobody may rely on.

use q35_device::{
    BoundLaunch, BufferId, Device, DeviceError, DeviceInfo, EntryId, KernelCode, KernelId, Limits,
    Mapped, Span, Usage,
};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What a device was asked for that takes time or memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Alloc,
    Adopt,
    /// Code of a variant: name and code of each kernel.
    Load(String, Vec<(String, Vec<u8>)>),
    Record,
    Run,
}

pub type Calls = Arc<Mutex<Vec<Call>>>;

/// A device that is watched.
pub struct Spy {
    inner: Box<dyn Device>,
    calls: Calls,
    read: Arc<AtomicU64>,
    /// Buffers of this size are filled with NaN before each run of an entry below the number.
    spoil: Option<(u64, u32)>,
    spoilt: Vec<Span>,
}

impl Spy {
    pub fn new(inner: Box<dyn Device>) -> Spy {
        let (calls, read) = (Calls::default(), Arc::default());
        Spy { inner, calls, read, spoil: None, spoilt: vec![] }
    }

    /// Before each `prefill` and `decode`, the buffers of so many bytes hold NaN, and -1 for those who
    /// read integers.
    #[must_use]
    pub fn spoiling(self, bytes: u64) -> Spy {
        // Entries are recorded in the order prefill, decode, head.
        Spy { spoil: Some((bytes, 2)), ..self }
    }

    pub fn calls(&self) -> Calls {
        self.calls.clone()
    }

    /// Bytes that have been read of the device's memory, so far.
    pub fn bytes_read(&self) -> Arc<AtomicU64> {
        self.read.clone()
    }

    fn note(&self, call: Call) {
        self.calls.lock().expect("nobody fails while writing").push(call);
    }
}

impl Device for Spy {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn variants(&self) -> &[&'static str] {
        self.inner.variants()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn free_memory(&self) -> Option<u64> {
        self.inner.free_memory()
    }

    fn alloc(&mut self, bytes: u64, usage: Usage) -> Result<BufferId, DeviceError> {
        self.note(Call::Alloc);
        let buffer = self.inner.alloc(bytes, usage)?;
        if self.spoil.is_some_and(|(size, _)| size == bytes) {
            self.spoilt.push(Span::whole(buffer, bytes));
        }
        Ok(buffer)
    }

    fn adopt(
        &mut self,
        file: &Arc<Mapped>,
        range: Range<usize>,
        alignment: u64,
    ) -> Result<Option<BufferId>, DeviceError> {
        self.note(Call::Adopt);
        self.inner.adopt(file, range, alignment)
    }

    fn fill(&mut self, span: Span, write: &mut dyn FnMut(&mut [u8])) -> Result<(), DeviceError> {
        self.inner.fill(span, write)
    }

    fn read(&mut self, span: Span, look: &mut dyn FnMut(&[u8])) -> Result<(), DeviceError> {
        self.read.fetch_add(span.bytes, Ordering::Relaxed);
        self.inner.read(span, look)
    }

    fn load(
        &mut self,
        variant: &str,
        kernels: &[KernelCode<'_>],
    ) -> Result<Vec<KernelId>, DeviceError> {
        let code = kernels.iter().map(|k| (k.kernel.name.clone(), k.code.to_vec()));
        self.note(Call::Load(variant.into(), code.collect()));
        self.inner.load(variant, kernels)
    }

    fn record(&mut self, launches: Vec<BoundLaunch>) -> Result<EntryId, DeviceError> {
        self.note(Call::Record);
        self.inner.record(launches)
    }

    fn run(&mut self, entry: EntryId) -> Result<(), DeviceError> {
        self.note(Call::Run);
        if self.spoil.is_some_and(|(_, entries)| entry.0 < entries) {
            assert!(!self.spoilt.is_empty(), "there is memory of that size");
            for &span in &self.spoilt {
                self.inner.fill(span, &mut |bytes| bytes.fill(0xff))?;
            }
        }
        self.inner.run(entry)
    }
}
