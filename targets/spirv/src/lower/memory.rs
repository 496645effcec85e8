//! Buffers, shared arrays and what the launch passes.
//!
//! All memory is 32-bit words. A buffer is reached by its address; how many words one access takes is
//! what the divisor of its index proves aligned. Two 16-bit elements are one word: they are read and
//! written in pairs where the index is known to be even. Else reading picks the half, and writing is two
//! atomic operations on the word, as the other half may belong to another lane or group; with 16-bit
//! storage it is a plain store.

use super::{Lowering, Parts};
use crate::module::{Kind, Module};
use q35_kernel::{Access, Kernel, Mem, Place, Value};
use q35_types::DType;
use rspirv::spirv::{Capability, GlslStd450Op as Glsl, Op, Scope, StorageClass, Word};

const BUFFER: StorageClass = StorageClass::PhysicalStorageBuffer;

pub struct Memory {
    /// Variables of the shared arrays.
    shared: Vec<Word>,
    pub shared_words: u32,
    /// Pointers: to the words of a buffer, to a list of those, to one of the list.
    words: Word,
    table: Word,
    entry: Word,
    /// To its 16-bit elements, if that was asked for.
    shorts: Option<Word>,
}

/// What a group knows when it starts.
pub struct Arguments {
    /// Addresses, by number of the parameter.
    pub params: Vec<Word>,
    /// How many tasks there are.
    pub tasks: Word,
}

/// Memory that an access names.
#[derive(Clone, Copy)]
pub struct Site {
    base: Word,
    pub class: StorageClass,
    /// Others of the group may write it, or read what is written.
    pub common: bool,
}

impl Memory {
    pub fn new(m: &mut Module, kernel: &Kernel) -> Memory {
        let word = m.ty((Kind::U32, 1));
        let words = m.buffer_of(word, 4, "Words");
        let table = m.buffer_of(words, 8, "Table");
        let entry = m.pointer(BUFFER, words);
        let lens: Vec<u32> =
            kernel.shared.iter().map(|a| (a.len * a.dtype.size() as u32).div_ceil(4)).collect();
        let shared = kernel.shared.iter().zip(&lens).map(|(a, len)| m.shared(*len, &a.name));
        Memory {
            shared: shared.collect(),
            shared_words: lens.iter().sum(),
            words,
            table,
            entry,
            shorts: None,
        }
    }

    /// Read the push constants and the list of addresses that they name.
    pub fn arguments(&self, m: &mut Module, kernel: &Kernel) -> Arguments {
        let (one, pair) = (m.ty((Kind::U32, 1)), m.ty((Kind::U32, 2)));
        let block = m.block_type(&[(self.table, 0), (pair, 8), (one, 16)], "Launch");
        let launch = m.global(StorageClass::PushConstant, block, "launch");
        let [args, times, each] = [(self.table, 0), (pair, 1), (one, 2)].map(|(ty, member)| {
            let pointer = m.pointer(StorageClass::PushConstant, ty);
            let member = m.u32(member);
            let at = m.access(pointer, launch, &[member]);
            m.load(ty, at, None, false)
        });
        let tasks = self.tasks(m, times, each);
        let params = kernel.params.iter().enumerate().map(|(i, param)| {
            let number = m.u32(i as u32);
            let address = self.listed(m, args, number);
            if param.table { m.typed(Op::Bitcast, self.table, &[address]) } else { address }
        });
        Arguments { params: params.collect(), tasks }
    }

    /// `each`, times the count at the address `times` if that is not 0.
    fn tasks(&self, m: &mut Module, times: Word, each: Word) -> Word {
        let halves = [0, 1].map(|i| m.element((Kind::U32, 2), times, i));
        let [any, zero] = [m.op(Op::BitwiseOr, (Kind::U32, 1), &halves), m.u32(0)];
        let counted = m.op(Op::INotEqual, (Kind::Bool, 1), &[any, zero]);
        let [read, done] = [m.label(), m.label()];
        let before = m.block;
        m.choose(counted, read, done, done);
        m.open(read);
        let address = m.typed(Op::Bitcast, self.words, &[times]);
        let word = m.ty((Kind::U32, 1));
        let pointer = m.pointer(BUFFER, word);
        let at = m.access(pointer, address, &[zero, zero]);
        let count = m.load(word, at, Some(4), false);
        let count = m.glsl(Glsl::SMax, (Kind::U32, 1), &[count, zero]);
        m.branch(done);
        m.open(done);
        let one = m.u32(1);
        let times = m.phi(word, [(count, read), (one, before)]);
        m.op(Op::IMul, (Kind::U32, 1), &[each, times])
    }

    /// An address of a list.
    fn listed(&self, m: &mut Module, list: Word, number: Word) -> Word {
        let zero = m.u32(0);
        let at = m.access(self.entry, list, &[zero, number]);
        m.load(self.words, at, Some(8), false)
    }
}

