//! What the fuzz targets share: valid files, broken in small ways, given to a claim.
//!
//! ```text
//! bolero ─ bytes ─▶ mutate(seeds) ─ a file that is nearly valid ─▶ claim: no panic, little memory, little time
//! ```
//!
//! Random bytes are refused at the first of them. So the bytes that the engine makes are read as
//! instructions for changing a valid file, and what reaches the claim goes wrong deep inside. This works with
//! every engine of bolero: as an ordinary test, at random, on stable Rust, or guided by coverage
//! with `cargo bolero`.
//!
//! An input that once broke a claim stays in `regressions/NAME/` and is tried first.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `BOLERO_RANDOM_TEST_TIME_MS` | time for each target, one second by default |
//! | `Q35_FUZZ_LAST` | write each input to `target/fuzz/NAME.last` before it is tried, to catch one that ends the process |

mod mutate;
mod watch;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use mutate::mutate;
pub use watch::{MOST_MEMORY, MOST_TIME};

/// Try `claim` on every regression, on every seed, and on mutations of the seeds until time is up.
///
/// An input that breaks the claim is written to `target/fuzz/NAME.broken`.
///
/// # Panics
///
/// The claim panics, takes more than [`MOST_TIME`] for one input, or the process grows by more than
/// [`MOST_MEMORY`].
pub fn fuzz(name: &str, seeds: &[Vec<u8>], claim: impl Fn(&[u8])) {
    assert!(!seeds.is_empty(), "`{name}` has something to start from");
    let last = std::env::var_os("Q35_FUZZ_LAST").is_some();
    let watch = watch::Watch::new();
    let tried = |input: &[u8]| {
        if last {
            keep(name, "last", input);
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| watch.over(|| claim(input))));
        if let Err(panic) = outcome {
            eprintln!("`{name}` breaks on `{}`", keep(name, "broken", input).display());
            resume_unwind(panic);
        }
    };
    regressions(name).iter().for_each(|input| tried(input));
    seeds.iter().for_each(|seed| tried(seed));
    let tried = AssertUnwindSafe(tried);
    bolero::check!(name = name)
        .with_test_time(Duration::from_secs(1))
        .with_shrink_time(Duration::ZERO)
        .with_max_len(256)
        .for_each(|recipe| {
            let tried = &tried;
            tried(&mutate(seeds, recipe));
        });
}

/// A file of the repository, by its path from the root.
///
/// # Panics
///
/// It is not there.
pub fn file(path: &str) -> Vec<u8> {
    let path = root().join(path);
    fs::read(&path).unwrap_or_else(|e| panic!("cannot read `{}`: {e}", path.display()))
}

/// Every file of a folder of the repository whose name ends in `ending`, in order of the names.
///
/// # Panics
///
/// The folder is not there.
pub fn files(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    let folder = root().join(folder);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|e| panic!("cannot read `{}`: {e}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    paths.retain(|p| p.to_string_lossy().ends_with(ending));
    paths.iter().map(|p| fs::read(p).expect("a file of the repository")).collect()
}

/// An empty folder for the files of a target, one for each process.
///
/// # Panics
///
/// It cannot be made.
pub fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("q35-fuzz-{name}-{}", std::process::id()));
    fs::create_dir_all(&path).expect("a temporary folder");
    path
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn regressions(name: &str) -> Vec<Vec<u8>> {
    let folder = format!("tests/fuzz/regressions/{name}");
    if root().join(&folder).is_dir() { files(&folder, "") } else { vec![] }
}

fn keep(name: &str, ending: &str, input: &[u8]) -> PathBuf {
    let folder = root().join("target/fuzz");
    fs::create_dir_all(&folder).expect("a folder for what was found");
    let path = folder.join(format!("{name}.{ending}"));
    fs::write(&path, input).expect("what was found can be kept");
    path
}
