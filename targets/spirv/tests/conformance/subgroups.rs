//! What lanes do together, in subgroups of other sizes than the device would choose.

use std::process::Command;

/// lavapipe's subgroups are as wide as the vectors it is told to use.
#[test]
fn subgroups_of_4_and_16() {
    if std::env::var_os("LP_NATIVE_VECTOR_WIDTH").is_some() {
        return;
    }
    for bits in ["128", "512"] {
        let program = std::env::current_exe().expect("this program");
        let run = Command::new(program)
            .args(["collectives::", "--test-threads=1"])
            .env("LP_NATIVE_VECTOR_WIDTH", bits)
            // Its cache does not notice the width.
            .env("MESA_SHADER_CACHE_DISABLE", "true")
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&run.stdout).into_owned()
            + &String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{bits} bits: {said}");
    }
}
