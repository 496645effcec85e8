//! NVIDIA's assembler, `ptxas`, run as a program: the machine code of a kernel, and what it takes of a GPU.
//!
//! It needs no GPU. It comes with CUDA and with PyPI's `nvidia-cuda-nvcc`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// An assembler that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ptxas(PathBuf);

/// What a kernel takes of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// Of each thread.
    pub registers: u32,
    /// Bytes of shared memory that are known, of each block.
    pub shared: u32,
    /// Bytes of local memory of each thread: arrays and what does not fit into registers.
    pub local: u32,
    /// Bytes that instructions move between registers and local memory because registers do not
    /// suffice: stores and loads of the code, not of its run.
    pub spilled: u32,
}

/// A kernel's machine code, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembled {
    pub used: Used,
    /// A cubin: an ELF file.
    pub code: Vec<u8>,
}

/// Why there is no machine code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PtxasError {
    #[error("there is no `ptxas` in the path")]
    None,
    #[error("cannot run `{}`: {why}", path.display())]
    Run { path: PathBuf, why: String },
    #[error("`{}` refuses the code for `{arch}`: {why}", path.display())]
    Refused { path: PathBuf, arch: String, why: String },
    #[error("cannot write `{}` for `ptxas`: {why}", path.display())]
    Folder { path: PathBuf, why: String },
}

impl Ptxas {
    /// The one that was named, or the first in the path.
    ///
    /// # Errors
    ///
    /// There is none, or it does not run.
    pub fn find(named: Option<&Path>) -> Result<Ptxas, PtxasError> {
        let path = named.unwrap_or(Path::new("ptxas"));
        let mut command = Command::new(path);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let failed = |why: String| match named {
            Some(path) => PtxasError::Run { path: path.into(), why },
            None => PtxasError::None,
        };
        match command.status() {
            // It is run in another folder. A bare name is looked for in the path wherever that is.
            Ok(status) if status.success() && path.components().count() > 1 => {
                std::path::absolute(path).map(Ptxas).map_err(|why| failed(why.to_string()))
            }
            Ok(status) if status.success() => Ok(Ptxas(path.into())),
            Ok(status) => Err(failed(format!("`--version` ends with {status}"))),
            Err(why) => Err(failed(why.to_string())),
        }
    }

    /// The machine code of a module with one kernel, for an architecture such as `sm_90`.
    ///
    /// # Errors
    ///
    /// [`PtxasError::Refused`]: the assembler does not know the architecture or finds the text wrong.
    pub fn assemble(&self, text: &[u8], arch: &str) -> Result<Assembled, PtxasError> {
        let folder = Folder::new()?;
        let path = || self.0.clone();
        fs::write(folder.0.join(TEXT), text).map_err(|why| folder.failed(&why))?;
        // The names of both files become part of the code, so they are always the same.
        let mut command = Command::new(&self.0);
        command.args(["-v", "-arch", arch, "-o", CODE, TEXT]).current_dir(&folder.0);
        let output = command.stdin(Stdio::null()).output();
        let output =
            output.map_err(|why| PtxasError::Run { path: path(), why: why.to_string() })?;
        let said = String::from_utf8_lossy(&output.stderr);
        let refused = |why: &str| PtxasError::Refused {
            path: path(),
            arch: arch.into(),
            why: why.trim().into(),
        };
        if !output.status.success() {
            return Err(refused(said.lines().next().unwrap_or("no reason is given")));
        }
        let used = used(&said).ok_or_else(|| refused("it does not say what is used"))?;
        let code = fs::read(folder.0.join(CODE)).map_err(|why| folder.failed(&why))?;
        Ok(Assembled { used, code })
    }
}

const TEXT: &str = "kernel.ptx";
const CODE: &str = "kernel.cubin";

/// Of a line `0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads` and one
/// `Used 40 registers, used 1 barriers, 4352 bytes smem`.
fn used(said: &str) -> Option<Used> {
    let words: Vec<&str> = said.split([' ', ',', '\n']).filter(|w| !w.is_empty()).collect();
    let before = |what: &[&str]| {
        let at = words.windows(what.len()).position(|w| w == what)?;
        words[at.checked_sub(1)?].parse::<u32>().ok()
    };
    let spilled = |what| before(&["bytes", "spill", what]);
    Some(Used {
        registers: before(&["registers"])?,
        shared: before(&["bytes", "smem"]).unwrap_or(0),
        local: before(&["bytes", "stack", "frame"])?,
        spilled: spilled("stores")? + spilled("loads")?,
    })
}

/// A folder for the files of one run, gone when the run is.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder, PtxasError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("q35c-ptxas-{}-{number}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        match fs::create_dir(&folder.0) {
            Ok(()) => Ok(folder),
            Err(why) => {
                let error = folder.failed(&why);
                // It is another's, so it stays.
                std::mem::forget(folder);
                Err(error)
            }
        }
    }

    fn failed(&self, why: &std::io::Error) -> PtxasError {
        PtxasError::Folder { path: self.0.clone(), why: why.to_string() }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is in a folder for what may be lost.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_read_from_what_ptxas_says() {
        let said = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k' for 'sm_90'
ptxas info    : Function properties for k
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 39 registers, used 1 barriers, 16 bytes cumulative stack size, 5824 bytes smem
ptxas info    : Compile time = 353.884 ms
";
        let expected = Used { registers: 39, shared: 5824, local: 16, spilled: 20 };
        assert_eq!(used(said), Some(expected));
        let without = said.replace(", 5824 bytes smem", "");
        assert_eq!(used(&without), Some(Used { shared: 0, ..expected }));
        assert_eq!(used("ptxas info    : 0 bytes gmem"), None);
    }

    #[test]
    fn one_that_was_named_must_run() {
        let error = Ptxas::find(Some(Path::new("/none/ptxas"))).expect_err("it is not there");
        assert!(error.to_string().starts_with("cannot run `/none/ptxas`: "), "{error}");
    }
}
