//! A checkpoint: safetensors files, mapped.
//!
//! One file `model.safetensors`, or shards with a `model.safetensors.index.json` that says which
//! tensor lies in which. Index and shards must tell the same story: a tensor that one of them
//! has and the other lacks is a file that was lost or mixed up, and is refused by name.

mod header;

pub use header::{Entry, HeaderError, parse as parse_header};

use q35_device::{DeviceError, Mapped};
use safetensors::Dtype;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file of a checkpoint that is whole.
pub const SINGLE: &str = "model.safetensors";
/// The index of one in shards.
pub const INDEX: &str = "model.safetensors.index.json";

/// The largest published index has some 6 MB.
const LARGEST_INDEX: u64 = 256 << 20;

/// A checkpoint cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Neither a file nor an index.
    #[error("`{}` has no weights, expected `{SINGLE}` or `{INDEX}`", dir.display())]
    NoWeights { dir: PathBuf },

    /// A file is there but cannot be mapped.
    #[error(transparent)]
    Map(#[from] DeviceError),

    /// A file is not safetensors.
    #[error("`{}`: {source}", path.display())]
    Header { path: PathBuf, source: HeaderError },

    /// The index cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },

    /// The index is not one.
    #[error("`{}` is not an index of shards: {reason}", path.display())]
    Index { path: PathBuf, reason: String },

    /// A shard that is not in the folder.
    #[error("shard `{shard}` is missing, expected beside the index, which assigns it `{tensor}`")]
    MissingShard { shard: String, tensor: String },

    /// The index names a tensor that its shard does not have.
    #[error("`{tensor}` is not in `{shard}`, where the index says it is")]
    Absent { tensor: String, shard: String },

    /// A shard has a tensor that the index does not name.
    #[error("`{tensor}` in `{shard}` is not in the index")]
    Unindexed { tensor: String, shard: String },

    /// A tensor in two shards.
    #[error("`{tensor}` is in both `{first}` and `{second}`")]
    Twice { tensor: String, first: String, second: String },

    /// A shard has a tensor that the index assigns to another, which lacks it.
    #[error("`{tensor}` is in `{found}`, but the index says it is in `{expected}`")]
    Elsewhere { tensor: String, found: String, expected: String },
}

/// A tensor in a mapped file.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub dtype: Dtype,
    /// Outermost axis first.
    pub shape: Vec<usize>,
    pub file: Arc<Mapped>,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

impl Tensor {
    pub fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.range.clone()]
    }

    /// The name of its file, without the folder.
    pub fn file_name(&self) -> String {
        let path = self.file.path();
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }
}

/// Every tensor of a checkpoint, by name.
#[derive(Debug)]
pub struct Checkpoint {
    tensors: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// Map the checkpoint in a folder, or the one safetensors file at `path`. Of a folder that has
    /// both, the single file counts, as in transformers.
    ///
    /// # Errors
    ///
    /// A file is missing or broken, or index and shards disagree: see [`CheckpointError`].
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        if path.is_file() {
            return Ok(Self { tensors: read_file(path)? });
        }
        let (single, index) = (path.join(SINGLE), path.join(INDEX));
        if single.exists() {
            Ok(Self { tensors: read_file(&single)? })
        } else if index.exists() {
            Self::sharded(path, &index)
        } else {
            Err(CheckpointError::NoWeights { dir: path.into() })
        }
    }

    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// The tensor and its name as the checkpoint holds it.
    pub fn get_entry(&self, name: &str) -> Option<(&str, &Tensor)> {
        self.tensors.get_key_value(name).map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Names and tensors, in order of the names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    fn sharded(dir: &Path, index: &Path) -> Result<Self, CheckpointError> {
        let assigned = read_index(index)?;
        let mut shards: BTreeMap<&str, Shard> = BTreeMap::new();
        for (tensor, shard) in &assigned {
            if shards.contains_key(shard.as_str()) {
                continue;
            }
            let path = dir.join(shard);
            if !path.exists() {
                return Err(CheckpointError::MissingShard {
                    shard: shard.clone(),
                    tensor: tensor.clone(),
                });
            }
            shards.insert(shard, read_file(&path)?);
        }
        agree(&assigned, &shards)?;
        Ok(Self { tensors: shards.into_values().flatten().collect() })
    }
}

type Shard = BTreeMap<String, Tensor>;

/// Index and shards name the same tensors in the same places.
fn agree(
    assigned: &BTreeMap<String, String>,
    shards: &BTreeMap<&str, Shard>,
) -> Result<(), CheckpointError> {
    for (&shard, tensors) in shards {
        for tensor in tensors.keys() {
            let (name, found) = (tensor.clone(), shard.to_owned());
            match assigned.get(tensor) {
                Some(expected) if expected == shard => {}
                Some(expected) if shards[expected.as_str()].contains_key(tensor) => {
                    let (first, second) = (expected.clone(), found);
                    return Err(CheckpointError::Twice { tensor: name, first, second });
                }
                Some(expected) => {
                    let expected = expected.clone();
                    return Err(CheckpointError::Elsewhere { tensor: name, found, expected });
                }
                None => return Err(CheckpointError::Unindexed { tensor: name, shard: found }),
            }
        }
    }
    let absent =
        assigned.iter().find(|(tensor, shard)| !shards[shard.as_str()].contains_key(*tensor));
    match absent {
        Some((tensor, shard)) => {
            Err(CheckpointError::Absent { tensor: tensor.clone(), shard: shard.clone() })
        }
        None => Ok(()),
    }
}

fn read_file(path: &Path) -> Result<Shard, CheckpointError> {
    let file = Arc::new(Mapped::open(path)?);
    let entries = parse_header(file.bytes())
        .map_err(|source| CheckpointError::Header { path: path.into(), source })?;
    let tensor = |e: Entry| Tensor {
        dtype: e.dtype,
        shape: e.shape,
        range: e.range,
        file: Arc::clone(&file),
    };
    Ok(entries.into_iter().map(|(name, entry)| (name, tensor(entry))).collect())
}

/// The shard of each tensor.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }

    let read = |source| CheckpointError::Read { path: path.into(), source };
    let wrong = |reason: String| CheckpointError::Index { path: path.into(), reason };
    let bytes = std::fs::metadata(path).map_err(read)?.len();
    if bytes > LARGEST_INDEX {
        return Err(wrong(format!("it has {bytes} bytes, expected at most {LARGEST_INDEX}")));
    }
    let text = std::fs::read(path).map_err(read)?;
    let Index { weight_map } = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
    if weight_map.is_empty() {
        return Err(wrong("it names no tensors".into()));
    }
    let names: BTreeSet<&String> = weight_map.values().collect();
    for name in names {
        // A shard lies beside its index: a name that leads elsewhere is not one.
        if Path::new(name).file_name().is_none_or(|plain| plain != name.as_str()) {
            return Err(wrong(format!("`{name}` is not the name of a file beside it")));
        }
    }
    Ok(weight_map)
}

#[cfg(test)]
mod tests;
