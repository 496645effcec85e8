//! The reference evaluator as a target and a device: an artifact whose code is the kernels'
//! text, run by their definition.
//!
//! So schedules for machines that are not here are tested end to end: a model compiled for many lanes
//! and any size of subgroup gives the golden logits, before a GPU's own code is looked at.

use q35_device::{
    BoundArg, BoundLaunch, BufferId, Device, DeviceError, DeviceInfo, EntryId, KernelCode,
    KernelId, Limits, Mapped, Repeat, Span, Usage,
};
use q35_interp::kernel::{Arg, Program};
use q35_kernel::{Access, Kernel};
use q35_target::{Caps, LowerError, Mma, Target, Variant};
use std::ops::Range;
use std::sync::Arc;

/// "Code" for the evaluator, of a machine with these capabilities.
pub struct Text {
    variants: [Variant; 1],
}

impl Text {
    pub const fn new(caps: Caps) -> Self {
        Text { variants: [Variant { name: "text", extension: "txt", caps }] }
    }
}

/// A GPU without matrix units, with subgroups of this size.
pub const fn gpu(subgroup: u32) -> Caps {
    Caps {
        lanes: 128,
        subgroup,
        vector: 4,
        shared_bytes: 32 << 10,
        fma: true,
        panel_dot: false,
        mma: None,
    }
}

/// One with them.
pub const fn gpu_with_units(subgroup: u32) -> Caps {
    let mma = Some(Mma { m: 16, n: 16, k: 16 });
    Caps { shared_bytes: 44 << 10, mma, ..gpu(subgroup) }
}

impl Target for Text {
    fn name(&self) -> &'static str {
        "interp"
    }

    fn variants(&self) -> &[Variant] {
        &self.variants
    }

    fn lower(&self, _: &Variant, kernel: &Kernel) -> Result<Vec<u8>, LowerError> {
        Ok(kernel.to_string().into_bytes())
    }

    fn file(&self, _: &Variant, _: &str, code: &[u8]) -> Vec<u8> {
        code.to_vec()
    }

    fn listing(&self, _: &Variant, kernel: &Kernel) -> Result<String, LowerError> {
        Ok(kernel.to_string())
    }
}

/// Runs [`Text`].
pub struct Evaluator {
    info: DeviceInfo,
    buffers: Vec<Vec<u8>>,
    kernels: Vec<(Kernel, Program)>,
    entries: Vec<Vec<BoundLaunch>>,
}

impl Default for Evaluator {
    fn default() -> Self {
        let info = DeviceInfo {
            id: "interp".into(),
            target: "interp",
            name: "reference evaluator".into(),
            units: 1,
            features: vec![],
            memory: None,
        };
        Evaluator { info, buffers: vec![], kernels: vec![], entries: vec![] }
    }
}

impl Evaluator {
    fn bytes(&self, s: Span) -> &[u8] {
        &self.buffers[s.buffer.0 as usize][s.offset as usize..][..s.bytes as usize]
    }

    fn bytes_mut(&mut self, s: Span) -> &mut [u8] {
        &mut self.buffers[s.buffer.0 as usize][s.offset as usize..][..s.bytes as usize]
    }

    fn launch(&mut self, launch: &BoundLaunch) {
        let times = match launch.tasks.repeat {
            Repeat::Once => 1,
            Repeat::Word { buffer, offset } => {
                let word = self.bytes(Span { buffer, offset, bytes: 4 });
                i32::from_le_bytes(word.try_into().expect("four bytes")).max(0) as u32
            }
        };
        let (kernel, program) = &self.kernels[launch.kernel.0 as usize];
        let span = |n: usize| match &launch.args[n] {
            BoundArg::Span(span) => *span,
            BoundArg::Table(_) => panic!("a table is only read"),
        };
        let tables: Vec<Vec<&[u8]>> = launch
            .args
            .iter()
            .map(|arg| match arg {
                BoundArg::Span(_) => vec![],
                BoundArg::Table(spans) => spans.iter().map(|&s| self.bytes(s)).collect(),
            })
            .collect();
        let writes = |n: &usize| kernel.params[*n].access != Access::Read;
        let mut written: Vec<(usize, Vec<u8>)> = (0..kernel.params.len())
            .filter(writes)
            .map(|n| (n, self.bytes(span(n)).to_vec()))
            .collect();
        let mut copies = written.iter_mut();
        let mut args: Vec<Arg<'_>> = (0..kernel.params.len())
            .map(|n| match (kernel.params[n].table, writes(&n)) {
                (true, _) => Arg::Table(&tables[n]),
                (false, false) => Arg::Read(self.bytes(span(n))),
                (false, true) => Arg::Write(&mut copies.next().expect("a copy of each result").1),
            })
            .collect();
        if let Err(fault) = program.run(&mut args, 0..launch.tasks.each * times) {
            panic!("`{}`: {fault}\n{kernel}", kernel.name);
        }
        drop(args);
        drop(tables);
        for (n, bytes) in written {
            let BoundArg::Span(span) = launch.args[n] else { panic!("a table is only read") };
            self.bytes_mut(span).copy_from_slice(&bytes);
        }
    }
}

impl Device for Evaluator {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn variants(&self) -> &[&'static str] {
        &["text"]
    }

    fn limits(&self) -> Limits {
        Limits { max_buffer: 1 << 40, alignment: 64 }
    }

    fn free_memory(&self) -> Option<u64> {
        None
    }

    fn alloc(&mut self, bytes: u64, _: Usage) -> Result<BufferId, DeviceError> {
        self.buffers.push(vec![0; bytes as usize]);
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    fn adopt(
        &mut self,
        _: &Arc<Mapped>,
        _: Range<usize>,
        _: u64,
    ) -> Result<Option<BufferId>, DeviceError> {
        Ok(None)
    }

    fn fill(&mut self, span: Span, write: &mut dyn FnMut(&mut [u8])) -> Result<(), DeviceError> {
        write(self.bytes_mut(span));
        Ok(())
    }

    fn read(&mut self, span: Span, look: &mut dyn FnMut(&[u8])) -> Result<(), DeviceError> {
        look(self.bytes(span));
        Ok(())
    }

    fn load(&mut self, _: &str, kernels: &[KernelCode<'_>]) -> Result<Vec<KernelId>, DeviceError> {
        let first = self.kernels.len() as u32;
        for code in kernels {
            let text = std::str::from_utf8(code.code).expect("text");
            let kernel: Kernel = text.parse().expect("a kernel's own text");
            let program = Program::new(&kernel).expect("a verified kernel");
            self.kernels.push((kernel, program));
        }
        Ok((first..self.kernels.len() as u32).map(KernelId).collect())
    }

    fn record(&mut self, launches: Vec<BoundLaunch>) -> Result<EntryId, DeviceError> {
        self.entries.push(launches);
        Ok(EntryId(self.entries.len() as u32 - 1))
    }

    fn run(&mut self, entry: EntryId) -> Result<(), DeviceError> {
        let launches = self.entries[entry.0 as usize].clone();
        launches.iter().for_each(|l| self.launch(l));
        Ok(())
    }
}
