//! Packing: in parallel, straight into the device's memory, or not at all.
//!
//! Experts of a layer share a buffer. It is filled front to back in steps of some megabytes; each
//! step is cut into jobs of whole blocks of rows, which threads pack side by side. How a weight
//! is cut changes nothing about its bytes.

use super::resolve::{Instance, Piece};
use super::{Placed, Weights, WeightsError};
use q35_device::{BufferId, Device, Span, Usage};
use q35_types::pack::{Packed, Source, Transform};
use q35_types::{DType, Layout};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ops::Range;

/// Packed bytes of a job: enough to be worth handing out.
const JOB: usize = 1 << 18;
/// Packed bytes of a step, after which progress is reported: a device with memory of its own
/// stages as much.
const STEP: u64 = 64 << 20;

/// How far packing has come, in packed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

/// What rows of a packed matrix are made of.
pub trait Material: Sync {
    /// The place of the matrix in a mapped file, if it is stored as kernels read it.
    fn stored<'a>(_parts: &'a [Self], _packed: &Packed) -> Option<Stored<'a>>
    where
        Self: Sized,
    {
        None
    }

    /// How many rows it gives.
    fn rows(&self) -> usize;

    /// Its rows `rows` as a source for packing; `scratch` is memory for those that are made up.
    fn source<'a>(
        &'a self,
        cols: usize,
        rows: Range<usize>,
        scratch: &'a mut Vec<u8>,
    ) -> Source<'a>;

    /// It will not be read again soon.
    fn release(&self) {}
}

/// Bytes of a tensor.
pub struct Stored<'a> {
    pub tensor: &'a crate::checkpoint::Tensor,
    pub first: usize,
}

pub struct Packer<'a> {
    device: &'a mut dyn Device,
    threads: usize,
    progress: &'a mut dyn FnMut(Progress),
    /// Tensors that kernels read where they lie, by file and place in it.
    adopted: HashMap<(usize, usize), Option<BufferId>>,
    done: u64,
    total: u64,
    weights: Weights,
}

/// Some rows of a matrix, to be packed by one thread.
struct Job<'a, P> {
    parts: &'a [P],
    rows: Range<usize>,
    /// Where in its buffer.
    place: Range<u64>,
}

impl<'a> Packer<'a> {
    pub fn new(
        device: &'a mut dyn Device,
        threads: usize,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        Self {
            device,
            threads,
            progress,
            adopted: HashMap::new(),
            done: 0,
            total: 0,
            weights: Weights::default(),
        }
    }

    pub fn pack<P: Material>(
        mut self,
        instances: &[Instance<'_, P>],
    ) -> Result<Weights, WeightsError> {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build();
        let threads = threads.expect("as many threads as the device has started");
        let mut rest = Vec::new();
        for instance in instances {
            match self.adopt(instance)? {
                Some(spans) => self.keep(instance, spans),
                None => rest.push(instance),
            }
        }
        self.total =
            rest.iter().map(|i| i.weight.packed().bytes() as u64 * i.matrices.len() as u64).sum();
        self.report(0);
        for instance in rest {
            let spans = self.pack_instance(instance, &threads)?;
            self.keep(instance, spans);
        }
        Ok(self.weights)
    }

    fn keep<P>(&mut self, instance: &Instance<'_, P>, spans: Vec<Span>) {
        let placed = match instance.weight.experts {
            Some(_) => Placed::Experts(spans),
            None => Placed::One(spans[0]),
        };
        self.weights.places.insert((instance.index, instance.layer), placed);
    }

    fn report(&mut self, more: u64) {
        self.done += more;
        (self.progress)(Progress { done: self.done, total: self.total });
    }

    /// The weight where it lies in the checkpoint, if all of it can be read there.
    fn adopt<P: Material>(
        &mut self,
        instance: &Instance<'_, P>,
    ) -> Result<Option<Vec<Span>>, WeightsError> {
        let packed = instance.weight.packed();
        let bytes = packed.bytes() as u64;
        let mut spans = Vec::new();
        for parts in &instance.matrices {
            let Some(Stored { tensor, first }) = P::stored(parts, &packed) else {
                return Ok(None);
            };
            let key = (tensor.file.bytes().as_ptr().addr(), tensor.range.start);
            let buffer = match self.adopted.get(&key) {
                Some(&known) => known,
                None => {
                    let alignment = packed.dtype.size() as u64;
                    let buffer =
                        self.device.adopt(&tensor.file, tensor.range.clone(), alignment)?;
                    self.adopted.insert(key, buffer);
                    buffer
                }
            };
            let Some(buffer) = buffer else {
                return Ok(None);
            };
            spans.push(Span { buffer, offset: first as u64, bytes });
        }
        self.weights.mapped_bytes += bytes * spans.len() as u64;
        Ok(Some(spans))
    }

    /// Allocate buffers for all matrices of a weight, as few as the device allows, and fill them.
    fn pack_instance<P: Material>(
        &mut self,
        instance: &Instance<'_, P>,
        threads: &rayon::ThreadPool,
    ) -> Result<Vec<Span>, WeightsError> {
        let packed = instance.weight.packed();
        let bytes = packed.bytes() as u64;
        let limits = self.device.limits();
        let stride = bytes.next_multiple_of(limits.alignment);
        let together = (limits.max_buffer / stride.max(1)).max(1) as usize;
        let mut spans = Vec::new();
        for matrices in instance.matrices.chunks(together) {
            let all = stride * matrices.len() as u64;
            let buffer = self.device.alloc(all, Usage::Resident)?;
            self.weights.packed_bytes += all;
            let mut jobs = Vec::new();
            for (parts, at) in matrices.iter().zip((0..).step_by(stride as usize)) {
                spans.push(Span { buffer, offset: at, bytes });
                jobs.extend(cut(&packed, parts, at));
            }
            let mut rest = jobs.as_slice();
            while let Some(first) = rest.first() {
                let fits = |job: &&Job<'_, P>| job.place.end - first.place.start <= STEP;
                let (step, after) = rest.split_at(rest.iter().take_while(fits).count().max(1));
                self.step(buffer, &packed, step, threads)?;
                rest = after;
            }
        }
        Ok(spans)
    }

    fn step<P: Material>(
        &mut self,
        buffer: BufferId,
        packed: &Packed,
        jobs: &[Job<'_, P>],
        threads: &rayon::ThreadPool,
    ) -> Result<(), WeightsError> {
        let (first, last) = (&jobs[0].place, &jobs[jobs.len() - 1].place);
        let (begin, end) = (first.start, last.end);
        let span = Span { buffer, offset: begin, bytes: end - begin };
        self.device.fill(span, &mut |out| {
            let outs = slices(jobs, begin, out);
            threads.install(|| {
                jobs.par_iter().zip(outs).for_each(|(job, out)| pack_job(packed, job, out));
            });
        })?;
        let mut released: Option<*const P> = None;
        for job in jobs {
            let parts = job.parts.as_ptr();
            if released != Some(parts) {
                job.parts.iter().for_each(P::release);
                released = Some(parts);
            }
        }
        self.report(jobs.iter().map(|j| j.place.end - j.place.start).sum());
        Ok(())
    }
}

/// The matrix at `at` of its buffer, cut into jobs of whole blocks.
fn cut<'a, P>(packed: &Packed, parts: &'a [P], at: u64) -> impl Iterator<Item = Job<'a, P>> {
    let packed = *packed;
    let height = packed.block_rows();
    let block = height * packed.cols * packed.dtype.size();
    let rows = height * (JOB / block.max(1)).max(1);
    (0..packed.rows).step_by(rows).map(move |first| {
        let end = (first + rows).min(packed.rows);
        let offset = |row: usize| at + (row.div_ceil(height) * block) as u64;
        Job { parts, rows: first..end, place: offset(first)..offset(end) }
    })
}

