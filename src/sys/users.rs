//! Groups by name, and whether we are root.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// A group's entry is larger than this only by mistake.
const LARGEST: usize = 16 * 1024 * 1024;

/// The number of a group; none where there is no such group.
///
/// # Errors
/// The group database cannot be read.
pub fn group_by_name(name: &str) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(name) else {
        return Ok(None);
    };
    let mut buffer = vec![0; 1024];
    loop {
        let mut entry = MaybeUninit::<libc::group>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: all pointers are valid for the call, the length is the buffer's.
        let error = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr(),
                buffer.len(),
                &mut found,
            )
        };
        match error {
            // SAFETY: found points to the entry, which was filled in.
            0 if !found.is_null() => return Ok(Some(unsafe { (*found).gr_gid })),
            // What the various databases say for "no such group", by getgrnam(3).
            0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            libc::ERANGE if buffer.len() < LARGEST => buffer.resize(buffer.len() * 4, 0),
            libc::EINTR => {}
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Whether the process has root's rights.
pub fn is_root() -> bool {
    // SAFETY: no arguments, never fails.
    unsafe { libc::geteuid() == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups() {
        assert_eq!(group_by_name("root").unwrap(), Some(0));
        for none in ["", "no-such-group-here", "a\0b"] {
            assert_eq!(group_by_name(none).unwrap(), None);
        }
    }

    #[test]
    fn root_owns_its_proc_entry() {
        use std::os::unix::fs::MetadataExt;
        let owner = std::fs::metadata("/proc/self/status").unwrap().uid();
        assert_eq!(is_root(), owner == 0);
    }
}
