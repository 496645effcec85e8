//! `q35c inspect --extract`: the machine code in an artifact as files that other tools open.

use q35_artifact::Artifact;
use q35_target::Target;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why code could not be extracted.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// Code for a target that this program was built without.
    #[error("artifact has code for `{target}`, which this q35c does not know")]
    UnknownTarget { target: String },
    #[error("artifact has code of `{target}` for `{variant}`, which this q35c does not know")]
    UnknownVariant { target: String, variant: String },
    #[error("cannot write `{}`: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Write the code of every kernel and variant as `NAME.VARIANT.EXT` into `folder`, which is made
/// if it is not there. Gives the paths written.
///
/// # Errors
///
/// Code of unknown kind, of which nothing is written, or a failure to write.
pub fn extract(
    artifact: &Artifact,
    folder: &Path,
    targets: &[&dyn Target],
) -> Result<Vec<PathBuf>, ExtractError> {
    let files = files(artifact, targets)?;
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| ExtractError::Write { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let mut paths = Vec::with_capacity(files.len());
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::write(&path, bytes).map_err(failed(&path))?;
        paths.push(path);
    }
    Ok(paths)
}

/// Names and bytes of all files. Names are safe: an artifact that has been checked has plain
/// names, and no two variants that share both name and extension.
fn files(
    artifact: &Artifact,
    targets: &[&dyn Target],
) -> Result<Vec<(String, Vec<u8>)>, ExtractError> {
    let mut files = vec![];
    for section in &artifact.targets {
        let known = targets.iter().find(|t| t.name() == section.name);
        let target =
            known.ok_or_else(|| ExtractError::UnknownTarget { target: section.name.clone() })?;
        for code in &section.variants {
            let known = target.variants().iter().find(|v| v.name == code.name);
            let variant = known.ok_or_else(|| ExtractError::UnknownVariant {
                target: section.name.clone(),
                variant: code.name.clone(),
            })?;
            for (kernel, bytes) in &code.kernels {
                let name = format!("{kernel}.{}.{}", code.name, code.extension);
                files.push((name, target.file(variant, kernel, bytes)));
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
