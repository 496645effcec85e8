//! Why a file is not an artifact that can be run.

use crate::CheckError;
use std::io;
use std::path::PathBuf;

/// What is wrong with the bytes of an artifact, or with writing them.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// Nothing of ours.
    #[error("not an artifact of q35c: {found}")]
    Foreign { found: &'static str },

    /// The end is missing.
    #[error("artifact ends after {found} bytes, expected {expected}")]
    Truncated { found: u64, expected: u64 },

    /// Something follows the last section.
    #[error("artifact has {found} bytes, expected {expected}")]
    TooLong { found: u64, expected: u64 },

    /// Bytes changed after they were written.
    #[error("`{part}` of the artifact does not match its BLAKE3 hash: the file is damaged")]
    Damaged { part: String },

    /// Made by a later q35c, or by one before the first release.
    #[error("artifact has format version {found}, expected {supported}")]
    Version { found: u64, supported: u32 },

    /// A header that is hashed right but is not what q35c writes.
    #[error("header of the artifact: {why}")]
    Header { why: String },

    #[error("artifact has no section `{name}`")]
    MissingSection { name: String },

    /// A section that means nothing, is there twice or stands out of order.
    #[error("artifact has a section `{name}`, expected {expected}")]
    UnexpectedSection { name: String, expected: String },

    #[error("section `{name}` is not UTF-8")]
    NotText { name: String },

    #[error("section `{name}`: {why}")]
    Json { name: String, why: serde_json::Error },

    /// The JSON or the padding of a section has another form than q35c gives it.
    #[error("section `{name}` is not written as q35c writes it")]
    NotCanonical { name: String },

    /// Less or more code than the table of kernels says.
    #[error("section `{name}` has {found} bytes of code, expected {expected}")]
    CodeLength { name: String, found: u64, expected: u64 },

    #[error(transparent)]
    Check(#[from] CheckError),

    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },

    #[error("cannot write `{}`: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}
