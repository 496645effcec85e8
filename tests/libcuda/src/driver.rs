//! What the calls do: handles, streams of work that waits to be asked for, and graphs.

use crate::config::Config;
use crate::pinned::Pinned;
use crate::result;
use q35_ptx_sim::{Launch, Memory, Module, Program};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

/// Why a call fails: its `CUresult`, and what more there is to say.
#[derive(Debug)]
pub struct Failure {
    pub code: i32,
    pub text: Option<String>,
}

/// The state of the process.
pub struct Driver {
    config: Config,
    memory: Memory,
    /// Bytes by address.
    allocated: HashMap<u64, u64>,
    pub pinned: Pinned,
    modules: HashMap<usize, Arc<Program>>,
    functions: HashMap<usize, Function>,
    streams: HashMap<usize, VecDeque<Work>>,
    /// The stream on which each event was last recorded.
    events: HashMap<usize, Option<usize>>,
    graphs: HashMap<usize, Vec<(usize, Node)>>,
    execs: HashMap<usize, Arc<Vec<Step>>>,
    /// What a kernel did wrong. Nothing works after it.
    failed: Option<String>,
    last: usize,
}

struct Function {
    module: usize,
    name: String,
    /// Shared memory that a launch may give.
    most_shared: u32,
}

/// A node of a graph that is being built.
pub struct Node {
    pub function: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub params: Vec<u8>,
    /// Nodes of the same graph.
    pub waits: Vec<usize>,
}

/// A launch of an instantiated graph, and those that must be over.
struct Step {
    program: Arc<Program>,
    name: String,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    params: Vec<u8>,
    waits: Vec<usize>,
}

enum Work {
    Graph(Arc<Vec<Step>>),
    ToDevice { to: u64, from: usize, bytes: usize },
    ToHost { to: usize, from: u64, bytes: usize },
    Set { to: u64, byte: u8, bytes: u64 },
    Event(usize),
}

/// Multiprocessors of a device, and blocks that each of them runs at once.
const UNITS: i32 = 4;
const BLOCKS: i32 = 2;
/// Shared memory that a block may have, by itself and if its launch asks.
const STATIC_SHARED: u32 = 48 << 10;
const MOST_SHARED: i32 = 99 << 10;

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

impl From<i32> for Failure {
    fn from(code: i32) -> Self {
        Self { code, text: None }
    }
}

/// `cuInit`.
pub fn start() -> Result<(), Failure> {
    let config = Config::from_env().map_err(|why| {
        eprintln!("Q35_LIBCUDA: {why}");
        Failure::from(result::INVALID_VALUE)
    })?;
    if config.devices == 0 {
        return Err(result::NO_DEVICE.into());
    }
    let mut driver = DRIVER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    driver.get_or_insert_with(|| Driver::new(config));
    Ok(())
}

/// A call that needs no context.
pub fn with<T>(call: impl FnOnce(&mut Driver) -> Result<T, Failure>) -> Result<T, Failure> {
    let mut driver = DRIVER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    call(driver.as_mut().ok_or(Failure::from(result::NOT_INITIALIZED))?)
}

/// A call that works on the context of this thread.
pub fn with_context<T>(call: impl FnOnce(&mut Driver) -> Result<T, Failure>) -> Result<T, Failure> {
    match CURRENT.get() {
        0 => Err(result::INVALID_CONTEXT.into()),
        _ => with(call),
    }
}

/// A device's context.
pub fn context_of(device: i32) -> usize {
    device as usize + 1
}

pub fn set_current(context: usize) -> Result<(), Failure> {
    with(|driver| driver.device(context as i32 - 1))?;
    CURRENT.set(context);
    Ok(())
}

