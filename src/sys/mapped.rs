//! A file of words in memory that outlives the process: what is stored there is the kernel's at once, without a system call,
//! however the process ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::AtomicU64;

use super::check;
use super::files::open_own;

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// See the module.
#[derive(Debug)]
pub struct MappedWords {
    start: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the memory is shared as atomics only, and stays mapped until this is dropped.
unsafe impl Send for MappedWords {}
// SAFETY: as above.
unsafe impl Sync for MappedWords {}

impl MappedWords {
    /// Maps so many words of an own file, which is made or made longer as needed; what is new in it is zero. The disk has room
    /// for all of it from then on, so that no store fails later.
    ///
    /// # Errors
    /// As of open(2), fallocate(2) and mmap(2), or what the file is instead.
    pub fn open(path: &Path, count: usize) -> io::Result<MappedWords> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        let file = open_own(&mut options, path)?;
        let length = count.max(1) * WORD;
        reserve(&file, length)?;
        // SAFETY: a new mapping, of a file that is at least so long.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(MappedWords { start, count })
    }

    /// All of them.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: so many words are mapped, at the start of a page, for as long as this lives.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl Drop for MappedWords {
    fn drop(&mut self) {
        let length = self.count.max(1) * WORD;
        // SAFETY: mapped by `open` with this length, and nobody has a reference any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), length) };
    }
}

/// A store to a page that the disk has no room for would end the process.
fn reserve(file: &File, length: usize) -> io::Result<()> {
    let length = libc::off_t::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // SAFETY: the descriptor is open, no pointers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::scratch::Scratch;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn what_is_stored_is_there_for_the_next_one() {
        let scratch = Scratch::new("mapped");
        let path = scratch.path().join("words");
        let first = MappedWords::open(&path, 1000).unwrap();
        first.words()[999].store(7, Relaxed);
        let longer = MappedWords::open(&path, 2000).unwrap();
        drop(first);
        let found = longer.words().iter().map(|word| word.load(Relaxed));
        assert_eq!(found.sum::<u64>(), 7);
        assert_eq!(longer.words()[999].load(Relaxed), 7);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn only_a_regular_file_is_mapped() {
        let scratch = Scratch::new("mapped");
        let (path, link) = (scratch.path().join("words"), scratch.path().join("link"));
        drop(MappedWords::open(&path, 8).unwrap());
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let refused = MappedWords::open(&link, 8).unwrap_err().to_string();
        assert!(refused.contains("symbolic link"), "{refused}");
        assert!(MappedWords::open(scratch.path(), 8).is_err());
    }

    #[test]
    fn a_disk_without_room_is_an_error_and_no_signal() {
        // Every write to it fails for want of room, and it cannot be mapped.
        assert!(MappedWords::open(Path::new("/dev/full"), 8).is_err());
    }
}
