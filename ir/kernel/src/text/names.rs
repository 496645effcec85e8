//! The word for each operation and type.

use crate::inst::*;
use std::fmt;

macro_rules! names {
    ($type:ident: $($variant:ident $word:literal,)*) => {
        impl $type {
            /// The word of the text format.
            pub const fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $word,)*
                }
            }

            pub(super) fn from_name(word: &str) -> Option<Self> {
                match word {
                    $($word => Some($type::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

names! { UnaryOp:
    Neg "neg",
    Abs "abs",
    Sqrt "sqrt",
    Not "not",
    IntToFloat "int_to_float",
    FloatToInt "float_to_int",
    BitsToFloat "bits_to_float",
    FloatToBits "float_to_bits",
}

names! { BinaryOp:
    Add "add",
    Sub "sub",
    Mul "mul",
    Div "div",
    Rem "rem",
    Min "min",
    Max "max",
    And "and",
    Or "or",
    Xor "xor",
    Shl "shl",
    Shr "shr",
}

names! { CompareOp:
    Eq "eq",
    Ne "ne",
    Lt "lt",
    Le "le",
    Gt "gt",
    Ge "ge",
}

names! { ReduceOp:
    Sum "sum",
    Min "min",
    Max "max",
}

names! { Scalar:
    F32 "f32",
    I32 "i32",
    Bool "bool",
}

names! { Access:
    Read "read",
    Write "write",
    ReadWrite "readwrite",
}

impl Type {
    /// `f32`, or `f32x16`.
    pub(super) fn from_name(word: &str) -> Option<Type> {
        if let Some(scalar) = Scalar::from_name(word) {
            return Some(Type { scalar, width: 1 });
        }
        let (scalar, width) = word.split_once('x')?;
        Some(Type { scalar: Scalar::from_name(scalar)?, width: width.parse().ok()? })
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scalar.name())?;
        match self.width {
            1 => Ok(()),
            w => write!(f, "x{w}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Literal::F32(v) if v.is_nan() => write!(f, "{:#010x}", v.to_bits()),
            Literal::F32(v) => write!(f, "{v:?}"),
            Literal::I32(v) => write!(f, "{v}"),
            Literal::Bool(v) => write!(f, "{v}"),
        }
    }
}
