//! A file of results that is there as a whole or not at all.

use crate::failure::Failure;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

/// Written beside its place, or for a place that is no regular file (a pipe, a device) in the
/// folder for temporary files; removed unless it is [`commit`](Self::commit)ted.
pub struct Output {
    file: File,
    temporary: PathBuf,
    /// As the user named it.
    path: PathBuf,
    special: bool,
}

impl Output {
    /// # Errors
    ///
    /// Nothing can be written there.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let there = fs::metadata(path);
        let special = there.as_ref().is_ok_and(|m| !m.is_file());
        let made = match there {
            Ok(meta) if meta.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            _ if special => beside(&std::env::temp_dir().join("q35")),
            _ => beside(&behind_links(path)),
        };
        let (file, temporary) = made.map_err(|e| cannot_write(path, e))?;
        Ok(Self { file, temporary, path: path.into(), special })
    }

    /// Write at that many bytes from the start.
    ///
    /// # Errors
    ///
    /// The disk is full, or fails.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Failure> {
        let seek = self.file.seek(io::SeekFrom::Start(offset));
        let written = seek.and_then(|_| self.file.write_all(bytes));
        written.map_err(|e| cannot_write(&self.path, e))
    }

    /// Put it where the user wants it.
    ///
    /// # Errors
    ///
    /// As [`write_at`](Self::write_at); what the place held is then untouched.
    pub fn commit(self) -> Result<(), Failure> {
        let put = match self.special {
            true => self.copy(),
            false => self
                .file
                .sync_all()
                .and_then(|()| fs::rename(&self.temporary, behind_links(&self.path))),
        };
        put.map_err(|e| cannot_write(&self.path, e))
    }

    fn copy(&self) -> io::Result<()> {
        let mut to = OpenOptions::new().write(true).open(&self.path)?;
        io::copy(&mut File::open(&self.temporary)?, &mut to).map(drop)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // After a rename there is nothing to remove, and a failure has been reported already.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn cannot_write(path: &Path, error: io::Error) -> Failure {
    Failure::new(format!("cannot write `{}`: {error}", path.display()))
}

/// Behind a link, the file is what gets replaced.
fn behind_links(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.into())
}

/// A new file with a name that nobody looks for.
fn beside(path: &Path) -> io::Result<(File, PathBuf)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    // A number that is taken belongs to a process that was killed.
    for number in 0..100 {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.{number}", std::process::id()));
        let path = path.with_file_name(hidden);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|file| (file, path)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct TempDir(PathBuf);

    impl TempDir {
        fn new(name: &str) -> Self {
            let dir =
                std::env::temp_dir().join(format!("q35-output-{}-{name}", std::process::id()));
            fs::create_dir(&dir).unwrap();
            TempDir(dir)
        }

        fn files(&self) -> usize {
            fs::read_dir(&self.0).unwrap().count()
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn nothing_is_there_before_commit_and_everything_after() {
        let dir = TempDir::new("commit");
        let path = dir.0.join("out");
        fs::write(&path, "old").unwrap();
        let mut output = Output::create(&path).unwrap();
        output.write_at(3, b"def").unwrap();
        output.write_at(0, b"abc").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        output.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"abcdef");
        assert_eq!(dir.files(), 1);
    }

    #[test]
    fn what_is_not_committed_leaves_nothing_behind() {
        let dir = TempDir::new("drop");
        let mut output = Output::create(&dir.0.join("out")).unwrap();
        output.write_at(0, b"half").unwrap();
        assert_eq!(dir.files(), 1);
        drop(output);
        assert_eq!(dir.files(), 0);
    }

    #[test]
    fn a_place_where_nothing_can_be_written_is_refused_at_once() {
        let dir = TempDir::new("refused");
        for path in [dir.0.clone(), dir.0.join("no/such/folder")] {
            let Err(Failure::Told(report)) = Output::create(&path).map(drop) else {
                panic!("{} was accepted", path.display());
            };
            let message = report.render(false);
            let expected = format!("error: cannot write `{}`: ", path.display());
            assert!(message.starts_with(&expected), "{message}");
        }
        assert_eq!(dir.files(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_device_is_written_to_and_stays_one() {
        use std::os::unix::fs::FileTypeExt;
        let mut output = Output::create(Path::new("/dev/null")).unwrap();
        output.write_at(0, b"gone").unwrap();
        output.commit().unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }
}
