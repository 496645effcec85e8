//! NVIDIA's assembler: where it is. No imports but the standard library's, as the end-to-end tests have this file too.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// That of target/tools/cuda or of the system. That there is none is said aloud, and is an error if `Q35_REQUIRE`
/// names `ptxas`.
pub fn ptxas() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/cuda/bin/ptxas");
    let found = [own, "ptxas".into()].into_iter().find(|program| {
        let run = Command::new(program).arg("--version").stdout(Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    });
    if found.is_none() {
        let required = std::env::var("Q35_REQUIRE").is_ok_and(|list| list.contains("ptxas"));
        assert!(!required, "`Q35_REQUIRE` names `ptxas`, but there is none");
        eprintln!("skipped: there is no ptxas");
    }
    found
}
