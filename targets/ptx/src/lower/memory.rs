//! Buffers, shared arrays and their addresses.
//!
//! An access takes up to 16 bytes at once, as many as the divisor of its index proves aligned. The address of what
//! several accesses have in common is in one register and their differences are in the instructions. What a launch only
//! reads goes the way of constant data (`ld.global.nc`).

use super::narrow;
use super::{Elements, Lowering};
use crate::STATIC_BYTES;
use crate::function::{Arg, Class, Function};
use q35_kernel::{Access, Kernel, Mem, Place, Value};
use q35_types::DType;
use std::collections::HashMap;
use std::fmt;

/// The widest access.
const WIDEST: u32 = 16;
/// How a launch reads what nobody writes.
const CONSTANT: &str = "ld.global.nc";

pub struct Memory {
    /// Addresses of the parameters.
    params: Vec<Arg>,
    /// Where the shared arrays begin, and how far from there each does.
    shared: Option<Arg>,
    offsets: Vec<u32>,
    pub shared_bytes: u32,
    /// What is known in each of the blocks around.
    known: Vec<HashMap<Key, Arg>>,
}

/// What an address is kept for.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    /// A buffer of a table.
    Entry(u32, Value),
    /// Element `root` of this many bytes, from a base.
    Element(Arg, Value, u32),
}

/// An address as it is written in an access.
#[derive(Clone, Copy)]
pub struct Address {
    pub base: Arg,
    pub offset: u32,
}

impl Address {
    pub fn plus(self, bytes: u32) -> Address {
        Address { offset: self.offset + bytes, ..self }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            0 => write!(f, "[{}]", self.base),
            offset => write!(f, "[{}+{offset}]", self.base),
        }
    }
}

impl Memory {
    pub fn new(f: &mut Function, kernel: &Kernel) -> Memory {
        let params = (0..kernel.params.len())
            .map(|i| f.read(Class::Long, "ld.param.u64", format_args!("[p{i}]")));
        let params = params.collect();
        let mut shared_bytes = 0;
        let mut offsets = vec![];
        for array in &kernel.shared {
            offsets.push(shared_bytes);
            shared_bytes += (array.len * array.dtype.size() as u32).next_multiple_of(64);
        }
        let name = if shared_bytes > STATIC_BYTES { "dynamic_shared" } else { "arrays" };
        let shared = (shared_bytes > 0).then(|| f.read(Class::Word, "mov.u32", name));
        Memory { params, shared, offsets, shared_bytes, known: vec![] }
    }

    pub fn declared(&self) -> String {
        match self.shared_bytes {
            0 => String::new(),
            bytes if bytes > STATIC_BYTES => {
                "\n.extern .shared .align 64 .b8 dynamic_shared[];\n".into()
            }
            bytes => format!("\n.shared .align 64 .b8 arrays[{bytes}];\n"),
        }
    }

    /// A block begins: what is found out in it is known until it ends.
    pub fn enter(&mut self) {
        self.known.push(HashMap::new());
    }

    pub fn leave(&mut self) {
        self.known.pop();
    }

    fn recall(&self, key: &Key) -> Option<Arg> {
        self.known.iter().find_map(|block| block.get(key).copied())
    }

    fn note(&mut self, key: Key, address: Arg) {
        self.known.last_mut().expect("in a block").insert(key, address);
    }
}

