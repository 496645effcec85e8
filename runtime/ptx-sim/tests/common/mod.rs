//! Launches for tests.

#![allow(dead_code, reason = "each test crate uses its own part")]

use q35_ptx_sim::{Counters, Error, Fault, Launch, Memory, Module, Program};

/// Bytes to and from what kernels and NumPy hold.
pub trait Plain: Copy {
    fn bytes(self) -> Vec<u8>;
    fn of(bytes: &[u8]) -> Self;
}

macro_rules! plain {
    ($($ty:ty)*) => {$(
        impl Plain for $ty {
            fn bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn of(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("its size"))
            }
        }
    )*};
}
plain!(u8 u16 u32 i32 u64 i64 f32 f64);

pub fn expected<T: Plain>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(T::of).collect()
}

/// A module in a memory of its own, and parameters as they are laid out.
pub struct Bench {
    pub memory: Memory,
    pub program: Program,
    pub params: Vec<u8>,
}

impl Bench {
    pub fn new(text: &str) -> Self {
        let mut memory = Memory::new();
        let program = Module::parse(text).expect("it parses").load(&mut memory).expect("it loads");
        Self { memory, program, params: vec![] }
    }

    pub fn value<T: Plain>(&mut self, value: T) {
        self.params.resize(self.params.len().next_multiple_of(size_of::<T>()), 0);
        self.params.extend(value.bytes());
    }

    pub fn given<T: Plain>(&mut self, values: &[T]) -> u64 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.bytes()).collect();
        let at = self.memory.alloc(bytes.len() as u64).expect("memory");
        self.memory.write(at, &bytes).expect("a buffer");
        self.value(at);
        at
    }

    pub fn room<T: Plain>(&mut self, count: usize) -> u64 {
        let at = self.memory.alloc((count * size_of::<T>()) as u64).expect("memory");
        self.value(at);
        at
    }

    pub fn read<T: Plain>(&self, at: u64, count: usize) -> Vec<T> {
        let mut bytes = vec![0; count * size_of::<T>()];
        self.memory.read(at, &mut bytes).expect("a buffer");
        expected(&bytes)
    }

    pub fn launch(
        &self,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u64,
    ) -> Counters {
        match self.try_launch(entry, grid, block, dynamic_shared, 2) {
            Ok(counters) => counters,
            Err(error) => panic!("{entry}: {error}"),
        }
    }

    pub fn try_launch(
        &self,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u64,
        threads: usize,
    ) -> Result<Counters, Error> {
        let limit = 5_000_000;
        let launch = Launch { grid, block, dynamic_shared, params: &self.params, threads, limit };
        self.program.launch(&self.memory, entry, &launch)
    }
}

/// A module of one kernel `k`.
pub fn module(params: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k({params})\n{{\n\
         .reg .pred %p<10>; .reg .b16 %h<40>; .reg .b32 %r<80>; .reg .b64 %rd<40>; .reg .f32 %f<40>; .reg .f64 %fd<40>;\n\
         {body}\nret;\n}}\n"
    )
}

/// The fault of a launch.
pub fn fault(result: Result<Counters, Error>) -> Fault {
    match result {
        Err(Error::Fault(fault)) => *fault,
        Err(other) => panic!("no fault: {other}"),
        Ok(_) => panic!("no fault"),
    }
}
