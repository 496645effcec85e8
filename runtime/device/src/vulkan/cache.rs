//! Compiled pipelines on disk, so that a model starts fast the second time.
//!
//! A file is for one set of kernels on one device with one driver: its name is their hash. It
//! begins with a hash of what follows, since drivers trust what they are handed. Whatever is wrong
//! with a file costs the time of compiling, never more: it is said as a warning, and written anew.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Says what it is and how to read it.
const MAGIC: &[u8; 24] = b"q35c Vulkan pipelines 1\n";
const HASH: usize = blake3::OUT_LEN;

/// Where the pipelines of a set of kernels are kept.
pub struct CacheFile {
    path: PathBuf,
}

impl CacheFile {
    /// The file in `folder` for these kernels on the device of this identity.
    pub fn new<'a>(
        folder: &Path,
        identity: &'a [u8],
        variant: &'a str,
        codes: impl Iterator<Item = &'a [u8]>,
    ) -> Self {
        let mut hash = blake3::Hasher::new();
        for part in [identity, variant.as_bytes()].into_iter().chain(codes) {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let name = hash.finalize().to_hex();
        Self { path: folder.join(format!("vulkan-{}.pipelines", &name[..32])) }
    }

    /// What was kept, if anything.
    ///
    /// # Errors
    ///
    /// The warning that the file is broken.
    pub fn read(&self) -> Result<Vec<u8>, String> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(self.warning("cannot be read", &error.to_string())),
        };
        let hashed = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk::<HASH>());
        match hashed {
            Some((hash, data)) if blake3::hash(data) == *hash => Ok(data.to_vec()),
            _ => Err(self.warning("is broken", "kernels are compiled again")),
        }
    }

    /// Keep `data`: written beside and renamed, so that others see all or nothing of it.
    ///
    /// # Errors
    ///
    /// The warning that it could not be written.
    pub fn write(&self, data: &[u8]) -> Result<(), String> {
        let write = || {
            let folder = self.path.parent().expect("a file is in a folder");
            std::fs::create_dir_all(folder)?;
            let beside = self.path.with_extension(format!("{}.part", std::process::id()));
            let mut file = std::fs::File::create(&beside)?;
            let written = file
                .write_all(MAGIC)
                .and_then(|()| file.write_all(blake3::hash(data).as_bytes()))
                .and_then(|()| file.write_all(data))
                .and_then(|()| std::fs::rename(&beside, &self.path));
            if written.is_err() {
                // What is left of it is of no use; the first error is the one to tell.
                drop(std::fs::remove_file(&beside));
            }
            written
        };
        write()
            .map_err(|error: std::io::Error| self.warning("cannot be written", &error.to_string()))
    }

    fn warning(&self, what: &str, why: &str) -> String {
        format!("the pipeline cache `{}` {what}: {why}", self.path.display())
    }
}

/// The folder of the user's caches, if the user has one: `$XDG_CACHE_HOME/q35c`, `~/.cache/q35c`.
pub fn folder() -> Option<PathBuf> {
    let of = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = of("XDG_CACHE_HOME").or_else(|| of("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("q35c"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, identity: &[u8], codes: &[&[u8]]) -> CacheFile {
        CacheFile::new(folder, identity, "baseline", codes.iter().copied())
    }

    #[test]
    fn what_is_kept_comes_back_and_what_is_broken_is_a_warning() {
        let folder = std::env::temp_dir().join(format!("q35-cache-{}/deep", std::process::id()));
        let cache = file(&folder, b"device", &[b"one", b"two"]);
        assert_eq!(cache.read(), Ok(vec![]));
        cache.write(b"compiled").unwrap();
        assert_eq!(cache.read().unwrap(), b"compiled");
        let whole = std::fs::read(&cache.path).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&cache.path, &whole[..end]).unwrap();
            assert!(cache.read().unwrap_err().ends_with("` is broken: kernels are compiled again"));
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&cache.path, changed).unwrap();
            assert!(cache.read().is_err(), "{at}");
        }
        cache.write(b"again").unwrap();
        assert_eq!(cache.read().unwrap(), b"again");
        std::fs::remove_dir_all(folder.parent().unwrap()).unwrap();
    }

    #[test]
    fn other_kernels_and_other_drivers_have_other_files() {
        let folder = Path::new("/caches");
        let path = |identity: &[u8], codes: &[&[u8]]| file(folder, identity, codes).path;
        let mut paths = vec![
            path(b"device", &[b"one", b"two"]),
            path(b"device", &[b"onet", b"wo"]),
            path(b"driver", &[b"one", b"two"]),
            path(b"device", &[b"one"]),
        ];
        assert_eq!(paths[0], path(b"device", &[b"one", b"two"]));
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), 4);
    }

    #[test]
    fn a_folder_that_cannot_be_had_is_a_warning() {
        let blocked = std::env::temp_dir().join(format!("q35-blocked-{}", std::process::id()));
        std::fs::write(&blocked, "a file").unwrap();
        let warning = file(&blocked, b"device", &[]).write(b"compiled").unwrap_err();
        assert!(warning.contains("cannot be written"), "{warning}");
        std::fs::remove_file(&blocked).unwrap();
    }
}