impl Lowering<'_> {
    pub fn load(&mut self, at: Place, width: u8) -> Parts {
        let dtype = self.kernel.dtype_of(at.mem);
        let site = self.site(at.mem);
        let (index, divisor) = (self.scalar(at.index), self.divisors.of(at.index));
        match dtype {
            DType::I32 => self.words(site, index, divisor, width),
            DType::F32 => {
                let words = self.words(site, index, divisor, width).into_iter();
                words.map(|w| self.m.bitcast((Kind::F32, width.min(4)), w)).collect()
            }
            DType::F16 | DType::Bf16 if width > 1 && divisor > 0 => {
                let first = self.half_of(index);
                let words = self.words(site, first, divisor - 1, width / 2);
                let n = (width / 2).min(4);
                let halves = words.into_iter().flat_map(|w| self.unzip(w, n)).collect::<Vec<_>>();
                halves.into_iter().map(|h| self.widen(dtype, width.min(4), h)).collect()
            }
            DType::F16 | DType::Bf16 => {
                let each: Vec<Word> = (0..width)
                    .map(|i| {
                        let index = self.offset(index, i);
                        self.half(site, index)
                    })
                    .collect();
                let n = width.min(4);
                each.chunks(usize::from(n))
                    .map(|part| {
                        let part = self.m.vector((Kind::U32, n), part);
                        self.widen(dtype, n, part)
                    })
                    .collect()
            }
        }
    }

    pub fn store(&mut self, at: Place, value: Value) {
        let dtype = self.kernel.dtype_of(at.mem);
        let site = self.site(at.mem);
        let (index, divisor) = (self.scalar(at.index), self.divisors.of(at.index));
        let (width, n) = (self.kernel.type_of(value).width, self.shape(value).1);
        let parts = self.parts_of(value).to_vec();
        let narrow = matches!(dtype, DType::F16 | DType::Bf16);
        let bits: Parts = match dtype {
            DType::I32 => parts,
            DType::F32 => parts.iter().map(|p| self.m.bitcast((Kind::U32, n), *p)).collect(),
            DType::Bf16 if self.divisors.is_bf16(value) => {
                parts.iter().map(|p| self.cut(n, *p)).collect()
            }
            DType::F16 | DType::Bf16 => parts.iter().map(|p| self.round(dtype, n, *p)).collect(),
        };
        if !narrow {
            self.store_words(site, index, divisor, (&bits, n));
        } else if width > 1 && divisor > 0 {
            let first = self.half_of(index);
            let n = (width / 2).min(4);
            let words: Parts = bits.chunks(2).map(|p| self.zip_all(p, n)).collect();
            self.store_words(site, first, divisor - 1, (&words, n));
        } else {
            for i in 0..width {
                let part = bits[usize::from(i / 4)];
                let bits = self.m.element((Kind::U32, n), part, i % 4);
                let index = self.offset(index, i);
                self.store_half(site, index, bits);
            }
        }
    }

    /// The memory itself.
    pub fn site(&mut self, mem: Mem) -> Site {
        match mem {
            Mem::Param(p) => {
                let common = self.kernel.params[p as usize].access != Access::Read;
                Site { base: self.params[p as usize], class: BUFFER, common }
            }
            Mem::Entry(p, number) => {
                let number = self.scalar(number);
                let base = self.memory.listed(&mut self.m, self.params[p as usize], number);
                Site { base, class: BUFFER, common: false }
            }
            Mem::Shared(a) => {
                let base = self.memory.shared[a as usize];
                Site { base, class: StorageClass::Workgroup, common: true }
            }
        }
    }

    /// `count` words from word `index` on, which 2^`divisor` divides, as scalar or in vectors of up to four.
    fn words(&mut self, site: Site, index: Word, divisor: u8, count: u8) -> Parts {
        let n = count.min(4);
        let chunk = chunk(site, divisor, n);
        let ty = self.m.ty((Kind::U32, chunk));
        let chunks: Vec<Word> = (0..count)
            .step_by(usize::from(chunk))
            .map(|i| {
                let index = self.offset(index, i);
                let at = self.word(site, index, chunk);
                self.m.load(ty, at, align(site, chunk), site.common)
            })
            .collect();
        let parts = chunks.chunks(usize::from(n / chunk));
        parts.map(|part| self.m.vector((Kind::U32, n), part)).collect()
    }

    /// The other way: `parts` are of `n` words.
    fn store_words(&mut self, site: Site, index: Word, divisor: u8, (parts, n): (&[Word], u8)) {
        let chunk = chunk(site, divisor, n);
        for (number, part) in (0u8..).zip(parts) {
            for i in (0..n).step_by(usize::from(chunk)) {
                let value = match chunk {
                    1 => self.m.element((Kind::U32, n), *part, i),
                    2 if n == 4 => self.m.shuffle(Kind::U32, *part, *part, &[i, i + 1]),
                    _ => *part,
                };
                let index = self.offset(index, number * n + i);
                let at = self.word(site, index, chunk);
                self.m.store(at, value, align(site, chunk), site.common);
            }
        }
    }

    /// Pointer to `n` words from word `index` on.
    pub fn word(&mut self, site: Site, index: Word, n: u8) -> Word {
        let word = self.m.ty((Kind::U32, 1));
        let pointer = self.m.pointer(site.class, word);
        if site.class == StorageClass::Workgroup {
            return self.m.access(pointer, site.base, &[index]);
        }
        let zero = self.m.u32(0);
        let at = self.m.access(pointer, site.base, &[zero, index]);
        if n == 1 {
            return at;
        }
        let vector = self.m.ty((Kind::U32, n));
        let pointer = self.m.pointer(site.class, vector);
        self.m.typed(Op::Bitcast, pointer, &[at])
    }

    /// The 16 bits of element `index`, above zeros.
    fn half(&mut self, site: Site, index: Word) -> Word {
        if self.shorts(site) {
            let (at, short) = self.short(site, index);
            let bits = self.m.load(short, at, Some(2), site.common);
            let wide = self.m.op(Op::UConvert, (Kind::U32, 1), &[bits]);
            return self.shifted(Op::ShiftLeftLogical, wide, 16, 1);
        }
        let first = self.half_of(index);
        let word = self.words(site, first, 0, 1)[0];
        let shift = self.half_shift(index);
        let low = self.m.op(Op::ShiftRightLogical, (Kind::U32, 1), &[word, shift]);
        self.shifted(Op::ShiftLeftLogical, low, 16, 1)
    }

    /// `bits`, of 16, to element `index`.
    fn store_half(&mut self, site: Site, index: Word, bits: Word) {
        if self.shorts(site) {
            let (at, short) = self.short(site, index);
            let bits = self.m.typed(Op::UConvert, short, &[bits]);
            return self.m.store(at, bits, Some(2), site.common);
        }
        let first = self.half_of(index);
        let at = self.word(site, first, 1);
        let scope = match site.class {
            StorageClass::Workgroup => Scope::Workgroup,
            _ => Scope::QueueFamily,
        };
        let (scope, relaxed) = (self.m.u32(scope as u32), self.m.u32(0));
        let (shift, mask) = (self.half_shift(index), self.m.u32(0xffff));
        let own = self.m.op(Op::ShiftLeftLogical, (Kind::U32, 1), &[mask, shift]);
        let other = self.m.op(Op::Not, (Kind::U32, 1), &[own]);
        let bits = self.m.op(Op::ShiftLeftLogical, (Kind::U32, 1), &[bits, shift]);
        self.m.op(Op::AtomicAnd, (Kind::U32, 1), &[at, scope, relaxed, other]);
        self.m.op(Op::AtomicOr, (Kind::U32, 1), &[at, scope, relaxed, bits]);
    }

    /// Whether 16 bits can be accessed by themselves.
    fn shorts(&mut self, site: Site) -> bool {
        let can = self.profile.short_storage && site.class == BUFFER;
        if can {
            self.m.require(Capability::StorageBuffer16BitAccess);
            // For the cast of an address, not for arithmetic.
            self.m.require(Capability::Int16);
        }
        can
    }

    /// Pointer to 16 bits, and their type.
    fn short(&mut self, site: Site, index: Word) -> (Word, Word) {
        let short = self.m.short();
        let shorts = match self.memory.shorts {
            Some(known) => known,
            None => {
                let made = self.m.buffer_of(short, 2, "Shorts");
                self.memory.shorts = Some(made);
                made
            }
        };
        let base = self.m.typed(Op::Bitcast, shorts, &[site.base]);
        let (pointer, zero) = (self.m.pointer(BUFFER, short), self.m.u32(0));
        (self.m.access(pointer, base, &[zero, index]), short)
    }

    fn offset(&mut self, index: Word, by: u8) -> Word {
        if by == 0 {
            return index;
        }
        let by = self.m.u32(u32::from(by));
        self.m.op(Op::IAdd, (Kind::U32, 1), &[index, by])
    }

    /// The word that holds 16-bit element `index`.
    pub fn half_of(&mut self, index: Word) -> Word {
        self.shifted(Op::ShiftRightLogical, index, 1, 1)
    }

    /// Where in its word that element begins: bit 0 or 16.
    fn half_shift(&mut self, index: Word) -> Word {
        let one = self.m.u32(1);
        let odd = self.m.op(Op::BitwiseAnd, (Kind::U32, 1), &[index, one]);
        self.shifted(Op::ShiftLeftLogical, odd, 4, 1)
    }
}

/// Words that one access may take, of `n`.
fn chunk(site: Site, divisor: u8, n: u8) -> u8 {
    match site.class {
        // An array of scalars: what neighbours have in common, drivers find.
        StorageClass::Workgroup => 1,
        _ => n.min(1 << divisor.min(2)),
    }
}

fn align(site: Site, chunk: u8) -> Option<u32> {
    (site.class == BUFFER).then_some(4 * u32::from(chunk))
}
