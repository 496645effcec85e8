//! NVIDIA's assembler, of target/tools/cuda (PyPI's `nvidia-cuda-nvcc`) or of the system; it needs no GPU.
//!
//! What is not assembled is said aloud, and is an error if `Q35_REQUIRE` names `ptxas`.

#[path = "../../../conformance/find_ptxas.rs"]
mod find_ptxas;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a kernel takes of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    pub registers: u32,
    /// Bytes of shared memory that are known.
    pub shared: u32,
    /// Bytes of local memory: for the stack, and for registers that were spilled.
    pub local: u32,
}

/// Assemble PTX for an architecture, if the assembler is here.
#[track_caller]
pub fn assemble(text: &str, arch: &str) -> Option<Used> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = FOUND.get_or_init(find_ptxas::ptxas).as_ref()?;
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("{}-{number}.ptx", std::process::id()));
    std::fs::write(&file, text).expect("the folder for tests can be written");
    let output = Command::new(program)
        .args(["-v", "-arch", arch, "-o", "/dev/null"])
        .arg(&file)
        .output()
        .expect("it ran before");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{arch}: {said}{}\n{text}",
        String::from_utf8_lossy(&output.stdout)
    );
    std::fs::remove_file(&file).expect("it was just written");
    Some(used(&said).unwrap_or_else(|| panic!("ptxas says what is used: {said}")))
}

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
        local: before(&["bytes", "stack", "frame"])? + spilled("stores")? + spilled("loads")?,
    })
}
