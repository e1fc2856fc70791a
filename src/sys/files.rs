//! Files that a daemon keeps or is given: regular ones of bounded size. A FIFO in the place of one would hang the start, an
//! endless one take all memory, and what is written through a link lands where somebody else wants it.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::users;

/// Opens a file that the daemon has made itself: a regular one, no link.
///
/// # Errors
/// As of open(2), or what it is instead.
pub fn open_own(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    open(options, path, libc::O_NOFOLLOW)
}

/// Opens a regular file, or a link to one, to be read.
///
/// # Errors
/// As of open(2), or what it is instead.
pub fn open_given(path: &Path) -> io::Result<File> {
    open(OpenOptions::new().read(true), path, 0)
}

/// Says that what is there under a name that an administrator has chosen is a regular file, or a link to one that root or
/// this user has made: to others' links nothing is written. What is not there yet is fine.
///
/// # Errors
/// What it is instead.
pub fn check_target(path: &Path) -> io::Result<()> {
    let link = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    let is_theirs = ![0, users::own_number()].contains(&link.uid());
    if link.is_symlink() && is_theirs {
        let text = format!(
            "it is a symbolic link of user {}; allowed: root's",
            link.uid()
        );
        return Err(io::Error::other(text));
    }
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        found => regular(found?.file_type()),
    }
}

fn open(options: &mut OpenOptions, path: &Path, flags: libc::c_int) -> io::Result<File> {
    // Whoever opens a FIFO waits for another, without this.
    let opened = options.custom_flags(flags | libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP) => io::Error::other("it is a symbolic link; allowed: a regular file"),
        Some(libc::ENXIO) => no_file(),
        _ => error,
    })?;
    regular(file.metadata()?.file_type())?;
    Ok(file)
}

fn regular(kind: FileType) -> io::Result<()> {
    if kind.is_file() {
        Ok(())
    } else if kind.is_dir() {
        Err(io::Error::from_raw_os_error(libc::EISDIR))
    } else {
        Err(no_file())
    }
}

fn no_file() -> io::Error {
    io::Error::other("it is no file, but a FIFO, a socket or a device; allowed: a regular file")
}

/// All bytes of an own file; none where there is no file.
///
/// # Errors
/// As of [`open_own`] and read(2), or that it is larger than `most`.
pub fn read_own(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    match open_own(OpenOptions::new().read(true), path) {
        Ok(file) => all(&file, most).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn all(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("larger than {most} bytes")));
    }
    Ok(bytes)
}

/// Makes the file that is to replace another once it is written. What has its name is removed, and never written through.
///
/// # Errors
/// As of unlink(2) and open(2).
fn create_own(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Replaces an own file as a whole: a crash leaves the old one or the new one.
///
/// # Errors
/// As of open(2), write(2) and rename(2).
pub fn replace_own(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = create_own(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn regular_files_of_bounded_size_alone_are_read() {
        let scratch = Scratch::new("files");
        let [file, link, fifo] = ["file", "link", "fifo"].map(|name| scratch.path().join(name));
        assert_eq!(read_own(&file, 4).unwrap(), None);
        fs::write(&file, "four").unwrap();
        assert_eq!(read_own(&file, 4).unwrap().unwrap(), b"four");
        let error = |path| read_own(path, 3).unwrap_err().to_string();
        assert_eq!(error(&file), "larger than 3 bytes");
        symlink(&file, &link).unwrap();
        assert!(error(&link).contains("symbolic link"));
        assert!(open_given(&link).is_ok());
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        assert!(error(&fifo).contains("a FIFO"));
        let writing = open_own(OpenOptions::new().append(true), &fifo);
        assert!(writing.unwrap_err().to_string().contains("a FIFO"));
        fs::remove_file(&link).unwrap();
        symlink("/dev/zero", &link).unwrap();
        assert!(error(&link).contains("symbolic link"));
        let given = open_given(&link).unwrap_err();
        assert!(given.to_string().contains("a device"));
        assert!(open_given(scratch.path()).is_err());
    }

    #[test]
    fn others_links_lead_nowhere() {
        let scratch = Scratch::new("files");
        let [file, link] = ["file", "link"].map(|name| scratch.path().join(name));
        assert!(check_target(&file).is_ok(), "not there yet");
        fs::write(&file, "").unwrap();
        symlink(&file, &link).unwrap();
        assert!(check_target(&file).is_ok() && check_target(&link).is_ok());
        if users::is_root() {
            std::os::unix::fs::lchown(&link, Some(1), None).unwrap();
            let error = check_target(&link).unwrap_err().to_string();
            assert!(error.contains("a symbolic link of user 1"), "{error}");
        }
        fs::remove_file(&link).unwrap();
        symlink("/dev/null", &link).unwrap();
        let error = check_target(&link).unwrap_err().to_string();
        assert!(error.contains("a device"), "{error}");
        assert!(check_target(scratch.path()).is_err());
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let scratch = Scratch::new("files");
        let [precious, new] = ["precious", "x.new"].map(|name| scratch.path().join(name));
        fs::write(&precious, "mine").unwrap();
        symlink(&precious, &new).unwrap();
        let mut file = create_own(&new).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(fs::read(&precious).unwrap(), b"mine");
        assert_eq!(fs::read(&new).unwrap(), b"new");
    }
}
