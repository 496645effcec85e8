//! Who may import whom, and where unsafe code may be: ARCHITECTURE.md's map, held.
//!
//! Dependencies of tests are free: a test may well compile a model to run it.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each crate of the workspace and the crates of the workspace that it may import.
const IMPORTS: &[(&str, &[&str])] = &[
    ("q35-types", &[]),
    ("q35-graph", &["q35-types"]),
    ("q35-kernel", &["q35-types"]),
    ("q35-artifact", &["q35-types"]),
    ("q35-interp", &["q35-types", "q35-graph", "q35-kernel"]),
    ("q35-target", &["q35-types", "q35-kernel"]),
    ("q35-target-cpu", &["q35-types", "q35-kernel", "q35-target"]),
    ("q35-target-spirv", &["q35-types", "q35-kernel", "q35-target"]),
    ("q35-target-ptx", &["q35-types", "q35-kernel", "q35-target"]),
    (
        "q35-core",
        &["q35-types", "q35-graph", "q35-kernel", "q35-artifact", "q35-interp", "q35-target"],
    ),
    // The one place that lists targets.
    (
        "q35c",
        &[
            "q35-types",
            "q35-graph",
            "q35-kernel",
            "q35-artifact",
            "q35-interp",
            "q35-core",
            "q35-target",
            "q35-target-cpu",
            "q35-target-spirv",
            "q35-target-ptx",
        ],
    ),
    ("q35-device", &["q35-types", "q35-artifact", "q35-ptx-sim"]),
    ("q35-runtime", &["q35-types", "q35-artifact", "q35-device"]),
    ("q35-ptx-sim", &[]),
    ("q35", &["q35-types", "q35-artifact", "q35-device", "q35-runtime"]),
];

/// Crates of tests import what they test, and nothing imports them.
const TESTS: &[&str] = &["q35-e2e", "q35-fuzz", "q35-libcuda", "xtask"];

/// Heavy or telling crates from outside, and who may import them.
const OUTSIDE: &[(&str, &[&str])] = &[
    ("cranelift-codegen", &["q35-target-cpu"]),
    ("cranelift-frontend", &["q35-target-cpu"]),
    ("rspirv", &["q35-target-spirv"]),
    ("memmap2", &["q35-device"]),
    ("ash", &["q35-device"]),
    ("cudarc", &["q35-device"]),
    ("tokenizers", &["q35-runtime"]),
    ("minijinja", &["q35-runtime"]),
    ("clap", &["q35c", "q35", "q35-ptx-sim"]),
];

/// The home of unsafe code, and the stand-in for a driver, which is a C interface.
const UNSAFE: [&str; 2] = ["runtime/device", "tests/libcuda"];

#[test]
fn every_crate_imports_only_what_it_may() {
    let packages = packages();
    let names: BTreeSet<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    let listed: BTreeSet<&str> =
        IMPORTS.iter().map(|(name, _)| *name).chain(TESTS.iter().copied()).collect();
    assert_eq!(names, listed, "the workspace and the tables above");

    for (name, allowed) in IMPORTS {
        let package = packages.iter().find(|p| p.name == *name).expect("compared above");
        for import in package.imports.iter().filter(|i| names.contains(i.as_str())) {
            assert!(
                allowed.contains(&import.as_str()),
                "`{name}` imports `{import}`, expected one of {allowed:?}"
            );
        }
    }
}

#[test]
fn what_comes_from_outside_stays_in_its_room() {
    for package in packages() {
        for import in &package.imports {
            let Some((_, allowed)) = OUTSIDE.iter().find(|(outside, _)| outside == import) else {
                continue;
            };
            let name = package.name.as_str();
            assert!(
                allowed.contains(&name),
                "`{name}` imports `{import}`, expected only {allowed:?}"
            );
        }
    }
}

#[test]
fn unsafe_code_has_its_homes() {
    let mut sources = vec![];
    for folder in ["ir", "compiler", "targets", "runtime", "tests"] {
        collect(&root().join(folder), &mut sources);
    }
    assert!(sources.len() > 50, "the sources are found");
    let home = |path: &&PathBuf| UNSAFE.iter().any(|home| path.starts_with(root().join(home)));
    let (inside, outside): (Vec<_>, Vec<_>) = sources.iter().partition(home);
    let has = |path: &&PathBuf| {
        let text = fs::read_to_string(path).expect("a source file");
        text.lines().any(is_unsafe)
    };
    assert!(inside.into_iter().any(|path| has(&path)), "unsafe code is recognised where it is");
    let found: Vec<_> = outside.into_iter().filter(has).collect();
    assert!(found.is_empty(), "unsafe code outside of {UNSAFE:?}: {found:?}");
}

#[test]
fn unsafe_code_is_told_from_talk_of_it() {
    let told = |line: &str| is_unsafe(&line.replace("WORD", WORD));
    for line in
        ["WORD { f() }", "    WORD impl Sync for X {}", "pub WORD fn f() {", "#[WORD(no_mangle)]"]
    {
        assert!(told(line), "{line}");
    }
    assert!(told("#![allow(WORD_code, reason = \"x\")]"), "nor the permission for it");
    for line in ["// WORD { f() }", "/// No WORD code.", "let not_WORD = 1;", "WORD_op(1);"] {
        assert!(!told(line), "{line}");
    }
}

/// In two halves, as this file is looked at too.
const WORD: &str = concat!("un", "safe");

/// Whether a line has unsafe code, or allows it.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let allows = code.contains("allow(") && code.contains(&format!("{WORD}_code"));
    let opens = |rest: &str| {
        let rest = rest.trim_start();
        ["{", "fn", "impl", "extern", "trait", "("].iter().any(|next| rest.starts_with(next))
    };
    let alone = |before: &str| !before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let uses = code
        .match_indices(WORD)
        .any(|(at, _)| alone(&code[..at]) && opens(&code[at + WORD.len()..]));
    allows || uses
}

struct Package {
    name: String,
    /// Names of crates that it is built with.
    imports: Vec<String>,
}

/// The crates of the workspace, as cargo sees them.
fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let package = |package: &Value| Package {
        name: text(&package["name"]),
        imports: package["dependencies"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|d| d["kind"] != "dev")
            .map(|d| text(&d["name"]))
            .collect(),
    };
    metadata["packages"].as_array().expect("a list").iter().map(package).collect()
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|e| e == "rs") {
            sources.push(path);
        }
    }
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate lies two levels down").into()
}
