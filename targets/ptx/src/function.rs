//! PTX text as it grows: registers, instructions, labels.
//!
//! All values of 32 bits are in registers of one class, untyped: what an instruction takes them for,
//! its own name says, so that bits need not be moved to be seen as another type.

use std::fmt::{self, Write as _};

/// A class of registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    Pred,
    Half,
    Word,
    Long,
}

const CLASSES: [(Class, &str, &str); 4] = [
    (Class::Pred, "pred", "%p"),
    (Class::Half, "b16", "%h"),
    (Class::Word, "b32", "%r"),
    (Class::Long, "b64", "%rd"),
];

/// An operand: a register or a constant of 32 bits, which is written as what it is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arg {
    Reg(Class, u32),
    Int(i32),
    /// Its bits.
    Float(u32),
}

impl Arg {
    pub fn is_constant(self) -> bool {
        !matches!(self, Arg::Reg(..))
    }
}

impl fmt::Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Arg::Reg(class, number) => write!(f, "{}{number}", CLASSES[class as usize].2),
            Arg::Int(v) => write!(f, "{v}"),
            Arg::Float(bits) => write!(f, "0f{bits:08X}"),
        }
    }
}

/// A place in the code.
#[derive(Debug, Clone, Copy)]
pub struct Label(u32);

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "$L{}", self.0)
    }
}

/// The body of the entry.
#[derive(Default)]
pub struct Function {
    text: String,
    /// Registers of each class.
    counts: [u32; 4],
    labels: u32,
}

impl Function {
    pub fn fresh(&mut self, class: Class) -> Arg {
        let count = &mut self.counts[class as usize];
        *count += 1;
        Arg::Reg(class, *count - 1)
    }

    /// An instruction as it is written, without its semicolon.
    pub fn line(&mut self, text: fmt::Arguments<'_>) {
        writeln!(self.text, "    {text};").expect("a string takes anything");
    }

    /// An instruction that sets `to`.
    pub fn set(&mut self, to: Arg, op: &str, args: &[Arg]) {
        let mut list = to.to_string();
        for arg in args {
            write!(list, ", {arg}").expect("a string takes anything");
        }
        self.line(format_args!("{op} {list}"));
    }

    /// An instruction that sets a register of its own.
    pub fn op(&mut self, class: Class, op: &str, args: &[Arg]) -> Arg {
        let mut args = args.to_vec();
        // Some register must say that there is something to do when the kernel runs.
        if args.iter().all(|a| a.is_constant()) && !op.starts_with("mov") {
            args[0] = self.register(args[0]);
        }
        let to = self.fresh(class);
        self.set(to, op, &args);
        to
    }

    /// An instruction whose one operand is no register of ours.
    pub fn read(&mut self, class: Class, op: &str, from: impl fmt::Display) -> Arg {
        let to = self.fresh(class);
        self.line(format_args!("{op} {to}, {from}"));
        to
    }

    pub fn word(&mut self, op: &str, args: &[Arg]) -> Arg {
        self.op(Class::Word, op, args)
    }

    pub fn pred(&mut self, op: &str, args: &[Arg]) -> Arg {
        self.op(Class::Pred, op, args)
    }

    /// A 32-bit operand where it must be a register.
    pub fn register(&mut self, arg: Arg) -> Arg {
        match arg.is_constant() {
            true => self.op(Class::Word, "mov.b32", &[arg]),
            false => arg,
        }
    }

    pub fn copy(&mut self, to: Arg, from: Arg) {
        let op = match to {
            Arg::Reg(Class::Pred, _) => "mov.pred",
            _ => "mov.b32",
        };
        self.set(to, op, &[from]);
    }

    pub fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels)
    }

    /// Here is `label`.
    pub fn open(&mut self, label: Label) {
        writeln!(self.text, "{label}:").expect("a string takes anything");
    }

    pub fn jump(&mut self, to: Label) {
        self.line(format_args!("bra {to}"));
    }

    pub fn jump_if(&mut self, cond: Arg, to: Label) {
        self.line(format_args!("@{cond} bra {to}"));
    }

    pub fn jump_unless(&mut self, cond: Arg, to: Label) {
        self.line(format_args!("@!{cond} bra {to}"));
    }

    /// Declarations of the registers, then the code.
    pub fn finish(self) -> String {
        let mut text = String::new();
        for (class, ty, name) in CLASSES {
            let count = self.counts[class as usize];
            if count > 0 {
                writeln!(text, "    .reg .{ty} {name}<{count}>;").expect("a string takes anything");
            }
        }
        text + &self.text
    }
}
