//! Kernels as text, to read and to read back.
//!
//! ```text
//! kernel scale_f32 lanes 1
//! param x: bf16 read
//! param out: f32 write
//! shared row: f32[64]
//!   %0: i32 = const 0
//!   %1: i32 = const 64
//!   %2: f32x16 = for %3: i32 in %0..%1 step 16 carry %4: f32x16 = %5 {
//!     %6: f32x16 = load x[%3]
//!     …
//!     yield %7
//!   }
//!   store out[%0], %2
//! ```
//!
//! Every value is defined with its type, numbers run from `%0` without a gap, and an entry of a
//! table is `table[%entry][%index]`. Floats are printed as the shortest text that gives them back,
//! a NaN as its bits in hexadecimal. `//` starts a comment; line breaks mean nothing else.
//! What [`verify`](crate::verify()) accepts is read back equal to what was printed.

mod names;
mod parse;
mod print;

pub use parse::{ParseError, parse, parse_all};
pub(crate) use print::headline;
