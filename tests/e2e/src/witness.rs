//! A device that does everything twice.
//!
//! [`Witness`] wraps a device. Each launch also runs on the reference evaluator, on copies of the
//! same memory, and what both have written is compared. So whatever a test makes an engine
//! do on it is a conformance test of every kernel on the way, on the arguments that really occur.

use q35_device::{
    BoundArg, BoundLaunch, BufferId, Device, DeviceError, DeviceInfo, EntryId, KernelCode,
    KernelId, Limits, Mapped, Repeat, Span, Usage,
};
use q35_interp::kernel::{Arg, Program};
use q35_kernel::{Access, Kernel};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Launches that were compared, by kernel.
pub type Seen = Arc<Mutex<HashMap<String, u64>>>;

/// A device and the kernels that its code was made from.
pub struct Witness {
    inner: Box<dyn Device>,
    kernels: HashMap<String, Kernel>,
    loaded: Vec<(Kernel, Program)>,
    /// The launches of each entry, each recorded alone.
    entries: Vec<Vec<(BoundLaunch, EntryId)>>,
    seen: Seen,
}

impl Witness {
    /// `kernels` are those of the variant that `inner` will load.
    pub fn new(inner: Box<dyn Device>, kernels: Vec<Kernel>) -> Self {
        Witness {
            inner,
            kernels: kernels.into_iter().map(|k| (k.name.clone(), k)).collect(),
            loaded: vec![],
            entries: vec![],
            seen: Seen::default(),
        }
    }

    pub fn seen(&self) -> Seen {
        self.seen.clone()
    }

    fn copy(&mut self, span: Span) -> Result<Vec<u8>, DeviceError> {
        let mut copy = vec![];
        self.inner.read(span, &mut |bytes| copy = bytes.to_vec())?;
        Ok(copy)
    }

    fn tasks(&mut self, launch: &BoundLaunch) -> Result<u32, DeviceError> {
        let times = match launch.tasks.repeat {
            Repeat::Once => 1,
            Repeat::Word { buffer, offset } => {
                let word = self.copy(Span { buffer, offset, bytes: 4 })?;
                i32::from_le_bytes(word.try_into().expect("four bytes")).max(0) as u32
            }
        };
        Ok(launch.tasks.each * times)
    }

    fn both(&mut self, launch: &BoundLaunch, entry: EntryId) -> Result<(), DeviceError> {
        let tasks = self.tasks(launch)?;
        let spans: Vec<Vec<Span>> = launch
            .args
            .iter()
            .map(|arg| match arg {
                BoundArg::Span(span) => vec![*span],
                BoundArg::Table(spans) => spans.clone(),
            })
            .collect();
        let mut memory: Vec<Vec<Vec<u8>>> = vec![];
        for list in &spans {
            memory.push(list.iter().map(|&s| self.copy(s)).collect::<Result<_, _>>()?);
        }
        let (kernel, program) = &self.loaded[launch.kernel.0 as usize];
        let tables: Vec<Vec<&[u8]>> = memory
            .iter()
            .zip(&kernel.params)
            .map(|(m, p)| if p.table { m.iter().map(Vec::as_slice).collect() } else { vec![] })
            .collect();
        let mut written: Vec<(usize, Vec<u8>)> = kernel
            .params
            .iter()
            .enumerate()
            .filter(|(_, p)| p.access != Access::Read)
            .map(|(n, _)| (n, memory[n][0].clone()))
            .collect();
        let mut results = written.iter_mut();
        let mut args: Vec<Arg<'_>> = kernel
            .params
            .iter()
            .enumerate()
            .map(|(n, p)| match (p.table, p.access) {
                (true, _) => Arg::Table(&tables[n]),
                (false, Access::Read) => Arg::Read(&memory[n][0]),
                (false, _) => Arg::Write(&mut results.next().expect("a copy of each result").1),
            })
            .collect();
        if let Err(fault) = program.run(&mut args, 0..tasks) {
            panic!("`{}` in the reference evaluator: {fault}", kernel.name);
        }
        drop(args);
        let kernel = kernel.clone();
        self.inner.run(entry)?;
        for (n, expected) in written {
            let found = self.copy(spans[n][0])?;
            if found != expected {
                let at =
                    found.iter().zip(&expected).position(|(a, b)| a != b).expect("equal lengths");
                let differ = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
                let word = |b: &[u8]| {
                    let at = at / 4 * 4;
                    f32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"))
                };
                panic!(
                    "`{}` writes `{}`: {differ} bytes differ, first at byte {at} of {} ({} here, {} by definition)",
                    kernel.name,
                    kernel.params[n].name,
                    found.len(),
                    word(&found),
                    word(&expected),
                );
            }
        }
        *self.seen.lock().expect("no panic while counting").entry(kernel.name).or_default() += 1;
        Ok(())
    }
}

impl Device for Witness {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn warnings(&self) -> &[String] {
        self.inner.warnings()
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
        self.inner.alloc(bytes, usage)
    }

    fn adopt(
        &mut self,
        file: &Arc<Mapped>,
        range: Range<usize>,
        alignment: u64,
    ) -> Result<Option<BufferId>, DeviceError> {
        self.inner.adopt(file, range, alignment)
    }

    fn fill(&mut self, span: Span, write: &mut dyn FnMut(&mut [u8])) -> Result<(), DeviceError> {
        self.inner.fill(span, write)
    }

    fn read(&mut self, span: Span, look: &mut dyn FnMut(&[u8])) -> Result<(), DeviceError> {
        self.inner.read(span, look)
    }

    fn load(
        &mut self,
        variant: &str,
        kernels: &[KernelCode<'_>],
    ) -> Result<Vec<KernelId>, DeviceError> {
        for code in kernels {
            let kernel = &self.kernels[&code.kernel.name];
            let program = Program::new(kernel).expect("a verified kernel");
            self.loaded.push((kernel.clone(), program));
        }
        let ids = self.inner.load(variant, kernels)?;
        assert!(
            ids.iter().enumerate().all(|(n, id)| id.0 as usize == n),
            "kernels are loaded once, in order"
        );
        Ok(ids)
    }

    fn record(&mut self, launches: Vec<BoundLaunch>) -> Result<EntryId, DeviceError> {
        let alone = |launch: BoundLaunch| Ok((launch.clone(), self.inner.record(vec![launch])?));
        let entry = launches.into_iter().map(alone).collect::<Result<_, DeviceError>>()?;
        self.entries.push(entry);
        Ok(EntryId(self.entries.len() as u32 - 1))
    }

    fn run(&mut self, entry: EntryId) -> Result<(), DeviceError> {
        let launches = self.entries[entry.0 as usize].clone();
        launches.iter().try_for_each(|(launch, alone)| self.both(launch, *alone))
    }
}