/// The bytes of each job in `out`, which begins at `begin` of the buffer.
fn slices<'o, P>(jobs: &[Job<'_, P>], begin: u64, out: &'o mut [u8]) -> Vec<&'o mut [u8]> {
    let (mut rest, mut at) = (out, begin);
    let mut outs = Vec::with_capacity(jobs.len());
    for job in jobs {
        let (_, own) = rest.split_at_mut((job.place.start - at) as usize);
        let (own, after) = own.split_at_mut((job.place.end - job.place.start) as usize);
        outs.push(own);
        (rest, at) = (after, job.place.end);
    }
    outs
}

/// Pack the rows of a job as a matrix of their own: blocks do not depend on each other.
fn pack_job<P: Material>(packed: &Packed, job: &Job<'_, P>, out: &mut [u8]) {
    let mut scratch: Vec<Vec<u8>> = job.parts.iter().map(|_| Vec::new()).collect();
    let mut sources = Vec::with_capacity(job.parts.len());
    let mut start = 0;
    for (part, scratch) in job.parts.iter().zip(&mut scratch) {
        let end = start + part.rows();
        let rows = job.rows.start.max(start)..job.rows.end.min(end);
        if rows.start < rows.end {
            let own = rows.start - start..rows.end - start;
            sources.push(part.source(packed.cols, own, scratch));
        }
        start = end;
    }
    let rows = job.rows.len();
    Packed { rows, ..*packed }.pack(&sources, 0..rows, out);
}

impl Material for Piece<'_> {
    fn stored<'a>(parts: &'a [Self], packed: &Packed) -> Option<Stored<'a>> {
        match parts {
            [Piece::Tensor { tensor, dtype, first, transform: Transform::None, .. }]
                if *dtype == packed.dtype && packed.layout == Layout::Rows =>
            {
                Some(Stored { tensor, first: *first })
            }
            _ => None,
        }
    }

    fn rows(&self) -> usize {
        match self {
            Piece::Tensor { rows, .. } | Piece::Zeros { rows } | Piece::Values { rows, .. } => {
                *rows as usize
            }
        }
    }

    fn source<'a>(&'a self, cols: usize, rows: Range<usize>, _: &'a mut Vec<u8>) -> Source<'a> {
        let of = |bytes: &'a [u8], dtype: DType, transform| {
            let row = cols * dtype.size();
            let bytes = &bytes[rows.start * row..rows.end * row];
            Source::Tensor { bytes, dtype, transform, rows: rows.len() }
        };
        match self {
            Piece::Tensor { tensor, dtype, first, transform, .. } => {
                of(&tensor.bytes()[*first..], *dtype, *transform)
            }
            Piece::Values { bytes, .. } => of(bytes, DType::F32, Transform::None),
            Piece::Zeros { .. } => Source::Zeros { rows: rows.len() },
        }
    }

    fn release(&self) {
        if let Piece::Tensor { tensor, .. } = self {
            tensor.file.release(tensor.range.clone());
        }
    }
}
