//! From the command line to a loaded model, with a progress bar where somebody watches.

use crate::failure::Failure;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use q35_artifact::{Artifact, ArtifactError};
use q35_runtime::{LoadOptions, Model, Progress};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What to run on.
#[derive(clap::Args)]
pub struct Machine {
    /// What to run on, as `q35 devices` names it [default: the best there is for which the
    /// artifact has code]
    #[arg(long, value_name = "D")]
    pub device: Option<String>,
    /// Threads of the CPU to use [default: as many as it has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

/// Where weights come from.
#[derive(Clone, Copy)]
pub enum Weights<'a> {
    Checkpoint(&'a Path),
    Random,
}

/// Equal for all runs, so that they do the same work.
const RANDOM_SEED: u64 = 0;

/// Loading that is over by then needs no progress bar.
const PATIENCE: Duration = Duration::from_millis(300);

/// Read an artifact.
///
/// # Errors
///
/// It is not there or not an artifact, which is said with its name.
pub fn artifact(path: &Path) -> Result<Artifact, Failure> {
    Artifact::read_file(path).map_err(|error| {
        let failure = Failure::new(&error);
        match error {
            // These name it themselves.
            ArtifactError::Read { .. } | ArtifactError::Write { .. } => failure,
            ArtifactError::Foreign { .. } => {
                failure.of(path).help("`q35c compile` makes an artifact from a `config.json`")
            }
            ArtifactError::Version { .. } => {
                failure.of(path).help("compile it again with the q35c of this release")
            }
            _ => failure.of(path),
        }
    })
}

/// Load a model. `kv_tokens` sizes the KV cache; without it, the engine does.
///
/// # Errors
///
/// See [`q35_runtime::LoadError`].
pub fn load(
    artifact: &Artifact,
    weights: Weights<'_>,
    machine: &Machine,
    kv_tokens: Option<u64>,
    verbose: u8,
) -> Result<Model, Failure> {
    let start = Instant::now();
    let bar = progress_bar();
    let mut watch = |Progress { done, total }: Progress| {
        if bar.is_hidden() && start.elapsed() > PATIENCE {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.update(|state| {
            state.set_len(total);
            state.set_pos(done);
        });
    };
    let options = LoadOptions {
        device: machine.device.clone(),
        threads: machine.threads.map(usize::from),
        kv_tokens,
        progress: Some(&mut watch),
        ..LoadOptions::default()
    };
    let loaded = match weights {
        Weights::Checkpoint(path) => Model::load_artifact(artifact, path, options),
        Weights::Random => Model::load_random(artifact, RANDOM_SEED, options),
    };
    bar.finish_and_clear();
    let model = loaded?;
    for warning in model.warnings() {
        eprintln!("warning: {warning}");
    }
    if verbose > 0 {
        let source = match weights {
            Weights::Checkpoint(path) => format!("`{}`", path.display()),
            Weights::Random => "random weights".into(),
        };
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("loaded {source} in {seconds:.2} s");
        eprintln!("on {}", model.device());
        eprintln!("memory: {}", model.memory_use());
        eprintln!("room for {} tokens of KV cache", model.kv_tokens());
    }
    Ok(model)
}

/// The folder of a checkpoint that is named by its folder or by its one file.
pub fn folder(weights: &Path) -> PathBuf {
    match weights.parent() {
        Some(parent) if weights.is_file() => parent.into(),
        _ => weights.into(),
    }
}

/// Not shown yet. When it is, then on a terminal only, which `indicatif` sees to.
fn progress_bar() -> ProgressBar {
    let style = "{msg} [{bar:40}] {bytes} of {total_bytes}, {eta} left";
    let style = ProgressStyle::with_template(style).expect("a valid template");
    let bar = ProgressBar::hidden().with_style(style.progress_chars("=> "));
    bar.with_message("packing weights")
}

/// `1,2,3` and, after twenty, how many more.
pub fn listed(ids: &[u32]) -> String {
    const MOST: usize = 20;
    let shown: Vec<String> = ids.iter().take(MOST).map(u32::to_string).collect();
    match ids.len().checked_sub(MOST) {
        None | Some(0) => shown.join(","),
        Some(more) => format!("{} and {more} more", shown.join(",")),
    }
}

/// Keys of [`memory`]: what the process had at most until now, and what it has.
pub const PEAK: &str = "VmHWM";
pub const NOW: &str = "VmRSS";

/// Bytes of memory of this process, pages of mapped files included, where the system tells.
pub fn memory(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kibibytes(&status, key)
}

/// A line such as `VmHWM:   1234 kB`, in bytes.
fn kibibytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_by_its_exact_key() {
        let status = "VmPeak:\t  900 kB\nVmHWM:\t    12 kB\nVmRSS:\t    7 kB\n";
        assert_eq!([PEAK, NOW].map(|k| kibibytes(status, k)), [Some(12 << 10), Some(7 << 10)]);
        assert_eq!(kibibytes(status, "Vm"), None);
        assert_eq!(kibibytes("VmHWM: much", "VmHWM"), None);
    }

    #[test]
    fn long_lists_of_ids_are_cut() {
        let ids: Vec<u32> = (0..25).collect();
        assert_eq!(listed(&ids[..3]), "0,1,2");
        assert!(listed(&ids[..20]).ends_with(",18,19"));
        assert!(listed(&ids).ends_with(",18,19 and 5 more"));
    }
}