impl Driver {
    fn new(config: Config) -> Self {
        Self {
            config,
            memory: Memory::new(),
            allocated: HashMap::new(),
            pinned: Pinned::default(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            streams: HashMap::new(),
            events: HashMap::new(),
            graphs: HashMap::new(),
            execs: HashMap::new(),
            failed: None,
            last: 0,
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether there is such a device.
    pub fn device(&self, ordinal: i32) -> Result<(), Failure> {
        match u32::try_from(ordinal).is_ok_and(|ordinal| ordinal < self.config.devices) {
            true => Ok(()),
            false => Err(result::INVALID_DEVICE.into()),
        }
    }

    pub fn attribute(&self, attribute: i32) -> Result<i32, Failure> {
        match attribute {
            16 => Ok(UNITS),
            75 => Ok((self.config.capability / 10) as i32),
            76 => Ok((self.config.capability % 10) as i32),
            97 => Ok(MOST_SHARED),
            _ => Err(result::INVALID_VALUE.into()),
        }
    }

    pub fn free(&self) -> u64 {
        self.config.memory - self.allocated.values().sum::<u64>()
    }

    pub fn alloc(&mut self, bytes: u64) -> Result<u64, Failure> {
        if bytes == 0 {
            return Err(result::INVALID_VALUE.into());
        }
        if bytes > self.free() {
            return Err(result::OUT_OF_MEMORY.into());
        }
        let address = self.memory.alloc(bytes).map_err(|_| Failure::from(result::OUT_OF_MEMORY))?;
        self.allocated.insert(address, bytes);
        Ok(address)
    }

    pub fn free_memory(&mut self, address: u64) -> Result<(), Failure> {
        self.allocated.remove(&address).ok_or(Failure::from(result::INVALID_VALUE))?;
        self.memory.free(address).map_err(|_| result::INVALID_VALUE.into())
    }

    pub fn set(&mut self, to: u64, byte: u8, bytes: u64, stream: usize) -> Result<(), Failure> {
        self.push(stream, Work::Set { to, byte, bytes })
    }

    pub fn copy_to_device(
        &mut self,
        to: u64,
        from: usize,
        bytes: usize,
        stream: usize,
    ) -> Result<(), Failure> {
        self.pinned.check(from, bytes)?;
        self.push(stream, Work::ToDevice { to, from, bytes })
    }

    pub fn copy_to_host(
        &mut self,
        to: usize,
        from: u64,
        bytes: usize,
        stream: usize,
    ) -> Result<(), Failure> {
        self.pinned.check(to, bytes)?;
        self.push(stream, Work::ToHost { to, from, bytes })
    }

    pub fn stream(&mut self) -> Result<usize, Failure> {
        let handle = self.handle();
        self.streams.insert(handle, VecDeque::new());
        Ok(handle)
    }

    pub fn destroy_stream(&mut self, stream: usize) -> Result<(), Failure> {
        removed(self.streams.remove(&stream))
    }

    pub fn event(&mut self) -> Result<usize, Failure> {
        let handle = self.handle();
        self.events.insert(handle, None);
        Ok(handle)
    }

    pub fn destroy_event(&mut self, event: usize) -> Result<(), Failure> {
        removed(self.events.remove(&event))
    }

    pub fn record(&mut self, event: usize, stream: usize) -> Result<(), Failure> {
        let recorded = self.events.get_mut(&event).ok_or(Failure::from(result::INVALID_HANDLE))?;
        *recorded = Some(stream);
        self.push(stream, Work::Event(event))
    }

    /// Do all that a stream has.
    pub fn finish(&mut self, stream: usize) -> Result<(), Failure> {
        self.usable()?;
        while let Some(work) = self.stream_mut(stream)?.pop_front() {
            self.perform(work)?;
        }
        Ok(())
    }

    /// Do what a stream has up to an event, and no more.
    pub fn finish_event(&mut self, event: usize) -> Result<(), Failure> {
        self.usable()?;
        let recorded = self.events.get(&event).ok_or(Failure::from(result::INVALID_HANDLE))?;
        let Some(stream) = *recorded else { return Ok(()) };
        let is_it = |work: &Work| matches!(work, Work::Event(other) if *other == event);
        while self.stream_mut(stream)?.iter().any(is_it) {
            let work = self.stream_mut(stream)?.pop_front().expect("the event is there");
            self.perform(work)?;
        }
        Ok(())
    }

    pub fn module(&mut self, text: &str) -> Result<usize, Failure> {
        let refuse = |why: String| Failure { code: result::INVALID_PTX, text: Some(why) };
        let module = Module::parse(text).map_err(|why| refuse(why.to_string()))?;
        let target = module.target().trim_start_matches("sm_");
        if !target.parse().is_ok_and(|target: u32| target <= self.config.capability) {
            return Err(refuse(format!("sm_{target} is not for this device")));
        }
        let program = module.load(&mut self.memory).map_err(|why| refuse(why.to_string()))?;
        for entry in program.entries() {
            program.parameters(entry).map_err(|why| refuse(why.to_string()))?;
        }
        let handle = self.handle();
        self.modules.insert(handle, Arc::new(program));
        Ok(handle)
    }

    pub fn unload(&mut self, module: usize) -> Result<(), Failure> {
        self.functions.retain(|_, function| function.module != module);
        removed(self.modules.remove(&module))
    }

    pub fn function(&mut self, module: usize, name: &str) -> Result<usize, Failure> {
        let program = self.modules.get(&module).ok_or(Failure::from(result::INVALID_HANDLE))?;
        if !program.entries().any(|entry| entry == name) {
            return Err(result::NOT_FOUND.into());
        }
        let handle = self.handle();
        let function = Function { module, name: name.into(), most_shared: STATIC_SHARED };
        self.functions.insert(handle, function);
        Ok(handle)
    }

    /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`, the only attribute that can be set here.
    pub fn allow_shared(&mut self, function: usize, what: i32, bytes: i32) -> Result<(), Failure> {
        let function = self.functions.get_mut(&function);
        let function = function.ok_or(Failure::from(result::INVALID_HANDLE))?;
        if what != 8 || !(0..=MOST_SHARED).contains(&bytes) {
            return Err(result::INVALID_VALUE.into());
        }
        function.most_shared = bytes as u32;
        Ok(())
    }

    pub fn occupancy(&self, function: usize, block: i32, shared: usize) -> Result<i32, Failure> {
        let function = self.functions.get(&function);
        let function = function.ok_or(Failure::from(result::INVALID_HANDLE))?;
        match (1..=1024).contains(&block) && shared <= function.most_shared as usize {
            true => Ok(BLOCKS),
            false => Err(result::INVALID_VALUE.into()),
        }
    }

    /// Where each of a function's parameters lies, and its size.
    pub fn parameters(&self, function: usize) -> Result<Vec<(u64, u64)>, Failure> {
        let (program, name, _) = self.callable(function)?;
        program.parameters(name).map_err(|_| result::INVALID_HANDLE.into())
    }

    pub fn graph(&mut self) -> Result<usize, Failure> {
        let handle = self.handle();
        self.graphs.insert(handle, Vec::new());
        Ok(handle)
    }

    pub fn destroy_graph(&mut self, graph: usize) -> Result<(), Failure> {
        removed(self.graphs.remove(&graph))
    }

    /// Add a node to a graph.
    pub fn add(&mut self, graph: usize, node: Node) -> Result<usize, Failure> {
        let (.., most_shared) = self.callable(node.function)?;
        let handle = self.handle();
        let nodes = self.graphs.get_mut(&graph).ok_or(Failure::from(result::INVALID_HANDLE))?;
        let known = |wait: &usize| nodes.iter().any(|(other, _)| other == wait);
        if !node.waits.iter().all(known) || node.shared > most_shared {
            return Err(result::INVALID_VALUE.into());
        }
        nodes.push((handle, node));
        Ok(handle)
    }

    pub fn instantiate(&mut self, graph: usize) -> Result<usize, Failure> {
        let nodes = self.graphs.get(&graph).ok_or(Failure::from(result::INVALID_HANDLE))?;
        let place = |wait: &usize| {
            nodes.iter().position(|(node, _)| node == wait).expect("it was known when it was added")
        };
        let step = |(_, node): &(usize, Node)| {
            let (program, name, _) = self.callable(node.function)?;
            Ok(Step {
                program: Arc::clone(program),
                name: name.into(),
                grid: node.grid,
                block: node.block,
                shared: node.shared,
                params: node.params.clone(),
                waits: node.waits.iter().map(place).collect(),
            })
        };
        let steps = nodes.iter().map(step).collect::<Result<_, Failure>>()?;
        let handle = self.handle();
        self.execs.insert(handle, Arc::new(steps));
        Ok(handle)
    }

    pub fn upload(&mut self, exec: usize, stream: usize) -> Result<(), Failure> {
        self.exec(exec)?;
        self.stream_mut(stream).map(drop)
    }

    pub fn launch(&mut self, exec: usize, stream: usize) -> Result<(), Failure> {
        let steps = Arc::clone(self.exec(exec)?);
        self.push(stream, Work::Graph(steps))
    }

    pub fn destroy_exec(&mut self, exec: usize) -> Result<(), Failure> {
        removed(self.execs.remove(&exec))
    }

    fn exec(&self, exec: usize) -> Result<&Arc<Vec<Step>>, Failure> {
        self.execs.get(&exec).ok_or(result::INVALID_HANDLE.into())
    }

    fn callable(&self, function: usize) -> Result<(&Arc<Program>, &str, u32), Failure> {
        let function = self.functions.get(&function);
        let function = function.ok_or(Failure::from(result::INVALID_HANDLE))?;
        let program = self.modules.get(&function.module);
        let program = program.ok_or(Failure::from(result::INVALID_HANDLE))?;
        Ok((program, &function.name, function.most_shared))
    }

    fn handle(&mut self) -> usize {
        self.last += 1;
        // Of no use as an address.
        self.last << 4 | 1
    }

    fn stream_mut(&mut self, stream: usize) -> Result<&mut VecDeque<Work>, Failure> {
        self.streams.get_mut(&stream).ok_or(result::INVALID_HANDLE.into())
    }

    fn push(&mut self, stream: usize, work: Work) -> Result<(), Failure> {
        self.usable()?;
        self.stream_mut(stream)?.push_back(work);
        Ok(())
    }

    /// Whether nothing has failed yet.
    fn usable(&self) -> Result<(), Failure> {
        match &self.failed {
            None => Ok(()),
            failed => Err(Failure { code: result::LAUNCH_FAILED, text: failed.clone() }),
        }
    }

    fn perform(&mut self, work: Work) -> Result<(), Failure> {
        let done = match work {
            Work::Event(_) => Ok(()),
            Work::Set { to, byte, bytes } => self.memory.fill(to, byte, bytes),
            Work::ToDevice { to, from, bytes } => {
                self.memory.write(to, &self.pinned.read(from, bytes)?)
            }
            Work::ToHost { to, from, bytes } => {
                let mut copy = vec![0; bytes];
                let read = self.memory.read(from, &mut copy);
                self.pinned.write(to, &copy)?;
                read
            }
            Work::Graph(steps) => run(&self.memory, &steps),
        };
        if let Err(why) = done {
            self.failed = Some(why.to_string());
        }
        self.usable()
    }
}

/// Of the launches that wait for no other any more, the one that was added last runs next.
fn run(memory: &Memory, steps: &[Step]) -> Result<(), q35_ptx_sim::Error> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done = vec![false; steps.len()];
    for _ in steps {
        let ready = |at: &usize| !done[*at] && steps[*at].waits.iter().all(|&wait| done[wait]);
        let next = (0..steps.len()).rev().find(ready).expect("nodes wait for earlier ones");
        let step = &steps[next];
        let launch = Launch {
            grid: step.grid,
            block: step.block,
            dynamic_shared: step.shared.into(),
            params: &step.params,
            threads,
            ..Launch::default()
        };
        step.program.launch(memory, &step.name, &launch)?;
        done[next] = true;
    }
    Ok(())
}

fn removed<T>(found: Option<T>) -> Result<(), Failure> {
    found.map(drop).ok_or(result::INVALID_HANDLE.into())
}
