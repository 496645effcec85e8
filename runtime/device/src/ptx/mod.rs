//! PTX as devices see it, a simulator and a driver alike. The other side of it is `q35-target-ptx`.
//!
//! The code of a kernel is one text with one entry of the kernel's name, and after a zero byte it may
//! have a cubin, which is the same for the architecture of its variant. The entry takes an address for
//! each parameter, then the address of the number by which `each` is multiplied (0: once), then
//! `each`; a block does every task whose number is its own, plus a multiple of the number of
//! blocks. Any number of blocks computes the same.

mod draft;

pub(crate) use draft::{Draft, Launch};

use crate::DeviceError;
use q35_artifact::Kernel;

/// As in `q35c compile --target`.
pub const TARGET: &str = "ptx";

/// What arguments begin at multiples of.
pub(crate) const ALIGNMENT: u64 = 64;

/// Code for an architecture and all later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Architecture {
    pub variant: &'static str,
    /// The compute capability: 89 is 8.9.
    pub capability: u32,
}

/// Oldest first.
pub(crate) const ARCHITECTURES: [Architecture; 5] = [
    Architecture { variant: "sm_80", capability: 80 },
    Architecture { variant: "sm_89", capability: 89 },
    Architecture { variant: "sm_90", capability: 90 },
    Architecture { variant: "sm_100", capability: 100 },
    Architecture { variant: "sm_120", capability: 120 },
];

/// How a cubin begins.
const ELF: &[u8] = b"\x7fELF";

/// The text of a kernel and how it is launched.
pub(crate) struct Code<'a> {
    pub text: &'a str,
    /// Machine code, if there is any.
    pub cubin: Option<&'a [u8]>,
    /// Threads of a block.
    pub block: u32,
    /// Bytes of shared memory that the launch gives: all of the plan's, or those that the text
    /// declares by itself are enough.
    pub dynamic_shared: u32,
}

impl<'a> Code<'a> {
    /// # Errors
    ///
    /// [`DeviceError::Code`]: it is not the text of such a kernel.
    pub fn new(kernel: &Kernel, code: &'a [u8]) -> Result<Self, DeviceError> {
        let refuse = |reason: &str| refused(kernel, reason);
        let (text, cubin) = match code.iter().position(|byte| *byte == 0) {
            Some(end) => (&code[..end], Some(&code[end + 1..])),
            None => (code, None),
        };
        let text = std::str::from_utf8(text).ok().filter(|text| text.contains(".entry"));
        let text = text.ok_or_else(|| refuse("it is not PTX"))?;
        if cubin.is_some_and(|cubin| !cubin.starts_with(ELF)) {
            return Err(refuse("its text ends in the middle"));
        }
        let block = threads(text).ok_or_else(|| refuse("it does not say `.reqntid`"))?;
        let dynamic_shared = match text.contains(".extern .shared") {
            true => kernel.shared_bytes,
            false => 0,
        };
        Ok(Self { text, cubin, block, dynamic_shared })
    }
}

/// That the code of a kernel cannot be loaded.
pub(crate) fn refused(kernel: &Kernel, reason: impl Into<String>) -> DeviceError {
    DeviceError::Code { kernel: kernel.name.clone(), reason: reason.into() }
}

/// The threads of a block, as `.reqntid X` or `.reqntid X, 1, 1` says.
fn threads(text: &str) -> Option<u32> {
    let (_, after) = text.split_once(".reqntid")?;
    let line = after.split(['\n', '{', '.', ')']).next()?;
    line.split(',').try_fold(1u32, |all, n| all.checked_mul(n.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(shared_bytes: u32) -> Kernel {
        Kernel { name: "k".into(), shared_bytes, params: vec![] }
    }

    #[test]
    fn the_text_says_how_many_threads_a_block_has() {
        let block = |text: &str| Code::new(&kernel(0), text.as_bytes()).map(|code| code.block);
        for text in [
            ".visible .entry k(.param .u64 p0)\n.reqntid 256, 1, 1\n{ ret; }",
            ".entry k() .reqntid 256 { ret; }",
            ".entry k()\n.reqntid 128, 2, 1\n.minnctapersm 2\n{ ret; }",
            ".entry k() .reqntid 256 .maxnreg 64 { ret; }",
        ] {
            assert_eq!(block(text).unwrap(), 256, "{text}");
        }
        let refusal = |text: &str| block(text).unwrap_err().to_string();
        let said = "the code of `k` cannot be loaded: ";
        assert_eq!(refusal("MZ"), format!("{said}it is not PTX"));
        for text in
            [".entry k() { ret; }", ".entry k() .reqntid x", ".entry k() .reqntid 99999999, 999, 9"]
        {
            assert_eq!(refusal(text), format!("{said}it does not say `.reqntid`"));
        }
        assert!(refusal(".entry k()\0 .reqntid 32 { ret; }").contains("ends in the middle"));
    }

    #[test]
    fn machine_code_may_follow_the_text() {
        let cubin = |code: &str| {
            let found = Code::new(&kernel(0), code.as_bytes()).unwrap();
            (found.text.len(), found.cubin.map(<[u8]>::to_vec))
        };
        let text = ".entry k() .reqntid 32 { ret; }";
        assert_eq!(cubin(text), (text.len(), None));
        let both = format!("{text}\0\x7fELF\0rest");
        assert_eq!(cubin(&both), (text.len(), Some(b"\x7fELF\0rest".to_vec())));
    }

    #[test]
    fn shared_memory_that_the_text_does_not_declare_is_given_with_the_launch() {
        let given = |text: &str| {
            let code = format!("{text} .entry k() .reqntid 32 {{ ret; }}");
            Code::new(&kernel(60 << 10), code.as_bytes()).unwrap().dynamic_shared
        };
        assert_eq!(given(".extern .shared .align 64 .b8 dynamic_shared[];"), 60 << 10);
        assert_eq!(given(".shared .align 64 .b8 s0[8];"), 0);
    }
}
