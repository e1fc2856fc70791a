//! The pid file: held by a lock, so that a second instance is refused and a file left by a crash is not taken
//! for a running daemon.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::files::open_own;

/// How often the file may vanish between being opened and being locked before that is an error.
const ATTEMPTS: usize = 10;

/// A pid file that is ours. The lock outlives a fork: it belongs to both processes then.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    file: File,
    /// The process that has written its number, and removes the file.
    written_by: Option<u32>,
}

impl PidFile {
    /// Opens and locks the file; what a process that is gone has left in it is overwritten later.
    ///
    /// # Errors
    /// `AddrInUse` when another process holds it, with its number; or the file cannot be opened.
    pub(super) fn lock(path: &Path) -> io::Result<PidFile> {
        for _ in 0..ATTEMPTS {
            let mut file = open(path)?;
            // SAFETY: the descriptor is open.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == -1 {
                let error = io::Error::last_os_error();
                return Err(match error.kind() {
                    io::ErrorKind::WouldBlock => taken(&mut file, path),
                    _ => error,
                });
            }
            if is_at(&file, path) {
                return Ok(PidFile {
                    path: path.to_owned(),
                    file,
                    written_by: None,
                });
            }
        }
        Err(io::Error::other("vanishes again and again"))
    }

    /// Writes the number of this process.
    ///
    /// # Errors
    /// A full file system, for one.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let pid = std::process::id();
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(format!("{pid}\n").as_bytes())?;
        self.written_by = Some(pid);
        Ok(())
    }
}

impl Drop for PidFile {
    /// Removes the file while the lock is still held; never one that another process needs.
    fn drop(&mut self) {
        if self.written_by == Some(std::process::id()) && is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    open_own(options.mode(0o644), path)
}

fn taken(file: &mut File, path: &Path) -> io::Error {
    let mut text = String::new();
    // A number has few digits, whatever else stands in the file.
    let _ = file.take(20).read_to_string(&mut text);
    let text = match text.trim().parse::<u32>() {
        Ok(pid) => format!(
            "already running with pid {pid} ({}): stop that one first, or give this one a --runtime-dir and ports of its \
             own",
            path.display()
        ),
        Err(_) => format!("already running, or being started ({})", path.display()),
    };
    io::Error::new(io::ErrorKind::AddrInUse, text)
}

/// Whether the path still leads to the open file: an instance that ends removes it.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn held_then_free() {
        let dir = Scratch::new("pid");
        let path = dir.path().join("daemon.pid");
        let mut first = PidFile::lock(&path).unwrap();
        let message = |path: &Path| PidFile::lock(path).unwrap_err().to_string();
        assert_eq!(
            message(&path),
            format!("already running, or being started ({})", path.display())
        );
        first.write().unwrap();
        let pid = std::process::id();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{pid}\n"));
        assert_eq!(
            message(&path),
            format!(
                "already running with pid {pid} ({}): stop that one first, or give this one a --runtime-dir and ports of \
                 its own",
                path.display()
            )
        );
        drop(first);
        assert!(!path.exists());
        PidFile::lock(&path).unwrap();
    }

    #[test]
    fn left_by_a_crash() {
        let dir = Scratch::new("pid");
        let path = dir.path().join("daemon.pid");
        fs::write(&path, "1234567890 and more than the new number\n").unwrap();
        let mut file = PidFile::lock(&path).unwrap();
        file.write().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn not_through_a_link_and_not_anothers() {
        let dir = Scratch::new("pid");
        let path = dir.path().join("daemon.pid");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(PidFile::lock(&path).is_err());
        fs::remove_file(&path).unwrap();

        let mut file = PidFile::lock(&path).unwrap();
        file.write().unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "another");
    }
}