impl Lowering<'_> {
    /// Elements of `result`; or as they lie, if nobody wants them one by one.
    pub fn load(&mut self, at: Place, width: u8, result: Value) -> Elements {
        let dtype = self.kernel.dtype_of(at.mem);
        let (address, op) = (self.address(at), self.reading(at.mem));
        let (bytes, chunk) = self.chunk(at, dtype, width);
        if matches!(at.mem, Mem::Shared(_)) && dtype == DType::Bf16 {
            // It may be what this lane has copied.
            self.arrive();
        }
        let fits = dtype == DType::Bf16 && chunk == WIDEST && op == CONSTANT;
        if fits && self.uses.is_copied(result) {
            self.copies.insert(result, address);
            return vec![];
        }
        if chunk == 2 {
            let each = (0..u32::from(width)).map(|i| address.plus(2 * i));
            return each.map(|at| narrow::load(&mut self.f, op, dtype, at)).collect();
        }
        let words = self.load_words(op, address, bytes, chunk);
        match dtype {
            DType::F32 | DType::I32 => words,
            DType::Bf16 if !self.uses.is_wanted(result) => {
                self.packed.insert(result, words);
                vec![]
            }
            DType::F16 | DType::Bf16 => {
                words.into_iter().flat_map(|w| narrow::unzip(&mut self.f, dtype, w)).collect()
            }
        }
    }

    fn load_words(&mut self, op: &str, address: Address, bytes: u32, chunk: u32) -> Elements {
        let mut words = vec![];
        for at in (0..bytes).step_by(chunk as usize) {
            let at = address.plus(at);
            let to: Elements = (0..chunk / 4).map(|_| self.f.fresh(Class::Word)).collect();
            let (kind, list) = vector(&to);
            self.f.line(format_args!("{op}{kind}.b32 {list}, {at}"));
            words.extend(to);
        }
        words
    }

    pub fn store(&mut self, at: Place, value: Value) {
        let dtype = self.kernel.dtype_of(at.mem);
        let (address, op) = (self.address(at), writing(at.mem));
        let (bytes, chunk) = self.chunk(at, dtype, self.kernel.type_of(value).width);
        if let Some(from) = self.copies.remove(&value) {
            if chunk == WIDEST {
                return self.copy(from, address, bytes);
            }
            let words = self.load_words(CONSTANT, from, bytes, WIDEST);
            self.packed.insert(value, words);
        }
        let packed = self.packed.get(&value).cloned();
        let cut = dtype == DType::Bf16 && self.divisors.is_bf16(value);
        if chunk == 2 {
            let elements = match packed {
                Some(words) => {
                    words.into_iter().flat_map(|w| narrow::unzip(&mut self.f, dtype, w)).collect()
                }
                None => self.of(value).to_vec(),
            };
            for (i, v) in (0..).zip(elements) {
                narrow::store(&mut self.f, op, (dtype, cut), address.plus(2 * i), v);
            }
            return;
        }
        let words = match (dtype, packed) {
            (_, Some(words)) => words,
            (DType::F32 | DType::I32, None) => self.of(value).to_vec(),
            (DType::F16 | DType::Bf16, None) => {
                let elements = self.of(value).to_vec();
                let pairs = elements.chunks(2);
                pairs.map(|p| narrow::zip(&mut self.f, (dtype, cut), p[0], p[1])).collect()
            }
        };
        assert_eq!(words.len() as u32 * 4, bytes, "whole words");
        for (i, part) in (0..).zip(words.chunks(chunk as usize / 4)) {
            let part: Elements = part.iter().map(|v| self.f.register(*v)).collect();
            let (kind, list) = vector(&part);
            let at = address.plus(i * chunk);
            self.f.line(format_args!("{op}{kind}.b32 {at}, {list}"));
        }
    }

    /// From global to shared memory, past registers. It arrives when it is waited for: before the next barrier, or before
    /// this lane reads shared memory of its type; so what comes between has not to wait.
    fn copy(&mut self, from: Address, to: Address, bytes: u32) {
        for at in (0..bytes).step_by(WIDEST as usize) {
            let (from, to) = (from.plus(at), to.plus(at));
            self.f.line(format_args!("cp.async.cg.shared.global {to}, {from}, {WIDEST}"));
        }
        self.on_the_way = true;
    }

    /// Wait for all copies that may be on the way.
    pub fn arrive(&mut self) {
        if std::mem::take(&mut self.on_the_way) {
            self.f.line(format_args!("cp.async.wait_all"));
        }
    }

    /// Bytes of `width` elements, and how many of them one access takes.
    fn chunk(&self, at: Place, dtype: DType, width: u8) -> (u32, u32) {
        let size = dtype.size() as u32;
        let bytes = size * u32::from(width);
        let aligned = size << self.divisors.of(at.index).min(4);
        (bytes, bytes.min(aligned).min(WIDEST))
    }

    /// How a memory is read.
    pub fn reading(&self, mem: Mem) -> &'static str {
        match mem {
            Mem::Shared(_) => "ld.shared",
            Mem::Param(p) | Mem::Entry(p, _) => match self.kernel.params[p as usize].access {
                Access::Read => CONSTANT,
                Access::Write | Access::ReadWrite => "ld.global",
            },
        }
    }

    pub fn address(&mut self, at: Place) -> Address {
        let size = self.kernel.dtype_of(at.mem).size() as u32;
        let sum = self.uses.sum(at.index);
        let start = self.start(at.mem);
        let base = match sum.root {
            None => start.base,
            Some(root) => self.element(start.base, root, size),
        };
        Address { base, ..start }.plus(sum.plus * size)
    }

    /// Where a memory begins.
    pub fn start(&mut self, mem: Mem) -> Address {
        match mem {
            Mem::Param(p) => Address { base: self.memory.params[p as usize], offset: 0 },
            Mem::Entry(p, number) => Address { base: self.entry(p, number), offset: 0 },
            Mem::Shared(a) => Address {
                base: self.memory.shared.expect("there are shared arrays"),
                offset: self.memory.offsets[a as usize],
            },
        }
    }

    fn entry(&mut self, table: u32, number: Value) -> Arg {
        let key = Key::Entry(table, number);
        if let Some(known) = self.memory.recall(&key) {
            return known;
        }
        let list = self.memory.params[table as usize];
        let at = self.moved(list, self.scalar(number), 8);
        let base = self.f.read(Class::Long, "ld.global.nc.u64", format_args!("[{at}]"));
        self.memory.note(key, base);
        base
    }

    fn element(&mut self, base: Arg, root: Value, size: u32) -> Arg {
        let key = Key::Element(base, root, size);
        if let Some(known) = self.memory.recall(&key) {
            return known;
        }
        let address = self.moved(base, self.scalar(root), size);
        self.memory.note(key, address);
        address
    }

    /// `base + index * size`, in 64 bits for what is not shared.
    pub fn moved(&mut self, base: Arg, index: Arg, size: u32) -> Arg {
        let args = [self.f.register(index), Arg::Int(size as i32), base];
        match base {
            Arg::Reg(Class::Long, _) => self.f.op(Class::Long, "mad.wide.s32", &args),
            _ => self.f.word("mad.lo.s32", &args),
        }
    }
}

/// How a memory is written.
pub fn writing(mem: Mem) -> &'static str {
    match mem {
        Mem::Shared(_) => "st.shared",
        Mem::Param(_) | Mem::Entry(..) => "st.global",
    }
}

/// `.v2` and `{a, b}`, or nothing and `a`.
pub fn vector(registers: &[Arg]) -> (&'static str, String) {
    let list = registers.iter().map(Arg::to_string).collect::<Vec<_>>().join(", ");
    match registers.len() {
        1 => ("", list),
        2 => (".v2", format!("{{{list}}}")),
        _ => (".v4", format!("{{{list}}}")),
    }
}
