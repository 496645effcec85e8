//! 16-bit floats: two a word, or one by itself. All rounding is to nearest, ties to even.

use super::memory::Address;
use crate::function::{Arg, Class, Function};
use q35_types::DType;

/// The two elements of a word, lower half first.
pub fn unzip(f: &mut Function, dtype: DType, word: Arg) -> [Arg; 2] {
    if dtype == DType::Bf16 {
        let low = f.word("shl.b32", &[word, Arg::Int(16)]);
        return [low, f.word("and.b32", &[word, Arg::Int(!0xffff)])];
    }
    let halves = [(); 2].map(|()| f.fresh(Class::Half));
    let [low, high] = halves;
    f.line(format_args!("mov.b32 {{{low}, {high}}}, {word}"));
    halves.map(|half| f.word("cvt.f32.f16", &[half]))
}

/// Two elements to a word. If `cut`, they are numbers of `bf16` and their upper halves are all there is.
pub fn zip(f: &mut Function, (dtype, cut): (DType, bool), low: Arg, high: Arg) -> Arg {
    match (dtype, cut) {
        (DType::Bf16, true) => {
            let low = f.register(low);
            f.word("prmt.b32", &[low, high, Arg::Int(0x7632)])
        }
        (DType::Bf16, false) => {
            let [high, low] = [high, low].map(|v| f.register(v));
            f.word("cvt.rn.bf16x2.f32", &[high, low])
        }
        _ => {
            let [high, low] = [high, low].map(|v| f.register(v));
            f.word("cvt.rn.f16x2.f32", &[high, low])
        }
    }
}

/// One element by itself, by the load `op`.
pub fn load(f: &mut Function, op: &str, dtype: DType, at: Address) -> Arg {
    if dtype == DType::Bf16 {
        let bits = f.read(Class::Word, &format!("{op}.u16"), at);
        return f.word("shl.b32", &[bits, Arg::Int(16)]);
    }
    let half = f.read(Class::Half, &format!("{op}.b16"), at);
    f.word("cvt.f32.f16", &[half])
}

/// One element by itself, by the store `op`.
pub fn store(f: &mut Function, op: &str, (dtype, cut): (DType, bool), at: Address, v: Arg) {
    let v = f.register(v);
    let bits = match (dtype, cut) {
        (DType::Bf16, true) => f.word("shr.u32", &[v, Arg::Int(16)]),
        (DType::Bf16, false) => f.op(Class::Half, "cvt.rn.bf16.f32", &[v]),
        _ => f.op(Class::Half, "cvt.rn.f16.f32", &[v]),
    };
    f.line(format_args!("{op}.b16 {at}, {bits}"));
}
