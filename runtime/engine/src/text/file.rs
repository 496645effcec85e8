//! Reading the small files of a checkpoint.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The whole file, if it has at most `limit` bytes: a path may lead to something endless.
pub(crate) fn read_at_most(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let reason = format!("it has more than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

/// [`read_at_most`], or nothing if there is no such file.
pub(crate) fn read_if_there(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    match read_at_most(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_over_the_limit_is_an_error_and_an_absent_one_is_not() {
        let path = std::env::temp_dir().join(format!("q35-read-at-most-{}", std::process::id()));
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_at_most(&path, 5).unwrap(), b"12345");
        let error = read_if_there(&path, 4).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(error.to_string(), "it has more than 4 bytes");
        assert_eq!(read_if_there(&path, 4).unwrap(), None);
    }
}
