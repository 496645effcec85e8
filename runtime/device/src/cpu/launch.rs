//! An entry point as the CPU runs it: addresses written down once, then all threads through all
//! launches side by side.

use super::code;
use super::memory::Buffers;
use super::micro::MicroTable;
use super::pool::Pool;
use crate::{BoundArg, BoundLaunch, DeviceError, Repeat, Span, handle};
use q35_artifact::{Kernel, Param};

/// A kernel and where its code lies.
pub(super) struct Loaded {
    pub kernel: Kernel,
    pub run: code::Entry,
}

/// A recorded entry.
pub(super) struct Recorded {
    launches: Vec<Launch>,
    /// The arguments of all launches, one after another: of a list, the address of its first.
    addresses: Vec<*const u8>,
    /// The addresses of which lists consist. Their heap memory stays where it is.
    _tables: Vec<Box<[*const u8]>>,
}

struct Launch {
    run: code::Entry,
    each: u32,
    /// The number by which `each` is multiplied, if it is not 1.
    times: Option<*const i32>,
    /// Where the arguments begin in `addresses`.
    first: usize,
}

// SAFETY: the addresses are of buffers of the device that owns this entry; they are followed only
// in `run`, which borrows those buffers.
unsafe impl Send for Recorded {}

impl Recorded {
    /// Check each launch against its kernel and `buffers`, which must never free or move one.
    pub fn new(
        launches: &[BoundLaunch],
        kernels: &[Loaded],
        buffers: &Buffers,
    ) -> Result<Self, DeviceError> {
        let mut recorded =
            Self { launches: Vec::new(), addresses: Vec::new(), _tables: Vec::new() };
        for launch in launches {
            let loaded = handle::find("kernel", kernels, launch.kernel.0)?;
            recorded.add(launch, loaded, buffers)?;
        }
        Ok(recorded)
    }

    /// Run every launch, each on all threads of the pool. Allocates nothing.
    ///
    /// # Safety
    ///
    /// The buffers and code that this was recorded with still exist, nothing else uses those
    /// buffers meanwhile, and the kernels stay within the spans that they were given.
    /// `scratch` has memory for each thread, as much as the kernels ask for, that nobody else uses.
    pub unsafe fn run(&self, pool: &mut Pool, scratch: &[*mut u8], micro: &MicroTable) {
        let shared = Shared { recorded: self, scratch, micro };
        pool.run(|worker| {
            // Capture the whole, whose promise this is, and not its fields.
            let Shared { recorded, scratch, micro } = { &shared };
            for launch in &recorded.launches {
                // SAFETY: the address was checked when it was recorded, to be aligned and inside
                // a buffer that still exists; earlier launches have ended, and this one does not
                // write its own number.
                let times = launch.times.map_or(1, |word| unsafe { word.read() });
                let tasks = u64::from(launch.each) * u64::try_from(times).unwrap_or(0);
                let buffers = recorded.addresses[launch.first..].as_ptr();
                worker.launch(tasks, |range| {
                    // SAFETY: the code is a kernel of this machine's variant (`load` and the
                    // caller of `load` vouch for it), its arguments are as many and of the kind
                    // that it expects, and tasks of one launch do not disturb each other. This
                    // thread has its scratch to itself.
                    unsafe {
                        let scratch = scratch[worker.index()];
                        (launch.run)(buffers, scratch, range.start, range.end, *micro);
                    }
                });
            }
        });
    }

    fn add(
        &mut self,
        launch: &BoundLaunch,
        loaded: &Loaded,
        buffers: &Buffers,
    ) -> Result<(), DeviceError> {
        let kernel = &loaded.kernel;
        let (found, expected) = (launch.args.len(), kernel.params.len());
        if found != expected {
            let kernel = kernel.name.clone();
            return Err(DeviceError::Arguments { kernel, found, expected });
        }
        let first = self.addresses.len();
        for (arg, param) in launch.args.iter().zip(&kernel.params) {
            let address = self.argument(arg, kernel, param, buffers)?;
            self.addresses.push(address);
        }
        let times = match launch.tasks.repeat {
            Repeat::Once => None,
            Repeat::Word { buffer, offset } => {
                let word = buffers.address(Span { buffer, offset, bytes: 4 })?;
                if !word.addr().is_multiple_of(4) {
                    let kernel = kernel.name.clone();
                    return Err(DeviceError::Misaligned { kernel, param: "tasks".into(), size: 4 });
                }
                Some(word.cast())
            }
        };
        self.launches.push(Launch { run: loaded.run, each: launch.tasks.each, times, first });
        Ok(())
    }

    fn argument(
        &mut self,
        arg: &BoundArg,
        kernel: &Kernel,
        param: &Param,
        buffers: &Buffers,
    ) -> Result<*const u8, DeviceError> {
        let refuse = |found, expected| {
            let (kernel, param) = (kernel.name.clone(), param.name.clone());
            Err(DeviceError::Argument { kernel, param, found, expected })
        };
        let address = |span: Span| {
            let address = match param.write {
                true => buffers.address_mut(span)?.cast_const(),
                false => buffers.address(span)?,
            };
            let size = param.dtype.size();
            if !address.addr().is_multiple_of(size) {
                let (kernel, param) = (kernel.name.clone(), param.name.clone());
                return Err(DeviceError::Misaligned { kernel, param, size });
            }
            Ok(address)
        };
        match arg {
            BoundArg::Span(_) if param.table => refuse("one buffer", "a list of buffers"),
            BoundArg::Table(_) if !param.table => refuse("a list of buffers", "one buffer"),
            BoundArg::Span(span) => address(*span),
            BoundArg::Table(spans) => {
                let table: Box<[_]> =
                    spans.iter().map(|&s| address(s)).collect::<Result<_, _>>()?;
                let begin = table.as_ptr().cast();
                self._tables.push(table);
                Ok(begin)
            }
        }
    }
}

/// What the threads share during a run.
struct Shared<'a> {
    recorded: &'a Recorded,
    scratch: &'a [*mut u8],
    micro: &'a MicroTable,
}

// SAFETY: what the addresses lead to is shared as `Recorded::run` demands of its caller; all else
// is only read.
unsafe impl Sync for Shared<'_> {}
