//! Artifacts on disk. A path that is written to holds what it held before or the whole artifact,
//! whatever happens on the way.

use super::{Artifact, ArtifactError, header};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

impl Artifact {
    /// Write the artifact: to a file beside `path` first, which then takes its name.
    ///
    /// What is there but is no regular file, such as a pipe, is written to as it is.
    ///
    /// # Errors
    ///
    /// [`ArtifactError::Write`]; what `path` held is then untouched and nothing is left beside it.
    pub fn write_file(&self, path: &Path) -> Result<(), ArtifactError> {
        write(path, &self.to_bytes())
            .map_err(|source| ArtifactError::Write { path: path.into(), source })
    }

    /// Read an artifact. Of a file that is none, however large, only the start is read.
    ///
    /// # Errors
    ///
    /// [`ArtifactError::Read`], and those of [`from_bytes`](Self::from_bytes).
    pub fn read_file(path: &Path) -> Result<Artifact, ArtifactError> {
        let failed = |source| ArtifactError::Read { path: path.into(), source };
        let mut file = File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        let mut start = (&file).take(header::START as u64);
        start.read_to_end(&mut bytes).map_err(failed)?;
        header::recognise(&bytes)?;
        file.read_to_end(&mut bytes).map_err(failed)?;
        Artifact::from_bytes(&bytes)
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let special = fs::metadata(path).is_ok_and(|m| !m.is_file());
    if special {
        let mut file = OpenOptions::new().write(true).open(path)?;
        return file.write_all(bytes);
    }
    // Behind a link, the file is what gets replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let (mut file, temporary) = Temporary::beside(&path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary.0, &path)
}

/// A file that is removed unless it got another name.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(path: &Path) -> io::Result<(File, Self)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        // A number that is taken belongs to another thread, or to a process that was killed.
        for number in 0..100 {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}.{number}", std::process::id()));
            let path = path.with_file_name(hidden);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
                Ok(file) => return Ok((file, Temporary(path))),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing to remove, and a failure has been reported already.
        let _ = fs::remove_file(&self.0);
    }
}
