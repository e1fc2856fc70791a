//! The files of a RADIUS client, each read whole and up to a bound: a wrong path may lead to anything.

use std::io::{self, Read};
use std::path::Path;

use log::warn;

use crate::sys::file_access;
use crate::sys::files::open_given;

/// Longest file, bytes; the longest dictionary that FreeRADIUS ships has 120 KB.
const MAX_FILE: u64 = 4 << 20;

/// Opens and reads a dictionary.
///
/// # Errors
/// It cannot be read, is no file, or too long.
pub(super) fn open(path: &Path) -> io::Result<Vec<u8>> {
    let file = open_given(path)?;
    let size = file.metadata()?.len();
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if size.max(text.len() as u64) > MAX_FILE {
        return Err(io::Error::other(format!("longer than {MAX_FILE} bytes")));
    }
    Ok(text)
}

/// Reads a file that must be there.
///
/// # Errors
/// Its name and why it cannot be read.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    open(path).map_err(|error| {
        let command = file_access::remedy_to_read(path, &error);
        let command = command.map_or(String::new(), |command| format!("; {command}"));
        format!("{}: {error}{command}", path.display())
    })
}

/// The same, of a file that is nobody else's business.
///
/// # Errors
/// See [`read`].
pub(super) fn read_secrets(path: &Path) -> Result<(Vec<u8>, Option<String>), String> {
    let text = read(path)?;
    let open = file_access::exposure(path);
    let open = open.map(|open| format!("the secrets of RADIUS are in {}: {open}", path.display()));
    if let Some(open) = &open {
        warn!("{open}");
    }
    Ok((text, open))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn only_files_and_only_so_long() {
        let scratch = Scratch::new("radius-files");
        let file = scratch.path().join("file");
        std::fs::write(&file, vec![b'#'; MAX_FILE as usize]).unwrap();
        assert_eq!(open(&file).unwrap().len(), MAX_FILE as usize);
        std::fs::write(&file, vec![b'#'; MAX_FILE as usize + 1]).unwrap();
        assert!(
            read(&file)
                .unwrap_err()
                .ends_with("file: longer than 4194304 bytes")
        );
        assert!(read(scratch.path()).unwrap_err().contains("Is a directory"));
        let gone = scratch.path().join("gone");
        assert_eq!(open(&gone).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
