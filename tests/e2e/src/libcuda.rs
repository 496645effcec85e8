//! A driver of CUDA that is none: the stand-in of `tests/libcuda`, for processes that are started with it.

use serde_json::Value;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Set for a process that has the stand-in.
const INSIDE: &str = "Q35_TEST_ON_LIBCUDA";

/// Let a program find the stand-in, which plays what `plays` says.
pub fn stand_in<'a>(command: &'a mut Command, plays: &str) -> &'a mut Command {
    let before = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let paths = [folder().to_owned()].into_iter().chain(env::split_paths(&before));
    let paths = env::join_paths(paths).expect("no path has a colon");
    command.env("LD_LIBRARY_PATH", paths).env("Q35_LIBCUDA", plays)
}

/// Run the rest of the test of this name in a process that has the stand-in.
pub fn on_stand_in(test: &str, plays: &str, check: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        return check();
    }
    let mut again = Command::new(env::current_exe().expect("this test"));
    again.args([test, "--exact", "--nocapture"]).env(INSIDE, "1");
    let output = stand_in(&mut again, plays).output().expect("this test runs again");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains(" 1 passed"), "`{test}` on {plays}:\n{text}");
}

/// The folder with the stand-in under the driver's names, built as the sources are now.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let library = build();
        let folder = library.with_file_name("libcuda-stand-in");
        std::fs::create_dir_all(&folder).expect("a folder beside the library");
        for name in ["libcuda.so", "libcuda.so.1"] {
            // Another test may be at it.
            drop(std::os::unix::fs::symlink(&library, folder.join(name)));
            let found = std::fs::read_link(folder.join(name)).expect("a link");
            assert_eq!(found, library, "`{}` is a link to the library", folder.display());
        }
        folder
    })
}

fn build() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "-p", "q35-libcuda", "--message-format", "json"]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo writes text");
    let mut libraries = text.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).expect("cargo writes JSON");
        let is_it = message["target"]["name"] == "q35_libcuda";
        is_it.then(|| PathBuf::from(message["filenames"][0].as_str().expect("a file")))
    });
    libraries.next_back().expect("the library was built")
}
